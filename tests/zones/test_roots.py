"""Whether a directory is known again, and another one at its path is not taken for it."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgpack
import pytest

from lddp.zones.posix import PosixZone
from lddp.zones.roots import RootIdentity, identity_at, root_from_bytes

EXT4, XFS, BTRFS, TMPFS = 0xEF53, 0x58465342, 0x9123683E, 0x01021994
FUSE, OVERLAY = 0x65735546, 0x794C7630
KINDS_THAT_LAST = {
    "ext4": EXT4,
    "XFS": XFS,
    "btrfs": BTRFS,
    "tmpfs": TMPFS,
    "ZFS": 0x2FC12FC1,
    "f2fs": 0xF2F52010,
    "bcachefs": 0xCA451A4E,
}
KINDS_THAT_MAY_FORGET = {
    "exFAT": 0x2011BAB0,
    "FAT": 0x4D44,
    "NTFS": 0x7366746E,
    "HFS+": 0x482B,
    "ISO 9660": 0x9660,
    "UDF": 0x15013346,
    "squashfs": 0x73717368,
    "NFS": 0x6969,
    "CIFS": 0xFF534D42,
    "SMB": 0xFE534D42,
    "Ceph": 0x00C36400,
    "9p": 0x01021997,
    "FUSE": FUSE,
}
may_mount = pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="only root may mount")


def test_a_directory_is_the_same_wherever_it_is_and_whatever_is_in_it(root: Path, tmp_path: Path) -> None:
    before = identity_at(root)
    with PosixZone(root, None, observe_only=True) as zone:
        assert zone.root() == before
    (root / "file").write_bytes(b"x")
    os.utime(root, (1, 1))
    os.chmod(root, 0o700)
    root.rename(tmp_path / "elsewhere")
    assert root_from_bytes(before.to_bytes()).is_same(identity_at(tmp_path / "elsewhere"))


def test_another_directory_at_the_same_path_is_another(root: Path, tmp_path: Path) -> None:
    before = identity_at(root)
    root.rename(tmp_path / "elsewhere")
    root.mkdir()
    assert not before.is_same(identity_at(root))
    with pytest.raises(FileNotFoundError):
        identity_at(tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        identity_at(tmp_path / "file")


def test_a_directory_is_the_same_once_a_node_may_ask_for_its_handle(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a container's rules for system calls refused it, on a filesystem without times of birth."""

    def refused(directory: int, name: bytes, flags: int) -> tuple[int, bytes]:
        raise PermissionError(errno.EPERM, "refused")

    with monkeypatch.context() as patch:
        patch.setattr("lddp.zones.syscalls.handle_at", refused)
        before = root_from_bytes(identity_at(root)._replace(born_ns=0).to_bytes())
    assert before.is_same(identity_at(root))
    (root.parent / "other").mkdir()
    assert not before.is_same(identity_at(root.parent / "other"))


def test_a_directory_that_was_noted_without_its_inode_number_is_known(root: Path) -> None:
    before = identity_at(root)
    noted = root_from_bytes(msgpack.packb(before[:5]))
    assert noted == before._replace(inode=0) and noted.is_same(identity_at(root))


