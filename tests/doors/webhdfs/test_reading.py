"""OPEN, statuses, listings, summaries, checksums, locations."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import socket
from typing import Any

import aiohttp
import pytest

from lddp.access import OpenFile
from lddp.core import records as r
from lddp.doors.webhdfs import walking
from lddp.doors.webhdfs.blocks import Block, blocks
from lddp.doors.webhdfs.checksum import Summing
from lddp.doors.webhdfs.statuses import BLOCK_BYTES
from lddp.serving.bodies import CHUNK_BYTES
from tests.doors.webhdfs.conftest import Client
from tests.doors.webhdfs.machine import MachineBackend

PATIENCE_S = 60.0


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", b"0123456789"),
        ("&offset=4", b"456789"),
        ("&length=3", b"012"),
        ("&offset=2&length=3&buffersize=1", b"234"),
        (f"&offset=8&length={2**63 - 1}", b"89"),
        ("&length=0", b""),
        ("&OFFSET=9&Length=", b"9"),
    ],
)
async def test_open(http: Client, node: MachineBackend, query: str, expected: bytes) -> None:
    await http.create("/data/x", b"0123456789")
    answer = await http("GET", f"/data/x?op=open{query}")
    assert (answer.status, answer.body) == (200, expected)
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Length"] == str(len(expected))
    assert not node.still_open()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("&offset=10", (403, "IOException")),
        (f"&offset={2**63 - 1}", (403, "IOException")),
        ("&offset=-1", (400, "IllegalArgumentException")),
        (f"&offset={2**63}", (400, "IllegalArgumentException")),
        (f"&offset={'9' * 400}", (400, "IllegalArgumentException")),
        ("&offset=1.5", (400, "IllegalArgumentException")),
        ("&offset=%D9%A1", (400, "IllegalArgumentException")),
        ("&length=-1", (400, "IllegalArgumentException")),
        ("&noredirect=maybe", (400, "IllegalArgumentException")),
    ],
)
async def test_ranges_that_are_none(http: Client, node: MachineBackend, query: str, expected: tuple[int, str]) -> None:
    await http.create("/data/x", b"0123456789")
    assert (await http("GET", f"/data/x?op=OPEN{query}")).error == expected
    assert not node.still_open()


async def test_an_empty_file_is_read_from_its_start_alone(http: Client) -> None:
    await http.create("/data/x")
    assert (await http("GET", "/data/x?op=OPEN")).body == b""
    assert (await http("GET", "/data/x?op=OPEN&offset=1")).error == (403, "IOException")


async def test_only_files_are_opened(http: Client, node: MachineBackend) -> None:
    await http("PUT", "/data/l?op=CREATESYMLINK&destination=/etc/passwd")
    node.apply(r.Create(node.next_id(), 0, 1, b"/data/p", r.Kind.FIFO, 0o600, 0, 0))
    for path in ("/data", "/", "/data/none", "/data/l", "/data/p"):
        for operation in ("OPEN", "GETFILECHECKSUM", "GETFILEBLOCKLOCATIONS", "GET_BLOCK_LOCATIONS"):
            assert (await http("GET", f"{path}?op={operation}")).error == (404, "FileNotFoundException")


async def test_open_without_redirect(http: Client) -> None:
    await http.create("/data/x", b"abc")
    for operation in ("OPEN", "GETFILECHECKSUM"):
        answer = await http("GET", f"/data/x?op={operation}&noredirect=true")
        assert answer.document.keys() == {"Location"}
        direct = await http("GET", f"/data/x?op={operation}")
        assert (await http("GET", answer.document["Location"])).body == direct.body


# -- files that are changed in place while they are read --------------------------------------------------------------


@pytest.mark.parametrize("operation", ["OPEN", "GETFILECHECKSUM"])
async def test_a_file_changed_before_anything_was_sent_is_read_again(
    http: Client, node: MachineBackend, operation: str
) -> None:
    await http.create("/data/x", b"abc")
    whole = await http("GET", f"/data/x?op={operation}")
    node.intact = [False]
    assert (await http("GET", f"/data/x?op={operation}")).body == whole.body
    assert len(node.open_files) == 3
    assert not node.still_open()


async def test_a_file_changed_while_it_is_sent_breaks_the_answer_off(http: Client, node: MachineBackend) -> None:
    await http.create("/data/x", bytes(2 * CHUNK_BYTES))
    node.intact = [True, True, False]
    with pytest.raises(aiohttp.ClientError):
        await http("GET", "/data/x?op=OPEN")


@pytest.mark.parametrize("operation", ["OPEN", "GETFILECHECKSUM"])
async def test_a_file_that_never_settles_is_to_be_asked_for_again(
    http: Client, node: MachineBackend, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    await http.create("/data/x", b"abc")
    opens = node.open_file

    async def torn(path: bytes) -> OpenFile:
        node.intact = [False]
        return await opens(path)

    monkeypatch.setattr(node, "open_file", torn)
    assert (await http("GET", f"/data/x?op={operation}")).error == (403, "RetriableException")
    assert not node.still_open()


@pytest.mark.parametrize("idle_s", [0.05])
async def test_a_reader_that_does_not_read_is_cut_off(
    url: str, node: MachineBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds no file for ever."""
    broken_off = asyncio.Event()
    monkeypatch.setattr(logging.getLogger("lddp.serving.bodies"), "warning", lambda *_, **__: broken_off.set())
    stamp = node.next_id(), 0, 1
    node.contents[bytes(32)] = bytes(64 * 1024 * 1024)
    node.apply(r.Put(*stamp, b"/data/x", 0o644, 0, 0, r.Content(bytes(32), 64 * 1024 * 1024)))
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(
            b"GET /webhdfs/v1/data/x?op=OPEN HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer correct-horse-battery\r\n\r\n"
        )
        async with asyncio.timeout(PATIENCE_S):
            await broken_off.wait()
    assert node.open_files
    assert not node.still_open()


