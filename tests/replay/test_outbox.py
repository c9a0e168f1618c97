"""Effects on their way: written, read, counted and discarded in the order of the log."""

from __future__ import annotations

from typing import get_args

import msgpack
from hypothesis import given, settings
from hypothesis import strategies as st

from lddp.core import effects as e
from lddp.core.records import Attributes, Content
from lddp.core.tables import Table
from lddp.replay import outbox
from tests.core.support import content, examples
from tests.fakes.tables import DictTables
from tests.replay.effects import EFFECTS

ALL = (0, 0xFFFFFFFF)
REMOVE = e.RemoveEffect(7, b"a", False)


@settings(max_examples=examples(100), deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(1, 3), EFFECTS), max_size=4), max_size=4))
def test_every_effect_comes_back_as_it_was(records: list[list[tuple[int, e.Effect]]]) -> None:
    tables = DictTables()
    written: list[outbox.Item] = []
    for number, effects in enumerate(records, 1):
        written += outbox.append(tables, number, 1, [e.ScopedEffect(rule, e.Scope(), one) for rule, one in effects])
    found = outbox.read(tables, (0, 0), 1000)
    assert found == written
    assert [type(item.effect) for item in found] == [type(effect) for effects in records for _, effect in effects]
    for item, kept in zip(found, written, strict=True):
        assert [type(field) for field in item.effect] == [type(field) for field in kept.effect]


def test_effects_of_earlier_versions_are_read() -> None:
    """They did not say what a file was before it is changed in part."""
    tables = DictTables()
    attributes = Attributes(0o644, 0, 0, 1)
    changes = [e.WriteEffect(7, b"a", 0, content(b"new"), 9, attributes), e.TruncateEffect(7, b"a", 9, attributes)]
    for gsn, change in enumerate(changes, 1):
        outbox.append(tables, gsn, 1, [e.ScopedEffect(1, e.Scope(), change)])
        key = outbox.KEY.pack(gsn, 0)
        row = tables.get(Table.EFFECTS, key)
        assert row is not None
        *fields, _ = msgpack.unpackb(row)
        tables.put(Table.EFFECTS, key, msgpack.packb(fields))
    assert [item.effect for item in outbox.read(tables, (0, 0), 10)] == changes


def test_what_a_file_was_is_needed_until_it_is_changed() -> None:
    tables = DictTables()
    base = e.Base(Content(b"b" * 32, 9), 4)
    outbox.append(
        tables, 5, 1, [e.ScopedEffect(1, e.Scope(), e.TruncateEffect(7, b"a", 3, Attributes(0, 0, 0, 0), base))]
    )
    assert outbox.names(tables, b"b" * 32)


def test_every_type_of_effect_is_known() -> None:
    assert set(get_args(e.Effect)) == set(outbox._CODES)
    assert len(set(outbox._CODES.values())) == len(outbox._CODES)


def test_only_effects_for_this_zone_are_kept_and_ordinals_have_no_gap() -> None:
    tables = DictTables()
    scopes = [e.Scope(), e.Scope(only=1), e.Scope(only=2), e.Scope(but=1), e.Scope(but=2)]
    kept = outbox.append(tables, 5, 1, [e.ScopedEffect(9, scope, REMOVE) for scope in scopes])
    assert [item.order for item in kept] == [(5, 0), (5, 1), (5, 2)]
    assert [outbox.is_for(1, scope) for scope in scopes] == [True, True, False, False, True]
    assert outbox.read(tables, (0, 0), 10) == kept


def test_reading_counting_and_discarding() -> None:
    tables = DictTables()
    for gsn in (3, 4, 300):
        outbox.append(tables, gsn, 1, [e.ScopedEffect(1, e.Scope(), REMOVE)] * 2)
    orders = [item.order for item in outbox.read(tables, (0, 0), 100)]
    assert orders == [(3, 0), (3, 1), (4, 0), (4, 1), (300, 0), (300, 1)]
    assert [item.order for item in outbox.read(tables, (3, 0), 2)] == [(3, 1), (4, 0)]
    assert outbox.read(tables, (300, 1), 5) == outbox.read(tables, (300, 0xFFFFFFFF), 5) == []
    assert outbox.count_after(tables, (3, 1), 100) == 4
    assert outbox.count_after(tables, (3, 1), 3) == 3
    outbox.discard(tables, 3)
    assert [item.order for item in outbox.read(tables, (0, 0), 100)] == orders[2:]
    outbox.discard(tables, 1000)
    assert list(tables.scan(Table.EFFECTS)) == []
