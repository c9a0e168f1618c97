"""The ecosystem that `lddp migrate` starts: a source node, a target node and a witness on this machine.

The nodes are forked from the command, which stays a single thread, so that a node that dies can be forked again. Peers
meet on unix sockets in a directory of this user; the HTTP ports are on loopback.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lddp.client.settings import MIGRATION_FILE
from lddp.config import (
    Address,
    HttpAddress,
    NodeConfig,
    PeerConfig,
    RaftConfig,
    Role,
    TlsConfig,
    ZoneConfig,
)
from lddp.errors import LddpError, StorageError, UsageError
from lddp.zones.roots import RootIdentity, identity_at, root_from_bytes

SOURCE, TARGET, WITNESS = "source", "target", "witness"
NAMES = (SOURCE, TARGET, WITNESS)
ZONES = {SOURCE: 0, TARGET: 1}
STOP_S = 10.0
RESTARTS_MAX = 1000
QUICK_DEATH_S = 3.0
QUICK_DEATHS_MAX = 5
ROOM_BYTES_MIN = 16 * 1024 * 1024
"""With less than this free, nodes are not started: they could not write their databases."""
GOES_ON = ", and it goes on by itself"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15


class Embedded:
    """One migration's nodes. `state` is the directory that is kept between runs."""

    def __init__(self, source: Path, target: Path, state: Path) -> None:
        self.source = source
        self.target = target
        self.state = state
        self._lock = -1
        self._sockets: Path | None = None
        self.pids: dict[str, int] = {}
        self._born: dict[str, float] = {}
        self._quick_deaths: dict[str, int] = {}
        self.endpoints: dict[str, str] = {}
        self._configs: dict[str, NodeConfig] = {}
        self.restarts = 0
        self.problem = ""
        """Why a node that has died is not started again; empty while all run."""

    # -- state ------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Takes the state directory for this run. UsageError where another run has it or it is of another pair,
        StorageError where the nodes have no room for their databases."""
        if not (self.state / MIGRATION_FILE).exists() and _room(self.state.parent) < ROOM_BYTES_MIN:
            raise StorageError(
                f"{self.state.parent} is full, the nodes need {ROOM_BYTES_MIN >> 20} MiB there and DST as much as SRC"
                " has; free some space, or choose another DST"
            )
        try:
            self.state.mkdir(mode=0o700, parents=False, exist_ok=True)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageError(
                    f"{self.state.parent} is full; free some space there, or choose another DST"
                ) from None
            raise UsageError(
                f"{self.state} cannot be made ({error.strerror}): state and staging must be beside the target"
            ) from None
        self._lock = os.open(self.state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._take_lock()
            self._identify()
        except BaseException:
            os.close(self._lock)
            raise

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"another 'lddp migrate' of {self.target} is running; stop it first, or watch it with"
                f" 'lddp status --cluster {self.state}'"
            ) from None

    def _identify(self) -> None:
        file = self.state / MIGRATION_FILE
        known: dict[str, Any] = {}
        noted: RootIdentity | None = None
        inode, root = os.stat(self.source).st_ino, identity_at(self.source)
        if file.exists():
            try:
                known = json.loads(file.read_text())
                noted = root_from_bytes(bytes.fromhex(known["source_root"])) if "source_root" in known else None
            except ValueError:
                raise UsageError(f"{file} is damaged; remove {self.state} to start afresh") from None
            if known.get("source") != os.fspath(self.source):
                raise UsageError(
                    f"{self.target} is the target of {known.get('source')!r} already;"
                    f" remove {self.state} to migrate {self.source} there"
                )
            # Earlier versions noted the inode number alone, which roots of filesystems have in common.
            if not (known.get("source_inode", inode) == inode if noted is None else noted.is_same(root)):
                # Following it would remove from the target what an unmounted or replaced source does not have.
                raise UsageError(
                    f"{self.source} is not the directory that was migrated before; if its filesystem is not mounted,"
                    f" mount it; else remove {self.state} to start afresh"
                )
            if noted is None:
                with contextlib.suppress(OSError):  # where the disk is full, it goes on all the same
                    self._write_known({**known, "source_root": root.to_bytes().hex()})
        else:
            known = {
                "source": os.fspath(self.source),
                "source_inode": inode,
                "source_root": root.to_bytes().hex(),
                "ecosystem": f"migrate-{secrets.token_hex(6)}",
            }
            # The file comes last: where it is, the rest is.
            (self.state / "token").touch(mode=0o600)
            (self.state / "token").write_text(secrets.token_urlsafe(32) + "\n")
            self._write_known(known)
        self._ecosystem = str(known["ecosystem"])

    def _write_known(self, known: dict[str, Any]) -> None:
        file = self.state / MIGRATION_FILE
        temporary = file.with_suffix(".new")
        temporary.write_text(json.dumps(known))
        os.replace(temporary, file)

    # -- nodes ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Forks all nodes."""
        self._sockets = Path(tempfile.mkdtemp(prefix="lddp-"))
        ports = _free_ports(len(NAMES))
        self.endpoints = {name: f"http://127.0.0.1:{port}" for name, port in zip(NAMES, ports, strict=True)}
        for name, port in zip(NAMES, ports, strict=True):
            self._configs[name] = self._config(name, port)
        self._write_cluster()
        for name in NAMES:
            self._fork(name)
        self._write_cluster()

    def _config(self, name: str, port: int) -> NodeConfig:
        assert self._sockets is not None
        unused = self.state / "unused.pem"
        peers = {
            other: PeerConfig(
                address=Address(path=os.fspath(self._sockets / other)),
                role=Role.WITNESS if other == WITNESS else Role.VOTER,
                zone=other if other in ZONES else "",
                zone_number=ZONES.get(other, -1),
                http=self.endpoints[other],
            )
            for other in NAMES
            if other != name
        }
        return NodeConfig(
            name=name,
            ecosystem=self._ecosystem,
            role=Role.WITNESS if name == WITNESS else Role.VOTER,
            peer=Address(path=os.fspath(self._sockets / name)),
            http=HttpAddress("http", "127.0.0.1", port),
            data_directory=self.state / name / "data",
            staging_directory=self.state / name / "staging",
            token_file=self.state / "token",
            tls=TlsConfig(authority=unused, certificate=unused, key=unused),
            zone=ZoneConfig(name=name, number=ZONES[name]) if name in ZONES else None,
            peers=peers,
            raft=RaftConfig(),
        )

    def _fork(self, name: str) -> None:
        (self.state / name).mkdir(mode=0o700, exist_ok=True)
        sys.stdout.flush()
        sys.stderr.flush()
        # A signal between the fork and the node's own handlers must not run this process's handlers in the child.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    code = _child(self._configs[name], self.state / f"{name}.log")
                finally:
                    os._exit(code)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        self.pids[name] = pid
        self._born[name] = time.monotonic()

    def _write_cluster(self) -> None:
        document = {
            "ecosystem": self._ecosystem,
            "endpoints": list(self.endpoints.values()),
            "token_file": os.fspath(self.state / "token"),
            "pids": self.pids,
            "nodes": [{"name": name, "endpoint": endpoint, "pid": None} for name, endpoint in self.endpoints.items()],
            "command": "migrate",
        }
        temporary = self.state / "cluster.json.new"
        temporary.write_text(json.dumps(document, indent=2))
        os.replace(temporary, self.state / "cluster.json")

    def revive(self) -> list[str]:
        """Forks nodes again that have died; their names. Raises UsageError where one dies at every start."""
        for name, pid in list(self.pids.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self.pids[name]
                self._note_death(name, status)
        missing = [name for name in self.endpoints if name not in self.pids]
        if missing and _room(self.state) < ROOM_BYTES_MIN:
            self.problem = f"{self.state.parent} is full; free some space there{GOES_ON}"
            return []
        self.problem = ""
        for name in missing:
            self.restarts += 1
            self._fork(name)
        if missing:
            with contextlib.suppress(OSError):
                self._write_cluster()
        return missing

    def _note_death(self, name: str, status: int) -> None:
        """Raises UsageError or StorageError for a node that would only die again."""
        quick = time.monotonic() - self._born[name] < QUICK_DEATH_S and not os.WIFSIGNALED(status)
        code = 0 if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)
        if _room(self.state) < ROOM_BYTES_MIN:
            return
        self._quick_deaths[name] = self._quick_deaths.get(name, 0) + 1 if quick else 0
        if quick and code == UsageError.exit_code:
            raise UsageError(f"the {name} node ends at its start: {self.last_words(name)}")
        if self._quick_deaths[name] >= QUICK_DEATHS_MAX:
            raise StorageError(
                f"the {name} node ends at its start: {self.last_words(name)}; or remove {self.state} to start afresh,"
                " what the target has is kept and compared"
            )

    def last_words(self, name: str) -> str:
        """The last line of a node's log."""
        try:
            lines = (self.state / f"{name}.log").read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else f"see {self.state / (name + '.log')}"

    def stop(self) -> None:
        """Ends all nodes; everything stays resumable."""
        for pid in self.pids.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        for pid in self.pids.values():
            _reap(pid, deadline)
        self.pids.clear()
        if self._sockets is not None:
            shutil.rmtree(self._sockets, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.state / "cluster.json")

    def remove(self) -> None:
        """Forgets the migration: the state directory goes."""
        shutil.rmtree(self.state, ignore_errors=True)


def _room(directory: Path) -> int:
    """Bytes that may still be written there; ROOM_BYTES_MIN where the filesystem does not say."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize if status.f_blocks else ROOM_BYTES_MIN


def _reap(pid: int, deadline: float) -> None:
    """Waits for a child that was asked to end; ends it when the time is over."""
    descriptor = os.pidfd_open(pid)
    try:
        import select

        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(descriptor)
    os.waitpid(pid, 0)


def _child(config: NodeConfig, log: Path) -> int:
    """In the forked process: becomes a node; its exit code."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    from lddp.node import run

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    libc.prctl(_PR_SET_NAME, f"lddp-{config.name}".encode(), 0, 0, 0)
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname).1s %(name)s: %(message)s", stream=sys.stderr, force=True
    )
    try:
        return run(config, writes=config.name == TARGET)
    except LddpError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except Exception:
        logging.getLogger(__name__).exception("the node failed")
        return 1
    finally:
        sys.stderr.flush()


def _free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody uses now."""
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()
