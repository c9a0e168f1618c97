"""What `lddp://` promises beyond fsspec's own suite, against three real zones."""

from __future__ import annotations

import asyncio
import errno
import os
import pickle
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.callbacks import Callback

from lddp.client import Batch, Client, Settings
from lddp.client.batches import Result
from lddp.doors.fsspec import LddpFileSystem
from lddp.errors import NotAllowedError, OutcomeUnknownError, UsageError
from tests.doors.served import Served
from tests.node.zones import PATIENCE_S, TOKEN

LARGE = os.urandom(300_000)
"""More than a record or a batch carries."""


@pytest.fixture
def at(fs: LddpFileSystem, directory: str) -> str:
    return directory


def names(fs: LddpFileSystem, path: str) -> list[str]:
    return sorted(name.rpartition("/")[2] for name in fs.ls(path, detail=False))


# -- files ------------------------------------------------------------------------------------------------------------


def test_files_are_written_and_read(fs: LddpFileSystem, at: str) -> None:
    with fs.open(f"lddp://{at}/a/b/f", "wb", block_size=100_000) as file:
        for start in range(0, len(LARGE), 7_000):
            file.write(LARGE[start : start + 7_000])
        assert not fs.exists(f"{at}/a/b/f"), "it appears when it is closed"
    with fs.open(f"{at}/a/b/f", "rb", block_size=50_000) as file:
        assert file.read(10) == LARGE[:10]
        file.seek(-10, 2)
        assert file.read() == LARGE[-10:]
        file.seek(100_000)
        assert file.read(100_000) == LARGE[100_000:200_000]
    with fs.open(f"{at}/text", "w", encoding="utf-8") as text:
        text.write("grün\n")
    with fs.open(f"{at}/text", "a", encoding="utf-8") as text:
        text.write("blau\n")
    with fs.open(f"{at}/new", "ab") as file:
        file.write(b"begun")
    assert fs.cat(f"{at}/text").decode() == "grün\nblau\n"
    assert fs.cat(f"{at}/new") == b"begun"
    assert fs.cat_file(f"{at}/a/b/f", -10) == LARGE[-10:]
    assert fs.cat_file(f"{at}/a/b/f", 5, -5) == LARGE[5:-5]
    assert fs.cat_ranges([f"{at}/new"] * 2, [0, 2], [2, 4]) == [b"be", b"gu"]
    assert fs.head(f"{at}/new", 3) == b"beg" and fs.tail(f"{at}/new", 3) == b"gun"


def test_what_is_there(fs: LddpFileSystem, at: str) -> None:
    fs.pipe({f"{at}/f": b"12345", f"{at}/d/g": b""})
    fsspec.asyn.sync(fs.loop, _symlink, fs, f"{at}/l", "f")
    info = fs.info(f"{at}/f")
    assert (info["name"], info["size"], info["type"]) == (f"{at}/f", 5, "file")
    assert fs.checksum(f"{at}/f") == info["version"] and fs.ukey(f"{at}/f") == str(info["version"])
    assert abs(fs.modified(f"{at}/f").timestamp() - info["mtime"]) < 1e-3
    link = fs.info(f"{at}/l")
    assert (link["type"], link["destination"], link["islink"]) == ("link", "f", True)
    assert names(fs, at) == ["d", "f", "l"]
    assert [row["type"] for row in fs.ls(f"{at}/f")] == ["file"]
    assert fs.isdir(at) and fs.isfile(f"{at}/f") and not fs.exists(f"{at}/f/x")
    assert fs.find(at) == [f"{at}/d/g", f"{at}/f", f"{at}/l"]
    assert fs.glob(f"{at}/*") == [f"{at}/d", f"{at}/f", f"{at}/l"]
    assert fs.du(at) == 5
    assert "/data" in fs.ls("/", detail=False)
    for path in (f"{at}/none", "/nowhere"):
        with pytest.raises(FileNotFoundError):
            fs.info(path)
    with pytest.raises(NotADirectoryError):  # as the local filesystem says it
        fs.info(f"{at}/f/x")
    assert fs.unstrip_protocol(at) == f"lddp://{at}"
    assert [fs._strip_protocol(path) for path in ("lddp:///data/f", "lddp://data/f/", "/", "")] == ["/data/f"] * 2 + [
        "/"
    ] * 2


