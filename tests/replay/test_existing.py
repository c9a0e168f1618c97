"""What the policies of --on-existing do where the target has something already."""

from __future__ import annotations

import errno

import pytest

from lddp.core import effects as e
from lddp.core.records import Attributes, Kind
from lddp.replay.carrier import Carrier
from lddp.replay.existing import OnExisting, file_digest, is_as_wanted
from tests.core.support import content
from tests.fakes.zone import Bytes, FakeZone

OLD = Attributes(0o600, 1, 1, 1000)
NEW = Attributes(0o644, 2, 2, 2000)
WANTED = content(b"the bytes")
OTHER = b"BYTES the"
OVERWRITE, IDENTICAL, SAME, KEEP = OnExisting


def zone_with(what: str) -> FakeZone:
    zone = FakeZone()
    match what:
        case "identical":
            zone.put_file(b"f", OLD, Bytes(b"the bytes"))
        case "same size":
            zone.put_file(b"f", OLD, Bytes(OTHER))
        case "same size and time":
            zone.put_file(b"f", OLD._replace(mtime_ns=2000), Bytes(OTHER))
        case "another size":
            zone.put_file(b"f", OLD._replace(mtime_ns=2000), Bytes(b"the bytes."))
        case "hard link":
            zone.put_file(b"other", OLD._replace(mtime_ns=2000), Bytes(b"the bytes"))
            zone.link(b"other", b"f")
        case "directory":
            zone.make_directory(b"f", OLD)
        case "symlink":
            zone.make_node(b"f", Kind.SYMLINK, OLD, b"target", 0)
    return zone


@pytest.mark.parametrize(
    ("what", "wanted"),
    [
        ("nothing", {OVERWRITE: None, IDENTICAL: None, SAME: None, KEEP: None}),
        ("identical", {OVERWRITE: None, IDENTICAL: True, SAME: None, KEEP: False}),
        ("same size", {OVERWRITE: None, IDENTICAL: None, SAME: None, KEEP: False}),
        ("same size and time", {OVERWRITE: None, IDENTICAL: None, SAME: True, KEEP: False}),
        ("another size", {OVERWRITE: None, IDENTICAL: None, SAME: None, KEEP: False}),
        ("hard link", {OVERWRITE: None, IDENTICAL: None, SAME: None, KEEP: False}),
        ("directory", {OVERWRITE: None, IDENTICAL: None, SAME: None, KEEP: False}),
        ("symlink", {OVERWRITE: None, IDENTICAL: None, SAME: None, KEEP: False}),
    ],
)
def test_decisions(what: str, wanted: dict[OnExisting, bool | None]) -> None:
    decided = {policy: is_as_wanted(zone_with(what), b"f", WANTED, NEW, policy) for policy in OnExisting}
    assert decided == wanted


def carried(zone: FakeZone, policy: OnExisting, observed: bool = True, replaces: bool = False) -> Carrier:
    carrier = Carrier(zone, policy)
    carrier.carry(e.PutFileEffect(5, b"f", NEW, WANTED, observed, replaces), Bytes(b"the bytes"))
    return carrier


def writes(zone: FakeZone) -> int:
    return [method for method, _ in zone.calls[1:]].count("put_file")


def test_bytes_that_are_right_are_not_written_but_attributes_are() -> None:
    zone = zone_with("identical")
    before = zone.status(b"f").inode
    carrier = carried(zone, IDENTICAL)
    assert (zone.status(b"f").inode, writes(zone), carrier.bytes_written) == (before, 0, 0)
    assert zone.root.entries[b"f"].attributes == NEW


def test_skip_same_size_mtime_reads_nothing() -> None:
    zone = zone_with("same size and time")
    carried(zone, SAME)
    assert bytes(zone.root.entries[b"f"].data) == OTHER
    assert ("open_read", b"f") not in zone.calls


def test_kept_files_are_listed_and_untouched() -> None:
    zone = zone_with("same size")
    carrier = carried(zone, KEEP)
    assert carrier.kept == {b"f"}
    assert (bytes(zone.root.entries[b"f"].data), zone.root.entries[b"f"].attributes) == (OTHER, OLD)


@pytest.mark.parametrize("policy", list(OnExisting))
def test_a_file_that_a_client_wrote_is_written_whatever_the_policy(policy: OnExisting) -> None:
    zone = zone_with("same size and time")
    carried(zone, policy, observed=False)
    assert (bytes(zone.root.entries[b"f"].data), zone.root.entries[b"f"].attributes) == (b"the bytes", NEW)


@pytest.mark.parametrize("policy", list(OnExisting))
def test_a_file_that_replaces_one_of_the_log_is_written_whatever_the_policy(policy: OnExisting) -> None:
    zone = zone_with("same size and time")
    carried(zone, policy, replaces=True)
    assert (bytes(zone.root.entries[b"f"].data), zone.root.entries[b"f"].attributes) == (b"the bytes", NEW)


@pytest.mark.parametrize("policy", [OVERWRITE, IDENTICAL, SAME])
@pytest.mark.parametrize("what", ["nothing", "same size", "another size", "hard link", "directory", "symlink"])
def test_what_is_not_right_is_replaced(policy: OnExisting, what: str) -> None:
    zone = zone_with(what)
    carried(zone, policy)
    found = zone.root.entries[b"f"]
    assert (found.kind, bytes(found.data), found.attributes, found.links) == (Kind.FILE, b"the bytes", NEW, 1)


def test_no_test_is_made_below_a_directory_that_was_just_made() -> None:
    zone = FakeZone()
    carrier = Carrier(zone, IDENTICAL)
    carrier.carry(e.MakeDirectoryEffect(4, b"d", NEW), None)
    zone.calls.clear()
    carrier.carry(e.PutFileEffect(5, b"d/f", NEW, WANTED, True), Bytes(b"the bytes"))
    assert [method for method, _ in zone.calls] == ["put_file"]


def test_a_directory_that_was_there_is_not_taken_for_new() -> None:
    zone = FakeZone()
    zone.make_directory(b"d", OLD)
    zone.put_file(b"d/f", OLD, Bytes(OTHER))
    carrier = Carrier(zone, KEEP)
    carrier.carry(e.MakeDirectoryEffect(4, b"d", NEW), None)
    carrier.carry(e.PutFileEffect(5, b"d/f", NEW, WANTED, True), Bytes(b"the bytes"))
    assert bytes(zone.root.entries[b"d"].entries[b"f"].data) == OTHER


def test_a_target_that_cannot_be_read_stops_the_zone() -> None:
    zone = zone_with("identical")
    zone.fail(errno.EACCES, method="open_read")
    with pytest.raises(PermissionError):
        carried(zone, IDENTICAL)


def test_file_digest_of_an_empty_file() -> None:
    zone = FakeZone()
    zone.put_file(b"f", OLD, Bytes(b""))
    assert file_digest(zone, b"f") == content(b"").digest
