"""The records that the log orders.

A record is an operation (a change a client asks for), an observation (a fact that a rule's source zone
reports), or a control record (rules, migrations, barriers, receipts). All are immutable. Paths are bytes in the
global namespace, absolute, without empty, `.` or `..` components; names are bytes and need not be UTF-8.

A path names whatever is there when the record's turn comes. Who means an object that it has looked at or opened says so
by `expected_inode`, a last field of every operation that changes an object in place: ESTALE where the name stands for
another object by then. Who means a directory when it makes or takes a name says so by `expected_parent`.

A record's number, counted over the log, is its GSN (global sequence number). Consensus may put many records in one
log entry; the GSN does not depend on how they were grouped.
"""

from __future__ import annotations

from typing import NamedTuple

from lddp.core.reports import DirectoryReport as DirectoryReport
from lddp.core.reports import InodeReport as InodeReport
from lddp.core.reports import Observation as Observation
from lddp.core.reports import ObservedEntry as ObservedEntry
from lddp.core.values import ANY_INODE as ANY_INODE
from lddp.core.values import ANY_VERSION as ANY_VERSION
from lddp.core.values import NO_VERSION as NO_VERSION
from lddp.core.values import SOME_VERSION as SOME_VERSION
from lddp.core.values import Attributes as Attributes
from lddp.core.values import Content as Content
from lddp.core.values import Kind as Kind
from lddp.core.values import MigrationAction as MigrationAction
from lddp.core.values import OperationId as OperationId
from lddp.core.values import Outcome as Outcome
from lddp.core.values import RenameFlag as RenameFlag
from lddp.core.values import XattrFlag as XattrFlag
from lddp.core.values import Xattrs as Xattrs


# -- operations: the first three fields are the same in all of them
class MakeDirectory(NamedTuple):
    id: OperationId
    zone: int
    time_ns: int
    path: bytes
    mode: int
    uid: int
    gid: int
    expected_parent: int = ANY_INODE


class Create(NamedTuple):
    """Make an empty file, fifo or device; EEXIST where the name is taken."""

    id: OperationId
    zone: int
    time_ns: int
    path: bytes
    kind: Kind
    mode: int
    uid: int
    gid: int
    rdev: int = 0
    expected_parent: int = ANY_INODE


class CreateFile(NamedTuple):
    """Make a file that has bytes from the beginning; EEXIST where the name is taken. `mtime_ns` is the file's time,
    `time_ns` that of its directory."""

    id: OperationId
    zone: int
    time_ns: int
    path: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    content: Content
    expected_parent: int = ANY_INODE


class Put(NamedTuple):
    """Replace or create a whole file. `mode`, `uid`, `gid` are used where it is created. `expected_version` is one of
    ANY_VERSION, NO_VERSION and SOME_VERSION, or the version that the file must have;
    ESTALE where it has another, or is not there. With an `expected_inode` the name must not be free either."""

    id: OperationId
    zone: int
    time_ns: int
    path: bytes
    mode: int
    uid: int
    gid: int
    content: Content
    expected_version: int = ANY_VERSION
    expected_inode: int = ANY_INODE


class Write(NamedTuple):
    id: OperationId
    zone: int
    time_ns: int
    path: bytes
    offset: int
    content: Content
    expected_inode: int = ANY_INODE


class Append(NamedTuple):
    id: OperationId
    zone: int
    time_ns: int
    path: bytes
    content: Content
    expected_inode: int = ANY_INODE


class Truncate(NamedTuple):
    id: OperationId
    zone: int
    time_ns: int
    path: bytes
    size: int
    expected_inode: int = ANY_INODE


class Shorten(NamedTuple):
    """A Truncate that never makes a file longer: EINVAL where it is shorter than `size`."""

    id: OperationId
    zone: int
    time_ns: int
    path: bytes
    size: int
    expected_inode: int = ANY_INODE


class Rename(NamedTuple):
    id: OperationId
    zone: int
    time_ns: int
    path: bytes
    to: bytes
    flag: RenameFlag = RenameFlag.NONE
    expected_parent: int = ANY_INODE
    expected_to_parent: int = ANY_INODE


class Unlink(NamedTuple):
    id: OperationId
    zone: int
    time_ns: int
    path: bytes
    expected_version: int = ANY_VERSION
    expected_parent: int = ANY_INODE


class RemoveDirectory(NamedTuple):
    id: OperationId
    zone: int
    time_ns: int
    path: bytes
    expected_parent: int = ANY_INODE


