"""fallocate(2) of open files: room for them, and holes in them."""

from __future__ import annotations

import errno

from lddp.core import limits
from lddp.doors.fuse import copying
from lddp.doors.fuse.file import File
from lddp.doors.fuse.files import Files
from lddp.doors.fuse.ordering import refused


async def allocate(files: Files, file: File, mode: int, offset: int, length: int) -> None:
    """OSError(EOPNOTSUPP) for modes that there are not here. Where it fails or is cancelled, the file keeps its size;
    bytes that may be others nevertheless count as changed."""
    if mode not in copying.ALLOCATIONS:
        raise refused(errno.EOPNOTSUPP)
    async with file.lock:
        await files.stage(file, size=limits.FILE_BYTES_MAX)  # it is the disk's room that is asked for
        before = file.size
        try:
            for copy in file.copies:
                await files.run(copying.allocate, copy, mode, offset, length)
        except BaseException as error:
            if getattr(error, "errno", 0) != errno.EOPNOTSUPP:
                _note(files, file, mode, offset, min(offset + length, before))
                file.cut(before)
                files.misled(file.number)  # the kernel takes it for not done
            raise
        _note(files, file, mode, offset, min(offset + length, before))
        if not mode & copying.KEEP_SIZE and offset + length > before:
            files.resize(file, offset + length)


def _note(files: Files, file: File, mode: int, start: int, stop: int) -> None:
    if mode & ~copying.KEEP_SIZE:
        files.note(file, start, stop)
