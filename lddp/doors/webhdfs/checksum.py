"""The checksum of a file that HDFS's clients compare: the MD5 of the MD5s of each block's CRC-32Cs.

Source: `MD5MD5CRC32FileChecksum` and `FileChecksumHelper` of Hadoop. Of every BYTES_PER_CRC bytes the CRC-32C is taken,
four bytes, the highest first; of the CRCs of each block the MD5; of those the MD5 again. The last step covers the whole
buffer that the block MD5s were gathered in, zeros at its end included: it begins with 32 bytes and doubles. An empty
file has the checksum of such an empty buffer, under the name of another algorithm, as HDFS has always answered.
"""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple

import google_crc32c

BYTES_PER_CRC = 512
_BUFFER_BYTES_MIN = 32


class FileChecksum(NamedTuple):
    algorithm: str
    data: bytes
    """BYTES_PER_CRC, CRCs in a block (0 where one block is all) and the MD5: 28 bytes."""


class Summing:
    """Takes a file's bytes in pieces of a whole number of BYTES_PER_CRC, the last one excepted."""

    def __init__(self, block_bytes: int) -> None:
        assert block_bytes % BYTES_PER_CRC == 0
        self._block_bytes = block_bytes
        self._in_block = 0
        self._block = hashlib.md5(usedforsecurity=False)
        self._blocks = bytearray()

    def update(self, data: bytes) -> None:
        """Blocking, for as long as reading the bytes takes."""
        start = 0
        while start < len(data):
            stop = min(len(data), start + self._block_bytes - self._in_block)
            crc = google_crc32c.value
            sums = [crc(data[at : min(at + BYTES_PER_CRC, stop)]) for at in range(start, stop, BYTES_PER_CRC)]
            self._block.update(struct.pack(f">{len(sums)}I", *sums))
            self._in_block += stop - start
            if self._in_block == self._block_bytes:
                self._end_block()
            start = stop

    def _end_block(self) -> None:
        self._blocks += self._block.digest()
        self._block = hashlib.md5(usedforsecurity=False)
        self._in_block = 0

    def finish(self) -> FileChecksum:
        if self._in_block:
            self._end_block()
        size = _BUFFER_BYTES_MIN
        while size < len(self._blocks):
            size *= 2
        digest = hashlib.md5(self._blocks.ljust(size, b"\0"), usedforsecurity=False).digest()
        if not self._blocks:
            return FileChecksum("MD5-of-0MD5-of-0CRC32", struct.pack(">IQ", 0, 0) + digest)
        several = len(self._blocks) > hashlib.md5(usedforsecurity=False).digest_size
        per_block = self._block_bytes // BYTES_PER_CRC if several else 0
        algorithm = f"MD5-of-{per_block}MD5-of-{BYTES_PER_CRC}CRC32C"
        return FileChecksum(algorithm, struct.pack(">IQ", BYTES_PER_CRC, per_block) + digest)
