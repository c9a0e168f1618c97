"""Files over HTTP: bytes in and out, conditions, ranges, names that are not UTF-8."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from blake3 import blake3
from yarl import URL

from lddp.access import OpenFile
from lddp.core.records import Kind
from lddp.errors import ElsewhereError, OutcomeUnknownError, UnavailableError
from lddp.serving.bodies import CHUNK_BYTES, TRIES_MAX
from tests.admin.fake_backend import FakeBackend

PROBLEM = "application/problem+json"


def raw(url: str, target: str) -> URL:
    return URL(url + target, encoded=True)


async def problem(response: aiohttp.ClientResponse) -> dict[str, Any]:
    assert response.content_type == PROBLEM
    document: dict[str, Any] = await response.json(content_type=PROBLEM)
    assert document["status"] == response.status
    assert document["type"].startswith("urn:lddp:problem:")
    return document


async def test_put_get_head_delete(http: aiohttp.ClientSession, backend: FakeBackend) -> None:
    async with http.put("/v1/files/a?mode=0600", data=b"hello world") as response:
        assert response.status == 200
        put = await response.json()
        assert response.headers["Lddp-Index"] == str(put["index"])
        assert response.headers["ETag"] == f'"{put["version"]}"'
        assert put["digest"] == blake3(b"hello world").hexdigest()
    async with http.get("/v1/files/a") as response:
        assert await response.read() == b"hello world"
        assert response.headers["ETag"] == f'"{put["version"]}"'
        assert response.headers["Lddp-Mode"] == "0600"
        assert response.headers["Accept-Ranges"] == "bytes"
    async with http.head("/v1/files/a") as response:
        assert response.status == 200
        assert response.headers["Content-Length"] == "11"
        assert response.headers["Last-Modified"] == "Tue, 14 Nov 2023 22:13:20 GMT"
        assert await response.read() == b""
    async with http.delete("/v1/files/a") as response:
        assert response.status == 200
    async with http.get("/v1/files/a") as response:
        assert response.status == 404
        assert (await problem(response))["errno"] == "ENOENT"
    assert set(backend.inodes) == {b"/"}


@pytest.mark.parametrize(
    ("header", "status", "body", "content_range"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=-99", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=5-99", 206, b"56789", "bytes 5-9/10"),
        ("bytes=0-1,4-5", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
        ("bytes=x", 200, b"0123456789", None),
    ],
)
async def test_ranges(
    http: aiohttp.ClientSession, header: str, status: int, body: bytes, content_range: str | None
) -> None:
    await (await http.put("/v1/files/r", data=b"0123456789")).read()
    async with http.get("/v1/files/r", headers={"Range": header}) as response:
        assert (response.status, await response.read()) == (status, body)
        assert response.headers.get("Content-Range") == content_range


async def test_a_range_behind_the_end_is_a_problem(http: aiohttp.ClientSession) -> None:
    await (await http.put("/v1/files/r", data=b"0123456789")).read()
    for header in ("bytes=10-", "bytes=99-100"):
        async with http.get("/v1/files/r", headers={"Range": header}) as response:
            assert response.status == 416
            assert response.headers["Content-Range"] == "bytes */10"
            assert response.headers["ETag"] == '"1"' and response.headers["Lddp-Index"] == "1"
            document = await problem(response)
        assert document["type"] == "urn:lddp:problem:range"
        assert "the end of 10 bytes" in document["detail"] and document["next"].startswith("ask for an earlier one")


async def test_range_of_another_version_is_the_whole_file(http: aiohttp.ClientSession) -> None:
    await (await http.put("/v1/files/r", data=b"0123456789")).read()
    async with http.get("/v1/files/r", headers={"Range": "bytes=0-1", "If-Range": '"77"'}) as response:
        assert (response.status, await response.read()) == (200, b"0123456789")
    async with http.get("/v1/files/r", headers={"Range": "bytes=0-1", "If-Range": '"1"'}) as response:
        assert (response.status, await response.read()) == (206, b"01")


async def test_conditions(http: aiohttp.ClientSession) -> None:
    async def put(data: bytes, **headers: str) -> int:
        names = {key.replace("_", "-"): value for key, value in headers.items()}
        async with http.put("/v1/files/c", data=data, headers=names) as response:
            if response.status >= 400:
                await problem(response)
            return response.status

    assert await put(b"1", If_Match='"1"') == 412
    assert await put(b"1", If_None_Match="*") == 200
    assert await put(b"2", If_None_Match="*") == 412
    async with http.head("/v1/files/c") as response:
        tag = response.headers["ETag"]
    async with http.get("/v1/files/c", headers={"If-None-Match": tag}) as response:
        assert response.status == 304
    async with http.get("/v1/files/c", headers={"If-Match": '"9999"'}) as response:
        assert response.status == 412
    assert await put(b"3", If_Match=f'"9999", {tag}') == 200
    assert await put(b"4", If_Match=tag) == 412
    assert await put(b"4", If_Match="*") == 200
    assert await put(b"5", If_Match="*", If_None_Match="*") == 400
    assert await put(b"5", If_None_Match=tag) == 400
    async with http.delete("/v1/files/c", headers={"If-Match": tag}) as response:
        assert response.status == 412
    async with http.post("/v1/files/c?op=truncate&size=0", headers={"If-Match": tag}) as response:
        assert response.status == 400


async def test_names_that_are_not_utf8_round_trip(http: aiohttp.ClientSession, url: str, backend: FakeBackend) -> None:
    async with http.post(raw(url, "/v1/files/d%FF%FE?op=mkdir")) as response:
        assert response.status == 201
    async with http.put(raw(url, "/v1/files/d%FF%FE/100%25+%0A%20x"), data=b"1") as response:
        assert response.status == 200
    assert b"/d\xff\xfe/100%+\n x" in backend.inodes
    async with http.post(raw(url, "/v1/files/d%FF%FE?op=rename&to=/e%80")) as response:
        assert response.status == 200
    async with http.get(raw(url, "/v1/files/")) as response:
        (entry,) = (await response.json())["entries"]
        assert entry["name"].encode("utf-8", "surrogateescape") == b"e\x80"
        assert entry["name_base64"] == "ZYA="
    async with http.get(raw(url, "/v1/files/e%80/100%25+%0A%20x")) as response:
        assert await response.read() == b"1"


@pytest.mark.parametrize(
    "target",
    [
        "/a/../b",
        "/..",
        "/a/./b",
        "/a//b",
        "//a",
        "/a%00b",
        "/%2e%2e/a",
        "/a/%2E%2E",
        "/a%zz",
        "/a%",
        "/" + "a/" * 40000 + "a",
    ],
)
async def test_paths_that_lead_elsewhere_are_refused(
    http: aiohttp.ClientSession, url: str, backend: FakeBackend, target: str
) -> None:
    if len(target) > 8000:
        async with http.post("/v1/operations", json=[{"op": "mkdir", "path": target}]) as response:
            assert response.status == 400
    else:
        async with http.put(raw(url, "/v1/files" + target), data=b"x") as response:
            assert response.status == 400
            assert (await problem(response))["type"] == "urn:lddp:problem:usage"
    assert backend.submitted == 0


async def test_the_root_can_be_listed_and_not_changed(http: aiohttp.ClientSession) -> None:
    for target in ("/v1/files", "/v1/files/"):
        async with http.get(target) as response:
            assert (await response.json())["entries"] == []
    async with http.put("/v1/files/", data=b"") as response:
        assert response.status == 400
    async with http.post("/v1/files/a?op=rename&to=/") as response:
        assert response.status == 400


async def test_listing_in_pages(http: aiohttp.ClientSession) -> None:
    for name in ("a", "b", "c"):
        await (await http.post(f"/v1/files/{name}?op=mkdir")).read()
    async with http.get("/v1/files/?limit=2") as response:
        page = await response.json()
    assert [entry["name"] for entry in page["entries"]] == ["a", "b"]
    async with http.get(f"/v1/files/?limit=2&after={page['next']}") as response:
        page = await response.json()
    assert [entry["name"] for entry in page["entries"]] == ["c"]
    assert "next" not in page


async def test_every_operation(http: aiohttp.ClientSession, backend: FakeBackend) -> None:
    async def post(target: str, data: bytes | None = None, status: int = 200) -> None:
        async with http.post("/v1/files" + target, data=data) as response:
            assert response.status == status, await response.text()
            assert int(response.headers["Lddp-Index"]) == backend.gsn

    await post("/d?op=mkdir&mode=0700", status=201)
    await post("/d/f?op=create", status=201)
    await post("/d/p?op=create&kind=fifo", status=201)
    await post("/d/f?op=append", b"a" * 100)
    await post("/d/f?op=write&offset=100", b"bcd")
    await post("/d/f?op=truncate&size=102")
    await post("/d/f?op=link&to=/d/g")
    await post("/d/l?op=symlink&target=../x%20y")
    await post("/d/f?op=setattr&mode=4755&mtime_ns=-5")
    await post("/d/f?op=setxattr&name=user.x&flag=create", b"\0\xff")
    await post("/d/g?op=removexattr&name=user.y", status=404)
    await post("/d?op=rename&to=/e&flag=noreplace")
    assert {path: inode.kind for path, inode in backend.inodes.items()} == {
        b"/": Kind.DIRECTORY,
        b"/e": Kind.DIRECTORY,
        b"/e/f": Kind.FILE,
        b"/e/g": Kind.FILE,
        b"/e/p": Kind.FIFO,
        b"/e/l": Kind.SYMLINK,
    }
    file = backend.inodes[b"/e/g"]
    assert (file.data, file.mode, file.mtime_ns) == (b"a" * 100 + b"bc", 0o4755, -5)
    assert file.xattrs == {b"user.x": b"\0\xff"}
    assert backend.inodes[b"/e/l"].target == b"../x y"
    async with http.get("/v1/files/e/f?op=stat") as response:
        stat = await response.json()
    assert stat["xattrs"] == [{"name": "user.x", "value": "\0\udcff", "value_base64": "AP8="}]
    assert (stat["kind"], stat["mode"], stat["links"]) == ("file", "4755", 2)
    async with http.get("/v1/files/e/l") as response:
        assert (await response.json())["target"] == "../x y"
    async with http.get("/v1/files/e/l?op=read") as response:
        assert response.status == 400


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("?op=mkdri", "'op' must be one of"),
        ("", "'op' must be one of"),
        ("?op=put", "use PUT"),
        ("?op=rmdir", "use DELETE"),
        ("?op=mkdir&mdoe=1", "did you mean 'mode'?"),
        ("?op=mkdir&size=1", "unknown query parameter 'size'"),
        ("?op=mkdir&mode=999", "'mode' must be octal"),
        ("?op=rename", "needs 'to'"),
        ("?op=rename&to=/x&flag=sideways", "'flag' must be one of noreplace, exchange"),
        ("?op=truncate&size=-1", "'size' must be a whole number from 0"),
        ("?op=truncate&size=9999999999999999999", "'size' must be"),
        ("?op=create&kind=socket", "'kind' must be one of"),
        ("?op=create&kind=directory", "use mkdir or symlink"),
        ("?op=setattr", "at least one of"),
        ("?op=setattr&uid=4294967295", "'uid' must be"),
        ("?op=symlink&target=", "'target' must not be empty"),
        ("?op=mkdir&timeout=soon", "'timeout' must be a number"),
    ],
)
async def test_mistakes_in_operations(
    http: aiohttp.ClientSession, backend: FakeBackend, target: str, expected: str
) -> None:
    async with http.post("/v1/files/x" + target) as response:
        assert response.status == 400
        assert expected in (await problem(response))["detail"]
    assert backend.submitted == 0


async def test_a_retry_with_the_same_id_takes_effect_once(http: aiohttp.ClientSession, backend: FakeBackend) -> None:
    headers = {"Lddp-Operation-Id": "00ff00ff:7"}
    bodies = []
    for _ in range(2):
        async with http.post("/v1/files/x?op=mkdir", headers=headers) as response:
            assert response.status == 201
            bodies.append(await response.json())
    assert bodies[0] == bodies[1]
    assert backend.submitted == 1
    for wrong in ("x:1", "00ff", "0:1", "00:99999999999999999999", "00:-1"):
        async with http.post("/v1/files/y?op=mkdir", headers={"Lddp-Operation-Id": wrong}) as response:
            assert response.status == 400


async def test_a_large_body_streams_in_pieces(http: aiohttp.ClientSession, backend: FakeBackend) -> None:
    piece = bytes(range(256)) * 256

    async def body() -> AsyncIterator[bytes]:
        for _ in range(160):
            yield piece

    async with http.put("/v1/files/big", data=body()) as response:
        assert (await response.json())["size"] == 160 * len(piece)
    assert backend.writers[0].largest <= 1024 * 1024
    async with http.get("/v1/files/big") as response:
        hasher = blake3()
        async for chunk in response.content.iter_any():
            hasher.update(chunk)
    assert hasher.digest() == blake3(piece * 160).digest()


async def test_a_wrong_digest_is_refused_and_nothing_kept(http: aiohttp.ClientSession, backend: FakeBackend) -> None:
    async with http.put("/v1/files/x", data=b"abc", headers={"Lddp-Digest": "00" * 32}) as response:
        assert response.status == 400
    assert backend.writers[0].aborted
    assert backend.submitted == 0
    async with http.put("/v1/files/x", data=b"abc", headers={"Lddp-Digest": blake3(b"abc").hexdigest()}) as response:
        assert response.status == 200


async def test_what_a_refused_upload_brought_is_dropped(http: aiohttp.ClientSession, backend: FakeBackend) -> None:
    await (await http.post("/v1/files/d?op=mkdir")).read()
    async with http.put("/v1/files/d", data=b"abc") as response:
        assert response.status == 409
    async with http.post("/v1/files/none?op=append", data=b"abc") as response:
        assert response.status == 404
    async with http.put("/v1/files/x", data=b"abc") as response:
        assert response.status == 200
    assert [writer.aborted for writer in backend.writers] == [True, True, False]


@pytest.mark.parametrize("offset", [-1, -(2**63)])
async def test_a_write_that_cannot_be_takes_no_bytes(
    http: aiohttp.ClientSession, backend: FakeBackend, offset: int
) -> None:
    async with http.post(f"/v1/files/f?op=write&offset={offset}", data=os.urandom(100_000)) as response:
        assert response.status == 400
        assert "'offset' must be" in (await problem(response))["detail"]
    assert not backend.writers and not backend.submitted


async def test_an_upload_broken_off_is_aborted(url: str, backend: FakeBackend) -> None:
    host, port = url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"PUT /v1/files/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer correct-horse-battery\r\n"
        b"Content-Length: 1000\r\n\r\nabc"
    )
    await writer.drain()
    async with asyncio.timeout(10):
        upload = backend.next_writer
        await upload.started.wait()
        writer.close()
        await writer.wait_closed()
        await upload.gone.wait()
    assert backend.submitted == 0


async def test_failures_of_the_node_are_problems(http: aiohttp.ClientSession, backend: FakeBackend) -> None:
    backend.failure = UnavailableError("no leader; wait for a majority of the nodes")
    async with http.put("/v1/files/x", data=b"") as response:
        assert response.status == 503
        assert response.headers["Retry-After"] == "1"
        document = await problem(response)
        assert document["type"] == "urn:lddp:problem:unavailable"
        assert document["next"] == "wait for a majority of the nodes"
    backend.failure = OutcomeUnknownError("the leader was lost; retry with the same id")
    async with http.put("/v1/files/x", data=b"") as response:
        assert (await problem(response))["type"] == "urn:lddp:problem:outcome-unknown"
    backend.failure = OutcomeUnknownError("no outcome within 1 s (is a majority of the nodes up?)")
    async with http.put("/v1/files/x", data=b"") as response:
        assert (await problem(response))["next"].startswith("ask again with the same id"), "nothing was decided"


@pytest.mark.parametrize(
    ("number", "status", "name"),
    [
        (errno.ENOSPC, 507, "ENOSPC"),
        (errno.EDQUOT, 507, "EDQUOT"),
        (errno.EIO, 500, "EIO"),
        (errno.ENOENT, 500, None),  # not of the path that was asked for
    ],
)
async def test_a_disk_that_takes_nothing_is_a_problem(
    http: aiohttp.ClientSession,
    backend: FakeBackend,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
    status: int,
    name: str | None,
) -> None:
    async def refuse(data: bytes) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(backend.next_writer, "write", refuse)
    async with http.put("/v1/files/x", data=b"abc") as response:
        assert response.status == status
        document = await problem(response)
    assert document["type"] == f"urn:lddp:problem:{name or 'internal'}" and document.get("errno") == name
    assert ("Traceback" in caplog.text) == (name is None)
    assert [writer.aborted for writer in backend.writers] == [True]


async def test_refusals_of_the_state_machine(http: aiohttp.ClientSession) -> None:
    await (await http.post("/v1/files/d?op=mkdir")).read()
    await (await http.post("/v1/files/d/e?op=mkdir")).read()
    for method, target, status, name in (
        ("POST", "/v1/files/d?op=mkdir", 409, "EEXIST"),
        ("DELETE", "/v1/files/d", 409, "ENOTEMPTY"),
        ("PUT", "/v1/files/d", 409, "EISDIR"),
        ("DELETE", "/v1/files/none", 404, "ENOENT"),
    ):
        async with http.request(method, target) as response:
            document = await problem(response)
            assert (response.status, document["errno"]) == (status, name)
            assert document["next"]
            assert int(response.headers["Lddp-Index"]) > 0


async def test_a_client_that_went_away_leaves_no_error_behind(
    http: aiohttp.ClientSession, backend: FakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """An answer that cannot be begun any more is nobody's fault."""

    async def gone(_path: bytes) -> OpenFile:
        raise ConnectionResetError("Cannot write to closing transport")

    async with http.put("/v1/files/a", data=b"hello") as response:
        assert response.status == 200
    backend.open_file = gone  # type: ignore[method-assign]
    with pytest.raises(aiohttp.ClientConnectionError):
        await http.get("/v1/files/a")
    assert not caplog.records


