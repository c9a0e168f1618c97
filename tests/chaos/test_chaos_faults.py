"""The faults bite: packets are cut, lost, doubled and delayed, and disks are full, dead and forgetful, here too."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.chaos import machine
from cluster.chaos import network as network_module
from cluster.chaos.disks import Disk
from cluster.chaos.network import Network, sweep

PACKETS = 40
LISTEN = """
import json, socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", 9))
print("ready", flush=True)
found = []
while True:
    data = s.recv(100)
    if data == b"end":
        break
    number, sent = data.split()
    found.append((int(number), time.monotonic() - float(sent)))
print(json.dumps(found), flush=True)
"""
SEND = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(%d):
    s.sendto(b"%%d %%r" %% (number, time.monotonic()), (sys.argv[1], 9))
    time.sleep(0.002)
"""
END = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'end', ('127.0.0.1', 9))"
Found = list[tuple[int, float]]


def test_without_root_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "not root" in machine.why_not()


def test_a_tool_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "/nowhere")
    assert "apt-get install iproute2" in machine.why_not()


@pytest.fixture(scope="module")
def missing() -> dict[str, str]:
    reason = machine.why_not()
    if reason:
        pytest.skip(f"no faults here: {reason}")
    return machine.missing()


@pytest.fixture
def network(missing: dict[str, str]) -> Iterator[Network]:
    made = Network(["node-1", "node-2", "node-3"])
    sweep()
    try:
        made.enter()
        yield made
    finally:
        made.leave()


def heard(network: Network, settle_s: float = 0.1) -> Found:
    """What node-2 hears of node-1's packets: their numbers and how long each was under way."""
    inside = ["ip", "netns", "exec"]
    listen = [*inside, network.namespace("node-2"), sys.executable, "-c", LISTEN]
    with subprocess.Popen(listen, stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "ready\n"
        send = [*inside, network.namespace("node-1"), sys.executable, "-c", SEND % PACKETS, network.address["node-2"]]
        subprocess.run(send, check=True)
        # Nothing tells when the last late packet has come.
        asyncio.run(asyncio.sleep(settle_s))
        subprocess.run([*inside, network.namespace("node-2"), sys.executable, "-c", END], check=True)
        return [(int(number), float(late)) for number, late in json.loads(listener.stdout.readline())]


def numbers(found: Found) -> list[int]:
    return [number for number, _ in found]


def test_links_are_cut_one_way_and_whole_again(network: Network) -> None:
    assert numbers(heard(network)) == list(range(PACKETS))
    network.cut([("node-1", "node-2")])
    network.cut([("node-1", "node-2")])
    asyncio.run(network.apply())
    assert heard(network) == []
    network.cut([("node-1", "node-2")], -1)
    asyncio.run(network.apply())
    assert heard(network) == []
    network.cut([("node-1", "node-2")], -1)
    network.cut([("node-2", "node-1")])
    asyncio.run(network.apply())
    assert numbers(heard(network)) == list(range(PACKETS))


def test_packets_are_lost(network: Network, missing: dict[str, str]) -> None:
    if "loss" in missing:
        pytest.skip(missing["loss"])
    network.links["node-2"].loss_percent = 50
    asyncio.run(network.apply())
    assert 0 < len(heard(network)) < PACKETS


def test_packets_are_doubled(network: Network, missing: dict[str, str]) -> None:
    if "duplicate" in missing:
        pytest.skip(missing["duplicate"])
    network.links["node-1"].duplicate_percent = 90
    asyncio.run(network.apply())
    found = numbers(heard(network))
    assert set(found) == set(range(PACKETS))
    assert PACKETS < len(found) <= 2 * PACKETS


def test_packets_are_late_and_out_of_order(network: Network, missing: dict[str, str]) -> None:
    if "delay" in missing:
        pytest.skip(missing["delay"])
    network.start_relay()
    asyncio.run(network.delay("node-1", 50, 150))
    found = heard(network, 0.4)
    assert sorted(numbers(found)) == list(range(PACKETS))
    assert numbers(found) != list(range(PACKETS))
    assert min(late for _, late in found) >= 0.05
    asyncio.run(network.no_delay("node-1"))
    assert numbers(heard(network)) == list(range(PACKETS))


@pytest.fixture
def disk(tmp_path: Path, missing: dict[str, str]) -> Iterator[Disk]:
    if "full" in missing:
        pytest.skip(missing["full"])
    made = Disk(tmp_path / "image", tmp_path / "disk", 64 << 20)
    try:
        made.make()
        yield made
    finally:
        made.remove()


def test_a_disk_is_full_and_free_again(disk: Disk) -> None:
    disk.fill()
    with pytest.raises(OSError) as error:
        (disk.path / "file").write_bytes(bytes(1 << 20))
    assert error.value.errno == errno.ENOSPC
    disk.free()
    (disk.path / "file").write_bytes(bytes(1 << 20))


def test_a_disk_that_is_cut_off_fails_and_keeps_what_was_synced(disk: Disk, missing: dict[str, str]) -> None:
    if "power" in missing:
        pytest.skip(missing["power"])
    with open(disk.path / "synced", "wb") as file:
        file.write(b"kept")
        file.flush()
        os.fsync(file.fileno())
    (disk.path / "not").write_bytes(b"lost")
    disk.cut()
    with pytest.raises(OSError) as error:
        (disk.path / "more").write_bytes(b"")
    assert error.value.errno == errno.EIO
    disk.unmount()
    disk.mount()
    assert (disk.path / "synced").read_bytes() == b"kept"
    assert not (disk.path / "not").exists()


def test_a_relay_that_does_not_end_keeps_nothing_from_being_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that is busy enough none ends in time."""
    monkeypatch.setattr(network_module, "RELAY_S", 0.05)
    network = Network(["node-1"])
    with subprocess.Popen(["sleep", "600"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as relay:
        network._relay = relay
        network.stop_relay()
        assert relay.returncode is not None
