"""What no zone could carry out is refused by the log: an operation that is taken and cannot be done stops every zone,
and does so again after the next start."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from lddp.client import Client, FileError, Options, Settings
from lddp.core.limits import GROWN_BYTES_MAX
from tests.node.zones import PATIENCE_S, TOKEN, Zones, zones

Ask = Callable[[Client], Awaitable[object]]

REFUSED: dict[str, tuple[int, Ask]] = {
    "NUL in the name of an attribute": (errno.EINVAL, lambda c: c.setxattr("/data/f", b"user.a\0b", b"1")),
    "an attribute without a name": (errno.EINVAL, lambda c: c.setxattr("/data/f", b"user.", b"1")),
    "a device that is none": (errno.EINVAL, lambda c: c.create("/data/d", kind="character_device", rdev=2**32)),
    "a fifo with such a number": (errno.EINVAL, lambda c: c.create("/data/p", kind="fifo", rdev=2**62)),
    "a write far away": (errno.EFBIG, lambda c: c.write_at("/data/f", GROWN_BYTES_MAX, b"x")),
    "a file made huge": (errno.EFBIG, lambda c: c.truncate("/data/f", GROWN_BYTES_MAX + 1)),
    "the largest number": (errno.EFBIG, lambda c: c.truncate("/data/f", 2**63 - 1)),
}
"""Each was accepted once, and stopped all zones."""

ACCEPTED: dict[str, Ask] = {
    "an attribute of no namespace": lambda c: c.setxattr("/data/f", b"no-namespace", b"1"),
    "an unknown system attribute": lambda c: c.setxattr("/data/f", b"system.unknown", b"1"),
    "an ACL that is none": lambda c: c.setxattr("/data/f", b"system.posix_acl_access", b"junk"),
    "a capability that is none": lambda c: c.setxattr("/data/f", b"security.capability", b"junk"),
    "a time long ago": lambda c: c.setattr("/data/f", mtime_ns=-(2**63)),
    "a time far ahead": lambda c: c.setattr("/data/f", mtime_ns=2**63 - 1),
}
"""Kept by the log; a zone that cannot have it counts a shortfall, and goes on."""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Zones]:
    async with zones(tmp_path, 1) as world:
        yield world


async def test_a_zone_goes_on_whatever_clients_ask_for(world: Zones) -> None:
    async with Client(Settings((world.url("zone-1"),), TOKEN), Options(PATIENCE_S)) as client:
        await client.write("/data/f", b"x")
        for what, (expected, ask) in REFUSED.items():
            with pytest.raises(FileError) as caught:
                await ask(client)
            assert caught.value.errno == expected, what
        for ask in ACCEPTED.values():
            await ask(client)
        await client.setattr("/data/f", mode=0o640, mtime_ns=1_000_000_000)
        projector = world.nodes["zone-1"].projector
        assert projector is not None
        await world.shown(await world.backend("zone-1").barrier(PATIENCE_S))
        found = (world.root("zone-1") / "f").stat()
    assert (found.st_mode & 0o7777, found.st_mtime_ns) == (0o640, 1_000_000_000), "what can be done is done"
    assert not projector.stopped
