"""Resolving paths, and what every operation needs: the place it acts on, and the effects it has on zones."""

from __future__ import annotations

import errno
from typing import NamedTuple

from lddp.core import effects as e
from lddp.core import limits
from lddp.core import records as r
from lddp.core.namespace import ATTRIBUTES_UNKNOWN, Inode, Namespace
from lddp.core.records import Content, Kind
from lddp.core.rules import Rule

PARENTS_MAX = 4096


class Refused(Exception):
    """An operation meets an errno."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Place(NamedTuple):
    """A resolved path. `parent` is None for a rule's root; `child` is None where the name is free."""

    rule: Rule
    parent: Inode | None
    name: bytes
    child: Inode | None


class _Parent(NamedTuple):
    """A directory that a path was resolved to; `depth` is the number of the path's components."""

    rule: Rule
    parent: int
    depth: int


def _check_name(part: bytes) -> None:
    """Refused with EINVAL or ENAMETOOLONG for what cannot be a component."""
    if part in (b"", b".", b"..") or b"\0" in part:
        raise Refused(errno.EINVAL)
    if len(part) > limits.NAME_BYTES_MAX:
        raise Refused(errno.ENAMETOOLONG)


def split(path: bytes) -> list[bytes]:
    """Components of an absolute path. Refused with EINVAL or ENAMETOOLONG."""
    if len(path) > limits.PATH_BYTES_MAX:
        raise Refused(errno.ENAMETOOLONG)
    if path[:1] != b"/" or b"\0" in path:
        raise Refused(errno.EINVAL)
    parts = path[1:].split(b"/")
    if len(parts) > limits.PATH_COMPONENTS_MAX:
        raise Refused(errno.ENAMETOOLONG)
    for part in parts:
        _check_name(part)
    return parts


def find_rule(rules: dict[bytes, Rule], parts: list[bytes]) -> tuple[Rule, list[bytes]] | None:
    """The rule whose path begins these components, and the components below it."""
    path = b""
    for depth, part in enumerate(parts, 1):
        path += b"/" + part
        rule = rules.get(path)
        if rule is not None:
            return rule, parts[depth:]
    return None