@may_mount
def test_roots_of_filesystems_of_one_kind_are_told_apart(root: Path) -> None:
    """They have the same inode number. What is mounted at a second place is the same."""
    script = (
        "import os, subprocess, sys; from lddp.zones.roots import identity_at\n"
        "def mount(*how): subprocess.run(['mount', *how], check=True)\n"
        "root = sys.argv[1]; under = identity_at(root)\n"
        "mount('-t', 'tmpfs', 'none', root); first, inode = identity_at(root), os.stat(root).st_ino\n"
        "os.mkdir(root + '/again'); mount('--bind', root, root + '/again')\n"
        "assert first.is_same(identity_at(root + '/again')) and not first.is_same(under)\n"
        "mount('-t', 'tmpfs', 'none', root); second = identity_at(root)\n"
        "assert os.stat(root).st_ino == inode\n"
        "assert not first.is_same(second) and not second.is_same(first)\n"
    )
    command = ["unshare", "-m", sys.executable, "-c", script, str(root)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@may_mount
@pytest.mark.skipif(shutil.which("mkfs.xfs") is None, reason="needs mkfs.xfs")
def test_xfs_is_the_same_with_64_bit_inode_numbers(root: Path) -> None:
    script = (
        "import os, subprocess, sys; from lddp.zones.roots import identity_at\n"
        "def run(*command): subprocess.run(command, check=True)\n"
        "image, root = sys.argv[1:]; os.truncate(image, 400 << 20); run('mkfs.xfs', '-q', image)\n"
        "found = []\n"
        "for option in ('inode32', 'inode64'):\n"
        "    run('mount', '-o', 'loop,' + option, image, root); os.makedirs(root + '/sub', exist_ok=True)\n"
        "    found.append((identity_at(root), identity_at(root + '/sub'))); run('umount', root)\n"
        "(root32, sub32), (root64, sub64) = found\n"
        "assert root32.is_same(root64) and sub32.is_same(sub64) and not root32.is_same(sub64)\n"
        "assert root32.volume == 0 and root32.born_ns and sub32.handle\n"
    )
    image = root.parent / "image"
    image.touch()
    command = ["unshare", "-m", sys.executable, "-c", script, str(image), str(root)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


OF_AN_IMAGE = """
import os, shutil, subprocess, sys
from lddp.zones import syscalls
from lddp.zones.roots import identity_at, root_from_bytes
base, lower_is_elsewhere, options = sys.argv[1:]
lower, upper, work, merged = (f"{base}/{name}" for name in ("lower", "upper", "work", "merged"))
for path in (lower, upper, work, merged): os.mkdir(path)
def run(*command): subprocess.run(command, check=True)
if lower_is_elsewhere == "True": run("mount", "-t", "tmpfs", "none", lower)
for name in ("data", "other", "third"): os.mkdir(f"{lower}/{name}")
def mount():
    layers = f"lowerdir={lower},upperdir={upper},workdir={work}"
    run("mount", "-t", "overlay", "overlay", "-o", layers + options, merged)
def again():
    run("umount", merged); mount()
mount()
data = f"{merged}/data"
before = identity_at(data)
noted = root_from_bytes(before.to_bytes())
open(f"{data}/file", "w").close()
assert noted.is_same(identity_at(data)), "copied up"
os.mkdir(f"{merged}/new"); new = identity_at(f"{merged}/new")
again()
os.stat(f"{merged}/third")  # inode numbers are given in the order in which directories are looked at
assert noted.is_same(identity_at(data)) and new.is_same(identity_at(f"{merged}/new")), "mounted anew"
try:
    syscalls.handle_at(os.open(data, os.O_RDONLY), b"", syscalls.AT_EMPTY_PATH | syscalls.AT_HANDLE_FID)
except OSError:
    pass  # as before Linux 6.6, and where a container's rules for system calls refuse it
else:
    assert not noted.is_same(identity_at(f"{merged}/other")) and not noted.is_same(new)
    shutil.rmtree(data); os.mkdir(data)
    assert not noted.is_same(identity_at(data)), "another one in its place"
"""


@may_mount
@pytest.mark.parametrize("options", ["", ",xino=on", ",xino=off", ",uuid=null"])
@pytest.mark.parametrize("lower_is_elsewhere", [False, True], ids=["one filesystem", "two filesystems"])
def test_a_directory_of_an_image_stays_the_same(tmp_path: Path, lower_is_elsewhere: bool, options: str) -> None:
    """On overlayfs, where the first change in it copies it up, with another time of birth."""
    script = ["unshare", "-m", sys.executable, "-c", OF_AN_IMAGE]
    command = [*script, str(tmp_path), str(lower_is_elsewhere), options]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if "wrong fs type" in result.stderr or "unknown filesystem" in result.stderr:
        pytest.skip(result.stderr)
    assert result.returncode == 0, result.stderr


def on_xfs(option: str, inode: int, generation: int) -> RootIdentity:
    """With the handle that XFS gives where it is mounted with an option."""
    kind, bits = {"inode32": (b"\x01", 4), "inode64": (b"\x81", 8)}[option]
    handle = kind + inode.to_bytes(bits, sys.byteorder) + generation.to_bytes(4, sys.byteorder)
    return RootIdentity(XFS, 0, handle, 0, 1)


ONE, OTHER = 0x7A3B00000007, 0x7A3B00000008
"""What comes of UUIDs."""
ROOT_OF_EXT4 = RootIdentity(EXT4, ONE, b"\1\2\0\0\0", 10**18, 1)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (ROOT_OF_EXT4, ROOT_OF_EXT4._replace(device=2), True),
        (ROOT_OF_EXT4, ROOT_OF_EXT4._replace(volume=OTHER), False),
        (ROOT_OF_EXT4._replace(filesystem=BTRFS), ROOT_OF_EXT4._replace(filesystem=BTRFS, device=2), True),
        (ROOT_OF_EXT4._replace(filesystem=BTRFS), ROOT_OF_EXT4._replace(filesystem=BTRFS, volume=OTHER), False),
        (ROOT_OF_EXT4, ROOT_OF_EXT4._replace(filesystem=XFS), False),
        (RootIdentity(XFS, 7, b"h", 5, 1), RootIdentity(XFS, 8, b"h", 5, 2), True),
        (RootIdentity(XFS, 7, b"h", 5, 1), RootIdentity(XFS, 7, b"h", 6, 1), False),
        (RootIdentity(XFS, 0x700, b"h", 0, 0x700), RootIdentity(XFS, 0x701, b"h", 0, 0x701), True),
        (on_xfs("inode32", 131, 5), on_xfs("inode64", 131, 5), True),
        (on_xfs("inode32", 131, 5), on_xfs("inode64", 132, 5), False),
        (on_xfs("inode32", 131, 5), on_xfs("inode64", 131, 6), False),
        (RootIdentity(TMPFS, ONE, b"h", 0, 1), RootIdentity(TMPFS, OTHER, b"h", 0, 1), False),
        (RootIdentity(TMPFS, 0, b"h", 0, 1), RootIdentity(TMPFS, OTHER, b"h", 0, 1), True),
        (RootIdentity(TMPFS, ONE, b"h", 0, 1), RootIdentity(TMPFS, ONE, b"h", 5, 1), True),
        (RootIdentity(TMPFS, ONE, b"", 5, 1), RootIdentity(TMPFS, ONE, b"h", 5, 1), True),
        (RootIdentity(EXT4, ONE, b"2", 0, 1), RootIdentity(EXT4, ONE, b"\1\2\0\0\0\0\0\0\0", 0, 1, 2), True),
        (RootIdentity(EXT4, ONE, b"2", 0, 1), RootIdentity(EXT4, ONE, b"\1\3\0\0\0\0\0\0\0", 0, 1, 3), False),
        (RootIdentity(EXT4, ONE, b"", 0, 1, 2), RootIdentity(EXT4, ONE, b"\1\2\0\0\0\0\0\0\0", 0, 1, 2), True),
        (RootIdentity(EXT4, ONE, b"", 0, 1, 2), RootIdentity(EXT4, ONE, b"", 0, 1, 3), False),
        (RootIdentity(OVERLAY, ONE, b"", 5, 1), RootIdentity(OVERLAY, ONE, b"h", 0, 2), True),
        (RootIdentity(OVERLAY, ONE, b"2", 0, 1), RootIdentity(OVERLAY, ONE, b"", 0, 2), True),
        (RootIdentity(OVERLAY, ONE, b"h", 0, 1), RootIdentity(OVERLAY, OTHER, b"h", 0, 1), False),
        (RootIdentity(OVERLAY, 0x700, b"h", 0, 1), RootIdentity(OVERLAY, 0x701, b"h", 0, 1), True),
        (RootIdentity(FUSE, 0, b"", 0, 1), RootIdentity(FUSE, 0, b"", 0, 2), True),
    ],
    ids=[
        "another number of its device",
        "two that were made in the same second",
        "another number of a device of btrfs",
        "two of btrfs that were made in the same second",
        "another kind",
        "XFS, whose volume is the number of its device",
        "another one of XFS",
        "XFS without a time of birth",
        "XFS with wider inode numbers than before",
        "XFS with wider inode numbers, and another one",
        "XFS with wider inode numbers, and one that got the number of another",
        "no time of birth",
        "a kernel that has learnt of the filesystem's id",
        "a kernel that has learnt of the time of birth",
        "a kernel that has learnt of handles",
        "an inode number that was noted in the place of a handle, which may be asked for by now",
        "an inode number that was noted in the place of a handle, and another one",
        "a handle that may be asked for by now",
        "inode numbers alone",
        "overlayfs, of which a time of birth was noted",
        "overlayfs, of which an inode number was noted",
        "two containers of one image",
        "overlayfs on XFS, whose volume is the number of its device",
        "nothing that lasts",
    ],
)
def test_what_may_differ(one: RootIdentity, other: RootIdentity, same: bool) -> None:
    """Both as they were noted, also by a version that noted more."""
    one, other = root_from_bytes(one.to_bytes()), root_from_bytes(other.to_bytes())
    assert one.is_same(other) == other.is_same(one) == same


