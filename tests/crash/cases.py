"""What a node is doing when it is killed: one case for each kind of record, and for each way that its effects take."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

from blake3 import blake3

from lddp.core import records as r
from lddp.core.limits import INLINE_BYTES_MAX
from lddp.core.records import Attributes, Content, Kind, MigrationAction, OperationId, Record, RenameFlag
from lddp.core.view import View
from tests.core.support import content
from tests.crash.lone import ELSEWHERE, HERE

TIME_NS = 1_700_000_000_123_456_789
LARGE = 3 * INLINE_BYTES_MAX
_OWNER = (1234, 2345) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
DATA, SEEN = b"/data", b"/seen"
"""A rule that takes operations, and one whose data another zone reports."""


class Make:
    """Makes the records of step `step`, the same ones every time. All of its paths are below one directory of its own
    in each rule. `elsewhere` gets the bytes that the records only name."""

    def __init__(self, directory: Path, step: int, elsewhere: dict[bytes, bytes]) -> None:
        self._directory = directory
        self.step = step
        self._elsewhere = elsewhere
        self._count = 0
        self._random = Random(step)
        self.name = b"p%d" % step

    # -- parts ------------------------------------------------------------------------------------------------------

    def id(self) -> OperationId:
        self._count += 1
        return OperationId(b"crash", self.step * 1000 + self._count)

    def _head(self, path: bytes) -> tuple[OperationId, int, int, bytes]:
        id = self.id()
        return id, HERE, TIME_NS + id.sequence, self.path(path)

    def path(self, path: bytes) -> bytes:
        return b"/".join((DATA, self.name, path)) if path else DATA + b"/" + self.name

    def bytes(self, size: int) -> bytes:
        return self._random.randbytes(size)

    def large(self, size: int = LARGE) -> Content:
        """A content that no record carries."""
        data = self.bytes(size)
        digest = blake3(data).digest()
        self._elsewhere[digest] = data
        return Content(digest, size)

    def packed(self, count: int) -> list[Content]:
        """Contents of one pack."""
        pieces = [self.bytes(500 + number) for number in range(count)]
        pack, found, end = self.bytes(16), [], 0
        for piece in pieces:
            digest = blake3(piece).digest()
            self._elsewhere[digest] = piece
            found.append(Content(digest, len(piece), pack=pack, offset=end))
            end += len(piece)
        self._elsewhere[pack] = b"".join(pieces)
        return found

    # -- records ----------------------------------------------------------------------------------------------------

    def rule(self, name: str, path: bytes, source: int = -1) -> Record:
        place = bytes(self._directory / "zone" / name)
        members = (r.ZoneMember(HERE, "here", place),)
        if source == ELSEWHERE:
            members += (r.ZoneMember(ELSEWHERE, "elsewhere", b"/elsewhere" + path),)
        return r.CreateRule(self.id(), TIME_NS, name, path, source, members)

    def directory(self, path: bytes = b"") -> Record:
        return r.MakeDirectory(*self._head(path), 0o751, *_OWNER)

    def put(self, path: bytes, what: Content | int = 200, mode: int = 0o640) -> Record:
        return r.Put(*self._head(path), mode, *_OWNER, content(self.bytes(what)) if isinstance(what, int) else what)

    def rename(self, path: bytes, to: bytes, flag: RenameFlag = RenameFlag.NONE) -> Record:
        return r.Rename(*self._head(path), self.path(to), flag)

    def of(self, kind: type, path: bytes, *fields: object) -> Record:
        record: Record = kind(*self._head(path), *fields)
        return record

    def observation(
        self, view: View, *directories: r.DirectoryReport, inodes: tuple[r.InodeReport, ...] = ()
    ) -> Record:
        rule = view.rule("seen")
        assert rule is not None
        return r.Observation(self.id(), ELSEWHERE, view.gsn, rule.number, directories, inodes)

    def entry(
        self, name: bytes, kind: Kind = Kind.FILE, what: Content | None = None, **fields: object
    ) -> r.ObservedEntry:
        """Its identity is its step and its name, unless `identity` is given."""
        attributes = Attributes(0o755 if kind is Kind.DIRECTORY else 0o604, *_OWNER, TIME_NS + self.step)
        size = 0 if what is None else what.size
        identity = fields.pop("identity", b"%d:%b" % (self.step, name))
        return r.ObservedEntry(name, identity, kind, attributes, size, what, **fields)  # type: ignore[arg-type]


def report(
    view: View, path: bytes, *entries: r.ObservedEntry, absent: tuple[bytes, ...] = (), whole: bool = True
) -> r.DirectoryReport:
    """What was seen in the directory at `path` of the rule whose data is reported."""
    inode = view.resolve(SEEN + path)
    assert inode is not None, path
    attributes = Attributes(0o755, *_OWNER, TIME_NS)
    return r.DirectoryReport(inode.number, entries, absent, whole, attributes)


Setup = Callable[[Make], list[Record]]
Look = Callable[[Make, View], list[Record]]


class Case(NamedTuple):
    """`before` is in the zone when `operation` is submitted, in one batch. With `workers` the node has its worker
    processes. `observed` is done before too, one record after the other, each with the state that it finds."""

    name: str
    operation: Look
    before: Setup = lambda make: []
    observed: tuple[Look, ...] = ()
    workers: bool = False


def case(name: str, *, before: Setup = lambda make: [], workers: bool = False) -> Callable[[Setup], Case]:
    """Makes a case of what submits operations."""
    return lambda operation: Case(name, lambda make, _view: operation(make), before, workers=workers)


def _file(make: Make) -> list[Record]:
    return [make.put(b"f", 900)]


def _large_file(make: Make) -> list[Record]:
    return [make.put(b"f", make.large())]


def _two(make: Make) -> list[Record]:
    """Two full directories and two files."""
    paths = (b"d", b"d/s", b"e", b"e/s")
    files = (b"a", b"b", b"d/f", b"d/s/f", b"e/f")
    return [*(make.directory(path) for path in paths), *(make.put(path, 30 + len(path)) for path in files)]


def _xattr(make: Make) -> list[Record]:
    return [make.put(b"f"), make.of(r.SetXattr, b"f", b"user.old", b"1")]


def _linked(make: Make) -> list[Record]:
    return [make.put(b"a"), make.put(b"other"), make.of(r.Link, b"a", make.path(b"b"))]


OPERATIONS = (
    case("make-directory")(lambda m: [m.directory(b"d")]),
    case("create-file")(lambda m: [m.of(r.Create, b"f", Kind.FILE, 0o600, *_OWNER)]),
    case("create-file-with-bytes")(lambda m: [m.of(r.CreateFile, b"f", 0o640, *_OWNER, TIME_NS - 9, m.large())]),
    case("create-fifo")(lambda m: [m.of(r.Create, b"f", Kind.FIFO, 0o620, *_OWNER)]),
    case("put-inline")(lambda m: [m.put(b"f", 700)]),
    case("put-packed")(lambda m: [m.put(b"f%d" % at, what) for at, what in enumerate(m.packed(3))]),
    case("put-large")(lambda m: [m.put(b"f", m.large())]),
    case("put-over", before=_large_file)(lambda m: [m.put(b"f", m.large())]),
    case("put-over-linked", before=_linked)(lambda m: [m.put(b"a", 300)]),
    case("put-same-bytes")(lambda m: [m.put(name, what) for what in [m.large()] for name in (b"f", b"g", b"h")]),
    case("put-many")(lambda m: [m.put(b"f%d" % at, 100 + at) for at in range(3)]),
    case("put-many-workers", workers=True)(lambda m: [m.put(b"f%d" % at, 100 + at) for at in range(16)]),
    case("write", before=_file)(lambda m: [m.of(r.Write, b"f", 300, content(m.bytes(400)))]),
    case("write-beyond-end", before=_file)(lambda m: [m.of(r.Write, b"f", 9000, content(m.bytes(50)))]),
    case("write-large", before=_large_file)(lambda m: [m.of(r.Write, b"f", 100, m.large())]),
    case("append", before=_file)(lambda m: [m.of(r.Append, b"f", content(m.bytes(120)))]),
    case("append-twice", before=_file)(lambda m: [m.of(r.Append, b"f", content(m.bytes(n))) for n in (10, 20)]),
    case("truncate", before=_file)(lambda m: [m.of(r.Truncate, b"f", 100)]),
    case("shorten", before=_file)(lambda m: [m.of(r.Shorten, b"f", 100)]),
    case("truncate-longer", before=_file)(lambda m: [m.of(r.Truncate, b"f", 5000)]),
    case("rename-file", before=_two)(lambda m: [m.rename(b"a", b"d/a")]),
    case("rename-directory", before=_two)(lambda m: [m.rename(b"d", b"e/d")]),
    case("rename-replace", before=_two)(lambda m: [m.rename(b"a", b"d/f")]),
    case("rename-chain", before=_two)(lambda m: [m.rename(b"a", b"c"), m.rename(b"b", b"a"), m.rename(b"c", b"b")]),
    case("rename-over-link", before=_linked)(lambda m: [m.rename(b"other", b"b"), m.rename(b"a", b"other")]),
    case("exchange-files", before=_two)(lambda m: [m.rename(b"a", b"b", RenameFlag.EXCHANGE)]),
    case("exchange-directories", before=_two)(lambda m: [m.rename(b"d", b"e", RenameFlag.EXCHANGE)]),
    case("exchange-mixed", before=_two)(lambda m: [m.rename(b"a", b"d", RenameFlag.EXCHANGE)]),
    case("unlink", before=_file)(lambda m: [m.of(r.Unlink, b"f")]),
    case("unlink-linked", before=_linked)(lambda m: [m.of(r.Unlink, b"a")]),
    case("remove-directory", before=lambda m: [m.directory(b"d")])(lambda m: [m.of(r.RemoveDirectory, b"d")]),
    case("remove", before=_file)(lambda m: [m.of(r.Remove, b"f")]),
    case("link", before=_file)(lambda m: [m.of(r.Link, b"f", m.path(b"g"))]),
    case("symlink")(lambda m: [m.of(r.Symlink, b"f", b"to/nothing", *_OWNER)]),
    case("set-attributes", before=_file)(lambda m: [m.of(r.SetAttributes, b"f", 0o444, None, None, TIME_NS - 5)]),
    case("set-xattr", before=_xattr)(lambda m: [m.of(r.SetXattr, b"f", b"user.new", b"2" * 90)]),
    case("remove-xattr", before=_xattr)(lambda m: [m.of(r.RemoveXattr, b"f", b"user.old")]),
    case("put-and-rename-back")(lambda m: [m.put(b"a"), m.rename(b"a", b"b"), m.put(b"a"), m.of(r.Unlink, b"b")]),
)


# -- control records --------------------------------------------------------------------------------------------------


def _rule(make: Make, source: int = -1) -> Record:
    return make.rule(f"rule{make.step}", b"/rule%d" % make.step, source)


def _migration(make: Make, action: MigrationAction) -> Record:
    return r.ChangeMigration(make.id(), TIME_NS, f"rule{make.step}", action)


def _receipt(make: Make) -> list[Record]:
    finding = r.ZoneFinding(HERE, bytes(32), 1, 2, 3)
    return [r.Barrier(make.id(), TIME_NS, "data"), r.Receipt(make.id(), TIME_NS, "data", 1, (finding,))]


CONTROL = (
    case("create-rule")(lambda m: [_rule(m)]),
    case("remove-rule", before=lambda m: [_rule(m)])(lambda m: [r.RemoveRule(m.id(), TIME_NS, f"rule{m.step}")]),
    case("set-rule-options")(lambda m: [r.SetRuleOptions(m.id(), TIME_NS + m.step, "data", b"\x80")]),
    case("change-migration", before=lambda m: [_rule(m, ELSEWHERE)])(
        lambda m: [_migration(m, action) for action in (MigrationAction.CREATE, MigrationAction.START)]
    ),
    case("barrier-and-receipt")(_receipt),
)


# -- observations -----------------------------------------------------------------------------------------------------


def _own(make: Make, view: View) -> list[Record]:
    """The step's own directory appears, not listed yet."""
    return [make.observation(view, report(view, b"", make.entry(make.name, Kind.DIRECTORY), whole=False))]