# -- conditions, retries, and a node whose view is behind -------------------------------------------------------------


async def test_a_retry_of_a_condition_that_held_gets_the_first_outcome(
    http: aiohttp.ClientSession, backend: FakeBackend
) -> None:
    async with http.put("/v1/files/f", data=b"1") as response:
        tag = response.headers["ETag"]
    for method, headers in (
        ("PUT", {"If-Match": tag, "Lddp-Operation-Id": "aa:1"}),
        ("PUT", {"If-Match": "*", "Lddp-Operation-Id": "aa:2"}),
        ("PUT", {"If-Match": f'{tag}, "3"', "Lddp-Operation-Id": "aa:3"}),
    ):
        bodies = []
        for _ in range(2):
            async with http.request(method, "/v1/files/f", data=b"2", headers=headers) as response:
                bodies.append((response.status, await response.json()))
        assert bodies[0] == bodies[1]
        assert bodies[0][0] == 200, headers
    submitted = backend.submitted
    async with http.head("/v1/files/f") as response:
        tag = response.headers["ETag"]
    statuses = []
    for _ in range(2):
        async with http.delete("/v1/files/f", headers={"If-Match": tag, "Lddp-Operation-Id": "aa:4"}) as response:
            statuses.append(response.status)
    assert statuses == [200, 200]
    assert backend.submitted == submitted + 1
    async with http.put("/v1/files/f", data=b"3", headers={"If-Match": "*"}) as response:
        assert response.status == 412
        assert (await problem(response))["errno"] == "ESTALE"


