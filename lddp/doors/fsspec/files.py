"""Files of `lddp://`, opened for reading or for writing, from other threads or from coroutines."""

from __future__ import annotations

from typing import IO, Any

from fsspec.asyn import AbstractAsyncStreamedFile, sync
from fsspec.spec import AbstractBufferedFile

from lddp.client.client import existing
from lddp.doors.fsspec.pending import Pending, send, spool

WRITING = ("wb", "xb", "ab")


class _Opened:
    """What both kinds have: a file that is read stays at the version it was opened at, and one that is written is sent
    as a whole when it is closed."""

    fs: Any
    path: str
    mode: str
    buffer: Any
    autocommit: bool
    version: int
    _spool: IO[bytes] | None = None

    def _keep(self) -> None:
        if self._spool is None:
            self._spool = spool()
        self._spool.write(self.buffer.getvalue())

    def deferred(self) -> Pending:
        """What was written, for a transaction that ends."""
        data, self._spool = self._spool, None
        return Pending(self.path, data or spool(), self.mode)


class LddpFile(_Opened, AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
    """A file object that blocks. What was opened for reading and has been replaced since is OSError(ESTALE)."""

    def __init__(self, fs: Any, path: str, mode: str = "rb", **kwargs: Any) -> None:
        if mode == "xb" and fs.exists(path):
            raise existing(path.encode("utf-8", "surrogateescape"))
        super().__init__(fs, path, mode, **kwargs)
        self.version = int(self.details["version"]) if mode == "rb" else 0

    def _fetch_range(self, start: int, end: int) -> bytes:
        found: bytes = sync(self.fs.loop, self.fs._read, self.path, start, end, self.version)
        return found

    def _initiate_upload(self) -> None:
        self._spool = spool()

    def _upload_chunk(self, final: bool = False) -> bool:
        self._keep()
        if final and self.autocommit:
            self.commit()
        elif final and self.fs._intrans:
            pending = self.deferred()
            try:
                self._spool = self.fs.transaction.keep(pending.data)
            finally:
                pending.close()
        return True

    def commit(self) -> None:
        pending = self.deferred()
        try:
            sync(self.fs.loop, send, self.fs, pending)
        finally:
            pending.close()

    def discard(self) -> None:
        self.deferred().close()


class LddpStreamedFile(_Opened, AbstractAsyncStreamedFile):  # type: ignore[misc]  # fsspec has no types
    """A file object for coroutines: `await fs.open_async(path)`."""

    def __init__(self, fs: Any, path: str, mode: str, details: dict[str, Any] | None, **kwargs: Any) -> None:
        self._details = details
        super().__init__(fs, path, mode, size=None if details is None else details["size"], **kwargs)
        self.version = 0 if details is None else int(details["version"])

    async def _fetch_range(self, start: int, end: int) -> bytes:
        found: bytes = await self.fs._read(self.path, start, end, self.version)
        return found

    async def _initiate_upload(self) -> None:
        self._spool = spool()

    async def _upload_chunk(self, final: bool = False) -> bool:
        self._keep()
        if final:
            pending = self.deferred()
            try:
                await send(self.fs, pending)
            finally:
                pending.close()
        return True