class Places:
    """Resolves the paths of one operation at a time and collects its effects."""

    def __init__(self, namespace: Namespace, rules: dict[bytes, Rule]) -> None:
        self._names = namespace
        self._rules = rules
        self._effects: list[e.ScopedEffect] = []
        self._gsn = 0
        self._parents: dict[bytes, _Parent] = {}
        self._parents_as_of = 0

    # -- resolving --------------------------------------------------------------------------------------------------

    def _locate(self, record: r.Operation, path: bytes, expected_parent: int = r.ANY_INODE) -> Place:
        above, _, name = path.rpartition(b"/")
        known = self._known_parents().get(above)
        if known is not None and known.depth < limits.PATH_COMPONENTS_MAX and len(path) <= limits.PATH_BYTES_MAX:
            _check_name(name)
            parent = self._names.must(known.parent)
            self._expect_parent(parent, expected_parent)
            return Place(known.rule, parent, name, self._child(record, known.rule, parent, name))
        parts = split(path)
        found = find_rule(self._rules, parts)
        if found is None:
            raise Refused(errno.ENOENT)
        rule, below = found
        if rule.observe_only:
            raise Refused(errno.EROFS)
        parent = self._names.must(rule.root)
        if not below:
            self._expect_parent(None, expected_parent)
            return Place(rule, None, b"", parent)
        for part in below[:-1]:
            child = self._child(record, rule, parent, part)
            if child is None:
                raise Refused(errno.ENOENT)
            parent = child
        self._expect_parent(parent, expected_parent)
        if parent.kind is Kind.DIRECTORY:
            self._parents[above] = _Parent(rule, parent.number, len(parts) - 1)
        return Place(rule, parent, below[-1], self._child(record, rule, parent, below[-1]))

    def _known_parents(self) -> dict[bytes, _Parent]:
        """Directories by path, as far as they were resolved since a directory last lost a name."""
        moves = self._names.directory_moves
        if moves != self._parents_as_of or len(self._parents) > PARENTS_MAX:
            self._parents.clear()
            self._parents_as_of = moves
        return self._parents

    def _child(self, record: r.Operation, rule: Rule, parent: Inode, name: bytes) -> Inode | None:
        if parent.kind is not Kind.DIRECTORY:
            raise Refused(errno.ENOTDIR)
        entry = self._names.lookup(parent.number, name)
        if entry is None:
            if parent.pending:
                raise Refused(self._unknown(record, rule))
            return None
        return self._names.must(entry[0]) if entry[0] else None

    @staticmethod
    def _unknown(record: r.Operation, rule: Rule) -> int:
        return errno.EAGAIN if record.zone == rule.source else errno.EROFS

    @staticmethod
    def _expect_parent(parent: Inode | None, expected: int) -> None:
        """A name is to be made or taken in one directory, not in another one that has its place."""
        if expected and (parent is None or parent.number != expected):
            raise Refused(errno.ESTALE)

    def places(self, record: r.Operation) -> list[Place]:
        """Where the paths of an operation lead. Refused where one does not."""
        paths = (record.path, record.to) if isinstance(record, r.Rename | r.Link) else (record.path,)
        return [self._locate(record, path) for path in paths]

    def guard(self, record: r.Operation, *expected: int) -> int:
        """ESTALE where a path leads to another inode than expected: (directory, inode) of each path, 0 for any."""
        try:
            places = self.places(record)
        except Refused as refusal:
            return refusal.number
        for place, above, at in zip(places, expected[::2], expected[1::2], strict=False):
            if above and (place.parent is None or place.parent.number != above):
                return errno.ESTALE
            if at and (place.child is None or place.child.number != at):
                return errno.ESTALE
        return 0

    def _existing(self, record: r.Operation, expected_parent: int = r.ANY_INODE) -> tuple[Place, Inode]:
        place = self._locate(record, record.path, expected_parent)
        if place.child is None:
            raise Refused(errno.ENOENT)
        return place, place.child

    def _meant(self, record: r.InPlace) -> tuple[Place, Inode]:
        """What has the name, if that is what the record means: the name may have been given to another object since."""
        place, inode = self._existing(record)
        self._expect_inode(inode, record)
        return place, inode

    @staticmethod
    def _expect_inode(inode: Inode, record: r.InPlace) -> None:
        if record.expected_inode not in (r.ANY_INODE, inode.number):
            raise Refused(errno.ESTALE)

    def _file(self, record: r.Write | r.Append | r.Truncate | r.Shorten) -> tuple[Place, Inode, Content]:
        """An existing file whose bytes are known."""
        place, inode = self._meant(record)
        if inode.kind is Kind.DIRECTORY:
            raise Refused(errno.EISDIR)
        if inode.kind is not Kind.FILE:
            raise Refused(errno.EINVAL)
        if inode.pending or inode.content is None:
            raise Refused(errno.EAGAIN)
        return place, inode, inode.content

    # -- effects ----------------------------------------------------------------------------------------------------

    def _emit(self, rule: Rule, effect: e.Effect, only: int = e.ALL_ZONES, but: int = e.ALL_ZONES) -> None:
        self._effects.append(e.ScopedEffect(rule.number, e.Scope(only, but), effect))

    def _scope(self, rule: Rule, inode: Inode) -> int:
        """Zone that an effect on the inode is restricted to."""
        return e.ALL_ZONES if inode.visible else rule.source

    def _path(self, inode: Inode) -> bytes:
        return self._names.path_of(inode.parent, inode.name) if inode.name else b""

    def _touch(self, rule: Rule, directory: Inode, time_ns: int) -> None:
        """A directory's entries have changed."""
        self._names.edit(directory)
        directory.version = self._gsn
        if directory.mode != ATTRIBUTES_UNKNOWN:
            directory.mtime_ns = time_ns
            self._emit_attributes(rule, directory)

    def _emit_attributes(self, rule: Rule, inode: Inode) -> None:
        effect = e.SetAttributesEffect(inode.number, self._path(inode), inode.kind, inode.attributes)
        self._emit(rule, effect, only=self._scope(rule, inode))

    def _emit_relinks(self, rule: Rule, inode: Inode) -> None:
        """The file at its first name was replaced as a whole: its other names follow."""
        if inode.nlink > 1:
            first, *others = [self._names.path_of(parent, name) for parent, name in self._names.names(inode)]
            for other in others:
                self._emit(rule, e.LinkEffect(inode.number, first, other))

    def _touch_parent(self, place: Place, time_ns: int) -> None:
        assert place.parent is not None
        self._touch(place.rule, place.parent, time_ns)

    @staticmethod
    def _expect(inode: Inode, version: int) -> None:
        if version == 0:
            raise Refused(errno.EEXIST)
        if version > 0 and inode.version != version:
            raise Refused(errno.ESTALE)
