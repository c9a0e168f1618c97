"""Operations on attributes, links, and what HDFS has and a filesystem has not."""

from __future__ import annotations

import errno

from aiohttp import web

from lddp.core import limits
from lddp.core import records as r
from lddp.core.records import Kind, Record
from lddp.doors.webhdfs import remote
from lddp.doors.webhdfs.context import Context, boolean, done
from lddp.doors.webhdfs.directories import DIRECTORY_MODE, missing_parents
from lddp.doors.webhdfs.identity import gid_of, uid_of
from lddp.doors.webhdfs.parameters import LONG_MAX, SHORT_MAX
from lddp.doors.webhdfs.remote import RemoteError, illegal, of_errno

UNCHANGED = -1
NS_IN_MS = 1_000_000


async def set_permission(context: Context) -> web.StreamResponse:
    """The set-id bits, of which HDFS knows nothing, go."""
    mode = context.parameters.permission("permission", DIRECTORY_MODE)
    await context.change(r.SetAttributes(*context.stamp(), context.changeable(), mode=mode), "SETPERMISSION")
    return done()


async def set_owner(context: Context) -> web.StreamResponse:
    owner, group = context.parameters.text("owner"), context.parameters.text("group")
    if not owner and not group:
        raise RemoteError(remote.ILLEGAL_ARGUMENT, "Both owner and group are empty.")
    uid = await uid_of(owner) if owner else None
    gid = await gid_of(group) if group else None
    await context.change(r.SetAttributes(*context.stamp(), context.changeable(), uid=uid, gid=gid), "SETOWNER")
    return done()


async def set_times(context: Context) -> web.StreamResponse:
    """Milliseconds; -1 leaves a time as it is. Access times are not kept."""
    high = LONG_MAX // NS_IN_MS
    modified = context.parameters.number("modificationtime", UNCHANGED, low=UNCHANGED, high=high)
    context.parameters.number("accesstime", UNCHANGED, low=UNCHANGED)
    context.changeable()
    context.require()
    if modified != UNCHANGED:
        record = r.SetAttributes(*context.stamp(), context.path, mtime_ns=modified * NS_IN_MS)
        await context.change(record, "SETTIMES")
    return done()


async def set_replication(context: Context) -> web.StreamResponse:
    """Accepted for files, as HDFS answers it, and without effect: a rule says which zones have a file."""
    context.parameters.number("replication", 1, low=1, high=SHORT_MAX)
    entry = context.access.entry(context.path)
    return boolean(entry is not None and entry.kind is Kind.FILE)


async def create_symlink(context: Context) -> web.StreamResponse:
    """The destination is kept as it is given; nothing here follows it."""
    target = context.parameters.text("destination").encode("utf-8", "surrogateescape")
    if not target or b"\0" in target or len(target) > limits.SYMLINK_TARGET_BYTES_MAX:
        raise illegal("destination", f"it must have 1 to {limits.SYMLINK_TARGET_BYTES_MAX} bytes and no NUL")
    account = await context.account()
    owner = account.uid, account.gid
    path = context.changeable()
    parents = context.parameters.flag("createparent")
    records: list[Record] = missing_parents(context, path, owner) if parents else []
    *_, outcome = await context.submit(*records, r.Symlink(*context.stamp(), path, target, *owner))
    if outcome.errno == errno.EEXIST:
        raise RemoteError(remote.EXISTS, f"failed to create link {context.shown}: it exists")
    if outcome.errno:
        raise of_errno(outcome.errno, f"CREATESYMLINK {context.shown}")
    return done()