class Remove(NamedTuple):
    """Take away a file's name or an empty directory, whichever is there when the record is applied: who asks need not
    know. A positive `expected_version` is the one that it must have; ESTALE where it has another."""

    id: OperationId
    zone: int
    time_ns: int
    path: bytes
    expected_version: int = ANY_VERSION
    expected_parent: int = ANY_INODE


class Link(NamedTuple):
    """`to` becomes another name of the file at `path`."""

    id: OperationId
    zone: int
    time_ns: int
    path: bytes
    to: bytes
    expected_inode: int = ANY_INODE
    expected_to_parent: int = ANY_INODE


class Symlink(NamedTuple):
    id: OperationId
    zone: int
    time_ns: int
    path: bytes
    target: bytes
    uid: int
    gid: int
    expected_parent: int = ANY_INODE


class SetAttributes(NamedTuple):
    """None leaves a field as it is."""

    id: OperationId
    zone: int
    time_ns: int
    path: bytes
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    mtime_ns: int | None = None
    expected_inode: int = ANY_INODE


class SetXattr(NamedTuple):
    id: OperationId
    zone: int
    time_ns: int
    path: bytes
    name: bytes
    value: bytes
    flag: XattrFlag = XattrFlag.NONE
    expected_inode: int = ANY_INODE


class RemoveXattr(NamedTuple):
    id: OperationId
    zone: int
    time_ns: int
    path: bytes
    name: bytes
    expected_inode: int = ANY_INODE


Operation = (
    MakeDirectory
    | Create
    | CreateFile
    | Put
    | Write
    | Append
    | Truncate
    | Shorten
    | Rename
    | Unlink
    | RemoveDirectory
    | Remove
    | Link
    | Symlink
    | SetAttributes
    | SetXattr
    | RemoveXattr
)
InPlace = Put | Write | Append | Truncate | Shorten | Link | SetAttributes | SetXattr | RemoveXattr
"""What changes an object where it is, and so may say which one it means."""
Naming = MakeDirectory | Create | CreateFile | Symlink | Unlink | RemoveDirectory | Remove | Rename
"""What makes or takes a name, and may say in which directory. `Link` and `Rename` may say it of their second path."""


class Guarded(NamedTuple):
    """An operation of a row, of which each is asked for as if those before it had been done. ECANCELED unless `after`
    was; ESTALE unless `path` leads to the inode `at` in the directory `above`, and `to` likewise. These are inode
    numbers, or less than 0: what the operation of this sequence, negated, and of the same session has made. 0: any."""

    operation: Operation
    after: OperationId | None = None
    above: int = 0
    at: int = 0
    to_above: int = 0
    to_at: int = 0

    @property
    def id(self) -> OperationId:
        return self.operation.id


# -- control records
class ZoneMember(NamedTuple):
    """A zone's part in a rule: where the rule's tree is on that zone's filesystem."""

    zone: int
    name: str
    local_path: bytes
    observe_only: bool = False


class CreateRule(NamedTuple):
    """`path` is the rule's place in the global namespace. `source` is the zone that has data already, or -1.
    `options` is msgpack of plain settings (exclusions, policies), kept as it is."""

    id: OperationId
    time_ns: int
    name: str
    path: bytes
    source: int
    members: tuple[ZoneMember, ...]
    options: bytes = b""


class RemoveRule(NamedTuple):
    id: OperationId
    time_ns: int
    name: str


class SetRuleOptions(NamedTuple):
    id: OperationId
    time_ns: int
    name: str
    options: bytes


class ChangeMigration(NamedTuple):
    """Moves a migration to another state; EINVAL where its state does not allow the action."""

    id: OperationId
    time_ns: int
    rule: str
    action: MigrationAction
    detail: str = ""


class Barrier(NamedTuple):
    """A point in the log that zones can be brought to and compared at."""

    id: OperationId
    time_ns: int
    rule: str


class ZoneFinding(NamedTuple):
    """What one zone found in its real files at a barrier."""

    zone: int
    digest: bytes
    directories: int
    files: int
    file_bytes: int


class Receipt(NamedTuple):
    """At GSN `gsn` these zones had these digests; it holds when all are equal."""

    id: OperationId
    time_ns: int
    rule: str
    gsn: int
    findings: tuple[ZoneFinding, ...]


Control = CreateRule | RemoveRule | SetRuleOptions | ChangeMigration | Barrier | Receipt
Record = Operation | Guarded | Observation | Control
