"""Every error is a RemoteException with the class and the status that Hadoop's clients know."""

from __future__ import annotations

import errno
import json

import pytest

from lddp import errors
from lddp.doors.webhdfs import remote
from lddp.doors.webhdfs.door import ELSEWHERE, OPERATIONS
from tests.doors.webhdfs.conftest import Client
from tests.doors.webhdfs.machine import MachineBackend

TABLE = [
    (errno.ENOENT, 404, "java.io.FileNotFoundException"),
    (errno.EEXIST, 403, "org.apache.hadoop.fs.FileAlreadyExistsException"),
    (errno.ENOTEMPTY, 403, "org.apache.hadoop.fs.PathIsNotEmptyDirectoryException"),
    (errno.ENOTDIR, 403, "org.apache.hadoop.fs.ParentNotDirectoryException"),
    (errno.EISDIR, 404, "java.io.FileNotFoundException"),
    (errno.EACCES, 403, "org.apache.hadoop.security.AccessControlException"),
    (errno.EPERM, 403, "org.apache.hadoop.security.AccessControlException"),
    (errno.EROFS, 403, "org.apache.hadoop.security.AccessControlException"),
    (errno.EBUSY, 403, "org.apache.hadoop.security.AccessControlException"),
    (errno.EINVAL, 400, "java.lang.IllegalArgumentException"),
    (errno.E2BIG, 400, "java.lang.IllegalArgumentException"),
    (
        errno.ENAMETOOLONG,
        403,
        "org.apache.hadoop.hdfs.protocol.FSLimitException$PathComponentTooLongException",
    ),
    (errno.EAGAIN, 403, "org.apache.hadoop.ipc.RetriableException"),
    (errno.EXDEV, 403, "java.io.IOException"),
    (errno.ESTALE, 403, "java.io.IOException"),
    (errno.ENODATA, 403, "java.io.IOException"),
    (errno.EFBIG, 403, "java.io.IOException"),
    (errno.EMLINK, 403, "java.io.IOException"),
    (errno.ENOSPC, 403, "java.io.IOException"),
    (errno.EIO, 403, "java.io.IOException"),
    (errno.ELOOP, 403, "java.io.IOException"),
]


@pytest.mark.parametrize(("number", "status", "java"), TABLE, ids=[errno.errorcode[row[0]] for row in TABLE])
def test_each_errno_has_its_exception(number: int, status: int, java: str) -> None:
    for error in (
        remote.of_errno(number, "what"),
        remote.of_error(errors.OperationError(number, "what")),
        remote.of_error(errors.ZoneError(number, "what")),
    ):
        answer = remote.answer(error)
        assert answer.status == status
        assert isinstance(answer.body, bytes)
        document = json.loads(answer.body)["RemoteException"]
        assert document["javaClassName"] == java
        assert document["exception"] == java.replace("$", ".").rpartition(".")[2]
        assert document["message"].startswith("what")


def test_every_errno_of_the_table_is_tested() -> None:
    assert remote.BY_ERRNO.keys() <= {number for number, _, _ in TABLE}


@pytest.mark.parametrize(
    ("error", "java"),
    [
        (errors.UsageError("x"), remote.ILLEGAL_ARGUMENT),
        (errors.NotAllowedError("x"), remote.ACCESS),
        (errors.UnavailableError("x"), remote.RETRIABLE),
        (errors.OutcomeUnknownError("x"), remote.IO),
        (errors.ElsewhereError("x"), remote.STANDBY),
        (errors.LimitError("x"), remote.ILLEGAL_ARGUMENT),
        (errors.FormatError("x"), remote.ILLEGAL_ARGUMENT),
        (errors.CorruptError("x"), remote.IO),
        (errors.StorageError("x"), remote.IO),
        (errors.LddpError("x"), remote.RUNTIME),
    ],
)
def test_each_error_of_lddp_has_its_exception(error: errors.LddpError, java: remote.JavaClass) -> None:
    assert remote.of_error(error).java is java


def test_no_operation_is_in_two_tables() -> None:
    for method, known in OPERATIONS.items():
        assert not known.keys() & ELSEWHERE[method]


async def test_operations_that_are_none(http: Client) -> None:
    illegal, unsupported = (400, "IllegalArgumentException"), (400, "UnsupportedOperationException")
    for method in ("GET", "PUT", "POST", "DELETE"):
        assert (await http(method, "/data")).error == unsupported
        assert (await http(method, "/data?op=")).error == unsupported
        for name in ("NONE", "OPEN;", "%00", "%FF", "LISTSTATUS%20", "x" * 3000):
            assert (await http(method, f"/data?op={name}")).error == illegal
        for name in ELSEWHERE[method]:
            assert (await http(method, f"/data?op={name.lower()}")).error == unsupported
        for other, known in OPERATIONS.items():
            for name in known.keys() - OPERATIONS[method].keys():
                answer = await http(method, f"/data?op={name}")
                assert answer.error == illegal
                assert f"it is an operation of {other}" in answer.document["RemoteException"]["message"]
    for method in ("PATCH", "OPTIONS", "PROPFIND"):
        assert (await http(method, "/data?op=LISTSTATUS")).error == unsupported
    assert (await http("HEAD", "/data?op=LISTSTATUS")).status == 400


async def test_an_unforeseen_error_is_told_without_its_details(
    http: Client, node: MachineBackend, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(path: bytes) -> None:
        raise ZeroDivisionError("a secret")

    node.entry = broken  # type: ignore[assignment]
    answer = await http("GET", "/data?op=GETFILESTATUS")
    assert answer.error == (500, "RuntimeException")
    assert b"secret" not in answer.body
    assert "a secret" in caplog.text


async def test_a_node_that_has_not_the_bytes_sends_clients_to_another(http: Client, node: MachineBackend) -> None:
    async def elsewhere(path: bytes) -> None:
        raise errors.ElsewhereError("this node has no zone of the rule; ask another node")

    await http.create("/data/x", b"abc")
    node.open_file = elsewhere  # type: ignore[assignment]
    for operation in ("OPEN", "GETFILECHECKSUM"):
        assert (await http("GET", f"/data/x?op={operation}")).error == (403, "StandbyException")


async def test_a_full_disk_is_told(http: Client, node: MachineBackend) -> None:
    async def full(path: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    await http.create("/data/x", b"abc")
    node.open_file = full  # type: ignore[assignment]
    answer = await http("GET", "/data/x?op=OPEN")
    assert answer.error == (403, "IOException")
    assert "No space left" in answer.document["RemoteException"]["message"]
