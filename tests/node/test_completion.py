"""A migration that was asked to complete completes, whatever is lost or away meanwhile."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from lddp.core.records import ChangeMigration, MigrationAction, Record
from lddp.core.rules import Rule
from lddp.doors.watch import Watcher
from lddp.migrate.verify import Finding
from lddp.node import completion, migration, survey
from lddp.node.survey import Surveyor
from lddp.node.system import SystemClock
from lddp.submissions import Applied
from tests.node.trees import fill
from tests.node.trio import PATIENCE_S, RULE, SOURCE, TARGET, Trio

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may open files by their handles")


@pytest.fixture
async def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Trio]:
    """A migration that follows its source."""
    for module, name, value in (
        (completion, "ASK_AGAIN_S", 0.05),
        (survey, "ASK_AGAIN_S", 0.05),
        (survey, "AWAY_S", 0.3),
        (survey, "REACH_LOOK_S", 0.05),
        (migration, "RETRY_S", 0.05),
    ):
        monkeypatch.setattr(module, name, value)
    trio = Trio(tmp_path)
    fill(trio.source)
    await trio.start()
    await trio.migrate()
    await trio.state("live")
    await trio.caught_up()
    yield trio
    await trio.close()


AWAY_S = 10 * PATIENCE_S
"""More than any wait of a slow machine."""


class LeapingClock(SystemClock):
    ahead_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s


async def ask(trio: Trio, name: str) -> None:
    backend = trio.nodes[name].backend
    _, outcome = await backend.change_migration(RULE, MigrationAction.COMPLETE, backend.next_id(), PATIENCE_S)
    assert outcome.errno == 0


async def assert_completes(trio: Trio) -> None:
    document = await trio.state("completed", "failed")
    assert document["state"] == "completed", document
    assert document["problem"] == ""


async def test_new_options_while_it_is_verified_do_not_end_the_wish(live: Trio) -> None:
    """The driver begins anew with them; what it was asked for before still holds."""
    driver, begun = live.driver, asyncio.Event()
    whole = driver._survey

    async def endless(_rule: Rule, _gsn: int) -> dict[int, Finding | str]:
        driver._survey = whole
        begun.set()
        await asyncio.Event().wait()
        return {}

    driver._survey = endless
    driver.complete()  # once: nobody asks again
    await begun.wait()
    backend = live.nodes[SOURCE].backend
    await backend.change_rule(RULE, {"exclude": ["nothing-has-this-name"]}, backend.next_id(), PATIENCE_S)
    await assert_completes(live)


async def test_a_migration_that_failed_is_not_completed_unasked(live: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration, "STRIKES_MAX", 0)
    assert live.driver.watcher is not None
    kind = type(live.driver.watcher)
    stop = kind.stop

    async def slow(self: Watcher) -> None:
        """It is begun anew before what it was is put away."""
        await stop(self)
        await live.until(lambda: live.driver.state() != "failed")

    monkeypatch.setattr(kind, "stop", slow)
    await ask(live, SOURCE)
    await live.state("failed")
    await live.change(MigrationAction.START)
    await live.state("live")
    await live.caught_up()
    assert not live.driver._complete.is_set()
    assert not live.driver.verifying


async def test_a_lost_message_to_the_source(live: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    member = live.nodes[TARGET].member
    send, lost = member.send, []

    def lossy(peer: str, message: dict[str, Any]) -> None:
        if message["type"] == "complete" and not lost:
            lost.append(message)
        else:
            send(peer, message)

    monkeypatch.setattr(member, "send", lossy)
    await ask(live, TARGET)
    await assert_completes(live)
    assert lost


async def test_a_source_that_restarts_after_it_was_asked(live: Trio) -> None:
    await live.nodes[SOURCE].stop()
    await ask(live, TARGET)
    del live.nodes[SOURCE]
    await live.start(SOURCE)
    await assert_completes(live)


async def test_a_target_that_is_away_is_named_and_not_waited_for(live: Trio) -> None:
    await live.stop(TARGET)
    await ask(live, SOURCE)
    await live.until(lambda: "node target does not answer" in live.driver.problem)
    await live.start(TARGET)
    await assert_completes(live)


async def test_a_target_whose_files_cannot_follow_says_why(live: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    projector = live.nodes[TARGET].projector
    assert projector is not None
    wait = projector.wait_through

    async def full(gsn: int, timeout_s: float) -> None:
        projector._stopped = "ENOSPC at 'file'"
        await wait(gsn + 1_000_000, timeout_s)

    monkeypatch.setattr(projector, "wait_through", full)
    gateway, said = live.nodes[SOURCE].gateway, list[str]()
    submit = gateway.submit

    async def noted(record: Record) -> Applied:
        if isinstance(record, ChangeMigration):
            said.append(live.driver.problem)
        return await submit(record)

    monkeypatch.setattr(gateway, "submit", noted)
    await ask(live, SOURCE)
    await live.until(lambda: "ENOSPC at 'file'" in live.driver.problem)
    monkeypatch.setattr(projector, "wait_through", wait)
    projector._stopped = ""
    await assert_completes(live)
    assert said == [""], "the end is ordered without the problem of before"


async def test_a_target_that_works_on_its_answer_is_waited_for(live: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long: it says that it works, and is not asked to begin anew. Most of what it takes to be away passes
    between any two of its signs."""
    monkeypatch.setattr(survey, "AWAY_S", AWAY_S)
    clock = LeapingClock()
    monkeypatch.setattr(live.nodes[SOURCE].gateway, "clock", clock)
    release, walks = threading.Event(), []
    member, signs = live.nodes[TARGET].member, []
    send, verify = member.send, Surveyor._verify

    def counting(peer: str, message: dict[str, Any]) -> None:
        send(peer, message)
        if message["type"] == "surveying":
            signs.append(message["number"])
            clock.ahead_s += AWAY_S * 0.6
        if len(signs) >= 10:
            release.set()

    def slow(self: Surveyor, rule: Rule) -> Finding | str:
        if self is live.nodes[TARGET].surveyor:
            walks.append(rule.number)
            release.wait(PATIENCE_S)
        return verify(self, rule)

    monkeypatch.setattr(member, "send", counting)
    monkeypatch.setattr(Surveyor, "_verify", slow)
    await ask(live, SOURCE)
    await assert_completes(live)
    assert len(walks) == 1
    assert len(set(signs)) == 1
