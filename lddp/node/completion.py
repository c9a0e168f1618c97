"""Asks the source of a rule to complete its migration, again until that has ended: messages are lost, and the source's
node may start anew meanwhile. Who asks forgets it when it is started anew itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from lddp.consensus.member import RaftMember
from lddp.gateway import Gateway
from lddp.node.fields import number
from lddp.node.migration import ENDED, MigrationDriver

ASK_AGAIN_S = 1.0


class Completion:
    """`driver` gives the driver of a rule whose source is here; `nodes` names the node of each other zone."""

    def __init__(
        self,
        gateway: Gateway,
        member: RaftMember,
        driver: Callable[[int], MigrationDriver | None],
        nodes: Mapping[int, str],
    ) -> None:
        self._gateway = gateway
        self._member = member
        self._driver = driver
        self._nodes = nodes
        self._wanted: set[int] = set()
        member.on_message.append(self._message)

    def ask(self, rule: int) -> None:
        """Somebody wants the migration of this rule to end; the source goes on until it has."""
        self._wanted.add(rule)
        self._tell(rule)

    async def run(self) -> None:
        """Until cancelled."""
        self._gateway.on_applied.append(self._forget_ended)
        while True:
            await asyncio.sleep(ASK_AGAIN_S)
            for rule in sorted(self._wanted):
                self._tell(rule)

    def _forget_ended(self, _gsn: int) -> None:
        """An end is the end of the request too, whatever is begun after it."""
        if self._wanted:
            with self._gateway.view() as view:
                states = {rule: view.migration(rule) for rule in self._wanted}
            self._wanted = {rule for rule, found in states.items() if found is not None and found.state not in ENDED}

    def _tell(self, wanted: int) -> None:
        with self._gateway.view() as view:
            rule = next((rule for rule in view.rules() if rule.number == wanted), None)
        driver = self._driver(wanted)
        if driver is not None:
            driver.complete()
        elif rule is not None and rule.source in self._nodes:
            self._member.send(self._nodes[rule.source], {"type": "complete", "rule": wanted})

    def _message(self, _peer: str, message: dict[str, Any]) -> None:
        driver = self._driver(number(message, "rule")) if message.get("type") == "complete" else None
        if driver is not None:
            driver.complete()
