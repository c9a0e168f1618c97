"""Carries batches of effects out, in order, and marks each one that is done. Blocking; runs in a thread of the
projector."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from lddp.core import effects as e
from lddp.core.records import Attributes, Kind
from lddp.errors import UnavailableError
from lddp.ports import ContentSource
from lddp.replay.again import Again
from lddp.replay.carrier import Carrier, but_for_time
from lddp.replay.notes import Boot, Note
from lddp.replay.outbox import Item
from lddp.replay.progress import Order, Progress
from lddp.replay.readings import Readings
from lddp.replay.retained import Retained

PLAIN_MIN = 2
"""Fewer files than that are not worth a way of their own."""
PLAIN_MAX = 512
"""Files that may be in place without a mark when the process is killed."""
_MOVES = frozenset((e.RenameEffect, e.ParkEffect, e.UnparkEffect))
"""Effects that find nothing where they begin when they are repeated."""

Ready = tuple[Item, ContentSource | None]
"""An effect that can be carried out, with the bytes that it needs."""


class Batches:
    """`carriers` holds this zone's tree of every rule. Up to `boot.repeated_through` effects may have been carried out
    by an earlier process without a mark that is believed."""

    def __init__(self, carriers: Mapping[int, Carrier], progress: Progress, boot: Boot) -> None:
        self._carriers = carriers
        self._progress = progress
        self._boot = boot
        self._open: dict[int, Carrier] = {}
        self._passed: set[Order] = set()
        """Of the batch: what a later effect of it makes needless."""
        self.readings = Readings()
        self.retained: Retained | None = None
        self.noted: Mapping[Order, Note] = {}
        """Of effects that an earlier process was about to carry out, and ..."""
        self.again: Mapping[int, Again] = {}
        """... of trees that programs change, too: what the log knows there."""
        self.traced: set[Order] = set()
        """Effects of which the carriers' `touched` knows already."""

    def inherit(
        self, traced: set[Order], retained: Retained | None, noted: Mapping[Order, Note], again: Mapping[int, Again]
    ) -> None:
        """What is known of earlier processes, once that has been read."""
        self.traced, self.retained, self.noted, self.again = traced, retained, noted, again

    def carry(self, ready: Sequence[Ready]) -> tuple[int, OSError | UnavailableError | None]:
        """How many were carried out, and what stopped the next: the filesystem, or that its bytes are not here any
        more."""
        # A rule may be removed meanwhile: its tree stays open for what has begun, and the rest is passed over.
        self._open = dict(self._carriers)
        self._passed = self._needless(ready)
        count = 0
        while count < len(ready):
            plain = self._carry_plain(ready, count)
            if not plain:
                error = self._carry_one(*ready[count])
                if error is not None:
                    return count, error
            count += plain or 1
        return count, None

    def _needless(self, ready: Sequence[Ready]) -> set[Order]:
        """Every name that is made or taken away gives its directory a time: of those, a batch needs the last. What
        changes more than the time is carried out, because a file of the batch may need it."""
        given = [(item, item.effect) for item, _ in ready if isinstance(item.effect, e.SetAttributesEffect)]
        given = [(item, effect) for item, effect in given if effect.kind is Kind.DIRECTORY and item.rule in self._open]
        last = {(item.rule, effect.inode): item.order for item, effect in given}
        known: dict[tuple[int, int], Attributes | None] = {}
        found: set[Order] = set()
        for item, effect in given:
            key, new = (item.rule, effect.inode), but_for_time(effect.attributes)
            if known.get(key, self._open[item.rule].given.get(effect.inode)) != new:
                known[key] = new
            elif item.order != last[key] and item.order not in self.noted:
                found.add(item.order)
        return found

    def _carry_plain(self, ready: Sequence[Ready], start: int) -> int:
        """Puts the plain files that follow one another from `start` on, and passes over what is needless between them;
        how many effects. Where it is none, the first one is to be carried out by itself, which tells why."""
        rule = ready[start][0].rule
        carrier = self._open.get(rule)
        files: list[tuple[e.PutFileEffect, ContentSource]] = []
        behind: list[int] = []
        """Where `ready` goes on behind each file."""
        for at, (item, source) in enumerate(itertools.islice(ready, start, start + PLAIN_MAX), start + 1):
            effect = item.effect
            if behind and item.order in self._passed:
                behind[-1] = at
                continue
            if not isinstance(effect, e.PutFileEffect) or source is None or item.rule != rule:
                break
            if rule in self.again and item.order in self.noted:
                break
            if carrier is None or not carrier.is_plain(effect):
                break
            files.append((effect, source))
            behind.append(at)
        if carrier is None or len(files) < PLAIN_MIN:
            return 0
        done = carrier.put_plain(files)
        count = behind[done - 1] - start if done else 0
        for item, _ in ready[start : start + count]:
            self._progress.mark(item.order)
        return count

    def _carry_one(self, item: Item, source: ContentSource | None) -> OSError | UnavailableError | None:
        order, effect = item.order, item.effect
        carrier, progress = self._open.get(item.rule), self._progress
        if carrier is None or order in self._passed:
            progress.mark(order)
            return None
        note, again = self.noted.get(order), self.again.get(item.rule)
        carrier.repeats = order[0] <= self._boot.repeated_through or order in progress.begun
        carrier.has_lost = self._boot.has_lost
        carrier.traced = order in self.traced
        if type(effect) in _MOVES:
            progress.begin(order)
        if note is not None and note.there is not None and again is not None:
            again.unwatched = carrier.unwatched
            try:
                now = again.now(carrier.zone, effect, note)
            except OSError as error:
                return error
            if now is None:
                carrier.pass_over(effect)
                progress.mark(order)
                return None
            effect = now
        if isinstance(effect, e.WriteEffect | e.TruncateEffect):
            if self.retained is not None:
                self.retained.save_base(item.rule, effect, carrier.zone)
            self.readings.tear(effect.inode)
        try:
            carrier.carry(effect, source)
        except (OSError, UnavailableError) as error:
            return error
        withheld = carrier.withheld
        progress.mark(order, bool(withheld) and effect.inode in withheld)
        return None
