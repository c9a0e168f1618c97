"""What is made of several operations: whole trees, and directories with what is above them."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from typing import Protocol

from lddp.client.batches import OPERATIONS_MAX, Batch, Result
from lddp.client.entries import Entry, Path, Written, path_bytes
from lddp.client.problems import FileError, file_error


class Operations(Protocol):
    """The part of a client that is used here."""

    async def stat(self, path: Path) -> Entry: ...

    def scan(self, path: Path) -> AsyncIterator[Entry]: ...

    async def mkdir(self, path: Path, mode: int = 0o755) -> Written: ...

    async def remove(self, path: Path, *, version: int | None = None) -> Written: ...

    async def submit(self, batch: Batch) -> list[Result]: ...


def join(directory: bytes, name: bytes) -> bytes:
    return directory.rstrip(b"/") + b"/" + name


class Trees:
    """Mixed into a client."""

    async def find(self: Operations, path: Path) -> Entry | None:
        """`stat`, and None where nothing is."""
        try:
            return await self.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None

    async def exists(self: Operations, path: Path) -> bool:
        try:
            await self.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    async def entries(self: Operations, path: Path) -> list[Entry]:
        """All entries of a directory; see `scan`."""
        return [entry async for entry in self.scan(path)]

    async def makedirs(self: Operations, path: Path, mode: int = 0o755, *, exist_ok: bool = False) -> None:
        """A directory and those above it that are missing. FileExistsError where it is there, unless `exist_ok` and it
        is a directory."""
        missing = [path_bytes(path).rstrip(b"/")]
        if not missing[0]:  # the root, which is always there, and cannot be asked for
            if exist_ok:
                return
            raise file_error(errno.EEXIST, "'/' exists; choose another name")
        while True:
            try:
                await self.mkdir(missing[-1], mode)
                break
            except FileNotFoundError:
                above = os.path.dirname(missing[-1])
                if above in (b"", b"/"):
                    raise
                missing.append(above)
            except FileExistsError:
                if len(missing) == 1 and not (exist_ok and (await self.stat(missing[0])).is_directory):
                    raise
                break
        for made in reversed(missing[:-1]):
            try:
                await self.mkdir(made, mode)
            except FileExistsError:
                if made is missing[0] and not exist_ok:
                    raise

    async def walk(self: Operations, path: Path) -> AsyncIterator[tuple[bytes, list[Entry]]]:
        """Every directory of a tree and its entries, from the top down; what vanishes meanwhile is left out."""
        ahead = [path_bytes(path)]
        while ahead:
            directory = ahead.pop()
            try:
                entries = [entry async for entry in self.scan(directory)]
            except (FileNotFoundError, NotADirectoryError):
                if directory == path_bytes(path):
                    raise
                continue
            yield directory, entries
            ahead += [join(directory, entry.name) for entry in reversed(entries) if entry.is_directory]

    async def rmtree(self: Operations, path: Path) -> int:
        """Removes what is at a path with everything below it; how many names. What others make there meanwhile may be
        removed or be FileError(ENOTEMPTY)."""
        top = path_bytes(path)
        if not (await self.stat(top)).is_directory:
            await self.remove(top)
            return 1
        directories: list[bytes] = []
        batch, count = Batch(), 0
        ahead = [top]
        while ahead:
            directory = ahead.pop()
            directories.append(directory)
            async for entry in self.scan(directory):
                if entry.is_directory:
                    ahead.append(join(directory, entry.name))
                else:
                    batch.remove(join(directory, entry.name))
                if len(batch) >= OPERATIONS_MAX:
                    count, batch = count + _gone(await self.submit(batch)), Batch()
        for directory in reversed(directories):
            batch.remove(directory)
        return count + _gone(await self.submit(batch))


def _gone(results: list[Result]) -> int:
    """How many names were removed. Raises the first error that does not say that it was gone already."""
    for result in results:
        if result.errno not in (0, errno.ENOENT):
            error = result.error()
            assert isinstance(error, FileError)
            raise error
    return sum(result.errno == 0 for result in results)
