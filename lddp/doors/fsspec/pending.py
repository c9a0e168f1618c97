"""Files that are written and not sent yet, and how many of them are sent at the end of a transaction."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Protocol

from fsspec.asyn import sync
from fsspec.transaction import Transaction

from lddp.client.batches import DATA_BYTES_MAX, Batch, Result
from lddp.client.client import Client
from lddp.client.entries import path_bytes
from lddp.client.options import Progress
from lddp.errors import LddpError, OutcomeUnknownError

MEMORY_BYTES_MAX = 8 * 1024 * 1024
"""What is longer waits in a temporary file."""
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

    Nothing of it is seen before. At the end, what does not fit into a record is sent first, under names that begin with
    `.lddp-` in the directories where it belongs; then one batch puts all of it in place, in the order in which the
    files were opened, and what is appended to files (mode `a`) follows. Each file appears whole. The transaction as a
    whole is not atomic: a reader may see its first files before its last, and where one is refused (a directory has its
    name, or with mode `x` a file) the others are in place nevertheless, and the error says which are not. If something
    fails before the batch, nothing has been changed but for directories that were made. Where nobody knows whether the
    batch took effect (OutcomeUnknownError), what was sent under other names may be left there.
    """

    fs: Any
    files: Any

    def complete(self, commit: bool = True) -> None:
        """Sends what was written, or drops it."""
        filesystem, files = self.fs, [_pending_of(file) for file in self.files]
        self.files.clear()
        try:
            if commit and files:
                sync(filesystem.loop, commit_all, filesystem, files)
        finally:
            for pending in files:
                pending.close()
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
        left = {number for number, result in enumerate(results) if result.errno} & left
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
