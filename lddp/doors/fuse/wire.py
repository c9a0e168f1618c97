"""The kernel's FUSE protocol as bytes: what comes from /dev/fuse and what goes back. No input or output happens here.

Layouts and numbers are those of Linux' `include/uapi/linux/fuse.h`, version 7.31 and later, in the byte order of the
machine, which is little-endian on everything that lddp is tested on. All times are nanoseconds since the epoch.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from lddp.doors.fuse.protocol import (
    MAJOR,
    MINOR_MAX,
    NOTIFY_INVAL_ENTRY,
    NOTIFY_INVAL_INODE,
    PAGES_MAX,
    STACK_DEPTH,
    WANTED,
    WRITE_BYTES_MAX,
    Init,
    SetAttribute,
)

_IN = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")
_INIT_IN = struct.Struct("<IIII")
_INIT_OUT = struct.Struct("<IIIIHHIIHHII24x")
_BACKING = struct.Struct("<iIQ")
_ATTRIBUTES = struct.Struct("<3Q3q10I")
_ENTRY = struct.Struct("<QQQQII")
_ATTRIBUTES_OUT = struct.Struct("<QII")
_SETATTR = struct.Struct("<II3Q3q8I")
_OPEN_OUT = struct.Struct("<QIi")
_DIRENT = struct.Struct("<QQII")
_STATFS = struct.Struct("<5Q4I24x")
_READ_WRITE = struct.Struct("<QQIIQII")
_INVAL_INODE = struct.Struct("<Qqq")
_INVAL_ENTRY = struct.Struct("<QII")
_U64 = struct.Struct("<Q")
_TWO_U32 = struct.Struct("<II")
_FOUR_U32 = struct.Struct("<IIII")
_FORGET_ONE = struct.Struct("<QQ")
_FALLOCATE = struct.Struct("<QQQII")
_LSEEK = struct.Struct("<QqII")
_FLUSH = struct.Struct("<QIIQ")
HEADER_BYTES = _IN.size
_SECOND = 10**9


class Request(NamedTuple):
    """One request; `body` is what follows its header."""

    opcode: int
    unique: int
    node: int
    uid: int
    gid: int
    pid: int
    body: memoryview


def request(data: bytes) -> Request:
    """ValueError for what is no request."""
    if len(data) < HEADER_BYTES:
        raise ValueError(f"{len(data)} bytes are no request")
    length, opcode, unique, node, uid, gid, pid, extra, _ = _IN.unpack_from(data)
    if length != len(data):
        raise ValueError(f"a request of {length} bytes came as {len(data)}")
    return Request(opcode, unique, node, uid, gid, pid, memoryview(data)[HEADER_BYTES : length - 8 * extra])


def header(unique: int, error: int, size: int) -> bytes:
    """In front of an answer of `size` bytes; `error` is 0 or an errno."""
    return _OUT.pack(_OUT.size + size, -error, unique)


# -- the beginning


class Hello(NamedTuple):
    """What the kernel offers."""

    major: int
    minor: int
    readahead_bytes: int
    flags: int


def hello(body: memoryview) -> Hello:
    major, minor, readahead_bytes, flags = _INIT_IN.unpack_from(body)
    if flags & Init.INIT_EXT and len(body) >= _INIT_IN.size + 4:
        flags |= int.from_bytes(body[_INIT_IN.size : _INIT_IN.size + 4], "little") << 32
    return Hello(major, minor, readahead_bytes, flags)


def may_pass(offer: Hello) -> bool:
    """Whether the kernel can be asked to read files by itself."""
    return offer.flags & Init.PASSTHROUGH > 0 and offer.minor >= MINOR_MAX


def may_map_direct(offer: Hello) -> bool:
    """Whether files with direct input and output can be mapped all the same."""
    return offer.flags & Init.DIRECT_IO_ALLOW_MMAP > 0


def init_answer(offer: Hello, *, background: int, passes: bool = False) -> bytes:
    """`background` is how many requests of readahead and the like may be in flight; with `passes` the kernel is asked
    for passthrough, where it has that."""
    passes = passes and may_pass(offer)
    flags = offer.flags & WANTED | (Init.PASSTHROUGH if passes else 0)
    flags |= Init.INIT_EXT if flags >> 32 else 0
    minor = min(offer.minor, MINOR_MAX)
    congested = max(1, background * 3 // 4)
    head = (MAJOR, minor, offer.readahead_bytes, flags & 0xFFFF_FFFF, background, congested)
    return _INIT_OUT.pack(*head, WRITE_BYTES_MAX, 1, PAGES_MAX, 0, flags >> 32, STACK_DEPTH if passes else 0)


# -- attributes


class Attributes(NamedTuple):
    """What stat shows. `mode` includes the type."""

    inode: int
    size: int
    mode: int
    links: int
    uid: int
    gid: int
    rdev: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


def _packed(a: Attributes) -> bytes:
    atime, atime_ns = divmod(a.atime_ns, _SECOND)
    mtime, mtime_ns = divmod(a.mtime_ns, _SECOND)
    ctime, ctime_ns = divmod(a.ctime_ns, _SECOND)
    blocks = (a.size + 4095) // 4096 * 8
    rest = (atime_ns, mtime_ns, ctime_ns, a.mode, a.links, a.uid, a.gid, a.rdev, 4096, 0)
    return _ATTRIBUTES.pack(a.inode, a.size, blocks, atime, mtime, ctime, *rest)


def entry_answer(a: Attributes, valid_ns: int) -> bytes:
    """For a lookup and what makes a name: the node's id is its inode number, which is never used again."""
    seconds, nanoseconds = divmod(valid_ns, _SECOND)
    return _ENTRY.pack(a.inode, 0, seconds, seconds, nanoseconds, nanoseconds) + _packed(a)