async def test_a_view_that_is_behind_decides_nothing(http: aiohttp.ClientSession, backend: FakeBackend) -> None:
    """Neither whether a condition holds, nor whether a name is a directory's."""
    async with http.put("/v1/files/f", data=b"1") as response:
        tag = response.headers["ETag"]
    await (await http.post("/v1/files/d?op=mkdir")).read()
    shown = {path: inode.entry() for path, inode in backend.inodes.items()}
    shown[b"/f"], shown[b"/d"] = shown[b"/d"], shown[b"/f"]
    backend.entry = shown.get  # type: ignore[method-assign]
    async with http.put("/v1/files/f", data=b"2", headers={"If-Match": tag}) as response:
        assert response.status == 200
    for target in ("/v1/files/f", "/v1/files/d"):
        async with http.delete(target) as response:
            assert response.status == 200, target
    assert set(backend.inodes) == {b"/"}


async def test_what_becomes_of_the_bytes_of_a_change(http: aiohttp.ClientSession, backend: FakeBackend) -> None:
    """Dropped where no record names them, and not where one may."""

    async def put(**headers: str) -> int:
        names = {key.replace("_", "-"): value for key, value in headers.items()}
        async with http.put("/v1/files/c", data=b"bytes", headers=names) as response:
            return response.status

    def last() -> tuple[bool, bool]:
        writer = backend.writers[-1]
        return writer.is_used, writer.aborted

    assert (await put(), *last()) == (200, True, False)
    assert (await put(If_None_Match="*"), *last()) == (412, False, True)
    backend.failure = UnavailableError("no leader; wait")
    assert (await put(), *last()) == (503, False, True)
    backend.failure = OutcomeUnknownError("it may come; retry")
    assert (await put(), *last()) == (503, False, False)