# -- statuses ---------------------------------------------------------------------------------------------------------


async def test_the_status_of_a_file(http: Client, node: MachineBackend) -> None:
    await http.create("/data/x", b"abc", "&permission=1640")
    entry = node.entry(b"/data/x")
    assert entry is not None
    assert (
        await http.status("/data/x")
        == {
            "accessTime": 0,
            "blockSize": 134217728,
            "childrenNum": 0,
            "fileId": entry.inode,
            "group": "root" if entry.gid == 0 else str(entry.gid),
            "length": 3,
            "modificationTime": entry.mtime_ns // 1_000_000,
            "owner": "root" if entry.uid == 0 else str(entry.uid),
            "pathSuffix": "",
            "permission": "1640",
            "replication": 1,
            "storagePolicy": 0,
            "type": "FILE",
        }
        or entry.uid != 0
    )


async def test_statuses_of_other_kinds(http: Client) -> None:
    await http("PUT", "/data/d?op=MKDIRS&permission=711")
    await http("PUT", "/data/l?op=CREATESYMLINK&destination=some/where")
    directory, link = await http.status("/data/d"), await http.status("/data/l")
    assert (directory["type"], directory["length"], directory["blockSize"], directory["replication"]) == (
        "DIRECTORY",
        0,
        0,
        0,
    )
    assert directory["permission"] == "711"
    assert (link["type"], link["symlink"]) == ("SYMLINK", "some/where")
    answer = await http("GET", "/data/l?op=GETLINKTARGET")
    assert answer.document == {"Path": "some/where"}
    assert (await http("GET", "/data/d?op=GETLINKTARGET")).error == (403, "IOException")
    assert (await http("GET", "/data/none?op=GETFILESTATUS")).error == (404, "FileNotFoundException")
    for root in ("/", ""):
        assert (await http.status(root))["type"] == "DIRECTORY"


def suffixes(statuses: Any) -> list[str]:
    return [status["pathSuffix"] for status in statuses["FileStatuses"]["FileStatus"]]


async def test_listings_of_many_pages(http: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walking, "PAGE", 3)
    for count in range(8):
        assert suffixes((await http("GET", "/data?op=LISTSTATUS")).document) == [f"{one}" for one in range(count)]
        found: list[str] = []
        after, remaining = "", 1
        while remaining:
            answer = await http("GET", f"/data?op=LISTSTATUS_BATCH&startAfter={after}")
            listing = answer.document["DirectoryListing"]
            found += suffixes(listing["partialListing"])
            after, remaining = (found or [""])[-1], listing["remainingEntries"]
        assert found == [f"{one}" for one in range(count)]
        await http.create(f"/data/{count}")


