"""The namespace at and beyond its limits. Limits of the record format are in test_codec."""

from __future__ import annotations

import errno

import pytest

from lddp.core import limits, sessions
from lddp.core.machine import StateMachine
from lddp.core.records import (
    Append,
    Attributes,
    Barrier,
    DirectoryReport,
    Kind,
    Link,
    MakeDirectory,
    Observation,
    ObservedEntry,
    Operation,
    OperationId,
    Put,
    RemoveDirectory,
    Rename,
    SetXattr,
    Symlink,
    Truncate,
    Write,
)
from tests.fakes.tables import DictTables

from .support import SOURCE, Ledger, content, create_rule, listing, operation_id


class Client:
    def __init__(self, source: int = -1) -> None:
        self.ledger = Ledger()
        self.ledger.apply(create_rule(source=source))
        self.sequence = 0

    def do(self, operation: Operation) -> int:
        self.sequence += 1
        outcome, effects = self.ledger.apply(operation._replace(id=operation_id(self.sequence)))
        assert outcome.errno == 0 or effects == []
        return outcome.errno

    def put(self, path: bytes, data: bytes = b"x") -> int:
        return self.do(Put(operation_id(0), SOURCE, 5, path, 0o644, 0, 0, content(data)))

    def mkdir(self, path: bytes) -> int:
        return self.do(MakeDirectory(operation_id(0), SOURCE, 5, path, 0o755, 0, 0))


def test_xattrs_together() -> None:
    client = Client()
    client.put(b"/data/f")
    value = b"v" * limits.XATTR_VALUE_BYTES_MAX
    errnos = [
        client.do(SetXattr(operation_id(0), SOURCE, 5, b"/data/f", b"user.%d" % number, value)) for number in range(4)
    ]
    assert errnos == [0, 0, 0, errno.E2BIG]
    inode = client.ledger.view.resolve(b"/data/f")
    assert inode is not None
    assert [name for name, _ in inode.xattrs] == [b"user.0", b"user.1", b"user.2"]
    assert client.do(SetXattr(operation_id(0), SOURCE, 5, b"/data/f", b"user.0", b"")) == 0
    assert client.do(SetXattr(operation_id(0), SOURCE, 5, b"/data/f", b"user.3", value)) == 0


