"""Operations on names: unlink, rmdir, remove, link, rename."""

from __future__ import annotations

import errno

from lddp.core import effects as e
from lddp.core import limits
from lddp.core import records as r
from lddp.core.namespace import Inode
from lddp.core.places import Place, Places, Refused
from lddp.core.records import Kind
from lddp.core.rules import Rule


class Names(Places):
    """What gives names to existing objects and takes them away."""

    def _detach(self, place: Place) -> None:
        """The name goes, and the inode with its last name. A directory not listed yet keeps a tombstone."""
        assert place.parent is not None and place.child is not None
        self._names.unlink(place.parent, place.name, place.child, self._gsn, tombstone=place.parent.pending)
        if place.child.nlink == 0:
            self._names.drop(place.child)

    def _unlink(self, record: r.Unlink) -> None:
        place, inode = self._existing(record, record.expected_parent)
        if inode.kind is Kind.DIRECTORY:
            raise Refused(errno.EISDIR)
        self._remove_name(record, place, inode)

    def _remove(self, record: r.Remove) -> None:
        place, inode = self._existing(record, record.expected_parent)
        if inode.kind is not Kind.DIRECTORY:
            self._remove_name(record, place, inode)
            return
        if record.expected_version > 0:
            self._expect(inode, record.expected_version)
        self._remove_empty(record, place, inode)

    def _remove_name(self, record: r.Unlink | r.Remove, place: Place, inode: Inode) -> None:
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
        place, inode = self._existing(record, record.expected_parent)
        if inode.kind is not Kind.DIRECTORY:
            raise Refused(errno.ENOTDIR)
        self._remove_empty(record, place, inode)

    def _remove_empty(self, record: r.RemoveDirectory | r.Remove, place: Place, inode: Inode) -> None:
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
        place, inode = self._meant(record)
        to = self._locate(record, record.to, record.expected_to_parent)
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
        place, inode = self._existing(record, record.expected_parent)
        to = self._locate(record, record.to, record.expected_to_parent)
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
