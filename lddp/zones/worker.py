"""Processes that put small files into place for a node.

Putting a file is a handful of short system calls. A thread of the node would need the interpreter after each of them,
while the node's event loop has it most of the time; a process of its own needs nobody. The files go through memory
that both share, and what there is to say of them comes back through it. A socket only tells where that is: a message
there is a few bytes, so that neither side ever waits for the other to read, however much there is to say.

A worker does nothing by itself and keeps nothing: when it is gone, the node does the same work in its own threads, from
the first file that was not answered for. It ends with the node, and shares a lock in the staging directory of each tree
until it has ended, so that whoever comes after the node cannot begin while a file is still being put.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import signal
import socket
import struct
import sys
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import msgpack

from lddp.core.records import Attributes
from lddp.errors import LddpError
from lddp.ports import ContentSource, NewFile
from lddp.zones.attributes import Shortfall, Shortfalls
from lddp.zones.looking import Looker
from lddp.zones.putting import InMemory, Putter
from lddp.zones.resolve import Root
from lddp.zones.staging import Staging

REQUESTS_MAX = 2
"""Requests that a worker may have at once: the next one is ready when it has answered for one."""
REQUEST_BYTES = 2 * 1024 * 1024
"""Bytes of the files of one request with what describes them, or of its answer. An answer has SHORTFALLS_KEPT_MAX
names of xattrs at most, and no paths."""
_DESCRIBED_BYTES = 64
"""More than what describes a file has besides its path, or an xattr besides its name and value."""
_LENGTH = struct.Struct("=I")
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack

_Described = tuple[bytes, Attributes, int]
"""Path, attributes and size in bytes of a file."""


class Tree(NamedTuple):
    """What the worker opens by itself: `identity` says whether it found what the node has open."""

    root: bytes
    staging: bytes
    hidden: bytes
    identity: tuple[int, int, int, int]
    """Device and inode of the root and of the staging directory."""


class Answer(NamedTuple):
    """How many files are in place, what the filesystem said to the next one, and what could not be set."""

    done: int
    error: OSError | None
    shortfalls: list[Shortfall]


class Worker:
    """The node's side of one process, which does what it is asked in order and answers in the same order. OSError or
    EOFError where the process is gone."""

    def __init__(self, process: int, channel: socket.socket, memory: mmap.mmap) -> None:
        self.process = process
        """Its process id; 0 once it has ended."""
        self._channel = channel
        self._stream: BinaryIO = channel.makefile("rb")
        self._memory = memory
        self._begun = 0
        self._asked: deque[tuple[int, list[_Described]]] = deque()
        """Where the answers will be that are to come, and what was asked."""

    @classmethod
    def start(cls, others: Sequence[Worker] = ()) -> Worker:
        """Forks the process, while this one has one thread; `others` have been forked before. OSError where the system
        has no room for it."""
        memory = mmap.mmap(-1, REQUESTS_MAX * REQUEST_BYTES)
        ours, theirs = socket.socketpair()
        parent = os.getpid()
        process = os.fork()
        if process == 0:
            try:
                ours.close()
                for other in others:
                    # Kept open here, they would hide from the others that the node has closed its end.
                    other.hang_up()
                _become_worker(parent)
                _serve(theirs, memory)
            finally:
                if sys.exception() is not None:
                    traceback.print_exc()
                os._exit(0)
        theirs.close()
        return cls(process, ours, memory)

    def open(self, number: int, tree: Tree, closed: Sequence[int]) -> bool:
        """Opens a tree under a number, and closes others. False where the worker cannot have it."""
        self._ask("open", number, tree.root, tree.staging, tree.hidden, closed)
        return tuple(_receive(self._stream)) == tree.identity

    def begin(self, number: int, files: Sequence[NewFile]) -> int:
        """Asks for the first ones of `files`, as many as go into one request; how many. Nothing is asked where it is 0.
        Not while REQUESTS_MAX of them are unanswered."""
        start = self._begun % REQUESTS_MAX * REQUEST_BYTES
        described, end = self._fill(files, start)
        if described:
            self._begun += 1
            self._asked.append((start, described))
            size = _write(self._memory, end, start + REQUEST_BYTES, described)
            self._ask("put", number, start, end, size)
        return len(described)

    def end(self) -> Answer:
        """Waits for the files of the first `begin` that has none yet."""
        size = _receive(self._stream)
        start, asked = self._asked.popleft()
        done, code, shortfalls = _unpack(self._memory[start : start + size])
        failed = OSError(code, os.strerror(code), asked[done][0]) if code else None
        found = [Shortfall(asked[place][0], os.fsdecode(what), number) for place, what, number in shortfalls]
        return Answer(done, failed, found)

    def close(self) -> None:
        """Waits until the process is gone, and with it whatever it was doing."""
        process, self.process = self.process, 0
        self.hang_up()
        if process:
            os.waitpid(process, 0)

    def hang_up(self) -> None:
        """Closes this end, also of a copy of this process: then the worker ends once nobody has another."""
        self._stream.close()
        self._channel.close()

    def _fill(self, files: Sequence[NewFile], start: int) -> tuple[list[_Described], int]:
        """Puts bytes into the shared memory while they fit, and what describes the files fits behind them; that, and
        where it is to be. It ends before a file that is to be taken from the disk or has holes."""
        memory, end, room = self._memory, start, REQUEST_BYTES - _DESCRIBED_BYTES
        described: list[_Described] = []
        for path, attributes, source in files:
            size = source.size
            room -= size + len(path) + _DESCRIBED_BYTES
            for name, value in attributes.xattrs:
                room -= len(name) + len(value) + _DESCRIBED_BYTES
            if room < 0 or source.to_take() is not None:
                break
            data = _whole(source)
            if data is None:
                break
            memory[end : end + size] = data
            end += size
            described.append((path, attributes, size))
        return described, end

    def _ask(self, *request: Any) -> None:
        _send(self._channel, request)


def _send(channel: socket.socket, message: Any) -> None:
    data = _pack(message)
    channel.sendall(_LENGTH.pack(len(data)) + data)


def _write(memory: mmap.mmap | memoryview, start: int, end: int, message: Any) -> int:
    """Puts a message into the shared memory, where there is room for it up to `end`; its size in bytes."""
    data = _pack(message)
    assert start + len(data) <= end, "a request is not larger than what was reckoned, and no answer is as large"
    memory[start : start + len(data)] = data
    return len(data)


def _whole(source: ContentSource) -> bytes | memoryview | None:
    """All bytes of a source that gives them in one piece. None also where it cannot: whoever puts the file by itself
    learns why."""
    try:
        chunks = list(source.chunks()) or [(0, b"")]
    except (OSError, LddpError):
        return None
    offset, data = chunks[0]
    return data if len(chunks) == 1 and not offset and len(data) == source.size else None


# -- the worker's side ------------------------------------------------------------------------------------------------


class _Opened(NamedTuple):
    root: Root
    staging: Staging
    shortfalls: Shortfalls
    putter: Putter


def _become_worker(parent: int) -> None:
    """Never outlives the node, and leaves signals of the terminal to it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NAME, b"lddp-worker", 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def _serve(channel: socket.socket, memory: mmap.mmap) -> None:
    """Until the node closes its end, or is gone, with answers that it has not read."""
    opened: dict[int, _Opened] = {}
    stream = channel.makefile("rb")
    view = memoryview(memory)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            kind, number, *fields = _receive(stream)
            if kind == "open":
                *paths, closed = fields
                for old in closed:
                    _close(opened.pop(old, None))
                answer: Any = _open_tree(opened, number, *paths)
            else:
                answer = _put_all(opened[number], view, *fields)
            _send(channel, answer)


