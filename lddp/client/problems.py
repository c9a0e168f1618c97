"""Problem documents (RFC 9457) of the API as exceptions.

What the state machine refused is a FileError: an `OperationError` of lddp and an `OSError` of Python at once, and of
the subclass that fits its errno, so that `except FileNotFoundError` works. All else is of the tree in `lddp.errors`.
"""

from __future__ import annotations

import errno
import os
from typing import Any

from lddp import errors

PROBLEM_PREFIX = "urn:lddp:problem:"

_BY_WORD: dict[str, type[errors.LddpError]] = {
    "usage": errors.UsageError,
    "not-allowed": errors.NotAllowedError,
    "unavailable": errors.UnavailableError,
    "outcome-unknown": errors.OutcomeUnknownError,
    "limit": errors.LimitError,
    "format": errors.FormatError,
    "corrupt": errors.CorruptError,
    "storage": errors.StorageError,
}

_PASSING = (408, 429)
"""Statuses below 500 by which a proxy says that it is too slow, or too busy."""


class FileError(errors.OperationError, OSError):  # type: ignore[misc]  # both have an errno
    """The ecosystem refused an operation; `errno` says why, the message what to do."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(number, message)
        self.message = message
        self.strerror = message
        self.index = 0
        """Where the log says so; 0 where a node has found it without asking."""

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.errno, self.message)


class MissingError(FileError, FileNotFoundError):  # type: ignore[misc]
    pass


class ExistingError(FileError, FileExistsError):  # type: ignore[misc]
    pass


class DirectoryFoundError(FileError, IsADirectoryError):  # type: ignore[misc]
    pass


class NoDirectoryError(FileError, NotADirectoryError):  # type: ignore[misc]
    pass


class ForbiddenError(FileError, PermissionError):  # type: ignore[misc]
    pass


_BY_ERRNO: dict[int, type[FileError]] = {
    errno.ENOENT: MissingError,
    errno.EEXIST: ExistingError,
    errno.EISDIR: DirectoryFoundError,
    errno.ENOTDIR: NoDirectoryError,
    errno.EACCES: ForbiddenError,
    errno.EPERM: ForbiddenError,
    errno.EROFS: ForbiddenError,
}


def file_error(number: int, message: str) -> FileError:
    """The FileError of the class that fits."""
    return _BY_ERRNO.get(number, FileError)(number, message)


def outcome_error(number: int, what: str) -> FileError:
    """What a batch says of one operation: an errno and nothing else."""
    return file_error(number, f"{what}: {os.strerror(number)}")


def error_of(status: int, document: Any, change: bool = False) -> errors.LddpError:
    """The error that an answer of `status` 400 or more stands for; `document` is its JSON, None where it has none. To a
    `change`, it is OutcomeUnknownError where the answer says nothing of the record: a proxy gives one up that a node
    may order nevertheless, and so may a node that met what it did not foresee."""
    unsaid = errors.OutcomeUnknownError if change else errors.UnavailableError
    if not isinstance(document, dict) or not str(document.get("type", "")).startswith(PROBLEM_PREFIX):
        cls = unsaid if status >= 500 or status in _PASSING else errors.FormatError
        return cls(f"HTTP status {status} without a problem document; is it a node of lddp?")
    word = str(document["type"]).removeprefix(PROBLEM_PREFIX)
    detail, following = str(document.get("detail", "")), str(document.get("next", ""))
    message = detail if not following or following in detail else f"{detail}; {following}"
    if word == "elsewhere":
        nodes = document.get("nodes", [])
        names = ", ".join(str(node.get("name")) for node in nodes)
        return errors.ElsewhereError(f"{message} ({names})" if names else message, nodes)
    known = _BY_WORD.get(word)
    if known is not None:
        return known(message)
    number = getattr(errno, str(document.get("errno", "")), 0)
    if not number:
        return unsaid(message) if status >= 500 else errors.UsageError(message)
    return file_error(number, message)


def is_passing(error: errors.LddpError) -> bool:
    """Whether the same request may be answered otherwise a little later, or at another node."""
    passing = isinstance(error, errors.OperationError) and error.errno == errno.EAGAIN
    return passing or isinstance(error, errors.UnavailableError)
