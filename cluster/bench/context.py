"""What every benchmark is given."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from cluster.bench.nodes import Ecosystem
from cluster.bench.report import Report


@dataclass(slots=True)
class Context:
    """`rounds` is how often each pair alternates, `entries` how large a large namespace is. `stack` ends with the run:
    what several benchmarks use (`large`) is closed there."""

    report: Report
    rounds: int
    scratch: Path
    entries: int
    stack: ExitStack = field(default_factory=ExitStack)
    large: Ecosystem | None = None
