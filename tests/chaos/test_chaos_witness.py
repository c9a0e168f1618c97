"""The witness notices each way in which a cluster may lie, and lets pass what is merely unknown."""

from __future__ import annotations

import errno
import io
import json
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from cluster.chaos import judging
from cluster.chaos.history import Look, Recorder, document_of, read
from cluster.chaos.verdict import Verdict
from cluster.drill_load import Submitted

SESSION = bytes(12)
RECORDS = {"mkdir": "MakeDirectory", "put": "Put", "append": "Append"}
Log = list[dict[str, Any]]


class Story:
    """A history in the making: each change is submitted at `at` and answered half a second later."""

    def __init__(self) -> None:
        self.recorder = Recorder(io.StringIO(), 0.0)
        self.log: Log = [{"index": 1, "record": "CreateRule"}, {"index": 2, "record": "Observation"}]

    def change(self, at: float, name: str, path: str, data: bytes = b"", logged: bool = True) -> Submitted:
        arguments: dict[str, Any] = {"mode": 0o755} if name == "mkdir" else {"data": data}
        if name == "put":
            arguments["mode"] = 0o644
        number = len(self.recorder.operations) + 1
        one = Submitted(SESSION, number, name, path.encode(), arguments, False, "node-1", at, at + 0.5, 0, 0)
        self.recorder.operations.append(one)
        if logged:
            self.record(one)
        return one

    def record(self, one: Submitted) -> None:
        one.gsn = len(self.log) + 1
        row: dict[str, Any] = {"index": one.gsn, "record": RECORDS[one.name], "id": one.id, "zone": 0}
        row |= {"time_ns": one.gsn, "path": one.path.decode(), "mode": one.arguments.get("mode"), "uid": 0, "gid": 0}
        row |= {"expected_version": -1, "expected_inode": 0, "expected_parent": 0}
        if "data" in one.arguments:
            data = one.arguments["data"]
            row["content"] = {"digest": blake3(data).hexdigest(), "size": len(data)}
        self.log.append(row)

    def look(self, at: float, path: str, value: bytes | None, floor: int, kind: str = "read") -> Look:
        look = Look("looker", "node-1", kind, path.encode(), floor > 0, at, at + 0.5, floor, 0)
        look.errno, look.value = (errno.ENOENT, None) if value is None else (0, value)
        self.recorder.looks.append(look)
        return look

    def broken(self, *others: Log) -> set[str]:
        """The names of the checks that do not hold."""
        verdict = Verdict()
        logs = {f"node-{number}": log for number, log in enumerate((self.log, *others), 1)}
        judging.judge_order(verdict, self.recorder, logs)
        verdict.add_evidence(self.recorder.operations, 0.0)
        self.checks = {check.name: check for check in verdict.checks if not check.held}
        return set(self.checks)


@pytest.fixture
def story() -> Story:
    """A directory, a file in it, and an append to that."""
    made = Story()
    made.change(1, "mkdir", "/drill/d")
    made.change(2, "put", "/drill/d/f", b"one")
    made.change(3, "append", "/drill/d/f", b"two")
    return made


LOST = "no acknowledged operation is lost or doubled"
OUTCOMES = "the model gives every outcome"
TIME = "real-time order is index order"
STRONG = "linearizable reads show no less than what had ended"
LOCAL = "local reads show no less than their node acknowledged"
LOGS = "all nodes have the same log"


def test_what_is_right_holds(story: Story) -> None:
    story.look(4, "/drill/d/f", b"onetwo", 5)
    story.look(4, "/drill/d", b"f", 5, "list")
    story.look(4, "/drill/d/f", b"file 6", 5, "stat")
    story.look(4, "/drill/no", None, 5)
    assert not story.broken(list(story.log))


def test_a_lost_acknowledged_write(story: Story) -> None:
    lost = story.change(4, "append", "/drill/d/f", b"three", logged=False)
    lost.gsn = 6
    assert LOST in story.broken()
    assert story.checks[LOST].violations[0].evidence[0]["id"] == lost.id


def test_a_write_that_took_effect_elsewhere_than_its_client_was_told(story: Story) -> None:
    story.recorder.operations[2].gsn = 17
    assert LOST in story.broken()


def test_a_doubled_append_shows_in_the_tree_and_in_reads(story: Story) -> None:
    story.look(4, "/drill/d/f", b"onetwotwo", 5)
    assert story.broken() == {STRONG}


def test_a_record_that_comes_twice_has_one_effect(story: Story) -> None:
    story.log.append(story.log[-1] | {"index": 6})
    story.look(4, "/drill/d/f", b"onetwo", 6)
    assert not story.broken()


