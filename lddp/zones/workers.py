"""The worker processes of a node, which put the small files of its zone into place side by side."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence

from lddp.ports import NewFile
from lddp.zones.attributes import Shortfall
from lddp.zones.worker import REQUESTS_MAX, Answer, Tree, Worker

WORKERS = 2
"""What a filesystem's own locks leave of more than that is not worth their memory."""
REQUEST_FILES = 64
"""Files of one request: enough to be worth waking a worker, few enough for all workers to end together."""

_log = logging.getLogger(__name__)


class Workers:
    """Start them while the process has one thread; may be used from several afterwards. A worker that is gone is not
    replaced: the others, or the node itself, do its work."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = list(workers)
        self._lock = threading.Lock()
        self._opened: dict[Tree, int] = {}
        """Numbers of the trees; 0 for one that a worker could not open."""
        self._numbers = 0
        self._closed: list[int] = []

    @classmethod
    def start(cls, count: int = WORKERS) -> Workers:
        """As many as the system has room for, if that is any."""
        workers: list[Worker] = []
        try:
            for _ in range(count):
                workers.append(Worker.start(workers))
        except OSError as error:
            _log.warning("of %d worker processes, %d could be started: %s", count, len(workers), error.strerror)
        return cls(workers)

    @property
    def processes(self) -> list[int]:
        """Process ids of those that have not ended."""
        return [worker.process for worker in self._workers]

    def put(self, tree: Tree, files: Sequence[NewFile]) -> Answer | None:
        """Puts the first ones of `files`; some of those behind may be in place as well when one is refused. None where
        the node must do it itself."""
        with self._lock:
            number = self._open(tree)
            if not number:
                return None
            # Files of one name are put by one worker, so that the last one stays.
            several = len({file.path for file in files}) == len(files)
            answers = self._put_all(number, files, self._workers if several else self._workers[:1])
            self._workers = [worker for worker in self._workers if worker.process]
        return _together(answers)

    def forget(self, tree: Tree) -> None:
        """The node has closed a tree."""
        with self._lock:
            number = self._opened.pop(tree, 0)
            if number:
                self._closed.append(number)

    def close(self) -> None:
        """Ends the processes, once they have answered for what they were given."""
        with self._lock:
            workers, self._workers = self._workers, []
            for worker in workers:
                worker.close()

    # -- all under the lock -----------------------------------------------------------------------------------------

    def _open(self, tree: Tree) -> int:
        """The number of a tree; 0 where it is not for the workers."""
        if tree not in self._opened:
            closed, self._closed = self._closed, []
            self._numbers += 1
            same = True
            for worker in self._workers:
                try:
                    same = worker.open(self._numbers, tree, closed) and same
                except (OSError, EOFError) as error:
                    _lost(worker, error)
            if not same:
                _log.warning("a worker process cannot open %r; its files are put by the node itself", tree.root)
            self._opened[tree] = self._numbers if same else 0
            self._workers = [worker for worker in self._workers if worker.process]
        return self._opened[tree] if self._workers else 0

    def _put_all(self, number: int, files: Sequence[NewFile], workers: Sequence[Worker]) -> list[tuple[int, Answer]]:
        """(files asked for, answer) of each request, in order; until a file is refused, or is none for a worker."""
        answered: list[tuple[int, Answer]] = []
        unanswered: deque[tuple[Worker, int]] = deque()
        begun, whole = 0, True
        while unanswered or (whole and begun < len(files)):
            if whole and begun < len(files) and len(unanswered) < REQUESTS_MAX * len(workers):
                worker = workers[(len(answered) + len(unanswered)) % len(workers)]
                share = files[begun : begun + REQUEST_FILES]
                count = _begin(worker, number, share)
                begun += count
                whole = count == len(share)
                if count:
                    unanswered.append((worker, count))
                continue
            worker, count = unanswered.popleft()
            answer = _end(worker)
            answered.append((count, answer))
            whole = whole and answer.done == count
        return answered


def _begin(worker: Worker, number: int, files: Sequence[NewFile]) -> int:
    if worker.process:
        try:
            return worker.begin(number, files)
        except (OSError, EOFError) as error:
            _lost(worker, error)
    return 0


def _end(worker: Worker) -> Answer:
    if worker.process:
        try:
            return worker.end()
        except (OSError, EOFError) as error:
            _lost(worker, error)
    return Answer(0, None, [])


def _together(answers: Sequence[tuple[int, Answer]]) -> Answer | None:
    """What the answers say of the files in their order, up to the first that is not in place."""
    done, error, whole = 0, None, True
    shortfalls: list[Shortfall] = []
    for count, answer in answers:
        shortfalls += answer.shortfalls
        if whole:
            done, error = done + answer.done, answer.error
            whole = answer.done == count
    return Answer(done, error, shortfalls) if done or error is not None else None


def _lost(worker: Worker, error: Exception) -> None:
    _log.error("worker process %d has ended (%s); others do its work from now on", worker.process, error)
    worker.close()
