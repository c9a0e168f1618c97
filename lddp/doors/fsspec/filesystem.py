"""`lddp://` for fsspec, over the client library."""

from __future__ import annotations

import asyncio
import errno
import os
import time
import weakref
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from fsspec.asyn import AsyncFileSystem, sync
from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.utils import stringify_path

from lddp.client.batches import Batch
from lddp.client.client import Client, existing
from lddp.client.entries import Entry, path_text
from lddp.client.options import Options, Progress
from lddp.client.problems import file_error
from lddp.client.settings import Settings
from lddp.doors.fsspec.files import WRITING, LddpFile, LddpStreamedFile
from lddp.doors.fsspec.pending import LddpTransaction, Pending, make_above, send, spool

CLOSE_S = 1.0
COPIES_MAX = 5
_TYPES = {"file": "file", "directory": "directory", "symlink": "link"}


class LddpFileSystem(AsyncFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Files of an ecosystem. Paths are `lddp:///data/file`, or without the protocol.

    Where the ecosystem is, `endpoints` and `token` or `token_file` and, for https, `ca_file` say, or `cluster`, a
    directory of `lddp cluster up`, or the environment (`lddp.client.settings.Settings.find`). `timeout_s` bounds each
    call. With `auto_mkdir`, the default, writing or moving a file makes the directories above it.

    A file appears as a whole when it is closed. One that was opened for reading is read at one version: if it is
    replaced before all of it was read, the next read is OSError(ESTALE). Symlinks are shown (`link`), not followed.
    `mv` is a rename, of a directory too. `with fs.transaction:` holds back what `open`, `pipe`, `put` and `cp` write;
    all other calls take effect at once. See `lddp.doors.fsspec.pending.LddpTransaction` for what it promises.
    """

    protocol = "lddp"
    root_marker = "/"
    transaction_type = LddpTransaction

    def __init__(
        self,
        endpoints: Sequence[str] | str = (),
        token: str | None = None,
        token_file: str | None = None,
        ca_file: str | None = None,
        cluster: str | None = None,
        timeout_s: float = 30.0,
        auto_mkdir: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        known = (endpoints,) if isinstance(endpoints, str) else tuple(endpoints)
        self._settings = Settings.find(known, token, token_file, ca_file, cluster)
        self._client_options = Options(timeout_s)
        self._client: Client | None = None
        self.auto_mkdir = auto_mkdir

    # -- the client -------------------------------------------------------------------------------------------------

    async def client(self) -> Client:
        """The client, which belongs to the loop that calls this first."""
        if self._client is None:
            self._client = Client(self._settings, self._client_options)
            weakref.finalize(self, _close, asyncio.get_running_loop(), self._client)
        return self._client

    def close(self) -> None:
        """Closes the connections; the next call opens others."""
        client, self._client = self._client, None
        if client is not None:
            sync(self.loop, client.close)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        text = stringify_path(path)
        for prefix in ("lddp://", "lddp::"):
            text = text.removeprefix(prefix)
        return "/" + text.strip("/")

    def unstrip_protocol(self, name: str) -> str:
        return f"lddp://{self._strip_protocol(name)}"

    def invalidate_cache(self, path: str | None = None) -> None:
        """Nothing is cached."""

    # -- looking ----------------------------------------------------------------------------------------------------

    async def _info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        return _info_of(path, await (await self.client()).stat(path))

    async def _ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        path = self._strip_protocol(path)
        client = await self.client()
        try:
            entries = await client.entries(path)
        except NotADirectoryError:
            rows = [await self._info(path)]
        else:
            base = path.rstrip("/") + "/"
            rows = [_info_of(base + path_text(entry.name), entry) for entry in entries]
        return rows if detail else [row["name"] for row in rows]

    async def _exists(self, path: str, **kwargs: Any) -> bool:
        return await (await self.client()).exists(self._strip_protocol(path))

    def modified(self, path: str) -> datetime:
        return datetime.fromtimestamp(self.info(path)["mtime"], UTC)

    def checksum(self, path: str) -> int:
        """The version: it moves on with every change."""
        return int(self.info(path)["version"])

    def ukey(self, path: str) -> str:
        return str(self.checksum(path))

    # -- reading ----------------------------------------------------------------------------------------------------

    async def _read(self, path: str, start: int, stop: int | None, version: int = 0) -> bytes:
        return await (await self.client()).read(path, start, stop, version=version)

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        path = self._strip_protocol(path)
        if (start or 0) < 0 or (end or 0) < 0:
            size = (await self._info(path))["size"]
            start = max(0, size + start) if start is not None and start < 0 else start
            end = max(0, size + end) if end is not None and end < 0 else end
        return await self._read(path, start or 0, end)

    async def _get_file(self, rpath: str, lpath: Any, callback: Any = DEFAULT_CALLBACK, **kwargs: Any) -> None:
        if hasattr(lpath, "write"):
            lpath.write(await self._cat_file(rpath))
            return
        path = self._strip_protocol(rpath)
        if await self._isdir(path):
            os.makedirs(lpath, exist_ok=True)
            return
        os.makedirs(os.path.dirname(lpath) or ".", exist_ok=True)
        await (await self.client()).download(path, lpath, _progress(callback))

    # -- writing ----------------------------------------------------------------------------------------------------

    async def _write(self, pending: Pending, progress: Progress | None = None) -> None:
        try:
            if self._intrans:
                data = await asyncio.to_thread(self.transaction.keep, pending.data)
                self.transaction.files.append(replace(pending, data=data))
            else:
                await send(self, pending, progress)
        finally:
            pending.close()

    async def _pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        how = "xb" if mode == "create" else "wb"
        await self._write(Pending(self._strip_protocol(path), spool(value), how))

    async def _put_file(
        self, lpath: str, rpath: str, mode: str = "overwrite", callback: Any = DEFAULT_CALLBACK, **kwargs: Any
    ) -> None:
        path = self._strip_protocol(rpath)
        if os.path.isdir(lpath):
            await self._makedirs(path, exist_ok=True)
            return
        file = await asyncio.to_thread(open, lpath, "rb")
        permissions = os.fstat(file.fileno()).st_mode & 0o777
        how = "xb" if mode == "create" else "wb"
        await self._write(Pending(path, file, how, permissions), _progress(callback))

    async def _cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        client = await self.client()
        entry = await client.stat(source)
        if entry.is_directory:
            await client.makedirs(target, exist_ok=True)
            return
        if entry.kind == "symlink":
            await client.symlink(target, entry.target)
            return
        data = spool()
        try:
            async with client.open(source) as download:
                async for chunk in download:
                    await asyncio.to_thread(data.write, chunk)
        except BaseException:
            data.close()
            raise
        await self._write(Pending(target, data, "wb", entry.mode & 0o777))

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> LddpFile:
        return LddpFile(
            self, path, mode, block_size=block_size, autocommit=autocommit, cache_options=cache_options, **kwargs
        )

    async def open_async(self, path: str, mode: str = "rb", **kwargs: Any) -> LddpStreamedFile:
        """A file for coroutines. Raises ValueError for modes other than `rb`, `wb`, `xb` and `ab`."""
        path = self._strip_protocol(path)
        if mode not in ("rb", *WRITING):
            raise ValueError(f"mode {mode!r} is not one of rb, wb, xb and ab")
        if mode == "xb" and await self._exists(path):
            raise existing(path.encode("utf-8", "surrogateescape"))
        details = await self._info(path) if mode == "rb" else None
        return LddpStreamedFile(self, path, mode, details, **kwargs)

    def touch(self, path: str, truncate: bool = True, **kwargs: Any) -> None:
        """An empty file; with `truncate` False, one that is there gets the present time instead."""
        sync(self.loop, self._touch, path, truncate)

    async def _touch(self, path: str, truncate: bool = True) -> None:
        path = self._strip_protocol(path)
        if truncate or not await self._exists(path):
            await self._pipe_file(path, b"")
        else:
            await (await self.client()).setattr(path, mtime_ns=time.time_ns())

    # -- names ------------------------------------------------------------------------------------------------------

    async def _mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        client = await self.client()
        if create_parents:
            await client.makedirs(self._strip_protocol(path))
        else:
            await client.mkdir(self._strip_protocol(path))

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        await (await self.client()).makedirs(self._strip_protocol(path), exist_ok=exist_ok)

    async def _rm_file(self, path: str, **kwargs: Any) -> None:
        await (await self.client()).remove(self._strip_protocol(path))

    async def _rm(
        self,
        path: Any,
        recursive: bool = False,
        batch_size: int | None = None,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        if not recursive or maxdepth is not None:
            for one in reversed(await self._expand_path(path, recursive=recursive, maxdepth=maxdepth)):
                await self._rm_file(one)
            return
        client = await self.client()
        for one in await self._expand_path(path):
            await client.rmtree(self._strip_protocol(one))

    def rmdir(self, path: str) -> None:
        sync(self.loop, self._rmdir, path)

    async def _rmdir(self, path: str) -> None:
        (result,) = await (await self.client()).submit(Batch().rmdir(self._strip_protocol(path)))
        if result.errno == errno.ENOTDIR:
            raise file_error(errno.ENOTDIR, f"{self._strip_protocol(path)!r} is not a directory; use rm_file")
        if (error := result.error()) is not None:
            raise error

    async def _mv_file(self, path1: str, path2: str) -> None:
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        client = await self.client()
        try:
            await client.rename(source, target)
        except FileNotFoundError:
            if not self.auto_mkdir or not await client.exists(source):
                raise
            await make_above(client, target)
            await client.rename(source, target)

    def mv(self, path1: Any, path2: Any, recursive: bool = False, maxdepth: int | None = None, **kwargs: Any) -> None:
        """Renames; into `path2` where that is a directory. Patterns and lists are moved name by name."""
        sync(self.loop, self._mv, path1, path2)

    async def _mv(self, path1: Any, path2: Any) -> None:
        sources = await self._expand_path(path1)
        if isinstance(path2, list):
            targets = [self._strip_protocol(one) for one in path2]
        else:
            target = self._strip_protocol(path2)
            into = len(sources) > 1 or str(path2).endswith("/") or await self._isdir(target)
            targets = [target.rstrip("/") + "/" + one.rpartition("/")[2] if into else target for one in sources]
        for source, target in zip(sources, targets, strict=True):
            if source != target:
                await self._mv_file(source, target)


def _info_of(path: str, entry: Entry) -> dict[str, Any]:
    info: dict[str, Any] = {
        "name": path,
        "size": entry.size if entry.is_file else 0,
        "type": _TYPES.get(entry.kind, "other"),
        "mode": entry.st_mode,
        "uid": entry.uid,
        "gid": entry.gid,
        "mtime": entry.mtime,
        "version": entry.version,
        "nlink": entry.links,
        "ino": entry.inode,
        "digest": entry.digest,
    }
    if entry.kind == "symlink":
        info.update(islink=True, destination=path_text(entry.target))
    return info


def _progress(callback: Any) -> Progress:
    """A fsspec callback as a progress of ours."""

    def progress(done: int, size: int | None) -> None:
        if size is not None:
            callback.set_size(size)
        callback.absolute_update(done)

    return progress


def _close(loop: asyncio.AbstractEventLoop, client: Client) -> None:
    """When the filesystem is gone: in the client's loop, where that still runs."""
    if loop.is_running():
        try:
            sync(loop, client.close, timeout=CLOSE_S)
        except (RuntimeError, TimeoutError, NotImplementedError):
            loop.call_soon_threadsafe(loop.create_task, client.close())
