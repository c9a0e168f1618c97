"""PosixZone and FakeZone stay the same through random operations, failures included."""

from __future__ import annotations

import random
from typing import Any

import pytest

from lddp.core.records import Attributes, Kind
from lddp.ports import Status
from lddp.zones.posix import PosixZone
from tests.fakes.zone import Bytes, FakeZone
from tests.zones.conftest import AnyZone, attributes, read

NAMES = (b"a", b"b", b"\xff")
STEPS = 400


def random_path(random_: random.Random) -> bytes:
    return b"/".join(random_.choices(NAMES, k=random_.randint(1, 3)))


def random_attributes(random_: random.Random) -> Attributes:
    xattrs = tuple((name, bytes([random_.randrange(3)])) for name in (b"user.a", b"user.b") if random_.random() < 0.3)
    return attributes(random_.choice((0o755, 0o700, 0o4711)), random_.randrange(10**18), xattrs)


def random_call(random_: random.Random) -> tuple[str, tuple[Any, ...]]:
    path, to, wanted = random_path(random_), random_path(random_), random_attributes(random_)
    data = Bytes(random_.randbytes(random_.randrange(50)))
    parked = random_.choice((b"1", b"2"))
    plain = wanted._replace(xattrs=())
    return random_.choice(
        (
            ("make_directory", (path, wanted)),
            ("make_directory", (path, wanted)),
            ("put_file", (path, wanted, data)),
            ("put_file", (path, wanted, data)),
            ("make_node", (path, Kind.SYMLINK, plain, to, 0)),
            ("make_node", (path, Kind.FIFO, plain, b"", 0)),
            ("link", (path, to)),
            ("rename", (path, to)),
            ("rename", (path, to)),
            ("exchange", (path, to)),
            ("park", (path, parked)),
            ("unpark", (parked, path)),
            ("remove", (path,)),
            ("remove_parked", (parked,)),
            ("set_attributes", (path, random_.choice((Kind.FILE, Kind.DIRECTORY)), wanted)),
            ("write", (path, random_.randrange(40), data, random_.randrange(90, 100), wanted)),
            ("truncate", (path, random_.randrange(60), wanted)),
            ("status", (path,)),
            ("read_link", (path,)),
        )
    )


def outcome(zone: AnyZone, method: str, arguments: tuple[Any, ...]) -> object:
    try:
        result = getattr(zone, method)(*arguments)
    except OSError as error:
        return type(error), error.errno
    match result:
        case Status():
            return comparable(result)
        case (Status() as status, target):
            return comparable(status), target
        case bytes():
            return bool(result)  # a handle, which is the filesystem's own
        case _:
            return result


def comparable(status: Status) -> tuple[Any, ...]:
    """Without what a filesystem decides: identity, and of directories links, size and the time entries changed."""
    shared = (status.kind, status.mode, status.uid, status.gid)
    return shared if status.kind is Kind.DIRECTORY else (*shared, status.size, status.mtime_ns, status.links)


def tree(zone: AnyZone, path: bytes = b"") -> dict[bytes, object]:
    found: dict[bytes, object] = {}
    for name, status in zone.list(path):
        below = path + b"/" + name if path else name
        extra: object = None
        if status.kind is Kind.DIRECTORY:
            found |= tree(zone, below)
        elif status.kind is Kind.FILE:
            extra = read(zone, below)
        elif status.kind is Kind.SYMLINK:
            _, extra = zone.read_link(below)
        found[below] = (comparable(status), zone.xattrs(below), extra)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_random_operations(posix: PosixZone, seed: int) -> None:
    fake = FakeZone()
    random_ = random.Random(seed)
    for step in range(STEPS):
        method, arguments = random_call(random_)
        assert outcome(posix, method, arguments) == outcome(fake, method, arguments), (step, method, arguments)
        if step % 10 == 0:
            assert tree(posix) == tree(fake), (step, method, arguments)
    assert tree(posix) == tree(fake)
