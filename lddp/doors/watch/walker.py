"""Placing inotify watches on directories: each is watched before it is listed, so that nothing comes between."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from lddp.doors.watch import kernel
from lddp.doors.watch.tree import Node, Tree
from lddp.errors import ZoneError

_MASK = (
    kernel.IN_CREATE
    | kernel.IN_DELETE
    | kernel.IN_MOVED_FROM
    | kernel.IN_MOVED_TO
    | kernel.IN_MODIFY
    | kernel.IN_CLOSE_WRITE
    | kernel.IN_ATTRIB
    | kernel.IN_DELETE_SELF
    | kernel.IN_MOVE_SELF
)
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PATH_PIECE = 3000
"""Bytes of a path that are resolved in one call; the kernel takes 4095."""
_OPEN_AT_ONCE = 128
"""Directories that a walk keeps open because it comes to them next; others are opened by path again."""
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_SHUT = (errno.EACCES, errno.EPERM, errno.ENOTCONN)
"""Also where a FUSE filesystem is mounted whose server has died."""

Found = Callable[[Node], None]
"""Told of each directory that was not watched, or not at a known place, before."""


class Stale(Exception):
    """A directory is not where it is believed to be."""


def open_directory(name: bytes, parent: int | None) -> int:
    """A descriptor that lists `name` below the directory open at `parent`, without changing its access time where the
    kernel lets us. Never a symlink."""
    try:
        return os.open(name, _OPEN | os.O_NOATIME, dir_fd=parent)
    except PermissionError:
        return os.open(name, _OPEN, dir_fd=parent)


class Walker:
    """Watches directories for one inotify descriptor.

    A walk that could not be finished leaves the directories that are still to be listed in `owed`.
    """

    def __init__(self, descriptor: int, root_path: bytes) -> None:
        self.owed: set[Node] = set()
        self._descriptor = descriptor
        self._root = os.open(root_path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            handle, self._mount = kernel.handle_at(self._root)
            self.tree = Tree(Node(self._watch(self._root), handle))
        except BaseException:
            os.close(self._root)
            raise

    def close(self) -> None:
        os.close(self._root)

    def forget(self, node: Node) -> None:
        """Stops watching a directory and all below it."""
        for one in self.tree.below(node):
            kernel.inotify_forget(self._descriptor, one.watch)
            self.discard(one)

    def discard(self, node: Node) -> None:
        """The kernel watches `node` no longer."""
        self.owed.discard(node)
        self.tree.discard(node)

    def enter(self, parent: Node, name: bytes, found: Found) -> None:
        """Looks at `name` below `parent`: a directory is watched, and if it was not, or was adrift, so is all below
        it. Raises Stale if something on the way is elsewhere; then `parent` is owed."""
        self.owed.add(parent)
        descriptor = self.open(parent)
        try:
            entered = self._enter(parent, descriptor, name)
        finally:
            os.close(descriptor)
        self.owed.discard(parent)
        if entered is None:
            return
        node, opened, is_news = entered
        if is_news:
            found(node)
            self._descend([(node, opened)], found, again=True)
        else:
            os.close(opened)

    def relist(self, node: Node, found: Found) -> None:
        """Looks at all names in `node`."""
        self.owed.add(node)
        self._descend([(node, self.open(node))], found, again=False)

    def walk(self, found: Found) -> None:
        """Looks at the whole tree. Then nothing is owed, and what was not met is adrift, with what was below it."""
        self.owed.add(self.tree.root)
        met = self._descend([(self.tree.root, self.open(self.tree.root))], found, again=True)
        self.owed.clear()
        for node in [one for one in self.tree.by_watch.values() if one not in met and one.parent in met]:
            self.tree.set_adrift(node)

    def open(self, node: Node) -> int:
        """A descriptor that lists the directory `node`; Stale if it is not at its place."""
        names = self.tree.path(node)
        if names is None:
            raise Stale
        try:
            descriptor = self._open_path(names)
        except OSError as error:
            if node is not self.tree.root and (error.errno in _GONE or error.errno in _SHUT):
                raise Stale from error
            raise
        if kernel.handle_at(descriptor)[0] != node.handle:
            os.close(descriptor)
            raise Stale
        return descriptor

    def _open_path(self, names: list[bytes]) -> int:
        at, piece, size = self._root, list[bytes](), 0
        try:
            for name in names:
                if size + len(name) > _PATH_PIECE:
                    below = os.open(b"/".join(piece), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
                    if at != self._root:
                        os.close(at)
                    at, piece, size = below, [], 0
                piece.append(name)
                size += len(name) + 1
            return open_directory(b"/".join(piece) or b".", at)
        finally:
            if at != self._root:
                os.close(at)

    def _watch(self, directory: int) -> int:
        try:
            return kernel.inotify_watch(self._descriptor, directory, _MASK)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            most = Path("/proc/sys/fs/inotify/max_user_watches").read_text().strip()
            message = f"no inotify watch is left for all directories: raise fs.inotify.max_user_watches (now {most})"
            raise ZoneError(errno.ENOSPC, message) from error

    def _enter(self, parent: Node, above: int, name: bytes) -> tuple[Node, int, bool] | None:
        """(node, descriptor, whether it was new or adrift) of the directory at `name`. None where there is none, it
        may not be read, or another filesystem is mounted."""
        try:
            opened = open_directory(name, above)
        except OSError as error:
            if error.errno in _GONE:
                self.tree.vacate(parent, name)
                return None
            if error.errno in _SHUT:
                return None
            raise
        try:
            handle, mount = kernel.handle_at(opened)
            if mount != self._mount:
                os.close(opened)
                return None
            node, is_news = self._placed(parent, name, self._watch(opened), handle)
        except BaseException:
            os.close(opened)
            raise
        return node, opened, is_news

    def _placed(self, parent: Node, name: bytes, watch: int, handle: bytes) -> tuple[Node, bool]:
        node = self.tree.by_watch.get(watch)
        if node is None:
            node = Node(watch, handle)
            self.tree.add(node)
        is_news = node in self.tree.adrift
        if not self.tree.place(node, parent, name):
            raise Stale
        return node, is_news

    def _descend(self, stack: list[tuple[Node, int]], found: Found, *, again: bool) -> set[Node]:
        """Lists the open directories of `stack`, closes them, and goes on below those that are news; with `again`
        below all. A negative descriptor is opened by path. What was listed."""
        met: set[Node] = set()
        try:
            while stack:
                node, opened = stack[-1]
                if opened < 0:
                    opened = self.open(node)
                    stack[-1] = node, opened
                children = self._list(node, opened, found, again=again, room=_OPEN_AT_ONCE - len(stack))
                stack.pop()
                os.close(opened)
                self.owed.discard(node)
                met.add(node)
                stack += children
        finally:
            for node, opened in stack:
                self.owed.add(node)
                if opened >= 0:
                    os.close(opened)
        return met

    def _list(self, parent: Node, descriptor: int, found: Found, *, again: bool, room: int) -> list[tuple[Node, int]]:
        """Enters all that is in one directory; what is to be gone through next, the first `room` of them open."""
        with os.scandir(descriptor) as entries:
            names = [os.fsencode(entry.name) for entry in entries if entry.is_dir(follow_symlinks=False)]
        children: list[tuple[Node, int]] = []
        try:
            for name in names:
                entered = self._enter(parent, descriptor, name)
                if entered is None:
                    continue
                node, opened, is_news = entered
                keep = (is_news or again) and len(children) < room
                children += [(node, opened if keep else -1)] if is_news or again else []
                if not keep:
                    os.close(opened)
                if is_news:
                    found(node)
        except BaseException:
            for node, opened in children:
                self.owed.add(node)
                if opened >= 0:
                    os.close(opened)
            raise
        return children
