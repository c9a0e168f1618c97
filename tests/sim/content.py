"""The content plane: what each node's store holds, pushes to peers, and pulls from whoever has the bytes.

As in production, blobs survive a killed process and packs in memory do not; a pull is answered from the store or from
the zone's own file, which may have other bytes by now, and then it fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from blake3 import blake3

from lddp.content.push import Pushed
from lddp.content.source import BytesSource
from lddp.core.records import Content
from lddp.errors import UnavailableError
from tests.fakes.blobs import Blobs, Key, key_of
from tests.sim.files import Descriptors
from tests.sim.loop import Process
from tests.sim.network import Network

RECENT_BYTES_MAX = 4096
"""So little that a peer that was away does not find all of them."""
Locate = Callable[[Content, int], int | None]


class Blob:
    """A blob as a source. `take` moves it away, as a zone on the store's filesystem does."""

    def __init__(self, store: SimulatedStore, content: Content) -> None:
        self._store = store
        self._content = content
        self.key = key_of(content)
        self.size = content.size

    def to_take(self) -> None:
        return None

    def open_to_clone(self) -> int | None:
        return None

    def data(self) -> bytes:
        data = self._store.blobs.get(self.key)
        if data is None:
            raise UnavailableError("the content was taken or released meanwhile; fetch it again")
        return data

    def chunks(self) -> Iterator[tuple[int, bytes | memoryview]]:
        return iter([(0, self.data())])

    def take(self) -> None:
        if not self._store.is_needed(self._content):
            self._store.blobs.pop(self.key, None)


class SimulatedStore(Blobs):
    """Implements `ports.ContentStore` and what else production uses of the store, for one process. `blobs` are on the
    node's disk and outlive it."""

    def __init__(
        self, name: str, blobs: dict[Key, bytes], process: Process, network: Network, descriptors: Descriptors
    ) -> None:
        super().__init__(blobs)
        self.name = name
        self.packs: dict[bytes, bytes] = {}
        self.peers: dict[str, SimulatedStore] = {}
        self.locate: Locate = lambda _content, _inode: None
        self.doubt: Callable[[int], None] = lambda _inode: None
        self.is_named: Callable[[bytes], bool] = lambda _digest: False
        """Whether effects that are still to be carried out name it."""
        self.unavailable = 0
        self._recent: list[bytes] = []
        self._process = process
        self._network = network
        self._descriptors = descriptors

    # -- at this node -----------------------------------------------------------------------------------------------

    def open(self, content: Content, *, share: bool = True, waits: bool = True) -> BytesSource | Blob | None:
        if content.inline is not None:
            return BytesSource(content, content.inline)
        if not content.size and content.sealed:
            return BytesSource(content, b"")
        pack = self.packs.get(content.pack) if content.pack else None
        if pack is not None:
            return BytesSource(content, pack[content.offset : content.offset + content.size])
        if share:
            self.share(content)
        return Blob(self, content) if key_of(content) in self.blobs else None

    def add(self, data: bytes, upload: object) -> Content:
        """Bytes of a client, as a blob."""
        content = Content(blake3(data).digest(), len(data))
        self._process.point()
        self.publish(content, data, upload=upload)
        return content

    def save(self, content: Content, descriptor: int) -> bool:
        """As `content.saving.save`."""
        if self.open(content) is None:
            data = self._descriptors.pread(descriptor, content.size, 0)
            if blake3(data).digest() != content.digest:
                return False
            self._process.point()
            self.publish(content, data)
        return True

    def keep_recent(self, pack_id: bytes, data: bytes) -> None:
        self.packs[pack_id] = data
        self._recent.append(pack_id)
        while sum(len(self.packs.get(one, b"")) for one in self._recent) > RECENT_BYTES_MAX:
            self.packs.pop(self._recent.pop(0), None)

    def release_pack(self, pack_id: bytes) -> None:
        self.packs.pop(pack_id, None)

    # -- for peers, in this node's process ----------------------------------------------------------------------------

    def take_pack(self, pack_id: bytes, data: bytes) -> bool:
        self._process.point()
        self.packs.setdefault(pack_id, data)
        return True

    def take_blob(self, content: Content, data: bytes, upload: bytes = b"") -> bool:
        self._process.point()
        self.publish(content, data, pushed=upload)
        return True

    def take_back_pushed(self, digest: bytes, upload: bytes) -> None:
        """As `content.take` with a FORGET."""
        self.take_back(Content(digest, 0), upload, is_needed=self.is_named(digest))

    def give(self, content: Content, inode: int) -> bytes | None:
        """From the store, or from the file that is believed to hold the bytes."""
        held = self.open(content)
        if held is not None:
            return bytes(held.data())
        descriptor = self.locate(content, inode)
        if descriptor is None:
            return None
        try:
            data = self._descriptors.pread(descriptor, content.size + 1, 0)
        finally:
            self._descriptors.close(descriptor)
        if len(data) != content.size or blake3(data).digest() != content.digest:
            self.doubt(inode)
            return None
        return data

    # -- from peers -------------------------------------------------------------------------------------------------

    async def fetch(self, content: Content, inode: int, holders: Sequence[str]) -> None:
        for holder in holders:
            peer = self.peers.get(holder)
            if peer is None or peer is self:
                continue
            try:
                data = await self._ask(holder, content, inode)
            except UnavailableError:
                continue
            if data is not None and len(data) == content.size and blake3(data).digest() == content.digest:
                self.take_blob(content, data)
                return
        self.unavailable += 1
        raise UnavailableError(f"nobody has content {content.digest.hex()[:16]} now")

    async def _ask(self, holder: str, content: Content, inode: int) -> bytes | None:
        def give() -> bytes | None:
            return self.peers[holder].give(content, inode)

        return await self._network.request(self.name, holder, give, content.size)


