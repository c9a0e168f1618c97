"""Every error that lddp raises on purpose.

    LddpError
    ├── UsageError                 what the caller asked for makes no sense         exit 2, HTTP 400
    │   └── ConfigError            a configuration file or environment variable is wrong
    ├── NotAllowedError            no credential, or the wrong one                  exit 4, HTTP 403
    ├── UnavailableError           no node, no leader, no quorum, deadline passed   exit 3, HTTP 503
    │   ├── OutcomeUnknownError    it may or may not take effect; retry with the same id
    │   └── ElsewhereError         this node cannot answer it; names those that can
    ├── OperationError             the state machine refused; carries an errno      exit 1, HTTP by errno
    ├── LimitError                 a record, frame or name beyond its limit         exit 1, HTTP 413
    ├── FormatError                bytes that are not what they should be           exit 1, HTTP 400
    │   ├── CorruptError           stored bytes that were right once and are not now
    │   └── NewerFormatError       bytes that a later version of lddp wrote
    ├── StorageError               a node's own database or disk failed
    └── ZoneError                  a zone's filesystem refused an effect; carries an errno

An error message is one line: what is wrong, then what to do.
"""

from __future__ import annotations

import errno as _errno
import os as _os
from collections.abc import Mapping, Sequence

_STATUS_BY_ERRNO = {
    _errno.ENOENT: 404,
    _errno.EEXIST: 409,
    _errno.ENOTEMPTY: 409,
    _errno.EISDIR: 409,
    _errno.ENOTDIR: 409,
    _errno.EXDEV: 409,
    _errno.ESTALE: 412,
    _errno.EROFS: 403,
    _errno.EACCES: 403,
    _errno.EPERM: 403,
    _errno.EINVAL: 400,
    _errno.ENAMETOOLONG: 400,
    _errno.E2BIG: 413,
    _errno.EFBIG: 413,
    _errno.ENODATA: 404,
    _errno.EMLINK: 409,
    _errno.ENOSPC: 507,
    _errno.EDQUOT: 507,
    _errno.EAGAIN: 503,
}


class LddpError(Exception):
    """Base of all; `errno` is 0 where no errno fits."""

    errno: int = 0
    http_status: int = 500
    exit_code: int = 1


class UsageError(LddpError):
    errno = _errno.EINVAL
    http_status = 400
    exit_code = 2


class ConfigError(UsageError):
    pass


class NotAllowedError(LddpError):
    errno = _errno.EACCES
    http_status = 403
    exit_code = 4


class UnavailableError(LddpError):
    errno = _errno.EAGAIN
    http_status = 503
    exit_code = 3


class OutcomeUnknownError(UnavailableError):
    pass


class ElsewhereError(UnavailableError):
    """`nodes` are those to ask instead, each with `name`, `zone` and `http` (a URL, or None where it is not known)."""

    def __init__(self, message: str, nodes: Sequence[Mapping[str, str | None]] = ()) -> None:
        super().__init__(message)
        self.nodes = tuple(nodes)


class OperationError(LddpError):
    """The state machine's refusal, the same on every node."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.errno = number
        self.http_status = http_status(number)


class LimitError(LddpError):
    errno = _errno.E2BIG
    http_status = 413


class FormatError(LddpError):
    errno = _errno.EINVAL
    http_status = 400


class CorruptError(FormatError):
    errno = _errno.EIO
    http_status = 500


class NewerFormatError(FormatError):
    pass


class StorageError(LddpError):
    errno = _errno.EIO


class ZoneError(LddpError):
    """The zone's filesystem refused; `errno` says how."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.errno = number
        self.http_status = http_status(number)


def http_status(number: int) -> int:
    """HTTP status for an errno; 500 for one that has none of its own."""
    return _STATUS_BY_ERRNO.get(number, 500)


def errno_name(number: int) -> str:
    """`ENOENT` for 2; `errno 9999` for a number without a name."""
    return _errno.errorcode.get(number, f"errno {number}")


def errno_text(number: int) -> str:
    """The system's sentence for an errno."""
    return _os.strerror(number)


def quoted(path: bytes) -> str:
    """A path for a message: in quotes, and readable whatever its bytes are."""
    return repr(path.decode(errors="backslashreplace"))
