"""`lddp ls, cat, put, get, mkdir, mv, rm, stat`: files of the namespace, through a node's HTTP API."""

from __future__ import annotations

import errno
import os
import re
import stat as modes
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import click

from lddp.cli.client import Client
from lddp.cli.inspect import plain
from lddp.cli.options import Session, client_options, namespace_path, write_name
from lddp.client.endpoints import file_path
from lddp.client.local import open_in_place
from lddp.errors import OperationError, UsageError

PAGE = 1000
_LETTERS = {
    "file": "-",
    "directory": "d",
    "symlink": "l",
    "fifo": "p",
    "character_device": "c",
    "block_device": "b",
}

Row = dict[str, Any]


def entries(client: Client, path: bytes) -> Iterator[Row]:
    """All entries of a directory, in pages."""
    after = ""
    while True:
        query: Row = {"op": "list", "limit": PAGE}
        if after:
            query["after"] = after
        page = client.get(file_path(path), query)
        yield from page["entries"]
        if not page.get("next"):
            return
        after = page["next"]


def _name(row: Row) -> bytes:
    return str(row["name"]).encode("utf-8", "surrogateescape")


def _join(path: bytes, name: bytes) -> bytes:
    return path.rstrip(b"/") + b"/" + name


def _stat(client: Client, path: bytes) -> Row:
    row: Row = client.get(file_path(path), {"op": "stat"})
    return row


def _stat_or_none(client: Client, path: bytes) -> Row | None:
    try:
        return _stat(client, path)
    except OperationError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise


