"""The read side of the state, over any transaction that sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from types import TracebackType

from lddp.core.digest import to_bytes
from lddp.core.limits import NAME_BYTES_MAX
from lddp.core.machine import read_gsn, read_sum, read_totals
from lddp.core.namespace import DENTRY, NUMBER, RULE, Inode, Totals, decode_inode, identity_key
from lddp.core.places import find_rule, split
from lddp.core.records import Kind
from lddp.core.rules import Migration, Rule, read_migration, read_rules
from lddp.core.tables import Table, Tables


class View:
    """What a transaction's state says. Raises `Refused` with an errno for a malformed path."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    @property
    def gsn(self) -> int:
        return read_gsn(self.tables)

    def rules(self) -> list[Rule]:
        return read_rules(self.tables)

    def rule(self, name: str) -> Rule | None:
        return next((rule for rule in self.rules() if rule.name == name), None)

    def migration(self, rule: int) -> Migration | None:
        return read_migration(self.tables, rule)

    def totals(self, rule: int) -> Totals:
        return read_totals(self.tables, rule)

    def digest(self, rule: int) -> bytes:
        return to_bytes(read_sum(self.tables, rule))

    def inode(self, number: int) -> Inode | None:
        data = self.tables.get(Table.INODES, NUMBER.pack(number))
        return None if data is None else decode_inode(number, data)

    def child(self, parent: int, name: bytes) -> int:
        """Inode number of an entry, 0 where there is none."""
        return self.entry(parent, name)[0]

    def entry(self, parent: int, name: bytes) -> tuple[int, int]:
        """(inode number, 0 where there is none; GSN of the record that says so, 0 where none does)."""
        if len(name) > NAME_BYTES_MAX:
            return 0, 0  # which a database cannot even be asked for
        data = self.tables.get(Table.DENTRIES, NUMBER.pack(parent) + name)
        if data is None:
            return 0, 0
        number, gsn = DENTRY.unpack(data)
        return number, gsn

    def trail(self, root: int, path: bytes) -> tuple[tuple[int, int], ...]:
        """`entry` of each component of a path below `root`, as far as there are any. Two equal trails, one read before
        the other: the path named the same object all the time between."""
        found: list[tuple[int, int]] = []
        number = root
        for name in path.split(b"/") if path else ():
            found.append(self.entry(number, name))
            number = found[-1][0]
            if not number:
                break
        return tuple(found)

    def resolve(self, path: bytes) -> Inode | None:
        """The inode at an absolute path of the global namespace, without following symlinks."""
        found = self.find(path)
        return None if found is None else found[1]

    def rule_of(self, path: bytes) -> tuple[Rule, list[bytes]] | None:
        """The rule that an absolute path belongs to, and the components below the rule's own."""
        return find_rule({rule.path: rule for rule in self.rules()}, split(path))

    def find(self, path: bytes) -> tuple[Rule, Inode | None, bytes] | None:
        """(rule, inode, path relative to the rule's root), or None where no rule has the path."""
        place = self.rule_of(path)
        if place is None:
            return None
        rule, parts = place
        number = rule.root
        for part in parts:
            number = self.child(number, part)
            if not number:
                return rule, None, b"/".join(parts)
        return rule, self.inode(number), b"/".join(parts)

    def descend(self, root: int, path: bytes) -> tuple[int, bytes]:
        """As far as directories of the namespace lead on the way to a path below `root`: the last of them, and the path
        of the name in it."""
        directory, parts = root, path.split(b"/")
        for depth, name in enumerate(parts[:-1], 1):
            child = self.inode(self.child(directory, name))
            if child is None or child.kind is not Kind.DIRECTORY:
                return directory, b"/".join(parts[:depth])
            directory = child.number
        return directory, path

    def list(self, directory: int, after: bytes = b"", limit: int = 1 << 62) -> Sequence[tuple[bytes, int]]:
        """(name, inode number) of at most `limit` entries whose names come after `after`, in order."""
        found: list[tuple[bytes, int]] = []
        start = NUMBER.pack(directory) + (after + b"\0" if after else b"")
        for key, value in self.tables.scan(Table.DENTRIES, start, NUMBER.pack(directory + 1)):
            if len(found) >= limit:
                break
            number = DENTRY.unpack(value)[0]
            if number:
                found.append((key[8:], number))
        return found

    def links(self, inode: Inode) -> Sequence[tuple[int, bytes]]:
        """All (parent, name) of an inode, the first one first."""
        found = [(inode.parent, inode.name)] if inode.nlink else []
        if inode.nlink > 1:
            start, stop = NUMBER.pack(inode.number), NUMBER.pack(inode.number + 1)
            found += [(NUMBER.unpack(key[8:16])[0], key[16:]) for key, _ in self.tables.scan(Table.LINKS, start, stop)]
        return found

    def path(self, inode: Inode) -> bytes:
        """Path of an inode's first name relative to its rule's root."""
        parts: list[bytes] = []
        here: Inode | None = inode
        while here is not None and here.name:
            parts.append(here.name)
            here = self.inode(here.parent)
        return b"/".join(reversed(parts))

    def paths(self, inode: Inode) -> Sequence[bytes]:
        """Paths of all names of an inode relative to its rule's root, the first one first."""
        found = []
        for number, name in self.links(inode):
            parent = self.inode(number)
            assert parent is not None, "a name is in a directory"
            above = self.path(parent)
            found.append(above + b"/" + name if above else name)
        return found

    def by_identity(self, rule: int, identity: bytes) -> int:
        """Inode number of an object of the source zone, 0 where it is not known."""
        data = self.tables.get(Table.IDENTITIES, identity_key(rule, identity))
        return 0 if data is None else int(NUMBER.unpack(data)[0])

    def pending(self, rule: str, limit: int = 1 << 62) -> Iterator[int]:
        """Inode numbers whose listing or bytes are still to come, directories first."""
        found = self.rule(rule)
        if found is None:
            return
        start = RULE.pack(found.number)
        for count, (key, _) in enumerate(self.tables.scan(Table.PENDING, start, RULE.pack(found.number + 1))):
            if count >= limit:
                return
            yield NUMBER.unpack(key[5:])[0]


class Viewing:
    """The context of a view: that of its tables. A class, because doors look at every turn."""

    __slots__ = ("_tables",)

    def __init__(self, tables: AbstractContextManager[Tables]) -> None:
        self._tables = tables

    def __enter__(self) -> View:
        return View(self._tables.__enter__())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tables.__exit__(kind, error, trace)
