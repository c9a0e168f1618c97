"""A program that changes a tree in every way there is, hundreds of times a second, until it is told to end.

`python -m cluster.writer TREE OUTSIDE --seed N`: OUTSIDE is a directory on the same filesystem that things are moved
out to and come back from. Ends on SIGTERM and prints how many changes it made. A seed gives the same intentions, not
the same order of what happens: others are at work too.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import mmap
import os
import random
import signal
import stat
import sys
import time
from collections import Counter
from collections.abc import Callable

from cluster.known import Known
from cluster.trees import acl

RATE_DEFAULT = 400.0
_VIOLENT = ("remove_tree", "leave", "come_back")
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def _opener(path: str | bytes, flags: int) -> int:
    """Follows nothing out of the tree, and waits for no fifo. ValueError for what is not a regular file."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise ValueError("not a regular file")


class Writer(Known):
    """Changes what it knows; operations on what is gone fail, which is no matter."""

    def __init__(self, root: bytes, outside: bytes, seed: int, calm: bool = False) -> None:
        super().__init__(root, random.Random(seed))
        self.outside = outside
        self.counts: Counter[str] = Counter()
        self.mapped: list[tuple[mmap.mmap, int]] = []
        light: list[tuple[Callable[[], None], int]] = [
            (self.create, 14),
            (self.append, 12),
            (self.overwrite, 8),
            (self.overwrite_quietly, 8),
            (self.truncate, 5),
            (self.replace, 12),
            (self.rename_file, 10),
            (self.hard_link, 6),
            (self.symlink, 4),
            (self.unlink, 10),
            (self.mkdir, 6),
            (self.rmdir, 3),
            (self.chmod, 5),
            (self.chown, 4),
            (self.utime, 5),
            (self.xattr, 5),
            (self.rename_directory, 5),
            (self.swap, 4),
            (self.swap_by_three, 3),
            (self.leave, 3),
            (self.come_back, 4),
            (self.make_tree, 2),
            (self.remove_tree, 1),
            (self.map_and_write, 2),
            (self.fifo, 1),
            (self.write_while_gone, 2),
            (self.become_another_kind, 2),
            (self.grow, 1),
        ]
        if calm:
            light = [(operation, weight) for operation, weight in light if operation.__name__ not in _VIOLENT]
        self._operations = [operation for operation, weight in light for _ in range(weight)]

    # -- choosing ---------------------------------------------------------------------------------------------------

    def step(self) -> None:
        operation = self.chance.choice(self._operations)
        try:
            operation()
        except (OSError, ValueError, IndexError):
            self.counts["failed"] += 1
        else:
            self.counts[operation.__name__] += 1

    # -- files ------------------------------------------------------------------------------------------------------

    def create(self) -> None:
        path = self.place()
        with open(path, "wb", opener=_opener) as file:
            file.write(self.data())
        self.know(path)

    def append(self) -> None:
        with open(self.regular(), "ab", opener=_opener) as file:
            file.write(self.data())

    def overwrite(self) -> None:
        with open(self.regular(), "r+b", opener=_opener) as file:
            file.seek(self.chance.randrange(1 + os.fstat(file.fileno()).st_size))
            file.write(self.data())

    def overwrite_quietly(self) -> None:
        """Same size, and the old time put back."""
        with open(self.regular(), "r+b", opener=_opener) as file:
            status = os.fstat(file.fileno())
            if status.st_size == 0:
                raise ValueError("empty")
            file.seek(self.chance.randrange(status.st_size))
            file.write(self.chance.randbytes(1))
            file.flush()
            os.utime(file.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))

    def truncate(self) -> None:
        path = self.regular()
        size = os.lstat(path).st_size
        with open(path, "r+b", opener=_opener) as file:
            os.ftruncate(file.fileno(), self.chance.choice((0, 1, size // 2, size + 5000)))

    def replace(self) -> None:
        path = self.file()
        temporary = os.path.dirname(path) + b"/.new%d" % self.made
        self.made += 1
        with open(temporary, "wb", opener=_opener) as file:
            file.write(self.data())
        os.rename(temporary, path)

    def map_and_write(self) -> None:
        """Writes through a mapping, which stays for a while: such writes move no time and make no event."""
        if len(self.mapped) > 3:
            self._unmap(*self.mapped.pop(0))
            return
        descriptor = _opener(self.regular(), os.O_RDWR)
        try:
            mapped = mmap.mmap(descriptor, 0)
        except (OSError, ValueError):
            os.close(descriptor)
            raise
        mapped[:1] = self.chance.randbytes(1)
        self.mapped.append((mapped, descriptor))

    def _unmap(self, mapped: mmap.mmap, descriptor: int) -> None:
        # Beyond the end of a file that was cut meanwhile a write would be the end of this process.
        if os.fstat(descriptor).st_size >= len(mapped):
            mapped[-1:] = self.chance.randbytes(1)
        mapped.close()
        os.close(descriptor)

    def write_while_gone(self) -> None:
        """Through a descriptor whose name has been moved, or has gone."""
        path = self.regular()
        with open(path, "ab", opener=_opener) as file:
            to = self.place()
            os.rename(path, to)
            self.know(to)
            file.write(self.data())

    def grow(self) -> None:
        """One that is too large to travel with its directory."""
        path = self.place()
        with open(path, "wb", opener=_opener) as file:
            for _ in range(self.chance.randrange(3, 12)):
                file.write(self.chance.randbytes(100_000))
        self.know(path)

    def fifo(self) -> None:
        path = self.place()
        os.mkfifo(path)
        self.know(path)

    # -- names ------------------------------------------------------------------------------------------------------

    def rename_file(self) -> None:
        path, to = self.file(), self.place()
        os.rename(path, to)
        self.know(to)

    def hard_link(self) -> None:
        path, to = self.file(), self.place()
        os.link(path, to, follow_symlinks=False)
        self.know(to)

    def symlink(self) -> None:
        path = self.place()
        os.symlink(self.chance.choice((b".", b"/nowhere/at all", self.name(), b"\xff" * 100)), path)
        self.know(path)

    def unlink(self) -> None:
        os.unlink(self.file())

    def become_another_kind(self) -> None:
        """The name of a file is a directory's at once, or the other way round."""
        path = self.file()
        os.unlink(path)
        os.mkdir(path)
        self.directories.append(path)
        if self.chance.random() < 0.5:
            with open(path + b"/inside", "wb", opener=_opener) as file:
                file.write(b"inside")
            self.know(path + b"/inside")

    # -- directories ------------------------------------------------------------------------------------------------

    def mkdir(self) -> None:
        path = self.place()
        os.mkdir(path)
        self.directories.append(path)

    def rmdir(self) -> None:
        os.rmdir(self.movable())

    def make_tree(self) -> None:
        top = self.place()
        at = top
        for _ in range(self.chance.randrange(1, 5)):
            os.mkdir(at)
            self.directories.append(at)
            for _ in range(self.chance.randrange(6)):
                path = at + b"/" + self.name()
                with open(path, "wb", opener=_opener) as file:
                    file.write(self.data())
                self.know(path)
            at = at + b"/" + self.name()

    def remove_tree(self) -> None:
        top = self.movable()
        found = list(os.walk(top, topdown=False))
        if sum(len(files) for _, _, files in found) > 150:
            raise ValueError("too much would go")
        for at, directories, files in found:
            for name in files:
                os.unlink(os.path.join(at, name))
            for name in directories:
                path = os.path.join(at, name)
                os.unlink(path) if os.path.islink(path) else os.rmdir(path)
        os.rmdir(top)

    def _move(self, path: bytes, to: bytes) -> None:
        os.rename(path, to)
        self._follow(path, to)

    def _follow(self, path: bytes, to: bytes) -> None:
        below = path + b"/"
        for known in (self.files, self.directories):
            for place, one in enumerate(known):
                if one == path or one.startswith(below):
                    known[place] = to + one[len(path) :]

    def rename_directory(self) -> None:
        self._move(self.movable(), self.place())

    def _exchange(self, path: bytes, other: bytes) -> None:
        if _libc.renameat2(_AT_FDCWD, path, _AT_FDCWD, other, _RENAME_EXCHANGE):
            raise OSError(ctypes.get_errno(), "renameat2")

    def swap(self) -> None:
        pick = self.chance.choice(((self.movable, self.movable), (self.file, self.file), (self.file, self.movable)))
        self._exchange(pick[0](), pick[1]())

    def swap_by_three(self) -> None:
        """As programs do that know no exchange."""
        pick = self.movable if self.chance.random() < 0.5 else self.file
        one, other, aside = pick(), pick(), self.place()
        os.rename(one, aside)
        try:
            os.rename(other, one)
        except OSError:
            os.rename(aside, one)
            raise
        os.rename(aside, other)

    def leave(self) -> None:
        path = self.file() if self.chance.random() < 0.6 else self.movable()
        if os.path.isdir(path) and sum(len(files) for _, _, files in os.walk(path)) > 300:
            raise ValueError("too much would go")
        os.rename(path, self.outside + b"/%d" % self.made)
        self.made += 1

    def come_back(self) -> None:
        name = self.chance.choice(os.listdir(self.outside))
        to = self.place()
        os.rename(self.outside + b"/" + name, to)
        if os.path.isdir(to) and not os.path.islink(to):
            self.directories.append(to)
            self._look(to)
        else:
            self.know(to)

    # -- attributes -------------------------------------------------------------------------------------------------

    def anything(self) -> bytes:
        return self.file() if self.chance.random() < 0.7 else self.directory()

    def chmod(self) -> None:
        path = self.anything()
        if os.path.islink(path):
            raise ValueError("links have no mode")
        os.chmod(path, self.chance.choice((0o600, 0o644, 0o755, 0o700, 0o2755, 0o4711, 0o1777, 0o000)))

    def chown(self) -> None:
        os.lchown(self.anything(), self.chance.randrange(2000), self.chance.randrange(2000))

    def utime(self) -> None:
        ns = self.chance.randrange(1 << 60)
        os.utime(self.anything(), ns=(ns, ns), follow_symlinks=False)

    def xattr(self) -> None:
        path = self.anything()
        name = b"user.n%d" % self.chance.randrange(3)
        choice = self.chance.random()
        if choice < 0.3:
            os.removexattr(path, name, follow_symlinks=False)
        elif choice < 0.4:
            os.setxattr(path, b"system.posix_acl_access", acl(self.chance.randrange(5000)), follow_symlinks=False)
        else:
            os.setxattr(path, name, self.chance.randbytes(self.chance.randrange(200)), follow_symlinks=False)

    def close(self) -> None:
        while self.mapped:
            self._unmap(*self.mapped.pop())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", type=os.fsencode)
    parser.add_argument("outside", type=os.fsencode)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=RATE_DEFAULT, help="changes a second")
    parser.add_argument("--calm", action="store_true", help="nothing that removes whole trees or moves them out")
    options = parser.parse_args()
    ended = False
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)  # never without the one who started it

    def end(*_: object) -> None:
        nonlocal ended
        ended = True

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    writer = Writer(options.tree, options.outside, options.seed, options.calm)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    began, steps = time.monotonic(), 0
    while not ended:
        writer.step()
        steps += 1
        ahead = began + steps / options.rate - time.monotonic()
        if ahead > 0.05:  # in bursts, as programs do
            time.sleep(ahead)
        elif ahead < -1.0:
            began = time.monotonic() - steps / options.rate
    writer.close()
    made = sum(count for what, count in writer.counts.items() if what != "failed")
    elapsed = time.monotonic() - began
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(f"{made} changes in {elapsed:.1f} s: {dict(writer.counts)}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
