"""Rules, migrations and receipts over HTTP."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from aiohttp import web
from blake3 import blake3

from lddp.admin.backend import Document, MemberRequest, RuleRequest
from lddp.admin.request import BACKEND, json_answer, json_body, operation_id, outcome_answer, query_of, timeout_s
from lddp.core.records import MigrationAction, OperationId, Outcome
from lddp.errors import OperationError, UsageError
from lddp.serving.paths import bytes_in, checked

ACTIONS = {
    action.name.lower(): action
    for action in (
        MigrationAction.START,
        MigrationAction.PAUSE,
        MigrationAction.RESUME,
        MigrationAction.STOP,
        MigrationAction.COMPLETE,
        MigrationAction.ABORT,
        MigrationAction.RESET,
    )
}
"""What an operator may ask; LIVE and FAIL are the migrator's own findings."""


def _known(document: Mapping[str, Any], what: str, *keys: str) -> None:
    for key in document:
        if key not in keys:
            raise UsageError(f"{what} has no '{key}'; known are {', '.join(keys)}")


def _text(document: Mapping[str, Any], key: str, what: str) -> str:
    value = document.get(key)
    if not isinstance(value, str) or not value:
        raise UsageError(f"{what} needs '{key}', a text")
    return value


def _options(document: Mapping[str, Any]) -> dict[str, Any]:
    options = document.get("options", {})
    if not isinstance(options, dict):
        raise UsageError("'options' must be an object")
    return options


def _member(document: object) -> MemberRequest:
    if not isinstance(document, dict):
        raise UsageError("each of 'members' must be an object with 'zone' and 'local_path'")
    _known(document, "a member", "zone", "local_path", "local_path_base64", "observe_only")
    local_path = bytes_in(document, "local_path")
    if local_path is None:
        raise UsageError("a member needs 'local_path', an absolute path in its zone")
    observe_only = document.get("observe_only", False)
    if not isinstance(observe_only, bool):
        raise UsageError("'observe_only' must be true or false")
    return MemberRequest(_text(document, "zone", "a member"), checked(local_path, root=True), observe_only)


def rule_request(document: Mapping[str, Any]) -> RuleRequest:
    """A rule from JSON. Raises UsageError naming what is missing or wrong."""
    _known(document, "a rule", "name", "path", "path_base64", "source", "members", "options")
    path = bytes_in(document, "path")
    if path is None:
        raise UsageError("a rule needs 'path', its place in the global namespace")
    members = document.get("members")
    if not isinstance(members, list) or not members:
        raise UsageError("a rule needs 'members', a list of zones with the local path of each")
    source = document.get("source") or ""
    if not isinstance(source, str):
        raise UsageError("'source' must be the name of a zone, or null where no zone has data yet")
    request = RuleRequest(
        _text(document, "name", "a rule"), checked(path), source, tuple(map(_member, members)), _options(document)
    )
    zones = [member.zone for member in request.members]
    if len(set(zones)) != len(zones):
        raise UsageError("'members' names a zone twice; give each zone one local path")
    if source and source not in zones:
        raise UsageError(f"the source {source!r} is not one of the members; add it to them")
    return request


def _found(view: Document | None, what: str) -> Document:
    if view is None:
        raise OperationError(errno.ENOENT, f"{what} does not exist; list what there is")
    return view


# -- rules ------------------------------------------------------------------------------------------------------------


async def list_rules(request: web.Request) -> web.Response:
    query_of(request)
    backend = request.app[BACKEND]
    return json_answer({"rules": backend.rules()}, backend.applied())


async def show_rule(request: web.Request) -> web.Response:
    query_of(request)
    backend = request.app[BACKEND]
    name = request.match_info["rule"]
    return json_answer(_found(backend.rule(name), f"the rule {name!r}"), backend.applied())


CREATING_RULES = {
    errno.EEXIST: "no other rule may have its name, or a path or a zone's files that are the same, above or below"
}
CREATING_MIGRATIONS = {
    errno.ENOENT: "name a rule that was created with a source; see /v1/rules",
    errno.EEXIST: "the rule has one already; start, resume or reset it",
}


