"""The digest of a rule: an incremental multiset hash of its namespace.

Every directory entry and every inode is one leaf, BLAKE3-256 of its canonical msgpack; the digest is the sum of the
leaves modulo 2^256 (the additive construction of Bellare and Micciancio, "A New Paradigm for Collision-Free
Hashing", 1997, AdHash). Adding or taking away an entry costs the same whatever the tree's size, and a renamed directory
changes two leaves. A leaf holds what a program can see of a file, and inode numbers in place of paths.
"""

from __future__ import annotations

import msgpack
from blake3 import blake3

from lddp.core.records import Kind, Xattrs

MODULUS = 1 << 256
_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack


def dentry_leaf(parent: int, name: bytes, inode: int) -> int:
    """Leaf of the entry `name` of directory `parent`."""
    data: bytes = _pack((parent, name, inode))
    return int.from_bytes(blake3(data).digest(), "big")


def inode_leaf(
    number: int,
    kind: Kind,
    mode: int,
    uid: int,
    gid: int,
    mtime_ns: int,
    xattrs: Xattrs,
    size: int,
    content: bytes,
    target: bytes,
    rdev: int,
) -> int:
    """Leaf of an inode; `content` is the digest of a file's bytes, empty where they are not known or it has none."""
    data: bytes = _pack((number, int(kind), mode, uid, gid, mtime_ns, xattrs, size, content, target, rdev))
    return int.from_bytes(blake3(data).digest(), "big")


def to_bytes(total: int) -> bytes:
    return (total % MODULUS).to_bytes(32, "big")


def written(previous: bytes, offset: int, size: int, data: bytes) -> bytes:
    """Identity of a file into which `size` bytes were written, from its identity before and the digest of the bytes."""
    return _chain(previous, b"write" + offset.to_bytes(8, "big") + size.to_bytes(8, "big"), data)


def truncated(previous: bytes, size: int) -> bytes:
    """Identity of a file that was given another size, from its identity before."""
    return _chain(previous, b"truncate" + size.to_bytes(8, "big"), b"")


def _chain(previous: bytes, change: bytes, data: bytes) -> bytes:
    """Identity of a file changed in part: BLAKE3 of the identity before, the kind and place of the change, and the
    digest of its bytes."""
    return blake3(previous + change + data).digest()
