"""Packs: many small files in one piece, in memory while they fit and on disk when they do not."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable

from lddp.content.disk import GroupSync, remove, write_at
from lddp.errors import FormatError, LimitError

PACK_ID_BYTES = 16
PACK_BYTES_TARGET = 4 * 1024 * 1024
PACK_BYTES_MAX = 8 * 1024 * 1024
RECENT_PACKS_MAX = 4
"""Spilled packs kept in memory after a read: who reads one slice is about to read its neighbours."""


def is_hex_name(name: str, size: int) -> bool:
    """True for the name of a file that stands for `size` bytes of id or digest."""
    return len(name) == 2 * size and all(character in "0123456789abcdef" for character in name)


class PackBuilder:
    """Gathers small contents until a pack is full."""

    def __init__(self, token: Callable[[int], bytes] = os.urandom) -> None:
        self._token = token
        self._pieces: list[bytes] = []
        self.pack_id = token(PACK_ID_BYTES)
        self.size = 0

    @property
    def full(self) -> bool:
        return self.size >= PACK_BYTES_TARGET

    def fits(self, size: int) -> bool:
        return not self.size or self.size + size <= PACK_BYTES_TARGET

    def add(self, data: bytes) -> int:
        """The offset of `data` in the pack named `pack_id`. LimitError where the pack would grow beyond its limit."""
        if self.size + len(data) > PACK_BYTES_MAX:
            raise LimitError(f"{len(data)} bytes more than a pack of {PACK_BYTES_MAX} holds; send it as a file")
        offset = self.size
        self._pieces.append(data)
        self.size += len(data)
        return offset

    def take(self) -> tuple[bytes, bytes]:
        """(pack id, bytes) of what was gathered; the builder begins another pack."""
        pack = self.pack_id, b"".join(self._pieces)
        self._pieces = []
        self.size = 0
        self.pack_id = self._token(PACK_ID_BYTES)
        return pack


class PackShelf:
    """The packs of one store. Blocking; callable from any thread."""

    def __init__(self, directory: str, temporary: Callable[[], str], syncs: GroupSync, bytes_max: int) -> None:
        self._directory = directory
        self._temporary = temporary
        self._syncs = syncs
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._memory: dict[bytes, bytes] = {}
        self._recent: OrderedDict[bytes, bytes] = OrderedDict()
        self._spilled: dict[bytes, int] = {}
        for name in os.listdir(directory):
            if is_hex_name(name, PACK_ID_BYTES):
                self._spilled[bytes.fromhex(name)] = os.stat(self._path_of(name)).st_size
            else:
                remove(self._path_of(name))
        self.memory_bytes = 0

    def _path_of(self, name: str) -> str:
        return os.path.join(self._directory, name)

    def add_to_memory(self, pack_id: bytes, data: bytes) -> bool:
        """Keeps a pack in memory; False when it does not fit. Does not block."""
        check_pack(pack_id, data)
        with self._lock:
            if pack_id in self._memory or pack_id in self._spilled:
                return True
            if self.memory_bytes + len(data) > self._bytes_max:
                return False
            self._memory[pack_id] = data
            self.memory_bytes += len(data)
            return True

    def spill(self, pack_id: bytes, data: bytes, durable: bool, directory: int) -> None:
        """Keeps a pack on disk, synced if `durable`. `directory` is the packs' open directory."""
        check_pack(pack_id, data)
        temporary = self._temporary()
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            write_at(descriptor, 0, [data])
            if durable:
                self._syncs.sync(descriptor, None)  # before anybody believes it
            os.rename(temporary, self._path_of(pack_id.hex()))
            if durable:
                self._syncs.sync(None, directory)
        except BaseException:
            remove(temporary)
            raise
        finally:
            os.close(descriptor)
        with self._lock:
            self._spilled[pack_id] = len(data)
            self.memory_bytes -= len(self._memory.pop(pack_id, b""))

    def read(self, pack_id: bytes) -> bytes | None:
        """The whole pack, or None where it is not here."""
        with self._lock:
            data = self._memory.get(pack_id)
            if data is None:
                data = self._recent.get(pack_id)
            if data is not None or pack_id not in self._spilled:
                return data
        try:
            with open(self._path_of(pack_id.hex()), "rb") as file:
                data = file.read(PACK_BYTES_MAX)
        except FileNotFoundError:
            with self._lock:
                self._spilled.pop(pack_id, None)
            return None
        with self._lock:
            if pack_id in self._spilled:  # not released while it was read
                self._recent[pack_id] = data
                while len(self._recent) > RECENT_PACKS_MAX:
                    self._recent.popitem(last=False)
        return data

    def release(self, pack_id: bytes) -> None:
        with self._lock:
            self.memory_bytes -= len(self._memory.pop(pack_id, b""))
            self._recent.pop(pack_id, None)
            spilled = self._spilled.pop(pack_id, None) is not None
        if spilled:
            remove(self._path_of(pack_id.hex()))

    def ids(self) -> list[bytes]:
        with self._lock:
            return [*self._memory, *self._spilled]

    def spilled_bytes(self) -> int:
        with self._lock:
            return sum(self._spilled.values())


def check_pack(pack_id: bytes, data: bytes) -> None:
    """Raises FormatError or LimitError where a pack cannot be one."""
    if len(pack_id) != PACK_ID_BYTES:
        raise FormatError(f"a pack id has {PACK_ID_BYTES} bytes, not {len(pack_id)}")
    if len(data) > PACK_BYTES_MAX:
        raise LimitError(f"a pack of {len(data)} bytes is beyond the limit of {PACK_BYTES_MAX}; send a smaller one")
