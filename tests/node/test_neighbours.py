"""What a node keeps of other nodes on its host."""

from __future__ import annotations

from lddp.node.neighbours import Neighbours


def test_processes_follow_what_their_node_tells() -> None:
    neighbours = Neighbours()
    processes = neighbours.processes
    neighbours.hear("a", [1, 2], [])
    neighbours.hear("b", [3], [])
    assert processes == {1, 2, 3}
    neighbours.hear("a", [1], [])
    assert processes == {1, 3}
    neighbours.keep({"a"})
    assert processes == {1}
    neighbours.keep(set())
    assert not processes


def test_each_scratch_directory_is_told_once() -> None:
    neighbours = Neighbours()
    told: list[bytes] = []
    neighbours.on_scratch.append(told.append)
    neighbours.hear("a", [1], [b"/x"])
    neighbours.hear("a", [1], [b"/x", b"/y"])
    assert told == [b"/x", b"/y"]
    assert neighbours.scratch == {b"/x", b"/y"}