async def _symlink(fs: LddpFileSystem, path: str, target: str) -> None:
    await (await fs.client()).symlink(path, target)


def test_names_move_and_go(fs: LddpFileSystem, at: str) -> None:
    fs.pipe({f"{at}/d/e/f": b"1", f"{at}/d/g": b"2", f"{at}/h": b"3"})
    before = fs.info(f"{at}/d/e/f")["ino"]
    fs.mv(f"{at}/d", f"{at}/moved")
    assert fs.info(f"{at}/moved/e/f")["ino"] == before, "a rename, no copy"
    fs.mkdir(f"{at}/into")
    fs.mv(f"{at}/h", f"{at}/into")
    fs.mv(f"{at}/moved/*", f"{at}/into/")
    assert names(fs, f"{at}/into") == ["e", "g", "h"]
    with pytest.raises(FileNotFoundError):
        fs.mv(f"{at}/none", f"{at}/x")
    with pytest.raises(OSError) as caught:
        fs.rmdir(f"{at}/into")
    assert caught.value.errno == errno.ENOTEMPTY
    fs.rm(f"{at}/into", recursive=True)
    fs.rmdir(f"{at}/moved")
    assert names(fs, at) == []
    with pytest.raises(FileExistsError):
        fs.mkdir(at)
    fs.touch(f"{at}/t")
    version = fs.checksum(f"{at}/t")
    fs.touch(f"{at}/t", truncate=False)
    assert fs.checksum(f"{at}/t") > version
    with pytest.raises(NotADirectoryError):
        fs.rmdir(f"{at}/t")


def test_that_it_is_a_directory_is_decided_with_its_removal(fs: LddpFileSystem, at: str, served: Served) -> None:
    """A file that gets the name in between stays."""
    fs.mkdir(f"{at}/made once")
    fs.rmdir(f"{at}/made once")
    backend = served.zones.backend("zone-1")
    end = served.run(backend.barrier(PATIENCE_S))
    (*_, last), _ = served.run(backend.log(1, end, f"{at}/made once".encode(), 10))
    assert last["record"] == "RemoveDirectory"


def test_a_file_is_read_at_the_version_it_was_opened_at(fs: LddpFileSystem, at: str) -> None:
    fs.pipe_file(f"{at}/f", LARGE)
    with fs.open(f"{at}/f", "rb", block_size=1000, cache_type="none") as file:
        assert file.read(1000) == LARGE[:1000]
        fs.pipe_file(f"{at}/f", LARGE[::-1])
        with pytest.raises(OSError, match="read it again") as caught:
            file.read(1000)
    assert caught.value.errno == errno.ESTALE


def test_only_one_makes_a_file(fs: LddpFileSystem, at: str) -> None:
    """Also where the name was free when both of them opened it."""
    one, other = fs.open(f"{at}/f", "xb"), fs.open(f"{at}/f", "xb")
    one.write(b"one")
    other.write(b"other")
    one.close()
    with pytest.raises(FileExistsError):
        other.close()
    assert fs.cat(f"{at}/f") == b"one"


def test_without_making_directories(options: dict[str, Any], at: str) -> None:
    fs = LddpFileSystem(auto_mkdir=False, skip_instance_cache=True, **options)
    for write in (lambda: fs.pipe_file(f"{at}/none/f", b""), lambda: fs.pipe_file(f"{at}/none/f", LARGE)):
        with pytest.raises(FileNotFoundError):
            write()
    with pytest.raises(FileNotFoundError):
        LddpFileSystem(skip_instance_cache=True, **options).pipe_file("/nowhere/at/all", b"")
    fs.close()


