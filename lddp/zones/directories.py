"""How a new directory gets its name."""

from __future__ import annotations

import errno
import os
import stat

from lddp.zones.closed import exchange, opened_at
from lddp.zones.resolve import Place, failure
from lddp.zones.staging import Staging, stat_name
from lddp.zones.syscalls import rename_to_nothing

_NOT_SUPPORTED = (errno.EINVAL, errno.ENOSYS)


def make_directory(staging: Staging, place: Place, mode: int) -> None:
    """Makes one where there is none; what else has the name leaves it in the moment the directory takes it."""
    try:
        os.mkdir(place.name, mode, dir_fd=place.fd)
        return
    except FileExistsError:
        if _is_directory(place):
            return
    temporary = staging.new_name()
    os.mkdir(temporary, mode, dir_fd=staging.temporary)
    try:
        _replace(staging, staging.temporary, temporary, place)
    finally:
        staging.discard(temporary)


def place_directory(staging: Staging, parked: bytes, place: Place) -> bool:
    """Puts a parked one in its place; False where there is none. EEXIST where another directory is there."""
    try:
        return _place(staging, parked, place)
    except PermissionError:
        with opened_at(staging.parked, parked):  # set aside after a power cut, with the mode that it has
            return _place(staging, parked, place)


def _place(staging: Staging, parked: bytes, place: Place) -> bool:
    try:
        rename_to_nothing(staging.parked, parked, place.fd, place.name)
        return True
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in (errno.EEXIST, *_NOT_SUPPORTED):
            raise
    if _is_directory(place):
        raise failure(errno.EEXIST, place.name)
    _replace(staging, staging.parked, parked, place)
    staging.remove(staging.parked, parked)
    return True


def _is_directory(place: Place) -> bool:
    found = stat_name(place.fd, place.name)
    return found is not None and stat.S_ISDIR(found.st_mode)


def _replace(staging: Staging, directory: int, name: bytes, place: Place) -> None:
    """What was at the place has the other name afterwards, or none."""
    try:
        exchange(directory, name, place.fd, place.name)
    except OSError as error:
        if error.errno not in (errno.ENOENT, *_NOT_SUPPORTED):
            raise
        staging.move(directory, name, place.fd, place.name)
