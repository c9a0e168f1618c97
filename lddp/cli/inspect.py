"""`lddp status`, `nodes`, `leader`, `log`, `barrier`, `receipt`: what the ecosystem is and did."""

from __future__ import annotations

import json
import os
from typing import Any

import click

from lddp.cli.options import Session, client_options, namespace_path, table, write_line, write_name
from lddp.errors import OperationError, UnavailableError

DIFFERENT = 1


def text_of(value: Any) -> str:
    """A value as a table's cell."""
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case dict() | list():
            return json.dumps(value, separators=(",", ":"))
    return str(value)


def plain(document: dict[str, Any], indent: str = "") -> None:
    """A document as aligned lines, nested ones indented."""
    width = max((len(key) for key in document), default=0)
    for key, value in document.items():
        match value:
            case dict():
                write_line(f"{indent}{key}:".encode())
                plain(value, indent + "  ")
            case list() if value and isinstance(value[0], dict):
                write_line(f"{indent}{key}:".encode())
                for one in value:
                    cells = "  ".join(f"{name}={text_of(cell)}" for name, cell in one.items())
                    write_name(f"{indent}  {cells}")
            case list():
                write_name(f"{indent}{key.ljust(width)}  {', '.join(map(text_of, value)) or '-'}")
            case _:
                write_name(f"{indent}{key.ljust(width)}  {text_of(value)}")


@click.command()
@client_options
def status(session: Session) -> None:
    """Show what a node is and how far it is."""
    document = session.client.get("/v1/status")
    if session.as_json:
        session.document(document)
    else:
        plain(document)


@click.command()
@client_options
def nodes(session: Session) -> None:
    """List the nodes of the ecosystem."""
    document = session.client.get("/v1/nodes")
    if session.as_json:
        session.document(document)
        return
    columns = ["name", "role", "zone", "leader", "connected", "projected", "http"]
    table([columns, *([text_of(node.get(column)) for column in columns] for node in document["nodes"])])


@click.command()
@client_options
def leader(session: Session) -> None:
    """Show which node leads; exit code 3 while none does."""
    document = session.client.get("/v1/status")
    name = document.get("leader")
    if not name:
        raise UnavailableError("no node leads at present; wait until a majority of the voters is up")
    if session.as_json:
        session.document({"leader": name, "term": document.get("term")})
    else:
        write_name(str(name))


@click.command()
@click.option("--from", "first", type=click.IntRange(1), default=1, help="First index.")
@click.option("--to", "last", type=click.IntRange(1), help="Last index.")
@click.option("--path", help="Only what concerns this path or what is below it.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Records at most.")
@click.option("--follow", is_flag=True, help="Show what happens from now on, until Ctrl-C.")
@client_options
def log(session: Session, first: int, last: int | None, path: str | None, limit: int, follow: bool) -> None:
    """Show records of the log, oldest first. With --json: one line of JSON for each."""
    if follow:
        _follow(session)
        return
    query: dict[str, Any] = {"from": first, "limit": limit}
    if last is not None:
        query["to"] = last
    if path is not None:
        query["path"] = namespace_path(path)
    while limit > 0:
        page = session.client.get("/v1/log", query)
        for record in page["records"]:
            _show(session, record)
        limit -= len(page["records"])
        if "next" not in page:
            return
        query |= {"from": page["next"], "limit": limit}


def _show(session: Session, record: dict[str, Any]) -> None:
    if session.as_json:
        session.json_line(record)
        return
    rest = "  ".join(
        f"{key}={text_of(value)}"
        for key, value in record.items()
        if key not in ("index", "record", "event", "path")
        and not key.endswith("_base64")
        and value not in (None, "", [])
    )
    write_name(
        f"{record.get('index')}  {record.get('record', record.get('event'))}  {record.get('path', '')}  {rest}".rstrip()
    )


def _follow(session: Session) -> None:
    with session.client.request("GET", "/v1/events", patience_s=60.0) as answer:
        kind = ""
        for line in answer.lines():
            if line.startswith(b"event: "):
                kind = line[7:].decode().strip()
            elif line.startswith(b"data: "):
                _show(session, {"event": kind, **json.loads(line[6:])})


@click.command()
@click.option("--index", type=click.IntRange(0), help="Wait until the node's files show this index instead.")
@client_options
def barrier(session: Session, index: int | None) -> None:
    """Print an index that everything acknowledged before is at or below, once the node asked has applied it."""
    if index is None:
        document = session.client.change("POST", "/v1/barrier")
    else:
        document = session.client.get("/v1/wait", {"index": index, "timeout": session.timeout_s})
    if session.as_json:
        session.document(document)
    else:
        write_line(str(document["index"]).encode())


@click.command()
@click.argument("which", metavar="[ID|RULE]", required=False)
@client_options
def receipt(session: Session, which: str | None) -> int:
    """Show one receipt (by its ID), or the receipts of a RULE or of all. Exit code 1 where the one shown, or the
    newest of a rule, does not hold."""
    if which is not None and which.isascii() and which.isdigit():
        document = session.client.get(f"/v1/receipts/{which}")
        receipts = [document]
    else:
        document = session.client.get("/v1/receipts", {"rule": os.fsencode(which)} if which else None)
        receipts = document["receipts"]
        if which and not receipts:
            raise OperationError(2, f"the rule {which!r} has no receipt; 'lddp migration complete {which}' makes one")
    if session.as_json:
        session.document(document)
    else:
        for one in receipts:
            plain(one)
    return DIFFERENT if which and receipts and not receipts[0].get("holds") else 0
