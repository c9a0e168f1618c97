"""Which ecosystem a client talks to: given, described by a directory of `lddp cluster up`, or by the environment."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lddp.client.endpoints import read_token
from lddp.errors import UsageError

CLUSTER_FILE = "cluster.json"
MIGRATION_FILE = "migrate.json"
"""In the directory that holds the state of a `lddp migrate`."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`endpoints` are URLs, tried in this order; `authority` is the file of the certificate that signed https nodes."""

    endpoints: tuple[str, ...]
    token: str
    authority: Path | None = None

    @classmethod
    def find(
        cls,
        endpoints: Sequence[str] = (),
        token: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
        authority: str | os.PathLike[str] | None = None,
        cluster: str | os.PathLike[str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Settings:
        """What is given counts; what is not, a cluster's directory says, or LDDP_ENDPOINT (several with spaces between
        them), LDDP_TOKEN_FILE, LDDP_CA_FILE and LDDP_CLUSTER. Raises UsageError or NotAllowedError where no endpoint
        or no token is known."""
        env = os.environ if environment is None else environment
        known = tuple(endpoints) or (() if cluster else tuple(env.get("LDDP_ENDPOINT", "").split()))
        file = token_file or (None if cluster else env.get("LDDP_TOKEN_FILE"))
        where = cluster or env.get("LDDP_CLUSTER")
        if where and (not known or (file is None and token is None)):
            described = read_cluster(Path(where))
            known = known or tuple(str(node["endpoint"]) for node in described["nodes"])
            file = file or described["token_file"]
        if not known:
            raise UsageError("no endpoint is known; give endpoints, a cluster's directory, or LDDP_ENDPOINT")
        ca_file = authority or env.get("LDDP_CA_FILE")
        secret = token if token is not None else read_token(None if file is None else Path(file))
        return cls(known, secret, None if ca_file is None else Path(ca_file))


def read_cluster(directory: Path) -> dict[str, Any]:
    """`cluster.json` of a directory. Raises UsageError where there is none."""
    file = directory / CLUSTER_FILE
    try:
        document = json.loads(file.read_bytes())
    except FileNotFoundError:
        if (directory / MIGRATION_FILE).exists():
            raise UsageError(f"the migration of {directory} does not run; run its 'lddp migrate' again") from None
        raise UsageError(f"{file} does not exist; start the cluster with 'lddp cluster up {directory}'") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read ({error}); run 'lddp cluster up {directory}' again") from None
    if not isinstance(document, dict) or "nodes" not in document or "token_file" not in document:
        raise UsageError(f"{file} does not describe a cluster; run 'lddp cluster up {directory}' again")
    return document
