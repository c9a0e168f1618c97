"""Files that are written and not sent yet, and how many of them are sent at the end of a transaction."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Protocol, cast

from fsspec.asyn import sync
from fsspec.transaction import Transaction

from lddp.client.batches import DATA_BYTES_MAX, Batch, Result
from lddp.client.client import Client
from lddp.client.entries import path_bytes
from lddp.client.options import Progress
from lddp.errors import LddpError, OutcomeUnknownError

MEMORY_BYTES_MAX = 8 * 1024 * 1024
"""What is longer waits in a temporary file."""
COPIED_BYTES = 1024 * 1024
SENT_AT_ONCE = 8
PREFIX = ".lddp-"
"""How names begin under which the large files of a transaction arrive."""


@dataclass(slots=True)
class Pending:
    """Bytes that are to be at a path. `how` is `wb` (replace), `xb` (the name must be free) or `ab` (append)."""

    path: str
    data: IO[bytes]
    how: str = "wb"
    mode: int | None = None

    @property
    def size(self) -> int:
        return self.data.seek(0, os.SEEK_END)

    def rewound(self) -> IO[bytes]:
        self.data.seek(0)
        return self.data

    def close(self) -> None:
        self.data.close()


def spool(data: bytes = b"") -> IO[bytes]:
    """An empty place for bytes; who makes it closes it."""
    made = tempfile.SpooledTemporaryFile(MEMORY_BYTES_MAX)  # noqa: SIM115  # closed by its `Pending`
    made.write(data)
    return made


class Together:
    """One place for the bytes of many files: however many these are, it takes one descriptor, and the memory of one."""

    def __init__(self) -> None:
        self._file = spool()
        self._lock = threading.Lock()

    def keep(self, data: IO[bytes]) -> IO[bytes]:
        """A copy of `data` as it is now, all of it. It can be read, also in several threads, until `close` is called
        here."""
        with self._lock:
            begin = self._file.seek(0, os.SEEK_END)
            data.seek(0)
            shutil.copyfileobj(data, self._file, COPIED_BYTES)
            return cast("IO[bytes]", _Part(self, begin, self._file.tell()))

    def read(self, start: int, size: int) -> bytes:
        with self._lock:
            self._file.seek(start)
            return self._file.read(size)

    def close(self) -> None:
        self._file.close()


class _Part(io.RawIOBase):
    """A part of what is kept together, as a file."""

    def __init__(self, whole: Together, begin: int, end: int) -> None:
        self._whole = whole
        self._begin = self._at = begin
        self._end = end

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: self._begin, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        self._at = max(self._begin, base + offset)
        return self._at - self._begin

    def readinto(self, buffer: Any) -> int:
        data = self._whole.read(self._at, max(0, min(len(buffer), self._end - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class Writes(Protocol):
    """The part of the filesystem that is used here."""

    loop: Any
    auto_mkdir: bool

    async def client(self) -> Client: ...


async def send(filesystem: Writes, pending: Pending, progress: Progress | None = None) -> None:
    """Makes it so, with the directories above it if the filesystem makes these."""
    client = await filesystem.client()
    try:
        await _send(client, pending, progress)
    except FileNotFoundError:
        if not filesystem.auto_mkdir:
            raise
        await make_above(client, pending.path)
        await _send(client, pending, progress)


async def _send(client: Client, pending: Pending, progress: Progress | None) -> None:
    if pending.how == "ab":
        await _append(client, pending)
        return
    exclusive = pending.how == "xb"
    await client.write(pending.path, pending.rewound(), mode=pending.mode, exclusive=exclusive, progress=progress)


async def _append(client: Client, pending: Pending) -> None:
    """Also to a file that is not there yet, and that somebody else may make at the same time."""
    try:
        await client.append(pending.path, pending.rewound())
    except FileNotFoundError:
        try:
            await client.write(pending.path, pending.rewound(), exclusive=True)
        except FileExistsError:
            await client.append(pending.path, pending.rewound())


async def make_above(client: Client, path: str) -> None:
    """The directories above a path."""
    above = os.path.dirname(path_bytes(path))
    if above != b"/":
        await client.makedirs(above, exist_ok=True)


class LddpTransaction(Transaction):  # type: ignore[misc]  # fsspec has no types
    """What is written in a transaction waits here, and is sent at its end.

    What is put or copied is what it was then: its bytes are copied, beyond 8 MiB in all to a temporary file. Nothing of
    it is seen before the end. At the end, what does not fit into a record is sent first, under names that begin with
    `.lddp-` in the directories where it belongs; then one batch puts all of it in place, in the order in which the
    files were opened, and what is appended to files (mode `a`) follows. Each file appears whole. The transaction as a
    whole is not atomic: a reader may see its first files before its last, and where one is refused (a directory has its
    name, or with mode `x` a file) the others are in place nevertheless, and the error says which are not. If something
    fails before the batch, nothing has been changed but for directories that were made. Where nobody knows whether the
    batch took effect (OutcomeUnknownError), what was sent under other names may be left there.
    """

    fs: Any
    files: Any

    def __init__(self, fs: Any, **kwargs: Any) -> None:
        super().__init__(fs, **kwargs)
        self._together = Together()

    def keep(self, data: IO[bytes]) -> IO[bytes]:
        """A copy of a file as it is now, until the end of the transaction."""
        return self._together.keep(data)

    def complete(self, commit: bool = True) -> None:
        """Sends what was written, or drops it."""
        filesystem, files = self.fs, list[Pending]()
        try:
            files.extend(map(_pending_of, self.files))
            if commit and files:
                sync(filesystem.loop, commit_all, filesystem, files)
        finally:
            self.files.clear()
            for pending in files:
                pending.close()
            self._together.close()
            filesystem._intrans = False
            filesystem._transaction = None
            self.fs = None


def _pending_of(file: Any) -> Pending:
    if isinstance(file, Pending):
        return file
    file.close()  # what is still in its buffer belongs to it
    pending: Pending = file.deferred()
    return pending


async def commit_all(filesystem: Writes, files: Sequence[Pending]) -> None:
    """Puts files in place with one batch. Raises the first refusal, with all of them in its message."""
    client = await filesystem.client()
    if filesystem.auto_mkdir:
        for above in sorted({os.path.dirname(path_bytes(pending.path)) for pending in files} - {b"/"}):
            await client.makedirs(above, exist_ok=True)
    whole = [pending for pending in files if pending.how != "ab"]
    arrived = {
        number: os.path.join(os.path.dirname(pending.path), PREFIX + secrets.token_hex(8))
        for number, pending in enumerate(whole)
        if pending.size > DATA_BYTES_MAX
    }
    left = set(arrived)
    try:
        slots = asyncio.Semaphore(SENT_AT_ONCE)
        sent = await asyncio.gather(
            *(_arrive(client, whole[number], name, slots) for number, name in arrived.items()), return_exceptions=True
        )
        for failure in filter(None, sent):
            raise failure  # when none is on its way any more: then all that came can be removed
        batch = Batch()
        for number, pending in enumerate(whole):
            _add(batch, pending, arrived.get(number))
        results = await client.submit(batch)
        # One whose time was over may come yet, and needs what is to be put in place.
        left = {number for number, result in enumerate(results) if result.errno not in (0, errno.ETIMEDOUT)} & left
    except OutcomeUnknownError:
        left.clear()  # the batch may come yet, and need them
        raise
    finally:
        await _clean(client, [arrived[number] for number in left])
    for pending in files:
        if pending.how == "ab":
            await send(filesystem, pending)
    refused = {pending.path: result for pending, result in zip(whole, results, strict=True) if result.errno}
    if refused:
        raise _refusal(refused, len(files))


async def _arrive(client: Client, pending: Pending, name: str, slots: asyncio.Semaphore) -> None:
    async with slots:
        await client.write(name, pending.rewound(), mode=pending.mode)


def _add(batch: Batch, pending: Pending, arrived: str | None) -> None:
    exclusive = pending.how == "xb"
    if arrived is not None:
        batch.rename(arrived, pending.path, replace=not exclusive)
    else:
        batch.put(pending.path, pending.rewound().read(), pending.mode or 0o644, 0 if exclusive else -1)


async def _clean(client: Client, names: Sequence[str]) -> None:
    for name in names:
        try:
            await client.remove(name)
        except (LddpError, OSError):
            continue  # it did not come, or nobody answers: the error that led here is what counts


def _refusal(refused: Mapping[str, Result], count: int) -> OSError:
    first = next(iter(refused.values())).error()
    assert first is not None
    names = ", ".join(f"{path} ({errno.errorcode[result.errno]})" for path, result in refused.items())
    return type(first)(first.errno, f"{len(refused)} of {count} files were refused, the others are in place: {names}")
