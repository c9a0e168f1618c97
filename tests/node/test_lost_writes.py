"""A filesystem that has lost writes has perhaps lost those of the store, which is on the same one."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest

from lddp.core.records import Put
from lddp.zones import posix
from tests.node.trio import PATIENCE_S
from tests.node.zones import zones

DATA = os.urandom(300_000)


async def test_blobs_are_not_trusted_after_a_sync_of_the_zone_was_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zone 2 was pushed the bytes and has not synced them; it makes the file again from its blob."""
    async with zones(tmp_path, 2, witness=True) as world:
        first, second = world.backend("zone-1"), world.nodes["zone-2"]
        assert second.projector is not None
        await asyncio.wait_for(second.projector.checkpoint(), PATIENCE_S)
        broken, honest = str(world.root("zone-2")), posix.sync_filesystem

        def sync(descriptor: int) -> None:
            if os.readlink(f"/proc/self/fd/{descriptor}") == broken:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            honest(descriptor)

        with monkeypatch.context() as patched:
            patched.setattr(posix, "sync_filesystem", sync)
            writer = first.content_writer(b"/data/f", len(DATA))
            await writer.write(DATA)
            content = await writer.commit()
            record = Put(first.next_id(), 0, 1000, b"/data/f", 0o644, os.getuid(), os.getgid(), content)
            gsn, outcome = await first.submit(record, PATIENCE_S)
            assert outcome.errno == 0
            writer.used()
            await second.gateway.wait(gsn, PATIENCE_S)
            await second.projector.wait_through(gsn, PATIENCE_S)
            assert (world.root("zone-2") / "f").read_bytes() == DATA
            checkpoint = asyncio.ensure_future(second.projector.checkpoint())
            await asyncio.wait([second.member.failed], timeout=PATIENCE_S)
            assert second.member.failed.done()
            checkpoint.cancel()
        world.nodes.pop("zone-2")
        await second.stop()

        blob = tmp_path / "zone-2" / "staging" / "content" / "blobs" / content.digest.hex()
        assert blob.exists(), "kept for other zones"
        blob.write_bytes(bytes(len(DATA)))  # what the kernel dropped reads as zeros
        (world.root("zone-2") / "f").write_bytes(bytes(len(DATA)))

        await world.start("zone-2")
        again = world.nodes["zone-2"]
        assert again.projector is not None
        await again.gateway.wait(gsn, PATIENCE_S)
        await again.projector.wait_through(gsn, PATIENCE_S)
        await asyncio.wait_for(again.projector.checkpoint(), PATIENCE_S)
        assert (world.root("zone-2") / "f").read_bytes() == DATA, "other bytes are durably there"