# -- a file that changes while it is read -----------------------------------------------------------------------------


def opens(backend: FakeBackend, data: bytes, *intact: bool) -> list[OpenFile]:
    """From now on the file that is opened has these bytes, and says so often that it is intact."""
    opened: list[OpenFile] = []
    answers = list(intact)

    async def open_file(path: bytes) -> OpenFile:
        descriptor = os.memfd_create("content")
        os.write(descriptor, data)
        entry = backend.inodes[path].entry()
        opened.append(OpenFile(descriptor, entry, backend.gsn, lambda: answers.pop(0) if answers else True))
        return opened[-1]

    backend.open_file = open_file  # type: ignore[method-assign]
    return opened


async def test_a_file_changed_before_anything_was_sent_is_opened_again(
    http: aiohttp.ClientSession, backend: FakeBackend
) -> None:
    await (await http.put("/v1/files/f", data=b"x")).read()
    opened = opens(backend, b"whole", False, False, True)
    async with http.get("/v1/files/f") as response:
        assert (response.status, await response.read()) == (200, b"whole")
    assert len(opened) == 3


async def test_a_file_changed_while_it_is_sent_breaks_the_answer_off(
    http: aiohttp.ClientSession, backend: FakeBackend
) -> None:
    await (await http.put("/v1/files/f", data=b"x")).read()
    opens(backend, bytes(2 * CHUNK_BYTES), True, True, False)
    async with http.get("/v1/files/f") as response:
        assert response.status == 200
        with pytest.raises(aiohttp.ClientError):
            await response.read()


