"""An independent model of the namespace under operations: directories are dicts, a file is shared by its names.

It follows POSIX and knows nothing of the core. POSIX leaves the order of some checks open, so the model answers
with the set of errnos that are right; where it contains 0 the operation must succeed and `commit` carries it out.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from blake3 import blake3

from lddp.core.records import (
    SOME_VERSION,
    Append,
    Create,
    CreateFile,
    Guarded,
    InPlace,
    Kind,
    Link,
    MakeDirectory,
    Operation,
    OperationId,
    Put,
    Remove,
    RemoveDirectory,
    RemoveXattr,
    Rename,
    RenameFlag,
    SetAttributes,
    SetXattr,
    Shorten,
    Symlink,
    Truncate,
    Unlink,
    Write,
    XattrFlag,
)


@dataclass(eq=False)
class Node:
    """One object. `mode` and `mtime_ns` None: not for the model to say. `data` None: known only by its size."""

    kind: Kind
    mode: int | None = None
    uid: int = 0
    gid: int = 0
    mtime_ns: int | None = None
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    data: bytes = b""
    sealed: bool = True
    """Whether the content's digest must be the hash of the bytes; else either is right."""
    target: bytes = b""
    rdev: int = 0
    children: dict[bytes, Node] = field(default_factory=dict)
    listed: bool = True
    attributes_known: bool = True
    """False for a rule's root over existing data until it was looked at."""
    pending: bool = False
    pending_size: int = 0
    tombstones: set[bytes] = field(default_factory=set)
    links: int = 1
    versions: set[int] = field(default_factory=set)
    """GSNs that may be the inode's version: one, unless changes since were only to its names."""
    identity: bytes = b""
    number: int = 0
    """What `expected_inode` calls it: the GSN of the record that made it, 65536-fold. Who makes nodes otherwise numbers
    them."""

    @property
    def is_directory(self) -> bool:
        return self.kind is Kind.DIRECTORY

    def changed(self, gsn: int) -> None:
        self.versions = {gsn}

    def renamed(self, gsn: int) -> None:
        self.versions = self.versions | {gsn}

    def contains(self, other: Node) -> bool:
        todo = [self]  # trees are deeper than functions can call themselves
        while todo:
            node = todo.pop()
            if node is other:
                return True
            todo += [child for child in node.children.values() if child.is_directory]
        return False


@dataclass
class RuleModel:
    path: bytes
    source: int
    root: Node
    observe_only: bool = False


class Refused(Exception):
    def __init__(self, *allowed: int) -> None:
        self.allowed = frozenset(allowed)


@dataclass
class Found:
    """Where a path leads: its directory and name there, and the object (None: the name is free)."""

    rule: RuleModel
    parent: Node | None
    name: bytes
    node: Node | None

    @property
    def is_root(self) -> bool:
        return self.parent is None


Commit = Callable[[int], None]


@dataclass
class Verdict:
    allowed: frozenset[int]
    commit: Commit | None = None


def path_errno(path: bytes) -> int:
    """The errno of a malformed path, or 0."""
    if not path.startswith(b"/") or b"\0" in path:
        return errno.EINVAL
    if path == b"/":
        return 0
    components = path[1:].split(b"/")
    if any(component in (b"", b".", b"..") for component in components):
        return errno.EINVAL
    if any(len(component) > 255 for component in components):
        return errno.ENAMETOOLONG
    return 0


