"""CREATE, APPEND, CONCAT, TRUNCATE: what becomes visible, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from yarl import URL

from lddp.access import OpenFile
from lddp.core import records as r
from lddp.errors import OutcomeUnknownError, UnavailableError
from tests.doors.webhdfs.conftest import Client
from tests.doors.webhdfs.machine import MachineBackend

PATIENCE_S = 60.0


async def test_create_in_two_steps(http: Client, node: MachineBackend, url: str) -> None:
    first = await http("PUT", "/data/a/b/x?op=CREATE&overwrite=False&permission=640&blocksize=1048576&user.name=root")
    assert first.status == 307
    assert first.body == b""
    location = first.headers["Location"]
    assert location.startswith(f"{url}/webhdfs/v1/data/a/b/x?op=CREATE&")
    assert not node.uploads
    second = await http("PUT", location, b"hello")
    assert (second.status, second.body) == (201, b"")
    assert second.headers["Location"] == f"webhdfs://{url.removeprefix('http://')}/data/a/b/x"
    assert node.content(b"/data/a/b/x") == b"hello"
    status = await http.status("/data/a/b/x")
    assert (status["permission"], status["length"], status["owner"]) == ("640", 5, "root")
    assert (await http.status("/data/a/b"))["permission"] == "755"


async def test_the_location_may_be_asked_for_as_json(http: Client, node: MachineBackend) -> None:
    for method, query in (("PUT", "CREATE"), ("POST", "APPEND")):
        answer = await http(method, f"/data/x?op={query}&noredirect=TRUE")
        assert answer.status == 200
        second = await http(method, answer.document["Location"], b"abc")
        assert second.status == (201 if method == "PUT" else 200)
    assert node.content(b"/data/x") == b"abcabc"


async def test_without_permission_a_file_has_644(http: Client) -> None:
    assert (await http.create("/data/x")).status == 201
    assert (await http.status("/data/x"))["permission"] == "644"


async def test_a_file_is_replaced_only_where_overwrite_says_so(http: Client, node: MachineBackend) -> None:
    assert (await http.create("/data/x", b"one")).status == 201
    assert (await http.create("/data/x", b"two")).error == (403, "FileAlreadyExistsException")
    assert node.content(b"/data/x") == b"one"
    assert (await http.create("/data/x", b"three", "&overwrite=True")).status == 201
    assert node.content(b"/data/x") == b"three"
    # As Hadoop's createNonRecursive says it.
    flags = "&createparent=false&createflag="
    assert (await http.create("/data/x", b"four", flags + "CREATE")).error == (403, "FileAlreadyExistsException")
    assert (await http.create("/data/x", b"five", flags + "create,OVERWRITE")).status == 201
    assert node.content(b"/data/x") == b"five"
    assert (await http.create("/data/x", b"six", flags + "SOMETHING")).error == (400, "IllegalArgumentException")
    assert (await http("PUT", "/data/d?op=MKDIRS")).document == {"boolean": True}
    assert (await http.create("/data/d", b"x", "&overwrite=true")).error == (403, "FileAlreadyExistsException")


async def test_of_two_creators_exactly_one_wins(http: Client, node: MachineBackend) -> None:
    """Both have sent everything before either is ordered."""
    node.meeting = asyncio.Barrier(2)
    answers = await asyncio.gather(
        *(http("PUT", "/data/new/x?op=CREATE&data=true", bytes([65 + number]) * 100) for number in range(2))
    )
    assert sorted(answer.status for answer in answers) == [201, 403]
    won = next(number for number, answer in enumerate(answers) if answer.status == 201)
    assert node.content(b"/data/new/x") == bytes([65 + won]) * 100
    aborted = {upload.data[:1]: upload.aborted for upload in node.uploads}  # in whichever order they came
    assert aborted == {bytes([65 + number]): number != won for number in range(2)}


async def test_an_upload_that_lost_while_it_was_sent_leaves_nothing(http: Client, node: MachineBackend) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 1000
        await node.upload_begun.wait()
        await node.uploads[0].started.wait()
        assert (await http.create("/data/x", b"first")).status == 201
        yield b"y" * 1000

    answer = await http("PUT", "/data/x?op=CREATE&data=true", body())
    assert answer.error == (403, "FileAlreadyExistsException")
    assert node.uploads[0].aborted
    assert node.content(b"/data/x") == b"first"


async def test_parents_are_not_made_where_the_client_forbids_it(http: Client, node: MachineBackend) -> None:
    answer = await http.create("/data/a/x", b"", "&createParent=false")
    assert answer.error == (404, "FileNotFoundException")
    assert node.entry(b"/data/a") is None


async def test_a_file_below_a_file(http: Client) -> None:
    await http.create("/data/x")
    assert (await http("PUT", "/data/x/y?op=CREATE")).error == (403, "ParentNotDirectoryException")
    assert (await http.create("/data/x/y", b"", "&createparent=false")).error == (403, "ParentNotDirectoryException")


async def test_outside_of_all_rules(http: Client, node: MachineBackend) -> None:
    assert (await http.create("/elsewhere/x", b"abc")).error == (404, "FileNotFoundException")
    assert (await http.create("/", b"abc")).error == (403, "AccessControlException")
    assert (await http.create("/data", b"abc", "&overwrite=true")).error == (403, "FileAlreadyExistsException")
    assert not node.uploads


async def test_append(http: Client, node: MachineBackend) -> None:
    assert (await http.write("POST", "/data/x?op=APPEND", b"a")).error == (404, "FileNotFoundException")
    await http.create("/data/x", b"one")
    answer = await http.write("POST", "/data/x?op=APPEND&buffersize=4096", b" two")
    assert (answer.status, answer.body) == (200, b"")
    assert node.content(b"/data/x") == b"one two"
    await http("PUT", "/data/d?op=MKDIRS")
    assert (await http.write("POST", "/data/d?op=APPEND", b"a")).error == (404, "FileNotFoundException")


async def test_nothing_appended_leaves_nothing(http: Client, node: MachineBackend) -> None:
    await http.create("/data/x", b"one")
    before = node.applied()
    assert (await http.write("POST", "/data/x?op=APPEND", b"")).status == 200
    assert node.applied() == before and node.uploads[-1].aborted


async def test_a_large_body_is_held_in_pieces(http: Client, node: MachineBackend) -> None:
    node.keeps_bytes = False
    piece = bytes(256 * 1024)

    async def body() -> AsyncIterator[bytes]:
        for _ in range(256):
            yield piece

    assert (await http("PUT", "/data/x?op=CREATE&data=true", body())).status == 201
    (upload,) = node.uploads
    assert upload.received == 256 * len(piece)
    assert upload.largest <= 1024 * 1024


async def test_an_upload_that_breaks_leaves_nothing(url: str, node: MachineBackend) -> None:
    host, port = url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"PUT /webhdfs/v1/data/d/x?op=CREATE&data=true HTTP/1.1\r\nHost: x\r\n"
        b"Authorization: Bearer correct-horse-battery\r\nContent-Length: 1000\r\n\r\nabc"
    )
    async with asyncio.timeout(PATIENCE_S):
        await node.upload_begun.wait()
        await node.uploads[0].started.wait()
        before = node.applied()
        writer.close()
        await writer.wait_closed()
        await node.uploads[0].ended.wait()
    assert node.uploads[0].aborted
    assert node.entry(b"/data/d") is None
    assert node.applied() == before


@pytest.mark.parametrize("idle_s", [0.05])
async def test_an_upload_that_stalls_is_given_up(url: str, node: MachineBackend) -> None:
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"PUT /webhdfs/v1/data/x?op=CREATE&data=true HTTP/1.1\r\nHost: x\r\n"
        b"Authorization: Bearer correct-horse-battery\r\nContent-Length: 1000\r\n\r\nabc"
    )
    async with asyncio.timeout(PATIENCE_S):
        head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 403 ")
    assert node.uploads[0].aborted
    assert node.entry(b"/data/x") is None
    writer.close()
    await writer.wait_closed()


async def test_a_client_that_never_reads_its_redirect(url: str, http: Client, node: MachineBackend) -> None:
    """It sends its bytes to the first step, and goes."""
    host, port = url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"PUT /webhdfs/v1/data/x?op=CREATE HTTP/1.1\r\nHost: x\r\n"
        b"Authorization: Bearer correct-horse-battery\r\nContent-Length: 100000\r\n\r\n" + b"a" * 50_000
    )
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert await http.status("/data/x") is None
    assert not node.uploads


async def test_bytes_are_asked_for_only_where_they_will_be_taken(url: str, http: Client, node: MachineBackend) -> None:
    """Expect: 100-continue. The redirect comes without it, and so does a refusal."""

    async def ask(target: str) -> tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            f"PUT /webhdfs/v1{target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer correct-horse-battery\r\n"
            "Content-Length: 3\r\nExpect: 100-continue\r\n\r\n".encode()
        )
        async with asyncio.timeout(PATIENCE_S):
            return await reader.readuntil(b"\r\n\r\n"), reader, writer

    await http.create("/data/there")
    for target, expected in (
        ("/data/x?op=CREATE", b"HTTP/1.1 307 "),
        ("/data/there?op=CREATE&data=true", b"HTTP/1.1 403 "),
        ("/data/x?op=CREATE&data=true", b"HTTP/1.1 100 "),
    ):
        head, reader, writer = await ask(target)
        assert head.startswith(expected)
        if b" 100 " in head:
            writer.write(b"abc")
            async with asyncio.timeout(PATIENCE_S):
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 201 ")
        writer.close()
        await writer.wait_closed()
    assert node.content(b"/data/x") == b"abc"


async def test_truncate(http: Client, node: MachineBackend) -> None:
    await http.create("/data/x", b"0123456789")
    assert (await http("POST", "/data/x?op=TRUNCATE&newlength=4")).document == {"boolean": True}
    assert node.content(b"/data/x") == b"0123"
    assert (await http("POST", "/data/x?op=TRUNCATE&newlength=4")).document == {"boolean": True}
    for query, expected in (
        ("&newlength=5", (400, "IllegalArgumentException")),
        ("", (400, "IllegalArgumentException")),
        ("&newlength=-1", (400, "IllegalArgumentException")),
        (f"&newlength={2**63}", (400, "IllegalArgumentException")),
    ):
        assert (await http("POST", f"/data/x?op=TRUNCATE{query}")).error == expected
    assert (await http("POST", "/data/none?op=TRUNCATE&newlength=0")).error == (404, "FileNotFoundException")


def replaced_by_a_smaller_one(node: MachineBackend) -> None:
    node.apply(r.Create(node.next_id(), 0, 1, b"/data/new", r.Kind.FILE, 0o644, 0, 0))
    node.apply(r.Append(node.next_id(), 0, 1, b"/data/new", r.Content(bytes(32), 3, b"new")))
    assert not node.apply(r.Rename(node.next_id(), 0, 1, b"/data/new", b"/data/x")).errno


@pytest.mark.parametrize(
    ("length", "expected"), [(2, b"ne"), (3, b"new"), (4, (400, "IllegalArgumentException"))], ids=str
)
async def test_truncate_cuts_the_file_that_it_has_looked_at(
    http: Client, node: MachineBackend, length: int, expected: object
) -> None:
    """Another one, which has its name by then, is looked at before it is cut."""
    await http.create("/data/x", b"0123456789")
    node.gate = asyncio.Event()
    cutting = asyncio.create_task(http("POST", f"/data/x?op=TRUNCATE&newlength={length}"))
    async with asyncio.timeout(PATIENCE_S):
        await node.waiting.wait()
    replaced_by_a_smaller_one(node)
    node.gate.set()
    node.gate = None
    answer = await cutting
    if isinstance(expected, bytes):
        assert answer.document == {"boolean": True} and node.content(b"/data/x") == expected
    else:
        assert answer.error == expected and node.content(b"/data/x") == b"new"


@pytest.mark.parametrize(
    ("left", "expected"), [(9, b"01234567"), (8, b"01234567"), (2, (400, "IllegalArgumentException"))], ids=str
)
async def test_truncate_never_makes_a_file_longer(
    http: Client, node: MachineBackend, left: int, expected: object
) -> None:
    """Also where somebody has cut the same file meanwhile."""
    await http.create("/data/x", b"0123456789")
    node.gate = asyncio.Event()
    cutting = asyncio.create_task(http("POST", "/data/x?op=TRUNCATE&newlength=8"))
    async with asyncio.timeout(PATIENCE_S):
        await node.waiting.wait()
    assert not node.apply(r.Truncate(node.next_id(), 0, 1, b"/data/x", left)).errno
    node.gate.set()
    node.gate = None
    answer = await cutting
    if isinstance(expected, bytes):
        assert answer.document == {"boolean": True} and node.content(b"/data/x") == expected
    else:
        assert answer.error == expected and node.content(b"/data/x") == b"01"


@pytest.mark.parametrize("operation", ["APPEND&data=true", "CONCAT&sources=/data/a"])
async def test_bytes_are_added_to_the_file_that_was_there(http: Client, node: MachineBackend, operation: str) -> None:
    """And to no other, however long they took to come; a source stays then."""
    await http.create("/data/x", b"0123456789")
    await http.create("/data/a", b"a")
    node.meeting = asyncio.Barrier(2)
    adding = asyncio.create_task(http("POST", f"/data/x?op={operation}", b"more"))
    async with asyncio.timeout(PATIENCE_S):
        await node.committing.wait()
    replaced_by_a_smaller_one(node)
    await node.meeting.wait()
    assert (await adding).error == (404, "FileNotFoundException")
    assert node.content(b"/data/x") == b"new" and node.content(b"/data/a") == b"a"
    assert node.uploads[-1].aborted


# -- CONCAT -----------------------------------------------------------------------------------------------------------


async def test_concat(http: Client, node: MachineBackend) -> None:
    for name, data in (("t", b"zero "), ("a", b"one " * 200_000), ("b", b"two")):
        await http.create(f"/data/{name}", data)
    answer = await http("POST", "/data/t?op=CONCAT&sources=/data/a,/data/b")
    assert (answer.status, answer.body) == (200, b"")
    assert node.content(b"/data/t") == b"zero " + b"one " * 200_000 + b"two"
    assert node.entry(b"/data/a") is None
    assert node.entry(b"/data/b") is None
    assert node.uploads[-1].largest <= 1024 * 1024
    assert not node.still_open()


@pytest.mark.parametrize(
    ("target", "sources", "expected"),
    [
        ("/data/t", "", (400, "IllegalArgumentException")),
        ("/data/t", "/data/t", (400, "IllegalArgumentException")),
        ("/data/t", "/data/a,/data/a", (400, "IllegalArgumentException")),
        ("/data/t", "/data/d", (400, "IllegalArgumentException")),
        ("/data/t", "/data/../etc/passwd", (400, "IllegalArgumentException")),
        ("/data/t", "/data/a,/data/none", (404, "FileNotFoundException")),
        ("/data/none", "/data/a", (404, "FileNotFoundException")),
        ("/data/d", "/data/a", (404, "FileNotFoundException")),
    ],
)
async def test_concat_refused_changes_nothing(
    http: Client, node: MachineBackend, target: str, sources: str, expected: tuple[int, str]
) -> None:
    await http.create("/data/t", b"t")
    await http.create("/data/a", b"a")
    await http("PUT", "/data/d?op=MKDIRS")
    before = node.applied()
    assert (await http("POST", f"{target}?op=CONCAT&sources={sources}")).error == expected
    assert node.applied() == before


@pytest.mark.parametrize("sources", ["/data/t2", "/data/a,/data/t2", "/data/a,/data/a2", "/data/a,/data/b,/data/a2"])
async def test_concat_refuses_two_names_of_one_file(http: Client, node: MachineBackend, sources: str) -> None:
    for name in ("t", "a", "b"):
        await http.create(f"/data/{name}", name.encode())
    for path in (b"/data/t", b"/data/a"):
        assert not node.apply(r.Link(node.next_id(), 0, 1, path, path + b"2")).errno
    before = node.applied()
    assert (await http("POST", f"/data/t?op=CONCAT&sources={sources}")).error == (400, "IllegalArgumentException")
    assert node.applied() == before and node.content(b"/data/t") == b"t"


async def test_concat_refuses_names_that_become_those_of_one_file(http: Client, node: MachineBackend) -> None:
    """Before they are read, and after they were looked at."""
    for name in ("t", "a", "b"):
        await http.create(f"/data/{name}", name.encode())
    opened = node.open_file

    async def linking(path: bytes) -> OpenFile:
        node.apply(r.Unlink(node.next_id(), 0, 1, b"/data/b"))
        node.apply(r.Link(node.next_id(), 0, 1, b"/data/a", b"/data/b"))
        node.open_file = opened  # type: ignore[method-assign]
        return await opened(path)

    node.open_file = linking  # type: ignore[method-assign]
    answer = await http("POST", "/data/t?op=CONCAT&sources=/data/a,/data/b")
    assert answer.error == (400, "IllegalArgumentException")
    assert node.content(b"/data/t") == b"t" and node.content(b"/data/b") == b"a"
    assert node.uploads[-1].aborted and not node.still_open()


async def test_concat_keeps_a_source_that_has_changed_since_it_was_read(http: Client, node: MachineBackend) -> None:
    await http.create("/data/t", b"t")
    await http.create("/data/a", b"a")
    node.meeting = asyncio.Barrier(2)  # what is read is committed when somebody has changed the source
    concat = asyncio.create_task(http("POST", "/data/t?op=CONCAT&sources=/data/a"))
    async with asyncio.timeout(PATIENCE_S):
        await node.committing.wait()
    node.apply(r.Append(node.next_id(), 0, 1, b"/data/a", r.Content(bytes(32), 1, b"!")))
    await node.meeting.wait()
    answer = await concat
    assert answer.error == (403, "IOException")
    assert node.content(b"/data/a") == b"a!"
    assert node.content(b"/data/t") == b"ta"


async def test_concat_removes_nothing_where_it_could_not_append(http: Client, node: MachineBackend) -> None:
    await http.create("/data/t", b"t")
    await http.create("/data/a", b"a")
    node.meeting = asyncio.Barrier(2)
    concat = asyncio.create_task(http("POST", "/data/t?op=CONCAT&sources=/data/a"))
    async with asyncio.timeout(PATIENCE_S):
        await node.committing.wait()
    node.apply(r.Unlink(node.next_id(), 0, 1, b"/data/t"))
    await node.meeting.wait()
    assert (await concat).error == (404, "FileNotFoundException")
    assert node.content(b"/data/a") == b"a"


async def test_concat_takes_nothing_of_a_source_that_changes_while_it_is_read(
    http: Client, node: MachineBackend
) -> None:
    await http.create("/data/t", b"t")
    await http.create("/data/a", b"a")
    before = node.applied()
    for intact in ([False], [True, False]):
        node.intact = intact
        assert (await http("POST", "/data/t?op=CONCAT&sources=/data/a")).error == (403, "RetriableException")
        assert node.uploads[-1].aborted
    assert node.applied() == before
    assert not node.still_open()


# -- the node's failures ----------------------------------------------------------------------------------------------


async def test_a_lost_majority_is_told_so_that_clients_repeat(http: Client, node: MachineBackend) -> None:
    node.failure = UnavailableError("no leader; wait for a majority of the nodes")
    answer = await http.create("/data/x", b"abc")
    assert answer.error == (403, "RetriableException")
    assert answer.document["RemoteException"]["javaClassName"] == "org.apache.hadoop.ipc.RetriableException"
    node.failure = OutcomeUnknownError("the leader was lost")
    assert (await http.create("/data/x", b"abc")).error == (403, "IOException")
    node.failure = None
    assert (await http.create("/data/x", b"abc")).status == 201
    assert [(upload.is_used, upload.aborted) for upload in node.uploads] == [
        (False, True),
        (False, False),  # it may come yet
        (True, False),
    ]


async def test_a_witness_sends_clients_to_another_node(http: Client, node: MachineBackend) -> None:
    node.witness = True
    assert (await http("GET", "/data?op=LISTSTATUS")).error == (403, "StandbyException")


async def test_a_name_with_everything_in_it_comes_back_from_the_redirect(http: Client, node: MachineBackend) -> None:
    path = "/data/%20%25%2B%23%3F%26%C3%A4%FF%0A"
    answer = await http.create(path, b"x")
    assert answer.status == 201
    assert node.content(b"/data/ %+#?&\xc3\xa4\xff\n") == b"x"
    assert (await http("GET", f"{path}?op=OPEN")).body == b"x"


async def test_the_bytes_may_follow_at_once(url: str, node: MachineBackend) -> None:
    """As `curl -L -T FILE` does: the redirect is followed with the body."""
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer correct-horse-battery"}) as session:
        target = URL(f"{url}/webhdfs/v1/data/x?op=CREATE", encoded=True)
        async with session.put(target, data=b"abc") as response:
            assert response.status == 201
    assert node.content(b"/data/x") == b"abc"
