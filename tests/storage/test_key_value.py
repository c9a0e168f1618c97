"""LMDB and its stand-in in memory behave the same: random transactions against a plain dictionary."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lddp.core.tables import Table
from lddp.ports import KeyValue
from lddp.storage.environment import Environment
from tests.fakes.memory import MemoryKeyValue

KEYS = st.binary(min_size=1, max_size=3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, st.binary(max_size=8)),
        st.tuples(st.just("delete"), KEYS, st.just(b"")),
        st.tuples(st.just("get"), KEYS, st.just(b"")),
        st.tuples(st.just("scan"), KEYS, KEYS),
        st.tuples(st.just("commit"), st.just(b""), st.just(b"")),
        st.tuples(st.just("abort"), st.just(b""), st.just(b"")),
    ),
    max_size=60,
)


class Aborted(Exception):
    pass


@pytest.fixture(params=["memory", "lmdb"])
def keyvalue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyValue]:
    if request.param == "memory":
        yield MemoryKeyValue()
        return
    with Environment.open(str(tmp_path / "db"), ecosystem="e", node="n", map_size=64 << 20) as environment:
        yield environment


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    directory = str(tmp_path_factory.mktemp("storage"))
    with Environment.open(directory, ecosystem="e", node="n", map_size=64 << 20) as opened:
        yield opened


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_both_do_what_a_dictionary_does(environment: Environment, steps: list[tuple[str, bytes, bytes]]) -> None:
    with environment.write() as tables:
        for key, _ in list(tables.scan(Table.LOCAL)):
            tables.delete(Table.LOCAL, key)
    for database in (environment, MemoryKeyValue()):
        _follow(database, steps)


def _follow(database: KeyValue, steps: list[tuple[str, bytes, bytes]]) -> None:
    committed: dict[bytes, bytes] = {}
    steps = [*steps, ("commit", b"", b"")]
    while steps:
        end = next(at for at, step in enumerate(steps) if step[0] in ("commit", "abort"))
        changed = dict(committed)
        try:
            with database.write() as tables:
                for kind, one, other in steps[:end]:
                    match kind:
                        case "put":
                            tables.put(Table.LOCAL, one, other)
                            changed[one] = other
                        case "delete":
                            assert tables.delete(Table.LOCAL, one) == (changed.pop(one, None) is not None)
                        case "get":
                            assert tables.get(Table.LOCAL, one) == changed.get(one)
                        case "scan":
                            expected = sorted((k, v) for k, v in changed.items() if one <= k < other)
                            assert list(tables.scan(Table.LOCAL, one, other)) == expected
                    with database.read() as before:
                        assert before.get(Table.LOCAL, one) == committed.get(one)
                with database.read() as before:
                    assert list(before.scan(Table.LOCAL)) == sorted(committed.items())
                if steps[end][0] == "abort":
                    raise Aborted
            committed = changed
        except Aborted:
            pass
        with database.read() as tables:
            assert list(tables.scan(Table.LOCAL)) == sorted(committed.items())
        steps = steps[end + 1 :]


def test_a_scan_survives_changes_behind_it(keyvalue: KeyValue) -> None:
    with keyvalue.write() as tables:
        for number in range(500):
            tables.put(Table.PENDING, number.to_bytes(2, "big"), b"x")
        seen = []
        for key, _ in tables.scan(Table.PENDING):
            seen.append(key)
            tables.delete(Table.PENDING, key)
            tables.put(Table.OUTCOMES, key, b"y")
        assert seen == [number.to_bytes(2, "big") for number in range(500)]
        assert list(tables.scan(Table.PENDING)) == []


def test_tables_are_apart(keyvalue: KeyValue) -> None:
    with keyvalue.write() as tables:
        for table in Table:
            tables.put(table, b"k", table.value.encode())
    with keyvalue.read() as tables:
        for table in Table:
            assert list(tables.scan(table)) == [(b"k", table.value.encode())]


def test_a_read_transaction_is_open_beside_others(keyvalue: KeyValue) -> None:
    with ExitStack() as stack:
        views = [stack.enter_context(keyvalue.read()) for _ in range(3)]
        assert [view.get(Table.META, b"k") for view in views] == [None] * 3