@pytest.mark.parametrize("kind", KINDS_THAT_MAY_FORGET.values(), ids=KINDS_THAT_MAY_FORGET.keys())
def test_a_filesystem_that_may_make_up_what_it_says_is_known_by_its_kind(kind: int) -> None:
    """A volume of exFAT has a root that was born when it was mounted."""
    noted = RootIdentity(kind, ONE, b"\x81\2\0\0\0", 10**18, 1, 2)
    again = RootIdentity(kind, OTHER, b"\x82\3\0\0\0", 2 * 10**18, 2, 3)
    noted, again = root_from_bytes(noted.to_bytes()), root_from_bytes(again.to_bytes())
    assert noted.is_same(again) and again.is_same(noted)
    below = root_from_bytes(ROOT_OF_EXT4.to_bytes())
    assert not noted.is_same(below) and not below.is_same(noted)


@pytest.mark.parametrize("kind", KINDS_THAT_LAST.values(), ids=KINDS_THAT_LAST.keys())
def test_a_filesystem_that_keeps_what_it_says_is_told_from_another_of_its_kind(kind: int) -> None:
    noted = RootIdentity(kind, ONE, b"\x81\2\0\0\0", 10**18, 1, 2)
    for other in (noted._replace(born_ns=2 * 10**18), noted._replace(handle=b"\x81\3\0\0\0"), noted._replace(inode=3)):
        assert not root_from_bytes(noted.to_bytes()).is_same(root_from_bytes(other.to_bytes()))


@may_mount
def test_what_is_not_known_to_last_is_not_noted(root: Path) -> None:
    script = (
        "import subprocess, sys; from lddp.zones.roots import RootIdentity, identity_at\n"
        "root = sys.argv[1]; subprocess.run(['mount', '-t', 'ramfs', 'none', root], check=True)\n"
        "found = identity_at(root)\n"
        "assert found == RootIdentity(found.filesystem, 0, b'', 0, found.device), found\n"
    )
    command = ["unshare", "-m", sys.executable, "-c", script, str(root)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