async def test_the_listing_of_a_file_is_the_file(http: Client) -> None:
    await http.create("/data/x", b"abc")
    for answer in (await http("GET", "/data/x?op=LISTSTATUS"),):
        (status,) = answer.document["FileStatuses"]["FileStatus"]
        assert (status["pathSuffix"], status["length"]) == ("", 3)
    batch = (await http("GET", "/data/x?op=LISTSTATUS_BATCH")).document["DirectoryListing"]
    assert suffixes(batch["partialListing"]) == [""]
    assert (await http("GET", "/data/none?op=LISTSTATUS")).error == (404, "FileNotFoundException")
    assert (await http("GET", "/data/none?op=LISTSTATUS_BATCH")).error == (404, "FileNotFoundException")


async def test_what_is_above_the_rules(http: Client, node: MachineBackend) -> None:
    node.add_rule("deep", b"/a/b/c")
    assert suffixes((await http("GET", "/?op=LISTSTATUS")).document) == ["a", "data"]
    assert suffixes((await http("GET", "/a?op=LISTSTATUS")).document) == ["b"]
    assert suffixes((await http("GET", "/a/b/?op=LISTSTATUS")).document) == ["c"]
    assert suffixes((await http("GET", "/a/b/c?op=LISTSTATUS")).document) == []
    assert (await http.status("/a/b"))["type"] == "DIRECTORY"
    assert (await http.status("/a/x")) is None
    assert (await http("PUT", "/a/x?op=MKDIRS")).error == (404, "FileNotFoundException")
    assert (await http("PUT", "/a/b/c/x/y?op=MKDIRS")).document == {"boolean": True}
    assert (await http("PUT", "/a?op=MKDIRS")).document == {"boolean": True}
    assert (await http("DELETE", "/a?op=DELETE&recursive=true")).error == (403, "AccessControlException")
    assert (await http("DELETE", "/a/b/c?op=DELETE&recursive=true")).error == (403, "AccessControlException")
    assert (await http.status("/a/b/c/x/y"))["type"] == "DIRECTORY"


async def test_the_content_summary_counts_everything_below(
    http: Client, node: MachineBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walking, "PAGE", 2)
    directories, files, size = 1, 0, 0
    for one in range(4):
        for two in range(3):
            await http("PUT", f"/data/{one}/{two}?op=MKDIRS")
            directories += 1
            for three in range(one):
                await http.create(f"/data/{one}/{two}/{three}", b"x" * three)
                files, size = files + 1, size + three
        directories += 1
    summary = (await http("GET", "/data?op=GETCONTENTSUMMARY")).document["ContentSummary"]
    assert (summary["directoryCount"], summary["fileCount"], summary["length"]) == (directories, files, size)
    assert (summary["quota"], summary["spaceQuota"], summary["spaceConsumed"]) == (-1, -1, size)
    one = (await http("GET", "/data/3/0/2?op=GETCONTENTSUMMARY")).document["ContentSummary"]
    assert (one["directoryCount"], one["fileCount"], one["length"]) == (0, 1, 2)
    assert (await http("GET", "/none?op=GETCONTENTSUMMARY")).error == (404, "FileNotFoundException")


# -- checksums --------------------------------------------------------------------------------------------------------


