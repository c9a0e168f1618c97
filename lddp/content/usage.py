"""How much room a store takes."""

from __future__ import annotations

import os
from typing import NamedTuple


class Usage(NamedTuple):
    """What a store holds. `*_bytes` of files are the blocks they occupy."""

    memory_bytes: int
    packs: int
    pack_file_bytes: int
    blobs: int
    blob_bytes: int
    part_bytes: int


def occupied(directory: str) -> tuple[int, int]:
    """(files, bytes of the blocks they occupy); a file that vanishes meanwhile is not counted."""
    files = occupied = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                occupied += entry.stat(follow_symlinks=False).st_blocks * 512
            except FileNotFoundError:
                continue
            files += 1
    return files, occupied
