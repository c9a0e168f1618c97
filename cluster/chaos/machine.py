"""What this machine can do to itself: each fault is tried on something that is thrown away, never assumed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from cluster.chaos.disks import Disk

FAKETIME = tuple(f"/usr/lib/{machine}-linux-gnu/faketime/libfaketime.so.1" for machine in ("x86_64", "aarch64"))
BOOT_ID = "/proc/sys/kernel/random/boot_id"
TOOLS = {
    "ip": "iproute2",
    "nft": "nftables",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
    "mkfs.ext4": "e2fsprogs",
    "rsync": "rsync",
}
SET = "{ type filter hook input priority 0; policy accept; ip saddr 192.0.2.9"


class CannotRun(Exception):
    """This machine cannot hold a cluster of namespaces at all; the text says why."""


def run(*command: str, text: str = "") -> str:
    """Runs a command; what it printed. CalledProcessError, whose stderr says why, if it failed."""
    found = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
    if found.returncode:
        raise CannotRun(f"{' '.join(command)}: {found.stderr.decode(errors='replace').strip() or found.returncode}")
    return found.stdout.decode(errors="replace")


def why_not() -> str:
    """Why nothing can run here; empty where it can."""
    if os.geteuid() != 0:
        return "not root: network namespaces and mounts are root's"
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            return f"'{tool}' is missing: apt-get install {package}"
    name = f"lct{os.getpid()}"
    try:
        run("ip", "netns", "add", name)
    except CannotRun as error:
        return f"no network namespaces: {error}"
    try:
        run("ip", "-n", name, "link", "add", "name", "bridge0", "type", "bridge")
        run("ip", "-n", name, "link", "add", "one", "type", "veth", "peer", "name", "two")
        _nft(name, "ip", f"chain c {SET} drop; }}")
    except CannotRun as error:
        return f"no bridge, veth or nftables: {error}"
    finally:
        run("ip", "netns", "del", name)
    return ""


def _nft(namespace: str, family: str, chain: str) -> None:
    lines = chain.replace("; ", ";\n").replace("{ ", "{\n")
    run("ip", "netns", "exec", namespace, "nft", "-f", "-", text=f"table {family} probe {{\n{lines}\n}}\n")


def missing() -> dict[str, str]:
    """The nemeses that cannot be had here, with the reason. Only where `why_not` is empty."""
    found: dict[str, str] = {}
    name = f"lct{os.getpid()}"
    run("ip", "netns", "add", name)
    try:
        _try(found, ("loss",), lambda: _nft(name, "ip", f"chain c {SET} numgen random mod 100 < 5 drop; }}"))
        _try(found, ("duplicate",), lambda: _nft(name, "ip", f"chain c {SET} dup to 192.0.2.8; }}"))
        _try(found, ("delay",), lambda: run("ip", "-n", name, "tuntap", "add", "dev", "slow", "mode", "tun"))
    finally:
        run("ip", "netns", "del", name)
    with tempfile.TemporaryDirectory(prefix="lddp-chaos-") as directory:
        disk = Disk(Path(directory) / "image", Path(directory) / "disk", 64 << 20)
        try:
            _try(found, ("full", "eio", "power"), disk.make)
            if "full" not in found:
                _try(found, ("eio", "power"), disk.cut)
        finally:
            disk.remove()
        _try(found, ("power", "eio"), lambda: _boot(Path(directory) / "boot"))
    if faketime() is None:
        found["clock"] = "libfaketime is not installed, and a time namespace shifts no wall clock"
    return found


def _try(found: dict[str, str], names: tuple[str, ...], probe: Callable[[], object]) -> None:
    try:
        probe()
    except (CannotRun, OSError) as error:
        for name in names:
            found.setdefault(name, str(error))


def _boot(file: Path) -> None:
    """Whether a process can be given a boot of its own, without which a power cut would not look like one."""
    file.write_text("another boot\n")
    script = f'mount --bind "$1" {BOOT_ID} && cat {BOOT_ID}'
    seen = run("unshare", "--mount", "--propagation", "slave", "sh", "-c", script, "sh", str(file))
    if seen != "another boot\n":
        raise CannotRun("the kernel's boot id cannot be covered")


def faketime() -> str | None:
    return next((path for path in FAKETIME if Path(path).exists()), None)
