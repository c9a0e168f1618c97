"""What a node is told, as values: every field says its unit, and what a higher or lower value costs.

All defaults are in this file and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class Role(StrEnum):
    VOTER = "voter"
    WITNESS = "witness"
    """Votes and stores the log, owns no filesystem: the tiebreaker for two zones."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where peers reach a node: a TCP host and port, or the path of a Unix socket (then `host` is empty)."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class HttpAddress:
    """Where clients reach a node. Plain HTTP is for loopback only, since the bearer token travels in it."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneConfig:
    """The one filesystem that this node owns."""

    name: str
    """The zone's name in the ecosystem: a DNS label such as `eu-west`."""
    number: int
    """0 to 63, unique in the ecosystem and never given to another zone later: records carry it instead of the name."""
    root: Path = Path("/")
    """Every rule's local path in this zone is this directory or is below it. `/` lets an operator with a token place a
    rule anywhere that the node's user may write; a narrower root is safer and needs a restart to widen."""

    def contains(self, local_path: bytes) -> bool:
        """Whether a rule may have its tree at this absolute path, by name alone (links are not followed here)."""
        root = bytes(self.root).rstrip(b"/")
        plain = all(part not in (b"", b".", b"..") for part in local_path.split(b"/")[1:])
        return local_path.startswith(b"/") and plain and (local_path == root or local_path.startswith(root + b"/"))


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerConfig:
    """Another node of the ecosystem, and what it is trusted to be."""

    address: Address
    """Where it listens for peers."""
    role: Role = Role.VOTER
    zone: str = ""
    """The name of the zone it owns; empty for a witness."""
    zone_number: int = -1
    """That zone's number; -1 for a witness."""
    http: str = ""
    """Its HTTP address as clients should use it, shown by `lddp nodes`; empty: not told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """The node's identity. All nodes of an ecosystem are signed by one authority."""

    authority: Path
    """PEM of the ecosystem's certificate authority; a peer signed by any other is refused."""
    certificate: Path
    """PEM of this node's certificate; it names the node and the ecosystem."""
    key: Path
    """PEM of its private key; readable by the node's user only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """How much of the machine a node may use."""

    bandwidth_bytes_per_second: int = 0
    """Content sent to each peer, in bytes a second; 0 is no limit. The log itself is never throttled, so a low value
    delays bytes, not agreement. Can be changed while the node runs."""
    memory_bytes: int = 256 * 1024 * 1024
    """Bytes of content and records held in RAM at once, over all transfers. More hides a slow disk or network for
    longer; the namespace and the log live in the database and do not count."""
    database_bytes: int = 64 * 1024**3
    """Address space reserved for the node's database, in bytes. Costs nothing until used; the node stops accepting
    records when the database has grown to it, so it should exceed what you expect by far."""
    files_parallel: int = 4
    """Files and directories that the scanner and the comparison look at side by side. More helps network filesystems,
    and costs seeks on a spinning disk."""
    log_entries_kept: int = 100_000
    """Log entries kept behind the slowest member's projected index, for history and for nodes that were away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftConfig:
    """The timing of agreement. All voters should have the same values."""

    heartbeat_s: float = 0.1
    """Seconds between a leader's signs of life while idle. Lower notices a dead leader sooner, and keeps an idle
    machine busier."""
    election_timeout_s_min: float = 0.5
    """The least time without a leader before a node stands for election. Below about 5 heartbeats, or below the
    longest stall of a disk sync, healthy leaders are deposed."""
    election_timeout_s_max: float = 1.0
    """The longest such time; each node draws between the two, so that they do not stand at once. Writes stop for about
    this long after a leader dies."""
    follow_workload_s: float = 20.0
    """A leader hands over to the voter that submits more than nine of ten records, as one with a busy mount, at most
    once in so many seconds; 0: never. Its records need half as many messages one after the other then."""
    entry_bytes_max: int = 4 * 1024 * 1024
    """The most bytes of records gathered into one log entry, and so the most of one record; at least 64 KiB, at most
    4 MiB. Larger entries carry more records a sync, and make each of them wait for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebHdfsConfig:
    """How Hadoop's clients are let in at `/webhdfs/v1`."""

    simple_authentication: bool = False
    """Believe a request's `user.name` instead of asking for a token, as a Hadoop cluster without Kerberos does. Whoever
    reaches the node's HTTP port may then read and change everything through WebHDFS: for trusted networks only. Over
    plain HTTP a page in a browser there may read as well, where its site's name leads to the node (DNS rebinding)."""


class WriteMode(StrEnum):
    """When a call that changes metadata in a FUSE mount returns."""

    SYNC = "sync"
    """Once its record is in the log."""
    PIPELINED = "pipelined"
    """Once its outcome is certain here and it is queued; fsync waits for the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountConfig:
    """One FUSE mount that the node brings about at every start; the table's name is the mountpoint's path."""

    rule: str
    """The name of the rule whose tree is mounted; this node's zone must have one. The mount waits for the rule."""
    soft_timeout_s: float = 0.0
    """Seconds after which a call fails with EIO while the log takes nothing, as without a majority. 0: it waits for as
    long as that lasts, unless its program is killed."""
    write_mode: WriteMode = WriteMode.SYNC
    """When a change of names or attributes returns: `sync`, once it is in the log, or `pipelined`, once it is queued.
    The latter is for many small files by few programs; what a killed node had queued is lost unless it was fsynced."""
    passthrough: bool = False
    """Whether the kernel reads large files by itself, where nobody writes them: as fast as in the zone, on a filesystem
    with clones (XFS, btrfs) and as root. `msync` of a file that others read is no barrier then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Everything a node is told at its start."""

    name: str
    """This node's name, as in its certificate."""
    ecosystem: str
    """The ecosystem's id; nodes of another one are refused even with a valid certificate."""
    role: Role = Role.VOTER
    peer: Address
    """Where this node listens for its peers."""
    http: HttpAddress
    """Where this node listens for clients; plain `http` on loopback only."""
    data_directory: Path
    """The database and its lock. A local disk with a truthful fsync; never shared by two nodes."""
    staging_directory: Path
    """Content on its way. On the zone's filesystem a finished file is moved into place; elsewhere it is copied."""
    token_file: Path
    """The bearer token that clients must show: one line of at least 16 characters."""
    tls: TlsConfig
    zone: ZoneConfig | None = None
    """None for a witness, and only then."""
    peers: Mapping[str, PeerConfig] = field(default_factory=dict)
    """All other nodes, by name."""
    mounts: Mapping[Path, MountConfig] = field(default_factory=dict)
    """FUSE mounts, by mountpoint."""
    limits: LimitsConfig = LimitsConfig()
    raft: RaftConfig = RaftConfig()
    webhdfs: WebHdfsConfig = WebHdfsConfig()

    def zones(self) -> dict[str, int]:
        """Every zone of the ecosystem that this node knows: name to number."""
        known = {peer.zone: peer.zone_number for peer in self.peers.values() if peer.zone}
        if self.zone is not None:
            known[self.zone.name] = self.zone.number
        return known
