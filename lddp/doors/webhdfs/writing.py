"""Operations that bring bytes: CREATE, APPEND, CONCAT, TRUNCATE.

A file appears, and grows, by one record when its last byte has come: an upload that breaks is nowhere to be seen.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Sequence

from aiohttp import web

from lddp.access import ContentWriter, Entry
from lddp.core import records as r
from lddp.core.records import Content, Kind, Record
from lddp.doors.webhdfs import remote
from lddp.doors.webhdfs.context import ORDER_S_MAX, PREFIX, Context, boolean, done
from lddp.doors.webhdfs.directories import missing_parents
from lddp.doors.webhdfs.parameters import INT_MAX, SHORT_MAX
from lddp.doors.webhdfs.remote import RemoteError, illegal, of_errno
from lddp.errors import UnavailableError, quoted
from lddp.serving.bodies import CHUNK_BYTES, order, receive
from lddp.serving.paths import text_of

FILE_MODE = 0o644
CREATE_FLAGS = (
    *("CREATE", "OVERWRITE", "APPEND", "SYNC_BLOCK", "LAZY_PERSIST", "NEW_BLOCK", "NO_LOCAL_WRITE"),
    *("SHOULD_REPLICATE", "IGNORE_CLIENT_LOCALITY", "NO_LOCAL_RACK"),
)
"""All but OVERWRITE say how HDFS is to go about it."""
LOOKS_MAX = 16
"""How often a file is looked at again, because another one has got its name before it could be changed."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


async def _body(context: Context, writer: ContentWriter) -> Content:
    """The request's body, which a client that asks first is told to send now (RFC 9110, section 10.1.1)."""
    request = context.request
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(CONTINUE)
    return await receive(request.content, writer, context.idle_s)


def _check_sizes(context: Context) -> None:
    """What HDFS wants to know and a file here does not have: it must be sensible, and is not kept."""
    context.parameters.number("blocksize", 1, low=1)
    context.parameters.number("buffersize", 1, low=1, high=INT_MAX)
    context.parameters.number("replication", 1, low=1, high=SHORT_MAX)


# -- CREATE -----------------------------------------------------------------------------------------------------------


def _check_free(context: Context, overwrite: bool) -> None:
    entry = context.access.entry(context.changeable())
    if entry is None:
        return
    if entry.kind is Kind.DIRECTORY:
        raise RemoteError(remote.EXISTS, f"{context.shown} already exists as a directory")
    if not overwrite:
        raise RemoteError(remote.EXISTS, f"{context.shown} already exists; overwrite is false")


async def create(context: Context) -> web.StreamResponse:
    flags = context.parameters.choices("createflag", *CREATE_FLAGS)
    overwrite = context.parameters.flag("overwrite") or "OVERWRITE" in flags
    mode = context.parameters.permission("permission", FILE_MODE)
    parents = context.parameters.flag("createparent", True)
    _check_sizes(context)
    account = await context.account()
    owner = account.uid, account.gid

    def look() -> list[Record]:
        """What has to be made first. Refuses what is known to fail; the log decides in the end."""
        _check_free(context, overwrite)
        return missing_parents(context, context.path, owner) if parents else []

    look()
    if not context.parameters.flag("data"):
        return context.back_here()
    writer = context.access.content_writer(context.path, context.request.content_length)
    content = await _body(context, writer)
    try:
        records = look()
    except BaseException:
        await writer.abort()
        raise
    version = r.ANY_VERSION if overwrite else r.NO_VERSION
    put = r.Put(*context.stamp(), context.path, mode, *owner, content, version)
    match await _order(context, writer, *records, put):
        case errno.EEXIST:
            raise RemoteError(remote.EXISTS, f"{context.shown} already exists; overwrite is false")
        case errno.EISDIR:
            raise RemoteError(remote.EXISTS, f"{context.shown} already exists as a directory")
        case number if number:
            raise of_errno(number, f"CREATE {context.shown}")
    target = context.request.raw_path.partition("?")[0].removeprefix(PREFIX)
    scheme = "swebhdfs" if context.request.secure else "webhdfs"
    location = f"{scheme}://{context.request.host}{target}"
    return web.Response(status=201, headers={"Location": location}, content_type="application/octet-stream")


async def _order(context: Context, writer: ContentWriter, *records: Record) -> int:
    """The errno of the last record, which names what the writer was given."""
    *_, (_, outcome) = await order(context.access, records, ORDER_S_MAX, writer)
    return outcome.errno


# -- APPEND and TRUNCATE ----------------------------------------------------------------------------------------------


async def append(context: Context) -> web.StreamResponse:
    _check_sizes(context)
    context.changeable()
    inode = context.require_file().inode
    if not context.parameters.flag("data"):
        return context.back_here()
    writer = context.access.content_writer(context.path, context.request.content_length)
    await _append(context, inode, writer, await _body(context, writer), "APPEND")
    return done()


