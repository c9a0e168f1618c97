"""Replication rules, their migrations and receipts: the control part of the state."""

from __future__ import annotations

import errno
from functools import lru_cache
from typing import Any, NamedTuple

import msgpack

from lddp.core.namespace import RULE
from lddp.core.records import ChangeMigration, CreateRule, MigrationAction, Receipt, ZoneFinding, ZoneMember
from lddp.core.tables import Table, Tables

_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack
NO_SOURCE = -1


class Rule(NamedTuple):
    """`root` is the inode number of the rule's top directory; `source` the zone that had data before, or -1."""

    number: int
    name: str
    path: bytes
    source: int
    members: tuple[ZoneMember, ...]
    options: bytes
    root: int
    gsn: int

    @property
    def observe_only(self) -> bool:
        return any(member.observe_only and member.zone == self.source for member in self.members)

    def member(self, zone: int) -> ZoneMember | None:
        return next((member for member in self.members if member.zone == zone), None)


class Migration(NamedTuple):
    """`state` is one of created, running, live, paused, stopped, completed, aborted, failed."""

    rule: int
    state: str
    detail: str
    created_ns: int
    changed_ns: int
    changed_gsn: int


_A = MigrationAction
TRANSITIONS: dict[tuple[str, MigrationAction], str] = {
    ("created", _A.START): "running",
    ("created", _A.ABORT): "aborted",
    ("running", _A.PAUSE): "paused",
    ("running", _A.STOP): "stopped",
    ("running", _A.LIVE): "live",
    ("running", _A.COMPLETE): "completed",
    ("running", _A.ABORT): "aborted",
    ("running", _A.FAIL): "failed",
    ("live", _A.PAUSE): "paused",
    ("live", _A.STOP): "stopped",
    ("live", _A.COMPLETE): "completed",
    ("live", _A.ABORT): "aborted",
    ("live", _A.FAIL): "failed",
    ("live", _A.RESET): "created",
    ("paused", _A.RESUME): "running",
    ("paused", _A.STOP): "stopped",
    ("paused", _A.ABORT): "aborted",
    ("stopped", _A.START): "running",
    ("stopped", _A.RESUME): "running",
    ("stopped", _A.ABORT): "aborted",
    ("stopped", _A.RESET): "created",
    ("failed", _A.START): "running",
    ("failed", _A.RESUME): "running",
    ("failed", _A.RESET): "created",
    ("failed", _A.ABORT): "aborted",
    ("completed", _A.RESET): "created",
    ("completed", _A.START): "running",
    ("aborted", _A.RESET): "created",
}
"""(state, action) -> next state; what is missing is refused."""


def encode_rule(rule: Rule) -> bytes:
    data: bytes = _pack(rule)
    return data


@lru_cache(maxsize=256)  # whoever has a path asks which rule it belongs to
def decode_rule(data: bytes) -> Rule:
    fields: tuple[Any, ...] = msgpack.unpackb(data, use_list=False, raw=False)
    members = tuple(ZoneMember(*member) for member in fields[4])
    values: list[Any] = [*fields[:4], members, *fields[5:]]
    return Rule(*values)


def read_rules(tables: Tables) -> list[Rule]:
    return [decode_rule(value) for _, value in tables.scan(Table.RULES)]


def overlaps(path: bytes, other: bytes) -> bool:
    """Whether one path is the other or above it."""
    a, b = path.rstrip(b"/") + b"/", other.rstrip(b"/") + b"/"
    return a.startswith(b) or b.startswith(a)


def refusal(record: CreateRule, rules: list[Rule]) -> int:
    """The errno that a new rule meets, 0 for none."""
    if not record.name or "/" in record.name or not record.path.startswith(b"/") or record.path.endswith(b"/"):
        return errno.EINVAL
    if any(part in (b"", b".", b"..") or b"\0" in part for part in record.path[1:].split(b"/")):
        return errno.EINVAL
    zones = [member.zone for member in record.members]
    if not zones or len(set(zones)) != len(zones):
        return errno.EINVAL
    if record.source != NO_SOURCE and record.source not in zones:
        return errno.EINVAL
    if any(member.observe_only and member.zone != record.source for member in record.members):
        return errno.EINVAL
    if any(rule.name == record.name or overlaps(rule.path, record.path) for rule in rules):
        return errno.EEXIST
    if any(_share_a_tree(member, other) for rule in rules for other in rule.members for member in record.members):
        return errno.EEXIST
    return 0


def _share_a_tree(one: ZoneMember, other: ZoneMember) -> bool:
    """Whether two rules would meet in one zone's files; only where both just look is that harmless."""
    if one.zone != other.zone or (one.observe_only and other.observe_only):
        return False
    return overlaps(one.local_path, other.local_path)


def _migration_key(rule: int) -> bytes:
    return b"migration:" + RULE.pack(rule)


def read_migration(tables: Tables, rule: int) -> Migration | None:
    data = tables.get(Table.CONTROL, _migration_key(rule))
    return None if data is None else Migration(*msgpack.unpackb(data, use_list=False, raw=False))


def change_migration(tables: Tables, rule: int, record: ChangeMigration, gsn: int) -> int:
    """Takes the action; the errno (EINVAL where the state does not allow it)."""
    current = read_migration(tables, rule)
    created_ns = record.time_ns
    if record.action is MigrationAction.CREATE:
        if current is not None:
            return errno.EEXIST
        state = "created"
    else:
        if current is None:
            return errno.ENOENT
        following = TRANSITIONS.get((current.state, record.action))
        if following is None:
            return errno.EINVAL
        state, created_ns = following, current.created_ns
    migration = Migration(rule, state, record.detail, created_ns, record.time_ns, gsn)
    tables.put(Table.CONTROL, _migration_key(rule), _pack(migration))
    return 0


def write_receipt(tables: Tables, record: Receipt, gsn: int) -> None:
    tables.put(Table.CONTROL, b"receipt:" + gsn.to_bytes(8, "big"), _pack((record.time_ns, *record[2:])))


def read_receipt(tables: Tables, gsn: int) -> tuple[int, str, int, tuple[ZoneFinding, ...]] | None:
    """(time in ns, rule, GSN of its barrier, findings) of the receipt that is record `gsn`."""
    data = tables.get(Table.CONTROL, b"receipt:" + gsn.to_bytes(8, "big"))
    if data is None:
        return None
    time_ns, rule, barrier, findings = msgpack.unpackb(data, use_list=False, raw=False)
    return time_ns, rule, barrier, tuple(ZoneFinding(*finding) for finding in findings)


def receipt_gsns(tables: Tables) -> list[int]:
    return [int.from_bytes(key[8:], "big") for key, _ in tables.scan(Table.CONTROL, b"receipt:", b"receipt;")]
