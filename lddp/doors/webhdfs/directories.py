"""MKDIRS, RENAME and DELETE: names."""

from __future__ import annotations

import errno

from aiohttp import web

from lddp.access import last_existing
from lddp.core import records as r
from lddp.core.records import Kind, Outcome, Record, RenameFlag
from lddp.doors.webhdfs import remote
from lddp.doors.webhdfs.context import Context, boolean, done
from lddp.doors.webhdfs.remote import RemoteError, of_errno
from lddp.doors.webhdfs.walking import below
from lddp.serving.paths import text_of

DIRECTORY_MODE = 0o755
BATCH = 512
"""Records of a recursive delete that are on their way at once."""
ROUNDS_MAX = 8
"""How often a tree is walked again, because something was made in it meanwhile."""
LEVELS_MAX = 1000
"""How deep a path may be that directories are made for, as in HDFS."""
RENAME_OPTIONS = ("NONE", "OVERWRITE", "TO_TRASH")


def parent_of(path: bytes) -> bytes:
    return path.rpartition(b"/")[0] or b"/"


# -- MKDIRS -----------------------------------------------------------------------------------------------------------


def missing_parents(context: Context, path: bytes, owner: tuple[int, int]) -> list[Record]:
    """Records for the directories above `path` that are not there, the highest first. Raises RemoteError where
    something else is in their place."""
    parts = path[1:].split(b"/")
    if len(parts) > LEVELS_MAX:
        raise RemoteError(remote.IO, f"Pathname too long. Limit {LEVELS_MAX} levels.")
    exists, last = last_existing(context.access, parts[:-1])
    if last is not None and last.kind is not Kind.DIRECTORY:
        raise RemoteError(remote.NO_DIRECTORY, f"/{text_of(b'/'.join(parts[:exists]))} is not a directory")
    return [
        r.MakeDirectory(*context.stamp(), b"/" + b"/".join(parts[:depth]), DIRECTORY_MODE, *owner)
        for depth in range(exists + 1, len(parts))
    ]


async def make_directories(context: Context) -> web.StreamResponse:
    mode = context.parameters.permission("permission", DIRECTORY_MODE)
    if not _has_to_be_made(context):
        return boolean(True)
    account = await context.account()
    owner = account.uid, account.gid
    records = missing_parents(context, context.path, owner)
    records.append(r.MakeDirectory(*context.stamp(), context.path, mode, *owner))
    *_, outcome = await context.submit(*records)
    if outcome.errno == errno.EEXIST and not _has_to_be_made(context):
        return boolean(True)
    if outcome.errno:
        raise of_errno(outcome.errno, f"MKDIRS {context.shown}")
    return boolean(True)


def _has_to_be_made(context: Context) -> bool:
    entry = context.access.entry(context.path)
    if entry is not None and entry.kind is not Kind.DIRECTORY:
        raise RemoteError(remote.EXISTS, f"Path is not a directory: {context.shown}")
    return entry is None


# -- RENAME -----------------------------------------------------------------------------------------------------------


async def rename(context: Context) -> web.StreamResponse:
    """Without `renameoptions` as HDFS has always done it: below a directory that exists, and false where it cannot be.
    With them: never below, replacing only with OVERWRITE, and an exception where it cannot be. One record either way,
    so it is there or not."""
    to = context.parameters.path("destination")
    options = context.parameters.choices("renameoptions", *RENAME_OPTIONS)
    if options:
        await _rename_exactly(context, to, "OVERWRITE" in options)
        return done()
    return boolean(await _rename_as_ever(context, to))


async def _move(context: Context, to: bytes, flag: RenameFlag) -> int:
    (outcome,) = await context.submit(r.Rename(*context.stamp(), context.path, to, flag))
    return outcome.errno


async def _rename_as_ever(context: Context, to: bytes) -> bool:
    source = context.access.entry(context.changeable())
    if source is None:
        return False
    if to == context.path:
        return source.kind is not Kind.DIRECTORY
    number = errno.EEXIST
    if not _is_directory(context, to):
        number = await _move(context, to, RenameFlag.NOREPLACE)
    if number == errno.EEXIST and _is_directory(context, to):
        number = await _move(context, to + b"/" + context.path.rpartition(b"/")[2], RenameFlag.NOREPLACE)
    if number in (0, errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EINVAL):
        return not number
    raise of_errno(number, f"RENAME {context.shown} to {text_of(to)}")


