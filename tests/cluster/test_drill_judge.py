"""The drill's judge finds each fault that it is there for."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from blake3 import blake3

from cluster.drill_judge import Judge
from cluster.drill_load import Submitted

SESSION = b"client"
Log = list[dict[str, Any]]


def history() -> tuple[list[Submitted], Log]:
    """Three operations one after the other, and their log."""
    given: list[tuple[str, str, dict[str, Any]]] = [
        ("mkdir", "MakeDirectory", {"mode": 0o755}),
        ("put", "Put", {"data": b"one", "mode": 0o644}),
        ("append", "Append", {"data": b"two"}),
    ]
    operations = []
    log: Log = [{"index": 1, "record": "CreateRule"}]
    for number, (name, record, arguments) in enumerate(given, 1):
        path = b"/drill/d" if name == "mkdir" else b"/drill/d/f"
        operation = Submitted(SESSION, number, name, path, arguments, False, "node-1", number, number + 0.5, 0)
        operation.gsn = len(log) + 1
        operations.append(operation)
        row: dict[str, Any] = {
            "index": operation.gsn,
            "record": record,
            "id": operation.id,
            "zone": 0,
            "time_ns": number,
        }
        row |= {"path": path.decode(), "mode": arguments.get("mode"), "uid": 0, "gid": 0}
        row |= {"expected_version": -1, "expected_inode": 0, "expected_parent": 0}
        if "data" in arguments:
            data = arguments["data"]
            row["content"] = {"digest": blake3(data).hexdigest(), "size": len(data)}
        log.append(row)
    return operations, log


def verdict(operations: list[Submitted], log: Log) -> str:
    for position, row in enumerate(log):
        row["index"] = position + 1
    judge = Judge(operations, log)
    return "\n".join([*judge.fold(), *judge.acknowledged(), *judge.real_time()])


def test_nothing_is_wrong_with_what_is_right() -> None:
    assert not verdict(*history())


def test_a_record_that_comes_again_has_no_second_effect(tmp_path: Path) -> None:
    operations, log = history()
    judge = Judge(operations, [*log, {**log[3], "index": 5}])
    assert not list(judge.fold())
    assert judge.doubles == 1
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_bytes(b"onetwotwo")
    assert any("size is 9, and 6 in the model" in line for line in judge.tree(bytes(tmp_path)))


def test_what_is_lost() -> None:
    operations, log = history()
    assert "not in the log: lost" in verdict(operations, log[:3])


def test_an_outcome_that_the_order_does_not_give() -> None:
    operations, log = history()
    operations[0].errno = errno.EEXIST
    assert "answered EEXIST, the model says 0" in verdict(operations, log).replace("errno 0", "0")


def test_an_order_against_time() -> None:
    operations, log = history()
    log[1], log[2] = log[2], log[1]
    operations[0].gsn, operations[1].gsn = 3, 2
    operations[1].errno = operations[2].errno = errno.ENOENT
    assert "was answered 0.5000 s before" in verdict(operations, log)


def test_bytes_that_nobody_sent() -> None:
    operations, log = history()
    operations[2].arguments["data"] = b"six"
    assert "the bytes in the log are not those that were sent" in verdict(operations, log)
