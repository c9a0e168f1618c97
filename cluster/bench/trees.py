"""Trees of files to copy, equal in every run."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import NamedTuple

SEED = 20_240_101
PIECE_BYTES = 4 << 20


class Shape(NamedTuple):
    """`files` files of `size` bytes each, `in_each` to a directory."""

    name: str
    files: int
    size: int
    in_each: int

    @property
    def bytes(self) -> int:
        return self.files * self.size


SMALL = Shape("20,000 x 4 KiB", 20_000, 4096, 100)
LARGE = Shape("4 x 256 MiB", 4, 256 << 20, 4)


def make(shape: Shape, root: Path) -> None:
    """Makes the tree, of random bytes, below a directory that is new."""
    source = random.Random(SEED)
    root.mkdir()
    for number in range(shape.files):
        directory = root / f"d{number // shape.in_each:04}"
        if number % shape.in_each == 0:
            directory.mkdir()
        with open(directory / f"file-{number:06}", "wb") as file:
            left = shape.size
            while left:
                piece = source.randbytes(min(left, PIECE_BYTES))
                file.write(piece)
                left -= len(piece)


def count(root: Path) -> tuple[int, int]:
    """(files, bytes) below a directory."""
    files = total = 0
    for directory, _, names in os.walk(root):
        files += len(names)
        total += sum(os.lstat(os.path.join(directory, name)).st_size for name in names)
    return files, total
