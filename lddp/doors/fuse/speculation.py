"""The namespace as it will be: what the log has brought so far, and over it what this mount has queued.

The outcomes are those of the state machine's own operations, so they are what the log will say unless another zone
comes in between. What is made here has a number before it has a GSN. The mount goes on using that number after the log
has given another one, for as long as anybody in the mount knows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from lddp.core import records as r
from lddp.core.namespace import Inode, Namespace
from lddp.core.operations import Operations
from lddp.core.places import Refused
from lddp.core.records import Outcome
from lddp.core.rules import Rule, read_rules
from lddp.core.tables import Tables
from lddp.core.view import View
from lddp.doors.fuse.queued import Queued, Spot, has_two_paths, meaning, spots_of
from lddp.storage.overlay import Overlay

FIRST = 1 << 46
"""GSNs of the speculation: no log gets there."""
FIRST_INODE = FIRST << 16
GONE = -1
"""Instead of an errno: the inode that an operation is about has been removed."""
ALIASES_MAX = 65_536


class Aliases:
    """The mount's numbers and the namespace's, where they differ."""

    def __init__(self) -> None:
        self.real: dict[int, int] = {}
        self.shown: dict[int, int] = {}
        self._room = ALIASES_MAX

    def add(self, shown: int, real: int) -> None:
        self.real[shown] = real
        self.shown[real] = shown

    @property
    def are_many(self) -> bool:
        return len(self.real) > self._room

    def keep(self, is_known: Callable[[int], bool]) -> None:
        """Forgets those that nobody in the mount knows."""
        for one in [one for one in self.real if not is_known(one)]:
            del self.shown[self.real.pop(one)]
        self._room = max(ALIASES_MAX, 2 * len(self.real))

    def to_shown(self, number: int) -> int:
        return self.shown.get(number, number)

    def to_real(self, number: int) -> int:
        return self.real.get(number, number)


class Ahead(View):
    """A view by the mount's numbers. `real` has those that the tables know by the log's numbers already."""

    def __init__(self, tables: Tables, real: dict[int, int], to_shown: Callable[[int], int]) -> None:
        super().__init__(tables)
        self._real = real
        self._to_shown = to_shown

    def inode(self, number: int) -> Inode | None:
        found = super().inode(self._real.get(number, number))
        if found is not None:
            found.number, found.parent = self._to_shown(found.number), self._to_shown(found.parent)
        return found

    def entry(self, parent: int, name: bytes) -> tuple[int, int]:
        number, gsn = super().entry(self._real.get(parent, parent), name)
        return self._to_shown(number), gsn

    def list(self, directory: int, after: bytes = b"", limit: int = 1 << 62) -> Sequence[tuple[bytes, int]]:
        found = super().list(self._real.get(directory, directory), after, limit)
        return [(name, self._to_shown(number)) for name, number in found]

    def links(self, inode: Inode) -> Sequence[tuple[int, bytes]]:
        number = inode.number
        inode.number = self._real.get(number, number)
        try:
            return [(self._to_shown(parent), name) for parent, name in super().links(inode)]
        finally:
            inode.number = number


class _Met(Namespace):
    """Knows which inodes it has met."""

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables)
        self.met: set[int] = set()

    def get(self, number: int) -> Inode | None:
        self.met.add(number)
        return super().get(number)


class _Layer:
    """What has been queued since the tables below were as they are."""

    def __init__(self, below: Tables, aliases: Aliases) -> None:
        self.overlay = Overlay(below)
        self.namespace = _Met(self.overlay)
        self.rules: dict[bytes, Rule] = {rule.path: rule for rule in read_rules(self.overlay)}
        self.operations = Operations(self.namespace, self.rules)
        self.real = dict(aliases.real)
        self.view = Ahead(self.overlay, self.real, aliases.to_shown)

    def to_real(self, number: int) -> int:
        return self.real.get(number, number)


class Speculation:
    """Operations are given one after the other; `start` forgets them."""

    def __init__(self, top: bytes) -> None:
        self._top = top
        self.aliases = Aliases()
        self._layer: _Layer | None = None
        self._touched: set[int] = set()
        """What the last one has touched."""
        self.number = FIRST
        """Of the last operation that was asked for."""

    def start(self) -> None:
        """Nothing is queued over what the log has brought."""
        self._layer = None

    def over(self, below: Tables) -> tuple[Ahead, Callable[[], None]]:
        """The namespace with what is queued, over this transaction; and what is to be called before that ends."""
        layer, aliases = self._layer, self.aliases
        if layer is None:
            return Ahead(below, aliases.real, aliases.to_shown), _nothing
        overlay = layer.overlay
        end = partial(overlay.put_over, overlay.base)  # a view within another one leaves that one as it was
        overlay.put_over(below)
        return layer.view, end

    def _made_layer(self, below: Tables) -> _Layer:
        if self._layer is None:
            self._layer = _Layer(below, self.aliases)
        self._layer.overlay.put_over(below)
        return self._layer

    def is_touched(self, numbers: Iterable[int]) -> bool:
        """Whether what is queued rests on any of these inodes, by the namespace's numbers."""
        if self._layer is None:
            return False
        met, shown = self._layer.namespace.met, self.aliases.shown
        return any(number in met or shown.get(number) in met for number in numbers)

    # -- operations ---------------------------------------------------------------------------------------------------

    def ask(self, below: Tables, record: r.Operation, size: int) -> tuple[Queued | None, Outcome]:
        """What comes of a record that is asked for now; it is to be queued unless it is refused."""
        layer = self._made_layer(below)
        if isinstance(record, r.Put) and record.expected_version > 0:
            # The version is not known yet. Which file it is is said by its inode.
            record = record._replace(expected_version=r.SOME_VERSION)
        asked = meaning(record, layer.to_real)
        try:
            places = layer.operations.places(asked)
        except Refused as refusal:
            return None, Outcome(refusal.number)
        show = self.aliases.to_shown
        spots = tuple(Spot(show(one.above), one.name, show(one.at)) for one in spots_of(record, places))
        directories = tuple(show(place.parent.number) for place in places if place.parent is not None)
        self.number += 1
        outcome = self._apply(layer, asked, self.number)
        if outcome.errno:
            return None, outcome
        made = outcome.inode if outcome.inode == self.number << 16 else 0
        record = meaning(record, lambda _: r.ANY_INODE)  # the spots say all of it
        return Queued(record, self.number, spots, directories, size, self._touched, made), outcome

    def _apply(self, layer: _Layer, record: r.Operation, number: int) -> Outcome:
        outcome, _ = layer.operations.apply(record, number)
        if outcome.errno:
            return outcome
        self._touched = set(map(self.aliases.to_shown, layer.namespace.prior))
        layer.namespace.met.update(layer.namespace.prior)
        layer.namespace.prior.clear()
        layer.namespace.flush()
        return outcome._replace(inode=self.aliases.to_shown(outcome.inode))

    def all_again(self, below: Tables, waiting: Iterable[Queued]) -> Iterator[Queued]:
        """Gives what is queued from the beginning, and says of each whether it is `refused`."""
        self.start()
        torn: dict[int, int] = {}
        """Why bytes that were promised of an inode are not in it: what was to come over them would be there alone."""
        for queued in waiting:
            number = queued.spots[0].at if queued.changes_bytes else 0
            torn_by = 0 if isinstance(queued.record, r.Put) else torn.get(number, 0)
            queued.refused = queued.given_up or torn_by or self._again(below, queued)
            if number and queued.is_over:
                torn[number] = queued.refused
            elif number and isinstance(queued.record, r.Put):
                torn.pop(number, None)
            yield queued

    def _again(self, below: Tables, queued: Queued) -> int:
        """Gives a queued operation after `start`, with its paths put right. An errno, or GONE, where it is refused."""
        layer = self._made_layer(below)
        paths: list[bytes] = []
        for spot in queued.spots:
            path = self._path(layer, spot)
            if path is None:
                return GONE
            paths.append(path)
        record = queued.at_paths(paths)
        expected = [layer.to_real(number) for spot in queued.spots for number in (spot.above, spot.at)]
        refused = layer.operations.guard(record, *expected)
        if refused:
            return refused
        outcome = self._apply(layer, record, queued.number)
        if not outcome.errno:
            queued.touched |= self._touched
        if not outcome.errno and not queued.is_sent:
            queued.record = record
        return outcome.errno

    def _path(self, layer: _Layer, spot: Spot) -> bytes | None:
        """None where the directory, or the inode, is gone."""
        number = spot.above or spot.at
        inode = layer.namespace.get(layer.to_real(number))
        if inode is None:
            return None
        if spot.above:
            below = layer.namespace.path_of(inode.number, spot.name)
        else:
            below = layer.namespace.path_of(inode.parent, inode.name) if inode.name else b""
        return self._top + b"/" + below if below else self._top


def _nothing() -> None:
    return None


def guarded(queued: Queued, record: r.Operation, after: Queued | None, reference: Callable[[int], int]) -> r.Record:
    """As it goes into the log. `reference` says how the log knows an inode of the mount."""
    numbers = [reference(number) for spot in queued.spots for number in (spot.above, spot.at)]
    assert len(numbers) == (4 if has_two_paths(record) else 2)
    return r.Guarded(record, None if after is None else after.record.id, *numbers)
