"""What the core's tests share: example counts, identities, contents, and a machine with tables in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from blake3 import blake3

from lddp.core.effects import PutFileEffect, ScopedEffect, WriteEffect
from lddp.core.machine import StateMachine
from lddp.core.records import Content, CreateRule, OperationId, Outcome, Record, ZoneMember
from lddp.core.view import View
from tests.fakes.tables import DictTables

SOURCE, TARGET, THIRD = 1, 2, 3
"""Zones of the rules in these tests; where a rule has a source it is SOURCE."""


def examples(default: int) -> int:
    """How many cases a property is tried on; LDDP_EXAMPLES in the environment replaces the default."""
    return int(os.environ.get("LDDP_EXAMPLES", default))


def seeds(default: int) -> range:
    """Seeds of the random campaigns; LDDP_SEED in the environment is the first."""
    first = int(os.environ.get("LDDP_SEED", 0))
    return range(first, first + examples(default))


def content(data: bytes) -> Content:
    return Content(blake3(data).digest(), len(data), inline=data)


def with_bytes(scoped: ScopedEffect, data: Mapping[bytes, bytes]) -> ScopedEffect:
    """The effect with the bytes of its content, by digest, in itself."""
    effect = scoped.effect
    if not isinstance(effect, PutFileEffect | WriteEffect) or effect.content.inline is not None:
        return scoped
    inline = data[effect.content.digest] if effect.content.size else b""
    return scoped._replace(effect=effect._replace(content=effect.content._replace(inline=inline)))


def operation_id(sequence: int, session: bytes = b"client") -> OperationId:
    return OperationId(session, sequence)


def create_rule(
    name: str = "data",
    path: bytes = b"/data",
    source: int = -1,
    observe_only: bool = False,
    sequence: int = 0,
) -> CreateRule:
    members = tuple(
        ZoneMember(zone, f"zone{zone}", b"/mnt" + path, observe_only and zone == source)
        for zone in (SOURCE, TARGET, THIRD)
    )
    return CreateRule(OperationId(b"admin", sequence), 1, name, path, source, members)


class Ledger:
    """A state machine over tables in memory, and everything that was applied to it."""

    def __init__(self) -> None:
        self.tables = DictTables()
        self.machine = StateMachine(self.tables)
        self.records: list[Record] = []
        self.outcomes: list[Outcome] = []
        self.effects: list[list[ScopedEffect]] = []

    @property
    def gsn(self) -> int:
        return self.machine.gsn

    def apply(self, record: Record) -> tuple[Outcome, list[ScopedEffect]]:
        before = self.machine.gsn
        outcome, effects = self.machine.apply(record)
        assert self.machine.gsn == before + 1
        effects = list(effects)
        self.records.append(record)
        self.outcomes.append(outcome)
        self.effects.append(effects)
        self.machine.flush()
        return outcome, effects

    @property
    def view(self) -> View:
        return View(self.tables)


def listing(view: View, number: int, page: int = 3) -> Iterator[tuple[bytes, int]]:
    """All entries of a directory, read page by page."""
    after = b""
    while True:
        entries = list(view.list(number, after=after, limit=page))
        yield from entries
        if len(entries) < page:
            return
        assert entries[-1][0] > after
        after = entries[-1][0]


def tree(view: View, root: int) -> dict[bytes, Any]:
    """Every path below and including the directory `root` (b"" for itself), relative, with its inode."""
    inode = view.inode(root)
    assert inode is not None
    found: dict[bytes, Any] = {b"": inode}
    todo = [(b"", root)]
    while todo:
        prefix, number = todo.pop()
        for name, child_number in listing(view, number):
            child = view.inode(child_number)
            assert child is not None, f"dangling entry {prefix + name!r} -> {child_number}"
            path = prefix + name
            found[path] = child
            if child.kind == 2:
                todo.append((path + b"/", child_number))
    return found


def canonical(view: View, root: int) -> tuple[Any, ...]:
    """Everything about a rule's tree that its digest must cover, in one comparable value."""
    rows = []
    for path, inode in sorted(tree(view, root).items()):
        identity_of_content = None if inode.content is None else (inode.content.digest, inode.content.size)
        rows.append(
            (
                path,
                inode.number,
                int(inode.kind),
                inode.mode,
                inode.uid,
                inode.gid,
                inode.mtime_ns,
                tuple(inode.xattrs),
                inode.target,
                inode.rdev,
                identity_of_content,
            )
        )
    return tuple(rows)
