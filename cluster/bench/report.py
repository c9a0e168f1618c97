"""What a benchmark found, as rows of a table, and how they are printed."""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, slots=True)
class Row:
    """One measured thing. `lddp` and `other` hold one value a round, in the same order, so that ratios are taken round
    by round. `bound` is the goal as text; `met` says whether the median keeps it (None: no goal)."""

    benchmark: str
    what: str
    unit: str
    lddp: Sequence[float]
    other_name: str = ""
    other: Sequence[float] = ()
    bound: str = ""
    met: bool | None = None

    @property
    def ratios(self) -> list[float]:
        return [ours / theirs for ours, theirs in zip(self.lddp, self.other, strict=True)] if self.other else []


@dataclass(slots=True)
class Report:
    """Gathers rows and notes; notes say what a figure includes and what was skipped, by name."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def at_least(
        self, benchmark: str, what: str, unit: str, lddp: Sequence[float], name: str, other: Sequence[float], low: float
    ) -> None:
        """A rate with a peer's beside it: the ratio is to be at least `low`."""
        row = Row(benchmark, what, unit, lddp, name, other)
        self.rows.append(_judged(row, f">= {low:g} x", statistics.median(row.ratios) >= low))

    def at_most(
        self,
        benchmark: str,
        what: str,
        unit: str,
        lddp: Sequence[float],
        name: str,
        other: Sequence[float],
        high: float,
    ) -> None:
        """A time with a peer's beside it: the ratio is to be at most `high`."""
        row = Row(benchmark, what, unit, lddp, name, other)
        self.rows.append(_judged(row, f"<= {high:g} x", statistics.median(row.ratios) <= high))

    def below(self, benchmark: str, what: str, unit: str, lddp: Sequence[float], high: float) -> None:
        """A figure without a peer, to be under `high`."""
        row = Row(benchmark, what, unit, lddp)
        self.rows.append(_judged(row, f"< {high:g} {unit}", statistics.median(lddp) < high))

    def plain(
        self, benchmark: str, what: str, unit: str, lddp: Sequence[float], name: str = "", other: Sequence[float] = ()
    ) -> None:
        """A figure without a goal."""
        self.rows.append(Row(benchmark, what, unit, lddp, name, other))


def _judged(row: Row, bound: str, met: bool) -> Row:
    return Row(row.benchmark, row.what, row.unit, row.lddp, row.other_name, row.other, bound, met)


def load_text() -> str:
    one, five, _ = os.getloadavg()
    return f"{os.cpu_count()} processors, load {one:.1f} (1 min), {five:.1f} (5 min)"


def progress(text: str) -> None:
    """Tells whoever waits what is being measured."""
    sys.stderr.write(f"bench: {text}\n")
    sys.stderr.flush()


def print_json(report: Report) -> None:
    rows = [{**asdict(row), "ratios": row.ratios} for row in report.rows]
    sys.stdout.write(json.dumps({"rows": rows, "notes": report.notes}, indent=2) + "\n")


def print_table(report: Report) -> None:
    table = [["benchmark", "what", "lddp", "peer", "ratio", "(lowest-highest)", "goal", ""]]
    for row in report.rows:
        ratios = row.ratios
        table.append(
            [
                row.benchmark,
                row.what,
                f"{_number(statistics.median(row.lddp))} {row.unit}",
                f"{row.other_name} {_number(statistics.median(row.other))}" if row.other else "",
                f"{statistics.median(ratios):.2f}" if ratios else "",
                f"({min(ratios):.2f}-{max(ratios):.2f})" if ratios else _spread(row.lddp),
                row.bound,
                "" if row.met is None else "met" if row.met else "MISSED",
            ]
        )
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for line in table:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
    for note in report.notes:
        sys.stdout.write(f"- {note}\n")


def _spread(values: Sequence[float]) -> str:
    return f"({_number(min(values))}-{_number(max(values))})" if len(values) > 1 else ""


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all are at or below."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
