"""Bytes that a client sends through this node, on their way to the rule's zones."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from lddp.content.disk import STEP_BYTES
from lddp.content.frames import UPLOAD_BYTES
from lddp.content.growing import Growing
from lddp.content.source import FileSource
from lddp.core.limits import INLINE_BYTES_MAX
from lddp.core.records import Content
from lddp.core.rules import Rule
from lddp.errors import CorruptError, UnavailableError
from lddp.ports import KeyValue
from lddp.replay import outbox

if TYPE_CHECKING:
    from lddp.node.runtime import Node

QUORUM_ZONES_MIN = 3
GROW_FROM_BYTES = 4 * 1024 * 1024
"""What is at least as large is pushed while it still comes."""


class Upload:
    """Implements `lddp.access.ContentWriter` for one content of a rule.

    With three or more zones the bytes are on a majority of them, synced, before `commit` returns (durability quorum);
    with fewer they are synced in one (durability origin) and the others fetch them from there. What is synced here
    counts where this node's zone is a member of the rule; elsewhere nobody asks for it. Large ones are on their way to
    the other zones while they come. The store knows which uploads of the same bytes are undecided
    (`lddp.content.claims`).
    """

    def __init__(self, node: Node, rule: Rule) -> None:
        self._node = node
        self._rule = rule
        self._writer = node.store.writer(self)
        self._content: Content | None = None
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._last: list[bytes] = []
        """What went to the disk last, or is on its way there."""
        self._handed = 0
        """How many bytes that were in all."""
        self._writing: asyncio.Task[None] | None = None
        self._name = os.urandom(UPLOAD_BYTES)
        self._growing: Growing | None = None
        self._has_grown = False
        self._took: set[str] = set()
        """Peers that took all of it at an earlier try."""
        self._digest = b""
        """Under which they have it, or may have it."""
        self._told: set[str] = set()
        """Peers that have been sent the bytes, or a part of them."""

    async def write(self, data: bytes) -> None:
        """While one step goes to the disk, the next one comes in."""
        self._pieces.append(data)
        self._waiting += len(data)
        if self._waiting >= STEP_BYTES:
            await self._idle()
            self._grow()
            self._handed += self._waiting
            self._last = self._taken()
            self._writing = asyncio.create_task(self._node.store.disk.run(self._write, self._last))
            if self._growing is not None:
                await self._growing.room()

    def _grow(self) -> None:
        """What has been written goes to the other zones."""
        written = self._writer.written
        if not self._has_grown and written >= GROW_FROM_BYTES:
            self._has_grown = True
            peers, enough = self._receivers()
            if peers:
                self._growing = self._node.pusher.grow(
                    self._writer.descriptor, bool(enough), peers, enough=enough, upload=self._name
                )
        if self._growing is not None:
            self._told |= set(self._growing.tasks.values())
            self._growing.reach(written, self._last if written == self._handed else ())

    def _receivers(self) -> tuple[Sequence[str], int]:
        """Peers, and how many of them have to have the bytes."""
        zones = len(self._rule.members)
        enough = zones // 2 + 1 if zones >= QUORUM_ZONES_MIN else 1
        is_member = self._rule.member(self._node.gateway.zone) is not None
        return self._node.peers_of(self._rule), enough - is_member

    async def rewrite(self, offset: int, data: bytes) -> None:
        await self._idle()
        self._handed += self._waiting
        self._last = []  # some of it may be other bytes now
        await self._node.store.disk.run(self._rewrite, self._taken(), offset, data)
        if self._growing is not None:
            self._growing.reach(self._writer.written)
            self._growing.rewrite(offset, offset + len(data))

    def _rewrite(self, pieces: list[bytes], offset: int, data: bytes) -> None:
        self._write(pieces)
        self._writer.rewrite(offset, data)

    def _taken(self) -> list[bytes]:
        pieces, self._pieces, self._waiting = self._pieces, [], 0
        return pieces

    def _write(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self._writer.write(piece)

    async def _idle(self) -> None:
        """Until nothing is on its way to the disk. Raises what went wrong there."""
        if self._writing is not None:
            await asyncio.shield(self._writing)
            self._writing = None

    async def seal(self) -> Content:
        await self._idle()
        if self._writer.size + self._waiting <= INLINE_BYTES_MAX:
            return self._commit(self._taken())  # goes with its record, and never touches the disk
        if self._growing is not None:
            # The others sync it while it is synced here.
            self._digest = await self._node.store.disk.run(self._seal, self._taken())
            self._growing.finish(self._writer.size, self._digest)
        return await self._node.store.disk.run(self._commit, self._taken())

    async def commit(self) -> Content:
        content = await self.seal() if self._content is None else self._content
        if content.inline is None and content.size:
            await self._spread(content)
        return content

    def _seal(self, pieces: list[bytes]) -> bytes:
        self._write(pieces)
        return self._writer.seal()

    def _commit(self, pieces: list[bytes]) -> Content:
        """In a thread: known to `abort` also where nobody waits for the end any more."""
        self._write(pieces)
        self._content = content = self._writer.commit(True)
        if content.inline is None:
            self._digest = content.digest
        return content

    async def _spread(self, content: Content) -> None:
        """Who took the bytes at an earlier try may have let them go since: another record that names equal ones ends
        the claims of all uploads on them. So he is asked again, once that may be enough, and counts if he takes them;
        not where he cannot be reached, because nobody knows then what he has. A record has no majority either where
        never enough zones can be reached at the same time."""
        peers, enough = self._receivers()
        have: set[str] = set()
        if self._growing is not None:
            growing, self._growing = self._growing, None
            have |= await self._node.pusher.grown(growing)
            if len(have) >= enough:
                return
        others = [peer for peer in peers if peer not in have | self._took]
        again = [peer for peer in peers if peer in self._took - have]
        if not others and len(have) >= enough:
            return
        held = self._node.store.held_as(content, share=False)
        if not isinstance(held, int):
            raise UnavailableError("the bytes that were just stored are gone: send them again")
        try:
            have |= await self._push(content, held, others, enough - len(have) - len(again))
            self._took |= have
            if enough - len(again) <= len(have) < enough:
                have |= await self._push(content, held, again, enough - len(have))
                self._took = have
        finally:
            os.close(held)
        if len(have) < enough:
            raise UnavailableError(f"{len(have)} other zones took the bytes, {enough} are needed: try again")

    async def _push(self, content: Content, held: int, peers: Sequence[str], needed: int) -> set[str]:
        """The peers that have taken all of it."""
        self._told |= set(peers)
        _, enough = self._receivers()
        pushed = await self._node.pusher.push_file(
            held, content.size, bool(enough), peers, enough=needed, upload=self._name
        )
        if (pushed.digest, pushed.size) != (content.digest, content.size):
            await self._spoilt(content, held, pushed.digest, peers)
        return pushed.peers

    async def _spoilt(self, content: Content, held: int, digest: bytes, peers: Sequence[str]) -> NoReturn:
        """The blob has other bytes by now than came, and peers have been sent those."""
        self._node.pusher.forget(digest, self._name, peers)
        source = self._node.store.open(content, share=False)
        if isinstance(source, FileSource):
            await self._node.store.disk.run(source.drop, held)
        raise CorruptError("this node's disk gave other bytes than were stored: check it, and send the bytes again")

    async def abort(self) -> None:
        if self._writing is not None:
            await asyncio.wait((self._writing,))
            self._writing.exception()  # whoever wrote was told, or nobody waits any more
        if self._growing is not None:
            growing, self._growing = self._growing, None
            await growing.give_up()
        if self._content is None:
            await self._node.store.disk.run(self._writer.abort)
        elif self._content.inline is None and self._content.size:
            needed = await asyncio.get_running_loop().run_in_executor(
                self._node.threads, is_needed, self._node.environment, self._content.digest
            )
            await self._node.store.disk.run(self._node.store.take_back, self._content, self, is_needed=needed)
        if self._digest:
            told, self._told = self._told, set()
            self._node.pusher.forget(self._digest, self._name, sorted(told))

    def used(self) -> None:
        if self._content is not None:
            self._node.store.confirm(self._content, self)


def is_needed(environment: KeyValue, digest: bytes) -> bool:
    """Whether effects still to be carried out make files of the same bytes. Blocking."""
    with environment.read() as tables:
        return outbox.names(tables, digest)
