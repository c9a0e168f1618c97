"""Each kind of change gives an event that names it."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from lddp.doors.watch import Event, FanotifyWatcher, Flag, InotifyWatcher, Overflow, Watcher
from tests.doors.watching import handle_of, until

RENAME_EXCHANGE = 2
AT_FDCWD = -100
AT_SYMLINK_FOLLOW = 0x400

KINDS = [
    pytest.param("fanotify", marks=pytest.mark.skipif(os.geteuid() != 0, reason="fanotify needs root")),
    "inotify",
]


class Scene:
    """A watched tree: `file` and `other` with a second name of `file`, `linked`; the directory `sub` with `inner`."""

    def __init__(self, base: Path, kind: str) -> None:
        self.root = base / "source"
        self.outside = base / "outside"
        (self.root / "sub").mkdir(parents=True)
        (self.outside / "come").mkdir(parents=True)
        for name in ("file", "other", "sub/inner"):
            (self.root / name).write_text(name)
        os.link(self.root / "file", self.root / "linked")
        path = os.fsencode(self.root)
        self.watcher: Watcher = FanotifyWatcher(path, own_changes=True) if kind == "fanotify" else InotifyWatcher(path)

    async def events(self, change: Callable[[Path, Path], object]) -> list[Event]:
        change(self.root, self.outside)
        found = await until(self.watcher, self.watcher.mark())
        ours = {handle_of(os.fsencode(path)) for path in [self.root, *self.root.rglob("*")] if not path.is_symlink()}
        events = [event for event in found if not isinstance(event, Overflow)]
        return [one for one in events if one.directory in ours or one.new_directory in ours or one.target in ours]

    def named(self, events: list[Event], name: str, flag: Flag) -> list[Event]:
        """The events that name this entry, or for `.` the directory `sub` itself, with this flag."""
        at = handle_of(os.fsencode((self.root / name).parent))
        base = os.fsencode(Path(name).name)
        if name.endswith("/."):
            at, base = handle_of(os.fsencode(self.root / name)), b""
        places = [event for event in events if event.flags & flag]
        return [
            event for event in places if (at, base) in ((event[0], event[1]), (event.new_directory, event.new_name))
        ]


@pytest.fixture(params=KINDS)
async def scene(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    made = Scene(tmp_path, request.param)
    await made.watcher.start()
    yield made
    await made.watcher.stop()


def libc(name: str, *arguments: int | bytes) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


def exchange(root: Path, _: Path) -> None:
    libc("renameat2", AT_FDCWD, bytes(root / "file"), AT_FDCWD, bytes(root / "sub"), RENAME_EXCHANGE)


def write_then_link_a_nameless_file(root: Path, _: Path) -> None:
    descriptor = os.open(root, os.O_TMPFILE | os.O_WRONLY)
    os.write(descriptor, b"nameless")
    libc("linkat", AT_FDCWD, b"/proc/self/fd/%d" % descriptor, AT_FDCWD, bytes(root / "named"), AT_SYMLINK_FOLLOW)
    os.close(descriptor)


def store_through_a_map(root: Path, _: Path) -> None:
    with open(root / "file", "r+b") as file, mmap.mmap(file.fileno(), 0) as pages:
        pages[0:1] = b"m"


def append(root: Path, _: Path) -> None:
    with open(root / "file", "ab") as file:
        file.write(b"more")


def set_time(root: Path, _: Path) -> None:
    os.utime(root / "file", ns=(1, 2))


def copy_range(root: Path, _: Path) -> None:
    with open(root / "file", "rb") as source, open(root / "other", "r+b") as target:
        os.copy_file_range(source.fileno(), target.fileno(), 4)


def remove_directory(root: Path, _: Path) -> None:
    (root / "sub/inner").unlink()
    (root / "sub").rmdir()


CREATED, REMOVED, MOVED = Flag.CREATED, Flag.REMOVED, Flag.MOVED
CHANGES: dict[str, tuple[Callable[[Path, Path], object], list[tuple[str, Flag]]]] = {
    "create": (lambda root, _: (root / "new").touch(), [("new", CREATED)]),
    "mkdir": (lambda root, _: (root / "new").mkdir(), [("new", CREATED | Flag.IS_DIRECTORY)]),
    "symlink": (lambda root, _: (root / "new").symlink_to("gone"), [("new", CREATED)]),
    "fifo": (lambda root, _: os.mkfifo(root / "new"), [("new", CREATED)]),
    "hard link": (lambda root, _: os.link(root / "file", root / "sub/new"), [("sub/new", CREATED)]),
    "unlink": (lambda root, _: (root / "other").unlink(), [("other", REMOVED)]),
    "unlink one of two names": (lambda root, _: (root / "linked").unlink(), [("linked", REMOVED)]),
    "rmdir": (
        remove_directory,
        [("sub", REMOVED | Flag.IS_DIRECTORY)],
    ),
    "write": (append, [("file", Flag.MODIFIED), ("file", Flag.CLOSED_WRITE)]),
    "truncate": (lambda root, _: os.truncate(root / "file", 1), [("file", Flag.MODIFIED)]),
    "copy_file_range": (copy_range, [("other", Flag.MODIFIED)]),
    "store through mmap": (store_through_a_map, [("file", Flag.CLOSED_WRITE)]),
    "chmod": (lambda root, _: (root / "file").chmod(0o600), [("file", Flag.ATTRIBUTES)]),
    "chmod of a directory": (lambda root, _: (root / "sub").chmod(0o700), [("sub/.", Flag.ATTRIBUTES)]),
    "utimensat": (set_time, [("file", Flag.ATTRIBUTES)]),
    "setxattr": (lambda root, _: os.setxattr(root / "file", "user.a", b"1"), [("file", Flag.ATTRIBUTES)]),
    "rename": (lambda root, _: (root / "file").rename(root / "sub/new"), [("file", MOVED), ("sub/new", MOVED)]),
    "rename over another": (
        lambda root, _: (root / "file").rename(root / "other"),
        [("file", MOVED), ("other", MOVED)],
    ),
    "exchange": (exchange, [("file", MOVED), ("sub", MOVED)]),
    "rename of a directory": (lambda root, _: (root / "sub").rename(root / "new"), [("sub", MOVED), ("new", MOVED)]),
    "directory leaves": (lambda root, outside: (root / "sub").rename(outside / "new"), [("sub", MOVED)]),
    "directory comes in": (
        lambda root, outside: (outside / "come").rename(root / "new"),
        [("new", MOVED | Flag.IS_DIRECTORY)],
    ),
    "nameless file is linked": (write_then_link_a_nameless_file, [("named", CREATED)]),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_change_is_named(scene: Scene, change: str) -> None:
    make, expected = CHANGES[change]
    events = await scene.events(make)
    for name, flags in expected:
        assert any(event.flags & flags == flags for event in scene.named(events, name, flags)), (name, events)


@pytest.mark.skipif(os.geteuid() != 0, reason="chown needs root")
async def test_change_of_owner_is_named(scene: Scene) -> None:
    events = await scene.events(lambda root, _: os.chown(root / "file", 1, 1))
    assert scene.named(events, "file", Flag.ATTRIBUTES)


async def test_rename_is_one_event_with_both_places(scene: Scene) -> None:
    events = await scene.events(lambda root, _: os.rename(root / "sub", root / "new"))
    root = handle_of(os.fsencode(scene.root))
    both = [event for event in events if (event[0], event[1]) == (root, b"sub")]
    assert [(event.new_directory, event.new_name) for event in both] == [(root, b"new")]


async def test_directory_that_came_in_is_watched_with_all_below_it(scene: Scene) -> None:
    (scene.outside / "come" / "deep").mkdir()
    await scene.events(lambda root, outside: os.rename(outside / "come", root / "come"))
    events = await scene.events(lambda root, _: (root / "come/deep/new").touch())
    assert scene.named(events, "come/deep/new", Flag.CREATED)


async def test_changes_below_a_renamed_directory_go_on_being_named(scene: Scene) -> None:
    await scene.events(lambda root, _: os.rename(root / "sub", root / "moved"))
    await scene.events(lambda root, _: os.mkdir(root / "moved/new"))
    events = await scene.events(lambda root, _: (root / "moved/new/file").touch())
    assert scene.named(events, "moved/new/file", Flag.CREATED)


async def test_target_is_the_object_written_through_any_name(scene: Scene) -> None:
    if scene.watcher.kind != "fanotify":
        pytest.skip("inotify does not know the object")
    os.link(scene.root / "file", scene.outside / "name")

    def write_through_other_names(root: Path, outside: Path) -> None:
        with open(outside / "name", "ab") as file:
            file.write(b"1")
        with open(root / "linked", "ab", buffering=0) as file:
            os.unlink(root / "linked")
            file.write(b"2")

    events = await scene.events(write_through_other_names)
    target = handle_of(os.fsencode(scene.root / "file"))
    modified = [event for event in events if event.flags & Flag.MODIFIED and event.target == target]
    assert [event.name for event in modified] == [b"name", b"linked"]


async def test_name_that_is_not_utf8_and_longest_name(scene: Scene) -> None:
    names = [b"\xff\xfe", b"n" * 255]

    def touch(root: Path, _: Path) -> None:
        for name in names:
            os.close(os.open(bytes(root) + b"/" + name, os.O_CREAT | os.O_WRONLY))

    events = await scene.events(touch)
    assert [event.name for event in events if event.flags & Flag.CREATED] == names


async def test_loss_of_the_root_is_told(scene: Scene) -> None:
    root = handle_of(os.fsencode(scene.root))
    found: list[Event | Overflow] = []
    os.rename(scene.root, scene.outside / "moved")
    found += await until(scene.watcher, scene.watcher.mark())
    own = [event for event in found if isinstance(event, Event) and (event.directory, event.name) == (root, b"")]
    assert any(event.flags & Flag.MOVED for event in own)
