"""Blobs that may not be on the disk as they were written: they are hashed before they are trusted again.

Pages that were not synced are lost when the machine stops, and when a filesystem could not write them. Then the kernel
still shows them, until it needs their memory, so what is hashed is what the disk gives.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading

from lddp.content.alone import Alone
from lddp.content.disk import remove
from lddp.content.reading import SequentialRead

logger = logging.getLogger(__name__)

BOOT_ID_PATH = "/proc/sys/kernel/random/boot_id"


class Suspects:
    """`directory` holds them under the names that they had in `blobs`. May be used from any thread."""

    def __init__(self, directory: str, blobs: str, alone: Alone) -> None:
        self._directory = directory
        self._blobs = blobs
        self._alone = alone
        self._names = set(os.listdir(directory))
        self._hashed = threading.Condition()
        self._hashing: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def settle(self, name: str) -> None:
        """Returns when there is no such suspect any more: what was whole is a blob again. Reads all of it, or waits for
        the thread that does."""
        with self._hashed:
            while name in self._hashing:
                self._hashed.wait()
            if name not in self._names:
                return
            self._hashing.add(name)
        try:
            is_whole = self._is_whole(name)
            with self._alone.with_blob(name):
                if name in self._names:
                    self._end(name, is_whole)
        finally:
            with self._hashed:
                self._hashing.discard(name)
                self._hashed.notify_all()

    def _is_whole(self, name: str) -> bool:
        """Whether the disk has all of it. Read in portions: where the disk cannot read a part, that is an error, and
        not the end of the process, as it is of a mapped file."""
        try:
            descriptor = os.open(os.path.join(self._directory, name), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            # Pages that could not be written look like any other in the cache. They count as written, so they go.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            read = SequentialRead(descriptor, 0, os.fstat(descriptor).st_size, hashing=True)
            while read.next() is not None:
                pass
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            logger.warning("blob %s cannot be read: %s", name, error.strerror)
            return False
        finally:
            os.close(descriptor)
        return read.digest().hex() == name

    def _end(self, name: str, is_whole: bool) -> None:
        suspect = os.path.join(self._directory, name)
        if is_whole:
            os.rename(suspect, os.path.join(self._blobs, name))
        else:
            logger.warning("blob %s is not on the disk as it was; it is fetched again", name)
            remove(suspect)
        self._names.discard(name)

    def doubt(self, name: str) -> None:
        """A blob becomes a suspect. What is said of an earlier one of this name does not hold for it."""
        with self._hashed:
            while name in self._hashing:
                self._hashed.wait()
        with self._alone.with_blob(name), contextlib.suppress(FileNotFoundError):
            os.rename(os.path.join(self._blobs, name), os.path.join(self._directory, name))
            self._names.add(name)

    def set_aside(self, name: str, to: str) -> bool:
        """Gives it another path, where nobody needs it; whether there is such a suspect. For who is alone with it."""
        if name not in self._names:
            return False
        self._names.discard(name)
        os.rename(os.path.join(self._directory, name), to)
        return True


def suspect_at_start(directory: str, unchecked: str, *, has_lost: bool) -> None:
    """At the start of the store in this directory. No blob of another boot is trusted, nor any where its filesystem
    `has_lost` writes in this one; what has nothing to check it against (`unchecked` ends its name) is removed. The note
    of this boot comes last: whenever this stops half-way, it is done again."""
    with open(BOOT_ID_PATH, "rb") as file:
        now = file.read()
    try:
        with open(os.path.join(directory, "boot"), "rb") as file:
            if file.read() == now and not has_lost:
                return
    except FileNotFoundError:
        pass  # the first start
    for name in os.listdir(os.path.join(directory, "blobs")):
        blob = os.path.join(directory, "blobs", name)
        if name.endswith(unchecked):
            remove(blob)
        else:
            os.rename(blob, os.path.join(directory, "suspects", name))
    temporary = os.path.join(directory, "incoming", os.urandom(16).hex())
    try:
        with open(temporary, "wb") as file:
            file.write(now)
        os.rename(temporary, os.path.join(directory, "boot"))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        # A full disk is no reason not to start. Without the note this is done again at the next one.
        remove(temporary)
        logger.warning("%s: %s; what is stored here is checked again at the next start", temporary, error.strerror)
