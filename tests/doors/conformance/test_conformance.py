"""The same list through every door: the same outcomes, and the same trees in all zones as on a plain directory."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from lddp.errors import LddpError
from tests.doors.conformance.cases import CASES
from tests.doors.conformance.directory import Directory
from tests.doors.conformance.doors import Api, Commands, Door, Fsspec, WebHdfs
from tests.doors.conformance.mounted import Mounted
from tests.doors.conformance.steps import Case, Mkdir, Need, Put, Read, RemoveTree, Step, TwoCreators, answer_of
from tests.doors.conformance.table import CANNOT, CLI, DIRECTORY, FSSPEC, HTTP, MOUNTS, WEBHDFS
from tests.doors.fuse.live import WHY_NOT
from tests.doors.served import Served, in_memory
from tests.node.trees import describe
from tests.node.zones import PATIENCE_S, ROOT, TOKEN

SET_BY_A_CASE_NS = 1_500_000_000 * 10**9
"""Cases set times before this one; what is later is the present."""
XATTR_PROBE = "user.lddp.probe"


class World(NamedTuple):
    served: Served
    api: Api
    top: Path
    """Where plain directories are made, on the filesystem of the zones."""
    has_xattrs: bool
    doors: dict[str, tuple[Door, Door]]
    """By name, at two zones."""


def _doors(served: Served, url: str) -> dict[str, Door]:
    return {
        HTTP: Api(url, TOKEN, served.run, PATIENCE_S),
        FSSPEC: Fsspec(url, TOKEN, PATIENCE_S),
        WEBHDFS: WebHdfs(url, TOKEN, PATIENCE_S),
        CLI: Commands(url, str(served.zones.token_file), PATIENCE_S),
    }


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Started once; modes are what the cases say, whatever the umask of who runs them."""
    umask = os.umask(0o022)
    with in_memory() as directory:
        served = Served(directory)
        here, there = (_doors(served, served.zones.url(name)) for name in ("zone-1", "zone-2"))
        if not WHY_NOT:
            for mode, name in MOUNTS.items():
                here[name] = Mounted(served, "zone-1", directory / f"{name}-1", mode)
                there[name] = Mounted(served, "zone-2", directory / f"{name}-2", mode)
        api = here[HTTP]
        assert isinstance(api, Api)
        plain = directory / "plain"
        plain.mkdir()
        try:
            yield World(served, api, plain, _has_xattrs(plain), {name: (here[name], there[name]) for name in here})
        finally:
            for door in (*here.values(), *there.values()):
                door.close()
            served.close()
            os.umask(umask)


def _has_xattrs(directory: Path) -> bool:
    try:
        os.setxattr(directory, XATTR_PROBE, b"")
    except OSError as error:
        assert error.errno == errno.EOPNOTSUPP
        return False
    return True


# -- performing a case ------------------------------------------------------------------------------------------------


def outcome(door: Door, step: Step) -> tuple[int, object]:
    """(errno, what a look answered)."""
    try:
        answer = door.perform(step)
    except (OSError, LddpError) as error:
        return error.errno or -1, str(error)
    return 0, answer


def differs(door: Door, step: Step) -> str:
    """What came of a step, where it is not what should."""
    number, answer = outcome(door, step)
    if number != step.errno:
        return f"errno {number}, not {step.errno} ({str(answer)[:200]})"
    expected = answer_of(step)
    if not number and expected is not None and answer != expected:
        return f"{str(answer)[:200]!r}, not {str(expected)[:200]!r}"
    return ""


def creators(doors: tuple[Door, Door], step: TwoCreators, settle: Callable[[], None]) -> str:
    """Whoever was told that the file was there sees whose it is. Through a mount that is known before its bytes are,
    which come with its close."""
    puts = [Put(step.path, data, exclusive=True, errno=errno.EEXIST) for data in step.datas]
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(outcome, doors, [*puts]))
    made = [data for data, (number, _) in zip(step.datas, found, strict=True) if number == 0]
    if sorted(number for number, _ in found) != [0, errno.EEXIST]:
        return f"{found}: not one of them has made it"
    if isinstance(doors[0], Mounted):
        settle()
    shown = [differs(door, Read(step.path, answer=made[0])) for door in doors]
    return "; ".join(f"at zone {number}: {what}" for number, what in enumerate(shown, 1) if what)


def ordered(door: Door) -> None:
    """What was done through it is in the log."""
    if isinstance(door, Mounted):
        door.settle()


def perform(
    case: Case, doors: tuple[Door, Door], stand_in: Door | None, directory: bytes, settle: Callable[[], None]
) -> list[str]:
    """What differs, step by step."""
    found = []
    for place, relative in enumerate(case.steps):
        step = relative.below(directory)
        performer: Door | None = doors[0]
        if relative.needs() & CANNOT[doors[0].name].keys():
            performer = stand_in
        if performer is None:
            continue
        if performer is not doors[0]:
            ordered(doors[0])
        if isinstance(step, TwoCreators):
            difference = creators(doors if performer is doors[0] else (performer, performer), step, settle)
        else:
            difference = differs(performer, step)
        if difference:
            found.append(f"step {place}, {str(relative)[:120]}: {difference}")
    return found


def tree(top: Path) -> dict[bytes, tuple[object, ...]]:
    """`describe`, with no times but those that cases have set."""
    found = {}
    for path, (mode, uid, gid, mtime_ns, *rest) in describe(top).items():
        assert isinstance(mtime_ns, int)
        found[path] = (mode, uid, gid, mtime_ns if mtime_ns < SET_BY_A_CASE_NS else "now", *rest)
    return found


def needs(case: Case) -> frozenset[Need]:
    return frozenset[Need]().union(*(step.needs() for step in case.steps))


def on_a_plain_directory(world: World, case: Case) -> Path:
    """The case's tree, made by system calls."""
    top = world.top / "case"
    shutil.rmtree(top, ignore_errors=True)
    top.mkdir()
    door = Directory(world.top, ROOT)
    assert perform(case, (door, door), None, ROOT + b"/case", lambda: None) == []
    return top


@pytest.mark.parametrize("name", [HTTP, FSSPEC, WEBHDFS, CLI, *MOUNTS.values()])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case(world: World, name: str, case: Case) -> None:
    if Need.XATTR in needs(case) and not world.has_xattrs:
        pytest.skip("this filesystem has no extended attributes")
    if name in MOUNTS.values() and WHY_NOT:
        pytest.skip(WHY_NOT)
    assert outcome(world.api, Mkdir(b"/data/case"))[0] == 0
    world.served.settle()  # the other zones' doors show it
    try:
        assert perform(case, world.doors[name], world.api, b"/data/case", world.served.settle) == []
        ordered(world.doors[name][0])
        world.served.settle()
        trees = [describe(world.served.zones.root(zone) / "case") for zone in world.served.zones.zones]
        assert trees[1] == trees[0]
        assert trees[2] == trees[0]
        assert tree(world.served.zones.root("zone-1") / "case") == tree(on_a_plain_directory(world, case))
    finally:
        assert outcome(world.api, RemoveTree(b"/data/case"))[0] == 0


# -- the table --------------------------------------------------------------------------------------------------------


def test_the_table_says_no_more_than_what_is_needed() -> None:
    assert set(CANNOT) == {HTTP, FSSPEC, WEBHDFS, CLI, *MOUNTS.values(), DIRECTORY}
    needed = frozenset[Need]().union(*map(needs, CASES))
    assert needed == set(Need)
    assert all(reason for row in CANNOT.values() for reason in row.values())
