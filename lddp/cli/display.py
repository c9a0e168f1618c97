"""How `lddp migrate` shows what it does: a live panel on a terminal, plain lines otherwise, JSON lines with --json."""

from __future__ import annotations

import json
import sys
import time
from typing import Any, Protocol

PLAIN_EVERY_S = 2.0
JSON_EVERY_S = 1.0


class Display(Protocol):
    def progress(self, state: dict[str, Any]) -> None: ...

    def say(self, message: str) -> None: ...

    def close(self) -> None: ...


def size_text(count: float) -> str:
    """`1.5 GiB` for a number of bytes."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return ""


def printable(text: str) -> str:
    """One line that any terminal can show: control characters and bytes that are not UTF-8 are written as escapes."""
    shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in shown)


def duration_text(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    whole = int(seconds)
    return (
        f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02}"
        if whole >= 3600
        else f"{whole // 60}:{whole % 60:02}"
    )


_SHOWN = (
    "dirs_seen",
    "dirs_migrated",
    "files_seen",
    "files_migrated",
    "bytes_seen",
    "bytes_migrated",
    "changes",
    "files_skipped",
    "files_excluded",
    "index",
)
_PHASES = {"running": "scanning", "completed": "verified"}


class Meter:
    """Makes what is shown from a migration's document. A file that is on its way counts as far as it has come."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def state(self, document: dict[str, Any], lag: int, problem: str) -> dict[str, Any]:
        """`lag` is how many records the slowest target is behind."""
        phase = "verifying" if document.get("verifying") else _PHASES.get(document["state"], document["state"])
        return {
            "phase": phase,
            **{key: document.get(key, 0) for key in _SHOWN},
            "bytes_migrated": min(
                document["bytes_seen"], document["bytes_migrated"] + document.get("bytes_under_way", 0)
            ),
            "lag": lag,
            "failed": len(document.get("failed_paths") or []),
            "bytes_per_second": document.get("bytes_per_second", 0),
            "eta_seconds": document.get("eta_seconds"),
            "elapsed_seconds": round(time.monotonic() - self._began, 1),
            "problem": document.get("problem") or problem,
        }


def receipt_lines(receipt: dict[str, Any]) -> list[str]:
    """A receipt for people."""
    verdict = "the zones are identical" if receipt["holds"] else "the zones differ"
    lines = [f"Receipt {receipt['id']}: at index {receipt['index']} {verdict}."]
    for zone in receipt["zones"]:
        lines.append(
            f"  {zone['zone']:<8} {zone['digest']}  {zone['directories']:,} directories,"
            f" {zone['files']:,} files, {size_text(zone['bytes'])}"
        )
    return lines


class JsonDisplay:
    def __init__(self) -> None:
        self._next = 0.0

    def progress(self, state: dict[str, Any]) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + JSON_EVERY_S
            self._write({"event": "progress", **state})

    def receipt(self, document: dict[str, Any]) -> None:
        self._write({"event": "receipt", **document})

    def say(self, message: str) -> None:
        self._write({"event": "message", "message": message})

    def _write(self, document: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(document) + "\n")
        sys.stdout.flush()

    def close(self) -> None:
        sys.stdout.flush()


class PlainDisplay:
    def __init__(self) -> None:
        self._next = 0.0
        self._phase = ""
        self._problem = ""

    def progress(self, state: dict[str, Any]) -> None:
        now = time.monotonic()
        if state["phase"] != self._phase or now >= self._next:
            self._next, self._phase = now + PLAIN_EVERY_S, state["phase"]
            self.say(line_of(state))
        if state["problem"] != self._problem:
            self._problem = state["problem"]
            self.say(f"problem: {printable(self._problem)}" if self._problem else "the problem is gone")

    def say(self, message: str) -> None:
        sys.stdout.write(message + "\n")
        sys.stdout.flush()

    def close(self) -> None:
        sys.stdout.flush()


def line_of(state: dict[str, Any]) -> str:
    left_out = state["files_skipped"] + state["files_excluded"]
    skipped = f"  skipped {left_out}" if left_out else ""
    unreadable = f"  unreadable {state['failed']}" if state["failed"] else ""
    return (
        f"{state['phase']:<10} {state['dirs_migrated']}/{state['dirs_seen']} dirs"
        f"  {state['files_migrated']}/{state['files_seen']} files"
        f"  {size_text(state['bytes_migrated'])}/{size_text(state['bytes_seen'])}"
        f"  {size_text(state['bytes_per_second'])}/s  eta {duration_text(state['eta_seconds'])}"
        f"  changes {state['changes']}  lag {state['lag']}{skipped}{unreadable}"
    )


class RichDisplay:
    """Redrawn in place, without a thread of its own."""

    def __init__(self, source: str, target: str) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console()
        self._title = f"{printable(source)}  →  {printable(target)}"
        # Streams stay as they are: nodes are forked from this process and write to their own logs.
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._live.start()

    def progress(self, state: dict[str, Any]) -> None:
        self._live.update(self._panel(state), refresh=True)

    def _panel(self, state: dict[str, Any]) -> Any:
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        table.add_column(justify="right", style="dim", min_width=11)
        table.add_column(min_width=28)
        table.add_column(justify="right", style="dim")
        table.add_column(min_width=12)
        total = max(state["bytes_seen"], 1)
        share = state["bytes_migrated"] / total if state["bytes_seen"] else float(state["phase"] != "starting")
        table.add_row("phase", Text(state["phase"], style="bold"), "elapsed", duration_text(state["elapsed_seconds"]))
        table.add_row("bytes", ProgressBar(total=1.0, completed=share, width=28), "", f"{share:.0%}")
        done, seen = size_text(state["bytes_migrated"]), size_text(state["bytes_seen"])
        table.add_row("", f"{done} of {seen}", "rate", f"{size_text(state['bytes_per_second'])}/s")
        table.add_row(
            "files",
            f"{state['files_migrated']:,} of {state['files_seen']:,}",
            "eta",
            duration_text(state["eta_seconds"]),
        )
        table.add_row(
            "directories", f"{state['dirs_migrated']:,} of {state['dirs_seen']:,}", "changes", f"{state['changes']:,}"
        )
        skipped = state["files_skipped"] + state["files_excluded"]
        table.add_row("skipped", f"{skipped:,}", "lag", f"{state['lag']:,}")
        if state["failed"]:
            table.add_row(Text("unreadable", style="red"), Text(f"{state['failed']:,}", style="red"), "", "")
        if state["problem"]:
            table.add_row(Text("problem", style="red"), Text(printable(state["problem"]), style="red"), "", "")
        return Panel(table, title=Text(self._title), title_align="left", border_style="cyan", expand=False)

    def say(self, message: str) -> None:
        self._console.print(message, highlight=False, markup=False)

    def close(self) -> None:
        self._live.stop()


def make_display(as_json: bool, source: str, target: str) -> JsonDisplay | PlainDisplay | RichDisplay:
    if as_json:
        return JsonDisplay()
    if sys.stdout.isatty():
        return RichDisplay(source, target)
    return PlainDisplay()
