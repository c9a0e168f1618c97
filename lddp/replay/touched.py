"""Directories whose entries were changed, which moved their modification times; their paths follow what is moved."""

from __future__ import annotations

from lddp.core import effects as e


def parent_of(path: bytes) -> bytes:
    return path[: max(path.rfind(b"/"), 0)]


def follow(touched: set[bytes], effect: e.Effect, *, again: bool = False) -> None:
    """Keeps the set up with an effect that was carried out. With `again` the set knows of the effect already, and what
    is under its old path now may be something else: that stays there too, because a directory too many does no harm. To
    be used for few effects: every one may double the set."""
    match effect:
        case e.RenameEffect(_, path, to, directory):
            if directory:
                _move(touched, path, to, again)
            touched.add(parent_of(path))
            touched.add(parent_of(to))
        case e.ParkEffect(inode, path):
            _move(touched, path, _parked(inode), again)
            touched.add(parent_of(path))
        case e.UnparkEffect(inode, to):
            _move(touched, _parked(inode), to, again)
            touched.add(parent_of(to))
        case e.LinkEffect(_, _, to):
            touched.add(parent_of(to))
        case e.MakeDirectoryEffect(_, path, _):
            touched.add(parent_of(path))
            touched.add(path)
        case e.PutFileEffect() | e.MakeNodeEffect() | e.RemoveEffect():
            touched.add(parent_of(effect.path))
        case _:
            return


def _move(touched: set[bytes], path: bytes, to: bytes, again: bool) -> None:
    below = path + b"/"
    moved = {item for item in touched if item == path or item.startswith(below)}
    if not again:
        touched -= moved
    touched |= {to + item[len(path) :] for item in moved}


def _parked(inode: int) -> bytes:
    """Where a parked object is: no path of a tree has a NUL."""
    return b"\0%d" % inode
