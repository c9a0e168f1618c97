"""The driver of a mount. The nodes that answer the kernel are in this process, which must not wait for itself: another
one does what `Directory` does."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

from lddp.config import WriteMode
from tests.doors.conformance.directory import Directory
from tests.doors.conformance.steps import Step
from tests.doors.conformance.table import DIRECTORY, MOUNTS
from tests.doors.fuse.live import abort
from tests.doors.served import Served
from tests.node.zones import PATIENCE_S, ROOT

_TOP = Path(__file__).parents[3]


class Mounted:
    """The rule at `ROOT`, mounted at `point` by the node of a zone. A step that takes too long ends with the mount."""

    def __init__(self, served: Served, zone: str, point: Path, mode: WriteMode) -> None:
        self.name = MOUNTS[mode]
        self._served, self._zone, self._point = served, zone, point
        point.mkdir()
        served.run(served.zones.backend(zone).mount(ROOT.strip(b"/").decode(), bytes(point), None, mode))
        command = [sys.executable, "-m", __name__, str(point)]
        self._process = subprocess.Popen(command, cwd=_TOP, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def settle(self) -> None:
        """What was promised is in the log."""
        self._perform(None)

    def perform(self, step: Step) -> object:
        return self._perform(step)

    def _perform(self, step: Step | None) -> object:
        assert self._process.stdin is not None and self._process.stdout is not None
        watch = threading.Timer(PATIENCE_S, abort, [self._point])
        watch.start()
        try:
            pickle.dump(step, self._process.stdin)
            self._process.stdin.flush()
            number, answer = pickle.load(self._process.stdout)
        finally:
            watch.cancel()
        if number:
            raise OSError(number, answer)
        found: object = answer
        return found

    def close(self) -> None:
        try:
            self._process.communicate(timeout=PATIENCE_S)
            self._served.run(self._served.zones.backend(self._zone).unmount(bytes(self._point), lazily=True))
        finally:
            self._process.kill()
            abort(self._point)


def main(point: str) -> None:
    """Performs the steps that come in, until there are no more."""
    door = Directory(Path(point), ROOT, DIRECTORY)
    top = os.open(point, os.O_RDONLY)
    while True:
        try:
            step = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer: tuple[int, object] = 0, os.fsync(top) if step is None else door.perform(step)
        except OSError as error:
            answer = error.errno or -1, str(error)
        pickle.dump(answer, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    os.umask(0o022)
    main(sys.argv[1])
