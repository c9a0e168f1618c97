"""The ecosystem's files as `lddp://` of fsspec, for pandas, dask, pyarrow and whatever else takes an fsspec filesystem.

    import fsspec
    with fsspec.open("lddp:///notes/hello", "wb", cluster="/tmp/lab") as file:
        file.write(b"hello")

Needs the extra `fsspec` (`pip install lddp[fsspec]`). See `LddpFileSystem`.
"""

from lddp.doors.fsspec.filesystem import LddpFileSystem

__all__ = ["LddpFileSystem"]
