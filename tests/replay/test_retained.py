"""Bytes that an operation brought stay until every zone has them."""

from __future__ import annotations

from lddp.core import effects as e
from lddp.core.records import Append, Attributes, Content, OperationId, Put
from lddp.replay.retained import Retained
from tests.core.support import SOURCE, content
from tests.replay.bench import Bench

HEAD = SOURCE, 1000, b"/data/a"


class Others:
    """How far the other zones are."""

    def __init__(self) -> None:
        self.gsn = 0


def retain(bench: Bench, others: Others) -> Retained:
    """As a node does at its start."""
    with bench.environment.read() as tables:
        bench.projector.retained = Retained(bench.store, lambda _rule: others.gsn, tables)
    return bench.projector.retained


async def test_a_zone_that_was_away_finds_what_was_changed_in_part_since(bench: Bench) -> None:
    others = Others()
    retained = retain(bench, others)
    large = bench.hold(b"large" * 10_000)
    bench.submit(Put(OperationId(b"c", 1), *HEAD, 0o644, 0, 0, large))
    bench.submit(Append(OperationId(b"c", 2), *HEAD, content(b"more")))
    await bench.settled()
    bench.assert_equal()
    held = bench.store.open(large)
    assert held is not None, "the file holds other bytes now; the others have to ask the store"
    assert held.path_to_take() is None

    await bench.end()
    bench.progress.close()
    bench._build()
    retained = retain(bench, others)
    bench.start()
    others.gsn = bench.gsn - 2
    retained.release_due()
    assert bench.store.open(large) is not None
    others.gsn = bench.gsn - 1
    retained.release_due()
    assert bench.store.open(large) is None


async def test_what_is_used_again_is_not_dropped(bench: Bench) -> None:
    others = Others()
    retained = retain(bench, others)
    large = bench.hold(b"large" * 10_000)
    bench.submit(Put(OperationId(b"c", 1), *HEAD, 0o644, 0, 0, large))
    first = bench.gsn
    bench.submit(Put(OperationId(b"c", 2), SOURCE, 1000, b"/data/b", 0o644, 0, 0, large))
    await bench.settled()
    assert bench.asked == [], "one copy serves both files"
    others.gsn = first
    retained.release_due()
    assert bench.store.open(large) is not None


def test_only_bytes_that_nothing_else_holds_are_kept() -> None:
    attributes = Attributes(0o644, 0, 0, 1)
    large = Content(b"d" * 32, 100_000)
    put = e.PutFileEffect(1, b"a", attributes, large, False)
    assert Retained.concerns(put)
    assert Retained.concerns(e.WriteEffect(1, b"a", 0, large, 100_000, attributes))
    assert not Retained.concerns(put._replace(observed=True))
    assert not Retained.concerns(put._replace(content=content(b"inline")))
    assert not Retained.concerns(put._replace(content=large._replace(pack=b"p")))
