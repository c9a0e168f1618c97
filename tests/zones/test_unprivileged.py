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


READ_ONLY = """
import os, sys, threading
from lddp.core.records import Attributes, Kind
from lddp.ports import NewFile
from lddp.zones.posix import PosixZone
from lddp.zones.workers import Workers
from tests.fakes.zone import Bytes

base = os.fsencode(sys.argv[1])
me, group = os.geteuid(), os.getegid()
assert me != 0
workers = Workers.start()

def mine(mode):
    return Attributes(mode, me, group, 5, ())

def modes(zone):
    # those of its own directories, which must be as they were given
    found, waiting = {}, [b""]
    while waiting:
        path = waiting.pop()
        found[path] = zone.status(path).mode
        own = [name for name, status in zone.list(path) if (status.kind, status.uid) == (Kind.DIRECTORY, me)]
        waiting += [path + b"/" + name if path else name for name in own]
    return found

with PosixZone(base + b"/root", base + b"/staging") as zone:
    zone.make_directory(b"", mine(0o555))
    zone.make_directory(b"ro", mine(0o555))
    zone.put_file(b"ro/f", mine(0o444), Bytes(b"x"))
    zone.make_directory(b"ro/sub", mine(0o555))
    zone.make_parked(b"aside")
    zone.make_directory(b"ro/sub/two", mine(0o500), b"aside")
    zone.make_node(b"ro/sub/l", Kind.SYMLINK, mine(0o777), b"f", 0)
    zone.make_node(b"ro/sub/p", Kind.FIFO, mine(0o600), b"", 0)
    zone.link(b"ro/f", b"ro/g")
    zone.link(b"ro/f", b"ro/sub/l")
    assert zone.status(b"ro/f").links == 3
    zone.rename(b"ro/g", b"ro/h")
    zone.rename(b"ro/sub", b"sub")
    zone.rename(b"sub/two", b"ro/two")
    zone.exchange(b"ro/two", b"sub")
    zone.park(b"sub", b"parked")
    zone.unpark(b"parked", b"ro/two/again")
    zone.put_file(b"ro/h", mine(0o444), Bytes(b"y"))
    assert modes(zone) == {b"": 0o555, b"ro": 0o555, b"ro/two": 0o555, b"ro/two/again": 0o500}, modes(zone)
    zone.remove(b"ro/h")
    zone.remove(b"ro/two/again")
    # a directory takes the place of a file, also one that was set aside with its last mode, and the other way round
    zone.make_directory(b"ro/f", mine(0o555))
    zone.rename(b"ro/f", b"ro/e")
    zone.park(b"ro/e", b"set aside")
    zone.make_directory(b"ro/two/l", mine(0o555), b"set aside")
    zone.put_file(b"ro/two/l", mine(0o444), Bytes(b"z"))
    # several at once, and with other processes
    zone.use(workers)
    files = [NewFile(b"ro/%d" % number, mine(0o444), Bytes(b"%d" % number)) for number in range(400)]
    assert zone.put_files(files) == (400, None)
    errors = []
    def put(part):
        try:
            for file in files[part::4]:
                zone.put_file(file.path, file.attributes, Bytes(b"again"))
        except OSError as error:
            errors.append(error)
    threads = [threading.Thread(target=put, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    assert modes(zone) == {b"": 0o555, b"ro": 0o555, b"ro/two": 0o555}, modes(zone)
    # not what belongs to others
    try:
        zone.put_file(b"theirs/f", mine(0o644), Bytes(b"x"))
    except PermissionError:
        pass
    else:
        raise AssertionError("another's directory")
    assert zone.list(b"theirs") == []
    zone.remove(b"ro")
    assert [name for name, _ in zone.list(b"")] == [b"theirs"]
    assert os.listdir(base + b"/staging/temporary") == os.listdir(base + b"/staging/parked") == []
workers.close()
print("done")
"""


@pytest.mark.skipif(not IS_ROOT, reason="needs root to become somebody else")
def test_as_nobody(tmp_path: Path) -> None:
    prepare(tmp_path)
    (tmp_path / "root" / "foreign").write_bytes(b"foreign")
    run(SCRIPT, tmp_path)


@pytest.mark.skipif(not IS_ROOT, reason="needs root to become somebody else")
def test_what_is_in_directories_that_even_their_owner_may_not_write_to(tmp_path: Path) -> None:
    prepare(tmp_path)
    (tmp_path / "root" / "theirs").mkdir(mode=0o755)
    run(READ_ONLY, tmp_path)


def prepare(tmp_path: Path) -> None:
    """Directories of a zone that belong to nobody."""
    top = Path(tempfile.gettempdir())
    for directory in [tmp_path, *(parent for parent in tmp_path.parents if top in parent.parents)]:
        os.chmod(directory, os.stat(directory).st_mode | 0o755)
    for name in ("root", "staging"):
        (tmp_path / name).mkdir()
        os.chown(tmp_path / name, NOBODY, NOBODY)


def run(script: str, tmp_path: Path) -> None:
    repository = Path(__file__).resolve().parents[2]
    become = f"import os; os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
    # The interpreter's own files may not be readable to the other user, so everything is imported before.
    imports = "import sys; import lddp.zones.posix, lddp.zones.workers, tests.fakes.zone\n"
    result = subprocess.run(
        [sys.executable, "-c", imports + become + script, str(tmp_path)],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout == "done\n", result.stderr
