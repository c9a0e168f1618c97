"""The judge of a drill: what the clients saw, the log of every node and the zones' real trees must agree.

The log is folded with the model of the core's tests, which was written independently of the core. The bytes of an
operation come from its client, checked against the digest in the log.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from blake3 import blake3

from cluster import compare
from cluster.drill_load import Submitted
from cluster.drill_nodes import ROOT
from lddp.core import records as r
from lddp.errors import errno_name
from lddp.serving.paths import bytes_in
from tests.core.model import Model, Node, RuleModel

Document = dict[str, Any]
CLASSES: dict[str, type[Any]] = {
    "mkdir": r.MakeDirectory,
    "create": r.Create,
    "put": r.Put,
    "append": r.Append,
    "write": r.Write,
    "truncate": r.Truncate,
    "rename": r.Rename,
    "link": r.Link,
    "symlink": r.Symlink,
    "unlink": r.Unlink,
    "rmdir": r.RemoveDirectory,
    "remove": r.Remove,
    "setattr": r.SetAttributes,
    "setxattr": r.SetXattr,
    "removexattr": r.RemoveXattr,
}
_ENUMS: dict[tuple[str, str], type[Any]] = {
    ("Create", "kind"): r.Kind,
    ("Rename", "flag"): r.RenameFlag,
    ("SetXattr", "flag"): r.XattrFlag,
}


class Judge:
    """`log` is one node's; `fold` must come before what compares trees with the model."""

    def __init__(self, operations: list[Submitted], log: list[Document]) -> None:
        self._operations = operations
        self._log = log
        self._by_id = {operation.id: operation for operation in operations}
        self.first: dict[str, int] = {}
        """GSN of each id's first occurrence: the one that has an effect."""
        self.doubles = 0
        self._rule = RuleModel(ROOT, -1, Node(r.Kind.DIRECTORY))

    def fold(self) -> Iterator[str]:
        """Applies the log to the model, in its order; what is wrong with the log or the outcomes."""
        model = Model([self._rule])
        for position, document in enumerate(self._log):
            if document["index"] != position + 1:
                yield f"the log has {document['index']} where {position + 1} should be"
                return
            if document["record"] == "CreateRule":
                continue
            operation = self._by_id.get(document.get("id", ""))
            if operation is None:
                yield f"the log has what nobody submitted: {document}"
                continue
            if operation.id in self.first:
                self.doubles += 1
                continue
            self.first[operation.id] = document["index"]
            record, wrong = _record(operation, document)
            if record is None:
                yield f"{operation.id}: {wrong}: {document}"
                continue
            yield from self._decide(model, operation, record, document["index"])

    def _decide(self, model: Model, operation: Submitted, record: Any, gsn: int) -> Iterator[str]:
        verdict = model.judge(record)
        decided = operation.errno
        if not operation.gsn:
            decided = 0 if 0 in verdict.allowed else min(verdict.allowed)
        if decided not in verdict.allowed:
            wanted = ", ".join(map(errno_name, sorted(verdict.allowed)))
            yield f"{operation.id} at {gsn}: answered {errno_name(decided)}, the model says {wanted}: {record[3:]}"
        if verdict.commit is not None and 0 in verdict.allowed:
            verdict.commit(gsn)

    def acknowledged(self) -> Iterator[str]:
        """Every acknowledged operation is in the log, at the place that its client was told."""
        for operation in self._operations:
            if not operation.gsn:
                continue
            gsn = self.first.get(operation.id)
            if gsn is None:
                yield f"{operation.id}: acknowledged at {operation.gsn} and not in the log: lost"
            elif gsn != operation.gsn:
                yield f"{operation.id}: took effect at {gsn}, its client was told {operation.gsn}"

    def real_time(self) -> Iterator[str]:
        """What completed before another was invoked is before it in the log."""
        ended = sorted(
            ((one.completed, self.first[one.id], one) for one in self._operations if self._counts(one)),
            key=lambda one: (one[0], one[1]),
        )
        times = [completed for completed, _, _ in ended]
        latest: list[tuple[int, Submitted]] = list(accumulate(((gsn, one) for _, gsn, one in ended), _later))
        for operation in self._operations:
            if not self._counts(operation):
                continue
            before = bisect_left(times, operation.invoked)
            if before and latest[before - 1][0] > self.first[operation.id]:
                gsn, other = latest[before - 1]
                yield (
                    f"{other.id} at {gsn} was answered {operation.invoked - other.completed:.4f} s before"
                    f" {operation.id} at {self.first[operation.id]} was submitted"
                )

    def _counts(self, operation: Submitted) -> bool:
        return bool(operation.gsn) and operation.id in self.first

    def batches_out_of_order(self) -> int:
        """Operations of a session that are in the log before an earlier one of the same batch."""
        count = 0
        by_batch: dict[tuple[bytes, float], int] = {}
        for operation in self._operations:
            if self._counts(operation):
                key = operation.session, operation.invoked
                gsn = self.first[operation.id]
                count += gsn < by_batch.get(key, 0)
                by_batch[key] = max(gsn, by_batch.get(key, 0))
        return count

    # -- trees ------------------------------------------------------------------------------------------------------

    def tree(self, root: bytes) -> Iterator[str]:
        """How a zone's real tree differs from the model's."""
        real = compare.facts(root)
        wanted = dict(model_facts(self._rule.root))
        for path in sorted(real.keys() | wanted.keys()):
            if path not in wanted or path not in real:
                yield f"{path!r} is {'only in the zone' if path in real else 'not in the zone'}"
                continue
            for what, value in wanted[path].items():
                if real[path].get(what) != value:
                    yield f"{path!r}: {what} is {real[path].get(what)!r}, and {value!r} in the model"


