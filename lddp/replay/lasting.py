"""Names that last: of changes of a file in place, a name that no later effect takes away.

After a power cut the filesystem may have lost another one already."""

from __future__ import annotations

from collections.abc import Mapping, Set

from lddp.core import effects as e
from lddp.core.records import Kind
from lddp.core.tables import Tables
from lddp.core.view import View
from lddp.replay import outbox
from lddp.replay.outbox import Item
from lddp.replay.progress import Order

_READ_AT_ONCE = 4096


def lasting_paths(tables: Tables, after: Order, done: Set[Order]) -> dict[Order, bytes]:
    """For changes of a file in place that come after a place in the log and are not `done` yet: a name that the file
    has when they are carried out and that no effect takes away. What waits is carried out after what is done, even
    where that comes later in the log."""
    items: list[Item] = []
    place = after
    while found := outbox.read(tables, place, _READ_AT_ONCE):
        left = [item for item in found if item.order not in done]
        items += [item for item in left if _is_change(item.effect) or _is_move(item.effect)]
        place = found[-1].order
    view = View(tables)
    now: dict[int, dict[int, bytes]] = {item.rule: {} for item in items}
    for item in items:
        inode = view.inode(item.effect.inode) if _is_change(item.effect) else None
        if inode is not None and inode.number not in now[item.rule]:
            now[item.rule][inode.number] = view.path(inode)
    paths: dict[Order, bytes] = {}
    for item in reversed(items):
        if not _is_change(item.effect):
            now[item.rule] = _before(now[item.rule], item.effect)
        elif item.effect.inode in now[item.rule]:
            paths[item.order] = now[item.rule][item.effect.inode]
    return paths


def at_lasting_path(item: Item, paths: Mapping[Order, bytes]) -> Item:
    path = paths.get(item.order)
    match item.effect:
        case e.WriteEffect() | e.TruncateEffect() | e.SetAttributesEffect() if path is not None:
            return item._replace(effect=item.effect._replace(path=path))
        case _:
            return item


def _is_change(effect: e.Effect) -> bool:
    match effect:
        case e.WriteEffect() | e.TruncateEffect():
            return True
        case e.SetAttributesEffect():
            return effect.kind is not Kind.DIRECTORY
        case _:
            return False


def _is_move(effect: e.Effect) -> bool:
    return isinstance(effect, e.RenameEffect | e.LinkEffect | e.ParkEffect | e.UnparkEffect)


def _before(paths: dict[int, bytes], effect: e.Effect) -> dict[int, bytes]:
    """Where objects are before an effect, by where they are after it."""
    match effect:
        case e.RenameEffect(inode, old, new, with_tree):
            pass
        case e.LinkEffect(inode, old, new):
            with_tree = False
        case e.ParkEffect(inode, old):
            new, with_tree = b"\0%d" % inode, True
        case e.UnparkEffect(inode, new):
            old, with_tree = b"\0%d" % inode, True
        case _:
            return paths
    if paths.get(inode) == new:
        paths[inode] = old
    if not with_tree:
        return paths
    below = new + b"/"
    return {number: old + path[len(new) :] if path.startswith(below) else path for number, path in paths.items()}
