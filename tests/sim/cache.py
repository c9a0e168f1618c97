"""What a kernel believes of a mount: names, attributes and bytes that it was told, until it is told to forget them or
its own calls have changed them."""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Callable, Sequence

from lddp.doors.fuse.protocol import FOPEN_KEEP_CACHE, NOTIFY_INVAL_ENTRY, NOTIFY_INVAL_INODE, Opcode, SetAttribute
from lddp.doors.fuse.tree import Tree
from tests.doors.fuse.kernel import Shown, listed, shown

ENTRY_BYTES = 40
"""Of an answer with an entry, before its attributes."""
_NAME_AT = {
    Opcode.LOOKUP: 0,
    Opcode.SYMLINK: 0,
    Opcode.UNLINK: 0,
    Opcode.RMDIR: 0,
    Opcode.MKDIR: 8,
    Opcode.LINK: 8,
    Opcode.MKNOD: 16,
    Opcode.CREATE: 16,
    Opcode.RENAME2: 16,
}
_MAKING = frozenset((Opcode.SYMLINK, Opcode.MKDIR, Opcode.LINK, Opcode.MKNOD, Opcode.CREATE))
_TAKING = frozenset((Opcode.UNLINK, Opcode.RMDIR, Opcode.RENAME2))
_CHANGING = frozenset((Opcode.WRITE, Opcode.SETXATTR, Opcode.REMOVEXATTR, Opcode.OPEN, Opcode.FALLOCATE))
EXCHANGE = 2


class Cache:
    """Of one mount, whose nodes are named by their ids."""

    def __init__(self) -> None:
        self.attributes: dict[int, Shown] = {}
        self.names: dict[tuple[int, bytes], int] = {}
        self.pages: dict[int, bytes] = {}
        """Whole files that were read."""
        self._drops: Counter[int] = Counter()

    def begun(self, node: int) -> int:
        """To be given to `read` when the bytes have come."""
        return self._drops[node]

    def read(self, node: int, data: bytes, begun: int) -> None:
        """Bytes of a whole file, unless they were to be forgotten while they were on their way."""
        if self._drops[node] == begun:
            self.pages[node] = data

    def _drop(self, node: int) -> None:
        self._drops[node] += 1
        self.pages.pop(node, None)

    @staticmethod
    def wanted(opcode: Opcode, node: int, body: bytes) -> list[tuple[int, bytes]]:
        """Names that a kernel looks up before it asks for this."""
        if opcode not in _TAKING:
            return []
        names = body[_NAME_AT[opcode] :].split(b"\0")
        found = [(node, names[0])]
        if opcode is Opcode.RENAME2:
            found.append((struct.unpack_from("<Q", body)[0], names[1]))
        return found

    def answered(self, opcode: Opcode, node: int, body: bytes, answer: bytes) -> None:
        """A call was done."""
        if opcode in _MAKING | _TAKING | _CHANGING:
            self.attributes.pop(node, None)
        if opcode is Opcode.OPEN:
            (flags,) = struct.unpack_from("<I", body)
            if flags & os.O_TRUNC or not struct.unpack_from("<QI", answer)[1] & FOPEN_KEEP_CACHE:
                self._drop(node)
        elif opcode is Opcode.WRITE:
            _, offset, size = struct.unpack_from("<QQI", body)
            self._changed(node, lambda old: old[:offset].ljust(offset, b"\0") + body[-size:] + old[offset + size :])
        elif opcode in _TAKING:
            self._taken(opcode, self.wanted(opcode, node, body), body)
        elif opcode in _NAME_AT:
            name = body[_NAME_AT[opcode] :].split(b"\0")[0]
            number = struct.unpack_from("<Q", answer)[0]
            self.names[node, name] = number
            self.attributes[number] = shown(answer[ENTRY_BYTES:])
        elif opcode is Opcode.READDIRPLUS:
            for one in listed(answer):
                if one.node:
                    self.names[node, one.name] = one.node
                    self.attributes[one.node] = one.attributes
        elif opcode in (Opcode.GETATTR, Opcode.SETATTR):
            self.attributes[node] = shown(answer[16:])
            if opcode is Opcode.SETATTR and struct.unpack_from("<I", body)[0] & SetAttribute.SIZE:
                size = self.attributes[node].size
                self._changed(node, lambda old: old[:size].ljust(size, b"\0"))

    def _changed(self, node: int, change: Callable[[bytes], bytes]) -> None:
        """By a call of this kernel's own."""
        self._drops[node] += 1
        if node in self.pages:
            self.pages[node] = change(self.pages[node])

    def _taken(self, opcode: Opcode, places: list[tuple[int, bytes]], body: bytes) -> None:
        nodes = [self.names.pop(place, 0) for place in places]
        for number in (*nodes, *(above for above, _ in places)):
            self.attributes.pop(number, None)
        if opcode is Opcode.RENAME2 and nodes[0]:
            self.names[places[1]] = nodes[0]
            if struct.unpack_from("<I", body, 8)[0] == EXCHANGE and nodes[1]:
                self.names[places[0]] = nodes[1]

    def told(self, notices: Sequence[Sequence[bytes]]) -> None:
        """What to forget."""
        for notice in notices:
            data = b"".join(notice)
            _, code, _ = struct.unpack_from("<IiQ", data)
            node, offset = struct.unpack_from("<Qq", data, 16)
            if code == NOTIFY_INVAL_INODE:
                self.attributes.pop(node, None)
                if offset >= 0:
                    self._drop(node)
            elif code == NOTIFY_INVAL_ENTRY:
                size = struct.unpack_from("<I", data, 24)[0]
                if self.names.pop((node, data[32 : 32 + size]), None):
                    self.attributes.pop(node, None)

    def differs(self, tree: Tree) -> str:
        """What is believed and not so."""
        number_of = tree.inodes.number
        with tree.ground.view() as view:
            there = [node for node in self.attributes if view.inode(number_of(node)) is not None]
            for (above, name), node in self.names.items():
                found = view.child(number_of(above), name)
                if view.inode(number_of(above)) is not None and found != number_of(node):
                    return f"{name!r} in {above} is believed to be {node}, and is {found}"
        for node in there:
            believed, now = self.attributes[node], shown(tree.attributes(number_of(node))[16:])
            if believed._replace(atime_ns=0, ctime_ns=0) != now._replace(atime_ns=0, ctime_ns=0):
                return f"{node} is believed to be {believed}, and is {now}"
        return ""
