"""Blobs of an earlier boot of the machine: pages that were written but not synced are lost when it stops, so they are
hashed before they are trusted again."""

from __future__ import annotations

import errno
import logging
import os
import threading

from blake3 import blake3

from lddp.content.disk import remove

logger = logging.getLogger(__name__)

BOOT_ID_PATH = "/proc/sys/kernel/random/boot_id"


class Suspects:
    """`directory` holds them under the names that they had in `blobs`. `lock` is the store's. May be used from any
    thread."""

    def __init__(self, directory: str, blobs: str, lock: threading.Lock) -> None:
        self._directory = directory
        self._blobs = blobs
        self._lock = lock
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
            with self._lock:
                if name in self._names:
                    self._end(name, is_whole)
        finally:
            with self._hashed:
                self._hashing.discard(name)
                self._hashed.notify_all()

    def _is_whole(self, name: str) -> bool:
        digest = blake3()
        try:
            digest.update_mmap(os.path.join(self._directory, name))
        except FileNotFoundError:
            return False
        return digest.hexdigest() == name

    def _end(self, name: str, is_whole: bool) -> None:
        suspect = os.path.join(self._directory, name)
        if is_whole:
            os.rename(suspect, os.path.join(self._blobs, name))
        else:
            logger.warning("blob %s did not survive the machine's stop; it is fetched again", name)
            remove(suspect)
        self._names.discard(name)

    def set_aside(self, name: str, to: str) -> bool:
        """Gives it another path, where nobody needs it; whether there is such a suspect. The store's lock is held."""
        if name not in self._names:
            return False
        self._names.discard(name)
        os.rename(os.path.join(self._directory, name), to)
        return True


def suspect_after_boot(directory: str, unchecked: str) -> None:
    """At the start of the store in this directory. No blob of another boot is trusted, and what has nothing to check it
    against (`unchecked` ends its name) is removed. The note of this boot comes last: whenever this stops half-way, it
    is done again."""
    with open(BOOT_ID_PATH, "rb") as file:
        now = file.read()
    try:
        with open(os.path.join(directory, "boot"), "rb") as file:
            if file.read() == now:
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
