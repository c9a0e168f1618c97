"""Operations: what each does to the namespace, with the outcomes of POSIX, and the effects that bring zones along.

Paths are never followed through symlinks. A name below a directory that is not listed yet, and of which the log knows
nothing, is unknown: the operation is refused with EAGAIN for the source zone (which then reports the name and tries
again) and with EROFS for the others.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, NamedTuple

from lddp.core import effects as e
from lddp.core import limits
from lddp.core import records as r
from lddp.core.digest import chain
from lddp.core.namespace import ATTRIBUTES_UNKNOWN, Inode, Namespace
from lddp.core.records import Attributes, Content, Kind
from lddp.core.rules import Rule

EMPTY_DIGEST = bytes.fromhex("af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262")
"""BLAKE3 of no bytes."""
EMPTY = Content(EMPTY_DIGEST, 0, b"")


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
        if part in (b"", b".", b".."):
            raise Refused(errno.EINVAL)
        if len(part) > limits.NAME_BYTES_MAX:
            raise Refused(errno.ENAMETOOLONG)
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


class Operations:
    """Applies operations to a namespace. `effects` collects what the zones must do."""

    def __init__(self, namespace: Namespace, rules: dict[bytes, Rule]) -> None:
        self._names = namespace
        self._rules = rules
        self._effects: list[e.ScopedEffect] = []
        self._gsn = 0
        self._made = 0
        self._apply: dict[type, Callable[[Any], Inode | None]] = {
            r.MakeDirectory: self._make_directory,
            r.Create: self._create,
            r.Put: self._put,
            r.Write: self._write,
            r.Append: self._append,
            r.Truncate: self._truncate,
            r.Rename: self._rename,
            r.Unlink: self._unlink,
            r.RemoveDirectory: self._remove_directory,
            r.Link: self._link,
            r.Symlink: self._symlink,
            r.SetAttributes: self._set_attributes,
            r.SetXattr: self._set_xattr,
            r.RemoveXattr: self._remove_xattr,
        }

    def apply(self, record: r.Operation, gsn: int) -> tuple[r.Outcome, list[e.ScopedEffect]]:
        """Outcome and effects of one operation. A refused operation changes nothing."""
        self._effects, self._gsn, self._made = [], gsn, 0
        try:
            inode = self._apply[type(record)](record)
        except Refused as refusal:
            assert not self._effects, "an operation is refused before it changes anything"
            return r.Outcome(refusal.number), []
        if inode is None:
            return r.Outcome(0), self._effects
        return r.Outcome(0, inode.number, inode.version), self._effects

    # -- resolving --------------------------------------------------------------------------------------------------

    def _locate(self, record: r.Operation, path: bytes) -> Place:
        found = find_rule(self._rules, split(path))
        if found is None:
            raise Refused(errno.ENOENT)
        rule, parts = found
        if rule.observe_only:
            raise Refused(errno.EROFS)
        root = self._names.must(rule.root)
        if not parts:
            return Place(rule, None, b"", root)
        parent = root
        for part in parts[:-1]:
            child = self._child(record, rule, parent, part)
            if child is None:
                raise Refused(errno.ENOENT)
            parent = child
        return Place(rule, parent, parts[-1], self._child(record, rule, parent, parts[-1]))

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

    def _existing(self, record: r.Operation) -> tuple[Place, Inode]:
        place = self._locate(record, record.path)
        if place.child is None:
            raise Refused(errno.ENOENT)
        return place, place.child

    def _file(self, record: r.Write | r.Append | r.Truncate) -> tuple[Place, Inode, Content]:
        """An existing file whose bytes are known."""
        place, inode = self._existing(record)
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

    # -- making -----------------------------------------------------------------------------------------------------

    def _new(self, place: Place, kind: Kind, attributes: Attributes, **fields: Any) -> Inode:
        """A new known inode at a free name."""
        assert place.parent is not None and place.child is None
        inode = Inode((self._gsn << 16) | self._made, place.rule.number, kind, *attributes, version=self._gsn, **fields)
        self._made += 1
        self._names.add(inode)
        self._names.link(place.parent, place.name, inode, self._gsn)
        return inode

    def _free(self, record: r.Operation, path: bytes) -> Place:
        place = self._locate(record, path)
        if place.child is not None:
            raise Refused(errno.EEXIST)
        return place

    def _make_directory(self, record: r.MakeDirectory) -> Inode:
        place = self._free(record, record.path)
        attributes = Attributes(record.mode & 0o7777, record.uid, record.gid, record.time_ns)
        inode = self._new(place, Kind.DIRECTORY, attributes)
        self._emit(place.rule, e.MakeDirectoryEffect(inode.number, self._path(inode), attributes))
        self._touch_parent(place, record.time_ns)
        return inode

    def _touch_parent(self, place: Place, time_ns: int) -> None:
        assert place.parent is not None
        self._touch(place.rule, place.parent, time_ns)

    def _create(self, record: r.Create) -> Inode:
        if record.kind in (Kind.DIRECTORY, Kind.SYMLINK):
            raise Refused(errno.EINVAL)
        place = self._free(record, record.path)
        attributes = Attributes(record.mode & 0o7777, record.uid, record.gid, record.time_ns)
        if record.kind is Kind.FILE:
            return self._new_file(place, attributes, EMPTY, record.time_ns)
        inode = self._new(place, record.kind, attributes, rdev=record.rdev)
        self._emit_node(place, inode, record.time_ns)
        return inode

    def _emit_node(self, place: Place, inode: Inode, time_ns: int) -> None:
        effect = e.MakeNodeEffect(
            inode.number, self._path(inode), inode.kind, inode.attributes, inode.target, inode.rdev
        )
        self._emit(place.rule, effect)
        self._touch_parent(place, time_ns)

    def _new_file(self, place: Place, attributes: Attributes, content: Content, time_ns: int) -> Inode:
        inode = self._new(place, Kind.FILE, attributes, size=content.size, content=content)
        self._emit(place.rule, e.PutFileEffect(inode.number, self._path(inode), attributes, content, False))
        self._touch_parent(place, time_ns)
        return inode

    def _symlink(self, record: r.Symlink) -> Inode:
        if not record.target or b"\0" in record.target:
            raise Refused(errno.EINVAL)
        if len(record.target) > limits.SYMLINK_TARGET_BYTES_MAX:
            raise Refused(errno.ENAMETOOLONG)
        place = self._free(record, record.path)
        attributes = Attributes(0o777, record.uid, record.gid, record.time_ns)
        inode = self._new(place, Kind.SYMLINK, attributes, target=record.target, size=len(record.target))
        self._emit_node(place, inode, record.time_ns)
        return inode

    def _put(self, record: r.Put) -> Inode:
        place = self._locate(record, record.path)
        inode = place.child
        if inode is None:
            if record.expected_version > 0:
                raise Refused(errno.ESTALE)
            attributes = Attributes(record.mode & 0o7777, record.uid, record.gid, record.time_ns)
            return self._new_file(place, attributes, record.content, record.time_ns)
        if inode.kind is Kind.DIRECTORY:
            raise Refused(errno.EISDIR)
        self._expect(inode, record.expected_version)
        if inode.kind is not Kind.FILE:
            raise Refused(errno.EINVAL)
        self._names.edit(inode)
        self._names.set_pending(inode, False)
        self._names.set_identity(inode, b"")  # the zones replace the object: the source's will be another one
        inode.content, inode.size = record.content, record.content.size
        inode.mtime_ns, inode.version = record.time_ns, self._gsn
        effect = e.PutFileEffect(inode.number, self._path(inode), inode.attributes, record.content, False)
        self._emit(place.rule, effect)
        self._emit_relinks(place.rule, inode)
        return inode

    @staticmethod
    def _expect(inode: Inode, version: int) -> None:
        if version == 0:
            raise Refused(errno.EEXIST)
        if version > 0 and inode.version != version:
            raise Refused(errno.ESTALE)

    # -- changing a file --------------------------------------------------------------------------------------------

    def _write(self, record: r.Write) -> Inode:
        if record.offset < 0 or record.offset + record.content.size > limits.FILE_BYTES_MAX:
            raise Refused(errno.EINVAL)
        place, inode, content = self._file(record)
        self._extend(place, inode, content, record.offset, record.content, record.time_ns)
        return inode

    def _append(self, record: r.Append) -> Inode:
        place, inode, content = self._file(record)
        if inode.size + record.content.size > limits.FILE_BYTES_MAX:
            raise Refused(errno.EFBIG)
        self._extend(place, inode, content, inode.size, record.content, record.time_ns)
        return inode

    def _extend(self, place: Place, inode: Inode, old: Content, offset: int, data: Content, time_ns: int) -> None:
        size = max(inode.size, offset + data.size)
        change = b"write" + offset.to_bytes(8, "big") + data.size.to_bytes(8, "big")
        self._changed_in_part(inode, chain(old.digest, change, data.digest), size, time_ns)
        effect = e.WriteEffect(inode.number, self._path(inode), offset, data, size, inode.attributes)
        self._emit(place.rule, effect)

    def _changed_in_part(self, inode: Inode, digest: bytes, size: int, time_ns: int) -> None:
        self._names.edit(inode)
        inode.content = Content(digest, size, sealed=False)
        inode.size, inode.mtime_ns, inode.version = size, time_ns, self._gsn

    def _truncate(self, record: r.Truncate) -> Inode:
        if not 0 <= record.size <= limits.FILE_BYTES_MAX:
            raise Refused(errno.EINVAL)
        place, inode, content = self._file(record)
        digest = chain(content.digest, b"truncate" + record.size.to_bytes(8, "big"), b"")
        self._changed_in_part(inode, digest, record.size, record.time_ns)
        effect = e.TruncateEffect(inode.number, self._path(inode), record.size, inode.attributes)
        self._emit(place.rule, effect)
        return inode

    def _attributes_known(self, inode: Inode) -> None:
        if inode.mode == ATTRIBUTES_UNKNOWN:
            raise Refused(errno.EAGAIN)

    def _set_attributes(self, record: r.SetAttributes) -> Inode:
        place, inode = self._existing(record)
        self._attributes_known(inode)
        for owner in (record.uid, record.gid):
            if owner is not None and not 0 <= owner < 2**32:
                raise Refused(errno.EINVAL)
        self._names.edit(inode)
        if record.mode is not None and inode.kind is not Kind.SYMLINK:
            inode.mode = record.mode & 0o7777
        inode.uid = inode.uid if record.uid is None else record.uid
        inode.gid = inode.gid if record.gid is None else record.gid
        inode.mtime_ns = inode.mtime_ns if record.mtime_ns is None else record.mtime_ns
        inode.version = self._gsn
        self._emit_attributes(place.rule, inode)
        return inode

    def _set_xattr(self, record: r.SetXattr) -> Inode:
        place, inode = self._existing(record)
        self._attributes_known(inode)
        xattrs = dict(inode.xattrs)
        if record.flag is r.XattrFlag.CREATE and record.name in xattrs:
            raise Refused(errno.EEXIST)
        if record.flag is r.XattrFlag.REPLACE and record.name not in xattrs:
            raise Refused(errno.ENODATA)
        xattrs[record.name] = record.value
        if sum(len(name) + len(value) for name, value in xattrs.items()) > limits.XATTRS_BYTES_MAX:
            raise Refused(errno.E2BIG)
        self._replace_xattrs(place, inode, xattrs)
        return inode

    def _remove_xattr(self, record: r.RemoveXattr) -> Inode:
        place, inode = self._existing(record)
        self._attributes_known(inode)
        xattrs = dict(inode.xattrs)
        if xattrs.pop(record.name, None) is None:
            raise Refused(errno.ENODATA)
        self._replace_xattrs(place, inode, xattrs)
        return inode

    def _replace_xattrs(self, place: Place, inode: Inode, xattrs: dict[bytes, bytes]) -> None:
        self._names.edit(inode)
        inode.xattrs = tuple(sorted(xattrs.items()))
        inode.version = self._gsn
        self._emit_attributes(place.rule, inode)

    # -- removing ---------------------------------------------------------------------------------------------------

    def _detach(self, place: Place) -> None:
        """The name goes, and the inode with its last name. A directory not listed yet keeps a tombstone."""
        assert place.parent is not None and place.child is not None
        self._names.unlink(place.parent, place.name, place.child, self._gsn, tombstone=place.parent.pending)
        if place.child.nlink == 0:
            self._names.drop(place.child)

    def _unlink(self, record: r.Unlink) -> None:
        place, inode = self._existing(record)
        if inode.kind is Kind.DIRECTORY:
            raise Refused(errno.EISDIR)
        if record.expected_version > 0:
            self._expect(inode, record.expected_version)
        assert place.parent is not None
        path = self._names.path_of(place.parent.number, place.name)
        scope = self._scope(place.rule, inode)
        self._detach(place)
        if inode.nlink:
            inode.version = self._gsn
        self._emit(place.rule, e.RemoveEffect(inode.number, path, False), only=scope)
        self._touch_parent(place, record.time_ns)

    def _remove_directory(self, record: r.RemoveDirectory) -> None:
        place, inode = self._existing(record)
        if inode.kind is not Kind.DIRECTORY:
            raise Refused(errno.ENOTDIR)
        if place.parent is None:
            raise Refused(errno.EBUSY)
        self._require_empty(record, place.rule, inode)
        path = self._path(inode)
        self._names.forget_tombstones(inode)
        self._detach(place)
        self._emit(place.rule, e.RemoveEffect(inode.number, path, True))
        self._touch_parent(place, record.time_ns)

    def _require_empty(self, record: r.Operation, rule: Rule, directory: Inode) -> None:
        if not self._names.is_empty(directory.number):
            raise Refused(errno.ENOTEMPTY)
        if directory.pending:
            raise Refused(self._unknown(record, rule))

    # -- names ------------------------------------------------------------------------------------------------------

    def _link(self, record: r.Link) -> Inode:
        place, inode = self._existing(record)
        to = self._locate(record, record.to)
        if to.rule.number != place.rule.number:
            raise Refused(errno.EXDEV)
        if inode.kind is Kind.DIRECTORY:
            raise Refused(errno.EPERM)
        if to.child is not None:
            raise Refused(errno.EEXIST)
        if inode.nlink >= limits.LINKS_MAX:
            raise Refused(errno.EMLINK)
        assert to.parent is not None
        path = self._path(inode)
        self._names.link(to.parent, to.name, inode, self._gsn)
        inode.version = self._gsn
        new_path = self._names.path_of(to.parent.number, to.name)
        self._emit(place.rule, e.LinkEffect(inode.number, path, new_path), only=self._scope(place.rule, inode))
        self._touch_parent(to, record.time_ns)
        return inode

    def _rename(self, record: r.Rename) -> Inode:
        place, inode = self._existing(record)
        to = self._locate(record, record.to)
        if to.rule.number != place.rule.number:
            raise Refused(errno.EXDEV)
        if place.parent is None or to.parent is None:
            raise Refused(errno.EBUSY)
        directory = inode.kind is Kind.DIRECTORY
        if directory and to.child is not inode and self._names.is_inside(to.parent.number, inode.number):
            raise Refused(errno.EINVAL)
        if record.flag is r.RenameFlag.EXCHANGE:
            return self._exchange(record, place, to)
        if to.child is not None:
            if record.flag is r.RenameFlag.NOREPLACE:
                raise Refused(errno.EEXIST)
            if to.child is inode:
                return inode
            self._check_replaced(record, to, directory)
        self._move(record, place, to)
        return inode

    def _check_replaced(self, record: r.Operation, to: Place, directory: bool) -> None:
        assert to.child is not None
        if to.child.kind is Kind.DIRECTORY:
            if not directory:
                raise Refused(errno.EISDIR)
            self._require_empty(record, to.rule, to.child)
        elif directory:
            raise Refused(errno.ENOTDIR)

    def _move(self, record: r.Rename, place: Place, to: Place) -> None:
        names, rule, inode = self._names, place.rule, place.child
        assert inode is not None and place.parent is not None and to.parent is not None
        old_path = names.path_of(place.parent.number, place.name)
        new_path = names.path_of(to.parent.number, to.name)
        replaced = to.child
        if replaced is not None:
            if replaced.kind is Kind.DIRECTORY:
                names.forget_tombstones(replaced)
            self._detach(to)
            if replaced.nlink:
                replaced.version = self._gsn
        names.unlink(place.parent, place.name, inode, self._gsn, tombstone=place.parent.pending)
        names.link(to.parent, to.name, inode, self._gsn)
        inode.version = self._gsn
        effect = e.RenameEffect(inode.number, old_path, new_path, inode.kind is Kind.DIRECTORY)
        self._emit(rule, effect, only=self._scope(rule, inode))
        if replaced is not None and replaced.visible and not inode.visible:
            gone = e.RemoveEffect(replaced.number, new_path, replaced.kind is Kind.DIRECTORY)
            self._emit(rule, gone, but=rule.source)
        self._touch_parent(place, record.time_ns)
        if to.parent is not place.parent:
            self._touch_parent(to, record.time_ns)

    def _exchange(self, record: r.Rename, place: Place, to: Place) -> Inode:
        names, rule, one, two = self._names, place.rule, place.child, to.child
        if two is None:
            raise Refused(errno.ENOENT)
        assert one is not None and place.parent is not None and to.parent is not None
        if one is two:
            return one
        if two.kind is Kind.DIRECTORY and names.is_inside(place.parent.number, two.number):
            raise Refused(errno.EINVAL)
        paths = (
            names.path_of(place.parent.number, place.name),
            names.path_of(to.parent.number, to.name),
        )
        names.unlink(place.parent, place.name, one, self._gsn, tombstone=False)
        names.unlink(to.parent, to.name, two, self._gsn, tombstone=False)
        names.link(to.parent, to.name, one, self._gsn)
        names.link(place.parent, place.name, two, self._gsn)
        one.version = two.version = self._gsn
        self._emit_exchange(rule, one, two, paths)
        self._touch_parent(place, record.time_ns)
        if to.parent is not place.parent:
            self._touch_parent(to, record.time_ns)
        return one

    def _emit_exchange(self, rule: Rule, one: Inode, two: Inode, paths: tuple[bytes, bytes]) -> None:
        both = (
            e.ParkEffect(one.number, paths[0]),
            e.RenameEffect(two.number, paths[1], paths[0], two.kind is Kind.DIRECTORY),
            e.UnparkEffect(one.number, paths[1]),
        )
        everywhere = one.visible and two.visible
        for effect in both:
            self._emit(rule, effect, only=e.ALL_ZONES if everywhere else rule.source)
        if everywhere:
            return
        if one.visible:
            effect = e.RenameEffect(one.number, paths[0], paths[1], one.kind is Kind.DIRECTORY)
            self._emit(rule, effect, but=rule.source)
        if two.visible:
            effect = e.RenameEffect(two.number, paths[1], paths[0], two.kind is Kind.DIRECTORY)
            self._emit(rule, effect, but=rule.source)
