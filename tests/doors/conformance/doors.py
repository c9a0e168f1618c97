"""The drivers: each performs the steps of the list through one door.

A driver's `perform` returns what a look answers, and raises an exception with an `errno` for what is refused. A step
that a driver does not know is in `table.CANNOT`, or the driver is wrong. The driver of a mount is `Directory`, over the
mount point.
"""

from __future__ import annotations

import errno
import http.client
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import click

from lddp.cli.main import cli
from lddp.client import Batch, Client, Entry, Options, Settings
from lddp.client.entries import bytes_of, path_text
from lddp.doors.fsspec import LddpFileSystem
from lddp.doors.webhdfs.remote import BY_ERRNO, RETRIABLE
from lddp.errors import OperationError
from tests.doors.conformance.steps import (
    Append,
    Exchange,
    Link,
    List,
    Mkdir,
    Put,
    PutVersion,
    Read,
    Remove,
    RemoveTree,
    RemoveXattr,
    Rename,
    Rmdir,
    SetMode,
    SetTime,
    SetXattr,
    Stat,
    Step,
    Symlink,
    Truncate,
    Unlink,
    WriteAt,
)
from tests.doors.conformance.table import CLI, FSSPEC, HADOOP, HTTP, NS_IN_MS, WEBHDFS

Run = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine in the loop of the nodes, and waits for it."""
BLOCK_BYTES = 1 << 20


class Door(Protocol):
    name: str
    """In `table.CANNOT`."""

    def perform(self, step: Step) -> object: ...

    def close(self) -> None: ...


def unknown(door: str, step: Step) -> AssertionError:
    return AssertionError(f"{door} does not know {type(step).__name__}, and the table does not say so")


def seen(kind: str, size: int, mode: int, target: bytes) -> tuple[str, int, int, bytes]:
    """The answer of Stat: what does not count for a kind is 0."""
    return kind, size if kind == "file" else 0, 0 if kind == "symlink" else mode, target


# -- the HTTP API, through the client library -------------------------------------------------------------------------


class Api:
    name = HTTP

    def __init__(self, url: str, token: str, run: Run, timeout_s: float) -> None:
        self._client = Client(Settings((url,), token), Options(timeout_s))
        self._run = run

    def close(self) -> None:
        self._run(self._client.close())

    def perform(self, step: Step) -> object:
        return self._run(self._perform(self._client, step))

    async def _perform(self, client: Client, step: Step) -> object:
        match step:
            case Put(path, data, exclusive):
                return await client.write(path, data, exclusive=exclusive)
            case PutVersion(path, data, stale):
                version = (await client.stat(path)).version
                return await client.write(path, data, version=version - 1 if stale else version)
            case Append(path, data):
                return await client.append(path, data)
            case WriteAt(path, offset, data):
                return await client.write_at(path, offset, data)
            case Truncate(path, size):
                return await client.truncate(path, size)
            case Mkdir(path, mode):
                return await client.mkdir(path, mode)
            case Rename(path, to, replaces):
                return await client.rename(path, to, replace=replaces)
            case Exchange(path, to):
                return await client.exchange(path, to)
            case Remove(path):
                return await client.remove(path)
            case RemoveTree(path):
                return await client.rmtree(path)
        return await self._more(client, step)

    async def _more(self, client: Client, step: Step) -> object:
        match step:
            case Unlink(path):
                return await _alone(client, Batch().unlink(path))
            case Rmdir(path):
                return await _alone(client, Batch().rmdir(path))
            case Link(path, to):
                return await client.link(path, to)
            case Symlink(path, target):
                return await client.symlink(path, target)
            case SetMode(path, mode):
                return await client.setattr(path, mode=mode)
            case SetTime(path, mtime_ns):
                return await client.setattr(path, mtime_ns=mtime_ns)
            case SetXattr(path, name, value, flag):
                return await client.setxattr(path, name, value, flag or None)
            case RemoveXattr(path, name):
                return await client.removexattr(path, name)
            case Read(path, start, stop):
                return await client.read(path, start, stop)
            case List(path):
                return tuple(entry.name for entry in await client.entries(path))
            case Stat(path):
                return _seen(await client.stat(path))
        raise unknown(self.name, step)


async def _alone(client: Client, batch: Batch) -> None:
    """One operation that only batches have."""
    (result,) = await client.submit(batch)
    error = result.error()
    if error is not None:
        raise error


def _seen(entry: Entry) -> tuple[str, int, int, bytes]:
    return seen(entry.kind, entry.size, entry.mode, entry.target)


# -- lddp:// ----------------------------------------------------------------------------------------------------------


class Fsspec:
    """Large files by `open`, small ones by the calls that send them at once."""

    name = FSSPEC

    def __init__(self, url: str, token: str, timeout_s: float) -> None:
        self._fs = LddpFileSystem(
            (url,),
            token=token,
            timeout_s=timeout_s,
            auto_mkdir=False,
            skip_instance_cache=True,
            use_listings_cache=False,
        )

    def close(self) -> None:
        self._fs.close()

    def perform(self, step: Step) -> object:
        fs, path = self._fs, path_text(step.path)
        match step:
            case Put(_, data, exclusive) if len(data) > BLOCK_BYTES:
                with fs.open(path, "xb" if exclusive else "wb", block_size=BLOCK_BYTES) as file:
                    file.write(data)
            case Put(_, data, exclusive):
                fs.pipe_file(path, data, mode="create" if exclusive else "overwrite")
            case Append(_, data):
                with fs.open(path, "ab") as file:
                    file.write(data)
            case Mkdir():
                fs.mkdir(path, create_parents=False)
            case Rename(_, to):
                fs.mv(path, path_text(to))
            case Remove() | Unlink():
                fs.rm_file(path)
            case Rmdir():
                fs.rmdir(path)
            case RemoveTree():
                fs.rm(path, recursive=True)
            case Read(_, start, stop):
                return fs.cat_file(path, start, stop)
            case List():
                names = fs.ls(path, detail=False)
                return tuple(os.fsencode(name.rpartition("/")[2]) for name in names)
            case Stat():
                info = fs.info(path)
                kind = {"link": "symlink"}.get(info["type"], info["type"])
                return seen(kind, info["size"], info["mode"] & 0o7777, os.fsencode(info.get("destination", "")))
            case _:
                raise unknown(self.name, step)
        return None


# -- WebHDFS ----------------------------------------------------------------------------------------------------------


class WebHdfs:
    """As the specification has it, redirects included."""

    name = WEBHDFS

    def __init__(self, url: str, token: str, timeout_s: float) -> None:
        self._host = urlsplit(url).netloc
        self._token = token
        self._timeout_s = timeout_s

    def close(self) -> None:
        """Every request has a connection of its own."""

    def perform(self, step: Step) -> object:
        path = step.path
        match step:
            case Put(_, data, exclusive):
                overwrite = "false" if exclusive else "true"
                self._twice(step, "PUT", path, f"CREATE&createparent=false&overwrite={overwrite}", data)
            case Append(_, data):
                self._twice(step, "POST", path, "APPEND", data)
            case Truncate(_, size):
                self._json(step, "POST", path, f"TRUNCATE&newlength={size}")
            case Mkdir(_, mode):
                self._true(step, self._json(step, "PUT", path, f"MKDIRS&permission={mode:o}"))
            case Rename(_, to, replaces):
                options = "OVERWRITE" if replaces else "NONE"
                self._json(step, "PUT", path, f"RENAME&renameoptions={options}&destination={quote(to, safe='/')}")
            case Remove() | Unlink() | Rmdir() | RemoveTree():
                recursive = "true" if isinstance(step, RemoveTree) else "false"
                self._true(step, self._json(step, "DELETE", path, f"DELETE&recursive={recursive}"))
            case Symlink(_, target):
                self._json(step, "PUT", path, f"CREATESYMLINK&destination={quote(target, safe='/')}")
            case SetMode(_, mode):
                self._json(step, "PUT", path, f"SETPERMISSION&permission={mode:o}")
            case SetTime(_, mtime_ns):
                self._json(step, "PUT", path, f"SETTIMES&modificationtime={mtime_ns // NS_IN_MS}")
            case SetXattr() | RemoveXattr():
                self._xattr(step)
            case _:
                return self._look(step)
        return None

    def _xattr(self, step: SetXattr | RemoveXattr) -> None:
        name = quote(step.name, safe="")
        if isinstance(step, RemoveXattr):
            self._json(step, "PUT", step.path, f"REMOVEXATTR&xattr.name={name}")
            return
        flag = f"&flag={step.flag.upper()}" if step.flag else ""
        self._json(step, "PUT", step.path, f"SETXATTR&xattr.name={name}&xattr.value=0x{step.value.hex()}{flag}")

    def _look(self, step: Step) -> object:
        match step:
            case Read(path, start, stop):
                part = f"&offset={start}" + ("" if stop is None else f"&length={stop - start}")
                return self._ask(step, "GET", path, f"OPEN{part}")[1]
            case List(path):
                rows = self._json(step, "GET", path, "LISTSTATUS")["FileStatuses"]["FileStatus"]
                return tuple(os.fsencode(row["pathSuffix"]) for row in rows)
            case Stat(path):
                row = self._json(step, "GET", path, "GETFILESTATUS")["FileStatus"]
                target = os.fsencode(row.get("symlink", ""))
                return seen(row["type"].lower(), row["length"], int(row["permission"], 8), target)
        raise unknown(self.name, step)

    def _true(self, step: Step, document: Any) -> None:
        """HDFS says false where nothing is."""
        if not document["boolean"]:
            raise OperationError(errno.ENOENT, f"{step}: false")

    def _twice(self, step: Step, method: str, path: bytes, query: str, data: bytes) -> None:
        location, _ = self._ask(step, method, path, query)
        self._ask(step, method, b"", "", data, location.partition(self._host)[2])

    def _json(self, step: Step, method: str, path: bytes, query: str) -> Any:
        return json.loads(self._ask(step, method, path, query)[1] or b"{}")

    def _ask(
        self, step: Step, method: str, path: bytes, query: str, data: bytes = b"", target: str = ""
    ) -> tuple[str, bytes]:
        """(where to go on, the body). What was between two leaders did surely not happen, and is asked for again, as
        Hadoop's clients do."""
        target = target or f"/webhdfs/v1{quote(path, safe='/')}?op={query}"
        deadline = time.monotonic() + self._timeout_s
        while True:
            status, location, body = self._once(method, target, data)
            if status < 400:
                return location, body
            error = json.loads(body)["RemoteException"]
            if error["exception"] != RETRIABLE.simple or time.monotonic() > deadline:
                break
        words = HADOOP.get((type(step), step.errno), {BY_ERRNO.get(step.errno)})
        fits = any(java is not None and error["exception"] == java.simple for java in words)
        raise OperationError(step.errno if fits else -1, f"{error['exception']}: {error['message']}")

    def _once(self, method: str, target: str, data: bytes) -> tuple[int, str, bytes]:
        connection = http.client.HTTPConnection(self._host, timeout=self._timeout_s)
        try:
            connection.request(method, target, data, {"Authorization": f"Bearer {self._token}"})
            answer = connection.getresponse()
            return answer.status, answer.getheader("Location", ""), answer.read()
        finally:
            connection.close()