def test_a_reordered_pair(story: Story) -> None:
    story.log[3], story.log[4] = story.log[4] | {"index": 4}, story.log[3] | {"index": 5}
    first, second = story.recorder.operations[1:]
    first.gsn, second.gsn = 5, 4
    second.errno = errno.ENOENT
    assert TIME in story.broken()


def test_a_stale_linearizable_read(story: Story) -> None:
    story.look(4, "/drill/d/f", b"one", 5)
    assert story.broken() == {STRONG}
    ids = [line.get("id") for line in story.checks[STRONG].violations[0].evidence]
    assert story.recorder.operations[2].id in ids


def test_a_barrier_that_is_behind_what_had_ended(story: Story) -> None:
    story.look(4, "/drill/d/f", b"one", 4)
    assert TIME in story.broken()


def test_a_barrier_that_is_behind_what_another_read_had_shown(story: Story) -> None:
    later = story.change(4, "append", "/drill/d/f", b"three")
    later.completed = 20.0
    story.look(5, "/drill/d/f", b"onetwothree", 6)
    story.look(7, "/drill/d/f", b"onetwo", 5)
    assert TIME in story.broken()


def test_a_local_read_may_be_behind_but_not_behind_its_own_node(story: Story) -> None:
    story.look(4, "/drill/d/f", b"one", 0).node = "node-2"
    assert not story.broken()
    story.look(4, "/drill/d/f", b"one", 0)
    assert story.broken() == {LOCAL}


def test_a_read_of_what_was_written_only_later(story: Story) -> None:
    story.look(0, "/drill/d/f", b"onetwo", 0)
    assert story.broken() == {LOCAL}


def test_an_outcome_that_the_order_does_not_give(story: Story) -> None:
    story.recorder.operations[1].errno = errno.EEXIST
    assert OUTCOMES in story.broken()


def test_logs_that_differ(story: Story) -> None:
    other = [*story.log[:-1], story.log[-1] | {"time_ns": 99}]
    assert LOGS in story.broken(other)


@pytest.mark.parametrize("logged", [True, False])
def test_an_unknown_outcome_may_be_in_the_log_or_not(story: Story, logged: bool) -> None:
    unknown = story.change(4, "append", "/drill/d/f", b"three", logged=logged)
    unknown.gsn, unknown.completed, unknown.errno = 0, 0.0, -1
    story.look(9, "/drill/d/f", b"onetwothree" if logged else b"onetwo", len(story.log))
    assert not story.broken()


def test_a_zone_that_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "SETTLE_S", 0.0)
    roots = {"zone-1": tmp_path / "one", "zone-2": tmp_path / "two"}
    for root in roots.values():
        root.mkdir()
        (root / "file").write_bytes(b"same")
    verdict = Verdict()
    (roots["zone-2"] / "file").write_bytes(b"samE")
    judging.judge_trees(verdict, Recorder(io.StringIO(), 0.0), roots, lambda root: iter(()))
    assert [check.held for check in verdict.checks] == [False, True]
    assert any("bytes" in one.text for one in verdict.checks[0].violations)


def test_zones_that_are_not_what_the_log_says(story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "SETTLE_S", 0.0)
    verdict = Verdict()
    witness = judging.judge_order(verdict, story.recorder, {"node-1": story.log})
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_bytes(b"onetwotwo")
    judging.judge_trees(verdict, story.recorder, {"zone-1": tmp_path}, witness.tree)
    (check,) = [check for check in verdict.checks if not check.held]
    (doubled,) = [one for one in check.violations if "size is 9, and 6" in one.text]
    assert [line["op"] for line in doubled.evidence] == ["put", "append"]


def test_a_sample_that_no_order_explains_is_shown_with_its_operations(story: Story) -> None:
    stale = story.look(5, "/drill/d/f", b"one", 5)
    story.recorder.samples = [[*story.recorder.operations[1:], stale]]
    verdict = Verdict()
    judging.judge_samples(verdict, story.recorder)
    assert not verdict.held
    assert verdict.checks[0].violations[0].evidence == [document_of(stale)]


def test_a_history_is_read_as_it_was_written(story: Story) -> None:
    unknown = story.change(5, "put", "/drill/u", b"\xff", logged=False)
    everything = [*story.recorder.operations, story.look(4, "/drill/d/f", b"\xfe", 5)]
    lines = [json.dumps(document_of(one)) for one in everything]
    found = list(read(lines))
    unknown.completed = -1
    assert found == everything
