"""`lddp node`."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import click

LEVELS = ("debug", "info", "warning", "error")


@click.command()
@click.option(
    "--config", "file", required=True, type=click.Path(path_type=Path), help="The node's configuration (node.toml)."
)
@click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True)
def node(file: Path, log_level: str) -> int:
    """Run one node in the foreground, until SIGTERM or Ctrl-C. It logs to standard error."""
    from lddp.config import load

    config = load(file, os.environ)
    from lddp.node import run

    logging.basicConfig(
        level=log_level.upper(),
        stream=sys.stderr,
        format=f"%(asctime)s.%(msecs)03d %(levelname).1s {config.name} %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
    return run(config) or 0
