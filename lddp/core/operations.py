"""Operations: what each does to the namespace, with the outcomes of POSIX, and the effects that bring zones along.

Paths are never followed through symlinks. A name below a directory that is not listed yet, and of which the log knows
nothing, is unknown: the operation is refused with EAGAIN for the source zone (which then reports the name; whoever asks
again does so under another id) and with EROFS for the others.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from lddp.core import effects as e
from lddp.core import limits
from lddp.core import records as r
from lddp.core.digest import truncated, written
from lddp.core.names import Names
from lddp.core.namespace import ATTRIBUTES_UNKNOWN, Inode, Namespace
from lddp.core.places import Place, Refused
from lddp.core.records import Attributes, Content, Kind
from lddp.core.rules import NO_SOURCE, Rule

EMPTY_DIGEST = bytes.fromhex("af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262")
"""BLAKE3 of no bytes."""
EMPTY = Content(EMPTY_DIGEST, 0, b"")
EMPTY_XATTR_NAMES = frozenset((b"user.", b"trusted.", b"security.", b"system."))


class Operations(Names):
    """Applies operations to a namespace. `effects` collects what the zones must do."""

    def __init__(self, namespace: Namespace, rules: dict[bytes, Rule]) -> None:
        super().__init__(namespace, rules)
        self._made = 0
        self._apply: dict[type, Callable[[Any], Inode | None]] = {
            r.MakeDirectory: self._make_directory,
            r.Create: self._create,
            r.CreateFile: self._create_file,
            r.Put: self._put,
            r.Write: self._write,
            r.Append: self._append,
            r.Truncate: self._truncate,
            r.Shorten: self._truncate,
            r.Rename: self._rename,
            r.Unlink: self._unlink,
            r.RemoveDirectory: self._remove_directory,
            r.Remove: self._remove,
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

    # -- making -----------------------------------------------------------------------------------------------------

    def _new(self, place: Place, kind: Kind, attributes: Attributes, **fields: Any) -> Inode:
        """A new known inode at a free name."""
        assert place.parent is not None and place.child is None
        inode = Inode((self._gsn << 16) | self._made, place.rule.number, kind, *attributes, version=self._gsn, **fields)
        self._made += 1
        self._names.add(inode)
        self._names.link(place.parent, place.name, inode, self._gsn)
        return inode

    def _free(self, record: r.MakeDirectory | r.Create | r.CreateFile | r.Symlink) -> Place:
        place = self._locate(record, record.path, record.expected_parent)
        if place.child is not None:
            raise Refused(errno.EEXIST)
        return place

    def _make_directory(self, record: r.MakeDirectory) -> Inode:
        place = self._free(record)
        attributes = Attributes(record.mode & 0o7777, record.uid, record.gid, record.time_ns)
        inode = self._new(place, Kind.DIRECTORY, attributes)
        self._emit(place.rule, e.MakeDirectoryEffect(inode.number, self._path(inode), attributes))
        self._touch_parent(place, record.time_ns)
        return inode

    def _create(self, record: r.Create) -> Inode:
        if record.kind in (Kind.DIRECTORY, Kind.SYMLINK):
            raise Refused(errno.EINVAL)
        if not 0 <= record.rdev <= limits.DEVICE_MAX:
            raise Refused(errno.EINVAL)  # no kernel has such a device, so that no zone could
        place = self._free(record)
        attributes = Attributes(record.mode & 0o7777, record.uid, record.gid, record.time_ns)
        if record.kind is Kind.FILE:
            return self._new_file(place, attributes, EMPTY, record.time_ns)
        inode = self._new(place, record.kind, attributes, rdev=record.rdev)
        self._emit_node(place, inode, record.time_ns)
        return inode

    def _create_file(self, record: r.CreateFile) -> Inode:
        attributes = Attributes(record.mode & 0o7777, record.uid, record.gid, record.mtime_ns)
        return self._new_file(self._free(record), attributes, record.content, record.time_ns)

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
        place = self._free(record)
        attributes = Attributes(0o777, record.uid, record.gid, record.time_ns)
        inode = self._new(place, Kind.SYMLINK, attributes, target=record.target, size=len(record.target))
        self._emit_node(place, inode, record.time_ns)
        return inode

    def _put(self, record: r.Put) -> Inode:
        place = self._locate(record, record.path)
        inode = place.child
        if inode is None:
            if record.expected_version not in (r.ANY_VERSION, r.NO_VERSION) or record.expected_inode:
                raise Refused(errno.ESTALE)
            attributes = Attributes(record.mode & 0o7777, record.uid, record.gid, record.time_ns)
            return self._new_file(place, attributes, record.content, record.time_ns)
        self._expect_inode(inode, record)
        if inode.kind is Kind.DIRECTORY and record.expected_version != r.NO_VERSION:
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

    # -- changing a file --------------------------------------------------------------------------------------------

    def _write(self, record: r.Write) -> Inode:
        if record.offset < 0 or record.offset + record.content.size > limits.FILE_BYTES_MAX:
            raise Refused(errno.EINVAL)
        place, inode, content = self._file(record)
        self._check_size(inode, record.offset + record.content.size)
        self._extend(place, inode, content, record.offset, record.content, record.time_ns)
        return inode

    def _append(self, record: r.Append) -> Inode:
        place, inode, content = self._file(record)
        self._check_size(inode, inode.size + record.content.size)
        self._extend(place, inode, content, inode.size, record.content, record.time_ns)
        return inode

    @staticmethod
    def _check_size(inode: Inode, size: int) -> None:
        """A hole costs its client nothing, and would stop every zone whose filesystem has no files so large."""
        if size > max(limits.GROWN_BYTES_MAX, inode.size):
            raise Refused(errno.EFBIG)

    def _extend(self, place: Place, inode: Inode, old: Content, offset: int, data: Content, time_ns: int) -> None:
        size = max(inode.size, offset + data.size)
        base = self._base(place.rule, inode, old)
        self._changed_in_part(inode, written(old.digest, offset, data.size, data.digest), size, time_ns)
        effect = e.WriteEffect(inode.number, self._path(inode), offset, data, size, inode.attributes, base)
        self._emit(place.rule, effect)

    @staticmethod
    def _base(rule: Rule, inode: Inode, content: Content) -> e.Base | None:
        """To be called before the inode is changed. Whether its content is inline is not asked: an inode that is read
        from the tables has forgotten that, and effects must not depend on what is cached."""
        if rule.source == NO_SOURCE or not content.sealed or not content.size:
            return None
        return e.Base(Content(content.digest, content.size), inode.version)

    def _changed_in_part(self, inode: Inode, digest: bytes, size: int, time_ns: int) -> None:
        self._names.edit(inode)
        inode.content = Content(digest, size, sealed=False)
        inode.size, inode.mtime_ns, inode.version = size, time_ns, self._gsn

    def _truncate(self, record: r.Truncate | r.Shorten) -> Inode:
        if not 0 <= record.size <= limits.FILE_BYTES_MAX:
            raise Refused(errno.EINVAL)
        place, inode, content = self._file(record)
        if record.size > inode.size and type(record) is r.Shorten:
            raise Refused(errno.EINVAL)
        self._check_size(inode, record.size)
        base = self._base(place.rule, inode, content)
        self._changed_in_part(inode, truncated(content.digest, record.size), record.size, record.time_ns)
        effect = e.TruncateEffect(inode.number, self._path(inode), record.size, inode.attributes, base)
        self._emit(place.rule, effect)
        return inode

    def _attributes_known(self, inode: Inode) -> None:
        if inode.mode == ATTRIBUTES_UNKNOWN:
            raise Refused(errno.EAGAIN)

    def _set_attributes(self, record: r.SetAttributes) -> Inode:
        place, inode = self._meant(record)
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
        self._changed_apart(place, inode)
        return inode

    def _xattrs_of(self, record: r.SetXattr | r.RemoveXattr) -> tuple[Place, Inode]:
        """Linux has user attributes on files and directories only (xattr(7))."""
        if not record.name or b"\0" in record.name or record.name in EMPTY_XATTR_NAMES:
            raise Refused(errno.EINVAL)  # no kernel takes such a name, so that no zone could
        place, inode = self._meant(record)
        if record.name.startswith(b"user.") and inode.kind not in (Kind.FILE, Kind.DIRECTORY):
            raise Refused(errno.EPERM)
        self._attributes_known(inode)
        return place, inode

    def _set_xattr(self, record: r.SetXattr) -> Inode:
        place, inode = self._xattrs_of(record)
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
        place, inode = self._xattrs_of(record)
        xattrs = dict(inode.xattrs)
        if xattrs.pop(record.name, None) is None:
            raise Refused(errno.ENODATA)
        self._replace_xattrs(place, inode, xattrs)
        return inode

    def _replace_xattrs(self, place: Place, inode: Inode, xattrs: dict[bytes, bytes]) -> None:
        self._names.edit(inode)
        inode.xattrs = tuple(sorted(xattrs.items()))
        self._changed_apart(place, inode)

    def _changed_apart(self, place: Place, inode: Inode) -> None:
        """Attributes alone. Where the effect meets another object in the source, nothing but these tells: so the source
        is not believed to have reported this one as it is."""
        inode.version = self._gsn
        inode.stamp = 0
        self._emit_attributes(place.rule, inode)
