"""What of a file is to be sent, against a file that remembers everything."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lddp.doors.fuse.dirty import SPANS_MAX, Dirty

SIZE = 40
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, SIZE), st.integers(0, 12)),
        st.tuples(st.just("resize"), st.integers(0, SIZE + 12), st.just(0)),
    ),
    max_size=20,
)


def carry_out(data: bytearray, dirty: Dirty, steps: list[tuple[str, int, int]], mark: int) -> None:
    for kind, at, length in steps:
        if kind == "write":
            if length:
                data.extend(bytes(max(0, at - len(data))))
                data[at : at + length] = bytes([mark]) * length
            dirty.write(at, at + length)
        else:
            data[:] = data[:at].ljust(at, b"\0")
            dirty.resize(at)


def rebuilt(old: bytes, dirty: Dirty, data: bytes) -> bytes:
    """The file as the records of a commit make it: cut, grown, and the spans written."""
    made = bytearray(old[: dirty.low].ljust(len(data), b"\0"))
    for start, stop in dirty.spans():
        made[start:stop] = data[start:stop]
    return bytes(made)


@given(st.binary(max_size=SIZE), STEPS)
def test_cut_and_spans_make_the_file(old: bytes, steps: list[tuple[str, int, int]]) -> None:
    data, dirty = bytearray(old), Dirty(len(old))
    carry_out(data, dirty, steps, 0xAA)
    assert rebuilt(old, dirty, bytes(data)) == data
    spans = dirty.spans()
    assert all(a < b for a, b in spans) and all(b < c for (_, b), (c, _) in pairwise(spans))
    assert dirty.size == sum(b - a for a, b in spans)


@given(st.binary(max_size=SIZE), STEPS, STEPS)
def test_a_failed_commit_is_taken_back_whole(
    old: bytes, steps: list[tuple[str, int, int]], later: list[tuple[str, int, int]]
) -> None:
    data, first = bytearray(old), Dirty(len(old))
    carry_out(data, first, steps, 0xAA)
    second = Dirty(len(data))
    carry_out(data, second, later, 0xBB)
    assert rebuilt(old, first.again(second), bytes(data)) == data


def test_many_spans_become_few() -> None:
    dirty = Dirty(0)
    for index in range(SPANS_MAX * 2):
        dirty.write(index * 10, index * 10 + 1)
    assert len(dirty.spans()) == SPANS_MAX
    assert dirty.spans()[0][0] == 0 and dirty.spans()[-1][1] == (SPANS_MAX * 2 - 1) * 10 + 1


def test_what_is_written_in_order() -> None:
    dirty = Dirty(0)
    for start, stop in ((0, 10), (10, 30), (30, 31)):
        dirty.write(start, stop)
    assert dirty.run_bytes == 31
    dirty.write(5, 7)
    assert dirty.run_bytes == 2
    dirty.write(40, 50)
    dirty.write(50, 52)
    assert dirty.run_bytes == 12
    assert dirty.span_at(45) == (40, 52) and dirty.stop_of(0) == 31