# -- commands ---------------------------------------------------------------------------------------------------------


class Commands:
    """In this process, with what the command raises instead of what it prints of it."""

    name = CLI

    def __init__(self, url: str, token_file: str, timeout_s: float) -> None:
        self._options = ("--endpoint", url, "--token-file", token_file, "--timeout", str(timeout_s))

    def close(self) -> None:
        """A command keeps nothing."""

    def _run(self, *arguments: str | bytes) -> None:
        texts = [os.fsdecode(argument) for argument in arguments]
        try:
            cli.main([*texts, *self._options], prog_name="lddp", standalone_mode=False)
        except click.ClickException as error:
            raise OperationError(errno.EINVAL, error.format_message()) from None

    def _output(self, *arguments: str | bytes) -> bytes:
        before, output = sys.stdout, io.TextIOWrapper(io.BytesIO())
        sys.stdout = output
        try:
            self._run(*arguments)
            output.flush()
            return output.buffer.getvalue()  # type: ignore[attr-defined]  # a BytesIO
        finally:
            sys.stdout = before

    def _rows(self, *arguments: str | bytes) -> Sequence[Any]:
        return [json.loads(line) for line in self._output(*arguments, "--json").splitlines()]

    def perform(self, step: Step) -> object:
        path = step.path
        match step:
            case Put(_, data, exclusive):
                self._put(path, data, *(["--if-absent"] if exclusive else []))
            case PutVersion(_, data, stale):
                (row,) = self._rows("stat", path)
                self._put(path, data, "--if-version", str(row["version"] - 1 if stale else row["version"]))
            case Mkdir(_, mode):
                self._run("mkdir", "--mode", f"{mode:04o}", path)
            case Rename(_, to, replaces):
                self._run("mv", *([] if replaces else ["--no-replace"]), path, to)
            case Exchange(_, to):
                self._run("mv", "--exchange", path, to)
            case Remove() | Unlink() | Rmdir():
                self._run("rm", path)
            case RemoveTree():
                self._run("rm", "-r", path)
            case _:
                return self._look(step)
        return None

    def _put(self, path: bytes, data: bytes, *options: str) -> None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            self._run("put", *options, "--mode", "0644", file.name, path)

    def _look(self, step: Step) -> object:
        match step:
            case Read(path, 0, None):
                return self._output("cat", path)
            case Read(path, start, stop):
                with tempfile.TemporaryDirectory() as directory:
                    part = f"{start}-" if stop is None else f"{start}-{stop - 1}"
                    self._run("get", "--range", part, path, f"{directory}/got")
                    with open(f"{directory}/got", "rb") as file:
                        return file.read()
            case List(path):
                return tuple(bytes_of(row, "name") for row in self._rows("ls", path))
            case Stat(path):
                (row,) = self._rows("stat", path)
                return seen(row["kind"], row["size"], int(row["mode"], 8), bytes_of(row, "target"))
        raise unknown(self.name, step)
