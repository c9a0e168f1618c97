"""Who asks, and how owners are called.

Whoever shows the ecosystem's token, or a delegation token signed with it, may do everything, as at the HTTP API. With
simple authentication everybody may, under the name given as `user.name`. The name owns what is made, says where home
is, and is what CHECKACCESS is about.
"""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from aiohttp import web

from lddp.access import Entry
from lddp.doors.webhdfs import remote
from lddp.doors.webhdfs.parameters import Parameters
from lddp.doors.webhdfs.remote import RemoteError
from lddp.doors.webhdfs.tokens import Invalid, Tokens
from lddp.serving.credentials import bearer_of, same

NAMES_MAX = 10_000
ID_MAX = 2**32 - 2


class Shown(Enum):
    """What a caller was let in for."""

    TOKEN = 1
    DELEGATION = 2
    NOTHING = 3
    """Simple authentication."""


class Caller(NamedTuple):
    user: str
    """Empty: nobody in particular, which is the node's own user."""
    shown: Shown


class Authenticator:
    """Lets a request in. `simple` takes those without any token too."""

    def __init__(self, token: str, simple: bool) -> None:
        self._token = token
        self._simple = simple
        self.tokens = Tokens(token)

    def caller(self, request: web.Request, parameters: Parameters, now_ms: int) -> Caller:
        """Raises RemoteError: SecurityException where no credential is good, InvalidToken for a delegation token."""
        named = parameters.user("doas") or parameters.user("user.name")
        bearer = bearer_of(request)
        if bearer is not None:
            if same(bearer, self._token):
                return Caller(named, Shown.TOKEN)
            raise _refused()
        delegation = parameters.text("delegation")
        if delegation:
            if same(delegation, self._token):
                return Caller(named, Shown.TOKEN)
            try:
                return Caller(self.tokens.check(delegation, now_ms).owner, Shown.DELEGATION)
            except Invalid as error:
                raise RemoteError(remote.INVALID_TOKEN, str(error)) from None
        # A page of some website, shown in a browser on the trusted network, is nobody to be trusted.
        if self._simple and "Origin" not in request.headers:
            return Caller(named, Shown.NOTHING)
        raise _refused()


def _refused() -> RemoteError:
    message = (
        "the request has no valid token; send the ecosystem's as 'Authorization: Bearer TOKEN' or delegation=TOKEN"
    )
    return RemoteError(remote.SECURITY, message)


class Users:
    """Names of users and groups on this machine. Looking them up may block, so it is done in a thread, and kept."""

    def __init__(self) -> None:
        self._users: dict[int, str] = {}
        self._groups: dict[int, str] = {}

    async def learn(self, entries: Iterable[Entry]) -> None:
        """Makes the names of these owners known to `owner` and `group`."""
        rows = list(entries)
        uids = {entry.uid for entry in rows} - self._users.keys()
        gids = {entry.gid for entry in rows} - self._groups.keys()
        if not uids and not gids:
            return
        users, groups = await asyncio.to_thread(_look_up, uids, gids)
        for known, found in ((self._users, users), (self._groups, groups)):
            if len(known) + len(found) > NAMES_MAX:
                known.clear()
            known.update(found)

    def owner(self, entry: Entry) -> str:
        """A name, or the number of a user whom this machine does not know."""
        return self._users.get(entry.uid, str(entry.uid))

    def group(self, entry: Entry) -> str:
        return self._groups.get(entry.gid, str(entry.gid))


def _look_up(uids: Iterable[int], gids: Iterable[int]) -> tuple[dict[int, str], dict[int, str]]:
    users, groups = {}, {}
    for uid in uids:
        try:
            users[uid] = pwd.getpwuid(uid).pw_name
        except (KeyError, OverflowError):
            users[uid] = str(uid)
    for gid in gids:
        try:
            groups[gid] = grp.getgrgid(gid).gr_name
        except (KeyError, OverflowError):
            groups[gid] = str(gid)
    return users, groups


class Account(NamedTuple):
    """A user as the kernel knows one."""

    name: str
    uid: int
    gid: int
    groups: frozenset[int]
    """Empty for who has no account on this machine; `uid` and `gid` are the node's own then."""
    superuser: bool
    """The node's own user, or root: every access is allowed."""


async def account_of(name: str) -> Account:
    """The account on this machine; who has none here acts as the node's own user, under the name given."""
    return await asyncio.to_thread(_account, name)


def _account(name: str) -> Account:
    own = os.geteuid()
    try:
        entry = pwd.getpwnam(name) if name else pwd.getpwuid(own)
    except KeyError:
        return Account(name or str(own), own, os.getegid(), frozenset(), not name)
    groups = frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid)) if name else frozenset()
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, groups, entry.pw_uid in (0, own))


async def uid_of(name: str) -> int:
    """A user's number, by name or as a number. Raises RemoteError (IllegalArgumentException) for a stranger."""
    return await asyncio.to_thread(_number_of, "owner", name)


async def gid_of(name: str) -> int:
    return await asyncio.to_thread(_number_of, "group", name)


def _number_of(kind: str, name: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid if kind == "owner" else grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):  # ValueError: a NUL in it
        if name.isascii() and name.isdigit() and len(name) <= 10 and int(name) <= ID_MAX:
            return int(name)
    raise remote.illegal(kind, f"{name[:80]!r} is not known on this machine; give a number")


def allowed(account: Account, entry: Entry, action: str) -> bool:
    """Whether the permission bits allow `rwx` in `action`, as HDFS and POSIX decide it: by the first class that fits.
    For a user without an account here that is the class of all others."""
    if account.superuser:
        return True
    if account.groups and entry.uid == account.uid:
        bits = entry.mode >> 6
    elif entry.gid in account.groups:
        bits = entry.mode >> 3
    else:
        bits = entry.mode
    wanted = sum(bit for bit, letter in ((4, "r"), (2, "w"), (1, "x")) if letter in action)
    return bits & wanted == wanted