def _line(row: Row, name: str) -> str:
    letter = _LETTERS.get(row["kind"], "?")
    bits = letter + modes.filemode(int(row["mode"], 8))[1:]
    when = datetime.fromtimestamp(row["mtime_ns"] // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S")
    target = f" -> {row['target']}" if "target" in row else ""
    pending = "  (pending)" if row.get("pending") else ""
    owner = f"{row['uid']}:{row['gid']}"
    return f"{bits} {row['links']:>3} {owner:>11} {row['size']:>12} {when} {name}{target}{pending}"


@click.command()
@click.argument("path", default="/")
@click.option("-l", "--long", is_flag=True, help="With mode, owner, size and time (UTC).")
@client_options
def ls(session: Session, path: str, long: bool) -> None:
    """List a directory. With --json: one line of JSON for each entry."""
    where = namespace_path(path)
    row = _stat(session.client, where)
    rows = entries(session.client, where) if row["kind"] == "directory" else iter([{**row, "name": path}])
    for one in rows:
        if session.as_json:
            session.json_line(one)
        else:
            write_name(_line(one, one["name"]) if long else one["name"])


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@client_options
def cat(session: Session, paths: tuple[str, ...]) -> None:
    """Write files to standard output."""
    for path in paths:
        with session.client.request("GET", file_path(namespace_path(path)), {"op": "read"}) as answer:
            for chunk in answer.chunks():
                sys.stdout.buffer.write(chunk)


@click.command()
@click.argument("local", type=click.Path(allow_dash=True, path_type=str))
@click.argument("path")
@click.option("--mode", help="Octal mode of a new file; by default that of LOCAL.")
@click.option("--if-absent", is_flag=True, help="Fail where the name is taken.")
@click.option("--if-version", type=click.IntRange(1), help="Fail where the file is not at this version.")
@client_options
def put(session: Session, local: str, path: str, mode: str | None, if_absent: bool, if_version: int | None) -> None:
    """Send the file LOCAL (- for standard input) to PATH; into the directory where PATH ends in /."""
    if if_absent and if_version is not None:
        raise UsageError("--if-absent and --if-version contradict each other; give one of them")
    target = namespace_path(path)
    if path.endswith("/"):
        if local == "-":
            raise UsageError("standard input has no name; give the full path")
        target = _join(target, os.path.basename(os.fsencode(local)))
    headers = {"Content-Type": "application/octet-stream"}
    if if_absent:
        headers["If-None-Match"] = "*"
    elif if_version is not None:
        headers["If-Match"] = f'"{if_version}"'
    if local == "-":
        _send(session, sys.stdin.buffer, target, mode or "0644", headers)
        return
    with open(local, "rb") as file:
        status = os.fstat(file.fileno())
        if modes.S_ISREG(status.st_mode) and status.st_size:  # a pipe, and a file of /proc, have none and give bytes
            headers["Content-Length"] = str(status.st_size)
        _send(session, file, target, mode or f"{status.st_mode & 0o777:04o}", headers)


def _send(session: Session, file: Any, path: bytes, mode: str, headers: dict[str, str]) -> None:
    query = {"mode": mode}
    try:
        with session.client.request("PUT", file_path(path), query, file, headers, change=True) as answer:
            document = answer.json()
    except OperationError as error:
        if error.errno != errno.ESTALE or "If-None-Match" not in headers:
            raise
        name = os.fsdecode(path)
        raise OperationError(errno.EEXIST, f"{name!r} exists; leave out --if-absent to replace it") from None
    if session.as_json:
        session.document(document)


@click.command()
@click.argument("path")
@click.argument("local", required=False, type=click.Path(path_type=str))
@click.option("--range", "part", metavar="FIRST-LAST", help="Only these bytes, counted from 0.")
@client_options
def get(session: Session, path: str, local: str | None, part: str | None) -> None:
    """Fetch the file PATH to LOCAL: by default its own name, here. LOCAL is replaced when all bytes have come; a device
    or a pipe is written into."""
    where = namespace_path(path)
    target = Path(local) if local is not None else Path(os.fsdecode(os.path.basename(where)))
    if target.is_dir():
        target = target / os.fsdecode(os.path.basename(where))
    if not target.parent.is_dir():
        raise UsageError(f"{target.parent} is not a directory; make it first, or name another LOCAL")
    headers = {}
    if part is not None:
        if not re.fullmatch(r"[0-9]+-[0-9]*|-[0-9]+", part):
            raise UsageError(f"the range {part!r} is not FIRST-LAST; for example 0-99")
        headers["Range"] = f"bytes={part}"
    with session.client.request("GET", file_path(where), {"op": "read"}, headers=headers) as answer:
        mode = int(answer.headers.get("Lddp-Mode", "0644"), 8) & 0o777
        with open_in_place(str(target)) or _replacing(target, mode) as file:
            size = sum(file.write(chunk) for chunk in answer.chunks())
    if session.as_json:
        session.document({"path": path, "local": str(target), "size": size})


@contextmanager
def _replacing(target: Path, mode: int) -> Iterator[IO[bytes]]:
    """A new file that takes the name `target` when the context ends well, and is gone when it does not."""
    descriptor, name = tempfile.mkstemp(prefix=".lddp-", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        os.chmod(name, mode)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def _change(session: Session, path: bytes, query: Row) -> Any:
    return session.client.change("POST", file_path(path), query)


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("-p", "--parents", is_flag=True, help="Also make what is above; existing directories are no error.")
@click.option("--mode", default="0755", show_default=True, help="Octal mode.")
@client_options
def mkdir(session: Session, paths: tuple[str, ...], parents: bool, mode: str) -> None:
    """Make directories."""
    for path in paths:
        where = namespace_path(path)
        steps = [where]
        if parents:
            parts = where.split(b"/")
            steps = [b"/".join(parts[: count + 1]) for count in range(1, len(parts))]
            missing = next((at for at, step in enumerate(steps) if _stat_or_none(session.client, step) is None), None)
            steps = steps[missing:] if missing is not None else []
        for step in steps:
            document = _make_directory(session, step, mode, parents)
            if session.as_json:
                session.json_line({"path": os.fsdecode(step), **document})


def _make_directory(session: Session, path: bytes, mode: str, existing_is_fine: bool) -> Row:
    try:
        document: Row = _change(session, path, {"op": "mkdir", "mode": mode})
        return document
    except OperationError as error:
        if existing_is_fine and error.errno == errno.EEXIST:
            return {"existed": True}
        raise


@click.command()
@click.argument("path")
@click.argument("to")
@click.option("-n", "--no-replace", is_flag=True, help="Fail where TO exists.")
@click.option("--exchange", is_flag=True, help="Swap the two.")
@client_options
def mv(session: Session, path: str, to: str, no_replace: bool, exchange: bool) -> None:
    """Rename PATH to TO; into TO where that is a directory, unless -n or --exchange is given."""
    if no_replace and exchange:
        raise UsageError("--no-replace and --exchange contradict each other; give one of them")
    source, target = namespace_path(path), namespace_path(to)
    query: Row = {"op": "rename"}
    if no_replace or exchange:
        query["flag"] = "noreplace" if no_replace else "exchange"
    else:
        row = _stat_or_none(session.client, target)
        if row is not None and row["kind"] == "directory":
            target = _join(target, os.path.basename(source))
    query["to"] = target
    document = _change(session, source, query)
    if session.as_json:
        session.document(document)


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("-r", "--recursive", is_flag=True, help="Directories with all they hold.")
@click.option("-f", "--force", is_flag=True, help="What does not exist is no error.")
@client_options
def rm(session: Session, paths: tuple[str, ...], recursive: bool, force: bool) -> None:
    """Remove files, empty directories, or trees with -r."""
    for path in paths:
        where = namespace_path(path)
        if where == b"/":
            raise UsageError("the root of the namespace is not removed; name something below it")
        if recursive:
            _refuse_rules(session.client, where)
        row = _stat_or_none(session.client, where) if recursive else None
        if recursive and row is not None and row["kind"] == "directory":
            _remove_below(session.client, where)
        try:
            document = session.client.change("DELETE", file_path(where))
        except OperationError as error:
            if not force or error.errno != errno.ENOENT:
                raise
            document = {"existed": False}
        if session.as_json:
            session.json_line({"path": path, **document})


def _refuse_rules(client: Client, path: bytes) -> None:
    """A rule's own directory cannot be removed, so what is in it must not be removed on the way there."""
    for rule in client.get("/v1/rules")["rules"]:
        root = str(rule["path"]).encode("utf-8", "surrogateescape")
        if root == path or root.startswith(path + b"/"):
            raise UsageError(
                f"{os.fsdecode(path)!r} holds the rule {rule['name']}; remove that with 'lddp rule remove', or name"
                " what is below it"
            )


def _remove_below(client: Client, top: bytes) -> None:
    """Removes everything below a directory, deepest first, without recursion."""
    ahead, directories = [top], []
    while ahead:
        path = ahead.pop()
        directories.append(path)
        for row in list(entries(client, path)):
            child = _join(path, _name(row))
            if row["kind"] == "directory":
                ahead.append(child)
            else:
                client.change("DELETE", file_path(child))
    for path in reversed(directories):
        if path != top:
            client.change("DELETE", file_path(path))


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@client_options
def stat(session: Session, paths: tuple[str, ...]) -> None:
    """Show the attributes of entries. With --json: one line of JSON for each."""
    for path in paths:
        row = _stat(session.client, namespace_path(path))
        if session.as_json:
            session.json_line(row)
        else:
            plain({key: value for key, value in row.items() if not key.endswith("_base64")})
