"""The report is one page that needs nothing else, and says first what came out."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

from cluster.chaos.campaign import Outcome, Recovery
from cluster.chaos.history import Recorder
from cluster.chaos.nemeses import Struck
from cluster.chaos.report import page
from cluster.chaos.verdict import Verdict
from cluster.chaos.watch import Watch
from cluster.drill_load import Submitted


class Pairs(HTMLParser):
    """Notices tags that are not closed."""

    VOID = frozenset({"meta", "line", "rect", "circle"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


async def undo() -> None:
    """Nothing was done."""


def outcome(*violations: str) -> Outcome:
    recorder = Recorder(io.StringIO(), 0.0)
    for number in range(40):
        one = Submitted(bytes(12), number, "put", b"/drill/<a>", {"data": b"x"}, True, "node-1", number / 4, 0, 0)
        one.completed, one.gsn = one.invoked + 0.01, number + 1
        recorder.operations.append(one)
    watch = Watch(0.0, [(0.0, "node-1"), (4.0, ""), (5.0, "node-2")], [(0.0, ("node-1", "node-2"))])
    verdict = Verdict()
    verdict.check("writes are kept", "writes", 40, violations)
    verdict.add_evidence(recorder.operations, 0.0)
    names, missing = ["node-1", "node-2"], {"delay": "no TUN"}
    made = Outcome(7, 10.0, "scripts/chaos --seed 7", names, missing, verdict, recorder, watch)
    made.struck = [Struck("kill", "2", 1.0, undo, 3.0), Struck("ring", "2-1", 2.0, undo)]
    made.recoveries = [Recovery(made.struck[0], 0.2, True)]
    made.notes = ["<script>alert(1)</script>"]
    return made


def test_a_campaign_that_held() -> None:
    text = page(outcome())
    assert "Held: all 1 checks" in text
    assert "Violations" not in text
    assert "scripts/chaos --seed 7" in text
    assert "no TUN" in text


def test_a_violation_is_shown_with_the_operations_it_is_about() -> None:
    text = page(outcome(f"{bytes(12).hex()}:3: lost"))
    assert "Violated: 1 of 1 checks" in text
    assert text.index("Violated: 1") < text.index("Violations") < text.index("What happened")
    assert "&quot;invoked&quot;: 0.75" in text


def test_the_page_is_whole_and_needs_nothing_from_elsewhere() -> None:
    text = page(outcome(f"{bytes(12).hex()}:3: lost"))
    pairs = Pairs()
    pairs.feed(text)
    assert not pairs.open
    assert "<script" not in text
    assert not re.search(r"https?://|src=|@import|url\(", text)


def test_nothing_at_all_is_drawn_too() -> None:
    bare = outcome()
    bare.recorder.operations.clear()
    bare.struck.clear()
    bare.watch.leaders.clear()
    bare.recoveries.clear()
    assert "<svg" in page(bare)
