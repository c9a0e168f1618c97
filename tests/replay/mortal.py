"""The parts of a node that can be killed at any point, and that tell what they do."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from operator import itemgetter
from pathlib import Path
from typing import Any

from lddp.core import effects as e
from lddp.core.records import Attributes, Content, Kind
from lddp.ports import ContentSource, Status
from lddp.replay.carrier import Carrier
from lddp.replay.existing import OnExisting
from lddp.replay.projector import Projector
from lddp.zones.posix import PosixZone
from tests.fakes.power import PowerZone
from tests.fakes.zone import Inode
from tests.replay.bench import Killed, walk
from tests.replay.contents import Blob


def brief(effect: e.Effect) -> str:
    """An effect in one short line."""
    found: list[str] = []
    for field in effect:
        match field:
            case bytes():
                found.append(field.decode() or "''")
            case Content():
                found.append("inline" if field.inline is not None else field.digest.hex()[:6])
            case Attributes():
                found.append(f"{field.mode:o} {field.mtime_ns}")
            case _:
                found.append(str(field))
    return " ".join((type(effect).__name__.removesuffix("Effect"), *found))


class Told:
    """What carriers tell, of all processes. `unmarked` was carried out by a process that was killed then."""

    def __init__(self) -> None:
        self.happened: list[str] = []
        self.passed_over: set[e.Effect] = set()
        self.unmarked: set[e.Effect] = set()


class Death:
    """Ends the process at a point that it was armed for; nothing that belongs to the process goes on after that."""

    def __init__(self) -> None:
        self.points_left = 0
        self.dead = False

    def arm(self, points: int) -> None:
        self.points_left = points

    def revive(self) -> None:
        self.points_left, self.dead = 0, False

    def point(self) -> None:
        if self.dead:
            raise Killed
        if self.points_left:
            self.points_left -= 1
            if not self.points_left:
                self.dead = True
                raise Killed


class MortalZone(PowerZone):
    """Ends the process before a change, and takes the bytes that a file is made of out of the store."""

    def __init__(self, death: Death) -> None:
        self.death = death
        super().__init__()

    def _enter(self, method: str, *paths: bytes, changes: bool = True) -> None:
        if self._replaying is None:
            self.death.point()
        super()._enter(method, *paths, changes=changes)

    def put_file(self, path: bytes, attributes: Attributes, source: ContentSource, *, look: bool = True) -> Status:
        status = super().put_file(path, attributes, source, look=look)
        if isinstance(source, Blob):
            source.take()
        return status

    def walk(self) -> list[tuple[bytes, Inode]]:
        return walk(self)


class MortalFiles(PosixZone):
    """The same on a real filesystem, below `directory`."""

    def __init__(self, death: Death, directory: Path) -> None:
        self.death = death
        self.directory = directory
        is_new = not (directory / "tree").exists()
        for name in ("tree", "staging"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        super().__init__(str(directory / "tree"), str(directory / "staging"))
        if is_new:
            PosixZone.sync(self)  # as a node does: the root is known by its handle

    @property
    def parked(self) -> list[str]:
        return os.listdir(self.directory / "staging" / "parked")

    def put_file(
        self, path: bytes, attributes: Attributes, source: ContentSource, *, look: bool = True
    ) -> Status | None:
        self.death.point()
        status = super().put_file(path, attributes, source, look=look)
        if isinstance(source, Blob):
            source.take()
        return status

    def fail(self, number: int, *, method: str = "", times: int | None = None) -> None:
        """A real filesystem refuses nothing on demand."""

    def heal(self) -> None:
        return

    def walk(self) -> list[tuple[bytes, Inode]]:
        """Everything in it, in order of path, in the terms of a zone in memory."""
        found = [b""]
        objects: dict[int, Inode] = {}
        for path in found:
            status = self.status(path)
            assert status.kind is not None
            if status.kind is Kind.DIRECTORY:
                found += [path + b"/" + name if path else name for name, _ in self.list(path)]
            objects.setdefault(status.inode, self._object(path, status.kind, status))
        return sorted(((path, objects[self.status(path).inode]) for path in found), key=itemgetter(0))

    def _object(self, path: bytes, kind: Kind, status: Status) -> Inode:
        attributes = Attributes(status.mode, status.uid, status.gid, status.mtime_ns, self.xattrs(path))
        inode = Inode(status.inode, kind, attributes, 0, rdev=status.rdev)
        if kind is Kind.SYMLINK:
            _, inode.target = self.read_link(path)
        elif kind is Kind.FILE:
            with open(self.open_read(path), "rb") as file:
                inode.data = bytearray(file.read())
        return inode


def _mortal(name: str) -> Callable[..., Any]:
    change = getattr(PosixZone, name)

    def changed(self: MortalFiles, *args: Any, **kwargs: Any) -> Any:
        self.death.point()
        return change(self, *args, **kwargs)

    return changed


for _name in (
    *("make_directory", "make_node", "link", "rename", "park", "unpark", "remove", "remove_parked"),
    *("make_parked", "set_attributes", "write", "truncate", "sync"),
):
    setattr(MortalFiles, _name, _mortal(_name))


class MortalCarrier(Carrier):
    """Ends the process after an effect, before it is marked, and tells what was carried out."""

    def __init__(self, zone: MortalZone | MortalFiles, policy: OnExisting, death: Death, told: Told) -> None:
        super().__init__(zone, policy)
        self._death = death
        self._told = told

    def carry(self, effect: e.Effect, source: ContentSource | None) -> None:
        over = isinstance(effect, e.PutFileEffect) and source is None
        self._told.happened.append(f"   {'pass over' if over else 'carry'} {brief(effect)}")
        super().carry(effect, source)
        self._told.unmarked.add(effect)
        self._death.point()
        self._told.unmarked.discard(effect)
        self._told.passed_over.discard(effect)
        if over:
            self._told.passed_over.add(effect)

    def put_plain(self, files: Sequence[tuple[e.PutFileEffect, ContentSource]]) -> int:
        effects = {effect for effect, _ in files}
        self._told.happened += [f"   put {brief(effect)}" for effect, _ in files]
        self._told.unmarked |= effects
        done = super().put_plain(files)
        self._death.point()
        self._told.unmarked -= effects
        self._told.passed_over -= {effect for effect, _ in files[:done]}
        return done


class WatchedProjector(Projector):
    """Calls `look` at moments when nothing is being carried out."""

    look: Callable[[], None]

    async def _tell(self) -> None:
        self.look()
        await super()._tell()


class Slow(ThreadPoolExecutor):
    """Does its work when the test says so."""

    def __init__(self) -> None:
        super().__init__(1)
        self.waiting: list[tuple[Callable[[], Any], Future[Any]]] = []

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((lambda: work(*args, **kwargs), future))
        return future

    def end(self) -> None:
        for _, future in self.waiting:
            future.cancel()
        self.waiting.clear()

    def work(self) -> None:
        waiting, self.waiting = self.waiting, []
        for work, future in waiting:
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001 - whoever waits for the future gets it, as in a thread
                future.set_exception(error)
