"""Where each watched directory was seen last.

inotify names a directory by the number of its watch, which stays with the directory wherever it is moved. A place is
needed only to open the directory again by path. It may be out of date, as there may be renames whose events were not
read yet; so whoever opens a path compares the handle of what it got.
"""

from __future__ import annotations

from collections.abc import Iterator


class Node:
    """One watched directory. Without a parent it is the root, or adrift: watched, and nobody knows where it is."""

    __slots__ = ("children", "handle", "name", "parent", "watch")

    def __init__(self, watch: int, handle: bytes) -> None:
        self.watch = watch
        self.handle = handle
        self.parent: Node | None = None
        self.name = b""
        self.children: dict[bytes, Node] = {}


class Tree:
    def __init__(self, root: Node) -> None:
        self.root = root
        self.by_watch = {root.watch: root}
        self.adrift: set[Node] = set()

    def add(self, node: Node) -> None:
        """A directory that is watched from now on; adrift until it is placed."""
        self.by_watch[node.watch] = node
        self.adrift.add(node)

    def discard(self, node: Node) -> None:
        """Forgets a directory that is not watched any more; what was below it is adrift."""
        self.by_watch.pop(node.watch, None)
        for child in list(node.children.values()):
            self.set_adrift(child)
        self.set_adrift(node)
        self.adrift.discard(node)

    def place(self, node: Node, parent: Node, name: bytes) -> bool:
        """`node` was seen at `name` below `parent`; whatever was there before is adrift. False, and `node` is adrift,
        if that is below itself: then one of the places believed in is out of date."""
        if node.parent is parent and node.name == name:
            return True
        self.set_adrift(node)
        above: Node | None = parent
        while above is not None:
            if above is node:
                return False
            above = above.parent
        self.vacate(parent, name)
        parent.children[name] = node
        node.parent, node.name = parent, name
        self.adrift.discard(node)
        return True

    def vacate(self, parent: Node, name: bytes) -> None:
        """Nothing that is known is at `name` below `parent` any more."""
        there = parent.children.get(name)
        if there is not None:
            self.set_adrift(there)

    def set_adrift(self, node: Node) -> None:
        if node.parent is not None:
            del node.parent.children[node.name]
            node.parent, node.name = None, b""
        if node is not self.root:
            self.adrift.add(node)

    def path(self, node: Node) -> list[bytes] | None:
        """The names from the root down to `node`; None if it or something above it is adrift."""
        names: list[bytes] = []
        at = node
        while at.parent is not None:
            names.append(at.name)
            at = at.parent
        if at is not self.root:
            return None
        names.reverse()
        return names

    def below(self, node: Node) -> Iterator[Node]:
        """`node` and all that is below it, children before parents."""
        found = [node]
        for one in found:
            found.extend(one.children.values())
        return reversed(found)
