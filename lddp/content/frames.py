"""Frames on a stream between two nodes: a fixed header, and a body whose length is bounded by the frame's type.

Header, big endian: mark (2 bytes), type (1), flags (1), body length (4), id (8), offset (8). What the fields stand for
is said at each type. One request runs at a time on a connection; who wants more at once uses more connections.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple, TypeVar

from lddp.content.packs import PACK_BYTES_MAX, PACK_ID_BYTES
from lddp.core.records import Content
from lddp.errors import FormatError, LimitError, UnavailableError

HEADER = struct.Struct(">HBBIQQ")
MARK = 0x1DDB
DIGEST_BYTES = 32
UPLOAD_BYTES = 16
DATA_BYTES_MAX = 1024 * 1024
TEXT_BYTES_MAX = 4096
WANTED = struct.Struct(">32sQQ16sQB")
WRITE_BUFFER_BYTES = 4 * 1024 * 1024
STALL_SECONDS = 60.0
DURABLE = 1
GROWING = 2
"""Of a PUSH_BEGIN: the file is still being written."""


Result = TypeVar("Result")


class Type(IntEnum):
    PUSH_PACK = 1
    """Body: pack id, digest of the pack's bytes, its bytes. Answered by ACK or REFUSED."""
    PUSH_BEGIN = 2
    """A file of `offset` bytes is coming; DATA and PUSH_END follow. Body: the name of the client's upload that brought
    it, for a FORGET, or nothing. With GROWING, `offset` is 0, and PUSH_END says the size."""
    DATA = 3
    """The bytes at `offset`; all before it that did not come are zeros. An empty body only says how far they reach. In
    a growing file, bytes that have come already may come again, and be others."""
    PUSH_END = 4
    """All bytes of the file were sent. `offset` is its size, the body its digest."""
    ACK = 5
    REFUSED = 6
    """The body is a sentence. The connection goes on."""
    PULL = 7
    """Body: the content wanted (see `wanted`). `offset` is where the bytes are to begin. DATA and PULL_END follow, or
    NOT_HERE at any point."""
    PULL_END = 8
    """`offset` is the size, the body the digest of all bytes sent, or empty where the content's digest says it."""
    PULL_PACK = 9
    """Body: pack id. Answered by PACK or NOT_HERE."""
    PACK = 10
    """Body: digest of the pack's bytes, its bytes."""
    NOT_HERE = 11
    OFFER = 12
    """The file of `offset` bytes that is coming can be had as a descriptor. Answered by PLACE or NOT_HERE. PUSH_BEGIN
    with the same id follows; DATA only where the descriptor was not handed over."""
    PLACE = 13
    """Body: a token, and the path of the socket that the descriptor goes to with it."""
    WORKING = 14
    """The answer will come; the deadline begins anew."""
    FORGET = 15
    """Body: a digest and the name of an upload: no record will name what that upload brought. Answered by ACK or
    REFUSED."""


BODY_BYTES_MAX = {
    Type.PUSH_PACK: PACK_ID_BYTES + DIGEST_BYTES + PACK_BYTES_MAX,
    Type.PUSH_BEGIN: UPLOAD_BYTES,
    Type.DATA: DATA_BYTES_MAX,
    Type.PUSH_END: DIGEST_BYTES,
    Type.ACK: 0,
    Type.REFUSED: TEXT_BYTES_MAX,
    Type.PULL: WANTED.size,
    Type.PULL_END: DIGEST_BYTES,
    Type.PULL_PACK: PACK_ID_BYTES,
    Type.PACK: DIGEST_BYTES + PACK_BYTES_MAX,
    Type.NOT_HERE: 0,
    Type.OFFER: 0,
    Type.PLACE: TEXT_BYTES_MAX,
    Type.WORKING: 0,
    Type.FORGET: DIGEST_BYTES + UPLOAD_BYTES,
}


class Header(NamedTuple):
    type: Type
    flags: int
    length: int
    id: int
    offset: int


class Wanted(NamedTuple):
    """What a PULL asks for."""

    content: Content
    inode: int

    def pack(self) -> bytes:
        content = self.content
        return WANTED.pack(
            content.digest, content.size, self.inode, content.pack or bytes(16), content.offset, content.sealed
        )

    @classmethod
    def unpack(cls, body: bytes) -> Wanted:
        if len(body) != WANTED.size:
            raise FormatError(f"a PULL of {len(body)} bytes; the peer runs another version")
        digest, size, inode, pack, offset, sealed = WANTED.unpack(body)
        content = Content(digest, size, pack=pack if any(pack) else b"", offset=offset, sealed=bool(sealed))
        return cls(content, inode)


