"""Small histories, as those of `small`, that are mostly of directories on very few names: made, moved with what is in
them, removed, and made again where others have been."""

from __future__ import annotations

from random import Random

from tests.replay.small import EVENTS, Story

STEPS = (8, 15, 30)
NAMES = (("a", "b"), ("a", "b", "c"), ("a", "b", "c", "d"))
TRIES = 20


class _Tree:
    """What is there, so that most steps are possible: kinds by path, `d` and `f`."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._kinds: dict[str, str] = {}
        self._names = random.choice(NAMES)
        self._depth = random.choice([2, 3, 4])

    def step(self) -> str | None:
        (make,) = self._random.choices(
            [self._mkdir, self._rename, self._exchange, self._rmdir, self._put, self._unlink, self._link],
            [33, 30, 7, 14, 8, 6, 6],
        )
        return make()

    def _directories(self) -> list[str]:
        return sorted(path for path, kind in self._kinds.items() if kind == "d")

    def _tree(self, path: str) -> dict[str, str]:
        """Takes out a path and what is below it, by the rest of their paths."""
        found = [other for other in self._kinds if other == path or other.startswith(path + "/")]
        return {other[len(path) :]: self._kinds.pop(other) for other in found}

    def _empty(self) -> list[str]:
        return [path for path in self._directories() if not any(other.startswith(path + "/") for other in self._kinds)]

    def _free(self) -> str | None:
        for _ in range(TRIES):
            above = self._random.choice(["", *self._directories()])
            path = f"{above}/{self._random.choice(self._names)}".lstrip("/")
            if path.count("/") < self._depth and path not in self._kinds:
                return path
        return None

    def _mkdir(self) -> str | None:
        path = self._free()
        if path is None:
            return None
        self._kinds[path] = "d"
        return f"mkdir {path}"

    def _put(self) -> str | None:
        path = self._free()
        if path is None:
            return None
        self._kinds[path] = "f"
        return f"{self._random.choice(['put', 'symlink'])} {path}"

    def _rename(self) -> str | None:
        directories = self._directories()
        if not directories:
            return None
        path = self._random.choice(directories if self._random.random() < 0.85 else sorted(self._kinds))
        over = [other for other in self._empty() if other != path and not path.startswith(other + "/")]
        to = (
            self._random.choice(over) if over and path in directories and self._random.random() < 0.25 else self._free()
        )
        if to is None or to == path or to.startswith(path + "/"):
            return None
        self._kinds.pop(to, None)
        self._kinds |= {to + rest: kind for rest, kind in self._tree(path).items()}
        return f"rename {path} {to}"

    def _exchange(self) -> str | None:
        if len(self._kinds) < 2:
            return None
        one, other = self._random.sample(sorted(self._kinds), 2)
        if one.startswith(other + "/") or other.startswith(one + "/"):
            return None
        first, second = self._tree(one), self._tree(other)
        self._kinds |= {other + rest: kind for rest, kind in first.items()}
        self._kinds |= {one + rest: kind for rest, kind in second.items()}
        return f"exchange {one} {other}"

    def _rmdir(self) -> str | None:
        empty = self._empty()
        if not empty:
            return None
        path = self._random.choice(empty)
        del self._kinds[path]
        return f"rmdir {path}"

    def _files(self) -> list[str]:
        return sorted(path for path, kind in self._kinds.items() if kind == "f")

    def _link(self) -> str | None:
        files, to = self._files(), self._free()
        if not files or to is None:
            return None
        self._kinds[to] = "f"
        return f"link {self._random.choice(files)} {to}"

    def _unlink(self) -> str | None:
        files = self._files()
        if not files:
            return None
        path = self._random.choice(files)
        del self._kinds[path]
        return f"unlink {path}"


def make_deep_story(seed: int) -> Story:
    """The same one for a seed, every time."""
    random = Random(f"deep story {seed}")
    tree = _Tree(random)
    before = [tree.step() for _ in range(random.randrange(16))]
    after = [tree.step() for _ in range(random.choice(STEPS))]
    if random.random() < 0.3:
        after.insert(random.randrange(len(after)), random.choice(EVENTS))
    batch = random.choice([1, 1, 2, 3, 99])
    return Story(tuple(filter(None, before)), tuple(filter(None, after)), batch, most=max(STEPS))
