"""Errors as Hadoop's clients expect them: a RemoteException in JSON, which they turn into the Java exception it names.

The status follows from the class (WebHDFS specification, "HTTP Response Codes"): 400 for arguments, 401 for missing
credentials, 404 for what does not exist, 403 for every other IOException, 500 for the rest.
"""

from __future__ import annotations

import errno
import json
from typing import NamedTuple

from aiohttp import web

from lddp import errors


class JavaClass(NamedTuple):
    name: str
    """Fully qualified, with `$` before a nested class."""
    status: int

    @property
    def simple(self) -> str:
        return self.name.rpartition(".")[2].rpartition("$")[2]


IO = JavaClass("java.io.IOException", 403)
ILLEGAL_ARGUMENT = JavaClass("java.lang.IllegalArgumentException", 400)
UNSUPPORTED = JavaClass("java.lang.UnsupportedOperationException", 400)
SECURITY = JavaClass("java.lang.SecurityException", 401)
RUNTIME = JavaClass("java.lang.RuntimeException", 500)
NOT_FOUND = JavaClass("java.io.FileNotFoundException", 404)
EXISTS = JavaClass("org.apache.hadoop.fs.FileAlreadyExistsException", 403)
NOT_EMPTY = JavaClass("org.apache.hadoop.fs.PathIsNotEmptyDirectoryException", 403)
NO_DIRECTORY = JavaClass("org.apache.hadoop.fs.ParentNotDirectoryException", 403)
ACCESS = JavaClass("org.apache.hadoop.security.AccessControlException", 403)
TOO_LONG = JavaClass("org.apache.hadoop.hdfs.protocol.FSLimitException$PathComponentTooLongException", 403)
RETRIABLE = JavaClass("org.apache.hadoop.ipc.RetriableException", 403)
STANDBY = JavaClass("org.apache.hadoop.ipc.StandbyException", 403)
INVALID_TOKEN = JavaClass("org.apache.hadoop.security.token.SecretManager$InvalidToken", 403)

BY_ERRNO: dict[int, JavaClass] = {
    errno.ENOENT: NOT_FOUND,
    errno.EEXIST: EXISTS,
    errno.ENOTEMPTY: NOT_EMPTY,
    errno.ENOTDIR: NO_DIRECTORY,
    errno.EISDIR: NOT_FOUND,  # HDFS: "Path is not a file"
    errno.EACCES: ACCESS,
    errno.EPERM: ACCESS,
    errno.EROFS: ACCESS,
    errno.EBUSY: ACCESS,
    errno.EINVAL: ILLEGAL_ARGUMENT,
    errno.E2BIG: ILLEGAL_ARGUMENT,
    errno.ENAMETOOLONG: TOO_LONG,
    errno.EAGAIN: RETRIABLE,
    errno.EXDEV: IO,
    errno.ESTALE: IO,
    errno.ENODATA: IO,
    errno.EFBIG: IO,
    errno.EMLINK: IO,
    errno.ENOSPC: IO,
    errno.EIO: IO,
}
"""Every errno that the state machine or a zone decides; any other is an IOException."""


class RemoteError(Exception):
    """An error with the Java class that the client is to raise."""

    def __init__(self, java: JavaClass, message: str) -> None:
        super().__init__(message)
        self.java = java


def illegal(parameter: str, reason: str) -> RemoteError:
    """A parameter's value is not in its domain, in the specification's words."""
    return RemoteError(ILLEGAL_ARGUMENT, f'Invalid value for webhdfs parameter "{parameter}": {reason}')


def of_errno(number: int, what: str) -> RemoteError:
    return RemoteError(BY_ERRNO.get(number, IO), f"{what}: {errors.errno_text(number)}")


def of_error(error: errors.LddpError) -> RemoteError:
    """An LddpError as a client of HDFS would see it."""
    if isinstance(error, errors.OutcomeUnknownError):
        java = IO  # not RetriableException: clients repeat those by themselves, with an operation of its own each time
    elif isinstance(error, errors.CorruptError | errors.StorageError):
        java = IO
    elif isinstance(error, errors.ElsewhereError):
        java = STANDBY  # clients that know several nodes ask the next one
    else:
        java = BY_ERRNO.get(error.errno, IO if error.errno else RUNTIME)
    return RemoteError(java, str(error))


def answer(error: RemoteError) -> web.Response:
    java = error.java
    document = {"RemoteException": {"exception": java.simple, "javaClassName": java.name, "message": str(error)}}
    response = web.Response(
        body=json.dumps(document).encode("ascii"), status=java.status, content_type="application/json"
    )
    if java is SECURITY:
        response.headers["WWW-Authenticate"] = 'Bearer realm="lddp"'
    return response