class Model:
    def __init__(self, rules: list[RuleModel]) -> None:
        self.rules = rules

    # -- lookups ------------------------------------------------------------------------------------------------

    def rule_of(self, path: bytes) -> RuleModel | None:
        for rule in self.rules:
            if path == rule.path or path.startswith(rule.path + b"/"):
                return rule
        return None

    def unknown(self, rule: RuleModel, zone: int) -> int:
        return errno.EAGAIN if zone == rule.source else errno.EROFS

    def find(self, path: bytes, zone: int, parent_number: int = 0) -> Found:
        """With a `parent_number`, a name in that directory and in no other."""
        wrong = path_errno(path)
        if wrong:
            raise Refused(wrong)
        if path == b"/":
            raise Refused(errno.ENOENT, errno.EINVAL)
        rule = self.rule_of(path)
        if rule is None:
            raise Refused(errno.ENOENT)
        if path == rule.path and parent_number:
            raise Refused(errno.ESTALE)
        if path == rule.path:
            return Found(rule, None, b"", rule.root)
        parent: Node = rule.root
        components = path[len(rule.path) + 1 :].split(b"/")
        for position, name in enumerate(components):
            last = position == len(components) - 1
            if last and parent_number and parent.number != parent_number:
                raise Refused(errno.ESTALE)
            if not parent.is_directory:
                raise Refused(errno.ENOTDIR)
            child = parent.children.get(name)
            if child is None:
                if not parent.listed and name not in parent.tombstones:
                    raise Refused(self.unknown(rule, zone))
                if not last:
                    raise Refused(errno.ENOENT)
            if last:
                return Found(rule, parent, name, child)
            assert child is not None
            parent = child
        raise AssertionError("a path has components")

    def existing(self, path: bytes, zone: int, parent_number: int = 0) -> tuple[Found, Node]:
        found = self.find(path, zone, parent_number)
        if found.node is None:
            raise Refused(errno.ENOENT)
        return found, found.node

    # -- changes ------------------------------------------------------------------------------------------------

    @staticmethod
    def touch(directory: Node | None, gsn: int, time_ns: int) -> None:
        assert directory is not None
        if directory.attributes_known:
            directory.mtime_ns = time_ns
        directory.changed(gsn)

    @staticmethod
    def detach(directory: Node, name: bytes, gsn: int) -> Node:
        node = directory.children.pop(name)
        if not directory.listed:
            directory.tombstones.add(name)
        if not node.is_directory:
            node.links -= 1
        node.renamed(gsn)
        return node

    @staticmethod
    def attach(directory: Node, name: bytes, node: Node, gsn: int) -> None:
        directory.tombstones.discard(name)
        assert name not in directory.children
        directory.children[name] = node
        if not node.is_directory:
            node.links += 1
        node.renamed(gsn)

    # -- operations ---------------------------------------------------------------------------------------------

    def judge_guarded(self, record: Guarded, made: Mapping[OperationId, int]) -> Verdict:
        """`made` has the number of what each operation that was done has made, or 0."""
        operation = record.operation
        if record.after is not None and record.after not in made:
            return Verdict(frozenset({errno.ECANCELED}))
        expected = [record.above, record.at, record.to_above, record.to_at]
        for at, number in enumerate(expected):
            if number < 0:
                expected[at] = made.get(OperationId(record.id.session, -number), 0)
                if not expected[at]:
                    return Verdict(frozenset({errno.ECANCELED}))
        paths = (operation.path, operation.to) if isinstance(operation, Rename | Link) else (operation.path,)
        wrong: set[int] = set()
        for path, above, number in zip(paths, expected[::2], expected[1::2], strict=False):
            try:
                found = self.find(path, operation.zone)
            except Refused as refused:
                wrong |= refused.allowed
                continue
            met = found.node.number if found.node is not None else 0
            if (above and (found.parent is None or found.parent.number != above)) or (number and met != number):
                wrong.add(errno.ESTALE)
        return Verdict(frozenset(wrong)) if wrong else self.judge(operation)

    def judge(self, operation: Operation) -> Verdict:
        try:
            return self._judge(operation)
        except Refused as refused:
            rule = self.rule_of(operation.path)
            frozen = rule is not None and rule.observe_only
            return Verdict(refused.allowed | {errno.EROFS} if frozen else refused.allowed)

    def _judge(self, operation: Operation) -> Verdict:
        match operation:
            case MakeDirectory() | Create() | CreateFile() | Symlink():
                return self._make(operation)
            case Put():
                return self._put(operation)
            case Write() | Append() | Truncate() | Shorten():
                return self._change_content(operation)
            case Rename():
                return self._rename(operation)
            case Unlink():
                return self._unlink(operation)
            case RemoveDirectory():
                return self._remove_directory(operation)
            case Remove():
                return self._remove(operation)
            case Link():
                return self._link(operation)
            case SetAttributes():
                return self._set_attributes(operation)
            case SetXattr() | RemoveXattr():
                return self._xattr(operation)

    @staticmethod
    def _frozen(*found: Found) -> None:
        if any(one.rule.observe_only for one in found):
            raise Refused(errno.EROFS)

    def _make(self, operation: MakeDirectory | Create | CreateFile | Symlink) -> Verdict:
        found = self.find(operation.path, operation.zone, operation.expected_parent)
        self._frozen(found)
        if found.node is not None:
            raise Refused(errno.EEXIST)
        match operation:
            case MakeDirectory():
                node = Node(Kind.DIRECTORY, operation.mode)
            case Create():
                node = Node(operation.kind, operation.mode, rdev=operation.rdev)
            case CreateFile():
                assert operation.content.inline is not None
                node = Node(Kind.FILE, operation.mode, data=operation.content.inline)
            case Symlink():
                node = Node(Kind.SYMLINK, target=operation.target)
        node.uid, node.gid, node.mtime_ns = operation.uid, operation.gid, operation.time_ns
        if isinstance(operation, CreateFile):
            node.mtime_ns = operation.mtime_ns
        node.links = 0

        def commit(gsn: int) -> None:
            assert found.parent is not None
            self.attach(found.parent, found.name, node, gsn)
            node.number = gsn << 16
            node.changed(gsn)
            self.touch(found.parent, gsn, operation.time_ns)

        return Verdict(frozenset({0}), commit)

    @staticmethod
    def _mean(node: Node | None, operation: InPlace) -> None:
        """Whatever else may be wrong with what has the name: it is not what was asked for."""
        if operation.expected_inode and (node is None or node.number != operation.expected_inode):
            raise Refused(errno.ESTALE)

    def _meant(self, operation: Write | Append | Truncate | Shorten | SetAttributes | SetXattr | RemoveXattr) -> Node:
        found, node = self.existing(operation.path, operation.zone)
        self._frozen(found)
        self._mean(node, operation)
        return node

    def _expect(self, node: Node | None, expected: int) -> frozenset[int]:
        if expected == -1:
            return frozenset()
        if expected == 0:
            return frozenset({errno.EEXIST}) if node is not None else frozenset()
        if node is None:
            return frozenset({errno.ESTALE, errno.ENOENT})
        if expected == SOME_VERSION:
            return frozenset()
        return frozenset() if node.versions == {expected} else frozenset({errno.ESTALE})

    def _put(self, operation: Put) -> Verdict:
        found = self.find(operation.path, operation.zone)
        self._frozen(found)
        node = found.node
        self._mean(node, operation)
        wrong = set(self._expect(node, operation.expected_version))
        if node is not None and node.is_directory:
            wrong.add(errno.EISDIR)
        elif node is not None and node.kind is not Kind.FILE:
            wrong.add(errno.EINVAL)
        if wrong:
            raise Refused(*wrong)
        assert operation.content.inline is not None
        data = operation.content.inline

        def commit(gsn: int) -> None:
            file = node
            if file is None:
                assert found.parent is not None
                file = Node(Kind.FILE, operation.mode, operation.uid, operation.gid, links=0, number=gsn << 16)
                self.attach(found.parent, found.name, file, gsn)
                self.touch(found.parent, gsn, operation.time_ns)
            file.data, file.sealed, file.pending = data, True, False
            file.mtime_ns = operation.time_ns
            file.changed(gsn)

        return Verdict(frozenset({0}), commit)

    def _change_content(self, operation: Write | Append | Truncate | Shorten) -> Verdict:
        node = self._meant(operation)
        if node.is_directory:
            raise Refused(errno.EISDIR)
        if node.kind is not Kind.FILE:
            raise Refused(errno.EINVAL)
        if node.pending:
            raise Refused(errno.EAGAIN)
        match operation:
            case Write():
                assert operation.content.inline is not None
                padded = node.data.ljust(operation.offset, b"\0")
                data = padded[: operation.offset] + operation.content.inline
                data += padded[operation.offset + operation.content.size :]
            case Append():
                assert operation.content.inline is not None
                data = node.data + operation.content.inline
            case Shorten() if operation.size > len(node.data):
                raise Refused(errno.EINVAL)
            case Truncate() | Shorten():
                data = node.data[: operation.size].ljust(operation.size, b"\0")

        def commit(gsn: int) -> None:
            node.data, node.sealed, node.mtime_ns = data, False, operation.time_ns
            node.changed(gsn)

        return Verdict(frozenset({0}), commit)

    def _unlink(self, operation: Unlink) -> Verdict:
        found, node = self.existing(operation.path, operation.zone, operation.expected_parent)
        self._frozen(found)
        wrong = set() if operation.expected_version == 0 else set(self._expect(node, operation.expected_version))
        if node.is_directory:
            wrong |= {errno.EISDIR, errno.EBUSY} if found.is_root else {errno.EISDIR}
        if wrong:
            raise Refused(*wrong)

        def commit(gsn: int) -> None:
            assert found.parent is not None
            self.detach(found.parent, found.name, gsn)
            self.touch(found.parent, gsn, operation.time_ns)

        return Verdict(frozenset({0}), commit)

    def _not_empty(self, rule: RuleModel, node: Node, zone: int) -> frozenset[int]:
        """Why the directory cannot go."""
        wrong = set()
        if node.children:
            wrong.add(errno.ENOTEMPTY)
        if not node.listed:
            wrong.add(self.unknown(rule, zone))
        return frozenset(wrong)

    def _remove_directory(self, operation: RemoveDirectory) -> Verdict:
        found, node = self.existing(operation.path, operation.zone, operation.expected_parent)
        self._frozen(found)
        if found.is_root:
            raise Refused(errno.EBUSY)
        if not node.is_directory:
            raise Refused(errno.ENOTDIR)
        wrong = self._not_empty(found.rule, node, operation.zone)
        if wrong:
            raise Refused(*wrong)

        def commit(gsn: int) -> None:
            assert found.parent is not None
            self.detach(found.parent, found.name, gsn)
            self.touch(found.parent, gsn, operation.time_ns)

        return Verdict(frozenset({0}), commit)

    def _remove(self, operation: Remove) -> Verdict:
        found, node = self.existing(operation.path, operation.zone, operation.expected_parent)
        self._frozen(found)
        head = operation.id, operation.zone, operation.time_ns, operation.path
        if not node.is_directory:
            return self._unlink(Unlink(*head, operation.expected_version))
        wrong = set() if operation.expected_version == 0 else set(self._expect(node, operation.expected_version))
        try:
            verdict = self._remove_directory(RemoveDirectory(*head))
        except Refused as refused:
            raise Refused(*refused.allowed, *wrong) from None
        if wrong:
            raise Refused(*wrong)
        return verdict

    def _both(self, operation: Rename | Link) -> tuple[Found, Node, Found]:
        """Both ends of a two-path operation; refused with whatever is wrong with either."""
        wrong: set[int] = set()
        ends: list[Found] = []
        parent_number = operation.expected_parent if isinstance(operation, Rename) else 0
        for path, must_exist, above in (
            (operation.path, True, parent_number),
            (operation.to, False, operation.expected_to_parent),
        ):
            try:
                if path_errno(path) == 0 and self.rule_of(path) is not self.rule_of(operation.path):
                    wrong.add(errno.EXDEV if self.rule_of(path) else errno.ENOENT)
                    if self.rule_of(operation.path) is None:
                        wrong.add(errno.ENOENT)
                found = self.find(path, operation.zone, above)
                if must_exist and found.node is None:
                    wrong.add(errno.ENOENT)
                elif must_exist and isinstance(operation, Link):
                    self._mean(found.node, operation)
                ends.append(found)
            except Refused as refused:
                wrong |= refused.allowed
        if wrong:
            raise Refused(*wrong)
        source, to = ends
        assert source.node is not None
        self._frozen(source, to)
        return source, source.node, to

    def _link(self, operation: Link) -> Verdict:
        _source, node, to = self._both(operation)
        wrong = set()
        if node.is_directory:
            wrong.add(errno.EPERM)
        if to.node is not None:
            wrong.add(errno.EEXIST)
        if wrong:
            raise Refused(*wrong)

        def commit(gsn: int) -> None:
            assert to.parent is not None
            self.attach(to.parent, to.name, node, gsn)
            self.touch(to.parent, gsn, operation.time_ns)

        return Verdict(frozenset({0}), commit)

    def _rename(self, operation: Rename) -> Verdict:
        source, node, to = self._both(operation)
        if source.is_root or to.is_root:
            raise Refused(errno.EBUSY, *({errno.EEXIST} if operation.flag is RenameFlag.NOREPLACE else ()))
        assert source.parent is not None and to.parent is not None
        inside = {errno.EINVAL} if node.is_directory and node.contains(to.parent) else set()
        if operation.flag is RenameFlag.NOREPLACE and to.node is not None:
            raise Refused(errno.EEXIST, *inside)
        if operation.flag is RenameFlag.EXCHANGE:
            return self._exchange(operation, source, node, to)
        if to.node is node:
            return Verdict(frozenset({0}), lambda gsn: None)
        wrong: set[int] = set(inside)
        if to.node is not None:
            if to.node.is_directory and to.node.contains(source.parent):
                wrong.add(errno.ENOTEMPTY)
            if node.is_directory and not to.node.is_directory:
                wrong.add(errno.ENOTDIR)
            elif not node.is_directory and to.node.is_directory:
                wrong.add(errno.EISDIR)
            elif to.node.is_directory:
                wrong |= self._not_empty(to.rule, to.node, operation.zone)
        if wrong:
            raise Refused(*wrong)

        def commit(gsn: int) -> None:
            assert source.parent is not None and to.parent is not None
            if to.node is not None:
                self.detach(to.parent, to.name, gsn)
            self.detach(source.parent, source.name, gsn)
            self.attach(to.parent, to.name, node, gsn)
            self.touch(source.parent, gsn, operation.time_ns)
            self.touch(to.parent, gsn, operation.time_ns)

        return Verdict(frozenset({0}), commit)

    def _exchange(self, operation: Rename, source: Found, node: Node, to: Found) -> Verdict:
        assert to.parent is not None
        if to.node is None:
            raise Refused(errno.ENOENT, *({errno.EINVAL} if node.is_directory and node.contains(to.parent) else ()))
        other = to.node
        if other is node:
            return Verdict(frozenset({0}), lambda gsn: None)
        assert source.parent is not None and to.parent is not None
        if node.contains(to.parent) or other.contains(source.parent):
            raise Refused(errno.EINVAL)

        def commit(gsn: int) -> None:
            assert source.parent is not None and to.parent is not None
            self.detach(source.parent, source.name, gsn)
            self.detach(to.parent, to.name, gsn)
            self.attach(source.parent, source.name, other, gsn)
            self.attach(to.parent, to.name, node, gsn)
            self.touch(source.parent, gsn, operation.time_ns)
            self.touch(to.parent, gsn, operation.time_ns)

        return Verdict(frozenset({0}), commit)

    def _set_attributes(self, operation: SetAttributes) -> Verdict:
        node = self._meant(operation)
        if not node.attributes_known:
            raise Refused(errno.EAGAIN)

        def commit(gsn: int) -> None:
            if operation.mode is not None and node.kind is not Kind.SYMLINK:
                node.mode = operation.mode
            if operation.uid is not None:
                node.uid = operation.uid
            if operation.gid is not None:
                node.gid = operation.gid
            if operation.mtime_ns is not None:
                node.mtime_ns = operation.mtime_ns
            if operation[4:8] == (None, None, None, None):
                node.renamed(gsn)
            else:
                node.changed(gsn)

        allowed = {0}
        if operation.mode is not None and node.kind is Kind.SYMLINK:
            allowed |= {errno.EOPNOTSUPP, errno.EINVAL}
        return Verdict(frozenset(allowed), commit)

    def _xattr(self, operation: SetXattr | RemoveXattr) -> Verdict:
        node = self._meant(operation)
        if operation.name[:5] == b"user." and node.kind not in {Kind.FILE, Kind.DIRECTORY}:
            raise Refused(errno.EPERM)
        if not node.attributes_known:
            raise Refused(errno.EAGAIN)
        present = operation.name in node.xattrs
        if isinstance(operation, SetXattr):
            if present and operation.flag is XattrFlag.CREATE:
                raise Refused(errno.EEXIST)
            if not present and operation.flag is XattrFlag.REPLACE:
                raise Refused(errno.ENODATA)
        elif not present:
            raise Refused(errno.ENODATA)

        def commit(gsn: int) -> None:
            if isinstance(operation, SetXattr):
                node.xattrs[operation.name] = operation.value
            else:
                del node.xattrs[operation.name]
            node.changed(gsn)

        return Verdict(frozenset({0}), commit)

    # -- the whole ----------------------------------------------------------------------------------------------

    def walk(self, rule: RuleModel) -> Iterator[tuple[bytes, Node]]:
        """Every path relative to the rule's root, b"" first, with its object."""
        todo = [(b"", rule.root)]
        while todo:
            path, node = todo.pop()
            yield path, node
            for name, child in node.children.items():
                todo.append((path + b"/" + name if path else name, child))


def digest_of(node: Node) -> bytes:
    return blake3(node.data).digest()
