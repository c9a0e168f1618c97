"""`scripts/bench`: measures, and prints a table of ratios."""

from __future__ import annotations

import tempfile
from importlib import import_module
from pathlib import Path

import click

from cluster.bench.context import Context
from cluster.bench.report import Report, load_text, print_json, print_table, progress

NAMES = ("ordered", "fullpath", "migrate", "visibility", "doors", "memory", "restart", "mount")


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Times that each pair alternates.")
@click.option("--scratch", type=click.Path(path_type=Path, file_okay=False, exists=True), help="Where to work.")
@click.option("--entries", type=click.IntRange(1000), default=1_000_000, show_default=True, help="Of memory, restart.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
def main(names: tuple[str, ...], rounds: int, scratch: Path | None, entries: int, as_json: bool) -> None:
    """Measure NAMES (all, when none is given) and print ratios, medians over the rounds."""
    report = Report()
    report.note(f"at the start: {load_text()}")
    try:
        with tempfile.TemporaryDirectory(prefix="lddp-bench-", dir=scratch) as home:
            context = Context(report, rounds, Path(home), entries)
            with context.stack:
                for name in names or NAMES:
                    progress(name)
                    import_module(f"cluster.bench.{name}").run(context)
    finally:
        # What was measured before something failed is shown all the same.
        report.note(f"at the end: {load_text()}")
        if as_json:
            print_json(report)
        else:
            print_table(report)


main()
