"""Which effects have been carried out since the last checkpoint, kept where a killed process leaves it.

A memory-mapped file: a mark made before a kill is in the page cache and there for the next start. After a power cut it
may be wrong in either direction, so it names the boot it was made in and counts only within that boot.

A mark is one aligned word of eight bytes, and so is the header's word that says which of two banks counts: a process
can be killed between any two instructions, and what it leaves is all of a mark, or nothing, and one whole bank.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct

_HEADER = struct.Struct("=8s36s?3xQ")
_WORD = struct.Struct("@Q")  # native, which stores it with one instruction
_MAGIC = b"lddpprg2"
_LOST_AT = 44
_ACTIVE_AT = 56
_BANKS_AT = 64
_ORDINAL_BITS = 20
ORDINALS_MAX = 1 << _ORDINAL_BITS
_DONE, _BEGUN, _WITHHELD = 1, 2, 3
MARKS_MAX = 65_536
"""Marks between two checkpoints; the file grows by what is done beyond a checkpoint already."""

Order = tuple[int, int]


def boot_id() -> bytes:
    """The kernel's name for this boot (36 bytes), or zeros where there is none."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read().strip().ljust(36)[:36]
    except OSError:
        return bytes(36)


class Progress:
    """Marks of effects done. `survived` says whether the marks found at opening are from this boot."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.boot = boot_id()
        self.done: set[Order] = set()
        """Marks found at opening, those of `reset` since."""
        self.withheld: set[Order] = set()
        """Marks, those of this process included, of effects after which their file was withheld."""
        self.begun: set[Order] = set()
        """What an earlier process began, and was killed before it could say whether it was done."""
        self.has_lost = False
        """Whether a filesystem has said, in this boot, that it could not write what it had taken, and nobody has dealt
        with that yet."""
        self._capacity = 0
        self._active = 0
        self._position = 0
        self.survived = self._open()
        if not self.survived:
            self._make(MARKS_MAX, set())

    def _open(self) -> bool:
        """Reads what an earlier process left; False where it is nothing of this boot."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            size = os.fstat(descriptor).st_size
            if size <= _BANKS_AT:
                return False
            found = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        magic, boot, self.has_lost, capacity = _HEADER.unpack_from(found)
        active = _WORD.unpack_from(found, _ACTIVE_AT)[0]
        whole = size == _BANKS_AT + 2 * capacity * _WORD.size and active in (0, 1)
        if magic != _MAGIC or boot != self.boot or not whole:
            found.close()
            self.has_lost = False
            return False
        self._map, self._capacity, self._active = found, capacity, active
        self._load()
        return True

    def _bank(self, number: int) -> int:
        return _BANKS_AT + number * self._capacity * _WORD.size

    def _load(self) -> None:
        self._position = self._bank(self._active)
        while self._position < self._bank(self._active + 1):
            (word,) = _WORD.unpack_from(self._map, self._position)
            if not word:
                break
            order, what = (word >> (_ORDINAL_BITS + 2), (word >> 2) % ORDINALS_MAX), word & 3
            if what == _BEGUN:
                self.begun.add(order)
            else:
                self.done.add(order)
            if what == _WITHHELD:
                self.withheld.add(order)
            self._position += _WORD.size
        self.begun -= self.done

    def _make(self, capacity: int, keep: set[Order]) -> None:
        """A new file takes the place of the old one at once; its blocks are there, so that no mark can meet a full
        disk."""
        temporary = self._path + ".new"
        size = _BANKS_AT + 2 * capacity * _WORD.size
        try:
            made = _allocated(temporary, size)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._may_be_emptied(size):
                raise
            made, temporary = _emptied(self._path, size), self._path
        _HEADER.pack_into(made, 0, _MAGIC, self.boot, self.has_lost, capacity)
        if self._capacity:
            self._map.close()
        self._map, self._capacity, self._active = made, capacity, 0
        self._position = self._bank(0)
        self._remake(keep)
        os.rename(temporary, self._path)

    def _may_be_emptied(self, size: int) -> bool:
        """Whether the file that is there has nothing to lose, and the right size."""
        return not self._capacity and os.path.exists(self._path) and os.stat(self._path).st_size == size

    @property
    def room(self) -> int:
        return (self._bank(self._active + 1) - self._position) // _WORD.size

    def begin(self, order: Order) -> None:
        """Effect `order` is about to be carried out: to be said of one that cannot be repeated without a word."""
        _WORD.pack_into(self._map, self._position, (order[0] << _ORDINAL_BITS | order[1]) << 2 | _BEGUN)

    def mark(self, order: Order, withheld: bool = False) -> None:
        """Effect `order` has been carried out; with `withheld`, its file is not in the zone for now."""
        what = _DONE
        if withheld:
            self.withheld.add(order)
            what = _WITHHELD
        _WORD.pack_into(self._map, self._position, (order[0] << _ORDINAL_BITS | order[1]) << 2 | what)
        self._position += _WORD.size
        if self.begun:
            self.begun.discard(order)

    def reset(self, keep: set[Order]) -> None:
        """Everything but `keep` is durable and out of the outbox; these are effects beyond it that are done too."""
        self.done = set(keep)
        self.withheld &= self.done
        kept = len(keep) + len(self.begun)
        if kept + MARKS_MAX // 2 > self._capacity:
            self._make(kept + MARKS_MAX, keep)
            return
        other = 1 - self._active
        self._position = self._bank(other)
        self._map[self._position : self._bank(other + 1)] = bytes(self._capacity * _WORD.size)
        self._remake(keep)
        _WORD.pack_into(self._map, _ACTIVE_AT, other)
        self._active = other

    def lost(self, is_so: bool) -> None:
        """Notes that a filesystem has lost writes, for whoever opens the marks next; or that this is dealt with. May be
        called by any thread."""
        self.has_lost = is_so
        try:
            self._map[_LOST_AT] = is_so
        except ValueError:  # closed: by a sync that lasts longer than the end of its process
            with open(self._path, "r+b") as file:
                os.pwrite(file.fileno(), bytes([is_so]), _LOST_AT)

    def forget(self) -> None:
        """No mark that was found counts: as after another boot."""
        self.survived = False
        self.begun = set()
        self.reset(set())

    def _remake(self, keep: set[Order]) -> None:
        for order in sorted(self.begun):
            self.begin(order)
            self._position += _WORD.size
        for order in sorted(keep):
            self.mark(order, order in self.withheld)

    def close(self) -> None:
        self._map.close()


def _allocated(path: str, size: int) -> mmap.mmap:
    """A new file of zeros that has all its blocks. Where there is no room for it there is no file."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
        return mmap.mmap(descriptor, size)
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)


def _emptied(path: str, size: int) -> mmap.mmap:
    """The file of another boot, without its marks. Nothing is believed of it until it has a header again."""
    with open(path, "r+b") as file:
        found = mmap.mmap(file.fileno(), size)
    found[: _HEADER.size] = bytes(_HEADER.size)
    found[:] = bytes(size)
    return found
