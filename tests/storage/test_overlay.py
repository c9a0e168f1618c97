"""An overlay reads as a transaction with the same changes would, and leaves the same behind."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lddp.core.tables import Table
from lddp.storage.overlay import Overlay
from tests.fakes.memory import MemoryKeyValue

KEYS = st.binary(min_size=1, max_size=2)
ROWS = st.dictionaries(KEYS, st.binary(max_size=3), max_size=20)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, st.binary(max_size=3)),
        st.tuples(st.just("delete"), KEYS, st.just(b"")),
        st.tuples(st.just("get"), KEYS, st.just(b"")),
        st.tuples(st.just("scan"), st.binary(max_size=2), st.one_of(st.none(), KEYS)),
        st.tuples(st.just("sweep"), st.binary(max_size=2), st.one_of(st.none(), KEYS)),
    ),
    max_size=40,
)


def stored(rows: dict[bytes, bytes]) -> MemoryKeyValue:
    keyvalue = MemoryKeyValue()
    with keyvalue.write() as tables:
        for key, value in rows.items():
            tables.put(Table.META, key, value)
    return keyvalue


@given(rows=ROWS, steps=STEPS)
def test_it_is_as_if_the_changes_had_been_made(rows: dict[bytes, bytes], steps: list[tuple[str, bytes, bytes]]) -> None:
    keyvalue, expected = stored(rows), stored(rows)
    with expected.write() as model, keyvalue.read() as base:
        overlay = Overlay(base)
        for what, key, argument in steps:
            match what:
                case "put":
                    overlay.put(Table.META, key, argument)
                    model.put(Table.META, key, argument)
                case "delete":
                    assert overlay.delete(Table.META, key) == model.delete(Table.META, key)
                case "get":
                    assert overlay.get(Table.META, key) == model.get(Table.META, key)
                case "scan":
                    found = list(overlay.scan(Table.META, key, argument))
                    assert found == list(model.scan(Table.META, key, argument))
                case _:
                    # Changes behind the scan's place, while it is under way.
                    for tables in (overlay, model):
                        for row, _ in tables.scan(Table.META, key, argument):
                            tables.delete(Table.META, row)
                            tables.put(Table.META, row[:1], b"behind")
        assert [*overlay.scan(Table.META)] == [*model.scan(Table.META)]
    with keyvalue.write() as tables:
        overlay.flush(tables)
    with keyvalue.read() as one, expected.read() as other:
        assert [*one.scan(Table.META)] == [*other.scan(Table.META)]


def test_many_new_keys_are_found_in_order() -> None:
    with stored({}).read() as base:
        overlay = Overlay(base)
        for number in range(100, 0, -1):
            overlay.put(Table.META, number.to_bytes(2, "big"), b"x")
        assert [int.from_bytes(key, "big") for key, _ in overlay.scan(Table.META)] == list(range(1, 101))
        assert len(overlay) == 100


def test_what_was_changed_is_seen_over_a_newer_transaction() -> None:
    first, second = stored({b"a": b"1", b"b": b"1"}), stored({b"a": b"2", b"b": b"2", b"c": b"2"})
    with first.read() as before, second.read() as after:
        overlay = Overlay(before)
        overlay.put(Table.META, b"a", b"mine")
        overlay.delete(Table.META, b"b")
        overlay.put_over(after)
        assert overlay.base is after
        assert list(overlay.scan(Table.META)) == [(b"a", b"mine"), (b"c", b"2")]
        assert overlay.get(Table.META, b"c") == b"2" and overlay.get(Table.META, b"b") is None
        overlay.put_over(before)
        assert list(overlay.scan(Table.META)) == [(b"a", b"mine")]
