"""From a TOML file and the environment to a checked NodeConfig."""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from lddp.config.checks import check
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
from lddp.errors import ConfigError

CLIENT_VARIABLES = frozenset({"LDDP_ENDPOINT", "LDDP_TOKEN_FILE", "LDDP_CA_FILE", "LDDP_CLUSTER"})
"""Read by the commands, not by a node."""
TEST_PREFIX = "LDDP_TEST_"

Built = TypeVar("Built")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a value came from, for the error message, and what a relative path in it is relative to."""

    name: str
    base: Path


def load(file: str | Path, environment: Mapping[str, str]) -> NodeConfig:
    """Reads and checks a configuration. Raises ConfigError with one line that names the file and the key."""
    path = Path(file)
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; make a configuration with 'lddp init'") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}); it must be TOML") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); check the path and its permissions") from None
    return parse(text, str(path), path.absolute().parent, environment)


def parse(text: str, name: str, base: Path, environment: Mapping[str, str]) -> NodeConfig:
    """As `load`, for a text already read; `name` stands for the file in messages, `base` anchors relative paths."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name} is not valid TOML: {error}; correct that line") from None
    place = _Place(name, base)
    _reject_unknown(document, ["node", "peers", "mounts", *_TABLES], "", place)
    tables = {table: _table(document, table, place) for table in ("node", *_TABLES, "peers", "mounts")}
    sources = _overlay(tables, environment, place)
    parts: dict[str, Any] = {}
    for table, cls in _TABLES.items():
        if table == "zone" and not tables["zone"]:
            continue
        parts[table] = _build(cls, tables[table], table, place, sources)
    peers = {peer: _build(PeerConfig, _table(tables["peers"], peer, place, "peers."), f"peers.{peer}", place, sources)
             for peer in tables["peers"]}  # fmt: skip
    mounts = {_path(at, f"mounts.{at}", place):
              _build(MountConfig, _table(tables["mounts"], at, place, "mounts."), f"mounts.{at}", place, sources)
              for at in tables["mounts"]}  # fmt: skip
    parts |= {"peers": MappingProxyType(peers), "mounts": MappingProxyType(mounts)}
    config = _build(NodeConfig, tables["node"], "node", place, sources, **parts)
    check(config, name)
    return config


_TABLES: dict[str, type] = {
    "zone": ZoneConfig,
    "tls": TlsConfig,
    "limits": LimitsConfig,
    "raft": RaftConfig,
    "webhdfs": WebHdfsConfig,
}


_LISTED: dict[str, type] = {"node": NodeConfig, "peers": PeerConfig, "mounts": MountConfig}


def _table(document: Mapping[str, Any], key: str, place: _Place, prefix: str = "") -> dict[str, Any]:
    value = document.get(key, {})
    if not isinstance(value, dict):
        raise ConfigError(f"{place.name}: '{prefix}{key}' must be a table; write [{prefix}{key}] on its own line")
    return dict(value)


def _overlay(tables: dict[str, dict[str, Any]], environment: Mapping[str, str], place: _Place) -> dict[str, _Place]:
    """Puts the environment's values over the file's; returns where each overridden key came from."""
    known = {f"LDDP_{table}_{key}".upper(): (table, key) for table in ("node", *_TABLES) for key in _keys(table)}
    sources: dict[str, _Place] = {}
    for variable, value in sorted(environment.items()):
        if not variable.startswith("LDDP_") or variable in CLIENT_VARIABLES or variable.startswith(TEST_PREFIX):
            continue
        if variable not in known:
            hint = _closest(variable, [*known, *CLIENT_VARIABLES])
            raise ConfigError(f"environment variable {variable} is not a setting{hint}; correct it or unset it")
        table, key = known[variable]
        tables[table][key] = value
        sources[f"{table}.{key}"] = _Place(f"environment variable {variable}", Path.cwd())
    return sources


def _keys(table: str) -> list[str]:
    nested = {"peers", "mounts", *_TABLES} if table == "node" else set()
    cls = _LISTED.get(table.partition(".")[0]) or _TABLES[table]
    return [field.name for field in dataclasses.fields(cls) if field.name not in nested]


