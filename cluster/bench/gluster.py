"""A GlusterFS volume of three replicas on loopback, mounted: the peer of lddp's own mount."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

TOOLS = ("glusterd", "gluster", "glusterfs", "umount")
VOLUME = "bench"
BRICKS = 3
PORT = 24007
"""Bricks look for their daemon there, whatever it is told."""
START_S = 30.0
STOP_S = 10.0
POLL_S = 0.1
_VOLFILE = """volume management
    type mgmt/glusterd
    option working-directory {home}/work
    option run-directory {home}/run
    option glusterd-sockfile {home}/socket
    option transport-type socket
    option transport.socket.listen-port {port}
    option transport.address-family inet
    option ping-timeout 0
    option event-threads 1
end-volume
"""


def why_not() -> str:
    """Why GlusterFS cannot be measured here; empty when it can."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: glusterfs-server)"
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.W_OK):
        return "only root with /dev/fuse can mount"
    with socket.socket() as one:
        return f"port {PORT} is in use" if one.connect_ex(("127.0.0.1", PORT)) == 0 else ""


@contextmanager
def volume(home: Path) -> Iterator[Path]:
    """A volume with its default settings, its bricks below `home`; the directory where it is mounted."""
    for name in ("work", "run", "mnt"):
        (home / name).mkdir(parents=True)
    volfile = home / "glusterd.vol"
    volfile.write_text(_VOLFILE.format(home=home, port=PORT))
    command = ["glusterd", "--no-daemon", "-f", volfile, "-l", home / "glusterd.log", "-p", home / "glusterd.pid"]
    daemon = subprocess.Popen(command, start_new_session=True)
    try:
        _await_daemon(home)
        bricks = [f"{socket.gethostname()}:{home / f'brick-{number}'}" for number in range(BRICKS)]
        _gluster(home, "volume", "create", VOLUME, "replica", str(BRICKS), *bricks, "force")
        _gluster(home, "volume", "start", VOLUME)
        try:
            with _mounted(home):
                yield home / "mnt"
        finally:
            _gluster(home, "volume", "stop", VOLUME, "force")
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(STOP_S)


@contextmanager
def _mounted(home: Path) -> Iterator[None]:
    server = [f"--volfile-server={socket.gethostname()}", f"--volfile-id={VOLUME}"]
    client = subprocess.Popen(["glusterfs", "--no-daemon", *server, "-l", home / "client.log", home / "mnt"])
    try:
        _await(lambda: os.path.ismount(home / "mnt"), "the volume's mount")
        yield
    finally:
        subprocess.run(["umount", home / "mnt"], check=True)
        client.wait(STOP_S)


def _gluster(home: Path, *command: str) -> None:
    subprocess.run(
        ["gluster", "--mode=script", f"--glusterd-sock={home / 'socket'}", f"--log-file={home / 'cli.log'}", *command],
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=START_S,
    )


def _await_daemon(home: Path) -> None:
    command = ["gluster", "--mode=script", f"--glusterd-sock={home / 'socket'}", f"--log-file={home / 'cli.log'}"]
    quiet = subprocess.DEVNULL
    _await(lambda: not subprocess.run([*command, "volume", "list"], stdout=quiet, stderr=quiet).returncode, "glusterd")


def _await(is_done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + START_S
    while not is_done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} was not there after {START_S:g} s")
        time.sleep(POLL_S)