def _listing(make: Make, view: View) -> list[Record]:
    packed = make.packed(2)
    entries = (
        make.entry(b"d", Kind.DIRECTORY),
        make.entry(b"inline", what=content(make.bytes(300))),
        make.entry(b"large", what=make.large()),
        make.entry(b"link", Kind.SYMLINK, target=b"inline"),
        make.entry(b"packed0", what=packed[0]),
        make.entry(b"packed1", what=packed[1], identity=b"%d:twice" % make.step),
        make.entry(b"twin", what=packed[1], identity=b"%d:twice" % make.step),
    )
    return [make.observation(view, report(view, b"/" + make.name, *entries))]


def _moved(make: Make, view: View) -> list[Record]:
    """Two objects have each other's names now, and the directory another one."""
    top = b"/" + make.name
    entries = (
        make.entry(b"inline", Kind.SYMLINK, target=b"inline", identity=b"%d:link" % make.step),
        make.entry(b"link", what=content(make.bytes(310)), identity=b"%d:inline" % make.step),
        make.entry(b"renamed", Kind.DIRECTORY, identity=b"%d:d" % make.step),
    )
    return [make.observation(view, report(view, top, *entries, absent=(b"d",), whole=False))]


def _changed(make: Make, view: View) -> list[Record]:
    """New bytes of a file, and some names that are gone."""
    top = b"/" + make.name
    inode = view.resolve(SEEN + top + b"/inline")
    assert inode is not None
    what = content(make.bytes(44))
    inodes = (r.InodeReport(inode.number, Attributes(0o600, *_OWNER, TIME_NS - 9), what.size, what),)
    return [make.observation(view, report(view, top, absent=(b"twin", b"large", b"d"), whole=False), inodes=inodes)]


OBSERVATIONS = (
    Case("observe-listing", _listing, observed=(_own,)),
    Case("observe-moves", _moved, observed=(_own, _listing)),
    Case("observe-changes", _changed, observed=(_own, _listing)),
)

CASES = {one.name: one for one in (*OPERATIONS, *CONTROL, *OBSERVATIONS)}


def first_records(make: Make) -> list[Record]:
    """What every log begins with."""
    return [make.rule("data", DATA), make.rule("seen", SEEN, ELSEWHERE)]
