"""Where nodes listen for clients, and how the namespace's paths are written in URLs."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from lddp.errors import NotAllowedError, UsageError


class Endpoint(NamedTuple):
    secure: bool
    host: str
    port: int
    url: str


def parse_endpoint(url: str) -> Endpoint:
    """Raises UsageError for what is not http://HOST:PORT or https://HOST:PORT, and for plain HTTP off loopback."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1 or parts.path.strip("/"):
        raise UsageError(f"{url!r} is no endpoint; write https://HOST:PORT")
    secure = parts.scheme == "https"
    if not secure and not _is_loopback(parts.hostname):
        raise UsageError(f"{url} would send the token in the clear; use https://")
    return Endpoint(secure, parts.hostname, port or (443 if secure else 80), url.rstrip("/"))


def named_by(endpoint: Endpoint, nodes: Iterable[Mapping[str, Any]]) -> list[Endpoint]:
    """Where the nodes listen that an answer of `endpoint` names (`http` of each, where it is known). The token is never
    sent to where it would be less safe: not over plain HTTP because an encrypted answer says so, nor to who would have
    to show a certificate because a plain one does."""
    found = []
    for node in nodes:
        try:
            named = parse_endpoint(str(node.get("http") or ""))
        except UsageError:
            continue  # it has no address for clients, or not one that can be used from here
        if named.secure == endpoint.secure:
            found.append(named)
    return found


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or (host.startswith("127.") and host.replace(".", "").isdigit())


def file_path(path: bytes) -> str:
    """The route of a path of the namespace."""
    return "/v1/files" + quote(path, safe="/")


def ssl_context(authority: Path | None) -> ssl.SSLContext:
    """For https endpoints, whose nodes the ecosystem's own authority has signed, or one that the system knows."""
    context = ssl.create_default_context(cafile=None if authority is None else str(authority))
    # The ecosystem's own authority signs its nodes and nobody else, by name and not by host.
    context.check_hostname = authority is None
    return context


def read_token(file: Path | None) -> str:
    """The bearer token in a file; the log says where others may read it. Raises NotAllowedError where there is none to
    be read."""
    if file is None:
        raise NotAllowedError("no token is known; give --token-file FILE, --cluster DIR or LDDP_TOKEN_FILE")
    try:
        token = file.read_text("ascii").strip()
        mode = file.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not ASCII"
        raise NotAllowedError(
            f"the token file {file} cannot be read ({reason}); give another with --token-file"
        ) from None
    if mode & 0o077:
        import logging  # which commands do without otherwise: they must start fast

        logging.getLogger(__name__).warning("%s can be read by others, who may use its token; chmod 600 it", file)
    return token