def test_links(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LINKS_MAX", 5)
    client = Client()
    client.put(b"/data/f")
    errnos = [client.do(Link(operation_id(0), SOURCE, 5, b"/data/f", b"/data/l%d" % number)) for number in range(5)]
    assert errnos == [0, 0, 0, 0, errno.EMLINK]


def test_paths() -> None:
    client = Client()
    name = b"n" * limits.NAME_BYTES_MAX
    assert client.mkdir(b"/data" + b"/" + name * 2) == errno.ENAMETOOLONG
    assert client.mkdir(b"/data" + (b"/" + name) * 257) == errno.ENAMETOOLONG
    assert client.mkdir(b"/data" + b"/n" * limits.PATH_COMPONENTS_MAX) == errno.ENAMETOOLONG
    assert client.mkdir(b"/data" + b"/n" * 4000) == errno.ENOENT
    assert client.do(Symlink(operation_id(0), SOURCE, 5, b"/data/s", b"t" * 4095, 0, 0)) == 0
    too_long = Symlink(operation_id(0), SOURCE, 5, b"/data/u", b"t" * 4096, 0, 0)
    assert client.do(too_long) == errno.ENAMETOOLONG


def test_file_sizes() -> None:
    client = Client()
    client.put(b"/data/f", b"12345678")
    largest = limits.GROWN_BYTES_MAX
    assert client.do(Truncate(operation_id(0), SOURCE, 5, b"/data/f", largest)) == 0
    assert client.do(Append(operation_id(0), SOURCE, 5, b"/data/f", content(b"x"))) == errno.EFBIG
    for offset, refusal in ((largest, errno.EFBIG), (limits.FILE_BYTES_MAX, errno.EINVAL), (-1, errno.EINVAL)):
        assert client.do(Write(operation_id(0), SOURCE, 5, b"/data/f", offset, content(b"x"))) == refusal
    for size, refusal in ((largest + 1, errno.EFBIG), (limits.FILE_BYTES_MAX + 1, errno.EINVAL), (-1, errno.EINVAL)):
        assert client.do(Truncate(operation_id(0), SOURCE, 5, b"/data/f", size)) == refusal
    assert client.do(Write(operation_id(0), SOURCE, 5, b"/data/f", largest - 1, content(b"x"))) == 0
    inode = client.ledger.view.resolve(b"/data/f")
    assert inode is not None and inode.size == largest


def test_a_deep_tree() -> None:
    """Depth is bounded by the length of a path, not by the interpreter's stack."""
    client = Client()
    depth = 1500
    path = b"/data"
    for _ in range(depth):
        path += b"/d"
        assert client.mkdir(path) == 0
    assert client.mkdir(b"/data/x") == 0
    assert client.do(Rename(operation_id(0), SOURCE, 5, b"/data/x", b"/data/y")) == 0
    machine = StateMachine(client.ledger.tables)
    put = Put(operation_id(10**6), SOURCE, 5, path + b"/f", 0o644, 0, 0, content(b"x"))
    outcome, effects = machine.apply(put)
    assert outcome.errno == 0
    assert effects[0].effect.path == b"d/" * depth + b"f"  # type: ignore[union-attr]
    machine.flush()
    assert client.ledger.view.resolve(path + b"/f") is not None
    assert client.do(Rename(operation_id(0), SOURCE, 5, b"/data/d", path + b"/e")) == errno.EINVAL
    assert client.do(RemoveDirectory(operation_id(0), SOURCE, 5, path)) == errno.ENOTEMPTY


def test_a_large_observation_and_its_removal() -> None:
    client = Client(source=SOURCE)
    rule = client.ledger.view.rule("data")
    root = client.ledger.view.resolve(b"/data")
    assert rule is not None and root is not None
    count = limits.OBSERVATION_ITEMS_MAX - 1
    attributes = Attributes(0o644, 0, 0, 1)
    top = ObservedEntry(b"top", b"top", Kind.DIRECTORY, attributes)

    def observe(report: DirectoryReport) -> None:
        record = Observation(operation_id(0), SOURCE, client.ledger.gsn, rule.number, (report,), ())
        outcome, _ = client.ledger.apply(record)
        assert (outcome.errno, outcome.void) == (0, ())

    observe(DirectoryReport(root.number, (top,), (), True, attributes))
    empty = client.ledger.machine.digest("data")
    found = client.ledger.view.resolve(b"/data/top")
    assert found is not None
    entries = tuple(ObservedEntry(b"%d" % n, b"id%d" % n, Kind.FILE, attributes, 1) for n in range(count))
    observe(DirectoryReport(found.number, entries, (), True, None))
    assert len(dict(listing(client.ledger.view, found.number, 1000))) == count
    assert len(list(client.ledger.view.pending("data"))) == count
    observe(DirectoryReport(found.number, (), tuple(entry.name for entry in entries), False, None))
    assert list(listing(client.ledger.view, found.number)) == []
    assert list(client.ledger.view.pending("data")) == []
    assert client.ledger.machine.digest("data") == empty


def test_outcomes_are_kept_for_the_window_and_then_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    window = 2500
    monkeypatch.setattr(sessions, "SESSION_WINDOW_RECORDS", window)
    machine = StateMachine(DictTables())
    machine.apply(create_rule())
    first = MakeDirectory(OperationId(b"first", 1), SOURCE, 5, b"/data/d", 0o755, 0, 0)
    assert machine.apply(first)[0].errno == 0
    for number in range(window - 1):
        machine.apply(Barrier(OperationId(b"admin", number + 1), 1, "data"))
    assert machine.apply(first)[0].errno == 0
    for number in range(3 * window):
        machine.apply(Barrier(OperationId(b"admin", 10**6 + number), 1, "data"))
    assert machine.apply(first)[0].errno == errno.EEXIST
