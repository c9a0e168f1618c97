"""A node's database: one LMDB environment (https://www.symas.com/lmdb), one named database a `Table`.

A write transaction is durable when it has committed: LMDB writes the pages, syncs, writes the meta page, syncs. A
marker inside the database says whose it is, so that one node's state is never taken for another's; a copy of the
marker beside the database tells an emptied database from a new one. Beside it is also the write-ahead log, which is
part of the node's state as the database is.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

import lmdb

from lddp.core.tables import Table
from lddp.errors import CorruptError, StorageError, UsageError
from lddp.storage.datafile import refuse_truncated
from lddp.storage.residency import Residency
from lddp.storage.wal import WriteAheadLog

FORMAT_VERSION = 1
MAP_SIZE_DEFAULT = 64 << 30
_MARKER_KEY = b"\x00environment"
_DATA_FILE = "data.mdb"
_WAL_FILE = "log.wal"
_HEAD_BYTES = 16
"""Of LMDB's first page: never all zeros once it is written."""
_LOCK_FILE = "node.lock"
_MARKER_FILE = "marker.json"
_SCAN_BATCH_MAX = 128

logger = logging.getLogger(__name__)

_Databases = dict[Table, "lmdb._Database"]


class Transaction:
    """One LMDB transaction as `Tables`. `get` and `put` are closures: they are called for every record, and a closure
    saves the attribute lookups of a method."""

    __slots__ = ("_databases", "_let_go", "_transaction", "delete", "get", "put")

    def __init__(self, transaction: lmdb.Transaction[bytes], databases: _Databases) -> None:
        self._transaction = transaction
        self._databases = databases
        transaction_get: Callable[..., bytes | None] = transaction.get
        transaction_put: Callable[..., bool] = transaction.put
        transaction_delete: Callable[..., bool] = transaction.delete

        def get(table: Table, key: bytes) -> bytes | None:
            return transaction_get(key, None, databases[table])

        def put(table: Table, key: bytes, value: bytes) -> None:
            transaction_put(key, value, True, True, False, databases[table])

        def delete(table: Table, key: bytes) -> bool:
            return transaction_delete(key, b"", databases[table])

        def let_go() -> None:
            nonlocal transaction_get, transaction_put, transaction_delete
            transaction_get = transaction_put = transaction_delete = _ended

        self.get: Callable[[Table, bytes], bytes | None] = get
        self.put: Callable[[Table, bytes, bytes], None] = put
        self.delete: Callable[[Table, bytes], bool] = delete
        self._let_go = let_go

    def close(self) -> None:
        """Lets LMDB's transaction go, whoever still holds this object or its `get`, as an overlay does: a reader's slot
        is free only then, and there are a limited number of them."""
        self._let_go()
        self.get = self.put = self.delete = _ended
        del self._transaction

    def scan(self, table: Table, start: bytes = b"", stop: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        # Read in growing batches and found again by key in between: an LMDB cursor is not promised to survive
        # changes made to its table by others in the same transaction.
        cursor = self._transaction.cursor(self._databases[table])
        present = cursor.set_range(start) if start else cursor.first()
        size = 1
        while present:
            batch: list[tuple[bytes, bytes]] = []
            for item in cursor:
                if stop is not None and item[0] >= stop:
                    yield from batch
                    return
                batch.append(item)
                if len(batch) == size:
                    break
            if not batch:
                return
            yield from batch
            last = batch[-1][0]
            present = cursor.set_range(last)
            if present and cursor.key() == last:
                present = cursor.next()
            size = min(size * 4, _SCAN_BATCH_MAX)


def _ended(*_: object) -> Any:
    raise AssertionError("a transaction is used after its end")


class _Scope:
    """The `with` of one transaction; the errors of LMDB leave it as ours."""

    __slots__ = ("_environment", "_tables", "_transaction", "_write")

    def __init__(self, environment: Environment, *, write: bool) -> None:
        self._environment = environment
        self._write = write

    def __enter__(self) -> Transaction:
        environment = self._environment
        try:
            self._transaction = environment.lmdb.begin(write=self._write)
        except lmdb.Error as error:
            raise environment.explain(error) from error
        self._tables = Transaction(self._transaction, environment.databases)
        return self._tables

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        transaction = self._transaction
        self._tables.close()
        del self._transaction, self._tables
        if error is not None or not self._write:
            transaction.abort()
            if isinstance(error, lmdb.Error):
                raise self._environment.explain(error) from error
            return
        try:
            transaction.commit()
        except lmdb.Error as failure:
            raise self._environment.explain(failure) from failure
        self._environment.residency.note_commit()


class Environment:
    """One open database; `Environment.open` makes it. Implements `ports.KeyValue`.

    Transactions of one environment may be opened from several threads; write transactions exclude each other. A write
    transaction belongs to the thread that opened it, and a second one inside it would wait for itself.
    """

    def __init__(
        self, directory: str, lock: int, environment: lmdb.Environment, databases: _Databases, wal: WriteAheadLog
    ) -> None:
        self.directory = directory
        self.lmdb = environment
        self.wal = wal
        self.databases = databases
        self.residency = Residency(os.path.join(directory, _DATA_FILE))
        self._lock = lock

    @classmethod
    def open(
        cls, directory: str, *, ecosystem: str, node: str, witness: bool = False, map_size: int = MAP_SIZE_DEFAULT
    ) -> Self:
        """Opens, or makes, the database of `node` in `directory`; a `witness` has counted in it what voters have
        folded. `map_size` bounds it in bytes; it costs address space only.

        Raises UsageError (another process has it; it belongs to another node, ecosystem or role; a newer format),
        CorruptError (not a database, or a damaged one), StorageError (the disk refuses).
        """
        lock = -1
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            lock = _take_lock(directory)
            _refuse_emptied(directory)
            _forget_unfinished(directory)
            refuse_truncated(os.path.join(directory, _DATA_FILE))
            environment = _open_lmdb(directory, map_size)
        except OSError as error:
            _release(lock)
            raise StorageError(f"{directory}: {error.strerror}; the node needs this directory for itself") from error
        except BaseException:
            _release(lock)
            raise
        try:
            role = "witness" if witness else "voter"
            _check_marker(environment, directory, ecosystem, node, role)
            # In one transaction: each that makes something is a sync.
            with environment.begin(write=True) as transaction:
                databases = {table: environment.open_db(table.value.encode(), transaction) for table in Table}
            # What an earlier process wrote and could not sync any more is what this one builds on.
            environment.sync(True)
            _write_marker_file(directory, ecosystem, node, role)
        except lmdb.Error as error:
            environment.close()
            _release(lock)
            raise CorruptError(f"{directory}: the database cannot be read ({error}); restore this node") from error
        except BaseException:
            environment.close()
            _release(lock)
            raise
        return cls(directory, lock, environment, databases, WriteAheadLog(os.path.join(directory, _WAL_FILE)))

    def write(self) -> _Scope:
        return _Scope(self, write=True)

    def read(self) -> _Scope:
        return _Scope(self, write=False)

    def close(self) -> None:
        """Closes the database; a second call does nothing."""
        if self._lock >= 0:
            self.wal.close()
            self.lmdb.close()
            _release(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def size_bytes(self) -> int:
        """Bytes the database takes on disk."""
        return os.stat(os.path.join(self.directory, _DATA_FILE)).st_blocks * 512

    def explain(self, error: lmdb.Error) -> StorageError | CorruptError:
        """Our error for one of LMDB's."""
        if isinstance(error, lmdb.MapFullError):
            size = self.lmdb.info()["map_size"]
            return StorageError(f"{self.directory}: the database has reached its {size} bytes; raise map_size")
        if isinstance(error, (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.PanicError)):
            return CorruptError(f"{self.directory}: the database is damaged ({error}); restore this node")
        return StorageError(f"{self.directory}: {error}; free space or check the disk, then start the node again")


def _open_lmdb(directory: str, map_size: int) -> lmdb.Environment:
    try:
        return lmdb.open(
            directory,
            map_size=map_size,
            max_dbs=len(Table) + 4,
            max_readers=256,
            max_spare_txns=4,
            mode=0o600,
            readahead=False,
        )
    except (lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.CorruptedError) as error:
        raise CorruptError(
            f"{directory}/{_DATA_FILE} is not a database of ours ({error}); restore this node"
        ) from error
    except lmdb.Error as error:
        raise StorageError(f"{directory}: the database cannot be opened ({error}); check disk and rights") from error


def _take_lock(directory: str) -> int:
    descriptor = os.open(os.path.join(directory, _LOCK_FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        raise UsageError(f"{directory} is in use by another process; stop that node first") from error
    return descriptor


def _release(lock: int) -> None:
    if lock >= 0:
        os.close(lock)


def _refuse_emptied(directory: str) -> None:
    """LMDB takes an empty file for a new database. A node that starts again with an empty log may vote twice."""
    data = os.path.join(directory, _DATA_FILE)
    if os.path.exists(os.path.join(directory, _MARKER_FILE)) and (
        not os.path.exists(data) or os.path.getsize(data) == 0
    ):
        raise CorruptError(f"{data} is gone or empty, but the node had state; restore it, or join as a new node")


def _forget_unfinished(directory: str) -> None:
    """A power cut may take the head of a database that was being made. Nothing was in it: the marker's copy beside it,
    which comes before anything else, is not there."""
    data = os.path.join(directory, _DATA_FILE)
    if os.path.exists(os.path.join(directory, _MARKER_FILE)) or not os.path.exists(data):
        return
    with open(data, "r+b") as file:
        if file.read(_HEAD_BYTES) == bytes(_HEAD_BYTES):
            file.truncate(0)


def _check_marker(environment: lmdb.Environment, directory: str, ecosystem: str, node: str, role: str) -> None:
    with environment.begin() as transaction:
        stored = transaction.get(_MARKER_KEY)
        strange = stored is None and transaction.stat()["entries"] > 0
    if strange:
        raise CorruptError(f"{directory} holds a database without our marker; choose another directory")
    if stored is None:
        _put_marker(environment, _marker(ecosystem, node, role))
        return
    try:
        marker = json.loads(stored)
        version, owner, name = int(marker["format"]), str(marker["ecosystem"]), str(marker["node"])
        its_role = str(marker.get("role", ""))
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptError(f"{directory}: the database's marker cannot be read; restore this node") from error
    if version > FORMAT_VERSION:
        raise UsageError(f"{directory} has format {version}, this lddp knows {FORMAT_VERSION}; use a newer lddp")
    if owner != ecosystem:
        raise UsageError(f"{directory} belongs to ecosystem {owner!r}, not {ecosystem!r}; use its own directory")
    if name != node:
        raise UsageError(f"{directory} belongs to node {name!r}, not {node!r}; use its own directory")
    if not its_role:
        # Made by an lddp whose markers did not say it.
        _put_marker(environment, _marker(ecosystem, node, role))
    elif its_role != role:
        raise UsageError(f"{directory} belongs to a {its_role}, and {node!r} is a {role} now; use its own directory")


def _put_marker(environment: lmdb.Environment, marker: bytes) -> None:
    with environment.begin(write=True) as transaction:
        transaction.put(_MARKER_KEY, marker)


def _marker(ecosystem: str, node: str, role: str) -> bytes:
    return json.dumps({"format": FORMAT_VERSION, "ecosystem": ecosystem, "node": node, "role": role}).encode()


def _write_marker_file(directory: str, ecosystem: str, node: str, role: str) -> None:
    path = os.path.join(directory, _MARKER_FILE)
    if os.path.exists(path):
        return
    with open(path + ".new", "wb") as file:
        file.write(_marker(ecosystem, node, role))
        file.flush()
        os.fsync(file.fileno())
    os.rename(path + ".new", path)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
