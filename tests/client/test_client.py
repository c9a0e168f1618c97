"""The client library against real nodes."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import pickle
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from lddp import errors
from lddp.client import Batch, Client, FileError, Settings
from lddp.client import requests as module
from lddp.client.downloads import Download
from lddp.client.endpoints import named_by, parse_endpoint
from lddp.client.problems import error_of
from tests.client.proxy import proxy
from tests.node.zones import PATIENCE_S, TOKEN, WITNESS, Zones

ONE, TWO, THREE = "zone-1", "zone-2", "zone-3"
LARGE = os.urandom(3_000_000)


def at(*urls: str, token: str = TOKEN, **options: Any) -> Client:
    client = Client(Settings(urls, token))
    return client.having(**options) if options else client


# -- operations -------------------------------------------------------------------------------------------------------


async def test_every_operation(client: Client, world: Zones) -> None:
    await client.mkdir("/data/d", 0o700)
    written = await client.write("/data/d/f", b"hello", mode=0o640)
    entry = await client.stat("/data/d/f")
    assert (entry.name, entry.kind, entry.size, entry.mode, entry.version) == (b"f", "file", 5, 0o640, written.version)
    assert client.index == written.index
    await client.append("/data/d/f", b" world")
    await client.write_at("/data/d/f", 0, b"J")
    assert await client.read("/data/d/f") == b"Jello world"
    assert await client.read("/data/d/f", 1, 4) == b"ell"
    assert await client.read("/data/d/f", 6) == b"world"
    assert await client.read("/data/d/f", 11) == await client.read("/data/d/f", 3, 3) == b""
    await client.truncate("/data/d/f", 5)
    await client.create("/data/d/empty")
    await client.create("/data/d/pipe", kind="fifo")
    await client.link("/data/d/f", "/data/d/g")
    await client.symlink("/data/d/l", "f")
    await client.setattr("/data/d/f", mode=0o600, mtime_ns=1_000_000_007)
    await client.setxattr("/data/d/f", b"user.x", b"\0\xff", "create")
    entry = await client.stat("/data/d/g")
    assert (entry.mode, entry.mtime_ns, entry.links, entry.xattrs) == (
        0o600,
        1_000_000_007,
        2,
        ((b"user.x", b"\0\xff"),),
    )
    await client.removexattr("/data/d/f", b"user.x")
    assert (await client.stat("/data/d/l")).target == b"f"
    await client.write(b"/data/d/\xff\xfe", b"odd")
    names = [entry.name for entry in await client.entries("/data/d")]
    assert names == [b"empty", b"f", b"g", b"l", b"pipe", b"\xff\xfe"]
    assert await client.read("/data/d/\udcff\udcfe") == b"odd"
    await client.rename("/data/d", "/data/e")
    await client.write("/data/x", b"x")
    await client.exchange("/data/x", "/data/e/f")
    assert (await client.read("/data/x"), await client.read("/data/e/f")) == (b"Jello", b"x")
    await client.remove("/data/x")
    assert await client.find("/data/x") is None
    assert not await client.exists("/data/x/y")
    assert (world.root(ONE) / "e" / "g").exists()


async def test_trees(client: Client) -> None:
    await client.makedirs("/data/a/b/c")
    await client.makedirs("/data/a/b/c", exist_ok=True)
    with pytest.raises(FileExistsError):
        await client.makedirs("/data/a/b/c")
    await client.write("/data/a/file", b"")
    with pytest.raises(FileExistsError):
        await client.makedirs("/data/a/file", exist_ok=True)
    with pytest.raises(FileNotFoundError):
        await client.makedirs("/elsewhere/a")
    await client.makedirs("/", exist_ok=True)
    with pytest.raises(FileExistsError):
        await client.makedirs("/")
    for number in range(5):
        await client.write(f"/data/a/b/{number}", b"")
    walked = [(directory, [entry.name for entry in entries]) async for directory, entries in client.walk("/data/a")]
    assert walked == [
        (b"/data/a", [b"b", b"file"]),
        (b"/data/a/b", [b"0", b"1", b"2", b"3", b"4", b"c"]),
        (b"/data/a/b/c", []),
    ]
    assert await client.rmtree("/data/a") == 9
    assert not await client.exists("/data/a")
    await client.write("/data/f", b"")
    assert await client.rmtree("/data/f") == 1


async def test_a_listing_of_many_pages(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lddp.client.client.PAGE_ENTRIES", 7)
    batch = Batch()
    for number in range(20):
        batch.put(f"/data/{number:02}", b"")
    await client.submit(batch)
    assert [entry.name for entry in await client.entries("/data")] == [b"%02d" % number for number in range(20)]


# -- errors -----------------------------------------------------------------------------------------------------------


async def test_errors_are_those_of_files(client: Client) -> None:
    await client.mkdir("/data/d")
    written = await client.write("/data/f", b"")
    for expected, number, call in (
        (FileNotFoundError, errno.ENOENT, client.read("/data/none")),
        (FileNotFoundError, errno.ENOENT, client.stat("/nowhere")),
        (FileExistsError, errno.EEXIST, client.mkdir("/data/f")),
        (FileExistsError, errno.EEXIST, client.write("/data/f", b"", exclusive=True)),
        (IsADirectoryError, errno.EISDIR, client.write("/data/d", b"")),
        (IsADirectoryError, errno.EISDIR, client.read("/data/d")),
        (NotADirectoryError, errno.ENOTDIR, client.mkdir("/data/f/g")),
        (FileError, errno.ESTALE, client.write("/data/f", b"", version=1)),
        (FileError, errno.ESTALE, client.write("/data/none", b"", version=0)),
        (FileError, errno.ESTALE, client.remove("/data/f", version=written.version + 1)),
        (FileError, errno.ESTALE, client.read("/data/f", version=1)),
        (FileError, errno.ENAMETOOLONG, client.write("/data/" + "n" * 256, b"")),
    ):
        with pytest.raises(expected) as caught:
            await call
        assert isinstance(caught.value, errors.OperationError) and isinstance(caught.value, OSError)
        assert caught.value.errno == number
        assert str(caught.value).count("\n") == 0 and len(str(caught.value)) > 10
    for call in (client.mkdir("/data/../x"), client.stat("relative"), client.mkdir("/data/a\0b"), client.mkdir("/")):
        with pytest.raises(errors.UsageError):
            await call
    for wrong in (lambda: client.open("/data/f", -1), lambda: client.open("/data/f", 0, -5)):
        with pytest.raises(errors.UsageError):
            wrong()
    with pytest.raises(TypeError, match="not int"):
        await client.write("/data/f", 5)  # type: ignore[arg-type]


async def test_a_wrong_token(world: Zones) -> None:
    async with at(*world.urls, token="wrong-token-of-some-length") as client:
        for call in (client.read("/data/f"), client.write("/data/f", LARGE), client.get("/v1/status")):
            with pytest.raises(errors.NotAllowedError, match="no valid bearer token"):
                await call


def test_errors_survive_pickling() -> None:
    problem = {"type": "urn:lddp:problem:ENOENT", "errno": "ENOENT", "detail": "'/f' is gone; look"}
    error = error_of(404, problem)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and isinstance(again, FileNotFoundError)
    assert (again.errno, str(again)) == (errno.ENOENT, "'/f' is gone; look")


def test_answers_of_strangers() -> None:
    for passing in (408, 429, 502):
        assert isinstance(error_of(passing, None), errors.UnavailableError)
    assert isinstance(error_of(404, {"type": "about:blank"}), errors.FormatError), "it will not be there later"
    elsewhere = error_of(503, {"type": "urn:lddp:problem:elsewhere", "detail": "d", "nodes": [{"name": "b"}]})
    assert isinstance(elsewhere, errors.ElsewhereError) and str(elsewhere) == "d (b)"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "no endpoint is known"),
        ({"endpoints": ["http://10.0.0.1:1"], "token": "t"}, "in the clear"),
        ({"endpoints": ["ftp://x"], "token": "t"}, "is no endpoint"),
        ({"cluster": "/nonexistent"}, "does not exist"),
    ],
)
def test_settings_that_make_no_sense(given: dict[str, Any], expected: str) -> None:
    with pytest.raises(errors.UsageError, match=expected):
        Client(Settings.find(**given, environment={}))


def test_settings_of_the_environment(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret-of-a-node\n")
    found = Settings.find(
        environment={"LDDP_ENDPOINT": "http://[::1]:1 https://b:2", "LDDP_TOKEN_FILE": str(tmp_path / "token")}
    )
    assert found == Settings(("http://[::1]:1", "https://b:2"), "secret-of-a-node")
    with pytest.raises(errors.NotAllowedError):
        Settings.find(["http://[::1]:1"], environment={"LDDP_TOKEN_FILE": str(tmp_path / "none")})


# -- nodes that are away ----------------------------------------------------------------------------------------------


async def test_another_node_answers_when_one_does_not(world: Zones) -> None:
    """The first is nobody, the second a witness, the third dies while it is used."""
    async with at("http://127.0.0.1:1", world.url(WITNESS), world.url(ONE), world.url(TWO)) as client:
        await client.write("/data/f", b"1")
        assert await client.read("/data/f") == b"1"
        await world.stop(ONE)
        await client.append("/data/f", b"2")
        assert await client.read("/data/f") == b"12"


async def test_a_client_goes_where_it_is_sent(world: Zones) -> None:
    """It knows one node, which cannot answer and names those that can."""
    await world.make_rule("there", b"/there", TWO)
    async with at(world.url(WITNESS)) as client:
        written = await client.write("/there/f", LARGE)
        assert await client.read("/there/f") == LARGE
        assert [entry.name for entry in await client.entries("/there")] == [b"f"]
        assert client._requests.nodes[0].url in {world.url(name) for name in (ONE, TWO, THREE)}
    async with at(world.url(ONE), at_least=written.index) as client:
        assert await client.read("/there/f", 10, 20) == LARGE[10:20]
        assert await client.read("/there/f") == LARGE
        assert client._requests.nodes[0].url == world.url(TWO), "it stays there"


@pytest.mark.parametrize(
    ("said_by", "named", "expected"),
    [
        ("http://127.0.0.1:1", "http://127.0.0.1:2", True),
        ("https://a:1", "https://b:2", True),
        ("https://a:1", "http://127.0.0.1:2", False),
        ("http://127.0.0.1:1", "https://b:2", False),
        ("http://127.0.0.1:1", "http://b:2", False),
        ("https://a:1", "file:///etc/passwd", False),
        ("https://a:1", None, False),
    ],
)
def test_a_token_is_not_sent_to_where_it_is_less_safe(said_by: str, named: str | None, expected: bool) -> None:
    found = named_by(parse_endpoint(said_by), [{"name": "b", "http": named}])
    assert [endpoint.url for endpoint in found] == ([named] if expected else [])


async def test_a_change_whose_answer_is_lost_takes_effect_once(world: Zones) -> None:
    async with proxy(world.ports[ONE], (None, 0), (None, 10), (None, 0)) as broken:
        async with at(broken.url, world.url(TWO)) as client:
            await client.having(timeout_s=PATIENCE_S).write("/data/f", b"")
            client._requests.nodes.sort(key=lambda node: node.url != broken.url)
            await client.append("/data/f", b"once ")
            client._requests.nodes.sort(key=lambda node: node.url != broken.url)
            batch = Batch().append("/data/f", b"and ").append("/data/f", b"once more")
            assert [result.errno for result in await client.submit(batch)] == [0, 0]
            assert await client.read("/data/f") == b"once and once more"
        assert len(broken.requests) >= 3


async def test_a_condition_whose_answer_is_lost_holds(world: Zones) -> None:
    async with proxy(world.ports[ONE], (None, 0), (None, 0), (None, 0)) as broken:
        for number, url in enumerate((broken.url, broken.url, broken.url)):
            async with at(url, world.url(TWO)) as client:
                if number == 0:
                    await client.write("/data/f", b"1", exclusive=True)
                elif number == 1:
                    first = (await client.stat("/data/f")).version
                    client._requests.nodes.sort(key=lambda node: node.url != broken.url)
                    assert (await client.write("/data/f", b"2", version=first)).version > first
                else:
                    await client.remove("/data/f", version=(await client.stat("/data/f")).version)


async def test_a_deadline(world: Zones, monkeypatch: pytest.MonkeyPatch) -> None:
    async with at("http://127.0.0.1:1", timeout_s=0.2) as client:
        with pytest.raises(errors.UnavailableError, match="Connection refused") as caught:
            await client.write("/data/f", b"")
        assert not isinstance(caught.value, errors.OutcomeUnknownError), "it surely did not happen"
    monkeypatch.setattr(module, "GRACE_S", 0.1)
    async with proxy(world.ports[ONE]) as silent:
        silent.hold = asyncio.Event()
        async with at(silent.url, timeout_s=0.2) as client:
            with pytest.raises(errors.OutcomeUnknownError, match="no answer in time"):
                await client.mkdir("/data/d")
            with pytest.raises(errors.UnavailableError, match="no answer in time"):
                await client.stat("/data")
        silent.hold.set()


async def test_a_node_that_is_silent_is_left(world: Zones, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ATTEMPT_S_MAX", 0.2)
    monkeypatch.setattr(module, "GRACE_S", 0.1)
    async with proxy(world.ports[ONE]) as silent:
        silent.hold = asyncio.Event()
        async with at(silent.url, world.url(TWO), timeout_s=PATIENCE_S) as client:
            assert (await client.stat("/data")).is_directory
        silent.hold.set()


# -- what is read -----------------------------------------------------------------------------------------------------


async def test_what_was_written_is_read_at_any_zone(world: Zones) -> None:
    """Also where that zone is behind."""
    gateway = world.nodes[THREE].gateway
    waited: list[int] = []
    wait = gateway.wait

    async def waiting(gsn: int, timeout_s: float) -> None:
        waited.append(gsn)
        await wait(gsn, timeout_s)

    gateway.wait = waiting  # type: ignore[method-assign]
    async with at(world.url(ONE), world.url(THREE)) as client:
        written = await client.write("/data/f", b"new")
        client._requests.nodes.reverse()
        assert await client.read("/data/f") == b"new"
        assert written.index in waited
        waited.clear()
        assert (await client.stat("/data/f")).size == 3
        assert not waited, "it is known to show it"


async def test_what_others_have_written_is_waited_for(world: Zones) -> None:
    async with at(world.url(ONE)) as writer, at(world.url(TWO)) as reader:
        await writer.write("/data/f", b"old")
        looking = asyncio.create_task(reader.having(at_least=writer.index + 1, timeout_s=PATIENCE_S).read("/data/f"))
        await asyncio.sleep(0)
        await writer.write("/data/f", b"new")
        assert await looking == b"new"
        await writer.write("/data/f", b"newer")
        await reader.barrier()
        assert await reader.read("/data/f") == b"newer"


async def test_a_download_goes_on_elsewhere_at_the_next_byte(world: Zones) -> None:
    async with at(world.url(ONE)) as client:
        written = await client.write("/data/f", io.BytesIO(LARGE))
    done: list[tuple[int, int | None]] = []
    async with (
        proxy(world.ports[ONE], (None, 1_000_000)) as first,
        proxy(world.ports[TWO], (None, None), (None, 700_000)) as second,
        at(first.url, second.url, timeout_s=PATIENCE_S) as client,
        client.open("/data/f", progress=lambda *one: done.append(one)) as download,
    ):
        assert (download.size, download.version) == (len(LARGE), written.version)
        assert b"".join([chunk async for chunk in download]) == LARGE
    assert done[-1] == (len(LARGE), len(LARGE))
    assert [one for one, _ in done] == sorted({one for one, _ in done})
    assert b"Range" not in first.requests[0]
    again = [head for head in second.requests if b"/v1/files" in head]
    assert b'If-Match: "%d"' % written.version in again[0] and b"Range: bytes=" in again[0]


async def test_a_part_of_a_file_goes_on_too(world: Zones) -> None:
    async with at(world.url(ONE)) as client:
        await client.write("/data/f", io.BytesIO(LARGE))
    async with proxy(world.ports[ONE], (None, 500_000)) as first, at(first.url, world.url(TWO)) as client:
        assert await client.read("/data/f", 100, 2_000_100) == LARGE[100:2_000_100]


@pytest.mark.parametrize("whole", [True, False])
async def test_a_file_that_is_replaced_between_two_parts(
    world: Zones, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    """Bytes of two versions are never joined: who reads all of it begins anew, who reads it as it comes is told."""
    other = os.urandom(len(LARGE))
    async with (
        at(world.url(TWO), timeout_s=PATIENCE_S) as writer,
        proxy(world.ports[ONE], (None, 1_000_000)) as first,
        at(first.url, world.url(TWO), timeout_s=PATIENCE_S) as client,
    ):
        await writer.write("/data/f", io.BytesIO(LARGE))
        await world.shown(writer.index)
        begin, replaced = Download._open, []

        async def going_on(self: Download) -> None:
            if self.position and not replaced:
                replaced.append(await writer.write("/data/f", io.BytesIO(other)))
                await world.shown(writer.index)
            await begin(self)

        monkeypatch.setattr(Download, "_open", going_on)
        if whole:
            assert await client.read("/data/f") == other
            return
        pieces = []
        with pytest.raises(FileError) as caught:
            async with client.open("/data/f") as download:
                async for piece in download:
                    pieces.append(piece)
        assert caught.value.errno == errno.ESTALE
        assert LARGE.startswith(b"".join(pieces)) and pieces


async def test_a_download_into_a_file(client: Client, tmp_path: Path) -> None:
    await client.write("/data/f", io.BytesIO(LARGE), mode=0o640)
    target = tmp_path / "local"
    target.write_bytes(b"before")
    with pytest.raises(FileNotFoundError):
        await client.download("/data/none", target)
    assert target.read_bytes() == b"before"
    assert await client.download("/data/f", target) == len(LARGE)
    assert target.read_bytes() == LARGE and target.stat().st_mode & 0o777 == 0o640
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".lddp-")]
    written = await client.upload(target, "/data/g")
    assert (await client.stat("/data/g")).digest == (await client.stat("/data/f")).digest
    assert written.version == written.index


async def test_a_download_into_a_pipe(client: Client, tmp_path: Path) -> None:
    """Which stays one, whatever happens."""
    data = LARGE[:10_000]  # as a pipe holds them
    await client.write("/data/f", data)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(FileNotFoundError):
            await client.download("/data/none", pipe)
        assert await client.download("/data/f", pipe) == len(data)
        assert pipe.is_fifo()
        assert os.read(reader, len(LARGE)) == data
    finally:
        os.close(reader)
    with pytest.raises(IsADirectoryError):
        await client.download("/data/f", tmp_path)


# -- what is sent -----------------------------------------------------------------------------------------------------


class Once:
    """An iterable of bytes that can be had once."""

    def __init__(self, data: bytes, size: int) -> None:
        self.begun = 0
        self._data, self._size = data, size

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.begun += 1
        for start in range(0, len(self._data), self._size):
            yield self._data[start : start + self._size]


async def test_a_stream_that_breaks_off_is_sent_again_from_its_start(world: Zones) -> None:
    """Though it can be read once, and another node takes it; nothing of the first half is to be seen."""
    for number, size in enumerate((1000, 100_000, 5_000_000)):
        source, done = Once(LARGE, size), []
        path = f"/data/{number}"
        async with proxy(world.ports[ONE], (400_000, None)) as broken, at(broken.url, world.url(TWO)) as client:
            await client.write(path, source, progress=lambda *one, done=done: done.append(one))  # type: ignore[misc]
            assert await client.read(path) == LARGE
        assert source.begun == 1
        assert done[-1] == (len(LARGE), None) or done[-1] == (len(LARGE), len(LARGE))
    assert world.blobs(TWO).count("incoming") == 0


async def test_a_file_that_breaks_off_is_sent_again_from_where_it_stood(world: Zones, tmp_path: Path) -> None:
    (tmp_path / "local").write_bytes(b"skipped" + LARGE)
    with (tmp_path / "local").open("rb") as file:
        file.seek(7)
        async with proxy(world.ports[ONE], (400_000, None)) as broken, at(broken.url, world.url(TWO)) as client:
            await client.write("/data/f", file)
            assert await client.read("/data/f") == LARGE


async def test_files_that_say_no_size_are_sent(client: Client, tmp_path: Path) -> None:
    """Of /proc, and pipes; one that is empty is one that has no more."""
    await client.upload("/proc/self/limits", "/data/f")
    assert (await client.read("/data/f")).startswith(b"Limit")
    (tmp_path / "local").touch()
    await client.upload(tmp_path / "local", "/data/f")
    assert await client.read("/data/f") == b""
    end = io.BytesIO(b"over")
    end.seek(0, os.SEEK_END)
    await client.append("/data/f", end)
    assert await client.read("/data/f") == b""


async def test_a_source_that_fails_is_not_tried_again(client: Client, world: Zones) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield LARGE
        raise ValueError("the disk of the sender")

    with pytest.raises(ValueError, match="the disk of the sender"):
        await client.write("/data/f", failing())
    assert not await client.exists("/data/f")
    await world.until(lambda: not any(world.blobs(name) for name in world.zones))


async def test_many_at_once(client: Client) -> None:
    async with asyncio.TaskGroup() as tasks:
        for number in range(100):
            tasks.create_task(client.write(f"/data/{number}", b"%d" % number))
    read = await asyncio.gather(*(client.read(f"/data/{number}") for number in range(100)))
    assert read == [b"%d" % number for number in range(100)]


async def test_two_clients_that_make_the_same_file(world: Zones) -> None:
    async def make(number: int) -> bool:
        async with at(world.urls[number % 3]) as client:
            try:
                await client.write("/data/mine", b"%d" % number, exclusive=True)
            except FileExistsError:
                return False
            return True

    assert sum(await asyncio.gather(*map(make, range(9)))) == 1


# -- batches ----------------------------------------------------------------------------------------------------------


async def test_a_batch_is_a_row_of_operations(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lddp.client.batches.OPERATIONS_MAX", 3)
    batch = (
        Batch()
        .mkdir("/data/d")
        .put("/data/d/f", b"one")
        .append("/data/d/f", b"two")
        .mkdir("/data/d")
        .rename("/data/d/f", "/data/g")
        .link("/data/g", "/data/h")
        .symlink("/data/l", "g")
        .setattr("/data/g", mode=0o600)
        .setxattr("/data/g", b"user.x", b"1")
        .removexattr("/data/g", b"user.x")
        .write("/data/g", 0, b"O")
        .truncate("/data/g", 4)
        .remove("/data/l")
        .put("/data/g", b"", version=0)
        .put("/data/none", b"", version=-2)
        .exchange("/data/g", "/data/d")
        .remove("/data/g")
    )
    results = await client.submit(batch)
    wrong = {place: result.errno for place, result in enumerate(results) if result.errno}
    assert wrong == {3: errno.EEXIST, 13: errno.EEXIST, 14: errno.ESTALE}
    assert isinstance(results[3].error(), FileExistsError)
    assert [result.index for result in results] == sorted(result.index for result in results)
    assert await client.read("/data/d") == b"Onet"
    assert [entry.name for entry in await client.entries("/data")] == [b"d", b"h"]
    assert await client.submit(Batch()) == []
    with pytest.raises(errors.LimitError):
        await client.submit(Batch().put("/data/large", bytes(20_000)))