async def create_rule(request: web.Request) -> web.Response:
    seconds = timeout_s(query_of(request, "timeout"))
    wanted = rule_request(await json_body(request))
    result = await request.app[BACKEND].create_rule(wanted, operation_id(request), seconds)
    return outcome_answer(result, f"create the rule {wanted.name!r}", 201, CREATING_RULES, rule=wanted.name)


async def change_rule(request: web.Request) -> web.Response:
    """PUT and PATCH: replaces the rule's options, the only part that can change."""
    seconds = timeout_s(query_of(request, "timeout"))
    document = await json_body(request)
    _known(document, "a change of a rule", "options")
    if "options" not in document:
        raise UsageError("a change of a rule needs 'options'")
    name = request.match_info["rule"]
    result = await request.app[BACKEND].change_rule(name, _options(document), operation_id(request), seconds)
    return outcome_answer(result, f"change the rule {name!r}", rule=name)


async def remove_rule(request: web.Request) -> web.Response:
    seconds = timeout_s(query_of(request, "timeout"))
    name = request.match_info["rule"]
    result = await request.app[BACKEND].remove_rule(name, operation_id(request), seconds)
    return outcome_answer(result, f"remove the rule {name!r}", rule=name)


# -- migrations -------------------------------------------------------------------------------------------------------


async def create_migration(request: web.Request) -> web.Response:
    """POST /v1/rules/{rule}/migrations; a rule has one migration, whose id is the rule's name. `{"start": true}`
    starts it as well."""
    seconds = timeout_s(query_of(request, "timeout"))
    document = await json_body(request)
    _known(document, "a migration", "start")
    rule = request.match_info["rule"]
    backend = request.app[BACKEND]
    id = operation_id(request)
    gsn, outcome = await backend.change_migration(rule, MigrationAction.CREATE, id, seconds)
    if document.get("start") and not outcome.errno:
        # The second record's id follows from the first's, so that a retry of this request repeats both.
        second = OperationId(blake3(id.session + b"start").digest(), id.sequence)
        gsn, outcome = await backend.change_migration(rule, MigrationAction.START, second, seconds)
    return outcome_answer((gsn, outcome), f"create a migration of {rule!r}", 201, CREATING_MIGRATIONS, migration=rule)


async def list_migrations(request: web.Request) -> web.Response:
    query_of(request)
    backend = request.app[BACKEND]
    return json_answer({"migrations": backend.migrations()}, backend.applied())


async def show_migration(request: web.Request) -> web.Response:
    query_of(request)
    backend = request.app[BACKEND]
    name = request.match_info["migration"]
    return json_answer(_found(backend.migration(name), f"a migration {name!r}"), backend.applied())


async def change_migration(request: web.Request) -> web.Response:
    """POST /v1/migrations/{id}/{action}; answers with the migration as it is afterwards."""
    seconds = timeout_s(query_of(request, "timeout"))
    name, word = request.match_info["migration"], request.match_info["action"]
    action = ACTIONS.get(word)
    if action is None:
        raise UsageError(f"a migration has no action {word!r}; use one of {', '.join(ACTIONS)}")
    backend = request.app[BACKEND]
    before = backend.migration(name)
    result: tuple[int, Outcome] = await backend.change_migration(name, action, operation_id(request), seconds)
    state = "" if before is None else f" (it is {before.get('state')})"
    return outcome_answer(result, f"{word} the migration {name!r}{state}", migration=backend.migration(name))


# -- receipts ---------------------------------------------------------------------------------------------------------


async def list_receipts(request: web.Request) -> web.Response:
    rule = query_of(request, "rule").get("rule", "")
    backend = request.app[BACKEND]
    return json_answer({"receipts": backend.receipts(rule)}, backend.applied())


async def show_receipt(request: web.Request) -> web.Response:
    query_of(request)
    text = request.match_info["receipt"]
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise UsageError(f"a receipt's id is the number of its record in the log, not {text[:40]!r}")
    backend = request.app[BACKEND]
    return json_answer(_found(backend.receipt(int(text)), f"the receipt {text}"), backend.applied())
