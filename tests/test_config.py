"""Configuration: what is read, and the one line that each mistake gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from lddp.config import Address, HttpAddress, MountConfig, NodeConfig, Role, WriteMode, load, parse
from lddp.config.checks import ENTRY_BYTES_CEILING
from lddp.consensus import config as consensus
from lddp.core.limits import ZONES_MAX
from lddp.errors import ConfigError

BASE = """
[node]
name = "a"
ecosystem = "orchard"
peer = "127.0.0.1:7400"
http = "http://127.0.0.1:7480"
data_directory = "data"
staging_directory = "staging"
token_file = "token"
[tls]
authority = "ca.pem"
certificate = "a.pem"
key = "a-key.pem"
[zone]
name = "onprem"
number = 0
"""
PEER = """
[peers.b]
address = "10.0.0.2:7400"
zone = "eu-west"
zone_number = 1
"""


def read(text: str, **environment: str) -> NodeConfig:
    return parse(text, "node.toml", Path("/etc/lddp"), environment)


def refusal(text: str, **environment: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text, **environment)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_mounts_are_named_by_their_mountpoints() -> None:
    text = BASE + '[mounts."/mnt/a"]\nrule = "photos"\n[mounts."b"]\nrule = "notes"\nsoft_timeout_s = 5\n'
    text += 'write_mode = "pipelined"\npassthrough = true\n'
    mounts = read(text).mounts
    assert mounts == {
        Path("/mnt/a"): MountConfig(rule="photos"),
        Path("/etc/lddp/b"): MountConfig(
            rule="notes", soft_timeout_s=5.0, write_mode=WriteMode.PIPELINED, passthrough=True
        ),
    }
    assert "must be one of sync, pipelined" in refusal(text.replace('"pipelined"', '"async"'))
    assert "'mounts./mnt/a.rule' is missing" in refusal(BASE + '[mounts."/mnt/a"]\n')
    assert "unknown key 'mounts./mnt/a.soft'" in refusal(BASE + '[mounts."/mnt/a"]\nrule = "a"\nsoft = true\n')


def test_a_full_file_is_read_with_paths_relative_to_it() -> None:
    config = read(BASE + PEER)
    assert config.peer == Address("127.0.0.1", 7400)
    assert config.http == HttpAddress("http", "127.0.0.1", 7480)
    assert config.data_directory == Path("/etc/lddp/data")
    assert config.tls.key == Path("/etc/lddp/a-key.pem")
    assert config.peers["b"].role is Role.VOTER
    assert config.zones() == {"onprem": 0, "eu-west": 1}
    assert str(config.peers["b"].address) == "10.0.0.2:7400"


def test_the_environment_wins_over_the_file() -> None:
    config = read(BASE, LDDP_LIMITS_MEMORY_BYTES="50000000", LDDP_NODE_HTTP="https://[::]:443", LDDP_ENDPOINT="x")
    assert config.limits.memory_bytes == 50_000_000
    assert str(config.http) == "https://[::]:443"


def test_unix_socket_addresses() -> None:
    text = BASE.replace('"127.0.0.1:7400"', '"unix:run/peer"')
    assert str(read(text).peer) == "unix:/etc/lddp/run/peer"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("[zone]", "colour = 1\n[zone]"), "unknown key 'tls.colour'; known are authority, certificate, key"),
        (('name = "a"', 'nmae = "a"'), "unknown key 'node.nmae'; did you mean 'name'?"),
        (("[zone]", "[zonne]"), "unknown key 'zonne'; did you mean 'zone'?"),
        (('key = "a-key.pem"', ""), "'tls.key' is missing; add it under [tls]"),
        (("number = 0", 'number = "x"'), "'zone.number' must be a whole number, not 'x'"),
        (("number = 0", "number = true"), "'zone.number' must be a whole number, not True"),
        (("number = 0", "number = 64"), "give it one from 0 to 63"),
        (('name = "a"', 'name = "A b"'), "'node.name' is 'A b'; use 1 to 63"),
        (('name = "a"', 'name = ""'), "'node.name' must be a text that is not empty"),
        (("http://127.0.0.1:7480", "http://10.0.0.1:80"), "tokens in the clear"),
        (("http://127.0.0.1:7480", "ftp://10.0.0.1:80"), "must be https://HOST:PORT"),
        (('"127.0.0.1:7400"', '"127.0.0.1"'), "'node.peer' must end in HOST:PORT"),
        (('"127.0.0.1:7400"', '"127.0.0.1:99999"'), "'node.peer' must end in HOST:PORT"),
        (('name = "a"', 'name = "a"\nrole = "king"'), "'node.role' must be one of voter, witness, not 'king'"),
        (('name = "a"', 'name = "a"\nrole = "witness"'), "a witness owns no zone"),
        (('[zone]\nname = "onprem"\nnumber = 0', ""), "a voter needs a zone"),
        (("\n[node]", "\nlimits = 1\n[node]"), "'limits' must be a table"),
        (("[zone]", "[limits]\nfiles_parallel = 0\n[zone]"), "'limits.files_parallel' is 0; it must be at least 1"),
        (("[zone]", "[raft]\nheartbeat_s = 1.0\n[zone]"), "at least 3 heartbeats (3 s)"),
        (("[zone]", "[raft]\nelection_timeout_s_max = 0.5\n[zone]"), "candidates tie for ever"),
        (("[zone]", "[raft]\nheartbeat_s = inf\n[zone]"), "must be a number of seconds"),
        (("[zone]", "[raft]\nentry_bytes_max = 99999999\n[zone]"), "a log entry holds at most"),
        (("[zone]", '[peers.a]\naddress = "x:1"\nrole = "witness"\n[zone]'), "[peers.a] is this node itself"),
        (("[zone]", '[peers.b]\naddress = "x:1"\n[zone]'), "exactly the witnesses have none"),
        (("[zone]", '[peers.b]\naddress = "x:1"\nzone = "onprem"\nzone_number = 4\n[zone]'), "both own zone onprem"),
        (("[zone]", '[peers.b]\naddress = "x:1"\nzone = "q"\nzone_number = 0\n[zone]'), "both have zone number 0"),
        (("[zone]", '[peers.b]\naddress = "127.0.0.1:7400"\nrole = "witness"\n[zone]'), "give each its own"),
        (("[zone]", "[zone"), "is not valid TOML"),
        (('name = "a"', 'name = "a"\nrole = "observer"'), "'node.role' must be one of voter, witness, not 'observer'"),
        (("[zone]", '[peers.b]\naddress = "x:1"\nrole = "observer"\n[zone]'), "'peers.b.role' must be one of voter, "),
    ],
)
def test_each_mistake_gets_one_line(change: tuple[str, str], expected: str) -> None:
    message = refusal(BASE.replace(*change, 1))
    assert expected in message
    assert message.startswith("node.toml")


def test_unknown_and_wrong_environment_variables_are_named() -> None:
    message = refusal(BASE, LDDP_LIMITS_MEMORY_BYTE="1")
    assert "LDDP_LIMITS_MEMORY_BYTE is not a setting; did you mean 'LDDP_LIMITS_MEMORY_BYTES'?" in message
    assert refusal(BASE, LDDP_RAFT_HEARTBEAT_S="fast").startswith("environment variable LDDP_RAFT_HEARTBEAT_S: ")
    assert read(BASE, LDDP_TEST_SEED="1").name == "a"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist; make a configuration"):
        load(tmp_path / "absent.toml", {})
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        load(tmp_path / "binary.toml", {})
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path, {})


def test_a_zone_contains_what_is_below_its_root() -> None:
    zone = read(BASE.replace("number = 0", 'number = 0\nroot = "/srv/data"')).zone
    assert zone is not None
    assert zone.contains(b"/srv/data")
    assert zone.contains(b"/srv/data/x\xff")
    for path in (b"/srv/database", b"/srv", b"srv/data", b"/srv/data/../x", b"/srv/data//x", b"/srv/data/."):
        assert not zone.contains(path), path
    everywhere = read(BASE).zone
    assert everywhere is not None
    assert everywhere.contains(b"/anything")


def test_constants_that_layers_keep_apart_agree() -> None:
    assert ENTRY_BYTES_CEILING == consensus.ENTRY_BYTES_CEILING
    assert read(BASE.replace("number = 0", f"number = {ZONES_MAX - 1}")).zone is not None


def test_the_example_in_cluster_is_valid() -> None:
    example = Path(__file__).parent.parent / "cluster" / "node.example.toml"
    config = load(example, {})
    assert config.role is Role.VOTER
    assert len(config.peers) == 2


def test_simple_authentication_is_switched_on_by_the_file_or_the_environment() -> None:
    assert not read(BASE).webhdfs.simple_authentication
    assert read(BASE + "[webhdfs]\nsimple_authentication = true\n").webhdfs.simple_authentication
    assert read(BASE, LDDP_WEBHDFS_SIMPLE_AUTHENTICATION="true").webhdfs.simple_authentication
    for wrong in ("1", '"yes"', '"True"'):
        assert "must be true or false" in refusal(BASE + f"[webhdfs]\nsimple_authentication = {wrong}\n")