class SimulatedPusher:
    """In the place of `content.push.Pusher`. A file is read in steps, so that it can change meanwhile."""

    def __init__(self, store: SimulatedStore, network: Network, descriptors: Descriptors) -> None:
        self._store = store
        self._network = network
        self._descriptors = descriptors
        self._behind: dict[asyncio.Task[bool], tuple[str, bytes]] = {}
        """Peers and uploads of the pushes that go on when enough have the bytes."""
        self._forgetting: set[asyncio.Task[None]] = set()

    async def push_pack(
        self, pack_id: bytes, data: bytes, _durable: bool, to: Sequence[str], *, enough: int | None = None
    ) -> set[str]:
        return await self._push(to, lambda peer: peer.take_pack(pack_id, data), len(data))

    async def push_file(
        self,
        descriptor: int,
        size: int,
        _durable: bool,
        to: Sequence[str],
        *,
        enough: int | None = None,
        told: Callable[[int], None] | None = None,
    ) -> Pushed:
        data = b""
        while len(data) < size:
            piece = self._descriptors.pread(descriptor, min(size - len(data), size // 2 + 1), len(data))
            if not piece:
                break
            data += piece
            await asyncio.sleep(0.0005)
        found = self._descriptors.fstat(descriptor).st_size if len(data) == size else len(data)
        content = Content(blake3(data).digest(), len(data))
        if found != size:
            return Pushed(content.digest, found, set())
        return Pushed(content.digest, size, await self.push_blob(content, data, to))

    async def push_blob(
        self, content: Content, data: bytes, to: Sequence[str], *, enough: int | None = None, upload: bytes = b""
    ) -> set[str]:
        return await self._push(to, lambda peer: peer.take_blob(content, data, upload), len(data), enough, upload)

    async def _push(
        self,
        to: Sequence[str],
        take: Callable[[SimulatedStore], bool],
        size: int,
        enough: int | None = None,
        upload: bytes = b"",
    ) -> set[str]:
        """The peers that have it, when `enough` of them or all have answered. As in production, the others' go on."""
        tasks = {asyncio.create_task(self._request(name, take, size)): name for name in to}
        pending, have = set(tasks), set[str]()
        while pending and (enough is None or len(have) < enough):
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            have |= {tasks[task] for task in done if task.result()}
        for task in tasks:
            if task in pending:
                self._behind[task] = tasks[task], upload
                task.add_done_callback(self._behind.pop)
        return have

    async def _request(self, name: str, take: Callable[[SimulatedStore], bool], size: int) -> bool:
        try:
            return await self._network.request(self._store.name, name, lambda: take(self._store.peers[name]), size)
        except UnavailableError:
            return False

    def forget(self, digest: bytes, upload: bytes, peers: Sequence[str]) -> None:
        """As `Pusher.forget`."""
        task = asyncio.create_task(self._forget(digest, upload, peers))
        self._forgetting.add(task)
        task.add_done_callback(self._forgetting.discard)

    async def _forget(self, digest: bytes, upload: bytes, peers: Sequence[str]) -> None:
        def forget(peer: SimulatedStore) -> bool:
            peer.take_back_pushed(digest, upload)
            return True

        behind = [task for task, (_, other) in self._behind.items() if other == upload]
        if behind:
            await asyncio.wait(behind)
        for peer in peers:
            await self._request(peer, forget, 0)