NO_ENTRY = _ENTRY.pack(0, 0, 0, 0, 0, 0) + bytes(_ATTRIBUTES.size)


def attributes_answer(a: Attributes, valid_ns: int) -> bytes:
    seconds, nanoseconds = divmod(valid_ns, _SECOND)
    return _ATTRIBUTES_OUT.pack(seconds, nanoseconds, 0) + _packed(a)


class Change(NamedTuple):
    """What a setattr asks for; only the fields that `valid` names count."""

    valid: SetAttribute
    handle: int
    size: int
    atime_ns: int
    mtime_ns: int
    mode: int
    uid: int
    gid: int


def change(body: memoryview) -> Change:
    (valid, _, handle, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _) = _SETATTR.unpack_from(
        body
    )
    return Change(
        SetAttribute(valid), handle, size, atime * _SECOND + atime_ns, mtime * _SECOND + mtime_ns, mode, uid, gid
    )


# -- names


def name_in(body: memoryview, skip: int = 0) -> bytes:
    """One name, behind `skip` bytes."""
    return bytes(body[skip:]).partition(b"\0")[0]


def two_names(body: memoryview, skip: int = 0) -> tuple[bytes, bytes]:
    first, _, rest = bytes(body[skip:]).partition(b"\0")
    return first, rest.partition(b"\0")[0]


class Make(NamedTuple):
    """mknod, mkdir and create: `mode` has the umask applied already."""

    name: bytes
    mode: int
    rdev: int = 0
    flags: int = 0


def mknod(body: memoryview) -> Make:
    mode, rdev, _, _ = _FOUR_U32.unpack_from(body)
    return Make(name_in(body, 16), mode, rdev)


def mkdir(body: memoryview) -> Make:
    mode, _ = _TWO_U32.unpack_from(body)
    return Make(name_in(body, 8), mode)


def create(body: memoryview) -> Make:
    flags, mode, _, _ = _FOUR_U32.unpack_from(body)
    return Make(name_in(body, 16), mode, 0, flags)


class Move(NamedTuple):
    name: bytes
    directory: int
    to: bytes
    flags: int


def rename(body: memoryview) -> Move:
    (directory,) = _U64.unpack_from(body)
    name, to = two_names(body, 8)
    return Move(name, directory, to, 0)


def rename2(body: memoryview) -> Move:
    (directory,) = _U64.unpack_from(body)
    flags, _ = _TWO_U32.unpack_from(body, 8)
    name, to = two_names(body, 16)
    return Move(name, directory, to, flags)


def link(body: memoryview) -> tuple[int, bytes]:
    """The node that is to get another name, and that name."""
    return int(_U64.unpack_from(body)[0]), name_in(body, 8)


def forget(body: memoryview) -> int:
    return int(_U64.unpack_from(body)[0])


def forgets(body: memoryview) -> list[tuple[int, int]]:
    """(node, how many times it was looked up)."""
    count, _ = _TWO_U32.unpack_from(body)
    return [_FORGET_ONE.unpack_from(body, 8 + 16 * index) for index in range(count)]