async def _append(context: Context, inode: int, writer: ContentWriter, content: Content, what: str) -> None:
    """Appends what a writer was given to the file that was there when the request came, as HDFS does. What is refused
    is dropped."""
    if not content.size:
        await writer.abort()
        return
    number = await _order(context, writer, r.Append(*context.stamp(), context.path, content, inode))
    if number == errno.ESTALE:
        raise RemoteError(
            remote.NOT_FOUND,
            f"File does not exist: {context.shown} (inode {inode}): another one has its name since {what} began."
            " Nothing was appended; try again",
        )
    if number:
        raise of_errno(number, f"{what} {context.shown}")


async def truncate(context: Context) -> web.StreamResponse:
    if not context.parameters.text("newlength"):
        raise illegal("newlength", "it is missing")
    size = context.parameters.number("newlength", 0)
    context.changeable()
    number = errno.ESTALE
    for _ in range(LOOKS_MAX):
        entry = context.require_file()
        if size > entry.size:
            raise RemoteError(
                remote.ILLEGAL_ARGUMENT,
                f"Cannot truncate to a larger file size. Current size: {entry.size}, truncate size: {size}",
            )
        if size == entry.size:
            return boolean(True)
        # The file that was looked at, if it still has as many bytes: another one may be smaller, and so may this one.
        (outcome,) = await context.submit(r.Shorten(*context.stamp(), context.path, size, entry.inode))
        number = outcome.errno
        if number not in (errno.ESTALE, errno.EINVAL):
            break
    if number:
        raise of_errno(number, f"TRUNCATE {context.shown}")
    return boolean(True)


# -- CONCAT -----------------------------------------------------------------------------------------------------------


async def concat(context: Context) -> web.StreamResponse:
    """Appends the sources by one record; when that is certain, removes each of them unless it has changed since it was
    read. What stops it in between leaves bytes twice, never nowhere."""
    sources = context.parameters.paths("sources")
    context.changeable()
    inode = context.require_file().inode
    if context.path in sources:
        raise RemoteError(remote.ILLEGAL_ARGUMENT, f"concat: the target {context.shown} is one of the sources")
    if len(set(sources)) < len(sources):
        raise RemoteError(remote.ILLEGAL_ARGUMENT, "concat: a source is named twice")
    _require_apart(context, inode, [_require_source(context, source) for source in sources])
    writer = context.access.content_writer(context.path, None)
    try:
        read = [await _copy(context, source, writer) for source in sources]
        _require_apart(context, inode, read)
        content = await writer.commit()
    except BaseException:
        await writer.abort()
        raise
    await _append(context, inode, writer, content, "CONCAT")
    pairs = zip(sources, read, strict=True)
    removed = await context.submit(*[r.Unlink(*context.stamp(), source, entry.version) for source, entry in pairs])
    for source, outcome in zip(sources, removed, strict=True):
        if outcome.errno not in (0, errno.ENOENT):
            what = f"CONCAT has appended everything to {context.shown}, but {text_of(source)} stays"
            raise of_errno(outcome.errno, what)
    return done()


def _require_apart(context: Context, target: int, sources: Sequence[Entry]) -> None:
    """Refuses several names of one file: what is removed by one of them would still be there by another, and had been
    appended."""
    inodes = [entry.inode for entry in sources]
    if target in inodes:
        raise RemoteError(remote.ILLEGAL_ARGUMENT, f"concat: a source is another name of the target {context.shown}")
    if len(set(inodes)) < len(inodes):
        raise RemoteError(remote.ILLEGAL_ARGUMENT, "concat: two sources are names of the same file")


def _require_source(context: Context, source: bytes) -> Entry:
    entry = context.access.entry(source)
    if entry is None:
        raise RemoteError(remote.NOT_FOUND, f"File does not exist: {text_of(source)}")
    if entry.kind is not Kind.FILE:
        raise RemoteError(remote.ILLEGAL_ARGUMENT, f"concat: the source {text_of(source)} is not a file")
    return entry


async def _copy(context: Context, source: bytes, writer: ContentWriter) -> Entry:
    """Adds a file's bytes; what it was then. UnavailableError where it is changed meanwhile: it cannot be read again,
    since the writer has taken a part of it."""
    opened = await context.access.open_file(source)
    try:
        at = 0
        while data := await asyncio.to_thread(os.pread, opened.descriptor, CHUNK_BYTES, at):
            if not opened.is_intact():
                raise UnavailableError(f"{quoted(source)} is changed while it is read; try again")
            await writer.write(data)
            at += len(data)
        if at != opened.entry.size or not opened.is_intact():
            raise UnavailableError(f"{quoted(source)} is changed while it is read; try again")
    finally:
        opened.close()
    return opened.entry
