"""Files that other processes put in place: the same as if the zone had put them itself, also when they die."""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lddp.core.limits import XATTR_VALUE_BYTES_MAX
from lddp.ports import NewFile
from lddp.zones.posix import PosixZone
from lddp.zones.worker import REQUEST_BYTES, Worker
from lddp.zones.workers import REQUEST_FILES, Workers
from tests.fakes.zone import Bytes
from tests.zones.conftest import attributes, names, read, root_only

REACH_S = 20.0


@pytest.fixture(params=[1, 2])
def workers(request: pytest.FixtureRequest) -> Iterator[Workers]:
    made = Workers.start(request.param)
    assert len(made.processes) == request.param
    yield made
    made.close()


@pytest.fixture
def helped(posix: PosixZone, workers: Workers) -> PosixZone:
    posix.use(workers)
    return posix


def files(count: int, size: int = 5) -> list[NewFile]:
    return [NewFile(b"f%05d" % number, attributes(), Bytes(b"%05d" % number * (size // 5))) for number in range(count)]


def kill(process: int) -> None:
    """Until the kernel has taken it apart, as far as can be told from outside."""
    descriptor = os.pidfd_open(process)
    os.kill(process, signal.SIGKILL)
    assert select.select([descriptor], [], [], REACH_S)[0]
    os.close(descriptor)


def test_the_same_as_put_file(helped: PosixZone, root: Path) -> None:
    wanted = [
        NewFile(b"plain", attributes(), Bytes(b"1")),
        NewFile(b"empty", attributes(0o400), Bytes(b"")),
        NewFile(b"mode", attributes(0o4751), Bytes(b"2")),
        NewFile(b"xattr", attributes(xattrs=((b"user.a", b"b"),)), Bytes(b"3")),
        NewFile(b"\xff\n", attributes(mtime_ns=1), Bytes(b"4")),
    ]
    for file in wanted:
        helped.put_file(*file)
    alone = {
        file.path: (read(helped, file.path), helped.status(file.path), helped.xattrs(file.path)) for file in wanted
    }
    assert helped.put_files(wanted) == (len(wanted), None)
    for file in wanted:
        data, status, xattrs = alone[file.path]
        again = helped.status(file.path)
        assert again.inode != status.inode
        same = again._replace(inode=0, handle=b"", ctime_ns=0) == status._replace(inode=0, handle=b"", ctime_ns=0)
        assert same and read(helped, file.path) == data and helped.xattrs(file.path) == xattrs


def written_by(process: int) -> int:
    """Bytes that a process has written, as the kernel counts them."""
    fields = dict(line.split(": ") for line in Path(f"/proc/{process}/io").read_text().splitlines())
    return int(fields["wchar"])


def test_it_is_the_workers_that_put_them(helped: PosixZone, workers: Workers) -> None:
    processes = workers.processes
    before = [written_by(process) for process in processes]
    helped.put_files(files(REQUEST_FILES * 6, 5_000))
    for process, earlier in zip(processes, before, strict=True):
        assert written_by(process) - earlier >= REQUEST_FILES * 6 // len(processes) * 5_000


@pytest.mark.parametrize("count, size", [(REQUEST_FILES * 9 + 1, 5), (50, 250_000), (2, REQUEST_BYTES + 5)])
def test_more_than_goes_into_one_request(helped: PosixZone, count: int, size: int) -> None:
    wanted = files(count, size // 5 * 5)
    assert helped.put_files(wanted) == (count, None)
    assert names(helped) == [file.path for file in wanted]
    for file in wanted:
        assert read(helped, file.path) == b"".join(data for _, data in file.source.chunks())


def test_holes_and_files_to_take_are_put_by_the_zone_itself(helped: PosixZone, tmp_path: Path, root: Path) -> None:
    holes = NewFile(b"f00001h", attributes(), Bytes(pieces=[(1 << 20, b"a")], size=3 << 20))
    assert helped.put_files([*files(2), holes, *files(4)[2:]]) == (5, None)
    assert (root / "f00001h").stat().st_size == 3 << 20
    assert len(names(helped)) == 5


def refused_by(helped: PosixZone, case: str) -> tuple[NewFile, int]:
    match case:
        case "no parent":
            return NewFile(b"gone/f", attributes(), Bytes(b"1")), errno.ENOENT
        case "a symlink on the way":
            os.symlink("/", os.path.join(b"/proc/self/fd/%d" % helped._root.fd, b"away"))
            return NewFile(b"away/f", attributes(), Bytes(b"1")), errno.ENOTDIR
        case "out of the root":
            return NewFile(b"../f", attributes(), Bytes(b"1")), errno.EINVAL
        case _:
            return NewFile(b"x" * 256, attributes(), Bytes(b"1")), errno.ENAMETOOLONG


@pytest.mark.parametrize("case", ["no parent", "a symlink on the way", "out of the root", "a name too long"])
def test_the_first_that_is_refused_ends_it(helped: PosixZone, staging: Path, case: str) -> None:
    bad, number = refused_by(helped, case)
    done, error = helped.put_files([*files(3), bad, *files(5)[3:]])
    assert done == 3
    assert isinstance(error, OSError) and (error.errno, error.filename) == (number, bad.path)
    assert [name for name in names(helped) if name[:1] == b"f"] == [b"f00000", b"f00001", b"f00002"]


@root_only
def test_what_could_not_be_set_is_known_to_the_zone(helped: PosixZone) -> None:
    odd = attributes(xattrs=((b"system.nfs4_acl", b"x"), (b"user.a", b"b")))
    helped.put_files([NewFile(b"f", odd, Bytes(b"1"))])
    alone = PosixZone.put_file(helped, b"g", odd, Bytes(b"1"))
    assert alone is not None
    first, second = helped.shortfalls.recent()
    assert (first.path, second.path) == (b"f", b"g") and first[1:] == second[1:]


def put_unless_they_wait(helped: PosixZone, workers: Workers, wanted: list[NewFile]) -> None:
    """Puts files. TimeoutError where the node and a worker wait for each other, which ends the workers."""
    with ThreadPoolExecutor(1) as thread:
        putting = thread.submit(helped.put_files, wanted)
        try:
            assert putting.result(REACH_S) == (len(wanted), None)
        except TimeoutError:
            for process in workers.processes:
                kill(process)
            raise


def test_much_to_say_on_both_sides(helped: PosixZone, workers: Workers) -> None:
    """The paths of a deep tree, and a filesystem that takes none of the attributes."""
    deep = b""
    for level in range(15):
        deep += b"%02d" % level + b"d" * 230 + b"/"
        helped.make_directory(deep[:-1], attributes(0o755))
    refused = (b"unknown.0", b"unknown.1")
    odd = attributes(xattrs=tuple((name, b"v") for name in refused))
    wanted = [NewFile(deep + b"f%d" % number, odd, Bytes(b"x")) for number in range(REQUEST_FILES * 4)]
    put_unless_they_wait(helped, workers, wanted)
    told = [(shortfall.path, os.fsencode(shortfall.what)) for shortfall in helped.shortfalls.recent()]
    assert told == [(file.path, name) for file in wanted for name in refused]


def test_a_worker_outlives_an_xattr_whose_name_is_no_text(helped: PosixZone, workers: Workers) -> None:
    processes = workers.processes
    odd = NewFile(b"odd", attributes(xattrs=((b"unknown.\xff", b"v"),)), Bytes(b"1"))
    assert helped.put_files([odd, *files(2)]) == (3, None)
    assert [shortfall[:2] for shortfall in helped.shortfalls.recent()] == [(b"odd", "unknown.\udcff")]
    assert helped.put_files(files(2)) == (2, None) and workers.processes == processes


@pytest.mark.parametrize("count", [1, 40])
def test_files_of_which_there_is_as_much_to_say_as_may_be(helped: PosixZone, workers: Workers, count: int) -> None:
    """Of one alone, and of more than go into one request. Where a filesystem takes no such xattrs, nor so many."""
    many = tuple((b"unknown.%03d" % number, b"v" * XATTR_VALUE_BYTES_MAX) for number in range(3))
    small = tuple((b"unknown.%s.%05d" % (b"n" * 230, number), b"") for number in range(250))
    odd = attributes(xattrs=many + small)
    wanted = [NewFile(b"f%d" % number, odd, Bytes(b"x" * 100_000)) for number in range(count)]
    before = sum(map(written_by, workers.processes))
    put_unless_they_wait(helped, workers, wanted)
    assert helped.shortfalls.total >= len(odd.xattrs)
    assert helped.shortfalls.recent()[-1][:2] == (wanted[-1].path, os.fsdecode(odd.xattrs[-1][0]))
    assert sum(map(written_by, workers.processes)) - before >= count * 100_000


def test_of_two_files_with_one_name_the_last_one_stays(helped: PosixZone) -> None:
    wanted = files(REQUEST_FILES * 5)
    wanted.append(NewFile(wanted[0].path, attributes(), Bytes(b"last")))
    assert helped.put_files(wanted) == (len(wanted), None)
    assert read(helped, wanted[0].path) == b"last"


@pytest.mark.parametrize("place", [0, REQUEST_FILES - 1, REQUEST_FILES, REQUEST_FILES * 3 + 5, REQUEST_FILES * 5 - 1])
def test_those_before_the_one_that_is_refused_are_in_place(helped: PosixZone, place: int) -> None:
    wanted = files(REQUEST_FILES * 5)
    wanted[place] = NewFile(b"gone/f", attributes(), Bytes(b"1"))
    done, error = helped.put_files(wanted)
    assert done == place and isinstance(error, FileNotFoundError)
    assert {file.path for file in wanted[:place]} <= set(names(helped))


@pytest.mark.parametrize("killed", [0, -1])
def test_a_killed_worker_is_not_missed(helped: PosixZone, workers: Workers, killed: int) -> None:
    helped.put_files(files(2))
    gone = workers.processes[killed]
    left = [process for process in workers.processes if process != gone]
    kill(gone)
    count = REQUEST_FILES * 3
    assert helped.put_files(files(count)) == (count, None)
    assert workers.processes == left
    assert helped.put_files(files(count + 5)) == (count + 5, None)
    assert len(names(helped)) == count + 5


def test_it_ends_with_its_node(tmp_path: Path) -> None:
    """A process that is killed takes its workers along."""
    program = (
        "import time; from lddp.zones.workers import Workers; print(*Workers.start().processes, flush=True);"
        " time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as node:
        assert node.stdout is not None
        descriptors = [os.pidfd_open(int(process)) for process in node.stdout.readline().split()]
        node.kill()
    assert descriptors
    for descriptor in descriptors:
        assert select.select([descriptor], [], [], REACH_S)[0]
        os.close(descriptor)


@pytest.mark.parametrize("answered", [True, False])
def test_it_ends_quietly_when_its_node_is_gone(answered: bool, capfd: pytest.CaptureFixture[str]) -> None:
    """A socket that was closed with an answer in it, or before it, says so to the other end by an error."""
    worker = Worker.start()
    if not answered:
        os.kill(worker.process, signal.SIGSTOP)
    worker._ask("open", 0, b"/nowhere", b"/nowhere", b"", ())
    if answered:
        assert select.select([worker._channel], [], [], REACH_S)[0]
    else:
        worker.hang_up()
        os.kill(worker.process, signal.SIGCONT)
    worker.close()
    assert not capfd.readouterr().err


def test_nobody_opens_the_staging_directory_while_a_worker_has_it(
    helped: PosixZone, workers: Workers, root: Path, staging: Path
) -> None:
    helped.put_files(files(1))
    with pytest.raises(OSError) as refused:
        PosixZone(str(root), str(staging))
    assert refused.value.errno == errno.EBUSY
    workers.close()
    PosixZone(str(root), str(staging)).close()


def test_a_closed_tree_is_let_go(workers: Workers, tmp_path: Path) -> None:
    for turn in range(3):
        root, staging = tmp_path / f"root-{turn}", tmp_path / f"staging-{turn}"
        root.mkdir()
        staging.mkdir()
        with PosixZone(str(root), str(staging)) as zone:
            zone.use(workers)
            assert zone.put_files(files(3)) == (3, None)
    for process in workers.processes:
        held = os.listdir(f"/proc/{process}/fd")
        assert sum("root-" in os.readlink(f"/proc/{process}/fd/{one}") for one in held) == 1


def exchanged(root: Path) -> None:
    root.rename(root.with_name("before"))
    root.mkdir()


def removed(root: Path) -> None:
    root.rename(root.with_name("before"))


@pytest.mark.parametrize("change", [exchanged, removed])
def test_a_root_that_is_another_one_by_now_is_not_used(
    helped: PosixZone, root: Path, change: Callable[[Path], None]
) -> None:
    change(root)
    assert helped.put_files(files(3)) == (3, None)
    assert len(os.listdir(root.with_name("before"))) == 3
    assert not root.exists() or not os.listdir(root)
