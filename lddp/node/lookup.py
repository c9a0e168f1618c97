"""Entries of the global namespace, as a view of the state has them.

Above the rules there are directories that nobody made: `/` and every part of a rule's path but the last. They have what
is below them in rules, and cannot be changed.
"""

from __future__ import annotations

import errno

from lddp.access import Entry
from lddp.core.namespace import Inode
from lddp.core.places import Refused
from lddp.core.records import Kind
from lddp.core.rules import Rule
from lddp.core.view import View
from lddp.errors import OperationError, errno_text, quoted
from lddp.node.describe import entry_of


def find(view: View, path: bytes) -> tuple[Rule, Inode | None, bytes] | None:
    """`View.find`, with an OperationError for a path that is not well formed."""
    try:
        return view.find(path)
    except Refused as refusal:
        raise _malformed(path, refusal) from None


def rule_at(view: View, path: bytes) -> Rule:
    """The rule that a path belongs to, whatever is there. OperationError where it is not well formed, or no rule's."""
    try:
        found = view.rule_of(path)
    except Refused as refusal:
        raise _malformed(path, refusal) from None
    if found is None:
        raise OperationError(errno.ENOENT, f"no rule has {quoted(path)}")
    return found[0]


def _malformed(path: bytes, refusal: Refused) -> OperationError:
    return OperationError(refusal.number, f"{quoted(path)}: {errno_text(refusal.number)}")


def inode_at(view: View, path: bytes) -> Inode | None:
    found = find(view, path)
    return None if found is None else found[1]


def entry_at(view: View, path: bytes) -> Entry | None:
    if path != b"/":
        inode = inode_at(view, path)
        if inode is not None:
            return entry_of(inode)
    names = _names_above_rules(view, path)
    return _made_by_nobody(view) if names or path == b"/" else None


def listing_at(view: View, path: bytes, after: bytes, limit: int) -> list[tuple[bytes, Entry]]:
    """Up to `limit` entries whose names are above `after`. Raises OperationError(ENOENT or ENOTDIR)."""
    inode = None if path == b"/" else inode_at(view, path)
    if inode is None:
        return _listing_above_rules(view, path, after, limit)
    if inode.kind is not Kind.DIRECTORY:
        raise OperationError(errno.ENOTDIR, f"{quoted(path)} is not a directory")
    found: list[tuple[bytes, Entry]] = []
    for name, number in view.list(inode.number, after, limit):
        child = view.inode(number)
        assert child is not None, "an entry names an inode"
        found.append((name, entry_of(child)))
    return found


def _names_above_rules(view: View, path: bytes) -> list[bytes]:
    """The next components of the rules' paths below `path`, in ascending order."""
    prefix = path.rstrip(b"/") + b"/"
    below = {rule.path[len(prefix) :].split(b"/")[0] for rule in view.rules() if rule.path.startswith(prefix)}
    return sorted(below)


def _listing_above_rules(view: View, path: bytes, after: bytes, limit: int) -> list[tuple[bytes, Entry]]:
    names = _names_above_rules(view, path)
    if not names and path != b"/":
        raise OperationError(errno.ENOENT, f"{quoted(path)} does not exist")
    base = path.rstrip(b"/") + b"/"
    chosen = [name for name in names if name > after][:limit]
    return [(name, entry_at(view, base + name) or _made_by_nobody(view)) for name in chosen]


def _made_by_nobody(view: View) -> Entry:
    return Entry(Kind.DIRECTORY, 0, view.gsn, 0o755, 0, 0, 0, 0, 1, False)