class Connection:
    """Frames over a connected pair of streams. What the network does is raised as UnavailableError, what the peer
    does wrong as FormatError or LimitError; after any of them the connection is of no use."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        peer: str,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._stall_seconds = stall_seconds
        self._heard = 0.0
        self.peer = peer
        writer.transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)

    @property
    def breath_s(self) -> float:
        """How often a sign of life is given."""
        return self._stall_seconds / 4

    @property
    def usable(self) -> bool:
        return not (self._reader.at_eof() or self._writer.is_closing())

    def is_local(self) -> bool:
        """Whether the other end is on this host, behind a unix socket."""
        transport_socket = self._writer.get_extra_info("socket")
        return transport_socket is not None and transport_socket.family == socket.AF_UNIX

    async def send(
        self, type_: Type, id_: int, offset: int = 0, body: Iterable[bytes | memoryview] = (), flags: int = 0
    ) -> None:
        """Frames from several tasks do not mix: nothing waits between a frame's header and its body."""
        pieces = [piece for piece in body if len(piece)]
        length = sum(map(len, pieces))
        assert length <= BODY_BYTES_MAX[type_], f"{type_.name} of {length} bytes"
        if self._writer.is_closing():
            raise UnavailableError(f"the connection to {self.peer} is closed; retry")
        self._writer.writelines([HEADER.pack(MARK, type_, flags, length, id_, offset), *pieces])
        await self._drain()

    async def _drain(self) -> None:
        """Waits until the peer has room again; for as long as it takes something now and then."""
        transport = self._writer.transport
        left = transport.get_write_buffer_size()
        while True:
            try:
                async with asyncio.timeout(self._stall_seconds):
                    await self._writer.drain()
                return
            except TimeoutError:
                before, left = left, transport.get_write_buffer_size()
                if left >= before:
                    raise UnavailableError(f"{self.peer} takes no bytes any more; retry") from None
            except OSError as error:
                raise UnavailableError(f"the connection to {self.peer} broke: {error}; retry") from error

    async def receive_header(self, seconds: float | None) -> Header | None:
        """The next frame's header, checked, within the deadline if there is one; None where the peer closed the
        connection between frames."""
        try:
            async with asyncio.timeout(seconds):
                packed = await self._reader.readexactly(HEADER.size)
        except asyncio.IncompleteReadError as error:
            if not error.partial:
                return None
            raise UnavailableError(f"the connection to {self.peer} ended within a frame; retry") from None
        except TimeoutError:
            raise UnavailableError(f"{self.peer} has been silent for too long; retry") from None
        except OSError as error:
            raise UnavailableError(f"the connection to {self.peer} broke: {error}; retry") from error
        mark, type_number, flags, length, id_, offset = HEADER.unpack(packed)
        if mark != MARK or type_number not in BODY_BYTES_MAX or flags > DURABLE | GROWING:
            raise FormatError(f"{self.peer} sent something that is no frame; it runs another version or is broken")
        self._heard = asyncio.get_running_loop().time()
        type_ = Type(type_number)
        if length > BODY_BYTES_MAX[type_]:
            raise LimitError(f"{self.peer} sent {type_.name} of {length} bytes; {BODY_BYTES_MAX[type_]} are allowed")
        return Header(type_, flags, length, id_, offset)

    async def receive_pieces(self, length: int, pieces: list[bytes]) -> None:
        """Appends a body to `pieces` as it comes off the stream; what came before an error is there too."""
        now = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(self._stall_seconds) as deadline:
                while length:
                    piece = await self._reader.read(length)
                    if not piece:
                        raise UnavailableError(f"the connection to {self.peer} ended within a frame; retry")
                    pieces.append(piece)
                    length -= len(piece)
                    deadline.reschedule(now() + self._stall_seconds)
        except TimeoutError:
            raise UnavailableError(f"{self.peer} stopped within a frame; retry") from None
        except OSError as error:
            raise UnavailableError(f"the connection to {self.peer} broke: {error}; retry") from error

    async def receive_body(self, length: int) -> bytes:
        pieces: list[bytes] = []
        await self.receive_pieces(length, pieces)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def receive_answer(self, id_: int, *, patient: bool = False) -> Header:
        """The header of the next frame that is more than a sign of life; it must belong to request `id_`. `patient`:
        without a deadline."""
        while True:
            header = await self.receive_header(None if patient else self._stall_seconds)
            if header is None:
                raise UnavailableError(f"{self.peer} closed the connection; retry")
            if header.id != id_:
                raise FormatError(f"{self.peer} sent request {header.id} within {id_}")
            if header.type is not Type.WORKING:
                return header

    async def within_deadline(self, answer: asyncio.Task[Header]) -> Header:
        """The result of a patient `receive_answer`, from now on only for as long as the peer gives signs of life."""
        now = asyncio.get_running_loop().time
        begin = now()
        while not answer.done():
            left = max(begin, self._heard) + self._stall_seconds - now()
            if left <= 0:
                raise UnavailableError(f"{self.peer} does not answer; retry")
            await asyncio.wait((answer,), timeout=left)
        return answer.result()

    async def while_working(self, id_: int, work: asyncio.Future[Result]) -> Result:
        """Waits for `work` and gives the peer signs of life meanwhile. Cancels it when cancelled or broken."""
        try:
            while not (await asyncio.wait((work,), timeout=self.breath_s))[0]:
                await self.send(Type.WORKING, id_)
        finally:
            if not work.done():
                work.cancel()
                await asyncio.wait((work,))
        return work.result()

    def abort(self) -> None:
        """Closes at once; what was not sent yet is lost."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Closes and waits for it, within the deadline."""
        self._writer.close()
        try:
            async with asyncio.timeout(self._stall_seconds):
                await self._writer.wait_closed()
        except TimeoutError:
            self.abort()
        except OSError:
            pass  # it is closed, which is all that was wanted
