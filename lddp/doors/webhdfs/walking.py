"""Trees, one page of one directory at a time, so that neither memory nor other requests suffer from large ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

from lddp.access import Access, Entry
from lddp.core.records import Kind
from lddp.errors import OperationError

PAGE = 1000
"""Entries of a directory that are read, and answered by LISTSTATUS_BATCH, at once (`dfs.ls.limit`)."""


async def pages(access: Access, path: bytes) -> AsyncIterator[list[tuple[bytes, Entry]]]:
    """A directory's entries in ascending order; other requests run between two pages. Raises OperationError where it
    is none, or is gone meanwhile."""
    after = b""
    while rows := access.listing(path, after, PAGE):
        yield rows
        if len(rows) < PAGE:
            return
        after = rows[-1][0]
        await asyncio.sleep(0)


async def below(access: Access, top: bytes) -> AsyncIterator[tuple[bytes, Entry]]:
    """Paths and entries of all that is below a directory, what is in a directory before itself. A directory that is
    gone meanwhile has nothing in it. Keeps a page of each directory on the way down."""
    ways = [_Way(access, top, None)]
    while ways:
        way = ways[-1]
        row = next(way.rows, None)
        if row is None:
            await asyncio.sleep(0)
            if not way.turn():
                ways.pop()
                if way.entry is not None:
                    yield way.path, way.entry
            continue
        name, entry = row
        way.after = name
        path = way.path.rstrip(b"/") + b"/" + name
        if entry.kind is Kind.DIRECTORY:
            ways.append(_Way(access, path, entry))
        else:
            yield path, entry


class _Way:
    """How far one directory has been walked."""

    def __init__(self, access: Access, path: bytes, entry: Entry | None) -> None:
        self._access = access
        self.path = path
        self.entry = entry
        self.after = b""
        self.rows: Iterator[tuple[bytes, Entry]] = iter(())

    def turn(self) -> bool:
        """To the next page; False where there is none."""
        try:
            found = self._access.listing(self.path, self.after, PAGE)
        except OperationError:
            return False
        self.rows = iter(found)
        return bool(found)
