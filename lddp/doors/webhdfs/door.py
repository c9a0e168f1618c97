"""The door: finds the operation of a request, lets the caller in, and turns every error into a RemoteException."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from lddp.access import Access
from lddp.doors.webhdfs import attributes, delegation, directories, reading, remote, writing, xattrs
from lddp.doors.webhdfs.context import PREFIX, Context
from lddp.doors.webhdfs.identity import Authenticator, Users
from lddp.doors.webhdfs.parameters import Parameters
from lddp.doors.webhdfs.remote import RemoteError, illegal
from lddp.errors import LddpError, UsageError
from lddp.serving.bodies import IDLE_S_MAX
from lddp.serving.paths import from_url

logger = logging.getLogger(__name__)
NS_IN_MS = 1_000_000

Operation = Callable[[Context], Awaitable[web.StreamResponse]]

OPERATIONS: Mapping[str, Mapping[str, Operation]] = {
    "GET": {
        "OPEN": reading.open_,
        "GETFILESTATUS": reading.get_file_status,
        "GETFILELINKSTATUS": reading.get_file_status,
        "GETLINKTARGET": reading.get_link_target,
        "LISTSTATUS": reading.list_status,
        "LISTSTATUS_BATCH": reading.list_status_batch,
        "GETCONTENTSUMMARY": reading.get_content_summary,
        "GETFILECHECKSUM": reading.get_file_checksum,
        "GETFILEBLOCKLOCATIONS": reading.get_file_block_locations,
        "GET_BLOCK_LOCATIONS": reading.get_block_locations,
        "GETHOMEDIRECTORY": reading.get_home_directory,
        "GETTRASHROOT": reading.get_trash_root,
        "GETACLSTATUS": reading.get_acl_status,
        "GETSERVERDEFAULTS": reading.get_server_defaults,
        "CHECKACCESS": reading.check_access,
        "GETXATTRS": xattrs.get_xattrs,
        "LISTXATTRS": xattrs.list_xattrs,
        "GETDELEGATIONTOKEN": delegation.get_token,
    },
    "PUT": {
        "CREATE": writing.create,
        "MKDIRS": directories.make_directories,
        "CREATESYMLINK": attributes.create_symlink,
        "RENAME": directories.rename,
        "SETREPLICATION": attributes.set_replication,
        "SETOWNER": attributes.set_owner,
        "SETPERMISSION": attributes.set_permission,
        "SETTIMES": attributes.set_times,
        "SETXATTR": xattrs.set_xattr,
        "REMOVEXATTR": xattrs.remove_xattr,
        "RENEWDELEGATIONTOKEN": delegation.renew_token,
        "CANCELDELEGATIONTOKEN": delegation.cancel_token,
    },
    "POST": {"APPEND": writing.append, "CONCAT": writing.concat, "TRUNCATE": writing.truncate},
    "DELETE": {"DELETE": directories.delete},
}

ELSEWHERE: Mapping[str, frozenset[str]] = {
    "GET": frozenset(
        (
            *("GETQUOTAUSAGE", "GETTRASHROOTS", "GETALLSTORAGEPOLICY", "GETSTORAGEPOLICY", "GETSNAPSHOTDIFF"),
            *("GETSNAPSHOTDIFFLISTING", "GETSNAPSHOTTABLEDIRECTORYLIST", "GETSNAPSHOTLIST", "GETECPOLICY"),
            *("GETECPOLICIES", "GETECCODECS", "GETSTATUS", "GETDELEGATIONTOKENS"),
        )
    ),
    "PUT": frozenset(
        (
            *("MODIFYACLENTRIES", "REMOVEACLENTRIES", "REMOVEDEFAULTACL", "REMOVEACL", "SETACL", "ALLOWSNAPSHOT"),
            *("DISALLOWSNAPSHOT", "CREATESNAPSHOT", "RENAMESNAPSHOT", "SETSTORAGEPOLICY", "SATISFYSTORAGEPOLICY"),
            *("ENABLEECPOLICY", "DISABLEECPOLICY", "SETECPOLICY", "SETQUOTA", "SETQUOTABYSTORAGETYPE"),
        )
    ),
    "POST": frozenset(("UNSETSTORAGEPOLICY", "UNSETECPOLICY")),
    "DELETE": frozenset(("DELETESNAPSHOT",)),
}
"""Operations of the specification that make no sense for a replicated tree of POSIX files."""


class Door:
    """WebHDFS over a node. `token` is the ecosystem's; `simple` also lets in who has none."""

    def __init__(self, access: Access, token: str, simple: bool = False, idle_s: float = IDLE_S_MAX) -> None:
        self._access = access
        self._authenticator = Authenticator(token, simple)
        self._users = Users()
        self._idle_s = idle_s

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answers one request below `/webhdfs/v1`."""
        try:
            return await self._answer(request)
        except RemoteError as error:
            return remote.answer(error)
        except LddpError as error:
            return remote.answer(remote.of_error(error))
        except ConnectionError:
            raise  # The client is gone.
        except OSError as error:
            return remote.answer(remote.of_errno(error.errno or 0, f"{request.method} {request.path}"))
        except Exception as error:
            logger.exception("unforeseen error in %s %s", request.method, request.path)
            message = f"the node met an unforeseen {type(error).__name__}; its log has the details"
            return remote.answer(RemoteError(remote.RUNTIME, message))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        parameters = Parameters(request.raw_path.partition("?")[2])
        caller = self._authenticator.caller(request, parameters, self._access.time_ns() // NS_IN_MS)
        operation = _operation(request.method, parameters.text("op"))
        if self._access.zone_number() < 0:
            raise RemoteError(remote.STANDBY, "this node is a witness and has no files; ask another one")
        try:
            path = from_url(request.raw_path, PREFIX, root=True)
        except UsageError as error:
            raise RemoteError(remote.ILLEGAL_ARGUMENT, f"Invalid path: {error}") from None
        context = Context(
            request, self._access, path, parameters, caller, self._authenticator.tokens, self._users, self._idle_s
        )
        return await operation(context)


def _operation(method: str, name: str) -> Operation:
    known = OPERATIONS.get(method)
    if known is None:
        raise RemoteError(remote.UNSUPPORTED, f"WebHDFS has no operation for the method {method[:20]}")
    if not name:
        raise RemoteError(remote.UNSUPPORTED, "op=NULL is not supported; say what to do with op=")
    found = known.get(name.upper())
    if found is not None:
        return found
    if name.upper() in ELSEWHERE[method]:
        raise RemoteError(remote.UNSUPPORTED, f"op={name.upper()} is not supported here")
    others = [other for other in OPERATIONS if name.upper() in {*OPERATIONS[other], *ELSEWHERE[other]}]
    hint = f"; it is an operation of {others[0]}" if others else ""
    raise illegal("op", f"No enum constant {method}.{name[:40]}{hint}")
