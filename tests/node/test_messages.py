"""Messages between nodes come from another process, and perhaps another version: none of them ends who gets it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from lddp.core.records import MakeDirectory
from lddp.errors import FormatError
from lddp.migrate.verify import Finding
from lddp.node.survey import finding_of, list_of
from tests.node.zones import PATIENCE_S, zones

SENDER, RECEIVER = "zone-1", "zone-2"
PROGRESS = {"type": "progress", "gsn": 1, "durable": 0, "applied": 1}
UNREADABLE: list[dict[str, Any]] = [
    {"type": "progress"},
    {"type": "progress", "gsn": 10**6},
    PROGRESS | {"gsn": "1"},
    PROGRESS | {"gsn": -1},
    PROGRESS | {"applied": True},
    PROGRESS | {"applied": 1 << 63},
    PROGRESS | {"durable": None},
    PROGRESS | {"gsn": 10**6, "processes": ["1"]},
    PROGRESS | {"gsn": 10**6, "scratch": 7},
    {"type": "complete"},
    {"type": "complete", "rule": [1]},
    {"type": "survey", "number": 1, "rule": 1},
    {"type": "survey", "number": {}, "rule": 1, "gsn": 1},
    {"type": "surveying"},
    {"type": "finding", "number": "x", "error": "", "finding": None},
    {"type": "finding", "number": 1, "finding": None},
    {"type": "finding", "number": 1, "error": 5},
]


async def test_a_node_outlives_what_it_cannot_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "lddp.consensus.notes")
    async with zones(tmp_path, 3) as world:
        sender, receiver = world.nodes[SENDER], world.nodes[RECEIVER]
        for message in UNREADABLE:
            sender.member.send(RECEIVER, message)
        sender.member.send(RECEIVER, {"type": "of a later version", "gsn": "any"})
        told = {"type": "progress", "gsn": 777, "durable": 0, "applied": 1}
        heard: list[int] = []
        receiver.member.on_message.append(
            lambda peer, message: heard.append(receiver.gossip.projected[peer]) if message == told else None
        )
        sender.member.send(RECEIVER, told)
        await world.until(lambda: bool(heard))
        assert heard == [777], "what can be read is taken, also behind what cannot"
        assert 10**6 not in receiver.gossip.projected.values(), "nothing is taken of a message that is dropped"
        record = MakeDirectory(receiver.gateway.next_id(), receiver.gateway.zone, 1, b"/data/d", 0o755, 0, 0)
        applied = await receiver.gateway.submit(record, PATIENCE_S)
        assert applied.outcome.errno == 0
        await world.shown(applied.gsn)
    lines = [record.getMessage() for record in caplog.records if "are dropped" in record.getMessage()]
    assert len(lines) == 1 and SENDER in lines[0], "one line for a peer"


def test_a_finding_comes_as_it_was_sent() -> None:
    finding = Finding(7, b"d" * 32, 2**300, 1, 2, 3, 1, [(b"/a\xff", "mode")], 1, [b"/x"], 4)
    fields = list_of(finding)
    assert finding_of(fields) == finding
    for at, wrong in ((0, "7"), (1, None), (2, 5), (7, [[b"/a"]]), (7, [b"/a"]), (7, [["/a", b"mode"]]), (9, ["/x"])):
        with pytest.raises(FormatError):
            finding_of([*fields[:at], wrong, *fields[at + 1 :]])
    for wrong_whole in (None, [], fields[:-1], [*fields, 1], {"gsn": 7}):
        with pytest.raises(FormatError):
            finding_of(wrong_whole)
