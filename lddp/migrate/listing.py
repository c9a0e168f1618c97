"""What is in the source's directories, without what the rule's options leave out."""

from __future__ import annotations

from lddp.core.view import View
from lddp.migrate.options import Exclusion
from lddp.ports import Status


class Listing:
    """Of one rule's tree; collects what was left out. Not shared between threads."""

    def __init__(self, view: View, exclusion: Exclusion) -> None:
        self._view = view
        self._exclusion = exclusion
        self.rule = 0
        """The number of the rule."""
        self.skipped: set[bytes] = set()
        self.excluded: set[bytes] = set()

    def leaves_out(self, path: bytes, status: Status, number: int) -> bool:
        """Whether an object is left out, at whose name the log has inode `number`, or nothing (0). Of what the log has,
        by this name or another one, the path alone decides."""
        if status.kind is None:
            self.skipped.add(path)
            return True
        if number:
            is_out = self._exclusion.matches(path, status.kind)
        else:
            is_out = self._exclusion.excludes(path, status, self._is_in_log)
        if is_out:
            self.excluded.add(path)
        return is_out

    def _is_in_log(self, handle: bytes) -> bool:
        return self._view.by_identity(self.rule, handle) != 0
