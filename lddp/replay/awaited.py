"""What is to be known of effects that wait for their bytes, or behind others that do."""

from __future__ import annotations

from collections.abc import Iterable

from lddp.core import effects as e
from lddp.core.records import Guarded, InPlace, Link, Record
from lddp.core.view import View
from lddp.replay.conflicts import Blocked
from lddp.replay.outbox import Item


def is_replaced_later(view: View, item: Item, waiting: Iterable[Item]) -> bool:
    """Whether the log replaces or removes the bytes of a file that is to be put, so that they need not come."""
    effect = item.effect
    if not isinstance(effect, e.PutFileEffect):
        return False
    inode = view.inode(effect.inode)
    if inode is None or inode.content is None:
        return True
    if inode.content.sealed:
        return inode.content.digest != effect.content.digest
    return any(
        isinstance(later.effect, e.PutFileEffect) and later.effect.inode == effect.inode and later.order > item.order
        for later in waiting
    )


def is_name_to_come(view: View, path: bytes, before: Iterable[Item]) -> bool:
    """Whether effects that wait change what a path of the namespace stands for. A file with several names is changed by
    one of them, and that need not be the one by which it was asked for."""
    rule = next((rule for rule in view.rules() if path.startswith(rule.path + b"/")), None)
    blocked = Blocked()
    for item in before:
        blocked.add(item.rule, item.effect)
    return rule is not None and blocked.has(rule.number, path[len(rule.path) + 1 :])


def name_of_changed(record: Record) -> bytes:
    """The path in the namespace by which a record names what it changes in place; empty where it does not."""
    operation = record.operation if isinstance(record, Guarded) else record
    return operation.path if isinstance(operation, InPlace) and not isinstance(operation, Link) else b""
