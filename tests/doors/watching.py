"""A consumer for the watchers' tests: a mirror of a tree kept by nothing but looking again at what events name."""

from __future__ import annotations

import asyncio
import errno
import os
import stat

from lddp.doors.watch import Event, Flag, Overflow, Watcher
from lddp.doors.watch.kernel import AT_FDCWD, handle_at

DEADLINE_S = 60.0

Seen = tuple[bytes, int, bytes]
"""Handle, mode with kind, content or symlink target."""

_GONE = (FileNotFoundError, NotADirectoryError)


def handle_of(path: bytes) -> bytes:
    return handle_at(AT_FDCWD, path)[0]


def look(path: bytes, directory: int | None = None) -> Seen | None:
    """What is at `path` relative to an open directory; None if nothing is."""
    try:
        handle = handle_at(AT_FDCWD if directory is None else directory, path)[0]
        status = os.lstat(path) if directory is None else os.stat(path, dir_fd=directory, follow_symlinks=False)
        content = b""
        if stat.S_ISLNK(status.st_mode):
            content = os.readlink(path, dir_fd=directory)
        elif stat.S_ISREG(status.st_mode):
            content = read(path, directory)
    except OSError as error:
        # EINVAL, ELOOP: it became something else meanwhile, and that has an event of its own.
        if isinstance(error, _GONE) or error.errno in (errno.EINVAL, errno.ELOOP, errno.EISDIR):
            return None
        raise
    return handle, status.st_mode, content


def read(path: bytes, directory: int | None) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    try:
        return os.read(descriptor, 1 << 20)
    finally:
        os.close(descriptor)


def tree_of(root: bytes) -> dict[bytes, Seen]:
    found = {}
    for directory, directories, files in os.walk(root):
        for name in directories + files:
            path = os.path.join(directory, name)
            seen = look(path)
            assert seen is not None
            found[os.path.relpath(path, root)] = seen
    return found


class Mirror:
    """Inode-keyed, as the namespace is: directories by handle, each with its names."""

    def __init__(self, root: bytes) -> None:
        self.root = root
        self.top = handle_of(root)
        self.entries: dict[bytes, dict[bytes, bytes]] = {self.top: {}}
        self.objects: dict[bytes, tuple[int, bytes]] = {}
        self.names: dict[bytes, set[tuple[bytes, bytes]]] = {}
        self.owed: set[tuple[bytes, bytes | None]] = set()
        self.overflows = 0

    def accept(self, handle: bytes) -> bool:
        return handle in self.entries or handle in self.objects

    def path(self, handle: bytes) -> bytes | None:
        parts: list[bytes] = []
        while handle != self.top:
            places = self.names.get(handle)
            if not places or len(parts) > 1000:
                return None
            handle, name = next(iter(places))
            parts.append(name)
        return b"/".join([self.root, *reversed(parts)])

    def take(self, batch: list[Event | Overflow]) -> None:
        for event in batch:
            if isinstance(event, Overflow):
                self.overflows += 1
                self.list(self.top, again=True)
                continue
            for directory, name in ((event.directory, event.name), (event.new_directory, event.new_name)):
                if name:
                    self.look_at(directory, name)
            if event.flags & Flag.LIST:
                self.list(event.directory)
            for directory, name in list(self.names.get(event.target, ())):
                self.look_at(directory, name)
            is_content = event.flags & (Flag.MODIFIED | Flag.CLOSED_WRITE | Flag.ATTRIBUTES)
            if not event.target and is_content and event.name not in self.entries.get(event.directory, {}):
                self.look_at_all_names()
        self.pay()

    def pay(self) -> None:
        """A directory whose place was out of date has been found by now, or is found by another look that is owed, or
        the event that says so is to come."""
        is_paid = True
        while self.owed and is_paid:
            owed, self.owed = self.owed, set()
            for directory, name in owed:
                if name is None:
                    self.list(directory)
                else:
                    self.look_at(directory, name)
            is_paid = not owed <= self.owed

    def look_at_all_names(self) -> None:
        """inotify does not say which object an absent name stood for."""
        for places in [set(places) for places in self.names.values()]:
            for directory, name in places:
                self.look_at(directory, name)

    def forget(self, directory: bytes, name: bytes) -> None:
        handle = self.entries[directory].pop(name, None)
        if handle is None:
            return
        self.names[handle].discard((directory, name))
        if not self.names[handle]:
            del self.names[handle]
            for below in list(self.entries.get(handle, ())):
                self.forget(handle, below)
            self.entries.pop(handle, None)
            self.objects.pop(handle, None)

    def open(self, directory: bytes) -> int | None:
        path = self.path(directory)
        if path is None:
            return None
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            if isinstance(error, _GONE) or error.errno == errno.ELOOP:
                return None
            raise
        if handle_at(descriptor)[0] == directory:
            return descriptor
        os.close(descriptor)
        return None

    def look_at(self, directory: bytes, name: bytes, again: bool = False) -> None:
        if directory not in self.entries:
            return
        descriptor = self.open(directory)
        if descriptor is None:
            self.owed.add((directory, name))
            return
        try:
            seen = look(name, descriptor)
            if seen is not None and seen[0] not in self.objects:
                # `accept` must know it before the look that counts.
                self.objects[seen[0]] = seen[1], b""
                seen = look(name, descriptor)
        finally:
            os.close(descriptor)
        if seen is None:
            self.forget(directory, name)
        else:
            self.enter(directory, name, seen, again)

    def enter(self, directory: bytes, name: bytes, seen: Seen, again: bool) -> None:
        handle, mode, content = seen
        is_directory = stat.S_ISDIR(mode)
        if self.entries[directory].get(name) != handle:
            # The name is taken before the old place is left, so that what is below a moved directory stays known.
            self.forget(directory, name)
            if is_directory:
                for old_directory, old_name in self.names.pop(handle, set()):
                    del self.entries[old_directory][old_name]
            self.entries[directory][name] = handle
            self.names.setdefault(handle, set()).add((directory, name))
        self.objects[handle] = mode, content
        if is_directory and (again or handle not in self.entries):
            self.entries.setdefault(handle, {})
            self.list(handle, again)

    def list(self, directory: bytes, again: bool = False) -> None:
        if directory not in self.entries:
            return
        descriptor = self.open(directory)
        if descriptor is None:
            self.owed.add((directory, None))
            return
        try:
            names = {os.fsencode(name) for name in os.listdir(descriptor)}
        finally:
            os.close(descriptor)
        for name in names | set(self.entries[directory]):
            self.look_at(directory, name, again)

    def tree(self) -> dict[bytes, Seen]:
        found: dict[bytes, Seen] = {}
        stack = [(self.top, b"")]
        while stack:
            directory, prefix = stack.pop()
            for name, handle in self.entries[directory].items():
                mode, content = self.objects[handle]
                found[prefix + name] = handle, mode, content
                if stat.S_ISDIR(mode):
                    stack.append((handle, prefix + name + b"/"))
        return found


async def until(watcher: Watcher, mark: int, mirror: Mirror | None = None) -> list[Event | Overflow]:
    """Everything that happened before `mark`."""
    found: list[Event | Overflow] = []
    async with asyncio.timeout(DEADLINE_S):
        while not watcher.passed(mark):
            batch = await watcher.batch()
            found += batch
            if mirror is not None:
                mirror.take(batch)
    return found