def interrupted(body: memoryview) -> int:
    """Which request is not wanted any more."""
    return int(_U64.unpack_from(body)[0])


# -- open files


def open_flags(body: memoryview) -> tuple[int, int]:
    """open(2)'s flags, and the kernel's own."""
    flags, own = _TWO_U32.unpack_from(body)
    return flags, own


def open_answer(handle: int, flags: int = 0, backing: int = 0) -> bytes:
    """`backing`: the kernel's number for the file that it is to read instead of asking."""
    return _OPEN_OUT.pack(handle, flags, backing)


def backing_map(descriptor: int) -> bytes:
    """What the kernel is told of a file that it may read by itself."""
    return _BACKING.pack(descriptor, 0, 0)


def backing_number(number: int) -> bytes:
    return number.to_bytes(4, "little")


class Span(NamedTuple):
    """Part of an open file. `flags` are the kernel's own of a write, `opened` those that the file is open with now;
    none of a write for a mapping."""

    handle: int
    offset: int
    size: int
    flags: int
    opened: int


def span(body: memoryview) -> Span:
    """Of read, readdir and write."""
    handle, offset, size, flags, _, opened, _ = _READ_WRITE.unpack_from(body)
    return Span(handle, offset, size, flags, opened)


def written(body: memoryview) -> memoryview:
    """A write's bytes."""
    return body[_READ_WRITE.size :]


def write_answer(size: int) -> bytes:
    return _TWO_U32.pack(size, 0)


def handle(body: memoryview) -> int:
    """Of release, flush, fsync and their like for directories, which all begin with it."""
    return int(_U64.unpack_from(body)[0])


class Allocation(NamedTuple):
    handle: int
    offset: int
    length: int
    mode: int


def allocation(body: memoryview) -> Allocation:
    handle, offset, length, mode, _ = _FALLOCATE.unpack_from(body)
    return Allocation(handle, offset, length, mode)


def seek(body: memoryview) -> tuple[int, int, int]:
    """Handle, offset, whence."""
    handle, offset, whence, _ = _LSEEK.unpack_from(body)
    return handle, offset, whence


def seek_answer(offset: int) -> bytes:
    return _U64.pack(offset)


# -- directories


def directory_entry(inode: int, offset: int, kind: int, name: bytes) -> bytes:
    """`offset` is where the next read goes on; `kind` the type bits of a mode."""
    padding = -len(name) % 8
    return _DIRENT.pack(inode, offset, len(name), kind >> 12) + name + bytes(padding)


# -- extended attributes


def xattr_wanted(body: memoryview) -> tuple[int, bytes]:
    """Bytes of room (0: only how many are needed), and the name, which listxattr has not."""
    size, _ = _TWO_U32.unpack_from(body)
    return size, name_in(body, 8)


def xattr_size(size: int) -> bytes:
    return _TWO_U32.pack(size, 0)


def xattr_given(body: memoryview) -> tuple[bytes, bytes, int]:
    """Name, value and flags of setxattr."""
    size, flags = _TWO_U32.unpack_from(body)
    name = name_in(body, 8)
    start = 8 + len(name) + 1
    return name, bytes(body[start : start + size]), flags


# -- the volume


class Volume(NamedTuple):
    blocks: int
    free: int
    available: int
    files: int
    files_free: int
    block_bytes: int
    name_bytes_max: int


def statfs_answer(v: Volume) -> bytes:
    return _STATFS.pack(
        v.blocks, v.free, v.available, v.files, v.files_free, v.block_bytes, v.name_bytes_max, v.block_bytes, 0
    )


# -- what is told without being asked


def inode_notice(node: int, offset: int = 0, length: int = 0) -> Sequence[bytes]:
    """The kernel forgets attributes and cached bytes from `offset` on; a negative one: attributes only."""
    body = _INVAL_INODE.pack(node, offset, length)
    return (_OUT.pack(_OUT.size + len(body), NOTIFY_INVAL_INODE, 0), body)


def entry_notice(directory: int, name: bytes) -> Sequence[bytes]:
    """The kernel forgets what a name stands for."""
    body = _INVAL_ENTRY.pack(directory, len(name), 0) + name + b"\0"
    return (_OUT.pack(_OUT.size + len(body), NOTIFY_INVAL_ENTRY, 0), body)
