"""Contents on a filesystem that loses its power: what a node has said that it has durably is there afterwards.

python -m tests.crash.contents [--unsynced]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from random import Random

from lddp.content import suspects
from lddp.content.disk import GroupSync
from lddp.content.store import SHARED_SYNC_BYTES_MAX, Store
from lddp.core.records import Content
from tests.crash.cuts import obstacle
from tests.crash.volume import Volume

SIZES = (20_000, 300_000, 3_000_000, SHARED_SYNC_BYTES_MAX + 1)


def hold(store: Store, data: bytes, *, durable: bool) -> Content:
    """As what comes from a client or from another node is taken in."""
    arrival = store.arrival(durable=durable)
    arrival.write([data])
    digest = arrival.seal()
    store.publish(arrival, digest, durable=durable)
    return Content(digest, len(data))


def lost(*, durable: bool) -> int:
    """How many of SIZES contents are not there, whole, after a power cut."""
    chance = Random(1)
    pieces = [chance.randbytes(size) for size in SIZES]
    with tempfile.TemporaryDirectory(prefix="lddp-crash-") as name, Volume(Path(name)) as disk:
        boot = Path(name) / "boot"
        suspects.BOOT_ID_PATH = str(boot)
        boot.write_text("first\n")
        first = Store(disk.mounted / "content")
        disk.write_back()  # the store is older than its contents
        contents = [hold(first, data, durable=durable) for data in pieces]
        disk.cut()
        first.close()
        disk.end()
        disk.begin()
        boot.write_text("second\n")
        second = Store(disk.mounted / "content")
        found = [second.open(content) for content in contents]
        there = [b"" if one is None else b"".join(bytes(piece) for _, piece in one.chunks()) for one in found]
        second.close()
    return sum(one != data for one, data in zip(there, pieces, strict=True))


def main(arguments: list[str]) -> int:
    """How many are lost that were said to be durable, and of others; with --unsynced nothing is ever synced."""
    reason = obstacle()
    if reason:
        print(f"not here: {reason}")
        return 0
    if "--unsynced" in arguments:
        GroupSync.sync = lambda _self, _descriptor, _directory: None  # type: ignore[method-assign]
    print(f"{lost(durable=True)} durable, {lost(durable=False)} others")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
