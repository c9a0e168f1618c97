"""The kernel's table of mounts, as it is written."""

from __future__ import annotations

from lddp.doors.fuse.mounting import Mounted, parse_table

TABLE = rb"""36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
40 35 0:45 / /mnt/with\040space\134 rw,nosuid,nodev shared:7 propagate_from:2 - fuse.lddp lddp:photos rw,user_id=0
41 35 0:46 / /mnt/plain rw - fuse.lddp lddp:a\040rule rw
"""


def test_the_table() -> None:
    assert parse_table(TABLE) == [
        Mounted(b"/mnt2", "98:0", b"ext3", b"/dev/root"),
        Mounted(b"/mnt/with space\\", "0:45", b"fuse.lddp", b"lddp:photos"),
        Mounted(b"/mnt/plain", "0:46", b"fuse.lddp", b"lddp:a rule"),
    ]
