"""Requests that nobody sends by accident: each gets the specified error, and nothing is left behind."""

from __future__ import annotations

import asyncio

import pytest

from tests.doors.webhdfs.conftest import Client
from tests.doors.webhdfs.machine import MachineBackend

PATIENCE_S = 60.0
ILLEGAL = (400, "IllegalArgumentException")

TRAVERSALS = [
    "/data/../../etc/passwd",
    "/data/%2e%2e/%2e%2e/etc/passwd",
    "/data/%2E%2E%2Fetc%2Fpasswd",
    "/data/..%2f..%2fetc/passwd",
    "/data/.%2e/x",
    "/data/%2e/x",
    "/data/./x",
    "/..",
    "/%2e%2e",
    "/data/..",
    "/data/x%00",
    "/data/%00",
    "/data/x%00/../y",
    "/data//x",
    "/data/%2Fx",
    "//data",
    "/data/x//",
    "/data/%",
    "/data/%zz",
    "/data/%2",
]


@pytest.mark.parametrize("path", TRAVERSALS)
async def test_no_path_leads_out(url: str, node: MachineBackend, path: str) -> None:
    """Sent as it is written: a client library would tidy it up."""
    host, port = url.removeprefix("http://").split(":")
    before = node.applied()
    for method, operation in (
        ("GET", "OPEN"),
        ("GET", "LISTSTATUS"),
        ("PUT", "CREATE&data=true"),
        ("PUT", "CREATE"),
        ("PUT", "MKDIRS"),
        ("POST", "APPEND&data=true"),
        ("DELETE", "DELETE&recursive=true"),
    ):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            f"{method} /webhdfs/v1{path}?op={operation} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            "Authorization: Bearer correct-horse-battery\r\nContent-Length: 3\r\n\r\nabc".encode()
        )
        async with asyncio.timeout(PATIENCE_S):
            head = await reader.readuntil(b"\r\n")
        status = int(head.split()[1])
        assert status in (400, 401, 404), (head, method)
        writer.close()
        await writer.wait_closed()
    assert node.applied() == before
    assert not node.uploads