def _is_directory(context: Context, path: bytes) -> bool:
    entry = context.access.entry(path)
    return entry is not None and entry.kind is Kind.DIRECTORY


async def _rename_exactly(context: Context, to: bytes, overwrite: bool) -> None:
    context.changeable()
    source = context.require()
    shown = text_of(to)
    if to == context.path:
        raise RemoteError(remote.EXISTS, f"The source {context.shown} and destination {shown} are the same")
    if to.startswith(context.path + b"/") and source.kind is Kind.DIRECTORY:
        raise RemoteError(remote.IO, f"Rename destination {shown} is a directory or file under source {context.shown}")
    number = await _move(context, to, RenameFlag.NONE if overwrite else RenameFlag.NOREPLACE)
    match number:
        case 0:
            return
        case errno.EEXIST:
            raise RemoteError(remote.EXISTS, f"rename destination {shown} already exists")
        case errno.ENOENT:
            raise RemoteError(remote.NOT_FOUND, f"rename source {context.shown} or the parent of {shown} not found")
        case errno.ENOTEMPTY:
            raise RemoteError(remote.IO, f"rename destination directory is not empty: {shown}")
        case errno.EISDIR:
            raise RemoteError(remote.IO, f"Source {context.shown} is a file and destination {shown} is a directory")
        case errno.ENOTDIR if _is_directory(context, parent_of(to)):
            raise RemoteError(remote.IO, f"Source {context.shown} is a directory and destination {shown} is a file")
    raise of_errno(number, f"RENAME {context.shown} to {shown}")


# -- DELETE -----------------------------------------------------------------------------------------------------------


async def delete(context: Context) -> web.StreamResponse:
    """False where nothing is there. A tree is removed from below by many records, in order."""
    recursive = context.parameters.flag("recursive")
    (outcome,) = await context.submit(_removal(context, context.changeable()))
    if outcome.errno == errno.ENOTEMPTY and recursive:
        outcome = await _remove_tree(context)
    if outcome.errno == errno.ENOENT and context.access.entry(context.path) is not None:
        raise RemoteError(remote.ACCESS, f"{context.shown} is on the way to a rule, and cannot be removed")
    if outcome.errno == errno.ENOENT:
        return boolean(False)
    if outcome.errno == errno.ENOTEMPTY:
        raise RemoteError(remote.NOT_EMPTY, f"`{context.shown} is non empty': Directory is not empty")
    if outcome.errno:
        raise of_errno(outcome.errno, f"DELETE {context.shown}")
    return boolean(True)


def _removal(context: Context, path: bytes) -> Record:
    """Of a file or an empty directory: which of them it is by then, the state machine finds."""
    return r.Remove(*context.stamp(), path)


async def _remove_tree(context: Context) -> Outcome:
    """Everything below the path and then the directory itself; what is made meanwhile too, as long as that ends."""
    outcome = Outcome(errno.ENOTEMPTY)
    for _ in range(ROUNDS_MAX):
        refused = await _empty(context)
        if refused:
            raise of_errno(refused, f"DELETE {context.shown}: something below it stays")
        (outcome,) = await context.submit(_removal(context, context.path))
        if outcome.errno != errno.ENOTEMPTY:
            return outcome
    return outcome


async def _empty(context: Context) -> int:
    """Removes what is below the path now. The first errno that trying again would not mend, or 0."""
    batch: list[Record] = []
    async for path, _ in below(context.access, context.path):
        batch.append(_removal(context, path))
        if len(batch) == BATCH:
            if refused := await _remove_batch(context, batch):
                return refused
            batch = []
    return await _remove_batch(context, batch) if batch else 0


async def _remove_batch(context: Context, batch: list[Record]) -> int:
    changed = (0, errno.ENOENT, errno.ENOTEMPTY, errno.ENOTDIR)
    outcomes = await context.submit(*batch, visible=False)
    return next((outcome.errno for outcome in outcomes if outcome.errno not in changed), 0)
