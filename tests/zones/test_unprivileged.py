"""Without privilege the zone does what its owner may, and says what it could not do."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.zones.conftest import IS_ROOT

NOBODY = 65534

SCRIPT = """
import errno, os, sys
from lddp.core.records import Attributes, Kind
from lddp.zones.posix import PosixZone
from tests.fakes.zone import Bytes

base = os.fsencode(sys.argv[1])
me, group = os.geteuid(), os.getegid()
assert me != 0

def mine(mode, mtime=5, xattrs=()):
    return Attributes(mode, me, group, mtime, xattrs)

with PosixZone(base + b"/root", base + b"/staging") as zone:
    status = zone.put_file(b"f", mine(0o400, 7, ((b"user.a", b"1"),)), Bytes(b"x"))
    assert (status.mode, status.uid, status.mtime_ns) == (0o400, me, 7), status
    assert zone.xattrs(b"f") == ((b"user.a", b"1"),)
    zone.set_attributes(b"f", Kind.FILE, mine(0o444, 8, ((b"user.b", b"2"),)))
    assert zone.xattrs(b"f") == ((b"user.b", b"2"),)
    zone.write(b"f", 0, Bytes(b"yz"), 2, mine(0o444, 9))
    status = zone.status(b"f")
    assert (status.mode, status.size, status.mtime_ns) == (0o444, 2, 9), status
    zone.put_file(b"f", mine(0o4555), Bytes(b"x"))
    assert zone.status(b"f").mode == 0o4555
    assert zone.shortfalls.total == 0, zone.shortfalls.recent()

    # owner, trusted xattrs and the set-id bits of another owner
    status = zone.put_file(b"g", Attributes(0o4755, 0, 0, 5, ((b"trusted.t", b"t"), (b"user.u", b"u"))), Bytes(b"x"))
    assert (status.mode, status.uid) == (0o755, me), status
    assert zone.xattrs(b"g") == ((b"user.u", b"u"),)
    short = zone.shortfalls.recent()
    assert {found.what for found in short} == {"owner", "mode", "trusted.t"}, short
    assert {found.path for found in short} == {b"g"}
    zone.make_node(b"l", Kind.SYMLINK, Attributes(0o777, 0, 0, 5), b"x", 0)
    assert zone.shortfalls.total == 4
    try:
        zone.make_node(b"n", Kind.CHARACTER_DEVICE, mine(0o600), b"", os.makedev(1, 3))
    except PermissionError:
        pass
    else:
        raise AssertionError("a device without privilege")

    # what belongs to others is read without O_NOATIME
    descriptor = zone.open_read(b"foreign")
    assert os.read(descriptor, 10) == b"foreign"
    os.close(descriptor)
    try:
        zone.set_attributes(b"foreign", Kind.FILE, mine(0o600))
    except PermissionError:
        pass
    else:
        raise AssertionError("another's file")

    # trees that are closed even to their owner
    zone.make_directory(b"d", mine(0o755))
    zone.make_directory(b"d/e", mine(0o755))
    zone.put_file(b"d/e/f", mine(0o000), Bytes(b""))
    zone.set_attributes(b"d/e", Kind.DIRECTORY, mine(0o000))
    zone.set_attributes(b"d", Kind.DIRECTORY, mine(0o555))
    zone.park(b"d", b"p")
    zone.unpark(b"p", b"d2")
    assert zone.status(b"d2").mode == 0o555
    zone.remove(b"d2")
    assert [name for name, _ in zone.list(b"")] == [b"f", b"foreign", b"g", b"l"]
    assert zone.locate(zone.status(b"f").handle) in (None, b"f")  # some kernels ask for privilege
    assert zone.alive(zone.status(b"f").handle) in (None, True)
    assert os.listdir(base + b"/staging/temporary") == []
print("done")
"""


@pytest.mark.skipif(not IS_ROOT, reason="needs root to become somebody else")
def test_as_nobody(tmp_path: Path) -> None:
    repository = Path(__file__).resolve().parents[2]
    top = Path(tempfile.gettempdir())
    for directory in [tmp_path, *(parent for parent in tmp_path.parents if top in parent.parents)]:
        os.chmod(directory, os.stat(directory).st_mode | 0o755)
    for name in ("root", "staging"):
        (tmp_path / name).mkdir()
        os.chown(tmp_path / name, NOBODY, NOBODY)
    (tmp_path / "root" / "foreign").write_bytes(b"foreign")
    become = f"import os; os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
    # The interpreter's own files may not be readable to the other user, so everything is imported before.
    imports = "import sys; import lddp.zones.posix, tests.fakes.zone\n"
    result = subprocess.run(
        [sys.executable, "-c", imports + become + SCRIPT, str(tmp_path)],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout == "done\n", result.stderr
