"""Which effects must wait for which: same inode, same path, or one path above the other."""

from __future__ import annotations

from lddp.core import effects as e


def paths(effect: e.Effect) -> tuple[bytes, ...]:
    """The names that an effect uses, relative to its rule's root."""
    match effect:
        case e.LinkEffect(_, path, to) | e.RenameEffect(_, path, to, _):
            return (path, to)
        case e.UnparkEffect(_, to):
            return (to,)
        case _:
            return (effect.path,)


def ancestors(path: bytes) -> list[bytes]:
    """Every directory above a path: `a/b/c` has `a/b`, `a`; the root, which is above all, is left out."""
    found = []
    end = path.rfind(b"/")
    while end > 0:
        found.append(path[:end])
        end = path.rfind(b"/", 0, end)
    return found


class Blocked:
    """Effects that wait; `hits` says whether another one must wait behind them. What it costs grows with what waits,
    and hardly with how deep that is: there may be thousands below hundreds of directories."""

    def __init__(self) -> None:
        self._inodes: set[int] = set()
        self._paths: set[tuple[int, bytes]] = set()
        self._lengths: set[int] = set()
        """Of the paths: others need not be looked for among them."""
        self._above: set[tuple[int, bytes]] = set()
        """Of each directory in it, all above are in it as well."""

    def __bool__(self) -> bool:
        return bool(self._inodes)

    def add(self, rule: int, effect: e.Effect) -> None:
        self._inodes.add(effect.inode)
        for path in paths(effect):
            self._paths.add((rule, path))
            self._lengths.add(len(path))
            end = path.rfind(b"/")
            while end > 0 and (above := (rule, path[:end])) not in self._above:
                self._above.add(above)
                end = path.rfind(b"/", 0, end)

    def hits(self, rule: int, effect: e.Effect) -> bool:
        if not self._inodes:
            return False
        if effect.inode in self._inodes:
            return True
        if isinstance(effect, e.SetAttributesEffect):
            return self.has(rule, effect.path)
        return any((rule, path) in self._above or self.has(rule, path) for path in paths(effect))

    def has(self, rule: int, path: bytes) -> bool:
        """Whether something that waits changes what is at a path."""
        return (rule, path) in self._paths or self._is_below(rule, path)

    def _is_below(self, rule: int, path: bytes) -> bool:
        end = path.rfind(b"/")
        while end > 0:
            if end in self._lengths and (rule, path[:end]) in self._paths:
                return True
            end = path.rfind(b"/", 0, end)
        return False
