"""Certificates: what they say, who may read the keys, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lddp.errors import ConfigError, NotAllowedError, UsageError
from lddp.links.credentials import Credentials, certified_name
from lddp.links.issue import create_authority, issue


def test_private_keys_are_for_their_owner_only(credentials: dict[tuple[str, str], Credentials]) -> None:
    held = credentials["ours", "a"]
    assert os.stat(held.key).st_mode & 0o777 == 0o600
    assert os.stat(held.certificate).st_mode & 0o777 == 0o600


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    create_authority(str(tmp_path), ecosystem="e")
    with pytest.raises(UsageError, match="is not replaced"):
        create_authority(str(tmp_path), ecosystem="e")


def test_an_authority_is_needed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="make the ecosystem's authority first"):
        issue(str(tmp_path), str(tmp_path), node="a")


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "ä", "x" * 65, "a b"])
def test_odd_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is no name for"):
        create_authority(str(tmp_path), ecosystem=name)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    create_authority(str(tmp_path / "authority"), ecosystem="e")
    held = issue(str(tmp_path / "authority"), str(tmp_path / "node"), node="a")
    os.chmod(held.key, 0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        held.server_context()


def test_missing_files_are_named(tmp_path: Path) -> None:
    path = str(tmp_path / "none.pem")
    with pytest.raises(ConfigError, match=r"none\.pem is missing"):
        Credentials(path, path, path).client_context()


def test_what_is_not_a_certificate_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "garbage.pem"
    path.write_bytes(b"garbage")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="issue them again"):
        Credentials(str(path), str(path), str(path)).client_context()


def test_names_come_from_exactly_one_subject() -> None:
    subject = ((("organizationName", "e"),), (("commonName", "a"),))
    assert certified_name({"subject": subject}, "e") == "a"
    for wrong in (None, {}, {"subject": subject[:1]}, {"subject": (*subject, (("commonName", "b"),))}):
        with pytest.raises(NotAllowedError):
            certified_name(wrong, "e")
    with pytest.raises(NotAllowedError, match="not 'f'"):
        certified_name({"subject": subject}, "f")


def test_a_node_starts_without_the_certificate_library() -> None:
    script = (
        "import sys, lddp.links.issue, lddp.node as node; node.warm_up(); print('cryptography' in sys.modules);"
        " import cryptography.x509; print('it is there for who asks')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["False", "it is there for who asks"]
