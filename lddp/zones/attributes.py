"""Owner, mode, extended attributes and times of an object, made exactly what they should be.

The order matters: changing the owner clears suid, sgid and capabilities; setting an access ACL changes the mode and
may clear sgid; so owner, then xattrs, then mode, and the time last of all.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from lddp.core.records import Attributes, Xattrs

SHORTFALLS_KEPT_MAX = 1000

# Labels that the local kernel gives by its own policy, and ACLs of network filesystems that no other kind can hold.
_LOCAL_NAMES = frozenset((b"security.selinux", b"security.apparmor", b"security.ima", b"security.evm"))
_LOCAL_PREFIXES = (b"security.SMACK64", b"trusted.overlay.")
_REPLICATED_SYSTEM_NAMES = frozenset((b"system.posix_acl_access", b"system.posix_acl_default"))

_OWNER_TOLERATED = frozenset((errno.EPERM, errno.EINVAL))
_XATTR_TOLERATED = frozenset((errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.E2BIG, errno.ERANGE))
_ROOM_FOR_XATTRS_BYTES = 1 << 20

_SET_ID = stat.S_ISUID | stat.S_ISGID


class Shortfall(NamedTuple):
    """Something that a zone could not give an object: `what` is `owner`, `mode` or the name of an xattr."""

    path: bytes
    what: str
    errno: int


class Shortfalls:
    """What could not be set, counted for ever; the last ones are kept. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent: deque[Shortfall] = deque(maxlen=SHORTFALLS_KEPT_MAX)
        self._total = 0

    @property
    def total(self) -> int:
        return self._total

    def recent(self) -> tuple[Shortfall, ...]:
        with self._lock:
            return tuple(self._recent)

    def drain(self) -> list[Shortfall]:
        """Those that are kept, which are not kept any more."""
        with self._lock:
            recent = list(self._recent)
            self._recent.clear()
        return recent

    def note(self, path: bytes, what: str, number: int) -> None:
        with self._lock:
            self._recent.append(Shortfall(path, what, number))
            self._total += 1


Object = int | bytes
"""A descriptor, or `/proc/self/fd/N` of one opened with O_PATH, which names even a symlink without following it."""


def by_proc(descriptor: int) -> bytes:
    return b"/proc/self/fd/%d" % descriptor


def is_replicated(name: bytes) -> bool:
    """Whether an xattr is the object's own, rather than this machine's opinion of it."""
    if name.startswith(b"system."):
        return name in _REPLICATED_SYSTEM_NAMES
    return name not in _LOCAL_NAMES and not name.startswith(_LOCAL_PREFIXES)


def read_xattrs(where: Object) -> Xattrs:
    """All replicated xattrs in ascending order of name; () where the filesystem has none."""
    found = []
    for name in sorted(_names(where)):
        try:
            found.append((name, os.getxattr(where, name)))
        except OSError as error:
            if error.errno != errno.ENODATA:  # removed since the names were read
                raise
    return tuple(found)


def _names(where: Object) -> Iterable[bytes]:
    try:
        names = os.listxattr(where)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return ()
    return filter(is_replicated, map(os.fsencode, names)) if names else ()


def apply_attributes(
    where: Object,
    found: os.stat_result,
    wanted: Attributes,
    path: bytes,
    shortfalls: Shortfalls,
    *,
    has_xattrs: bool = True,
) -> None:
    """Brings an object from the status `found` to the attributes `wanted`; `path` is for reports.

    `has_xattrs=False` says that the object is new and has none, which saves looking. What this process has no
    privilege for goes to `shortfalls`; everything else that fails is raised.
    """
    owner_changed = (found.st_uid, found.st_gid) != (wanted.uid, wanted.gid)
    owner_right = not owner_changed or _set_owner(where, found, wanted, path, shortfalls)
    xattrs_changed = (has_xattrs or bool(wanted.xattrs)) and _set_xattrs(where, found, wanted.xattrs, path, shortfalls)
    if not stat.S_ISLNK(found.st_mode):
        mode = wanted.mode if owner_right else _without_set_id(wanted.mode, path, shortfalls)
        if owner_changed or xattrs_changed or stat.S_IMODE(found.st_mode) != mode:
            os.chmod(where, mode)
            if mode & stat.S_ISGID and os.geteuid() != 0 and not os.stat(where).st_mode & stat.S_ISGID:
                # The kernel drops the bit, without an error, for who is not in the group.
                shortfalls.note(path, "mode", errno.EPERM)
    if found.st_mtime_ns != wanted.mtime_ns:
        os.utime(where, ns=(found.st_atime_ns, wanted.mtime_ns))


