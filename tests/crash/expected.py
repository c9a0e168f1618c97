"""What a zone must hold: the log folded once more in memory, its effects carried out on a tree in memory."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from lddp.core.codec import decode
from lddp.core.records import Attributes, CreateRule, Kind, OperationId, Outcome
from tests.core.support import Ledger, with_bytes
from tests.core.zone import Zone, paths_of
from tests.crash.lone import HERE
from tests.fakes.tables import DictTables

_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFCHR: Kind.CHARACTER_DEVICE,
    stat.S_IFBLK: Kind.BLOCK_DEVICE,
}
Description = dict[bytes, tuple[object, ...]]
"""By path: kind, attributes, bytes, target, device, the first path of the same object, and how many paths it has."""


class Fold:
    """`elsewhere` has the bytes that records only name."""

    def __init__(self, elsewhere: dict[bytes, bytes]) -> None:
        self.ledger = Ledger()
        self.log: list[bytes] = []
        self.first: dict[OperationId, int] = {}
        """GSN of the first record of each operation."""
        self._elsewhere = elsewhere
        self._zones: dict[int, Zone] = {}
        self._left: dict[bytes, Description] = {}
        """Trees of rules that are gone; their files stay."""

    @property
    def gsn(self) -> int:
        return len(self.log)

    @property
    def tables(self) -> DictTables:
        return self.ledger.tables

    def take(self, records: Iterable[bytes]) -> None:
        """Goes on with these records of the log."""
        for data in records:
            before = self._roots()
            record = decode(data)
            self.log.append(data)
            self.first.setdefault(record.id, self.gsn)
            _, effects = self.ledger.apply(record)
            if isinstance(record, CreateRule) and self.ledger.outcomes[-1].errno == 0:
                for number in self._roots().keys() - before.keys():
                    self._zones[number] = Zone(HERE, number)
            for zone in self._zones.values():
                zone.apply_all([with_bytes(effect, self._elsewhere) for effect in effects])
            for number in before.keys() - self._roots().keys():
                self._left[before[number]] = describe_zone(self._zones.pop(number))

    def outcome(self, gsn: int) -> Outcome:
        return self.ledger.outcomes[gsn - 1]

    def _roots(self) -> dict[int, bytes]:
        """Local paths of the rules that have a tree here."""
        members = {number: rule.member(HERE) for number, rule in self.ledger.machine.rules.items()}
        return {number: member.local_path for number, member in members.items() if member is not None}

    def describe(self, *, left: bool = True) -> dict[bytes, Description]:
        """What every tree of the zone must be, by its place; with `left`, also those of rules that are gone."""
        there = {root: describe_zone(self._zones[number]) for number, root in self._roots().items()}
        return self._left | there if left else there

    def places(self) -> list[bytes]:
        return [*self._left, *self._roots().values()]

    def digests(self) -> dict[int, bytes]:
        machine = self.ledger.machine
        return {number: machine.digest(rule.name) for number, rule in machine.rules.items()}


def describe_zone(zone: Zone) -> Description:
    found = paths_of(zone.root)
    names: dict[int, list[bytes]] = {}
    for path in sorted(found):
        names.setdefault(id(found[path]), []).append(path)
    described: Description = {}
    for path, thing in sorted(found.items()):
        if thing.attributes is None:
            continue  # the top of a tree whose source has not been looked at
        same = names[id(thing)]
        links = 1 if thing.is_directory else len(same)
        attributes = _comparable(thing.attributes, thing.kind)
        data = thing.data if thing.kind is Kind.FILE else b""
        described[path] = (thing.kind, attributes, data, thing.target, thing.rdev, same[0], links)
    return described


def describe_files(place: bytes) -> Description:
    """A real tree in the same terms."""
    firsts: dict[int, bytes] = {}
    return {path: _describe(place, path, firsts) for path in sorted(_paths_below(place))}


def _paths_below(place: bytes) -> list[bytes]:
    """Relative to `place`, itself included where it exists."""
    if not os.path.lexists(place):
        return []
    found, waiting = [b""], [b""]
    while waiting:
        directory = waiting.pop()
        with os.scandir(os.path.join(place, directory)) as entries:
            for entry in entries:
                path = os.path.join(directory, entry.name)
                found.append(path)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
    return found


def _describe(place: bytes, path: bytes, firsts: dict[int, bytes]) -> tuple[object, ...]:
    """`firsts` has the first path of every inode that has been seen."""
    where = os.path.join(place, path) if path else place
    found = os.lstat(where)
    kind = _KINDS[stat.S_IFMT(found.st_mode)]
    names = [os.fsencode(name) for name in os.listxattr(where, follow_symlinks=False)]
    xattrs = tuple(
        (name, os.getxattr(where, name, follow_symlinks=False)) for name in sorted(names) if name[:5] == b"user."
    )
    attributes = Attributes(stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_mtime_ns, xattrs)
    data = b""
    if kind is Kind.FILE:
        with open(where, "rb", buffering=0) as file:
            data = file.read()
    target = os.readlink(where) if kind is Kind.SYMLINK else b""
    first = firsts.setdefault(found.st_ino, path)
    links = 1 if kind is Kind.DIRECTORY else found.st_nlink
    return kind, _comparable(attributes, kind), data, target, found.st_rdev, first, links


def _comparable(attributes: Attributes, kind: Kind) -> Attributes:
    """A symlink has no mode of its own; owners are root's to give."""
    if kind is Kind.SYMLINK:
        attributes = attributes._replace(mode=0o777)
    return attributes if os.geteuid() == 0 else attributes._replace(uid=0, gid=0)


def differences(wanted: dict[bytes, Description], found: dict[bytes, Description]) -> list[str]:
    """One line for each path that is not as it must be; contents are shortened."""
    lines: list[str] = []
    for place in sorted(wanted):
        mine, theirs = wanted[place], found.get(place, {})
        skipped = {b""} if b"" not in mine else set()
        for path in sorted((mine.keys() | theirs.keys()) - skipped):
            if mine.get(path) != theirs.get(path):
                lines.append(f"{place!r} {path!r}: wanted {_short(mine.get(path))}, found {_short(theirs.get(path))}")
    return lines


def _short(description: tuple[object, ...] | None) -> str:
    if description is None:
        return "nothing"
    parts = [f"{part[:12]!r}.. ({len(part)})" if isinstance(part, bytes) and len(part) > 40 else repr(part)
             for part in description]  # fmt: skip
    return " ".join(parts)