def _receive(stream: BinaryIO) -> Any:
    """The next message. EOFError at the end."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError("the other end is closed")
    (length,) = _LENGTH.unpack(head)
    data = stream.read(length)
    if len(data) < length:
        raise EOFError("the other end was closed within a message")
    return _unpack(data)


def _unpack(data: bytes | memoryview) -> Any:
    return msgpack.unpackb(data, use_list=False, raw=False)


def _open_tree(opened: dict[int, _Opened], number: int, path: bytes, staging_path: bytes, hidden: bytes) -> list[int]:
    """Opens a tree, its staging directory locked; its identity, nothing where that cannot be."""
    try:
        root = Root(path)
    except OSError:
        return []
    root.hidden = hidden
    try:
        staging = Staging(staging_path, for_worker=True)
    except OSError:
        root.close()
        return []
    shortfalls = Shortfalls()
    opened[number] = _Opened(root, staging, shortfalls, Putter(root, staging, Looker(root), shortfalls))
    found = os.fstat(root.fd)
    return [found.st_dev, found.st_ino, *staging.inode]


def _close(tree: _Opened | None) -> None:
    if tree is not None:
        tree.root.close()
        tree.staging.close()


def _put_all(tree: _Opened, view: memoryview, start: int, end: int, size: int) -> int:
    """Puts the files whose bytes begin at `start`; what describes them has `size` bytes from `end` on. Leaves the
    answer at `start`: files in place, errno of the next one, and shortfalls, each with the number of its file. The
    answer's size in bytes."""
    described: Sequence[tuple[bytes, tuple[Any, ...], int]] = _unpack(view[end : end + size])
    done, code = 0, 0
    put = tree.putter.put
    try:
        for path, attributes, data in _slices(view, start, described):
            put(path, attributes, InMemory(data), False)
            done += 1
    except OSError as error:
        code = error.errno or errno.EIO
    answer = done, code, _numbered(tree.shortfalls.drain(), described)
    return _write(view, start, start + REQUEST_BYTES, answer)


def _numbered(
    shortfalls: Sequence[Shortfall], described: Sequence[tuple[bytes, tuple[Any, ...], int]]
) -> list[tuple[int, bytes, int]]:
    if not shortfalls:
        return []
    places = {path: place for place, (path, _, _) in enumerate(described)}
    return [(places[path], os.fsencode(what), number) for path, what, number in shortfalls]


def _slices(
    view: memoryview, start: int, described: Sequence[tuple[bytes, tuple[Any, ...], int]]
) -> Iterator[tuple[bytes, Attributes, memoryview]]:
    end = start
    for path, attributes, size in described:
        yield path, Attributes(*attributes), view[end : end + size]
        end += size
