"""Operations that read: bytes, statuses, listings, checksums, locations."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from aiohttp import web

from lddp.access import OpenFile
from lddp.core.records import Kind
from lddp.doors.webhdfs import remote, walking
from lddp.doors.webhdfs.blocks import block_location, blocks, located_blocks
from lddp.doors.webhdfs.checksum import BYTES_PER_CRC, FileChecksum, Summing
from lddp.doors.webhdfs.context import Context, answer, done
from lddp.doors.webhdfs.identity import allowed
from lddp.doors.webhdfs.parameters import LONG_MAX
from lddp.doors.webhdfs.remote import RemoteError
from lddp.doors.webhdfs.statuses import BLOCK_BYTES, REPLICATION, acl_status, file_status
from lddp.doors.webhdfs.walking import below, pages
from lddp.serving.bodies import begun, read_intact, send, write
from lddp.serving.paths import text_of

STEP_BYTES = 4096 * BYTES_PER_CRC


# -- bytes ------------------------------------------------------------------------------------------------------------


async def open_(context: Context) -> web.StreamResponse:
    offset = context.parameters.number("offset", 0)
    length = context.parameters.number("length", LONG_MAX)
    context.require_file()
    if context.parameters.flag("noredirect") and not context.parameters.flag("data"):
        return context.back_here()

    async def answer_with(opened: OpenFile) -> web.StreamResponse | None:
        size = opened.entry.size
        if offset >= size > 0 or offset > size:
            raise RemoteError(remote.IO, f"Offset={offset} out of the range [0, {size}); OPEN, path={context.shown}")
        response = web.StreamResponse(headers={"Cache-Control": "no-cache"})
        response.content_type = "application/octet-stream"
        stop = min(size, offset + length)
        return response if await send(context.request, response, opened, offset, stop, context.idle_s) else None

    return await read_intact(context.access, context.path, answer_with)


async def get_file_checksum(context: Context) -> web.StreamResponse:
    context.require_file()
    if context.parameters.flag("noredirect") and not context.parameters.flag("data"):
        return context.back_here()
    checksum = await read_intact(context.access, context.path, _checksum)
    document = {"algorithm": checksum.algorithm, "bytes": checksum.data.hex(), "length": len(checksum.data)}
    return answer({"FileChecksum": document})


async def _checksum(opened: OpenFile) -> FileChecksum | None:
    """Of the whole file, in steps between which a client may leave; None where it was changed in place meanwhile."""
    summing = Summing(BLOCK_BYTES)

    def step(at: int) -> int:
        data = bytearray()
        while len(data) < STEP_BYTES and (piece := os.pread(opened.descriptor, STEP_BYTES - len(data), at + len(data))):
            data += piece
        summing.update(bytes(data))
        return len(data)

    at = 0
    while (size := await asyncio.to_thread(step, at)) == STEP_BYTES and opened.is_intact():
        at += size
    return summing.finish() if opened.is_intact() else None


# -- statuses ---------------------------------------------------------------------------------------------------------


async def get_file_status(context: Context) -> web.StreamResponse:
    entry = context.require()
    await context.users.learn([entry])
    return answer({"FileStatus": file_status(b"", entry, context.users)})


async def get_link_target(context: Context) -> web.StreamResponse:
    entry = context.require()
    if entry.kind is not Kind.SYMLINK:
        raise RemoteError(remote.IO, f"Path {context.shown} is not a symbolic link")
    return answer({"Path": text_of(entry.target)})


async def list_status(context: Context) -> web.StreamResponse:
    """Streams: a directory may have more entries than fit into memory."""
    entry = context.require()
    if entry.kind is not Kind.DIRECTORY:
        await context.users.learn([entry])
        return answer({"FileStatuses": {"FileStatus": [file_status(b"", entry, context.users)]}})
    response = web.StreamResponse(headers={"Cache-Control": "no-cache"})
    response.content_type = "application/json"
    await response.prepare(context.request)
    with begun(context.request):
        await write(response, b'{"FileStatuses": {"FileStatus": [', context.idle_s)
        comma = ""
        async for rows in pages(context.access, context.path):
            await context.users.learn(one for _, one in rows)
            texts = [json.dumps(file_status(name, one, context.users)) for name, one in rows]
            await write(response, (comma + ",\n".join(texts)).encode("ascii"), context.idle_s)
            comma = ",\n"
        await write(response, b"]}}", context.idle_s)
        await response.write_eof()
    return response


async def list_status_batch(context: Context) -> web.StreamResponse:
    """`remainingEntries` is 0 at the end, and otherwise tells only that there are more: counting them would cost as
    much as listing them, with every batch again."""
    after = context.parameters.text("startafter").encode("utf-8", "surrogateescape")
    entry = context.require()
    found = [(b"", entry)]
    if entry.kind is Kind.DIRECTORY:
        found = context.access.listing(context.path, after, walking.PAGE + 1)
    rows = found[: walking.PAGE]
    await context.users.learn(one for _, one in rows)
    statuses = [file_status(name, one, context.users) for name, one in rows]
    listing = {"FileStatuses": {"FileStatus": statuses}}
    return answer({"DirectoryListing": {"partialListing": listing, "remainingEntries": len(found) - len(rows)}})


async def get_content_summary(context: Context) -> web.StreamResponse:
    entry = context.require()
    directories = files = size = 0
    if entry.kind is Kind.DIRECTORY:
        async for _, one in below(context.access, context.path):
            directories += one.kind is Kind.DIRECTORY
            files += one.kind is not Kind.DIRECTORY
            size += one.size if one.kind is Kind.FILE else 0
        directories += 1
    else:
        files, size = 1, entry.size if entry.kind is Kind.FILE else 0
    summary = {
        "directoryCount": directories,
        "ecPolicy": "Replicated",
        "fileCount": files,
        "length": size,
        "quota": -1,
        "spaceConsumed": size * REPLICATION,
        "spaceQuota": -1,
        "typeQuota": {},
    }
    return answer({"ContentSummary": summary})


# -- the rest ---------------------------------------------------------------------------------------------------------


async def get_file_block_locations(context: Context) -> web.StreamResponse:
    offset, length = context.parameters.number("offset", 0), context.parameters.number("length", LONG_MAX)
    entry = context.require_file()
    rows = [block_location(block, *context.address()) for block in blocks(entry.size, offset, length)]
    return answer({"BlockLocations": {"BlockLocation": rows}})


async def get_block_locations(context: Context) -> web.StreamResponse:
    offset, length = context.parameters.number("offset", 0), context.parameters.number("length", LONG_MAX)
    entry = context.require_file()
    return answer({"LocatedBlocks": located_blocks(entry.size, entry.inode, offset, length, *context.address())})


async def get_home_directory(context: Context) -> web.StreamResponse:
    return answer({"Path": f"/user/{(await context.account()).name}"})


async def get_trash_root(context: Context) -> web.StreamResponse:
    return answer({"Path": f"/user/{(await context.account()).name}/.Trash"})


async def get_acl_status(context: Context) -> web.StreamResponse:
    entry = context.require()
    await context.users.learn([entry])
    return answer({"AclStatus": acl_status(entry, context.users)})


async def check_access(context: Context) -> web.StreamResponse:
    action = context.parameters.action("fsaction")
    entry, account = context.require(), await context.account()
    if not allowed(account, entry, action):
        message = f'Permission denied: user={account.name}, access={action}, inode="{context.shown}"'
        raise RemoteError(remote.ACCESS, message)
    return done()


async def get_server_defaults(context: Context) -> web.StreamResponse:
    defaults: dict[str, Any] = {
        "blockSize": BLOCK_BYTES,
        "bytesPerChecksum": BYTES_PER_CRC,
        "checksumType": 2,  # DataChecksum.Type.CRC32C
        "defaultStoragePolicyId": 0,
        "encryptDataTransfer": False,
        "fileBufferSize": 4096,
        "keyProviderUri": "",
        "replication": REPLICATION,
        "trashInterval": 0,
        "writePacketSize": 65536,
    }
    return answer({"FsServerDefaults": defaults})
