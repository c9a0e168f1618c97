"""`lddp init`."""

from __future__ import annotations

import json
import re
import secrets
import sys
from pathlib import Path

import click

from lddp.cli import ecosystem
from lddp.cli.options import write_line
from lddp.config import Role
from lddp.errors import UsageError


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--join", is_flag=True, help="Add a node to the ecosystem in DIR instead of making a new one.")
@click.option("--ecosystem", "name", help="The new ecosystem's id; by default one that is unique.")
@click.option("--node", help="The node's name (a DNS label); by default node-1, node-2, ...")
@click.option("--role", type=click.Choice([role.value for role in Role]), default="voter", show_default=True)
@click.option("--zone", help="The name of the node's zone; by default the node's own name.")
@click.option("--root", default="/", show_default=True, help="Rules may have their trees in this directory and below.")
@click.option("--peer", help="HOST:PORT or unix:/PATH where peers reach the node; by default on loopback.")
@click.option("--http", help="https://HOST:PORT where clients reach it; by default http:// on loopback.")
@click.option("--data", default="data", show_default=True, help="The database's directory.")
@click.option("--staging", default="staging", show_default=True, help="For content on its way; on the zone's disk.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def init(
    directory: Path,
    join: bool,
    name: str | None,
    node: str | None,
    role: str,
    zone: str | None,
    root: str,
    peer: str | None,
    http: str | None,
    data: str,
    staging: str,
    as_json: bool,
) -> None:
    """Make the keys, certificates, token and configuration of a new ecosystem in DIR, with its first node; with
    --join, of one more node. Then copy DIR/NODE to the node's machine and run 'lddp node --config DIR/NODE/node.toml'
    there. DIR/authority stays with you."""
    if join and name is not None:
        raise UsageError("--ecosystem is for a new one; leave it out with --join")
    if role == Role.WITNESS and zone is not None:
        raise UsageError("a witness owns no zone; leave out --zone")
    known = ecosystem.nodes_of(directory) if join else {}
    label = node or f"node-{len(known) + 1}"
    if not re.fullmatch(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", label) or label == ecosystem.AUTHORITY:
        raise UsageError(f"{label!r} is no name for a node; use 1 to 63 of a-z, 0-9 and '-', other than 'authority'")
    plan = ecosystem.NodePlan(
        label,
        Role(role),
        "" if role == Role.WITNESS else zone or label,
        peer or f"127.0.0.1:{ecosystem.PEER_PORT + len(known)}",
        http or f"http://127.0.0.1:{ecosystem.HTTP_PORT + len(known)}",
        root,
        data,
        staging,
    )
    if not join:
        ecosystem.create(directory, name or f"lddp-{secrets.token_hex(6)}")
    try:
        file = ecosystem.add_node(directory, plan)
    except BaseException:
        if not join:
            # A mistake in the options of the first node leaves nothing behind that would refuse the corrected command.
            ecosystem.remove(directory)
        raise
    described = {"ecosystem": ecosystem.ecosystem_of(directory), "node": label, "config": str(file)}
    if as_json:
        write_line(json.dumps(described, indent=2).encode())
    else:
        write_line(f"{file}".encode("utf-8", "surrogateescape"))
        sys.stderr.write(f"node {label} of ecosystem {described['ecosystem']}; run: lddp node --config {file}\n")