def crc32c(data: bytes) -> bytes:
    """Bit by bit, from the polynomial (RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return (crc ^ 0xFFFFFFFF).to_bytes(4, "big")


def hadoop_md5(data: bytes, block_bytes: int) -> bytes:
    """As Hadoop computes it: block after block into a buffer that is 32 bytes long and doubles."""
    buffer, used = bytearray(32), 0
    for start in range(0, len(data), block_bytes):
        block = data[start : start + block_bytes]
        crcs = b"".join(crc32c(block[at : at + 512]) for at in range(0, len(block), 512))
        if used + 16 > len(buffer):
            buffer += bytes(len(buffer))
        buffer[used : used + 16] = hashlib.md5(crcs).digest()
        used += 16
    return hashlib.md5(buffer).digest()


@pytest.mark.parametrize("size", [1, 511, 512, 513, 1024, 1025, 2048, 2049, 3072, 4096, 4097, 9000])
@pytest.mark.parametrize("step", [512, 1536, 8192])
def test_checksums_of_many_blocks(size: int, step: int) -> None:
    data = bytes(number * 7 % 251 for number in range(size))
    summing = Summing(1024)
    for start in range(0, size, step):
        summing.update(data[start : start + step])
    checksum = summing.finish()
    per_block = 2 if size > 1024 else 0
    assert checksum.algorithm == f"MD5-of-{per_block}MD5-of-512CRC32C"
    assert checksum.data == (512).to_bytes(4, "big") + per_block.to_bytes(8, "big") + hadoop_md5(data, 1024)


def test_the_polynomial_is_the_one_of_the_standard() -> None:
    assert crc32c(b"123456789") == bytes.fromhex("e3069283")


async def test_get_file_checksum(http: Client, node: MachineBackend) -> None:
    await http.create("/data/empty")
    await http.create("/data/x", b"hello" * 1000)
    empty = (await http("GET", "/data/empty?op=GETFILECHECKSUM")).document["FileChecksum"]
    # What `hdfs dfs -checksum` prints for any empty file.
    assert empty == {
        "algorithm": "MD5-of-0MD5-of-0CRC32",
        "bytes": "00000000000000000000000070bc8f4b72a86921468bf8e8441dce51",
        "length": 28,
    }
    found = (await http("GET", "/data/x?op=GETFILECHECKSUM")).document["FileChecksum"]
    assert found["bytes"] == "000002000000000000000000" + hadoop_md5(b"hello" * 1000, BLOCK_BYTES).hex()
    assert (found["algorithm"], found["length"]) == ("MD5-of-0MD5-of-512CRC32C", 28)
    assert not node.still_open()


# -- locations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "offset", "length", "expected"),
    [
        (0, 0, 2**63 - 1, []),
        (10, 0, 10, [Block(0, 0, 10)]),
        (10, 10, 10, []),
        (10, 2**63 - 1, 2**63 - 1, []),
        (BLOCK_BYTES + 1, 0, 1, [Block(0, 0, BLOCK_BYTES)]),
        (BLOCK_BYTES + 1, BLOCK_BYTES - 1, 2, [Block(0, 0, BLOCK_BYTES), Block(1, BLOCK_BYTES, 1)]),
        (BLOCK_BYTES * 3, BLOCK_BYTES, BLOCK_BYTES, [Block(1, BLOCK_BYTES, BLOCK_BYTES)]),
    ],
)
def test_blocks(size: int, offset: int, length: int, expected: list[Block]) -> None:
    assert list(blocks(size, offset, length)) == expected


async def test_block_locations(http: Client, url: str) -> None:
    await http.create("/data/x", b"abc")
    name = url.removeprefix("http://")
    host, port = name.split(":")
    answer = await http("GET", "/data/x?op=GETFILEBLOCKLOCATIONS&offset=0&length=100")
    (block,) = answer.document["BlockLocations"]["BlockLocation"]
    assert (block["hosts"], block["names"], block["offset"], block["length"]) == ([host], [name], 0, 3)
    assert block["topologyPaths"] == [f"/default-rack/{name}"]
    located = (await http("GET", "/data/x?op=GET_BLOCK_LOCATIONS")).document["LocatedBlocks"]
    assert located["fileLength"] == 3
    (one,) = located["locatedBlocks"]
    assert located["lastLocatedBlock"] == one
    assert one["block"]["numBytes"] == 3
    (place,) = one["locations"]
    assert (place["ipAddr"], place["xferPort"], place["infoPort"]) == (host, int(port), int(port))
    await http.create("/data/empty")
    empty = (await http("GET", "/data/empty?op=GET_BLOCK_LOCATIONS")).document["LocatedBlocks"]
    assert (empty["locatedBlocks"], empty["lastLocatedBlock"]) == ([], None)


# -- the rest ---------------------------------------------------------------------------------------------------------


async def test_home_and_defaults(http: Client) -> None:
    for prefix in ("", "/"):
        answer = await http("GET", f"{prefix}?op=GETHOMEDIRECTORY&user.name=alice")
        assert answer.document == {"Path": "/user/alice"}
    assert (await http("GET", "/?op=GETTRASHROOT&user.name=alice")).document == {"Path": "/user/alice/.Trash"}
    defaults = (await http("GET", "/?op=GETSERVERDEFAULTS")).document["FsServerDefaults"]
    assert defaults["encryptDataTransfer"] is False  # a Boolean, which Hadoop's client casts it to
    assert (defaults["blockSize"], defaults["bytesPerChecksum"], defaults["checksumType"]) == (134217728, 512, 2)