def test_progress_is_told(fs: LddpFileSystem, at: str, tmp_path: Path) -> None:
    (tmp_path / "local").write_bytes(LARGE)
    for call in (
        lambda callback: fs.put_file(str(tmp_path / "local"), f"{at}/f", callback=callback),
        lambda callback: fs.get_file(f"{at}/f", str(tmp_path / "back"), callback=callback),
    ):
        callback = Callback()
        call(callback)
        assert (callback.size, callback.value) == (len(LARGE), len(LARGE))
    assert (tmp_path / "back").read_bytes() == LARGE


# -- transactions -----------------------------------------------------------------------------------------------------


def test_a_transaction_appears_at_its_end(fs: LddpFileSystem, at: str, tmp_path: Path) -> None:
    (tmp_path / "local").write_bytes(b"from here")
    fs.pipe_file(f"{at}/log", b"1 ")
    with fs.transaction:
        with fs.open(f"{at}/large", "wb") as file:
            file.write(LARGE)
        with fs.open(f"{at}/d/small", "w") as text:
            text.write("small")
        with fs.open(f"{at}/log", "ab") as file:
            file.write(b"2")
        fs.pipe_file(f"{at}/piped", b"piped", mode="create")
        fs.put_file(str(tmp_path / "local"), f"{at}/put")
        assert names(fs, at) == ["log"]
        assert fs.cat(f"{at}/log") == b"1 "
    assert names(fs, at) == ["d", "large", "log", "piped", "put"]
    assert fs.cat(f"{at}/large") == LARGE
    assert [fs.cat(f"{at}/{name}") for name in ("d/small", "log", "piped", "put")] == [
        b"small",
        b"1 2",
        b"piped",
        b"from here",
    ]
    fs.pipe_file(f"{at}/after", b"")
    assert fs.exists(f"{at}/after"), "it is over"


def test_a_file_left_open_is_part_of_its_transaction(fs: LddpFileSystem, at: str) -> None:
    with fs.transaction:
        file = fs.open(f"{at}/f", "wb")
        file.write(b"not closed")
    assert fs.cat(f"{at}/f") == b"not closed"
    assert file.closed


def test_a_transaction_that_fails_leaves_nothing(fs: LddpFileSystem, at: str) -> None:
    with pytest.raises(RuntimeError), fs.transaction:
        fs.pipe_file(f"{at}/f", LARGE)
        with fs.open(f"{at}/g", "wb") as file:
            file.write(b"g")
        raise RuntimeError
    assert names(fs, at) == []
    assert not fs._intrans


def test_a_refusal_names_what_was_refused(fs: LddpFileSystem, at: str) -> None:
    fs.pipe_file(f"{at}/taken", b"theirs")
    fs.mkdir(f"{at}/directory")
    with pytest.raises(FileExistsError, match=r"2 of 4 files were refused.*taken \(EEXIST\).*directory \(EISDIR\)"):  # noqa: SIM117
        with fs.transaction:
            fs.pipe_file(f"{at}/one", b"1")
            fs.pipe_file(f"{at}/taken", LARGE, mode="create")
            fs.pipe_file(f"{at}/directory", LARGE)
            fs.pipe_file(f"{at}/two", LARGE)
    assert names(fs, at) == ["directory", "one", "taken", "two"], "and nothing that begins with .lddp-"
    assert fs.cat(f"{at}/taken") == b"theirs"


