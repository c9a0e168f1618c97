"""A simulated zone: a tree of objects that effects are carried out on.

A strict zone holds nothing but what effects put there, so anything that an effect does not expect is a mistake of
the core. A lenient one has writers of its own: where an effect meets something unexpected it is skipped, and
`conflicts` says that the zone must be scrubbed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from lddp.core.effects import (
    ALL_ZONES,
    Effect,
    LinkEffect,
    MakeDirectoryEffect,
    MakeNodeEffect,
    ParkEffect,
    PutFileEffect,
    RemoveEffect,
    RenameEffect,
    Scope,
    ScopedEffect,
    SetAttributesEffect,
    TruncateEffect,
    UnparkEffect,
    WriteEffect,
)
from lddp.core.records import Attributes, Content, Kind


@dataclass(eq=False)
class Thing:
    """One object of a zone's filesystem. `inode` is the namespace's number of it, 0 where the zone does not know."""

    kind: Kind
    attributes: Attributes | None = None
    inode: int = 0
    data: bytes = b""
    target: bytes = b""
    rdev: int = 0
    children: dict[bytes, Thing] = field(default_factory=dict)
    handle: bytes = b""
    changed: int = 0

    @property
    def is_directory(self) -> bool:
        return self.kind is Kind.DIRECTORY


class Conflict(Exception):
    """An effect met something that it does not expect."""


def bytes_of(content: Content) -> bytes:
    assert content.inline is not None, "these tests carry all contents inline"
    assert len(content.inline) == content.size
    if content.sealed:
        assert blake3(content.inline).digest() == content.digest
    return content.inline


class Zone:
    """What an effect does not say stays as it is: a name that comes or goes leaves its directory's mtime alone, which
    a real zone has to see to."""

    def __init__(self, number: int, rule: int, lenient: bool = False) -> None:
        self.number = number
        self.rule = rule
        self.lenient = lenient
        self.conflicts = False
        self.root = Thing(Kind.DIRECTORY)
        self.parked: dict[int, Thing] = {}

    # -- for a subclass to see --------------------------------------------------------------------------------------

    def name_touched(self, directory: Thing, name: bytes) -> None:
        pass

    def object_touched(self, thing: Thing) -> None:
        pass

    def made(self, thing: Thing) -> None:
        pass

    # -- applying -----------------------------------------------------------------------------------------------

    def concerns(self, scoped: ScopedEffect) -> bool:
        scope: Scope = scoped.scope
        return (
            scoped.rule == self.rule
            and scope.only in (ALL_ZONES, self.number)
            and (scope.but == ALL_ZONES or scope.but != self.number)
        )

    def apply_all(self, effects: Iterable[ScopedEffect]) -> None:
        for scoped in effects:
            if not self.concerns(scoped):
                continue
            try:
                self.apply(scoped.effect)
            except Conflict as conflict:
                if not self.lenient:
                    raise AssertionError(f"zone {self.number}: {scoped}: {conflict}") from None
                self.conflicts = True
        if self.lenient:
            self.parked.clear()
        assert not self.parked, f"zone {self.number}: still parked {sorted(self.parked)}"

    def where(self, path: bytes) -> tuple[Thing, bytes]:
        assert path and not path.startswith(b"/"), path
        *parents, name = path.split(b"/")
        directory = self.root
        for part in parents:
            child = directory.children.get(part)
            if child is None or not child.is_directory:
                raise Conflict(f"no directory {part!r} on the way to {path!r}")
            directory = child
        return directory, name

    def find(self, path: bytes, inode: int) -> Thing:
        if not path:
            return self.root
        directory, name = self.where(path)
        thing = directory.children.get(name)
        if thing is None:
            raise Conflict(f"nothing at {path!r}")
        if thing.inode == 0 and self.lenient:
            thing.inode = inode
        if thing.inode != inode:
            if not self.lenient:
                raise Conflict(f"{path!r} is inode {thing.inode}, not {inode}")
            self.conflicts = True
        return thing

    def set_name(self, path: bytes, thing: Thing) -> None:
        directory, name = self.where(path)
        there = directory.children.get(name)
        if there is not None and there is not thing and there.is_directory:
            if not thing.is_directory and not self.lenient:
                raise Conflict(f"a directory is in the way at {path!r}")
            if there.children:
                raise Conflict(f"a directory that is not empty is in the way at {path!r}")
        directory.children[name] = thing
        self.name_touched(directory, name)

    def drop_name(self, path: bytes) -> None:
        directory, name = self.where(path)
        del directory.children[name]
        self.name_touched(directory, name)

    def make(self, path: bytes, inode: int, kind: Kind, attributes: Attributes) -> Thing:
        thing = Thing(kind, attributes, inode)
        self.made(thing)
        self.set_name(path, thing)
        return thing

    def set_attributes(self, thing: Thing, attributes: Attributes) -> None:
        thing.attributes = attributes
        self.object_touched(thing)

    def apply(self, effect: Effect) -> None:
        match effect:
            case MakeDirectoryEffect(inode, path, attributes):
                self.make_directory(inode, path, attributes)
            case PutFileEffect(inode, path, attributes, content, _):
                self.put_file(inode, path, attributes, content)
            case MakeNodeEffect(inode, path, kind, attributes, target, rdev):
                thing = self.make(path, inode, kind, attributes)
                thing.target, thing.rdev = target, rdev
            case LinkEffect(inode, path, to):
                thing = self.find(path, inode)
                if thing.is_directory:
                    raise Conflict("a hard link to a directory")
                self.set_name(to, thing)
            case RenameEffect(inode, path, to, directory):
                self.rename(inode, path, to, directory)
            case ParkEffect(inode, path):
                thing = self.find(path, inode)
                self.drop_name(path)
                if inode in self.parked:
                    raise Conflict("parked twice")
                self.parked[inode] = thing
            case UnparkEffect(inode, to):
                parked = self.parked.pop(inode, None)
                if parked is None:
                    raise Conflict("not parked")
                self.set_name(to, parked)
            case RemoveEffect(inode, path, directory):
                self.remove(inode, path, directory)
            case SetAttributesEffect(inode, path, kind, attributes):
                thing = self.find(path, inode)
                if thing.kind is not kind:
                    raise Conflict("another kind")
                self.set_attributes(thing, attributes)
            case WriteEffect(inode, path, offset, content, size, attributes):
                thing = self.file(path, inode)
                data = bytes_of(content)
                padded = thing.data.ljust(offset, b"\0")
                thing.data = (padded[:offset] + data + padded[offset + len(data) :])[:size].ljust(size, b"\0")
                self.set_attributes(thing, attributes)
            case TruncateEffect(inode, path, size, attributes):
                thing = self.file(path, inode)
                thing.data = thing.data[:size].ljust(size, b"\0")
                self.set_attributes(thing, attributes)

    def file(self, path: bytes, inode: int) -> Thing:
        thing = self.find(path, inode)
        if thing.kind is not Kind.FILE:
            raise Conflict("not a file")
        return thing

    def put_file(self, inode: int, path: bytes, attributes: Attributes, content: Content) -> None:
        thing = self.make(path, inode, Kind.FILE, attributes)
        thing.data = bytes_of(content)

    def make_directory(self, inode: int, path: bytes, attributes: Attributes) -> None:
        if path:
            directory, name = self.where(path)
            there = directory.children.get(name)
            if there is None or not there.is_directory:
                if there is not None:
                    raise Conflict(f"{path!r} is taken")
                self.make(path, inode, Kind.DIRECTORY, attributes)
                return
            if there.inode != inode:
                self.conflicts = True
                if not self.lenient:
                    raise Conflict(f"{path!r} is another directory")
                there.inode = inode
            self.set_attributes(there, attributes)
        else:
            self.root.inode = inode
            self.set_attributes(self.root, attributes)

    def rename(self, inode: int, path: bytes, to: bytes, directory: bool) -> None:
        thing = self.find(path, inode)
        if thing.is_directory != directory:
            raise Conflict("another kind")
        if thing.is_directory and (to + b"/").startswith(path + b"/"):
            raise Conflict("into itself")
        self.set_name(to, thing)
        if path != to:
            self.drop_name(path)

    def remove(self, inode: int, path: bytes, directory: bool) -> None:
        if not path:
            if self.parked.pop(inode, None) is None:
                raise Conflict("not parked")
            return
        thing = self.find(path, inode)
        if thing.is_directory != directory:
            raise Conflict("another kind")
        self.drop_name(path)


def strict_zone(number: int, rule: int) -> Zone:
    return Zone(number, rule)


def paths_of(root: Thing) -> dict[bytes, Thing]:
    found = {b"": root}
    todo = [(b"", root)]
    while todo:
        prefix, directory = todo.pop()
        for name, child in directory.children.items():
            found[prefix + name] = child
            if child.is_directory:
                todo.append((prefix + name + b"/", child))
    return found


def attributes_of(inode: Any) -> Attributes:
    return Attributes(inode.mode, inode.uid, inode.gid, inode.mtime_ns, tuple(inode.xattrs))


def check_zone(zone: Zone, namespace: Mapping[bytes, Any], data: Mapping[bytes, bytes] | None = None) -> None:
    """The zone holds what the namespace knows: all but files whose content never was in the log.

    `data`, where given, is each file's bytes; else only contents that are sealed are compared, by digest."""
    known = {
        path: inode for path, inode in namespace.items() if inode.kind is not Kind.FILE or inode.content is not None
    }
    actual = paths_of(zone.root)
    differing = {path: path in known for path in actual.keys() ^ known.keys()}
    assert not differing, f"zone {zone.number}: paths that differ, and whether they should be there: {differing}"
    by_number: dict[int, Thing] = {}
    for path, inode in known.items():
        thing = actual[path]
        assert by_number.setdefault(inode.number, thing) is thing, f"{path!r} is not the hard link that it should be"
        assert thing.kind is inode.kind, path
        if path:
            assert thing.inode == inode.number, path
        if path or thing.attributes is not None:
            assert thing.attributes == attributes_of(inode), f"zone {zone.number}: {path!r}"
        assert (thing.target, thing.rdev) == (inode.target, inode.rdev), path
        if inode.kind is not Kind.FILE:
            continue
        if data is not None:
            assert thing.data == data[path], f"zone {zone.number}: {path!r}"
        assert len(thing.data) == inode.size, path
        if inode.content is not None and inode.content.sealed:
            assert blake3(thing.data).digest() == inode.content.digest, path
    things = {id(thing) for thing in actual.values()}
    assert len(things) == len({inode.number for inode in known.values()})
