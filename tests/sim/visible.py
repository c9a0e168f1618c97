"""What a zone shows while everything goes on: what it has acknowledged, and all that its projected index says."""

from __future__ import annotations

from collections.abc import Mapping

from lddp.core.namespace import Inode as Known
from lddp.core.records import Attributes, Guarded, Kind, Link, Operation, Record, Rename
from lddp.core.rules import Rule
from lddp.core.view import View
from lddp.submissions import Applied
from tests.fakes.zone import FakeZone, Inode
from tests.sim.checks import Row, content_of, difference, identity_of, namespace_rows, zone_rows
from tests.sim.node import Node

WHOLE_EVERY = 8
"""After one in so many acknowledgements the whole zone is compared."""


def check_acknowledged(node: Node, record: Record, applied: Applied) -> None:
    """What this node says has been done is in its zone. Called when it says so, where nothing was done since."""
    operation = record.operation if isinstance(record, Guarded) else record
    if applied.outcome.errno or not isinstance(operation, Operation):
        return
    with node.environment.read() as tables:
        view = View(tables)
        rule = next((rule for rule in view.rules() if operation.path.startswith(rule.path + b"/")), None)
        if rule is None or view.gsn != applied.gsn or not _is_followed(node, rule):
            return
        if isinstance(operation, Rename) and _is_same(view, operation):
            return  # it changed nothing, and does not answer for those who did
        files = node.machine.zone_files(rule.number)
        for path in (operation.path, operation.to) if isinstance(operation, Rename | Link) else (operation.path,):
            there, known = _find(files, path[len(rule.path) + 1 :]), view.resolve(path)
            if known is not None and not known.visible:
                continue
            found = {path: _found(there)} if there else {}
            different = difference(found, {path: _wanted(known)} if known else {})
            if different:
                node.world.checks.fail(f"{node.name} acknowledges {record} at {applied.gsn}, and there {different}")
    if applied.gsn % WHOLE_EVERY == 0:
        check_projected(node, rule.number)


def _is_same(view: View, rename: Rename) -> bool:
    """Whether both names are of one object."""
    one, other = view.resolve(rename.path), view.resolve(rename.to)
    return one is not None and other is not None and one.number == other.number


def check_projected(node: Node, number: int) -> None:
    """Where a zone says that it is where its node's state is, it is so, but for the times of directories."""
    with node.environment.read() as tables:
        view = View(tables)
        rule = next((rule for rule in view.rules() if rule.number == number), None)
        if rule is None or not _is_followed(node, rule):
            return
        assert node.projector is not None
        if rule.source >= 0 or node.projector.projected < view.gsn:
            return
        wanted = _timeless(namespace_rows(view, rule.root))
    different = difference(_timeless(zone_rows(node.machine.zone_files(number))), wanted)
    if different:
        node.world.checks.fail(f"{node.name} says that it is at {view.gsn}, and is not:\n{different}")


def _is_followed(node: Node, rule: Rule) -> bool:
    """Whether the zone's files are the node's alone to change, and it can reach them now."""
    return node.projector is not None and rule.source != node.machine.zone and rule.number in node.trees.carriers


def _find(files: FakeZone, path: bytes) -> Inode | None:
    inode: Inode | None = files.root
    for name in path.split(b"/"):
        inode = None if inode is None else inode.entries.get(name)
    return inode


def _found(inode: Inode) -> Row:
    assert inode.kind is not None
    content = content_of(inode) if inode.kind is Kind.FILE else None
    return (inode.kind, _attributes(inode.kind, inode.attributes), content, inode.target, inode.rdev)


def _wanted(inode: Known) -> Row:
    content = identity_of(inode.content, inode.size) if inode.kind is Kind.FILE else None
    return (inode.kind, _attributes(inode.kind, inode.attributes), content, inode.target, inode.rdev)


def _attributes(kind: Kind, attributes: Attributes) -> Attributes:
    """Without what a zone brings along later, or does not have."""
    if kind is Kind.SYMLINK:
        return attributes._replace(mode=0o777)
    return attributes._replace(mtime_ns=0) if kind is Kind.DIRECTORY else attributes


def _timeless(rows: Mapping[bytes, Row]) -> dict[bytes, Row]:
    return {path: (kind, _attributes(kind, attributes), *rest) for path, (kind, attributes, *rest) in rows.items()}
