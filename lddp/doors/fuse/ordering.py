"""Records of a mount, ordered before the call that asks for them returns; or promised, where it is pipelined."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from lddp.core import records as r
from lddp.core.namespace import Inode
from lddp.core.records import InPlace, OperationId, Outcome, Record
from lddp.core.view import View
from lddp.doors.fuse.gate import Gate
from lddp.doors.fuse.ground import Ground, Patience, Top
from lddp.errors import ElsewhereError, OutcomeUnknownError, UnavailableError

_log = logging.getLogger(__name__)

Stamp = tuple[OperationId, int, int]
"""The first fields of every operation."""
Got = TypeVar("Got")
Place = tuple[int, bytes]
"""A directory, by its inode number, and a name in it."""
OWN_MAX = 65_536
TRY_S = 10.0
"""How long one try waits for an outcome. The next one carries the same id."""
PAUSE_NOTHING_TAKEN_S = 0.2
ELSEWHERE_S = 30.0
"""How long a call waits for what this zone has lost, or does not know yet: comparing the zones may bring it."""
MOVES_MAX = 16
"""How often an object is followed to another name. Each time another zone was faster than a round of consensus."""
MOVED = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ESTALE))
"""What says that an object has not the name any more by which a record went for it."""


def refused(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Promises(Protocol):
    """What answers before the log does."""

    gate: Gate
    contested: set[int]

    async def promise(self, records: Sequence[Record]) -> list[Outcome]: ...

    def is_own(self, inode: Inode, seen: int) -> bool: ...

    async def until_certain(self, number: int) -> bool:
        """Waits where what was promised of an inode is queued, and may be refused yet; whether there was any."""
        ...


class Orders:
    """Submits records and waits for them. `moves` is passed by every change, and alone by what moves directories: the
    path of a record is then still right when its turn in the log comes, as far as this mount is concerned."""

    def __init__(self, ground: Ground, top: Top, patience: Patience, promises: Promises | None = None) -> None:
        self.ground = ground
        self.top = top
        self._patience = patience
        self._promises = promises
        self.moves = Gate() if promises is None else promises.gate
        self.own: set[int] = set()
        """GSNs of the latest records of this mount."""
        self._own: deque[int] = deque()

    def stamp(self) -> Stamp:
        return self.ground.next_id(), self.ground.zone_number(), self.ground.time_ns()

    # -- paths --------------------------------------------------------------------------------------------------------

    def path(self, view: View, inode: Inode, name: bytes = b"") -> bytes:
        """Absolute, in the global namespace, of an inode or of a name in it."""
        if inode.number != self.top.root and not inode.nlink:
            raise refused(errno.ENOENT)
        below = view.path(inode)
        parts = [part for part in (below, name) if part]
        return b"/".join([self.top.path, *parts])

    def place(self, view: View, directory: int, name: bytes) -> bytes:
        """The path of a name in a directory, given by its inode number. ENOENT where that is gone."""
        inode = view.inode(directory)
        if inode is None:
            raise refused(errno.ENOENT)
        return self.path(view, inode, name)

    # -- records ------------------------------------------------------------------------------------------------------

    async def many(self, records: Sequence[Record]) -> list[Outcome]:
        """All outcomes, once the records are durable on a majority and this node's namespace shows them; or once they
        are promised, where the mount is pipelined."""
        return await (self.now(records) if self._promises is None else self._promises.promise(records))

    async def now(self, records: Sequence[Record]) -> list[Outcome]:
        """All outcomes, once the records are durable on a majority and this node's namespace shows them."""
        return [outcome for _, outcome in await self.answers(records)]

    async def in_time(self, record: Record, soft_s: float | None) -> list[Outcome]:
        """As `now`. OSError(EIO) after `soft_s` seconds: it may be ordered nevertheless."""
        try:
            async with asyncio.timeout(soft_s):
                return await self.now([record])
        except TimeoutError:
            raise refused(errno.EIO) from None

    async def until_certain(self, number: int) -> bool:
        """As `Promises.until_certain`."""
        return self._promises is not None and await self._promises.until_certain(number)

    async def answers(self, records: Sequence[Record]) -> list[tuple[int, Outcome]]:
        """As `now`, with the GSNs."""
        left_s = self._patience.soft_s
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            try_s = TRY_S if left_s is None else max(0.01, min(TRY_S, left_s))
            try:
                answers = await self.ground.submit_folded(records, try_s)
                self._remember(answers)
                return answers
            except OutcomeUnknownError:
                pass  # the same records again
            except UnavailableError:
                # Nothing was taken. There is no event to wait for: whoever leads next may take it.
                await asyncio.sleep(PAUSE_NOTHING_TAKEN_S)
            if left_s is not None:
                left_s -= clock() - began
                if left_s <= 0:
                    raise refused(errno.EIO)

    async def patiently(self, work: Callable[[], Awaitable[Got]]) -> Got:
        """What `work` gives once it raises UnavailableError no more. OSError(EIO) after the time of a soft mount, and
        after ELSEWHERE_S where only other nodes can have it: nobody may ever bring it here."""
        clock = asyncio.get_running_loop().time
        began = clock()
        while True:
            try:
                return await work()
            except UnavailableError as error:
                if isinstance(error, ElsewhereError) and clock() - began >= ELSEWHERE_S:
                    _log.error("what a program asked for is not to be had here: %s", error)
                    raise refused(errno.EIO) from error
                # There is no event to wait for, as with records.
                await asyncio.sleep(PAUSE_NOTHING_TAKEN_S)
            if self._patience.soft_s is not None and clock() - began >= self._patience.soft_s:
                raise refused(errno.EIO)

    async def about(
        self,
        number: int,
        records: Callable[[Inode, bytes], Sequence[InPlace]],
        told: Callable[[Sequence[Outcome]], None] | None = None,
    ) -> list[Outcome] | None:
        """The outcomes of records about one object, made from what it is now and its path. They change that object and
        no other: where another zone gives the path to another one before their turn comes, they are made again, for
        the path that the object has then. None where it has none any more: it is for who has it open alone. `told`
        hears the outcomes of each time that they were made: some of them may have been ordered, and stay so."""
        outcomes: list[Outcome] = []
        for _ in range(MOVES_MAX):
            async with self.moves.shared():
                with self.ground.view() as view:
                    inode = view.inode(number)
                    path = b"" if inode is None else self.path(view, inode)
                if inode is None:
                    return None
                outcomes = await self.many([one._replace(expected_inode=number) for one in records(inode, path)])
                if told is not None:
                    told(outcomes)
            if not any(outcome.errno in MOVED for outcome in outcomes):
                break
        return outcomes

    async def naming(
        self, places: Sequence[Place], record: Callable[..., Record], *, alone: bool = False
    ) -> tuple[Outcome, int]:
        """The outcome of a record that makes or takes names in directories, and the time that it carries. It is made
        from a stamp and the paths of the names, and says which directories it means: where another zone moves these
        before its turn comes, it is made again, for the paths that they have then. OSError where it is refused, and
        ENOENT where a directory is gone. `alone`: it moves a directory."""
        for _ in range(MOVES_MAX):
            async with self.moves.exclusive() if alone else self.moves.shared():
                paths, stamp = self._paths(places), self.stamp()
                (outcome,) = await self.many([record(stamp, *paths)])
            if outcome.errno not in MOVED or (outcome.errno != errno.ESTALE and self._paths(places) == paths):
                break
        if outcome.errno:
            raise refused(outcome.errno)
        return outcome, stamp[2]

    def _paths(self, places: Sequence[Place]) -> list[bytes]:
        with self.ground.view() as view:
            return [self.place(view, *one) for one in places]

    def _remember(self, answers: Sequence[tuple[int, Outcome]]) -> None:
        for index, _ in answers:
            self.remember(index)

    def remember(self, index: int) -> None:
        if index in self.own:
            return
        self.own.add(index)
        self._own.append(index)
        while len(self._own) > OWN_MAX:
            self.own.discard(self._own.popleft())

    def is_own(self, inode: Inode, seen: int) -> bool:
        """Whether this mount has asked for all that may have changed an inode since GSN `seen`."""
        if self._promises is not None:
            return self._promises.is_own(inode, seen)
        return inode.version > seen and all(gsn in self.own for gsn in range(seen + 1, inode.version + 1))

    def told(self, numbers: set[int]) -> None:
        """The kernel knows how these inodes are."""
        if self._promises is not None:
            self._promises.contested -= numbers


class HasOrders(Protocol):
    orders: Orders


Given = ParamSpec("Given")
Owner = TypeVar("Owner", bound=HasOrders)


def patient(
    method: Callable[Concatenate[Owner, Given], Awaitable[Got]],
) -> Callable[Concatenate[Owner, Given], Awaitable[Got]]:
    """Calls it again while this zone has not got the bytes that it needs, as `Orders.patiently`. Who needs none of them
    may have the locks in between."""

    async def patiently(owner: Owner, /, *arguments: Given.args, **more: Given.kwargs) -> Got:
        return await owner.orders.patiently(lambda: method(owner, *arguments, **more))

    return patiently


KINDS = {
    r.Kind.FILE: 0o100000,
    r.Kind.DIRECTORY: 0o040000,
    r.Kind.SYMLINK: 0o120000,
    r.Kind.FIFO: 0o010000,
    r.Kind.CHARACTER_DEVICE: 0o020000,
    r.Kind.BLOCK_DEVICE: 0o060000,
}
"""The type bits of a mode."""
