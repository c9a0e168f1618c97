"""What a writer knows of the tree that it changes, and how it chooses from it."""

from __future__ import annotations

import os
import random
import stat

from cluster.trees import DEEP

PATHS_MAX = 20_000


class Known:
    """`files` and `directories` are paths that were there once."""

    def __init__(self, root: bytes, chance: random.Random) -> None:
        self.chance = chance
        self.root = root
        self.files: list[bytes] = []
        self.directories: list[bytes] = [root]
        self.made = 0
        self._look(root)

    def _look(self, top: bytes) -> None:
        for at, directories, files in os.walk(top):
            if at.startswith(self.root + b"/" + DEEP):
                directories.clear()
                continue
            self.directories += [os.path.join(at, name) for name in directories]
            self.files += [os.path.join(at, name) for name in files]

    def file(self) -> bytes:
        """Some file; half of the time one of those used last, so that changes meet each other."""
        while self.files:
            recent = self.chance.random() < 0.5
            place = self.chance.randrange(max(0, len(self.files) - 60) if recent else 0, len(self.files))
            path = self.files[place]
            if os.path.lexists(path):
                return path
            self.files[place] = self.files[-1]
            self.files.pop()
        raise ValueError("there is no file left")

    def regular(self) -> bytes:
        path = self.file()
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise ValueError("not a regular file")
        return path

    def directory(self) -> bytes:
        for _ in range(20):
            place = self.chance.randrange(len(self.directories))
            path = self.directories[place]
            if os.path.isdir(path) and not os.path.islink(path):
                return path
            if path != self.root:
                self.directories[place] = self.directories[-1]
                self.directories.pop()
        return self.root

    def movable(self) -> bytes:
        path = self.directory()
        if path == self.root or (self.root + b"/" + DEEP).startswith(path):
            raise ValueError("not to be moved")
        return path

    def name(self) -> bytes:
        """New or, as often, one that is taken perhaps."""
        self.made += 1
        if self.chance.random() < 0.3:
            return b"name%d" % self.chance.randrange(30)
        return self.chance.choice((b"w%d", b"w\xff%d", b"w %d\n")) % self.made

    def place(self) -> bytes:
        return self.directory() + b"/" + self.name()

    def data(self) -> bytes:
        return self.chance.randbytes(self.chance.choice((0, 1, 20, 100, 129, 1000, 5000, 40_000)))

    def know(self, path: bytes) -> None:
        if len(self.files) < PATHS_MAX:
            self.files.append(path)
