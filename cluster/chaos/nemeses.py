"""Making faults and mending them. Each fault knows what to undo before it does anything, so that all can be mended."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cluster.chaos.network import Network
from cluster.chaos.nodes import Nodes
from cluster.chaos.schedule import KINDS, Fault

Undo = Callable[[], Awaitable[None]]
FORGET_S = 10.0
JUMPS_S = (-86_400, -3600, -30, 30, 3600, 86_400)


@dataclass
class Struck:
    """A fault that was made: what it came to mean, when it began and ended (seconds of the campaign), and how to undo
    it."""

    kind: str
    where: str
    began: float
    undo: Undo
    ended: float = -1.0


class Nemeses:
    """Makes what a schedule says. `busy` are nodes whose process, disk, ... is in a fault's hands."""

    def __init__(self, nodes: Nodes, network: Network) -> None:
        self._nodes = nodes
        self._network = network
        self._busy: set[tuple[str, str]] = set()
        self.leader = ""
        """The last leader that the monitor saw."""

    async def strike(self, fault: Fault) -> tuple[str, Undo] | None:
        """Makes a fault; where it struck, and how to mend it. None where no node was free for it."""
        kind = KINDS[fault.kind]
        chance = random.Random(fault.chance)
        victims = self._victims(fault, chance)
        if not victims:
            return None
        taken = {(name, what) for name in victims for what in kind.takes} if kind.scope != "links" else set()
        self._busy |= taken
        make = getattr(self, "_" + fault.kind.replace("-", "_"))
        try:
            where, undo = await make(victims, chance, fault.seconds)
        except BaseException:
            self._busy -= taken
            raise

        async def mend() -> None:
            try:
                await undo()
            finally:
                self._busy.difference_update(taken)

        return where, mend

    def _victims(self, fault: Fault, chance: random.Random) -> list[str]:
        kind = KINDS[fault.kind]
        free = [name for name in self._nodes.names if not any((name, what) in self._busy for what in kind.takes)]
        if kind.scope == "links":
            return self._nodes.names
        if kind.scope == "all":
            return free if len(free) == len(self._nodes.names) else []
        assert fault.target is not None
        wanted = self.leader if fault.target < 0 else self._nodes.names[fault.target]
        if wanted in free:
            return [wanted]
        return [chance.choice(free)] if free else []

    def _hold(self, names: list[str], by: int) -> None:
        for name in names:
            self._nodes.hosts[name].held += by

    # -- processes --------------------------------------------------------------------------------------------------

    async def _kill(self, victims: list[str], _chance: random.Random, _seconds: float) -> tuple[str, Undo]:
        self._hold(victims, 1)
        await asyncio.gather(*map(self._nodes.kill_now, victims))

        async def undo() -> None:
            for name in victims:
                self._nodes.start(name)
            self._hold(victims, -1)

        return _named(victims), undo

    async def _kill_all(self, victims: list[str], chance: random.Random, seconds: float) -> tuple[str, Undo]:
        _, undo = await self._kill(victims, chance, seconds)
        return "all", undo

    async def _stop(self, victims: list[str], _chance: random.Random, _seconds: float) -> tuple[str, Undo]:
        self._nodes.signal(victims[0], signal.SIGSTOP)

        async def undo() -> None:
            self._nodes.signal(victims[0], signal.SIGCONT)

        return _named(victims), undo

    async def _roll(self, victims: list[str], chance: random.Random, _seconds: float) -> tuple[str, Undo]:
        order = chance.sample(victims, len(victims))

        async def rolling() -> None:
            for name in order:
                self._hold([name], 1)
                await self._nodes.end(name)
                self._nodes.start(name)
                self._hold([name], -1)
                await asyncio.sleep(chance.uniform(0.3, 1.0))

        task = asyncio.get_running_loop().create_task(rolling())

        async def undo() -> None:
            await task

        return "all, in turn", undo

    # -- links ------------------------------------------------------------------------------------------------------

    async def _cut(self, links: list[tuple[str, str]], where: str) -> tuple[str, Undo]:
        self._network.cut(links)
        changed = sorted({receiver for _, receiver in links})
        await self._network.apply(changed)

        async def undo() -> None:
            self._network.cut(links, -1)
            await self._network.apply(changed)

        return where, undo

    async def _isolate(self, victims: list[str], _chance: random.Random, _seconds: float) -> tuple[str, Undo]:
        (victim,) = victims
        others = [name for name in self._nodes.names if name != victim]
        links = [(victim, name) for name in others] + [(name, victim) for name in others]
        return await self._cut(links, _named(victims))

    async def _one_way(self, victims: list[str], chance: random.Random, _seconds: float) -> tuple[str, Undo]:
        (victim,) = victims
        others = [name for name in self._nodes.names if name != victim]
        if chance.random() < 0.5:
            return await self._cut([(name, victim) for name in others], f"to {_named(victims)}")
        return await self._cut([(victim, name) for name in others], f"from {_named(victims)}")

    async def _minority(self, victims: list[str], chance: random.Random, _seconds: float) -> tuple[str, Undo]:
        small = chance.sample(victims, max(1, (len(victims) - 1) // 2))
        large = [name for name in victims if name not in small]
        links = [(one, other) for one in small for other in large]
        return await self._cut(links + [(other, one) for one, other in links], f"{_named(small)} | {_named(large)}")

    async def _ring(self, victims: list[str], chance: random.Random, _seconds: float) -> tuple[str, Undo]:
        order = chance.sample(victims, len(victims))
        count, reach = len(order), max(1, (len(order) // 2 + 1) // 2)
        links = [
            (order[one], order[other])
            for one in range(count)
            for other in range(count)
            if one != other and min((one - other) % count, (other - one) % count) > reach
        ]
        return await self._cut(links, "-".join(name.removeprefix("node-") for name in order))

    async def _loss(self, victims: list[str], chance: random.Random, _seconds: float) -> tuple[str, Undo]:
        chosen = chance.sample(victims, chance.randint(1, len(victims)))
        percent = chance.choice((2, 5, 10, 25))
        return await self._spoil(chosen, "loss_percent", percent)

    async def _duplicate(self, victims: list[str], chance: random.Random, _seconds: float) -> tuple[str, Undo]:
        chosen = chance.sample(victims, chance.randint(1, len(victims)))
        return await self._spoil(chosen, "duplicate_percent", chance.choice((5, 20, 50)))

    async def _spoil(self, chosen: list[str], what: str, percent: int) -> tuple[str, Undo]:
        for name in chosen:
            setattr(self._network.links[name], what, percent)
        await self._network.apply(chosen)

        async def undo() -> None:
            for name in chosen:
                setattr(self._network.links[name], what, 0)
            await self._network.apply(chosen)

        return f"{_named(chosen)}: {percent} %", undo

    async def _delay(self, victims: list[str], chance: random.Random, _seconds: float) -> tuple[str, Undo]:
        low, high = chance.choice(((5, 40), (20, 150), (100, 400)))
        await self._network.delay(victims[0], low, high)

        async def undo() -> None:
            await self._network.no_delay(victims[0])

        return f"{_named(victims)}: {low}-{high} ms", undo

    def _forget(self, names: list[str]) -> None:
        """What the disks did to a node may show a little later."""
        for name in names:
            host = self._nodes.hosts[name]
            asyncio.get_running_loop().call_later(FORGET_S, host.forget)

    # -- disks ------------------------------------------------------------------------------------------------------

    async def _full(self, victims: list[str], chance: random.Random, _seconds: float) -> tuple[str, Undo]:
        host = self._nodes.hosts[victims[0]]
        which = chance.choice((["data"], ["zone"], ["data", "zone"]))
        host.damaged += 1
        for disk in which:
            await asyncio.to_thread(host.disks[disk].fill)

        async def undo() -> None:
            for disk in which:
                await asyncio.to_thread(host.disks[disk].free)
            self._forget(victims)

        return f"{_named(victims)}: {'+'.join(which)}", undo

    async def _eio(self, victims: list[str], chance: random.Random, _seconds: float) -> tuple[str, Undo]:
        which = chance.choice((["data"], ["zone"], ["data", "zone"]))
        host = self._nodes.hosts[victims[0]]
        host.damaged += 1
        for disk in which:
            host.disks[disk].cut()

        async def undo() -> None:
            self._hold(victims, 1)
            try:
                await self._nodes.reboot(victims[0], which)
            finally:
                self._hold(victims, -1)
                self._forget(victims)

        return f"{_named(victims)}: {'+'.join(which)}", undo

    async def _power(self, victims: list[str], chance: random.Random, _seconds: float) -> tuple[str, Undo]:
        self._hold(victims, 1)
        for name in victims:
            host = self._nodes.hosts[name]
            host.damaged += 1
            for disk in chance.sample(["data", "zone"], 2):
                host.disks[disk].cut()
        await asyncio.gather(*map(self._nodes.kill_now, victims))

        async def undo() -> None:
            for name in victims:
                await self._nodes.reboot(name, ["data", "zone"])
            self._hold(victims, -1)
            self._forget(victims)

        return _named(victims), undo

    async def _power_all(self, victims: list[str], chance: random.Random, seconds: float) -> tuple[str, Undo]:
        _, undo = await self._power(victims, chance, seconds)
        return "all", undo

    # -- clocks -----------------------------------------------------------------------------------------------------

    async def _clock(self, victims: list[str], chance: random.Random, _seconds: float) -> tuple[str, Undo]:
        file = self._nodes.hosts[victims[0]].clock
        jump = chance.choice(JUMPS_S)
        await asyncio.to_thread(file.write_text, f"{jump:+d}\n")

        async def undo() -> None:
            await asyncio.to_thread(file.write_text, "+0\n")

        return f"{_named(victims)}: {jump:+d} s", undo


def _named(names: list[str]) -> str:
    """`1,3` for node-1 and node-3."""
    return ",".join(sorted(name.removeprefix("node-") for name in names))
