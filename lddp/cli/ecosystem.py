"""The files of an ecosystem, as `lddp init` and `lddp cluster` make them.

DIR/authority/   the certificate authority; its key signs every node, so keep it away from the nodes
DIR/token        the bearer token of all nodes and clients
DIR/NODE/        all that one node needs (node.toml, certificate, key, token): copy it to that node's machine
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from lddp.config import NodeConfig, Role, load
from lddp.errors import ConfigError, UsageError

AUTHORITY = "authority"
TOKEN = "token"
CONFIG = "node.toml"
PEER_PORT = 7400
HTTP_PORT = 7480
ZONES_MAX = 64


@dataclass(frozen=True, slots=True)
class NodePlan:
    """A node to be. `data` and `staging` are paths relative to its directory, or absolute."""

    name: str
    role: Role
    zone: str
    peer: str
    http: str
    root: str = "/"
    data: str = "data"
    staging: str = "staging"


def create(directory: Path, ecosystem: str) -> None:
    """Makes the authority and the token of a new ecosystem. Raises UsageError where there is one already."""
    from lddp.links.issue import create_authority

    if (directory / AUTHORITY).exists():
        raise UsageError(f"{directory} holds an ecosystem already; add a node to it with --join")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    create_authority(str(directory / AUTHORITY), ecosystem=ecosystem)
    _write(directory / TOKEN, secrets.token_urlsafe(32) + "\n")


def remove(directory: Path) -> None:
    """Takes back `create`, for an ecosystem without nodes."""
    shutil.rmtree(directory / AUTHORITY, ignore_errors=True)
    (directory / TOKEN).unlink(missing_ok=True)


def ecosystem_of(directory: Path) -> str:
    """The id in the authority's certificate. Raises UsageError where there is no authority."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    file = directory / AUTHORITY / "authority.pem"
    try:
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
    except FileNotFoundError:
        raise UsageError(f"{directory} holds no ecosystem; make one with 'lddp init {directory}'") from None
    except ValueError as error:
        raise UsageError(f"{file} is not a certificate ({error}); restore it") from None
    return str(certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value)


def nodes_of(directory: Path) -> dict[str, NodeConfig]:
    """The nodes whose files are in the ecosystem's directory, by name."""
    files = sorted(file for file in directory.glob(f"*/{CONFIG}") if not file.parent.name.startswith("."))
    configs = [load(file, {}) for file in files]
    return {config.name: config for config in configs}


def add_node(directory: Path, plan: NodePlan) -> Path:
    """Makes a node's directory and tells the other nodes' configurations of it; returns its configuration file.

    Raises UsageError where the name, the zone or the address is taken. The node appears whole or not at all.
    """
    from lddp.links.issue import issue

    final, building = directory / plan.name, directory / f".{plan.name}.new"
    if final.exists():
        raise UsageError(f"{final} exists; choose another --node, or remove it")
    known = nodes_of(directory)
    number = _zone_number(plan, known)
    shutil.rmtree(building, ignore_errors=True)
    ecosystem = ecosystem_of(directory)
    try:
        issue(str(directory / AUTHORITY), str(building), node=plan.name)
        _write(building / TOKEN, (directory / TOKEN).read_text("ascii"))
        _write(building / CONFIG, _render(plan, number, ecosystem, known))
        load(building / CONFIG, {})
    except ConfigError as error:
        shutil.rmtree(building, ignore_errors=True)
        raise UsageError(str(error).replace(os.fspath(building / CONFIG), f"node {plan.name}")) from None
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    text = _peer_table(plan.name, plan.peer, plan.role, plan.zone, number, plan.http)
    for name, config in known.items():
        if plan.name not in config.peers:
            file = directory / name / CONFIG
            _write(file, file.read_text("utf-8").rstrip() + "\n\n" + text)
    building.rename(final)
    return final / CONFIG


def _zone_number(plan: NodePlan, known: dict[str, NodeConfig]) -> int:
    """The lowest number that no zone ever known here has; -1 for a witness."""
    if plan.role is Role.WITNESS:
        return -1
    taken: dict[str, int] = {}
    for config in known.values():
        taken |= config.zones()
    if plan.zone in taken:
        raise UsageError(f"the zone {plan.zone!r} has a node already; choose another --zone")
    free = [number for number in range(ZONES_MAX) if number not in taken.values()]
    if not free:
        raise UsageError(f"an ecosystem has at most {ZONES_MAX} zones; this one is full")
    return free[0]


def _quoted(text: str) -> str:
    """A TOML basic string; JSON's escapes are a part of TOML's."""
    return json.dumps(text)


def _render(plan: NodePlan, number: int, ecosystem: str, known: dict[str, NodeConfig]) -> str:
    lines = [
        "# All settings, their units and trade-offs: lddp/config/values.py, cluster/node.example.toml.",
        "# Relative paths are relative to this file.",
        "",
        "[node]",
        f"name = {_quoted(plan.name)}",
        f"ecosystem = {_quoted(ecosystem)}",
        f"role = {_quoted(plan.role)}",
        f"peer = {_quoted(plan.peer)}",
        f"http = {_quoted(plan.http)}",
        f"data_directory = {_quoted(plan.data)}",
        f"staging_directory = {_quoted(plan.staging)}",
        f"token_file = {_quoted(TOKEN)}",
        "",
    ]
    if plan.role is not Role.WITNESS:
        lines += [
            "[zone]",
            f"name = {_quoted(plan.zone)}",
            f"number = {number}",
            f"root = {_quoted(plan.root)}",
            "",
        ]
    lines += [
        "[tls]",
        'authority = "authority.pem"',
        f"certificate = {_quoted(plan.name + '.pem')}",
        f"key = {_quoted(plan.name + '.key')}",
        "",
    ]
    text = "\n".join(lines)
    for name, config in known.items():
        zone = ("", -1) if config.zone is None else (config.zone.name, config.zone.number)
        text += "\n" + _peer_table(name, str(config.peer), config.role, *zone, str(config.http))
    return text


def _peer_table(name: str, peer: str, role: Role, zone: str, number: int, http: str) -> str:
    lines = [f"[peers.{name}]", f"address = {_quoted(peer)}", f"role = {_quoted(role)}"]
    if zone:
        lines += [f"zone = {_quoted(zone)}", f"zone_number = {number}"]
    return "\n".join([*lines, f"http = {_quoted(http)}", ""])


def _write(file: Path, text: str) -> None:
    """Replaces a file at once; readable by its owner only."""
    fresh = file.with_name(f".{file.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(file)