async def test_a_file_that_never_settles_is_unavailable(http: aiohttp.ClientSession, backend: FakeBackend) -> None:
    await (await http.put("/v1/files/f", data=b"x")).read()
    opens(backend, b"torn", *[False] * TRIES_MAX)
    async with http.get("/v1/files/f") as response:
        assert response.status == 503
        assert response.headers["Retry-After"] == "1"


async def test_the_index_of_an_answer_is_that_of_its_bytes(http: aiohttp.ClientSession, backend: FakeBackend) -> None:
    await (await http.put("/v1/files/f", data=b"x")).read()
    opens(backend, b"x")
    at = backend.gsn
    whole = backend.open_file

    async def then_more(path: bytes) -> OpenFile:
        opened = await whole(path)
        backend.gsn += 5
        return opened

    backend.open_file = then_more  # type: ignore[method-assign]
    async with http.get("/v1/files/f") as response:
        assert response.headers["Lddp-Index"] == str(at)


async def test_a_node_that_cannot_know_names_those_that_can(http: aiohttp.ClientSession, backend: FakeBackend) -> None:
    nodes = [{"name": "b", "zone": "eu-west", "http": "https://b:7480"}, {"name": "c", "zone": "us", "http": None}]

    def entry(_path: bytes) -> None:
        raise ElsewhereError("a witness has no files; ask a node that has a zone", nodes)

    backend.entry = entry  # type: ignore[method-assign]
    async with http.get("/v1/files/f") as response:
        assert response.status == 503
        document = await problem(response)
    assert (document["type"], document["nodes"]) == ("urn:lddp:problem:elsewhere", nodes)
    assert document["next"] == "ask a node that has a zone"