@pytest.mark.parametrize(
    "target",
    [
        "/webhdfs/v1/../../v1/status",
        "/webhdfs/v1/..%2f..%2fv1/status",
        "/v1/../webhdfs/v1/data?op=LISTSTATUS",
        "http://x/webhdfs/v1/data?op=LISTSTATUS",
        "/webhdfs/v1/%2e%2e/%2e%2e/v1/status?op=LISTSTATUS",
        "/%77ebhdfs/v1/data?op=LISTSTATUS",
    ],
)
async def test_no_spelling_of_a_path_goes_past_the_token(url: str, target: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    async with asyncio.timeout(PATIENCE_S):
        head = await reader.readuntil(b"\r\n")
    assert int(head.split()[1]) in (400, 401)
    writer.close()
    await writer.wait_closed()


async def test_names_too_long(http: Client, node: MachineBackend) -> None:
    for method, operation in (("GET", "GETFILESTATUS"), ("PUT", "MKDIRS"), ("PUT", "CREATE"), ("DELETE", "DELETE")):
        for path in (f"/data/{'x' * 256}", f"/data/{'%C3%A4' * 128}", f"/data/{'x' * 256}/y"):
            assert (await http(method, f"{path}?op={operation}")).error == (403, "PathComponentTooLongException")
    assert node.listing(b"/data", b"", 10) == []
    assert (await http("PUT", f"/data/{'x' * 255}?op=MKDIRS")).status == 200
    answer = await http("PUT", f"/data/{'x' * 255}?op=RENAME&destination=/data/{'y' * 256}")
    assert answer.error == (403, "PathComponentTooLongException")


async def test_a_very_deep_path(http: Client, node: MachineBackend) -> None:
    before = node.applied()
    for operation in ("MKDIRS", "CREATE&data=true", "CREATESYMLINK&destination=x&createparent=true"):
        answer = await http("PUT", f"/data{'/a' * 3000}?op={operation}")
        assert answer.error == (403, "IOException")
    assert node.applied() == before
    assert (await http("PUT", f"/data{'/a' * 999}?op=MKDIRS")).document == {"boolean": True}
    assert node.applied() == before + 999
    assert (await http("PUT", f"/data/b{'/a' * 99}?op=MKDIRS")).document == {"boolean": True}
    assert (await http("DELETE", "/data/b?op=DELETE&recursive=true")).document == {"boolean": True}
    assert [name for name, _ in node.listing(b"/data", b"", 10)] == [b"a"]


async def test_the_root_cannot_be_changed(http: Client, node: MachineBackend) -> None:
    before = node.applied()
    for method, operation in (
        ("PUT", "CREATE"),
        ("PUT", "CREATE&data=true"),
        ("PUT", "RENAME&destination=/data/x"),
        ("PUT", "RENAME&destination=/data/x&renameoptions=NONE"),
        ("PUT", "SETPERMISSION"),
        ("PUT", "SETOWNER&owner=root"),
        ("PUT", "SETTIMES&modificationtime=0"),
        ("PUT", "SETXATTR&xattr.name=user.a&xattr.value=1"),
        ("PUT", "REMOVEXATTR&xattr.name=user.a"),
        ("PUT", "CREATESYMLINK&destination=x"),
        ("POST", "APPEND"),
        ("POST", "TRUNCATE&newlength=0"),
        ("POST", "CONCAT&sources=/data/x"),
        ("DELETE", "DELETE&recursive=true"),
    ):
        for path in ("", "/"):
            assert (await http(method, f"{path}?op={operation}")).error == (403, "AccessControlException"), operation
    assert node.applied() == before


@pytest.mark.parametrize("value", ["maybe", "1", "0", "truee", "%00", "tru%C3%A9"])
async def test_booleans_that_are_none(http: Client, node: MachineBackend, value: str) -> None:
    before = node.applied()
    assert (await http("PUT", f"/data/x?op=CREATE&overwrite={value}")).error == ILLEGAL
    assert (await http("DELETE", f"/data?op=DELETE&recursive={value}")).error == ILLEGAL
    assert node.applied() == before


@pytest.mark.parametrize("value", ["0", "-1", "x", str(2**63), "9" * 5000, "1e9", "0x10"])
async def test_sizes_that_are_none(http: Client, value: str) -> None:
    for name in ("blocksize", "buffersize", "replication"):
        assert (await http("PUT", f"/data/x?op=CREATE&{name}={value}")).error == ILLEGAL


async def test_too_many_parameters(http: Client) -> None:
    assert (await http("GET", "/data?op=LISTSTATUS" + "&a=b" * 300)).error == ILLEGAL


async def test_a_host_with_a_line_break_does_not_reach_the_answer(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    for name in (b"x\r Location: http://evil/", b"x\tY: z", b"a/b?c#d@e"):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"PUT /webhdfs/v1/data/x?op=CREATE HTTP/1.1\r\nHost: " + name + b"\r\nConnection: close\r\n"
            b"Authorization: Bearer correct-horse-battery\r\nContent-Length: 0\r\n\r\n"
        )
        async with asyncio.timeout(PATIENCE_S):
            answer = await reader.read()
        assert b"\nLocation: http://evil" not in answer
        assert answer.count(b"\r\n\r\n") == 1
        writer.close()
        await writer.wait_closed()


async def test_names_are_never_headers_or_markup(http: Client) -> None:
    path = "/data/%0D%0AX-Evil:%20yes%0D%0A%3Cscript%3E%22"
    answer = await http.create(path, b"x")
    assert answer.status == 201
    assert "X-Evil" not in answer.headers
    listing = await http("GET", "/data?op=LISTSTATUS")
    assert listing.headers["Content-Type"].startswith("application/json")
    (status,) = listing.document["FileStatuses"]["FileStatus"]
    assert status["pathSuffix"] == '\r\nX-Evil: yes\r\n<script>"'
