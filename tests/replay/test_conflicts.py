"""Which effects wait for which, against a definition that looks at every pair."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lddp.core import effects as e
from lddp.replay.conflicts import Blocked, ancestors, paths
from tests.core.support import examples
from tests.replay.effects import EFFECTS


def is_above(path: bytes, other: bytes) -> bool:
    return path != b"" and other.startswith(path + b"/")


def conflicts(waiting: e.Effect, later: e.Effect) -> bool:
    """A name that is the other's, or above it, in either direction; but attributes of a directory do not matter to
    what goes on below it, so they need not wait for that."""
    if waiting.inode == later.inode:
        return True
    ordered = [(one, other) for one in paths(waiting) for other in paths(later)]
    if any(one == other or is_above(one, other) for one, other in ordered):
        return True
    return not isinstance(later, e.SetAttributesEffect) and any(is_above(other, one) for one, other in ordered)


@settings(max_examples=examples(200), deadline=None)
@given(st.lists(st.tuples(st.integers(1, 2), EFFECTS), max_size=6), st.integers(1, 2), EFFECTS)
def test_hits_what_a_look_at_every_pair_finds(waiting: list[tuple[int, e.Effect]], rule: int, later: e.Effect) -> None:
    blocked = Blocked()
    assert not blocked
    for number, effect in waiting:
        blocked.add(number, effect)
    expected = any(
        conflicts(effect, later) if number == rule else effect.inode == later.inode for number, effect in waiting
    )
    assert blocked.hits(rule, later) == expected
    assert bool(blocked) == bool(waiting)


def test_ancestors() -> None:
    assert ancestors(b"a/b/c") == [b"a/b", b"a"]
    assert ancestors(b"a") == ancestors(b"") == []
