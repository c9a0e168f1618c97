"""`lddp cluster up` and `down`: a whole ecosystem on loopback, for development and tests."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from lddp.cli.options import table, write_line
from lddp.client.settings import CLUSTER_FILE, read_cluster
from lddp.errors import UsageError

NODES_MAX = 15
READY_S = 60.0


@click.group()
def cluster() -> None:
    """Run a whole ecosystem on loopback, for development and tests."""


_directory = click.argument(
    "directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False, resolve_path=True)
)
_json = click.option("--json", "as_json", is_flag=True, help="Write JSON.")


@cluster.command()
@_directory
@click.option("--nodes", type=click.IntRange(1, NODES_MAX), default=3, show_default=True, help="Nodes with a zone.")
@click.option("--witness", is_flag=True, help="One more node, that votes and owns no zone.")
@click.option("--timeout", type=click.FloatRange(1), default=READY_S, show_default=True, help="Seconds to wait.")
@_json
def up(directory: Path, nodes: int, witness: bool, timeout: float, as_json: bool) -> None:
    """Start nodes whose files are all in DIR, and return once a leader is elected and all are ready. DIR/cluster.json
    describes them; 'lddp --cluster DIR' commands use it. On a DIR that was up before, the same nodes continue."""
    from lddp.cli import processes

    if nodes == 2 and not witness:
        sys.stderr.write("lddp: two voters stop when either does; add --witness to survive the loss of one\n")
    described = processes.up(directory, nodes, witness, timeout)
    if as_json:
        write_line(json.dumps(described, indent=2).encode())
        return
    rows = [[str(one[key] or "-") for key in ("name", "role", "zone", "endpoint", "pid")] for one in described["nodes"]]
    table([["node", "role", "zone", "endpoint", "pid"], *rows])
    write_line(f"{directory / CLUSTER_FILE}".encode("utf-8", "surrogateescape"))


@cluster.command()
@_directory
@_json
def down(directory: Path, as_json: bool) -> None:
    """End the nodes that 'up' started; their data stays in DIR."""
    from lddp.cli import processes

    if not directory.exists():
        raise UsageError(f"{directory} does not exist; give the directory of 'lddp cluster up'")
    described = read_cluster(directory)
    if described.get("command") == "migrate":
        raise UsageError(f"the nodes of {directory} belong to a running 'lddp migrate'; end that with Ctrl-C")
    ended = processes.down(directory, described)
    if as_json:
        write_line(json.dumps({"ended": ended}).encode())
    else:
        write_line(f"{len(ended)} node(s) ended: {', '.join(ended) or 'none was running'}".encode())
