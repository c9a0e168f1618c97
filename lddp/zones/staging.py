"""The directory beside a zone's tree where objects are made before they are put in place, and kept when parked."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import stat

from lddp.zones.closed import Closed, exchange, opened_at
from lddp.zones.removal import remove_tree
from lddp.zones.resolve import failure

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_IN_THE_WAY = (errno.ENOTEMPTY, errno.EEXIST, errno.EISDIR, errno.ENOTDIR)


class Staging:
    """`temporary` and `parked` are descriptors of two private directories on the same filesystem as the tree.

    Objects made in `temporary` belong to `uid` and `gid`, and of the permission bits asked for `umask` is missing;
    the process's umask must not be changed later. A worker opens it `for_worker`: the others of its node may have
    it too, and nobody else.
    """

    def __init__(self, path: str | bytes, *, for_worker: bool = False) -> None:
        base = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            found = os.fstat(base)
            self.inode = (found.st_dev, found.st_ino)
            self.device = found.st_dev
            self.temporary = _private_directory(base, b"temporary")
            self.parked = _private_directory(base, b"parked")
        finally:
            os.close(base)
        try:
            if for_worker:
                fcntl.flock(self.temporary, fcntl.LOCK_SH | fcntl.LOCK_NB)
            else:
                _refuse_worker(self.temporary, path)
        except BaseException:
            self.close()
            raise
        self.closed = Closed(self.parked)
        self._prefix = os.urandom(8).hex().encode()
        self._numbers = itertools.count()
        name = self.new_name()
        probe = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o777, dir_fd=self.temporary)
        try:
            made = os.fstat(probe)
            self.uid = made.st_uid
            self.gid = made.st_gid
            self.umask = 0o777 & ~made.st_mode
        finally:
            os.close(probe)
            os.unlink(name, dir_fd=self.temporary)

    def close(self) -> None:
        if self.temporary >= 0:
            os.close(self.temporary)
            os.close(self.parked)
            self.temporary = self.parked = -1

    def new_name(self) -> bytes:
        """A name in `temporary` that nothing has or had, from this process or another."""
        return b"%b-%d" % (self._prefix, next(self._numbers))

    def discard_leftovers(self) -> None:
        """Removes what a crash left half made. Only while nobody else uses this staging directory."""
        for name in os.listdir(self.temporary):
            remove_tree(self.temporary, os.fsencode(name))

    def discard(self, name: bytes) -> None:
        """Removes a temporary object; absent is done."""
        remove_tree(self.temporary, name)

    def move(self, directory: int, name: bytes, to_directory: int, to_name: bytes) -> None:
        """Renames, with whatever is in the way, a full directory included, taken away first and removed after."""
        aside = self.replace(directory, name, to_directory, to_name)
        if aside is not None:
            self.discard(aside)

    def replace(self, directory: int, name: bytes, to_directory: int, to_name: bytes) -> bytes | None:
        """As `move`, but returns the temporary name of what the caller has yet to discard, which may take long."""
        try:
            _rename(directory, name, to_directory, to_name)
            return None
        except OSError as error:
            if error.errno not in _IN_THE_WAY:
                raise
            # ENOTDIR may also come from a way that leads through a file, but these are open directories.
        aside = self.new_name()
        _rename(to_directory, to_name, self.temporary, aside)
        try:
            _rename(directory, name, to_directory, to_name)
        except BaseException:
            _rename(self.temporary, aside, to_directory, to_name)
            raise
        return aside

    def put(self, temporary: bytes, directory: int, name: bytes) -> None:
        """Moves a finished temporary object that is not a directory into place, atomically also over a directory."""
        try:
            os.rename(temporary, name, src_dir_fd=self.temporary, dst_dir_fd=directory)
            return
        except IsADirectoryError:
            pass
        try:
            exchange(self.temporary, temporary, directory, name)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOENT):
                raise
            # A filesystem that cannot exchange, or the directory is gone by now.
            self.move(self.temporary, temporary, directory, name)
            return
        self.discard(temporary)

    def remove(self, directory: int, name: bytes) -> None:
        """Removes a name; a full directory disappears at once and is taken apart out of sight."""
        try:
            os.unlink(name, dir_fd=directory)
            return
        except FileNotFoundError:
            return
        except (IsADirectoryError, PermissionError) as error:
            found = stat_name(directory, name)
            if found is None:
                return
            if not stat.S_ISDIR(found.st_mode):
                raise failure(error.errno or errno.EPERM, name) from error
        try:
            os.rmdir(name, dir_fd=directory)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        aside = self.new_name()
        try:
            _rename(directory, name, self.temporary, aside)
        except FileNotFoundError:
            return
        except OSError as error:
            # A lower layer of overlayfs, or a mount in the tree.
            if error.errno not in (errno.EXDEV, errno.EBUSY):
                raise
            remove_tree(directory, name)
            return
        self.discard(aside)


def _refuse_worker(temporary: int, path: str | bytes) -> None:
    """EBUSY while a worker of an earlier process has not ended: it may be in the middle of a file."""
    try:
        fcntl.flock(temporary, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise failure(errno.EBUSY, os.fsencode(path)) from None
    except OSError as error:
        # A filesystem without such locks; a worker does not work there either.
        if error.errno not in (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        return
    fcntl.flock(temporary, fcntl.LOCK_UN)


def stat_name(directory: int, name: bytes) -> os.stat_result | None:
    """None if there is no such name."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _private_directory(base: int, name: bytes) -> int:
    try:
        os.mkdir(name, 0o700, dir_fd=base)
    except FileExistsError:
        pass
    descriptor = os.open(name, _DIRECTORY, dir_fd=base)
    # Neither a group nor an ACL may be inherited by what is made in it.
    os.fchmod(descriptor, 0o700)
    try:
        os.removexattr(descriptor, b"system.posix_acl_default")
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
            raise
    return descriptor


def _rename(directory: int, name: bytes, to_directory: int, to_name: bytes) -> None:
    try:
        os.rename(name, to_name, src_dir_fd=directory, dst_dir_fd=to_directory)
    except PermissionError:
        with opened_at(directory, name):
            os.rename(name, to_name, src_dir_fd=directory, dst_dir_fd=to_directory)