def _later(one: tuple[int, Submitted], other: tuple[int, Submitted]) -> tuple[int, Submitted]:
    return one if one[0] >= other[0] else other


def _record(operation: Submitted, document: Document) -> tuple[Any, str]:
    """The record of a document of the log, with the bytes that its client sent, or None and what does not fit."""
    allowed = {"Remove"} if operation.alone else {CLASSES[operation.name].__name__}
    if document["record"] not in allowed | {CLASSES[operation.name].__name__}:
        return None, f"a {operation.name} is in the log as another operation"
    cls = next(cls for cls in CLASSES.values() if cls.__name__ == document["record"])
    fields: dict[str, Any] = {"id": r.OperationId(operation.session, operation.sequence)}
    for name in cls._fields[1:]:
        if name == "content":
            data = operation.arguments["data"]
            given = document["content"]
            if (blake3(data).hexdigest(), len(data)) != (given["digest"], given["size"]):
                return None, "the bytes in the log are not those that were sent"
            fields[name] = r.Content(bytes.fromhex(given["digest"]), len(data), data)
        elif name == "value":
            fields[name] = operation.arguments["value"]
        elif name in ("path", "to", "target", "name"):
            fields[name] = bytes_in(document, name)
        elif (document["record"], name) in _ENUMS:
            fields[name] = _ENUMS[document["record"], name][document[name].upper()]
        else:
            fields[name] = document[name]
    for name, value in {"path": operation.path, **operation.arguments}.items():
        if name != "data" and name in fields and fields[name] != value:
            return None, f"{name} is {fields[name]!r} in the log, {value!r} was asked for"
    return cls(**fields), ""


_TYPES = {
    r.Kind.FILE: 0o100000,
    r.Kind.DIRECTORY: 0o040000,
    r.Kind.SYMLINK: 0o120000,
    r.Kind.FIFO: 0o010000,
}


def model_facts(root: Node) -> Iterator[tuple[bytes, compare.Facts]]:
    """What `cluster.compare.facts` must find in a zone, as far as the model says."""
    names: dict[int, list[bytes]] = {}
    found: dict[bytes, Node] = {}
    todo = [(b"", root)]
    while todo:
        path, node = todo.pop()
        found[path] = node
        if not node.is_directory:
            names.setdefault(id(node), []).append(path)
        todo += [(path + b"/" + name if path else name, child) for name, child in node.children.items()]
    for path, node in found.items():
        facts: compare.Facts = {"names": None}
        if node.mode is not None or node.kind is r.Kind.SYMLINK:
            facts["mode"] = oct(_TYPES[node.kind] | (0o777 if node.mode is None else node.mode))
            facts["owner"] = node.uid, node.gid
        if node.mtime_ns is not None:
            facts["modification time"] = node.mtime_ns
        if node.kind is r.Kind.SYMLINK:
            facts["target"] = node.target
        if node.kind is r.Kind.FILE:
            facts["size"] = len(node.data)
            facts["bytes"] = hashlib.sha1(node.data, usedforsecurity=False).hexdigest()
        if len(names.get(id(node), [])) > 1:
            facts["names"] = sorted(names[id(node)])
        if node.kind in (r.Kind.FILE, r.Kind.DIRECTORY):
            # Linux has no user attributes on anything else; a zone reports that it could not give them.
            facts["extended attributes"] = [(name.decode(), node.xattrs[name]) for name in sorted(node.xattrs)]
        yield path, facts
