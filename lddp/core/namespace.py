"""The namespace: inodes, directory entries, links, and what follows from them (totals, digest, work list).

Kept in tables, with a write-back cache of inodes; `flush` writes what has changed. An inode's old leaf leaves the
digest when the inode is first edited and its new leaf enters at `settle`, so that many edits cost two hashes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgpack

from lddp.core.digest import dentry_leaf, inode_leaf
from lddp.core.records import Attributes, Content, Kind, Xattrs
from lddp.core.tables import Table, Tables

NUMBER = struct.Struct(">Q")
DENTRY = struct.Struct(">QQ")
RULE = struct.Struct(">I")
ATTRIBUTES_UNKNOWN = -1
_CACHE_INODES_MAX = 16_384
_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack
_KINDS = {int(kind): kind for kind in Kind}


@dataclass(slots=True, eq=False)
class Inode:
    """One object of the namespace.

    `mode` is -1 while the attributes are not known (the root of a rule before it was looked at). `pending`: its listing
    (directory) or bytes (file) are still to be taken from the source. A file is visible in other zones once it has a
    `content`; it may be pending again with an old content when the source saw it changed. `parent` and `name` are
    its first name; further names of a file are in the table of links.
    """

    number: int
    rule: int
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: Xattrs = ()
    size: int = 0
    content: Content | None = None
    target: bytes = b""
    rdev: int = 0
    nlink: int = 0
    version: int = 0
    pending: bool = False
    tombstones: bool = False
    identity: bytes = b""
    stamp: int = 0
    parent: int = 0
    name: bytes = b""
    removed: int = 0
    """Of a listed directory: GSN of the last record that took a name away, or said that there is no such name."""
    leaf: int = 0
    """Its leaf of the digest while the fields are as they were when it was computed; 0 where it is not known."""

    @property
    def attributes(self) -> Attributes:
        return Attributes(self.mode, self.uid, self.gid, self.mtime_ns, self.xattrs)

    @property
    def visible(self) -> bool:
        """Whether zones other than the source have it."""
        return self.kind is not Kind.FILE or self.content is not None


class Totals(NamedTuple):
    """Counts of one rule; bytes are those of known files, `pending_bytes` of files still to come."""

    directories: int = 0
    files: int = 0
    others: int = 0
    bytes: int = 0
    pending_directories: int = 0
    pending_files: int = 0
    pending_bytes: int = 0


def encode_inode(inode: Inode) -> bytes:
    content = inode.content
    if content is not None and content.inline is not None:
        content = content._replace(inline=None)
    data: bytes = _pack(
        (
            inode.rule,
            int(inode.kind),
            inode.mode,
            inode.uid,
            inode.gid,
            inode.mtime_ns,
            inode.xattrs,
            inode.size,
            content,
            inode.target,
            inode.rdev,
            inode.nlink,
            inode.version,
            inode.pending,
            inode.tombstones,
            inode.identity,
            inode.stamp,
            inode.parent,
            inode.name,
            inode.removed,
        )
    )
    return data


def decode_inode(number: int, data: bytes) -> Inode:
    fields: tuple[Any, ...] = msgpack.unpackb(data, use_list=False, raw=False)
    content = fields[8]
    known = None if content is None else Content(*content)
    values: list[Any] = [number, fields[0], _KINDS[fields[1]], *fields[2:8], known, *fields[9:]]
    return Inode(*values)


def leaf(inode: Inode) -> int:
    content = inode.content
    return inode_leaf(
        inode.number,
        inode.kind,
        inode.mode,
        inode.uid,
        inode.gid,
        inode.mtime_ns,
        inode.xattrs,
        inode.size,
        b"" if content is None else content.digest,
        inode.target,
        inode.rdev,
    )


class Namespace:
    """Reads and changes the namespace inside one transaction after another (`bind` gives the next)."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self._cache: dict[int, Inode] = {}
        self._dirty: dict[int, Inode] = {}
        self._unsettled: dict[int, Inode] = {}
        self._paths: dict[int, bytes] = {}
        self.sums: dict[int, int] = {}
        self.totals: dict[int, list[int]] = {}
        self._changed_rules: set[int] = set()
        self.directory_moves = 0
        """Counts the times that a directory lost a name: what was known of paths before may be wrong after."""
        self.prior: dict[int, tuple[int, int]] = {}
        """`version` and `removed` before the current record of each inode that it edited."""

    def bind(self, tables: Tables) -> None:
        self.tables = tables

    # -- inodes
    def get(self, number: int) -> Inode | None:
        inode = self._cache.get(number)
        if inode is None:
            data = self.tables.get(Table.INODES, NUMBER.pack(number))
            if data is None:
                return None
            inode = self._cache[number] = decode_inode(number, data)
        return inode

    def must(self, number: int) -> Inode:
        inode = self.get(number)
        assert inode is not None, f"inode {number} is named by an entry and does not exist"
        return inode

    def edit(self, inode: Inode) -> None:
        """Called before a field of `inode` is changed."""
        number = inode.number
        self.prior.setdefault(number, (inode.version, inode.removed))
        self._dirty[number] = inode
        if number not in self._unsettled:
            self._unsettled[number] = inode
            self._account(inode, -1)
            inode.leaf = 0

    def add(self, inode: Inode) -> None:
        """A new inode, not yet named by any entry."""
        self.prior.setdefault(inode.number, (inode.version, inode.removed))
        self._cache[inode.number] = inode
        self._dirty[inode.number] = inode
        self._unsettled[inode.number] = inode
        if inode.pending:
            self.tables.put(Table.PENDING, pending_key(inode), b"")
        if inode.identity:
            self.tables.put(Table.IDENTITIES, identity_key(inode.rule, inode.identity), NUMBER.pack(inode.number))

    def drop(self, inode: Inode) -> None:
        """An inode that no entry names any more."""
        number = inode.number
        if number not in self._unsettled:
            self._account(inode, -1)
        self._unsettled.pop(number, None)
        self._dirty.pop(number, None)
        self._cache.pop(number, None)
        self._paths.pop(number, None)
        self.tables.delete(Table.INODES, NUMBER.pack(number))
        if inode.pending:
            self.tables.delete(Table.PENDING, pending_key(inode))
        self.set_identity(inode, b"")

    def set_pending(self, inode: Inode, pending: bool) -> None:
        if inode.pending == pending:
            return
        self.edit(inode)
        inode.pending = pending
        if pending:
            self.tables.put(Table.PENDING, pending_key(inode), b"")
        else:
            self.tables.delete(Table.PENDING, pending_key(inode))

    def set_identity(self, inode: Inode, identity: bytes) -> None:
        if inode.identity:
            key = identity_key(inode.rule, inode.identity)
            if self.tables.get(Table.IDENTITIES, key) == NUMBER.pack(inode.number):
                self.tables.delete(Table.IDENTITIES, key)
        inode.identity = identity
        if identity:
            self.tables.put(Table.IDENTITIES, identity_key(inode.rule, identity), NUMBER.pack(inode.number))

    def by_identity(self, rule: int, identity: bytes) -> Inode | None:
        data = self.tables.get(Table.IDENTITIES, identity_key(rule, identity))
        return None if data is None else self.get(NUMBER.unpack(data)[0])

    # -- entries
    def lookup(self, parent: int, name: bytes) -> tuple[int, int] | None:
        """(inode or 0 for a tombstone, GSN that set it), or None where nothing is recorded."""
        data = self.tables.get(Table.DENTRIES, NUMBER.pack(parent) + name)
        return None if data is None else DENTRY.unpack(data)

    def entries(self, parent: int) -> Iterator[tuple[bytes, int, int]]:
        """(name, inode, GSN) of every entry and tombstone, in order of name."""
        for key, value in self.tables.scan(Table.DENTRIES, NUMBER.pack(parent), NUMBER.pack(parent + 1)):
            yield (key[8:], *DENTRY.unpack(value))

    def is_empty(self, parent: int) -> bool:
        return all(inode == 0 for _, inode, _ in self.entries(parent))

    def link(self, parent: Inode, name: bytes, child: Inode, gsn: int) -> None:
        """Makes `name` in `parent` stand for `child`; the name must be free."""
        number = child.number
        self.tables.put(Table.DENTRIES, NUMBER.pack(parent.number) + name, DENTRY.pack(number, gsn))
        self._sum(child.rule, dentry_leaf(parent.number, name, number))
        self.edit(child)
        if child.nlink:
            self.tables.put(Table.LINKS, NUMBER.pack(number) + NUMBER.pack(parent.number) + name, b"")
        else:
            child.parent, child.name = parent.number, name
        child.nlink += 1

    def unlink(self, parent: Inode, name: bytes, child: Inode, gsn: int, tombstone: bool) -> None:
        """Takes the name away; the inode stays, perhaps without a name."""
        key = NUMBER.pack(parent.number) + name
        if tombstone:
            self.bury(parent, name, gsn)
        else:
            self.tables.delete(Table.DENTRIES, key)
            self.edit(parent)
            parent.removed = gsn
        self._sum(child.rule, -dentry_leaf(parent.number, name, child.number))
        self.edit(child)
        child.nlink -= 1
        if (child.parent, child.name) == (parent.number, name):
            self._promote(child)
        else:
            self.tables.delete(Table.LINKS, NUMBER.pack(child.number) + key)
        if child.kind is Kind.DIRECTORY:
            self._paths.clear()
            self.directory_moves += 1

    def confirm(self, parent: Inode, name: bytes, child: Inode, gsn: int) -> None:
        """The entry is as new as record `gsn`, which says that it is still so."""
        self.tables.put(Table.DENTRIES, NUMBER.pack(parent.number) + name, DENTRY.pack(child.number, gsn))

    def bury(self, parent: Inode, name: bytes, gsn: int) -> None:
        """A directory that is not listed yet remembers that it has no such name."""
        self.tables.put(Table.DENTRIES, NUMBER.pack(parent.number) + name, DENTRY.pack(0, gsn))
        if not parent.tombstones:
            self.edit(parent)
            parent.tombstones = True

    def _promote(self, child: Inode) -> None:
        """Another name becomes the first."""
        child.parent, child.name = 0, b""
        if child.nlink:
            parent, name = next(self._other_names(child.number))
            child.parent, child.name = parent, name
            self.tables.delete(Table.LINKS, NUMBER.pack(child.number) + NUMBER.pack(parent) + name)

    def _other_names(self, number: int) -> Iterator[tuple[int, bytes]]:
        for key, _ in self.tables.scan(Table.LINKS, NUMBER.pack(number), NUMBER.pack(number + 1)):
            yield NUMBER.unpack(key[8:16])[0], key[16:]

    def names(self, inode: Inode) -> list[tuple[int, bytes]]:
        """All (parent, name) of an inode, the first one first."""
        first = [(inode.parent, inode.name)] if inode.nlink else []
        return first + (list(self._other_names(inode.number)) if inode.nlink > 1 else [])

    def forget_tombstones(self, directory: Inode) -> None:
        if directory.tombstones:
            self.edit(directory)
            for name, inode, gsn in list(self.entries(directory.number)):
                if not inode:
                    self.tables.delete(Table.DENTRIES, NUMBER.pack(directory.number) + name)
                    directory.removed = max(directory.removed, gsn)
            directory.tombstones = False

    # -- paths
    def path(self, number: int) -> bytes:
        """Path of a directory relative to its rule's root, which is `b""`. AssertionError where it is not attached."""
        climbed: list[Inode] = []
        path = self._paths.get(number)
        while path is None:
            inode = self.must(number)
            assert inode.nlink, f"directory {number} is not attached"
            if not inode.name:
                path = self._paths[number] = b""
                break
            climbed.append(inode)
            number = inode.parent
            path = self._paths.get(number)
        for inode in reversed(climbed):
            path = self._paths[inode.number] = path + b"/" + inode.name if path else inode.name
        return path

    def path_of(self, parent: int, name: bytes) -> bytes:
        above = self.path(parent)
        return above + b"/" + name if above else name

    def is_inside(self, number: int, ancestor: int) -> bool:
        """Whether directory `number` is `ancestor` or below it."""
        while number:
            if number == ancestor:
                return True
            number = self.must(number).parent
        return False

    # -- digest, totals, tables
    def _sum(self, rule: int, amount: int) -> None:
        self.sums[rule] = self.sums.get(rule, 0) + amount
        self._changed_rules.add(rule)

    def _account(self, inode: Inode, sign: int) -> None:
        if not inode.leaf:
            inode.leaf = leaf(inode)
        self._sum(inode.rule, sign * inode.leaf)
        totals = self.totals.setdefault(inode.rule, list(Totals()))
        match inode.kind:
            case Kind.DIRECTORY:
                totals[0] += sign
                totals[4] += sign * inode.pending
            case Kind.FILE:
                totals[1] += sign
                if inode.pending:
                    totals[5] += sign
                    totals[6] += sign * inode.size
                else:
                    totals[3] += sign * inode.size
            case _:
                totals[2] += sign

    def settle(self) -> None:
        """Brings sums and totals up to date with every edit so far."""
        for inode in self._unsettled.values():
            self._account(inode, +1)
        self._unsettled.clear()

    def flush(self) -> set[int]:
        """Writes every change into the tables; the rules whose sums or totals changed since the last flush."""
        self.settle()
        put = self.tables.put
        for number, inode in self._dirty.items():
            put(Table.INODES, NUMBER.pack(number), encode_inode(inode))
        self._dirty.clear()
        if len(self._cache) > _CACHE_INODES_MAX:
            self._cache.clear()
            self._paths.clear()
        changed, self._changed_rules = self._changed_rules, set()
        return changed


def pending_key(inode: Inode) -> bytes:
    """Directories come before files, so that the tree is discovered first."""
    order = b"\0" if inode.kind is Kind.DIRECTORY else b"\1"
    return RULE.pack(inode.rule) + order + NUMBER.pack(inode.number)


def identity_key(rule: int, identity: bytes) -> bytes:
    return RULE.pack(rule) + identity
