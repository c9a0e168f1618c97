"""The options that all client commands share, and how results are written."""

from __future__ import annotations

import functools
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from lddp.cli.client import Client
from lddp.client.settings import read_cluster
from lddp.errors import UsageError

TIMEOUT_S_DEFAULT = 30.0

F = TypeVar("F", bound=Callable[..., Any])


class Size(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """A number of bytes: 0 or more, plain or with K, M, G or T for powers of 1024."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"([0-9]{1,15})([KMGT]?)(?:i?B)?", str(value).strip(), re.IGNORECASE)
        if found is None:
            self.fail(f"{value!r} is not a size; write bytes, or a number with K, M, G or T", param, ctx)
        return int(found[1]) << (10 * " KMGT".index(found[2].upper() or " "))


SIZE = Size()


@dataclass(frozen=True, slots=True)
class Session:
    """What a client command works with."""

    client: Client
    as_json: bool
    timeout_s: float

    def document(self, document: object) -> None:
        """One JSON document on standard output."""
        write_line(json.dumps(document, indent=2).encode("ascii"))

    def json_line(self, document: object) -> None:
        write_line(json.dumps(document).encode("ascii"))
        sys.stdout.flush()


def client_options(function: F) -> F:
    """Adds --endpoint, --cluster, --token-file, --ca-file, --timeout and --json; the command's first argument is the
    Session that they make."""

    @functools.wraps(function)
    def command(
        endpoint: tuple[str, ...],
        cluster: Path | None,
        token_file: Path | None,
        ca_file: Path | None,
        timeout: float,
        as_json: bool,
        **arguments: Any,
    ) -> Any:
        context = click.get_current_context()
        if context.get_parameter_source("cluster") is ParameterSource.COMMANDLINE:
            # What is typed counts more than what the environment says.
            endpoint = () if context.get_parameter_source("endpoint") is ParameterSource.ENVIRONMENT else endpoint
            from_environment = context.get_parameter_source("token_file") is ParameterSource.ENVIRONMENT
            token_file = None if from_environment else token_file
        session = open_session(endpoint, cluster, token_file, ca_file, timeout, as_json)
        return function(session, **arguments)

    path = click.Path(path_type=Path, dir_okay=False)
    decorated: Any = command
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Write JSON."),
        click.option(
            "--timeout",
            type=click.FloatRange(0.1, 300),
            default=TIMEOUT_S_DEFAULT,
            show_default=True,
            help="Seconds to wait for an outcome.",
        ),
        click.option("--ca-file", type=path, envvar="LDDP_CA_FILE", help="The authority of an https endpoint."),
        click.option("--token-file", type=path, envvar="LDDP_TOKEN_FILE", help="File with the bearer token."),
        click.option(
            "--cluster",
            type=click.Path(path_type=Path, file_okay=False),
            envvar="LDDP_CLUSTER",
            help="Directory of 'lddp cluster up': its endpoints and token.",
        ),
        click.option(
            "--endpoint", multiple=True, envvar="LDDP_ENDPOINT", help="URL of a node; may repeat, tried in order."
        ),
    ):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]  # click's decorators keep the function


def open_session(
    endpoints: tuple[str, ...],
    cluster: Path | None,
    token_file: Path | None,
    ca_file: Path | None,
    timeout_s: float,
    as_json: bool,
) -> Session:
    known = list(endpoints)
    if cluster is not None and (not known or token_file is None):
        described = read_cluster(cluster)
        known = known or [str(node["endpoint"]) for node in described["nodes"]]
        token_file = token_file or Path(described["token_file"])
    return Session(Client(known, token_file, ca_file, timeout_s), as_json, timeout_s)


def write_line(data: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(data + b"\n")


def write_name(text: str) -> None:
    """A line with a name in it: byte for byte into a pipe, without control characters on a terminal."""
    data = os.fsencode(text)
    if sys.stdout.isatty():
        data = bytes(byte if byte >= 0x20 and byte != 0x7F else 0x3F for byte in data)
    write_line(data)


def table(rows: list[list[str]]) -> None:
    """Columns as wide as their widest cell; the first row is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        write_name(line.rstrip())


def namespace_path(text: str) -> bytes:
    """A path of the global namespace from the command line, whatever bytes it holds. Raises UsageError."""
    path = os.fsencode(text)
    if not path.startswith(b"/"):
        raise UsageError(f"{text!r} is not absolute; paths of the namespace start with /")
    parts = [part for part in path.split(b"/") if part]
    if any(part in (b".", b"..") for part in parts):
        raise UsageError(f"{text!r} holds '.' or '..'; write the path without them")
    return b"/" + b"/".join(parts)
