"""The timeline of a campaign as one inline SVG: what was broken when, who led, what got through, and how fast."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from cluster.chaos.campaign import Outcome
from cluster.chaos.nemeses import Struck

WIDTH = 1000
LEFT = 92
RIGHT = 14
LANE = 20
GAP = 26
RATE_HEIGHT = 90
LATENCY_HEIGHT = 90
BINS_MAX = 240
GROUPS = {
    "process": ("kill", "kill-all", "stop", "roll"),
    "network": ("isolate", "one-way", "minority", "ring", "loss", "duplicate", "delay"),
    "disk": ("full", "eio", "power", "power-all"),
    "clock": ("clock",),
}
"""Kinds of faults by what they break: each group has a colour."""


class Picture:
    """`svg` is the whole."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome
        recorder = outcome.recorder
        self._acknowledged = sorted(
            (one.completed - recorder.began, one.completed - one.invoked) for one in recorder.operations if one.gsn
        )
        last = self._acknowledged[-1][0] if self._acknowledged else 0.0
        self._end = max(outcome.seconds, last, *(struck.ended for struck in outcome.struck), 1.0)
        self._parts: list[str] = []
        self._y = 18.0

    def svg(self) -> str:
        self._faults()
        self._nodes()
        self._rate()
        self._latency()
        self._axis()
        height = self._y + 24
        label = "Faults, nodes, acknowledged changes and their latency over time"
        head = f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{label}">'
        return "\n".join([head, self._calm(height), *self._parts, "</svg>"])

    def _x(self, second: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(max(second / self._end, 0.0), 1.0)

    def _add(self, text: str) -> None:
        self._parts.append(text)

    def _label(self, text: str, y: float, kind: str = "name") -> None:
        self._add(f'<text class="{kind}" x="{LEFT - 8}" y="{y:.1f}" text-anchor="end">{html.escape(text)}</text>')

    def _title(self, text: str) -> None:
        self._add(f'<text class="title" x="{LEFT}" y="{self._y:.1f}">{html.escape(text)}</text>')
        self._y += 8

    def _calm(self, height: float) -> str:
        """The part after the last fault, shaded."""
        begin = self._x(self._outcome.seconds)
        return (
            f'<rect class="calm" x="{begin:.1f}" y="4" width="{WIDTH - RIGHT - begin:.1f}" height="{height - 28:.0f}"/>'
            f'<text class="tick" x="{WIDTH - RIGHT - 4}" y="14" text-anchor="end">no faults</text>'
        )

    # -- rows -------------------------------------------------------------------------------------------------------

    def _faults(self) -> None:
        self._title("faults")
        by_kind: dict[str, list[Struck]] = {}
        for struck in self._outcome.struck:
            by_kind.setdefault(struck.kind, []).append(struck)
        for group, kinds in GROUPS.items():
            for kind in kinds:
                if kind in by_kind:
                    self._lane(kind, group, by_kind[kind])
        if not by_kind:
            self._label("none", self._y + 12)
            self._y += LANE
        self._y += GAP

    def _lane(self, kind: str, group: str, all_struck: Sequence[Struck]) -> None:
        y = self._y
        self._label(kind, y + 14)
        self._add(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y + 19:.1f}" y2="{y + 19:.1f}"/>')
        room = {id(one): two.began for one, two in pairwise(all_struck)}
        for struck in all_struck:
            end = struck.ended if struck.ended >= 0 else self._end
            left, right = self._x(struck.began), self._x(end)
            where = html.escape(struck.where)
            self._add(
                f'<rect class="{group}" x="{left:.1f}" y="{y + 3:.1f}" width="{max(right - left, 2.5):.1f}" height="13"'
                f' rx="2"><title>{kind} {where}: {struck.began:.1f} s to {end:.1f} s</title></rect>'
            )
            free = self._x(room.get(id(struck), self._end)) - right
            if free > 6.2 * len(struck.where) + 8:
                self._add(f'<text class="where" x="{right + 4:.1f}" y="{y + 13.5:.1f}">{where}</text>')
            elif right - left > 6.2 * len(struck.where) + 6:
                self._add(f'<text class="inside" x="{left + 4:.1f}" y="{y + 13.5:.1f}">{where}</text>')
        self._y += LANE

    def _nodes(self) -> None:
        """A bar while the node answers, thick while it leads."""
        self._title("nodes: thin while it answers, thick while it leads")
        watch = self._outcome.watch
        for name in self._outcome.names:
            y = self._y
            self._label(name, y + 14)
            for begin, end in _spans(((at, name in up) for at, up in watch.up), self._end):
                width = max(self._x(end) - self._x(begin), 1.0)
                self._add(f'<rect class="up" x="{self._x(begin):.1f}" y="{y + 8:.1f}" width="{width:.1f}" height="3"/>')
            for begin, end in _spans(((at, leader == name) for at, leader in watch.leaders), self._end):
                width = max(self._x(end) - self._x(begin), 1.5)
                title = f"<title>{name} leads from {begin:.1f} s to {end:.1f} s</title>"
                self._add(
                    f'<rect class="leads" x="{self._x(begin):.1f}" y="{y + 4:.1f}" width="{width:.1f}" height="11"'
                    f' rx="2">{title}</rect>'
                )
            self._y += LANE
        self._y += GAP

    def _bins(self) -> tuple[float, list[list[float]]]:
        """Seconds of a bin, and the latencies that ended in each."""
        width = max(0.5, math.ceil(self._end / BINS_MAX * 2) / 2)
        found: list[list[float]] = [[] for _ in range(int(self._end / width) + 1)]
        for at, latency in self._acknowledged:
            found[int(at / width)].append(latency)
        return width, found

    def _rate(self) -> None:
        self._title("acknowledged changes a second")
        width, bins = self._bins()
        most = max([len(one) / width for one in bins] + [1.0])
        top, bottom = self._y + 4, self._y + RATE_HEIGHT
        for value in (0.0, most / 2, most):
            y = bottom - (bottom - top) * value / most
            self._add(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            self._label(f"{value:.0f}", y + 4, "tick")
        for number, one in enumerate(bins):
            height = (bottom - top) * len(one) / width / most
            left, right = self._x(number * width), self._x((number + 1) * width)
            if height:
                self._add(
                    f'<rect class="rate" x="{left:.1f}" y="{bottom - height:.1f}"'
                    f' width="{max(right - left - 0.6, 0.5):.1f}" height="{height:.1f}"/>'
                )
        self._y = bottom + GAP

    def _latency(self) -> None:
        """On a logarithmic scale; what waited stands where it ended."""
        self._title("latency of acknowledged changes, by the moment of the answer (median and worst of each bar)")
        top, bottom = self._y + 4, self._y + LATENCY_HEIGHT
        low, high = math.log10(0.001), math.log10(60.0)

        def y_of(seconds: float) -> float:
            place = (math.log10(max(seconds, 0.001)) - low) / (high - low)
            return bottom - (bottom - top) * min(max(place, 0.0), 1.0)

        for seconds, text in ((0.001, "1 ms"), (0.01, "10 ms"), (0.1, "100 ms"), (1.0, "1 s"), (10.0, "10 s")):
            y = y_of(seconds)
            self._add(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            self._label(text, y + 4, "tick")
        width, bins = self._bins()
        for number, one in enumerate(bins):
            if not one:
                continue
            one.sort()
            left, right = self._x(number * width), self._x((number + 1) * width)
            middle, worst = y_of(one[len(one) // 2]), y_of(one[-1])
            x = (left + right) / 2
            self._add(f'<line class="range" x1="{x:.1f}" x2="{x:.1f}" y1="{middle:.1f}" y2="{worst:.1f}"/>')
            self._add(f'<circle class="median" cx="{x:.1f}" cy="{middle:.1f}" r="1.6"/>')
        self._y = bottom + 6

    def _axis(self) -> None:
        steps = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 1e9)
        step = next(step for step in steps if self._end / step <= 12)
        second = 0.0
        while second <= self._end:
            x = self._x(second)
            self._add(f'<line class="tickmark" x1="{x:.1f}" x2="{x:.1f}" y1="{self._y:.1f}" y2="{self._y + 5:.1f}"/>')
            self._add(f'<text class="tick" x="{x:.1f}" y="{self._y + 17:.1f}" text-anchor="middle">{second:g} s</text>')
            second += step


def _spans(changes: Iterable[tuple[float, bool]], end: float) -> list[tuple[float, float]]:
    """Intervals in which something is so, from the moments at which it was seen to change."""
    found: list[tuple[float, float]] = []
    since: float | None = None
    for at, holds in changes:
        if holds and since is None:
            since = at
        elif not holds and since is not None:
            found.append((since, at))
            since = None
    if since is not None:
        found.append((since, end))
    return found
