"""Where the blocks of a file are: all of them at the node that was asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from lddp.doors.webhdfs.statuses import BLOCK_BYTES

RACK = "/default-rack"
NO_TOKEN = {"urlString": "AAAAAA"}
"""A Hadoop token with four empty fields."""
POOL = "lddp"


class Block(NamedTuple):
    number: int
    offset: int
    length: int


def blocks(size: int, offset: int, length: int) -> Iterator[Block]:
    """The blocks of a file of `size` bytes that have some of its bytes from `offset` on."""
    end = min(size, offset + length)
    if offset >= end:
        return
    at = offset // BLOCK_BYTES * BLOCK_BYTES
    while at < end:
        yield Block(at // BLOCK_BYTES, at, min(BLOCK_BYTES, size - at))
        at += BLOCK_BYTES


def block_location(block: Block, host: str, port: int) -> dict[str, Any]:
    """A BlockLocation (GETFILEBLOCKLOCATIONS)."""
    name = f"{host}:{port}"
    return {
        "cachedHosts": [],
        "corrupt": False,
        "hosts": [host],
        "length": block.length,
        "names": [name],
        "offset": block.offset,
        "storageTypes": ["DISK"],
        "topologyPaths": [f"{RACK}/{name}"],
    }


def located_block(block: Block, inode: int, host: str, port: int) -> dict[str, Any]:
    """A LocatedBlock of HDFS's own (GET_BLOCK_LOCATIONS, which its older clients ask for)."""
    return {
        "block": {
            "blockId": inode + block.number,
            "blockPoolId": POOL,
            "generationStamp": 0,
            "numBytes": block.length,
        },
        "blockToken": NO_TOKEN,
        "cachedLocations": [],
        "isCorrupt": False,
        "locations": [
            {
                "adminState": "NORMAL",
                "hostName": host,
                "infoPort": port,
                "infoSecurePort": 0,
                "ipAddr": host,
                "ipcPort": port,
                "name": f"{host}:{port}",
                "networkLocation": RACK,
                "storageID": POOL,
                "xferPort": port,
            }
        ],
        "startOffset": block.offset,
        "storageTypes": ["DISK"],
    }


def located_blocks(size: int, inode: int, offset: int, length: int, host: str, port: int) -> dict[str, Any]:
    last = list(blocks(size, max(0, size - 1), 1))
    return {
        "fileLength": size,
        "isLastBlockComplete": True,
        "isUnderConstruction": False,
        "lastLocatedBlock": located_block(last[0], inode, host, port) if last else None,
        "locatedBlocks": [located_block(block, inode, host, port) for block in blocks(size, offset, length)],
    }
