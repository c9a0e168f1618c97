"""Random reads, writes, truncates, mappings, closes and renames of one file against bytes in memory, as `fsx` does.

    python -m cluster.fsx DIRECTORY --operations 100000 --seed 1

A program of its own, for a mount. `--hand-over DIRECTORY` is a second mount of the same rule at another node: from time
to time the file is closed in one and goes on in the other, after the nodes at the `--barrier` endpoints have caught up.
`--reader` begins with a file `fsx-0` that is there, has it open for reading before anything else, and looks at
everything through that as well. `scripts/fsx` runs many of them.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

LENGTH_MAX = 1 << 16
BARRIER_TIMEOUT_S = 300.0
"""A busy machine is not what is judged here."""


class Different(Exception):
    """The file is not what it should be."""


class Exercise:
    def __init__(
        self,
        directories: list[Path],
        seed: int,
        barrier: Callable[[], None],
        size_max: int,
        *,
        has_reader: bool,
        syncs: bool,
    ) -> None:
        self._directories = directories
        self._size_max = size_max
        self._random = random.Random(seed)
        self._barrier = barrier
        self._syncs = syncs
        self._here = 0
        self._name = "fsx-0"
        self._model = bytearray()
        self._readers: list[int] = []
        if has_reader:
            self._readers = [os.open(self._path, os.O_RDONLY)]
            self._model[:] = os.pread(self._readers[0], size_max, 0)
        self._file = os.open(self._path, os.O_RDWR | (0 if has_reader else os.O_CREAT | os.O_EXCL), 0o644)
        self.done = 0
        self._operations = [
            (30, self._read),
            (30, self._write),
            (8, self._truncate),
            (8, self._map_read),
            (8, self._map_write),
            (3, self._punch),
            (3, self._sync),
            (3, self._reopen),
            (2, self._append),
            (2, self._write_in_order),
            (2, self._truncate_by_name),
            (2, self._stat),
            (1, self._rename),
        ]
        if not has_reader:
            self._operations.append((1, self._replace))
        if len(directories) > 1:
            self._operations.append((1, self._hand_over))

    @property
    def _path(self) -> Path:
        return self._directories[self._here] / self._name

    def run(self, operations: int) -> None:
        weights = [weight for weight, _ in self._operations]
        for _ in range(operations):
            ((_, operation),) = self._random.choices(self._operations, weights)
            try:
                operation()
            except (OSError, Different) as error:
                raise SystemExit(f"operation {self.done} ({operation.__name__}): {error}") from error
            self.done += 1
        self._check_whole()
        for file in (self._file, *self._readers):
            os.close(file)

    # -- operations ---------------------------------------------------------------------------------------------------

    def _span(self, limit: int) -> tuple[int, int]:
        """(offset, length); most are small, and some begin and end at pages."""
        length = self._random.choice((self._random.randint(1, 64), self._random.randint(1, LENGTH_MAX), 4096))
        offset = self._random.randint(0, max(0, limit))
        return (offset // 4096 * 4096 if self._random.random() < 0.2 else offset), length

    def _bytes(self, length: int) -> bytes:
        return self._random.randbytes(length)

    def _same(self, found: bytes, offset: int) -> None:
        expected = bytes(self._model[offset : offset + len(found)])
        if found != expected:
            at = next(index for index, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b)
            raise Different(f"byte {offset + at} is {found[at]:#x} and should be {expected[at]:#x}")

    def _read(self) -> None:
        offset, length = self._span(len(self._model))
        for file in (self._file, *self._readers):
            found = os.pread(file, length, offset)
            if len(found) != max(0, min(length, len(self._model) - offset)):
                raise Different(f"{len(found)} bytes were read at {offset} of {len(self._model)}")
            self._same(found, offset)

    def _put(self, offset: int, data: bytes) -> None:
        if offset > len(self._model):
            self._model.extend(bytes(offset - len(self._model)))
        self._model[offset : offset + len(data)] = data

    def _write(self) -> None:
        offset, length = self._span(min(len(self._model) + 10_000, self._size_max - LENGTH_MAX))
        data = self._bytes(length)
        os.pwrite(self._file, data, offset)
        self._put(offset, data)

    def _write_in_order(self) -> None:
        """As programs make files: long enough to be sent before the close, where a mount does that so early."""
        offset = self._random.choice((0, len(self._model), self._random.randint(0, len(self._model))))
        end = min(offset + self._random.randint(0, 1 << 20), self._size_max)
        while offset < end:
            data = self._bytes(min(self._random.randint(1, LENGTH_MAX), end - offset))
            os.pwrite(self._file, data, offset)
            self._put(offset, data)
            offset += len(data)

    def _append(self) -> None:
        if len(self._model) + LENGTH_MAX > self._size_max:
            return
        data = self._bytes(self._span(0)[1])
        other = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        os.write(other, data)
        os.close(other)
        self._put(len(self._model), data)

    def _resize(self, size: int) -> None:
        self._model[size:] = b""
        self._model.extend(bytes(size - len(self._model)))

    def _truncate(self) -> None:
        size = self._random.choice(
            (0, self._random.randint(0, self._size_max), self._random.randint(0, len(self._model)))
        )
        os.ftruncate(self._file, size)
        self._resize(size)

    def _truncate_by_name(self) -> None:
        size = self._random.randint(0, min(self._size_max, len(self._model) * 2 + 1))
        os.truncate(self._path, size)
        self._resize(size)

    def _map_read(self) -> None:
        if self._model:
            with mmap.mmap(self._file, len(self._model), prot=mmap.PROT_READ) as mapping:
                offset, length = self._span(len(self._model) - 1)
                self._same(mapping[offset : offset + length], offset)

    def _map_write(self) -> None:
        if self._model:
            with mmap.mmap(self._file, len(self._model)) as mapping:
                offset, length = self._span(len(self._model) - 1)
                data = self._bytes(min(length, len(self._model) - offset))
                mapping[offset : offset + len(data)] = data
            self._put(offset, data)

    def _punch(self) -> None:
        if not self._model:
            return
        offset, length = self._span(len(self._model) - 1)
        length = min(length, len(self._model) - offset)
        command = ["fallocate", "-p", "-o", str(offset), "-l", str(length), str(self._path)]
        if length and subprocess.run(command, capture_output=True).returncode == 0:
            self._model[offset : offset + length] = bytes(length)

    def _sync(self) -> None:
        os.fsync(self._file)

    def _reopen(self) -> None:
        os.close(self._file)
        self._file = os.open(self._path, os.O_RDWR)
        self._check_whole()

    def _stat(self) -> None:
        sizes = {os.fstat(self._file).st_size, os.stat(self._path).st_size}
        if sizes != {len(self._model)}:
            raise Different(f"stat says {sizes}, it has {len(self._model)} bytes")

    def _rename(self) -> None:
        before, self._name = self._path, f"fsx-{self.done}"
        os.rename(before, self._path)

    def _replace(self) -> None:
        """As an editor saves: another file takes the name."""
        data = self._bytes(self._span(0)[1])
        other = self._path.with_suffix(".new")
        other.write_bytes(data)
        os.rename(other, self._path)
        self._same(os.pread(self._file, self._size_max + LENGTH_MAX, 0), 0)  # the open one is what it was
        os.close(self._file)
        self._file = os.open(self._path, os.O_RDWR)
        self._model[:] = data

    def _hand_over(self) -> None:
        if self._syncs:
            directory = os.open(self._path.parent, os.O_RDONLY)
            os.fsync(directory)
            os.close(directory)
        os.close(self._file)
        self._barrier()
        self._here = (self._here + 1) % len(self._directories)
        self._file = os.open(self._path, os.O_RDWR)
        self._check_whole()

    def _check_whole(self) -> None:
        self._stat()
        for file in (self._file, *self._readers):
            self._same(os.pread(file, self._size_max + LENGTH_MAX, 0), 0)


def barrier_of(endpoints: Sequence[str], token: str) -> Callable[[], None]:
    """Asks the nodes at these addresses, one after the other, to show all that is ordered."""
    headers = {"Authorization": f"Bearer {token}"}

    def barrier() -> None:
        for endpoint in endpoints:
            request = urllib.request.Request(f"{endpoint}/v1/barrier", method="POST", headers=headers)
            with urllib.request.urlopen(request, timeout=BARRIER_TIMEOUT_S) as answer:
                answer.read()

    return barrier


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--operations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size", type=int, default=3 << 20, help="bytes that the file has at most")
    parser.add_argument("--hand-over", type=Path)
    parser.add_argument("--barrier", action="append", default=[], metavar="URL")
    parser.add_argument("--token-file", type=Path)
    parser.add_argument("--sync", action="store_true", help="sync before each hand-over: the mounts are pipelined")
    parser.add_argument("--reader", action="store_true")
    arguments = parser.parse_args()
    directories = [arguments.directory] + ([arguments.hand_over] if arguments.hand_over else [])
    token = arguments.token_file.read_text("ascii").strip() if arguments.token_file else ""
    barrier = barrier_of(arguments.barrier, token)
    exercise = Exercise(
        directories, arguments.seed, barrier, arguments.size, has_reader=arguments.reader, syncs=arguments.sync
    )
    exercise.run(arguments.operations)
    sys.stdout.write(f"seed {arguments.seed}: {exercise.done} operations, all as they should be\n")


if __name__ == "__main__":
    main()
