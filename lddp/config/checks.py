"""What no single field of a configuration can know: combinations that are refused."""

from __future__ import annotations

import re
from collections.abc import Callable

from lddp.config.values import NodeConfig, Role
from lddp.errors import ConfigError

NODE_NAME_PATTERN = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""A DNS label: names of nodes and zones are parts of certificates, file names and URLs."""
ECOSYSTEM_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
ZONE_NUMBER_MAX = 63
ENTRY_BYTES_CEILING = 4 * 1024 * 1024
"""Equal to that of `lddp.consensus.config`; a test compares them, since this layer may not import that one."""


def check(config: NodeConfig, name: str) -> None:
    """Raises ConfigError, naming `name` as the source, for a configuration that no node should start with."""

    def refuse(message: str) -> None:
        raise ConfigError(f"{name}: {message}")

    for key, label in (("node.name", config.name), *((f"peers.{peer}", peer) for peer in config.peers)):
        if not NODE_NAME_PATTERN.fullmatch(label):
            refuse(f"'{key}' is {label!r}; use 1 to 63 of a-z, 0-9 and '-', not '-' at an end")
    if not ECOSYSTEM_PATTERN.fullmatch(config.ecosystem):
        refuse(f"'node.ecosystem' is {config.ecosystem!r}; use 1 to 128 letters, digits, '.', '_' and '-'")
    if config.name in config.peers:
        refuse(f"[peers.{config.name}] is this node itself; remove it")
    if config.role is Role.WITNESS and config.zone is not None:
        refuse("a witness owns no zone; remove [zone], or set node.role to voter")
    if config.role is not Role.WITNESS and config.zone is None:
        refuse(f"a {config.role} needs a zone; add [zone] with name and number, or set node.role to witness")
    _check_zones(config, refuse)
    _check_peers(config, refuse)
    _check_numbers(config, refuse)


def _check_zones(config: NodeConfig, refuse: Callable[[str], None]) -> None:
    owned = {f"[peers.{name}]": (peer.zone, peer.zone_number) for name, peer in config.peers.items()}
    if config.zone is not None:
        owned["[zone]"] = (config.zone.name, config.zone.number)
    by_name: dict[str, str] = {}
    by_number: dict[int, str] = {}
    for place, (zone, number) in owned.items():
        if not zone:
            continue
        if not NODE_NAME_PATTERN.fullmatch(zone):
            refuse(f"{place}: zone {zone!r} must be 1 to 63 of a-z, 0-9 and '-', not '-' at an end")
        if not 0 <= number <= ZONE_NUMBER_MAX:
            refuse(f"{place}: zone {zone} has the number {number}; give it one from 0 to {ZONE_NUMBER_MAX}")
        if zone in by_name:
            refuse(f"{by_name[zone]} and {place} both own zone {zone}; one node owns a zone")
        if number in by_number:
            refuse(f"{by_number[number]} and {place} both have zone number {number}; give each zone its own")
        by_name[zone], by_number[number] = place, place


def _check_peers(config: NodeConfig, refuse: Callable[[str], None]) -> None:
    addresses = {config.peer: "node.peer"}
    for name, peer in config.peers.items():
        if (peer.role is Role.WITNESS) == bool(peer.zone):
            refuse(f"[peers.{name}] is a {peer.role} with zone {peer.zone!r}; exactly the witnesses have none")
        if peer.address in addresses:
            refuse(f"[peers.{name}] has the address {peer.address} of {addresses[peer.address]}; give each its own")
        addresses[peer.address] = f"[peers.{name}]"


def _check_numbers(config: NodeConfig, refuse: Callable[[str], None]) -> None:
    limits, raft = config.limits, config.raft
    floors = {
        "limits.bandwidth_bytes_per_second": (limits.bandwidth_bytes_per_second, 0),
        "limits.memory_bytes": (limits.memory_bytes, 16 * 1024 * 1024),
        "limits.database_bytes": (limits.database_bytes, 64 * 1024 * 1024),
        "limits.files_parallel": (limits.files_parallel, 1),
        "limits.log_entries_kept": (limits.log_entries_kept, 1000),
        "raft.heartbeat_s": (raft.heartbeat_s, 0.005),
        "raft.follow_workload_s": (raft.follow_workload_s, 0),
        "raft.entry_bytes_max": (raft.entry_bytes_max, 64 * 1024),
    }
    for key, (value, floor) in floors.items():
        if value < floor:
            refuse(f"'{key}' is {value}; it must be at least {floor}")
    if raft.entry_bytes_max > ENTRY_BYTES_CEILING:
        refuse(f"'raft.entry_bytes_max' is {raft.entry_bytes_max}; a log entry holds at most {ENTRY_BYTES_CEILING}")
    if raft.election_timeout_s_min < 3 * raft.heartbeat_s:
        refuse(f"'raft.election_timeout_s_min' must be at least 3 heartbeats ({3 * raft.heartbeat_s:g} s)")
    if raft.election_timeout_s_max < 1.2 * raft.election_timeout_s_min:
        refuse("'raft.election_timeout_s_max' must be at least 1.2 times the minimum, or candidates tie for ever")
