"""What is in the source's directories, without what the rule's options leave out."""

from __future__ import annotations

from collections.abc import Callable

from lddp.core.namespace import Inode
from lddp.core.records import Kind
from lddp.core.view import View
from lddp.migrate.options import Exclusion
from lddp.ports import OpenDirectory, Status, ZoneFilesystem

Found = Status | OSError | None
"""What is at a name; why that cannot be told; None where it was not looked at, or is not there."""


def listed(directory: OpenDirectory, passes_over: Callable[[bytes, Kind | None], bool]) -> list[tuple[bytes, Found]]:
    """All that is in a directory in ascending order of name, None for what `passes_over` by its name, and DIRECTORY if
    the listing says so. One that cannot be looked at hides no others; one that vanishes meanwhile is left out. Raises
    OSError where the directory cannot be listed."""
    found: list[tuple[bytes, Found]] = []
    for name, is_directory in directory.names():
        if passes_over(name, Kind.DIRECTORY if is_directory else None):
            found.append((name, None))
            continue
        try:
            found.append((name, directory.status(name)))
        except FileNotFoundError:
            continue
        except OSError as error:
            found.append((name, error))
    return found


class Listing:
    """Of one rule's tree; collects what was left out. Not shared between threads."""

    def __init__(self, zone: ZoneFilesystem, view: View, exclusion: Exclusion) -> None:
        self._zone = zone
        self._view = view
        self._exclusion = exclusion
        self.rule = 0
        """The number of the rule."""
        self.skipped: set[bytes] = set()
        self.excluded: set[bytes] = set()

    def of(self, directory: OpenDirectory, path: bytes) -> list[tuple[bytes, Found]]:
        """`listed` of the directory at `path`, None for what a pattern leaves out: that is not even looked at."""
        return listed(directory, lambda name, kind: self._is_excluded(join(path, name), kind))

    def at(self, parent: bytes, name: bytes) -> Found:
        """The same for one name of a directory."""
        path = join(parent, name)
        if self._is_excluded(path, None):
            return None
        try:
            return self._zone.status(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            return None if self._is_excluded(path, self._kind_in_listing(parent, name)) else error

    def leaves_out(self, path: bytes, status: Status, number: int) -> bool:
        """Whether an object is left out, at whose name the log has inode `number`, or nothing (0). Of what the log has,
        by this name or another one, the path alone decides."""
        if status.kind is None:
            self.skipped.add(path)
            return True
        if number:
            return self._is_excluded(path, status.kind)
        if self._exclusion.excludes(path, status, self._is_in_log):
            self.excluded.add(path)
            return True
        return False

    def _is_excluded(self, path: bytes, kind: Kind | None) -> bool:
        if not self._exclusion.matches(path, kind):
            return False
        self.excluded.add(path)
        return True

    def _is_in_log(self, handle: bytes) -> bool:
        return self._view.by_identity(self.rule, handle) != 0

    def _kind_in_listing(self, parent: bytes, name: bytes) -> Kind | None:
        try:
            with self._zone.open_directory(parent) as directory:
                return Kind.DIRECTORY if (name, True) in directory.names() else None
        except OSError:
            return None


def located(locate: Callable[[bytes], bytes | None], exclusion: Exclusion, view: View, child: Inode) -> bytes | None:
    """Where an object of the log is now, by its identity; None where it is left out, or not in the tree. Raises OSError
    where nobody can tell now."""
    try:
        path = locate(child.identity)
    except OSError:
        if not exclusion.hides(view.path(child), child.kind):
            raise
        return None  # it goes because its name is left out now, at which it can perhaps not even be looked at
    return None if path is None or exclusion.hides(path, child.kind) else path


def join(parent: bytes, name: bytes) -> bytes:
    return parent + b"/" + name if parent else name
