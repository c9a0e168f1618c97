"""The filesystems that benchmarks work on."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cluster.bench import disk

IMAGE_BYTES = 32 << 20


@pytest.mark.skipif(bool(disk.why_no_images()), reason=disk.why_no_images() or "-")
def test_an_image_is_used_again_and_keeps_its_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = subprocess.run(["stat", "-f", "-c", "%T", tmp_path], check=True, stdout=subprocess.PIPE, text=True).stdout
    if kind.strip() == "tmpfs":
        pytest.skip("tmpfs gives back the blocks that mkfs fills with zeros")
    monkeypatch.setattr(disk, "IMAGE_BYTES", IMAGE_BYTES)
    images = tmp_path / "images"
    for number in range(2):
        with disk.fresh_filesystem(tmp_path, 1000) as first:
            assert os.path.ismount(first) and [path.name for path in first.iterdir()] == ["lost+found"]
            (first / "kept").write_bytes(os.urandom(8 << 20))
            (first / "kept").unlink()
            with disk.fresh_filesystem(tmp_path, 1000) as second:
                assert not os.path.samefile(first, second)
                (second / f"of {number}").touch()
        assert not first.exists() and not second.exists()
        found = [path.stat() for path in images.iterdir()]
        assert [one.st_size for one in found] == [IMAGE_BYTES] * 2
        assert all(one.st_blocks * 512 >= IMAGE_BYTES for one in found), "an image has holes"
