"""`lddp rule` and `lddp migration`."""

from __future__ import annotations

import json
import os
import time
from typing import Any
from urllib.parse import quote

import click

from lddp.cli.inspect import plain, text_of
from lddp.cli.options import Session, client_options, namespace_path, table, write_name
from lddp.errors import UnavailableError, UsageError

ENDED = frozenset({"completed", "aborted", "failed", "stopped"})
STATES = ("created", "running", "live", "paused", "stopped", "completed", "aborted", "failed")
POLL_S = 0.5


def _route(kind: str, name: str, *more: str) -> str:
    return "/".join(["/v1", kind, quote(os.fsencode(name), safe=""), *more])


@click.group()
def rule() -> None:
    """Create, list, show, remove replication rules."""


def _member(text: str, source: str | None, observe_only: bool) -> dict[str, Any]:
    zone, separator, local_path = text.partition(":")
    if not zone or not separator or not local_path.startswith("/"):
        raise UsageError(f"the member {text!r} is not ZONE:/LOCAL/PATH; write it so")
    return {"zone": zone, "local_path": local_path, "observe_only": observe_only and zone == source}


def _option(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not key or not separator:
        raise UsageError(f"the option {text!r} is not KEY=VALUE; write it so")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


@rule.command("create")
@click.argument("name")
@click.argument("path")
@click.argument("members", nargs=-1, required=True, metavar="ZONE:LOCAL_PATH...")
@click.option("--source", help="The zone that has data already.")
@click.option("--observe-only", is_flag=True, help="Only read and watch the source, never write it.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="A setting of the rule; may repeat.")
@client_options
def create(
    session: Session,
    name: str,
    path: str,
    members: tuple[str, ...],
    source: str | None,
    observe_only: bool,
    options: tuple[str, ...],
) -> None:
    """Replicate PATH of the global namespace between zones, each with its tree at the LOCAL_PATH given."""
    if observe_only and source is None:
        raise UsageError("--observe-only needs --source, the zone that is only observed")
    body = {
        "name": name,
        "path": os.fsdecode(namespace_path(path)),
        "source": source,
        "members": [_member(member, source, observe_only) for member in members],
        "options": dict(map(_option, options)),
    }
    document = session.client.change("POST", "/v1/rules", body=body)
    if session.as_json:
        session.document(document)
    else:
        write_name(f"rule {name} created at index {document['index']}")


@rule.command("list")
@client_options
def list_rules(session: Session) -> None:
    """List all rules."""
    document = session.client.get("/v1/rules")
    if session.as_json:
        session.document(document)
        return
    rows = [["name", "path", "source", "zones"]]
    for one in document["rules"]:
        zones = ",".join(f"{member['zone']}:{member['local_path']}" for member in one["members"])
        rows.append([one["name"], one["path"], text_of(one.get("source")), zones])
    table(rows)


@rule.command("show")
@click.argument("name")
@client_options
def show(session: Session, name: str) -> None:
    """Show one rule."""
    document = session.client.get(_route("rules", name))
    if session.as_json:
        session.document(document)
    else:
        plain(document)


@rule.command("set")
@click.argument("name")
@click.argument("options", nargs=-1, required=True, metavar="KEY=VALUE...")
@client_options
def change(session: Session, name: str, options: tuple[str, ...]) -> None:
    """Change settings of a rule; the others stay as they are."""
    before = session.client.get(_route("rules", name)).get("options") or {}
    body = {"options": {**before, **dict(map(_option, options))}}
    document = session.client.change("PUT", _route("rules", name), body=body)
    if session.as_json:
        session.document(document)
    else:
        write_name(f"rule {name} changed at index {document['index']}")


@rule.command("remove")
@click.argument("name")
@client_options
def remove(session: Session, name: str) -> None:
    """Remove a rule. Its files stay where they are in every zone."""
    document = session.client.change("DELETE", _route("rules", name))
    if session.as_json:
        session.document(document)
    else:
        write_name(f"rule {name} removed at index {document['index']}; its files stay in every zone")


# -- migrations -------------------------------------------------------------------------------------------------------


@click.group()
def migration() -> None:
    """Start, watch and steer a rule's migration. A rule has one; its id is the rule's name."""


@migration.command("start")
@click.argument("rule")
@client_options
def start(session: Session, rule: str) -> None:
    """Start a rule's migration; creates it first where there is none."""
    known = [one["id"] for one in session.client.get("/v1/migrations")["migrations"]]
    if rule in known:
        _act(session, rule, "start")
        return
    document = session.client.change("POST", _route("rules", rule, "migrations"), body={"start": True})
    if session.as_json:
        session.document(document)
    else:
        write_name(f"migration {rule} started at index {document['index']}")


def _act(session: Session, rule: str, action: str) -> None:
    document = session.client.change("POST", _route("migrations", rule, action))
    if session.as_json:
        session.document(document)
    else:
        state = (document.get("migration") or {}).get("state", "unknown")
        write_name(f"{action}: migration {rule} is {state} at index {document['index']}")


def _action(name: str, text: str) -> None:
    @migration.command(name, help=text)
    @click.argument("rule")
    @client_options
    def command(session: Session, rule: str) -> None:
        _act(session, rule, name)


for _name, _text in {
    "pause": "Pause: nothing is scanned or sent; changes go on being ordered.",
    "resume": "Go on after a pause or stop, at the exact entry.",
    "stop": "Stop following the source; what was migrated stays.",
    "complete": "Verify that all zones are equal, and end with a receipt.",
    "abort": "Give the migration up; what was migrated stays.",
    "reset": "Back to the state before the start.",
}.items():
    _action(_name, _text)


@migration.command("status")
@click.argument("rule", required=False)
@click.option("--wait", "wanted", type=click.Choice(STATES), help="Wait until the migration is in this state.")
@client_options
def status(session: Session, rule: str | None, wanted: str | None) -> int:
    """Show a migration with its progress, or all."""
    if rule is None:
        if wanted is not None:
            raise UsageError("--wait needs a RULE")
        _list(session)
        return 0
    document = _settled(session, rule, wanted)
    if session.as_json:
        session.document(document)
    else:
        plain(document)
    return 0 if wanted is None or document.get("state") == wanted else 1


def _list(session: Session) -> None:
    document = session.client.get("/v1/migrations")
    if session.as_json:
        session.document(document)
        return
    columns = ["id", "state", "files_seen", "files_migrated", "bytes_seen", "bytes_migrated", "eta_seconds"]
    table([columns, *([text_of(one.get(column)) for column in columns] for one in document["migrations"])])


def _settled(session: Session, rule: str, wanted: str | None) -> dict[str, Any]:
    """The migration once it is in the wanted state or can no longer reach it. Raises UnavailableError in the end."""
    deadline = time.monotonic() + session.timeout_s
    while True:
        document: dict[str, Any] = session.client.get(_route("migrations", rule))
        state = document.get("state")
        if wanted is None or state == wanted or state in ENDED:
            return document
        if time.monotonic() > deadline:
            raise UnavailableError(
                f"migration {rule} is {state} after {session.timeout_s:g} s, not {wanted}; wait longer with --timeout"
            )
        time.sleep(POLL_S)
