"""The contents that a node holds apart from its zone's files."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from lddp.content.alone import Alone
from lddp.content.arrival import Arrival
from lddp.content.claims import PUSHED_LOOKS, Claims
from lddp.content.disk import DiskThreads, GroupSync, open_directory, remove
from lddp.content.layout import CHAINED, PART, name_of, prepare
from lddp.content.packs import PackShelf
from lddp.content.source import BytesSource, FileSource
from lddp.content.suspects import Suspects
from lddp.content.usage import Usage, occupied
from lddp.content.writer import BlobWriter
from lddp.core.records import Content
from lddp.errors import CorruptError, UnavailableError

logger = logging.getLogger(__name__)

MEMORY_BYTES_MAX = 128 * 1024 * 1024
LARGE_BYTES = 4 * 1024 * 1024
SHARED_SYNC_BYTES_MAX = 16 * 1024 * 1024
"""What is larger is written back before it joins a round of syncs, because others wait for that round."""

Fetch = Callable[[Content, int, Sequence[str]], Awaitable[None]]


class Store:
    """Implements `ContentStore`. Methods block on the disk at most, unless they are coroutines; all may be called from
    any thread. The directory must be on the zone's filesystem, so that a blob can be renamed into place."""

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        memory_bytes_max: int = MEMORY_BYTES_MAX,
        disk: DiskThreads | None = None,
        has_lost: bool = False,
    ) -> None:
        """`has_lost`: see `lddp.content.layout.prepare`."""
        self.directory = os.fspath(directory)
        self._owns_disk = disk is None
        self.disk = disk or DiskThreads()
        self._syncs = GroupSync()
        self._lock = threading.Lock()
        self._alone = Alone(self._lock)
        self._keeps: Counter[str] = Counter()
        self._claims = Claims()
        self._pushes = Claims(PUSHED_LOOKS)  # of other nodes' uploads
        self.is_expected: Callable[[Content], bool] = lambda _content: False
        """Whether an effect that is still to be carried out brings these bytes. Asked by any thread."""
        self._refused: dict[str, Content] = {}
        """What was to be dropped, and others needed."""
        self._fetch: Fetch | None = None
        self._sent: deque[tuple[bytes, int]] = deque()
        self._sent_bytes = 0
        self._sent_bytes_max = memory_bytes_max // 2
        self._latest = (b"", memoryview(b""))
        """The pack that was read last: the files of one come one after the other."""
        prepare(self.directory, has_lost=has_lost)
        self._blobs_directory = open_directory(self._path("blobs"))
        self._packs_directory = open_directory(self._path("packs"))
        self._suspects = Suspects(self._path("suspects"), self._path("blobs"), self._alone)
        self._packs = PackShelf(self._path("packs"), self._temporary, self._syncs, memory_bytes_max)

    # -- files ------------------------------------------------------------------------------------------------------

    def _path(self, *names: str) -> str:
        return os.path.join(self.directory, *names)

    def _temporary(self) -> str:
        return self._path("incoming", os.urandom(16).hex())

    # -- writing ----------------------------------------------------------------------------------------------------

    def writer(self, upload: object | None = None) -> BlobWriter:
        """For bytes that come from a client of this node. `upload` has to say what became of what was committed:
        `confirm` or `take_back`, and neither where nobody knows."""
        return BlobWriter(partial(self.arrival, durable=True), partial(self.publish, upload=upload))

    def arrival(self, *, durable: bool = False) -> Arrival:
        """A new file for bytes whose digest is not known yet; `durable` where they will be synced."""
        return Arrival(self._temporary(), durable=durable)

    def part(self, content: Content) -> Arrival:
        """The file of a pull, with what an earlier attempt left in it."""
        return Arrival(self._path("parts", content.digest.hex() + PART), resume=True)

    def publish(
        self,
        arrival: Arrival,
        digest: bytes,
        *,
        sealed: bool = True,
        durable: bool = False,
        upload: object | None = None,
        pushed: bytes = b"",
    ) -> None:
        """A whole and verified arrival becomes a blob, and is closed. `upload`: see `writer`, `pushed` for a node's."""
        content = Content(digest, arrival.offset, sealed=sealed)
        name, path = name_of(content), self._path("blobs", name_of(content))
        try:
            if durable and arrival.offset > SHARED_SYNC_BYTES_MAX:
                os.fdatasync(arrival.descriptor)
            elif durable:
                self._syncs.sync(arrival.descriptor, None)  # before anybody believes it
            if not durable:
                self._suspects.settle(name)  # whole, it may have been synced: it stays rather than this one
            with self._alone.with_blob(name):
                is_there = os.path.exists(path)
                with self._lock:
                    self._refused.pop(name, None)
                    if name in self._keeps or self.is_expected(content):
                        pushed = b""  # its record has been here before: nobody will say that it is named
                    for claims, by in ((self._claims, upload), (self._pushes, pushed or None)):
                        claims.come(name, by, is_there or name in self._suspects)
                if is_there and not durable and os.stat(path).st_size == arrival.offset:
                    os.unlink(arrival.path)  # the one that is there may have been synced
                else:
                    os.rename(arrival.path, path)
                aside = self._temporary() if durable and name in self._suspects else ""
                if aside:
                    self._suspects.set_aside(name, aside)
            if aside:
                remove(aside)
            if durable:
                self._syncs.sync(None, self._blobs_directory)
        except BaseException:
            with self._lock:
                self._claims.give_up(name, upload)
                self._pushes.give_up(name, pushed)
            raise
        finally:
            arrival.close()

    def sync(self, content: Content) -> bool:
        """Whether the bytes are here, durably. OSError where the disk says that they may not be: it says so once, so
        the blob is a suspect from then on. It is not dropped, because it may have been durable before. Blocking."""
        source = self.open(content)
        if not isinstance(source, FileSource):
            return source is not None
        try:
            descriptor = source.descriptor()
        except UnavailableError:
            return False
        try:
            self._syncs.sync(descriptor, self._blobs_directory)
        except OSError:
            self._suspects.doubt(name_of(content))
            raise
        finally:
            os.close(descriptor)
        return True

    async def add_pack(self, pack_id: bytes, data: bytes, durable: bool = False) -> None:
        """Keeps a pack; on disk when memory is full or, synced, when `durable`."""
        if durable or not self._packs.add_to_memory(pack_id, data):
            await self.disk.run(self._packs.spill, pack_id, data, durable, self._packs_directory)

    def keep_recent(self, pack_id: bytes, data: bytes) -> None:
        """Keeps a pack that this node has sent, for a peer that loses it before it could use it. The latest ones are
        kept, as many as have room."""
        while self._sent and self._sent_bytes + len(data) > self._sent_bytes_max:
            oldest, size = self._sent.popleft()
            self._sent_bytes -= size
            self._packs.release(oldest)
        if self._packs.add_to_memory(pack_id, data):
            self._sent.append((pack_id, len(data)))
            self._sent_bytes += len(data)

    # -- reading ----------------------------------------------------------------------------------------------------

    def open(self, content: Content, *, share: bool = True, waits: bool = True) -> BytesSource | FileSource | None:
        """The bytes if they are here, else None. `share`: because somebody else than their upload needs them. Unless it
        `waits`, what has to be hashed before is not here."""
        if content.inline is not None:
            return BytesSource(content, content.inline)
        if not content.size and content.sealed:
            return BytesSource(content, b"")
        if content.pack and (source := self._slice(content)) is not None:
            return source
        name = name_of(content)
        path = self._path("blobs", name)
        if share:
            with self._lock:
                self._claims.share(name)
                self._pushes.share(name)
        if name in self._suspects:
            if not waits:
                return None
            self._suspects.settle(name)
        size = _size_of(path)
        if size >= 0 and size != content.size:
            with self._alone.if_free(name) as is_free:  # another one may have come, or be coming
                size = _size_of(path) if is_free else -1
                if size >= 0 and size != content.size:
                    logger.warning("blob %s has %d bytes, not %d; it is fetched again", name, size, content.size)
                    os.unlink(path)
                    size = -1
        if size < 0:
            return None
        return FileSource(path, size, lambda: not self._is_needed(content, name), partial(self._alone.with_blob, name))

    def _is_needed(self, content: Content, name: str) -> bool:
        """Whether a blob must stay here."""
        is_claimed = name in self._claims or name in self._pushes
        return is_claimed or name in self._keeps or self.is_expected(content)

    def _slice(self, content: Content) -> BytesSource | None:
        latest, view = self._latest
        if latest != content.pack:
            pack = self._packs.read(content.pack)
            if pack is None:
                return None
            view = memoryview(pack)
            self._latest = (content.pack, view)
        source = BytesSource(content, view[content.offset : content.offset + content.size])
        try:
            source.check()
        except CorruptError as error:
            logger.warning("pack %s at %d: %s", content.pack.hex(), content.offset, error)
            return None
        return source

    def held_as(self, content: Content, *, share: bool = True) -> bytes | memoryview | int | None:
        """The bytes in memory, or an open descriptor of the blob that the caller closes, or None. As `open`."""
        source = self.open(content, share=share)
        if not isinstance(source, FileSource):
            return None if source is None else source.data()
        try:
            return source.descriptor()
        except UnavailableError:
            return None

    def pack(self, pack_id: bytes) -> bytes | None:
        """A whole pack, to give it to another node."""
        return self._packs.read(pack_id)

    def keep(self, content: Content) -> None:
        """Until `unkeep`, nobody may move this blob away: more than one file is to be made of it. Counts."""
        with self._lock:
            self._keeps[name_of(content)] += 1

    def unkeep(self, content: Content) -> None:
        name = name_of(content)
        with self._lock:
            assert self._keeps[name] > 0, "unkeep without keep"
            self._keeps[name] -= 1
            if not self._keeps[name]:
                del self._keeps[name]

    def kept(self) -> list[bytes]:
        """Digests of what `keep` holds."""
        with self._lock:
            return [bytes.fromhex(name.removesuffix(CHAINED)) for name in self._keeps]

    # -- the ContentStore protocol's network half ---------------------------------------------------------------------

    def use(self, fetch: Fetch) -> None:
        """Says how contents are brought from other nodes."""
        self._fetch = fetch

    async def fetch(self, content: Content, inode: int, holders: Sequence[str]) -> None:
        if self._fetch is None:
            raise UnavailableError("this node has no connection to others yet; retry")
        await self._fetch(content, inode, holders)

    def named(self, content: Content) -> None:
        """A record names these bytes: if another node pushed them, they are the effects' to let go from now on. They
        are expected by then: a push that comes later claims nothing, and one that is coming has the lock."""
        with self._lock:
            self._pushes.forget(name_of(content))

    # -- letting go -------------------------------------------------------------------------------------------------

    def confirm(self, content: Content, upload: object) -> None:
        """A record names what the upload brought: from now on it is its effects' to let go."""
        with self._lock:
            self._claims.confirm(name_of(content), upload)

    def take_back(self, content: Content, upload: object, *, is_needed: bool) -> None:
        """No record will name what the upload brought. It is dropped, unless somebody else has use for the same bytes;
        `is_needed`: effects have that wait for them."""
        name = name_of(content)
        with self._alone.with_blob(name):
            with self._lock:
                gone = self._claims.give_up(name, upload) or self._pushes.give_up(name, upload)
                if not gone or is_needed:
                    return
                if self._is_needed(content, name):
                    self._refused[name] = content
                    return
            aside = self._set_aside(name)
        remove(aside)

    def undecided(self) -> int:
        """How many blobs uploads claim."""
        return len(self._claims)

    def forget_undecided(self) -> None:
        """Claims of uploads that were undecided at the last call too end, as if they had been confirmed."""
        with self._lock:
            self._claims.grow_old()
            self._pushes.grow_old()

    def release(self, content: Content) -> None:
        """Drops a content, whole or in part, unless somebody else needs the same bytes: an undecided upload, who keeps
        them, an effect that is expected, who is just now moving it, which `release_refused` looks at again. A pack
        stays until `release_pack`."""
        name = name_of(content)
        with self._alone.if_free(name) as is_free:
            with self._lock:
                self._claims.let_go(name)
                if not is_free or self._is_needed(content, name):
                    self._refused[name] = content
                    return
            aside = self._set_aside(name)
        if content.size < LARGE_BYTES:
            remove(aside)
        else:
            self.disk.begin(remove, aside)  # which takes long, and this may be called in the event loop
        remove(self._path("parts", content.digest.hex() + PART))

    def release_refused(self) -> None:
        """Drops what was to be dropped while somebody needed it, and nobody does any more."""
        with self._lock:
            refused, self._refused = self._refused, {}
        for content in refused.values():
            self.release(content)

    def _set_aside(self, name: str) -> str:
        """Where a blob is now that has to go: the unlinking of a large one takes long, and a later one may come. For
        who is alone with it."""
        aside = self._temporary()
        if not self._suspects.set_aside(name, aside):
            with contextlib.suppress(FileNotFoundError):
                os.rename(self._path("blobs", name), aside)
        return aside

    def release_pack(self, pack_id: bytes) -> None:
        if self._latest[0] == pack_id:
            self._latest = (b"", memoryview(b""))
        self._packs.release(pack_id)

    def held(self) -> tuple[list[bytes], list[bytes]]:
        """(pack ids, digests of what is here whole or in part and no upload claims), for the sweep of what nobody needs
        any more."""
        names = {*os.listdir(self._path("blobs")), *os.listdir(self._path("suspects"))}
        with self._lock:
            names = {name for name in names if name not in self._claims and name not in self._pushes}
        names |= {name.removesuffix(PART) for name in os.listdir(self._path("parts"))}
        return self._packs.ids(), [bytes.fromhex(name.removesuffix(CHAINED)) for name in names]

    def usage(self) -> Usage:
        blobs, blob_bytes = occupied(self._path("blobs"))
        return Usage(
            memory_bytes=self._packs.memory_bytes,
            packs=len(self._packs.ids()),
            pack_file_bytes=self._packs.spilled_bytes(),
            blobs=blobs,
            blob_bytes=blob_bytes,
            part_bytes=occupied(self._path("parts"))[1],
        )

    def close(self) -> None:
        if self._owns_disk:
            self.disk.close()
        os.close(self._blobs_directory)
        os.close(self._packs_directory)


def _size_of(path: str) -> int:
    """-1 where there is no such file."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return -1
