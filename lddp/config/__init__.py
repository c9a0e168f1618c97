"""A node's configuration: one TOML file, overridden by environment variables.

The file's tables are the dataclasses below: `[node]` is `NodeConfig`'s plain fields, `[zone]`, `[tls]`, `[limits]` and
`[raft]` are the classes of those names, each `[peers.NAME]` is one `PeerConfig` and each `[mounts."/PATH"]` one
`MountConfig`. A relative path in the file is
relative to the file's own directory, so a node's directory can be copied to another machine as it is.

Every scalar outside `[peers]` and `[mounts]` can be set by `LDDP_<TABLE>_<KEY>`, for example
`LDDP_LIMITS_MEMORY_BYTES=1000000000`; the environment wins over the file. A key or variable that nobody knows is an
error, because a misspelt limit that is silently ignored is worse than a node that does not start.

All defaults are in `values.py` and nowhere else.
"""

from lddp.config.reading import CLIENT_VARIABLES, is_loopback, load, parse
from lddp.config.values import (
    Address,
    HttpAddress,
    LimitsConfig,
    MountConfig,
    NodeConfig,
    PeerConfig,
    RaftConfig,
    Role,
    TlsConfig,
    WebHdfsConfig,
    WriteMode,
    ZoneConfig,
)

__all__ = [
    "CLIENT_VARIABLES",
    "Address",
    "HttpAddress",
    "LimitsConfig",
    "MountConfig",
    "NodeConfig",
    "PeerConfig",
    "RaftConfig",
    "Role",
    "TlsConfig",
    "WebHdfsConfig",
    "WriteMode",
    "ZoneConfig",
    "is_loopback",
    "load",
    "parse",
]
