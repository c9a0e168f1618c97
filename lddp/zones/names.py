"""How objects that are there get other names."""

from __future__ import annotations

import os
import stat

from lddp.zones.resolve import Place
from lddp.zones.staging import Staging, stat_name


def link(staging: Staging, old: Place, new: Place) -> None:
    """`new` becomes another name, in place of whatever has it."""
    try:
        os.link(old.name, new.name, src_dir_fd=old.fd, dst_dir_fd=new.fd, follow_symlinks=False)
        return
    except FileExistsError:
        pass
    temporary = staging.new_name()
    os.link(old.name, temporary, src_dir_fd=old.fd, dst_dir_fd=staging.temporary, follow_symlinks=False)
    try:
        staging.put(temporary, new.fd, new.name)
    finally:
        # Renaming a name over another of the same file does nothing and leaves both.
        staging.discard(temporary)


def move(staging: Staging, found: os.stat_result | None, old: Place, new: Place) -> None:
    """`Staging.move` of what was found there, also where both are names of one file: the kernel would do nothing and
    leave both."""
    if found is not None and found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
        there = stat_name(new.fd, new.name)
        if there is not None and (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino):
            os.unlink(old.name, dir_fd=old.fd)
            return
    staging.move(old.fd, old.name, new.fd, new.name)
