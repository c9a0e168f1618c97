"""Which fault begins when, for how long, and on whom: decided by the seed alone, before anything runs.

Faults overlap, up to `ACTIVE_MAX` (or as many as are asked for) at a time, except those that want the same thing (a
node's process, its disks, the pattern of the partition). After each round, in which every kind comes once, there is a
calm, so that recovery shows.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

ACTIVE_MAX = 3
CALM_S = 4.0
MENDED_S_MAX = 10.0
"""Of the end: everything is mended by then."""
STEP_S = 0.5
APART_S = 0.2
QUIET_SHARE, QUIET_S_MAX = 0.15, 30.0
"""The end of the time, in which nothing begins: a share of it, and no more than so many seconds."""


class Kind(NamedTuple):
    """How long a fault of this kind lasts, in seconds, and what it takes from whom: `process`, `disk`, `net`, `loss`,
    `duplicate`, `delay`, `clock`; of `one` node, of `all`, or of the network as a whole (`links`)."""

    seconds: tuple[float, float]
    takes: frozenset[str]
    scope: str
    what: str


KINDS: dict[str, Kind] = {
    "kill": Kind((0.3, 8.0), frozenset({"process"}), "one", "kill -9, later started again"),
    "stop": Kind((5.0, 40.0), frozenset({"process"}), "one", "SIGSTOP, later SIGCONT"),
    "kill-all": Kind((0.2, 2.0), frozenset({"process"}), "all", "all nodes killed at once"),
    "roll": Kind((2.0, 6.0), frozenset({"process"}), "all", "SIGTERM and start, one node after the other"),
    "isolate": Kind((4.0, 15.0), frozenset({"net"}), "one", "one node cut off from all others, both ways"),
    "one-way": Kind((4.0, 15.0), frozenset({"net"}), "one", "one node hears nobody, or is heard by nobody"),
    "minority": Kind((4.0, 15.0), frozenset({"net"}), "links", "two groups, the smaller without a majority"),
    "ring": Kind((4.0, 15.0), frozenset({"net"}), "links", "everybody sees a majority, and no two the same"),
    "loss": Kind((5.0, 15.0), frozenset({"loss"}), "links", "packets lost at random"),
    "duplicate": Kind((5.0, 15.0), frozenset({"duplicate"}), "links", "packets sent twice at random"),
    "delay": Kind((5.0, 15.0), frozenset({"delay"}), "one", "what one node sends is late and out of order"),
    "full": Kind((3.0, 12.0), frozenset({"disk"}), "one", "the database's disk, the zone's or both full"),
    "eio": Kind((2.0, 6.0), frozenset({"process", "disk"}), "one", "all calls on a disk fail with EIO; then a reboot"),
    "power": Kind((0.3, 5.0), frozenset({"process", "disk"}), "one", "a power cut: nothing unsynced survives"),
    "power-all": Kind((0.2, 2.0), frozenset({"process", "disk"}), "all", "a power cut of all nodes at once"),
    "clock": Kind((4.0, 15.0), frozenset({"clock"}), "one", "a node's wall clock jumps, and jumps back"),
}
BY_NAME_ONLY = {"clock": "only where it is named: the library that shifts the clock makes the nodes ten times slower"}
NEEDS = {"power-all": "power"}
"""Kinds that need what another one needs."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `target` is a node's number, -1 the leader of that moment, None for what has no single target;
    `chance` seeds whatever else it draws."""

    at: float
    seconds: float
    kind: str
    target: int | None
    chance: int


def plan(seed: int, kinds: list[str], seconds: float, every_s: float, nodes: int, active: int = 0) -> list[Fault]:
    """All faults of a run, in the order in which they begin: one about every `every_s` seconds, and sooner while fewer
    than `active` are."""
    chance = random.Random(f"{seed} schedule")
    found: list[Fault] = []
    at, todo = chance.uniform(0.3, 1.0) * min(every_s, 3.0), _round(chance, kinds)
    latest = seconds - min(seconds * QUIET_SHARE, QUIET_S_MAX)
    while at < latest and kinds:
        if not todo:
            todo = _round(chance, kinds)
            at = max([at, *(fault.at + fault.seconds for fault in found)]) + CALM_S
            continue
        limit = max(ACTIVE_MAX, active)
        drawn = (_fault(chance, kind, at, seconds, nodes) for kind in todo)
        ready = [fault for fault in drawn if _is_free(found, fault, limit)]
        if not ready:
            at += STEP_S
            continue
        todo.remove(ready[0].kind)
        found.append(ready[0])
        at = min(at + every_s * chance.uniform(0.5, 1.5), _thin_at(found, at + STEP_S, active))
    return found


def _thin_at(found: list[Fault], at: float, active: int) -> float:
    """When fewer than `active` are, from `at` on; never for none."""
    ends = sorted((fault.at + fault.seconds for fault in found if fault.at + fault.seconds > at), reverse=True)
    return inf if not active else at if len(ends) < active else ends[active - 1] + APART_S


def _fault(chance: random.Random, kind: str, at: float, seconds: float, nodes: int) -> Fault:
    low, high = KINDS[kind].seconds
    end = seconds - min(seconds * 0.03, MENDED_S_MAX)
    length = min(chance.uniform(low, high), max(low, seconds * 0.3), end - at)
    target = chance.choice((-1, *range(nodes))) if KINDS[kind].scope == "one" else None
    return Fault(at, max(0.2, length), kind, target, chance.getrandbits(32))


def _round(chance: random.Random, kinds: list[str]) -> list[str]:
    return chance.sample(sorted(kinds), len(kinds))


def _is_free(earlier: list[Fault], wanted: Fault, limit: int) -> bool:
    active = [one for one in earlier if one.at + one.seconds + APART_S > wanted.at]
    return len(active) < limit and not any(_clash(one, wanted) for one in active)


def _clash(one: Fault, other: Fault) -> bool:
    shared = KINDS[one.kind].takes & KINDS[other.kind].takes
    if not shared:
        return False
    if "net" in shared or KINDS[one.kind].scope != "one" or KINDS[other.kind].scope != "one":
        return True
    # Who leads is known at run time only; a fault that finds its node taken then chooses another one.
    return one.target == other.target
