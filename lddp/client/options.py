"""What holds for single calls of a client."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Progress = Callable[[int, int | None], None]
"""(bytes done, bytes in all or None where that is not known). A transfer that begins again begins at 0 again."""


@dataclass(frozen=True, slots=True)
class Options:
    timeout_s: float = 30.0
    """How long a call tries, all nodes and retries together; of a transfer, the longest time without a byte that had
    not been sent or read before."""
    at_least: int = 0
    """Reads show this index of the log or a later one. What this client itself has changed they show anyway."""
    own_changes: bool = True
    """Whether reads show what this client has changed before, at whichever node they are made: that node may have to
    be waited for."""