def test_an_upload_that_fails_changes_nothing(fs: LddpFileSystem, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write, calls = Client.write, []

    async def failing(self: Client, path: Any, data: Any, **options: Any) -> Any:
        calls.append(path)
        if len(calls) == 3:
            raise OSError(errno.EIO, "the disk of the sender")
        return await write(self, path, data, **options)

    monkeypatch.setattr(Client, "write", failing)
    with pytest.raises(OSError, match="the disk of the sender"), fs.transaction:
        for number in range(5):
            fs.pipe_file(f"{at}/{number}", LARGE)
    monkeypatch.undo()
    fs.pipe_file(f"{at}/after", b"")
    assert names(fs, at) == ["after"]


def test_what_may_come_yet_keeps_its_bytes(fs: LddpFileSystem, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lost(self: Client, batch: Batch) -> Any:
        raise OutcomeUnknownError("no outcome in time; look")

    monkeypatch.setattr(Client, "submit", lost)
    with pytest.raises(OutcomeUnknownError), fs.transaction:
        fs.pipe_file(f"{at}/f", LARGE)
    monkeypatch.undo()
    (left,) = names(fs, at)
    assert left.startswith(".lddp-") and fs.cat(f"{at}/{left}") == LARGE


def test_what_was_not_decided_in_time_keeps_its_bytes(
    fs: LddpFileSystem, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a node says it of each operation."""

    async def late(self: Client, batch: Batch) -> list[Result]:
        return [Result("rename", b"/f", errno.ETIMEDOUT, 0) for _ in range(len(batch))]

    monkeypatch.setattr(Client, "submit", late)
    with pytest.raises(OSError, match="ETIMEDOUT"), fs.transaction:
        fs.pipe_file(f"{at}/f", LARGE)
    monkeypatch.undo()
    (left,) = names(fs, at)
    assert left.startswith(".lddp-") and fs.cat(f"{at}/{left}") == LARGE


# -- in other surroundings --------------------------------------------------------------------------------------------


async def test_for_coroutines(options: dict[str, Any], directory: str) -> None:
    fs = LddpFileSystem(asynchronous=True, skip_instance_cache=True, **options)
    async with await fs.open_async(f"{directory}/d/f", "wb", block_size=100_000) as file:
        for start in range(0, len(LARGE), 50_000):
            await file.write(LARGE[start : start + 50_000])
    async with await fs.open_async(f"{directory}/d/f") as file:
        assert await file.read(1000) + await file.read() == LARGE
    await fs._pipe({f"{directory}/{number}": b"%d" % number for number in range(10)})
    assert await fs._cat([f"{directory}/{number}" for number in range(10)]) == {
        f"{directory}/{number}": b"%d" % number for number in range(10)
    }
    with pytest.raises(FileExistsError):
        await fs.open_async(f"{directory}/1", "xb")
    with pytest.raises(ValueError, match="not one of"):
        await fs.open_async(f"{directory}/1", "r+b")
    await fs._rm(f"{directory}/d", recursive=True)
    assert not await fs._exists(f"{directory}/d")
    await (await fs.client()).close()


def test_it_is_found_by_its_protocol_and_survives_pickling(options: dict[str, Any], directory: str) -> None:
    with fsspec.open(f"lddp://{directory}/f", "wb", **options) as file:
        file.write(b"hello")
    fs, path = fsspec.url_to_fs(f"lddp://{directory}/f", **options)
    assert isinstance(fs, LddpFileSystem) and path == f"{directory}/f"
    again = pickle.loads(pickle.dumps(fs))
    assert again.cat(path) == b"hello"
    assert fsspec.filesystem("lddp", **options) is fs
    fs.close()


def test_settings_that_are_missing_or_wrong(monkeypatch: pytest.MonkeyPatch, served: Served) -> None:
    for name in ("LDDP_ENDPOINT", "LDDP_TOKEN_FILE", "LDDP_CLUSTER", "LDDP_CA_FILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="no endpoint is known"):
        LddpFileSystem(skip_instance_cache=True)
    fs = LddpFileSystem(served.zones.urls, token="a-token-that-is-wrong", skip_instance_cache=True)
    for call in (lambda: fs.ls("/"), lambda: fs.pipe_file("/data/f", b""), lambda: fs.exists("/data")):
        with pytest.raises(NotAllowedError):
            call()
    fs.close()
    monkeypatch.setenv("LDDP_ENDPOINT", " ".join(served.zones.urls))
    monkeypatch.setenv("LDDP_TOKEN_FILE", str(served.zones.token_file))
    found = LddpFileSystem(skip_instance_cache=True)
    assert found.isdir("/data")
    found.close()


def test_paths_that_lead_out_are_refused(fs: LddpFileSystem, at: str, served: Served) -> None:
    for path in (f"{at}/../../../escaped", f"{at}/./x", f"{at}//x", f"{at}/a\0b"):
        with pytest.raises(UsageError):
            fs.pipe_file(path, b"x")
    assert not list(served.zones.directory.rglob("escaped"))


# -- tables -----------------------------------------------------------------------------------------------------------


def test_a_partitioned_parquet_table_comes_back(options: dict[str, Any], directory: str, served: Served) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pyarrow.dataset
    import pyarrow.parquet

    table = pandas.DataFrame(
        {
            "year": [2024, 2024, 2025, 2025] * 500,
            "zone": ["a", "b"] * 1000,
            "value": range(2000),
            "name": ["ö\n"] * 2000,
        }
    )
    url = f"lddp://{directory}/table"
    table.to_parquet(url, partition_cols=["year", "zone"], storage_options=options, engine="pyarrow")
    fs = fsspec.filesystem("lddp", **options)
    assert sorted({path.split("/")[4] for path in fs.find(f"{directory}/table")}) == ["year=2024", "year=2025"]
    back = pandas.read_parquet(url, storage_options=options, engine="pyarrow")
    back = back.astype({"year": int, "zone": str}).sort_values("value").reset_index(drop=True)
    assert back[list(table.columns)].equals(table.astype({"zone": str}))
    some = pandas.read_parquet(url, storage_options=options, filters=[("year", "=", 2025), ("zone", "=", "b")])
    assert sorted(some["value"]) == sorted(table[(table.year == 2025) & (table.zone == "b")].value)
    dataset = pyarrow.dataset.dataset(f"{directory}/table", filesystem=fs, partitioning="hive")
    assert dataset.count_rows() == 2000
    with fs.transaction, fs.open(f"{directory}/one.parquet", "wb") as file:
        pyarrow.parquet.write_table(pyarrow.Table.from_pandas(table), file)
    assert pyarrow.parquet.read_table(f"{directory}/one.parquet", filesystem=fs).num_rows == 2000
    fs.close()


def test_the_client_and_the_door_see_the_same(
    served: Served, options: dict[str, Any], fs: LddpFileSystem, at: str
) -> None:
    async def write() -> None:
        async with Client(Settings(options["endpoints"], TOKEN)) as client:
            await client.write(f"{at}/f", b"from the library")

    asyncio.run(write())
    assert fs.cat(f"{at}/f") == b"from the library"


def test_a_zone_that_dies_is_not_noticed(served: Served, options: dict[str, Any], at: str) -> None:
    fs = LddpFileSystem(skip_instance_cache=True, **options)
    fs.pipe_file(f"{at}/f", LARGE)
    file = fs.open(f"{at}/f", "rb", block_size=1000, cache_type="none")
    assert file.read(1000) == LARGE[:1000]
    first = fs._client._requests.nodes[0].url if fs._client is not None else ""
    (name,) = [name for name in served.zones.names if served.zones.url(name) == first]
    served.run(served.zones.stop(name))
    try:
        assert file.read() == LARGE[1000:]
        fs.pipe_file(f"{at}/g", b"still")
        assert fs.cat(f"{at}/g") == b"still"
        fs.close()
    finally:
        served.run(served.zones.start(name))
        # Another client, which knows nothing of these changes, may ask that node next.
        served.run(served.zones.shown(max(node.gateway.gsn for node in served.zones.nodes.values())))