def _without_set_id(mode: int, path: bytes, shortfalls: Shortfalls) -> int:
    """A set-id bit means the owner's power; given to another owner it would be somebody else's."""
    if mode & _SET_ID:
        shortfalls.note(path, "mode", errno.EPERM)
    return mode & ~_SET_ID


def _set_owner(where: Object, found: os.stat_result, wanted: Attributes, path: bytes, shortfalls: Shortfalls) -> bool:
    try:
        os.chown(where, wanted.uid, wanted.gid)
        return True
    except OSError as error:
        if error.errno not in _OWNER_TOLERATED:
            raise
        shortfalls.note(path, "owner", error.errno)
    if found.st_gid != wanted.gid:
        try:
            os.chown(where, -1, wanted.gid)  # one's own groups may be given without privilege
        except OSError as error:
            if error.errno not in _OWNER_TOLERATED:
                raise
            # Already noted with the owner.
    return False


def _set_xattrs(where: Object, found: os.stat_result, wanted: Xattrs, path: bytes, shortfalls: Shortfalls) -> bool:
    """Makes the set exactly `wanted`; returns whether anything was changed."""
    names = set(_names(where))
    changed = False
    for name in names.difference(name for name, _ in wanted):
        changed |= _change(where, found, name, None, path, shortfalls)
    for name, value in wanted:
        if name not in names or os.getxattr(where, name) != value:
            changed |= _change(where, found, name, value, path, shortfalls)
    return changed


def _change(
    where: Object, found: os.stat_result, name: bytes, value: bytes | None, path: bytes, shortfalls: Shortfalls
) -> bool:
    try:
        _change_once(where, name, value)
    except PermissionError as error:
        # An owner without privilege may not set xattrs of a file that is not writable; the mode is set afterwards.
        if not _open_to_owner(where, found):
            _tolerate(where, name, error, path, shortfalls)
            return False
        try:
            _change_once(where, name, value)
        except OSError as second:
            _tolerate(where, name, second, path, shortfalls)
        return True  # the mode was changed at least
    except OSError as error:
        _tolerate(where, name, error, path, shortfalls)
        return False
    return True


def _change_once(where: Object, name: bytes, value: bytes | None) -> None:
    if value is not None:
        os.setxattr(where, name, value)
        return
    try:
        os.removexattr(where, name)
    except OSError as error:
        if error.errno != errno.ENODATA:  # somebody else was first
            raise


def _tolerate(where: Object, name: bytes, error: OSError, path: bytes, shortfalls: Shortfalls) -> None:
    own = name.startswith(b"user.")
    # An ACL may name users that this machine's user namespace does not have; what is no ACL or capability at all came
    # from a client.
    unmapped = error.errno == errno.EINVAL and not own
    has_no_room = error.errno == errno.ENOSPC and _has_room(where)
    if error.errno not in _XATTR_TOLERATED and not unmapped and not has_no_room:
        raise error
    if own and error.errno == errno.EACCES:
        raise error
    shortfalls.note(path, os.fsdecode(name), error.errno or errno.EPERM)


def _has_room(where: Object) -> bool:
    """Whether the filesystem is not full: then it has only so much room for the xattrs of one object (ext4: a block),
    and more will not come."""
    found = os.statvfs(where)
    return found.f_bavail * found.f_frsize >= _ROOM_FOR_XATTRS_BYTES


def _open_to_owner(where: Object, found: os.stat_result) -> bool:
    """Gives the owner write permission for a moment, if that is what was missing."""
    if stat.S_ISLNK(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & stat.S_IWUSR:
        return False
    os.chmod(where, stat.S_IMODE(found.st_mode) | stat.S_IWUSR)
    return True