def _build(
    cls: type[Built], values: Mapping[str, Any], table: str, place: _Place, sources: Mapping[str, _Place], **ready: Any
) -> Built:
    _reject_unknown(values, _keys(table), f"{table}.", place)
    arguments = dict(ready)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]  # every Built is one of the dataclasses above
        key = f"{table}.{field.name}"
        if field.name in values:
            arguments[field.name] = _READERS[str(field.type)](values[field.name], key, sources.get(key, place))
        elif field.name not in arguments and field.default is dataclasses.MISSING:
            raise ConfigError(f"{place.name}: '{key}' is missing; add it under [{table}]")
    return cls(**arguments)


def _reject_unknown(values: Mapping[str, Any], known: list[str], prefix: str, place: _Place) -> None:
    for key in values:
        if key not in known:
            hint = _closest(key, known) or f"; known are {', '.join(known)}"
            raise ConfigError(f"{place.name}: unknown key '{prefix}{key}'{hint}")


def _closest(word: str, known: list[str]) -> str:
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean '{found[0]}'?" if found else ""


# -- one reader for each type of field -------------------------------------------------------------------------------


def _text(value: object, key: str, place: _Place) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{place.name}: '{key}' must be a text that is not empty, not {value!r}")
    return value


def _integer(value: object, key: str, place: _Place) -> int:
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,20}", value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ConfigError(f"{place.name}: '{key}' must be a whole number, not {value!r}")


def _boolean(value: object, key: str, place: _Place) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):  # as the environment has it
        return value == "true"
    raise ConfigError(f"{place.name}: '{key}' must be true or false, not {value!r}")


def _seconds(value: object, key: str, place: _Place) -> float:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value):
        return float(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise ConfigError(f"{place.name}: '{key}' must be a number of seconds, not {value!r}")


def _path(value: object, key: str, place: _Place) -> Path:
    text = _text(value, key, place)
    if "\0" in text:
        raise ConfigError(f"{place.name}: '{key}' holds a NUL character; give a path")
    return place.base / Path(text).expanduser()


def _role(value: object, key: str, place: _Place) -> Role:
    try:
        return Role(_text(value, key, place))
    except ValueError:
        raise ConfigError(f"{place.name}: '{key}' must be one of {', '.join(Role)}, not {value!r}") from None


def _write_mode(value: object, key: str, place: _Place) -> WriteMode:
    try:
        return WriteMode(_text(value, key, place))
    except ValueError:
        raise ConfigError(f"{place.name}: '{key}' must be one of {', '.join(WriteMode)}, not {value!r}") from None


def _address(value: object, key: str, place: _Place) -> Address:
    text = _text(value, key, place)
    if text.startswith("unix:"):
        return Address(path=str(place.base / text.removeprefix("unix:")))
    host, port = _host_port(text, key, place)
    return Address(host=host, port=port)


def _http(value: object, key: str, place: _Place) -> HttpAddress:
    text = _text(value, key, place)
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in ("http", "https"):
        raise ConfigError(f"{place.name}: '{key}' must be https://HOST:PORT, or http://127.0.0.1:PORT, not {text!r}")
    host, port = _host_port(rest.rstrip("/"), key, place)
    if scheme == "http" and not is_loopback(host):
        raise ConfigError(f"{place.name}: '{key}' would send tokens in the clear to {host}; use https:// there")
    return HttpAddress(scheme, host, port)


def _host_port(text: str, key: str, place: _Place) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535 or set(host) & set("/?#@ []"):
        raise ConfigError(f"{place.name}: '{key}' must end in HOST:PORT with a port of 0 to 65535, not {text!r}")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach this host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


_READERS: dict[str, Callable[[object, str, _Place], Any]] = {
    "str": _text,
    "int": _integer,
    "bool": _boolean,
    "float": _seconds,
    "Path": _path,
    "Role": _role,
    "WriteMode": _write_mode,
    "Address": _address,
    "HttpAddress": _http,
}
