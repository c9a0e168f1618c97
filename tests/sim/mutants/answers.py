"""Mutants of what is told: to clients, to voters, and to the log by who looks at a source."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lddp.consensus.core import Core, Role
from lddp.core.digest import inode_leaf
from lddp.core.machine import StateMachine
from lddp.core.operations import Operations
from lddp.gateway import Gateway
from lddp.migrate import look, observer
from lddp.migrate.look import Looker
from lddp.migrate.verify import Verifier
from lddp.replay import outbox
from lddp.replay.conflicts import Blocked, paths
from lddp.replay.projector import Projector
from tests.sim.mutants.faults import Mutant, Patch
from tests.sim.world import World


def _answer_before_the_effect() -> list[Patch]:
    return [(Projector, "is_projected", lambda _self, _gsn, _path=b"": True)]


def _answer_before_the_bytes() -> list[Patch]:
    return [(Projector, "is_projected", lambda self, gsn, _path=b"": gsn <= self._scanned)]


def _owners_not_given() -> list[Patch]:
    change = Operations._set_attributes
    return [(Operations, "_set_attributes", lambda self, record: change(self, record._replace(uid=None, gid=None)))]


def _xattrs_empty() -> list[Patch]:
    change = Operations._replace_xattrs

    def empty(self: Operations, place: Any, inode: Any, xattrs: dict[bytes, bytes]) -> None:
        change(self, place, inode, dict.fromkeys(xattrs, b""))

    return [(Operations, "_replace_xattrs", empty)]


def _retry_at_its_own_index() -> list[Patch]:
    return [(StateMachine, "decided", property(lambda self: self.gsn, lambda _self, _gsn: None))]


def _read_point_before_the_fold() -> list[Patch]:
    async def hasty(self: Gateway, timeout_s: float) -> int:
        await self.member.barrier(timeout_s)
        return self.gsn

    return [(Gateway, "barrier", hasty)]


def _votes_counted_twice() -> list[Patch]:
    receive = Core.receive_vote

    def generous(self: Core, peer: str, message: Any) -> None:
        self._voters.discard(peer)
        receive(self, peer, message)

    return [(Core, "receive_vote", generous)]


def _votes_of_any_term() -> list[Patch]:
    receive = Core.receive_vote

    def generous(self: Core, peer: str, message: Any) -> None:
        if self.role is Role.CANDIDATE:
            receive(self, peer, replace(message, term=self.term))

    return [(Core, "receive_vote", generous)]


def _directories_above_ignored() -> list[Patch]:
    def hits(self: Blocked, rule: int, effect: Any) -> bool:
        return effect.inode in self._inodes or any((rule, path) in self._paths for path in paths(effect))

    return [(Blocked, "hits", hits)]


def _outbox_forgets_more() -> list[Patch]:
    discard = outbox.discard
    return [(outbox, "discard", lambda tables, through: discard(tables, through + 1))]


def _marks_of_another_boot() -> list[Patch]:
    return [(World, "_boot_id", lambda _self: bytes(36))]


def _verification_reads_nothing() -> list[Patch]:
    def believe(self: Verifier, inode: Any, _path: bytes, _status: Any) -> None:
        digest = inode.content.digest if inode.content else b""
        found = (*inode.attributes, inode.size, digest, inode.target, inode.rdev)
        self.finding.total += inode_leaf(inode.number, inode.kind, *found)

    return [(Verifier, "_add_leaf", believe)]


def _torn_reads() -> list[Patch]:
    """What changes while it is read is reported as it was read."""
    return [(look, "is_same", lambda _before, _after: True), (observer, "is_same", lambda _before, _after: True)]


def _any_object_of_the_name() -> list[Patch]:
    return [(Looker, "_status_at", lambda self, path, _inode: self._zone.status(path))]


MODEL = "answers and files as the model has them"
VISIBLE = "what is acknowledged is visible"
REPORTED = "what is reported was once so"
READ = "a read point covers what was acknowledged"
WHERE = "a zone is where it says that it is"
RETRY = "a retry is told where it first took effect"
EQUAL = "all zones equal at rest"
MAJORITY = "who leads has the votes of a majority"

ANSWER_MUTANTS = (
    Mutant("answer before the effect", "operations", 2, 50, VISIBLE, _answer_before_the_effect),
    Mutant("answer before the bytes are there", "power", 3, 200, VISIBLE, _answer_before_the_bytes),
    Mutant("owners not given", "operations", 8, 50, MODEL, _owners_not_given),
    Mutant("xattrs without a value", "operations", 8, 50, MODEL, _xattrs_empty),
    Mutant(
        "a retry answered with its own index",
        "operations",
        1,
        50,
        "a retry is told where it first took effect",
        _retry_at_its_own_index,
    ),
    Mutant(
        "read point before the fold",
        "elections",
        54,
        100,
        "a read point covers what was acknowledged",
        _read_point_before_the_fold,
    ),
    Mutant("votes counted twice", "elections", 94, 200, MAJORITY, _votes_counted_twice),
    Mutant("votes of any term", "elections", 45, 200, "a node stops by itself", _votes_of_any_term),
    Mutant("what is above what waits does not wait", "power", 69, 100, VISIBLE, _directories_above_ignored),
    Mutant(
        "the outbox forgets one record too many",
        "power",
        66,
        200,
        WHERE,
        _outbox_forgets_more,
    ),
    Mutant("marks of another boot believed", "power", 1, 50, WHERE, _marks_of_another_boot),
    Mutant("verification reads nothing", "migration", 4, 50, EQUAL, _verification_reads_nothing),
    Mutant("torn reads reported", "migration", 4, 50, REPORTED, _torn_reads),
    Mutant("whatever has a file's name is read", "migration", 4, 50, REPORTED, _any_object_of_the_name),
)
