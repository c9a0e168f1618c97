"""The client: the operations on files of an ecosystem, and what holds for all of them."""

from __future__ import annotations

import asyncio
import copy
import errno
import os
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import IO, Any, Self

from lddp.client.batches import Batch, Result, answers_of, packed
from lddp.client.downloads import Download, changed_too_often, is_changed
from lddp.client.endpoints import file_path
from lddp.client.entries import (
    Entry,
    Path,
    Written,
    bytes_of,
    entry_of,
    path_bytes,
    path_text,
    target_bytes,
    written_of,
)
from lddp.client.local import open_in_place
from lddp.client.options import Options, Progress
from lddp.client.problems import file_error
from lddp.client.requests import Request, Requests, body_of
from lddp.client.settings import Settings
from lddp.client.trees import Trees
from lddp.client.uploads import Data, Upload, source_of
from lddp.errors import FormatError, OperationError, UsageError

READS_MAX = 5
"""How often a file is read from its start that changes before all of it has come."""
PAGE_ENTRIES = 1000


class Client(Trees):
    """An ecosystem's files, at whichever of its nodes answers. A context; belongs to one event loop.

    Paths are absolute in the global namespace (`lddp.client.entries.Path`). All calls raise FileError (an OSError, of
    the subclass that fits) for what the ecosystem refuses, and otherwise the errors of `lddp.errors`: NotAllowedError
    without a valid token, UnavailableError where no node has answered before the deadline, OutcomeUnknownError where
    none has and a change may have taken effect nevertheless.

    A change is sent again, to any node, under the same operation id until its outcome is known: it takes effect once.
    """

    def __init__(self, settings: Settings, options: Options | None = None) -> None:
        self._requests = Requests(settings)
        self._options = options or Options()

    @classmethod
    def connect(cls, *endpoints: str, **found: Any) -> Client:
        """For the ecosystem that `Settings.find` finds."""
        return cls(Settings.find(endpoints, **found))

    @classmethod
    def of_cluster(cls, directory: str | os.PathLike[str]) -> Client:
        """For a directory of `lddp cluster up`, or the state directory of a running `lddp migrate`."""
        return cls(Settings.find(cluster=directory))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._requests.close()

    def having(self, **options: Any) -> Self:
        """The same client, with other `Options` for what is called on it: `client.having(timeout_s=5).read(path)`."""
        other = copy.copy(self)
        other._options = replace(self._options, **options)
        return other

    @property
    def index(self) -> int:
        """The log's index of this client's last change: what another client waits for (`at_least`) to see it."""
        return self._requests.session.index

    # -- the ecosystem ----------------------------------------------------------------------------------------------

    async def get(self, route: str, query: Mapping[str, Any] | None = None) -> Any:
        """The JSON of any route that changes nothing: `/v1/status`, `/v1/nodes`, `/v1/rules`, ..."""
        return await self._requests.json(Request("GET", route, query or {}), self._options)

    async def barrier(self) -> int:
        """A linearizable read point: reads that follow show everything that was acknowledged to anybody before."""
        document = await self._requests.json(Request("POST", "/v1/barrier"), self._options)
        self._note(int(document["index"]))
        return int(document["index"])

    def _note(self, index: int) -> None:
        session = self._requests.session
        session.index = max(session.index, index)

    # -- looking ----------------------------------------------------------------------------------------------------

    async def stat(self, path: Path) -> Entry:
        """What is at a path, without following a symlink there."""
        where = path_bytes(path)
        document = await self.get(file_path(where), {"op": "stat"})
        return entry_of(document, os.path.basename(where))

    async def scan(self, path: Path) -> AsyncIterator[Entry]:
        """A directory's entries, in ascending order of their names' bytes, in pages: what changes meanwhile may be seen
        or not."""
        where, after = path_bytes(path), b""
        while True:
            query: dict[str, Any] = {"op": "list", "limit": PAGE_ENTRIES, **({"after": after} if after else {})}
            page = await self.get(file_path(where), query)
            for document in page["entries"]:
                yield entry_of(document, bytes_of(document, "name"))
            after = bytes_of(page, "next")
            if not after:
                return

    # -- reading ----------------------------------------------------------------------------------------------------

    def open(
        self,
        path: Path,
        start: int = 0,
        stop: int | None = None,
        *,
        version: int = 0,
        progress: Progress | None = None,
    ) -> Download:
        """A file's bytes from `start` to before `stop` as they come: `async with` it, then `async for` its chunks."""
        if start < 0 or (stop is not None and stop < 0):
            raise UsageError("offsets count from the start of the file; give none that is negative")
        route = file_path(path_bytes(path))
        return Download(self._requests, self._options, route, start, stop, version, progress)

    async def read(self, path: Path, start: int = 0, stop: int | None = None, *, version: int = 0) -> bytes:
        """A file's bytes, all of one version."""
        for _ in range(READS_MAX):
            try:
                async with self.open(path, start, stop, version=version) as download:
                    return await download.read()
            except OperationError as error:
                if version or not is_changed(error):
                    raise
        raise changed_too_often(path_text(path_bytes(path)))

    async def download(self, path: Path, local: str | os.PathLike[str], progress: Progress | None = None) -> int:
        """A file's bytes, of one version, into the local file `local`, which is replaced when all of them have come;
        how many they are. A device or a pipe is written into: where the file changes meanwhile, FileError(ESTALE)."""
        target = os.fspath(local)
        there = await asyncio.to_thread(open_in_place, target)
        if there is not None:
            with there:
                return await self._pour(path, there, progress)
        descriptor, name = tempfile.mkstemp(prefix=".lddp-", dir=os.path.dirname(target) or ".")
        try:
            with os.fdopen(descriptor, "wb") as file:
                size, mode = await self._into(path, file, progress)
            os.chmod(name, mode & 0o777)
            os.replace(name, target)
        except BaseException:
            os.unlink(name)
            raise
        return size

    async def _pour(self, path: Path, file: IO[bytes], progress: Progress | None) -> int:
        async with self.open(path, progress=progress) as download:
            async for chunk in download:
                await asyncio.to_thread(file.write, chunk)  # until the reader of a pipe takes it
            await asyncio.to_thread(file.flush)
            return download.position

    async def _into(self, path: Path, file: Any, progress: Progress | None) -> tuple[int, int]:
        for _ in range(READS_MAX):
            file.seek(0)
            file.truncate()
            try:
                async with self.open(path, progress=progress) as download:
                    async for chunk in download:
                        file.write(chunk)
                    return download.position, download.mode
            except OperationError as error:
                if not is_changed(error):
                    raise
        raise changed_too_often(path_text(path_bytes(path)))

    # -- changing ---------------------------------------------------------------------------------------------------

    async def _change(
        self,
        method: str,
        path: Path,
        query: Mapping[str, Any],
        data: Data | None = None,
        headers: Mapping[str, str] | None = None,
        progress: Progress | None = None,
    ) -> Written:
        session = self._requests.session
        source = None if data is None else source_of(data)
        upload = None if source is None else Upload(source, progress)
        request = Request(
            method,
            file_path(path_bytes(path)),
            {key: value for key, value in query.items() if value is not None},
            {**(headers or {}), **(upload.headers if upload is not None else {})},
            change=session.next_id(),
        )
        if upload is not None:
            request = replace(request, body=upload.body, failed=upload.failed)
        try:
            document = await self._requests.json(request, self._options)
        finally:
            if source is not None:
                source.close()
        written = written_of(document)
        self._note(written.index)
        return written

    async def write(
        self,
        path: Path,
        data: Data,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        exclusive: bool = False,
        version: int | None = None,
        progress: Progress | None = None,
    ) -> Written:
        """Makes a file of these bytes or replaces one as a whole; nothing is seen of it before all bytes have come.
        `mode`, `uid` and `gid` are for a new one. `exclusive`: FileExistsError where the name is taken. `version`: only
        a file at that version is replaced (0: at any); FileError(ESTALE) where it is at another or is not there."""
        if exclusive and version is not None:
            raise UsageError("a file cannot be new and at a version at once; leave one of them out")
        headers = {"Content-Type": "application/octet-stream"}
        if exclusive:
            headers["If-None-Match"] = "*"
        elif version is not None:
            headers["If-Match"] = f'"{version}"' if version else "*"
        query = {"mode": None if mode is None else f"{mode:04o}", "uid": uid, "gid": gid}
        try:
            return await self._change("PUT", path, query, data, headers, progress)
        except OperationError as error:
            if exclusive and is_changed(error):
                raise existing(path_bytes(path)) from None
            raise

    async def upload(
        self, local: str | os.PathLike[str], path: Path, progress: Progress | None = None, **options: Any
    ) -> Written:
        """`write` of a local file, with its permissions unless `mode` is given."""
        file = await asyncio.to_thread(open, local, "rb")
        with file:
            options.setdefault("mode", os.fstat(file.fileno()).st_mode & 0o777)
            return await self.write(path, file, progress=progress, **options)

    async def append(self, path: Path, data: Data) -> Written:
        return await self._change("POST", path, {"op": "append"}, data)

    async def write_at(self, path: Path, offset: int, data: Data) -> Written:
        """Overwrites a part of a file, and extends it where that goes beyond its end."""
        return await self._change("POST", path, {"op": "write", "offset": offset}, data)

    async def truncate(self, path: Path, size: int) -> Written:
        return await self._change("POST", path, {"op": "truncate", "size": size})

    async def create(self, path: Path, mode: int = 0o644, kind: str = "file", rdev: int = 0) -> Written:
        """An empty file, or one of the other `Entry.kind`s. FileExistsError where the name is taken."""
        query = {"op": "create", "mode": f"{mode:04o}", "kind": kind, "rdev": rdev or None}
        return await self._change("POST", path, query)

    async def mkdir(self, path: Path, mode: int = 0o755) -> Written:
        return await self._change("POST", path, {"op": "mkdir", "mode": f"{mode:04o}"})

    async def rename(self, path: Path, to: Path, *, replace: bool = True) -> Written:
        """A directory takes with it what it holds, in one step. What is at `to` is replaced, or with `replace` False an
        error."""
        flag = None if replace else "noreplace"
        return await self._change("POST", path, {"op": "rename", "to": path_bytes(to), "flag": flag})

    async def exchange(self, path: Path, to: Path) -> Written:
        return await self._change("POST", path, {"op": "rename", "to": path_bytes(to), "flag": "exchange"})

    async def remove(self, path: Path, *, version: int | None = None) -> Written:
        """A file's name or an empty directory; with `version` only what is at it."""
        headers = {} if version is None else {"If-Match": f'"{version}"'}
        return await self._change("DELETE", path, {}, headers=headers)

    async def link(self, path: Path, to: Path) -> Written:
        """`to` becomes another name of the file."""
        return await self._change("POST", path, {"op": "link", "to": path_bytes(to)})

    async def symlink(self, path: Path, target: Path) -> Written:
        return await self._change("POST", path, {"op": "symlink", "target": target_bytes(target)})

    async def setattr(
        self,
        path: Path,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        mtime_ns: int | None = None,
    ) -> Written:
        """What is None stays as it is."""
        text = None if mode is None else f"{mode:04o}"
        query = {"op": "setattr", "mode": text, "uid": uid, "gid": gid, "mtime_ns": mtime_ns}
        return await self._change("POST", path, query)

    async def setxattr(self, path: Path, name: bytes, value: bytes, flag: str | None = None) -> Written:
        """`flag`: `create` where there must be none, `replace` where there must be one."""
        return await self._change("POST", path, {"op": "setxattr", "name": name, "flag": flag}, value)

    async def removexattr(self, path: Path, name: bytes) -> Written:
        return await self._change("POST", path, {"op": "removexattr", "name": name})

    # -- many at once -----------------------------------------------------------------------------------------------

    async def submit(self, batch: Batch) -> list[Result]:
        """The operations of a batch, in their order (see `lddp.client.batches` for what that promises)."""
        session = self._requests.session
        first = session.next_sequence(len(batch))
        answers: dict[int, tuple[int, int]] = {}
        for part in batch.parts(first):
            headers = {"Content-Type": "application/msgpack", "Lddp-Session": session.name}
            request = Request(
                "POST", "/v1/operations", {}, headers, body_of(packed(part)), change=f"{session.name}:{part[0][0]}"
            )
            answers |= await self._requests.ask(request, self._options, _read_answers)
        named = batch.named()
        if len(answers) != len(named):
            raise FormatError(f"{len(answers)} answers came for {len(named)} operations; is it a node of lddp?")
        self._note(max((index for _, index in answers.values()), default=0))
        return [Result(name, path, *answers[first + place]) for place, (name, path) in enumerate(named)]


async def _read_answers(answer: Any) -> dict[int, tuple[int, int]]:
    return answers_of(await answer.read())


def existing(path: bytes) -> OperationError:
    return file_error(errno.EEXIST, f"{path_text(path)!r} exists; choose another name")


def first_error(results: Sequence[Result]) -> OperationError | None:
    return next((error for result in results if (error := result.error()) is not None), None)
