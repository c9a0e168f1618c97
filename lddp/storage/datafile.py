"""Looks at an LMDB data file before LMDB maps it: a map of a file that is too short ends the process (SIGBUS)."""

from __future__ import annotations

import os
import struct

from lddp.errors import CorruptError

# mdb.c of LMDB 0.9: a page header of 16 bytes, then MDB_meta. Native byte order; files do not travel.
_MAGIC = 0xBEEFC0DE
_PAGE_HEADER_BYTES = 16
_META = struct.Struct("=IIQQ" + "IHHQQQQQ" * 2 + "QQ")
_PAGE_BYTES_MIN = 256
_PAGE_BYTES_MAX = 0x10000


def refuse_truncated(path: str) -> None:
    """Raises CorruptError where the file at `path` is shorter than its meta pages say and a page in use is missing.

    A file that is not there, is empty, or has no readable meta pages is left to LMDB's own checks. A file that lacks
    only free pages at its end, as a crash while it grew may leave it, is made as long as promised.
    """
    try:
        size = os.path.getsize(path)
    except FileNotFoundError:
        return
    promised = _promised_bytes(path)
    if size >= promised:
        return
    problems = _problems(path)
    if problems:
        raise CorruptError(f"{path} has {size} of {promised} bytes ({problems[0]}); restore this node")
    os.truncate(path, promised)


def _promised_bytes(path: str) -> int:
    """Bytes up to the last page that the newer meta page counts; 0 where there is none to be read."""
    with open(path, "rb") as file:
        first = _read_meta(file.read(_PAGE_HEADER_BYTES + _META.size))
        if first is None:
            return 0
        page_bytes, last_page, transaction = first
        file.seek(page_bytes)
        second = _read_meta(file.read(_PAGE_HEADER_BYTES + _META.size))
    if second is not None and second[2] > transaction:
        last_page = second[1]
    return (last_page + 1) * page_bytes


def _read_meta(page: bytes) -> tuple[int, int, int] | None:
    """(page size, last page, transaction) of a meta page."""
    if len(page) < _PAGE_HEADER_BYTES + _META.size:
        return None
    fields = _META.unpack_from(page, _PAGE_HEADER_BYTES)
    magic, page_bytes, last_page, transaction = fields[0], fields[4], fields[-2], fields[-1]
    if magic != _MAGIC or not _PAGE_BYTES_MIN <= page_bytes <= _PAGE_BYTES_MAX:
        return None
    return page_bytes, last_page, transaction


def _problems(path: str) -> list[str]:
    """What is wrong with the file, by a walk over all its pages; empty where nothing in use is missing."""
    try:
        from lmdb import verify
    except ImportError:
        return ["its end is missing"]
    try:
        return list(verify.verify(path, subdir=False))  # type: ignore[no-untyped-call]
    except verify.VerifyError as error:
        return [str(error)]
