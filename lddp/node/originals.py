"""What files of a source were before operations changed them, where other zones may still have to ask for that."""

from __future__ import annotations

from collections.abc import Callable

from lddp.core.records import Content
from lddp.node.trees import Trees


class Originals:
    """Implements `lddp.replay.retained.Sources` for the rules whose source is `zone`. `doubt` may be called from any
    thread."""

    def __init__(
        self, trees: Trees, zone: int, save: Callable[[Content, int], bool], doubt: Callable[[int], None]
    ) -> None:
        self._trees = trees
        self._zone = zone
        self.save = save
        self.doubt = doubt

    def is_source(self, rule: int) -> bool:
        found = self._trees.rules.get(rule)
        return found is not None and found.source == self._zone
