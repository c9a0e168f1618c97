"""What the clients asked and were told, one JSON line an operation, in the order in which they ended.

A line has `invoked` and `completed` (seconds of the campaign; -1 where the outcome stayed unknown). A line of a change
is one of the drill's `Submitted`; a line of a look (`read`, `list`, `stat`) is a `Look`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from cluster.drill_load import Submitted

Document = dict[str, Any]


@dataclass(slots=True)
class Look:
    """One reading operation. `strong`: behind a barrier, which answered `floor`. `index`: what the node said it showed,
    0 where it did not say. `value`: the bytes, the sorted names joined by zeros, or `kind size`; None with an errno."""

    client: str
    node: str
    kind: str
    path: bytes
    strong: bool
    invoked: float = 0.0
    completed: float = -1.0
    floor: int = 0
    index: int = 0
    errno: int = -1
    value: bytes | None = None
    found_at: int = 0
    """The first index at which the model shows this; the judge's."""

    @property
    def id(self) -> str:
        return f"{self.client} {self.kind} at {self.invoked:.4f}"


class Recorder:
    """Keeps everything, and writes each line when it is known."""

    def __init__(self, file: TextIO, began: float) -> None:
        self.operations: list[Submitted] = []
        self.looks: list[Look] = []
        self.samples: list[list[Submitted | Look]] = []
        """Operations on one path each, for the exhaustive check."""
        self.refused: dict[str, int] = {}
        """Answers that were no outcome, by what they said."""
        self.retries = 0
        self._file = file
        self.began = began

    def ended(self, one: Submitted | Look) -> None:
        self._file.write(json.dumps(self.line(one)) + "\n")

    def line(self, one: Submitted | Look) -> Document:
        return document_of(one, self.began)

    def flush(self) -> None:
        self._file.flush()


def document_of(one: Submitted | Look, began: float = 0.0) -> Document:
    document: Document = {"invoked": round(one.invoked - began, 6)}
    answered = one.completed >= 0 and (not isinstance(one, Submitted) or one.gsn > 0)
    document["completed"] = round(one.completed - began, 6) if answered else -1
    match one:
        case Submitted():
            document |= {"op": one.name, "id": one.id, "index": one.gsn, "tries": one.tries, "alone": one.alone}
            document["arguments"] = {key: _plain(value) for key, value in one.arguments.items()}
        case Look():
            document |= {"op": one.kind, "client": one.client, "strong": one.strong, "floor": one.floor}
            document |= {"index": one.index, "value": _plain(one.value)}
    return document | {"node": one.node, "path": _plain(one.path), "errno": one.errno}


def _plain(value: Any) -> Any:
    return {"base64": base64.b64encode(value).decode("ascii")} if isinstance(value, bytes) else value


def _whole(value: Any) -> Any:
    return base64.b64decode(value["base64"]) if isinstance(value, dict) else value


def read(lines: Iterable[str]) -> Iterator[Submitted | Look]:
    """The inverse of what a Recorder writes."""
    for line in lines:
        document = json.loads(line)
        path, errno, node = _whole(document["path"]), document["errno"], document["node"]
        if "id" in document:
            session, _, sequence = document["id"].partition(":")
            arguments = {key: _whole(value) for key, value in document["arguments"].items()}
            one = Submitted(bytes.fromhex(session), int(sequence), document["op"], path, arguments, document["alone"])
            one.gsn, one.tries = document["index"], document["tries"]
            one.node, one.errno, one.invoked, one.completed = node, errno, document["invoked"], document["completed"]
            yield one
        else:
            look = Look(document["client"], node, document["op"], path, document["strong"])
            look.invoked, look.completed = document["invoked"], document["completed"]
            look.floor, look.index = document["floor"], document["index"]
            look.errno, look.value = errno, _whole(document["value"])
            yield look


def read_file(path: Path) -> tuple[list[Submitted], list[Look]]:
    """A campaign's history.jsonl."""
    with open(path, encoding="ascii") as file:
        found = list(read(file))
    return [one for one in found if isinstance(one, Submitted)], [one for one in found if isinstance(one, Look)]
