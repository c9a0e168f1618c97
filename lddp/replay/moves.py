"""Which object a name stood for, written down before an effect moves it.

After a power cut the filesystem holds an unknown part of what was done since the last checkpoint. Names do not say
which part: what is at a name may be what was there before, or what came to it since. The handle of the object tells. So
no object is moved before its handle is in the database; `rewind` uses it.

A new directory gets its name only after that, too: it is made beside the tree, so that its handle can be written down
first. So nothing that may stand at its name after a power cut is taken for it.

What a file put since the last checkpoint is made of can be had again, so it needs no handle: it is put again.

At a tree that programs change, too, it is also written down what has the name that an effect is about to take: see
`again`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from lddp.core import effects as e
from lddp.core.records import Kind
from lddp.replay.again import Again, release
from lddp.replay.batches import Ready
from lddp.replay.carrier import Carrier
from lddp.replay.conflicts import ancestors, paths
from lddp.replay.existing import OnExisting
from lddp.replay.notes import Note
from lddp.replay.outbox import Item
from lddp.replay.places import is_directory, name_aside, status_at
from lddp.replay.progress import Order
from lddp.replay.retained import Retained

_CHANGES = frozenset((e.WriteEffect, e.TruncateEffect))
_LOOKED_AT = _CHANGES | {
    *(e.RenameEffect, e.LinkEffect, e.ParkEffect, e.UnparkEffect),
    e.MakeDirectoryEffect,
}
_MAKERS = (e.PutFileEffect, e.MakeNodeEffect, e.MakeDirectoryEffect)


class _Depends(Exception):
    """What there is to be looked at is brought there only by effects before."""


class Prepared(NamedTuple):
    """The first `number` effects may be carried out once `notes` are durable, with the handles of the `roots` of their
    trees; none of them where `checkpoint`: then everything carried out before must be durable first."""

    notes: dict[Order, Note]
    number: int
    roots: dict[int, bytes]
    checkpoint: bool = False


class _Names:
    """What the effects of a batch do to names, before they are carried out."""

    def __init__(self) -> None:
        self._states: dict[tuple[int, bytes], Literal["new", "changed"]] = {}
        self.empty: set[int] = set()
        """Inodes of directories that are made with nothing in them."""

    def note(self, item: Item) -> None:
        effect = item.effect
        if not isinstance(effect, e.SetAttributesEffect | e.WriteEffect | e.TruncateEffect):
            is_empty = isinstance(effect, e.MakeDirectoryEffect) and effect.inode in self.empty
            for path in paths(effect):
                self._states[item.rule, path] = "new" if is_empty else "changed"

    def state(self, rule: int, path: bytes) -> Literal["new", "changed"] | None:
        """Of a name: below a directory that is new or changed, or one itself; None where it is as it was."""
        found = (self._states.get((rule, name)) for name in (path, *ancestors(path)))
        return next((state for state in found if state is not None), None)


class Moves:
    """`carriers` holds this zone's tree of every rule. `retained` says which bytes stay at hand for the next start, and
    `is_left` of which rules no program changes the tree any more."""

    def __init__(self, carriers: Mapping[int, Carrier], is_left: Callable[[int], bool] = lambda _rule: False) -> None:
        self._carriers = carriers
        self._is_left = is_left
        self._shared: set[int] = set()
        """Rules of the batch whose trees programs change, too."""
        self._open: dict[int, Carrier] = {}
        """Those of the batch that is looked at: a rule may be removed meanwhile."""
        self.retained: Retained | None = None
        self.noted: dict[Order, Note] = {}
        """Of effects that an earlier process was about to carry out."""
        self.again: dict[int, Again] = {}
        """Of trees that programs change, too, of which there are such notes."""
        self._moved: dict[int, Note] = {}
        """What was noted of objects that were moved since the last checkpoint, by inode."""
        self._fresh: set[int] = set()
        """Inodes whose objects were put since the last checkpoint and can be put again."""
        self._frail: set[int] = set()
        """Files put since the last checkpoint of bytes that are not kept here."""
        self._syncing: set[int] = set()
        """Those of them that a checkpoint under way makes durable."""

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def checkpoint_begins(self) -> None:
        """What was put so far will be durable before what comes now."""
        self._moved.clear()
        self._fresh.clear()
        self._syncing |= self._frail
        self._frail.clear()

    def checkpoint_ends(self) -> None:
        self._syncing.clear()

    def recall(self, item: Item, note: Note | None) -> None:
        """An earlier process has carried the effect out, and may have noted something of it."""
        if isinstance(item.effect, _MAKERS):
            self._moved.pop(item.effect.inode, None)
        elif note is not None and note.moved:
            self._moved[item.effect.inode] = note._replace(gone=b"")
        if isinstance(item.effect, e.PutFileEffect):
            self._note_bytes(item.effect)

    def forget(self, orders: Iterable[Order]) -> None:
        """What these effects had moved is back, or is to be left alone: the notes that say so stay."""
        for order in orders:
            if order in self.noted and self.noted[order].there is None:
                del self.noted[order]
        self._moved.clear()

    # -- effects ----------------------------------------------------------------------------------------------------

    def concern(self, batch: Sequence[Ready]) -> bool:
        """Whether `prepare` is to be called for these effects; False where they may be carried out at once."""
        self._open = dict(self._carriers)
        shared = [rule for rule, carrier in self._open.items() if carrier.is_shared]
        self._shared = {rule for rule in shared if not self._is_left(rule)}
        for item, _ in batch:
            effect = item.effect
            if type(effect) in _LOOKED_AT or (isinstance(effect, e.RemoveEffect) and effect.directory):
                return True
            if item.rule in self._shared and _name_taken(effect):
                return True
        for ready in batch:
            self._note_made(*ready)
        return False

    def prepare(self, batch: Sequence[Ready]) -> Prepared:
        """Looks at what the effects are about to move, and makes the directories that they are about to name. Blocking;
        OSError where the filesystem does not let it."""
        names = _Names()
        notes: dict[Order, Note] = {}
        roots: dict[int, bytes] = {}
        for number, (item, source) in enumerate(batch):
            effect = item.effect
            if item.rule not in self._open:
                continue
            if type(effect) in _CHANGES and self._needs_checkpoint(effect.inode):
                return Prepared(notes, number, roots, checkpoint=not number)
            try:
                note = self._note_among_programs(item, names) if item.rule in self._shared else self._note(item, names)
            except _Depends:
                return Prepared(notes, number, roots)
            if note is not None:
                notes[item.order] = note
                if item.rule not in roots:
                    roots[item.rule] = self._open[item.rule].zone.status(b"").handle
            self._note_made(item, source)
            names.note(item)
        return Prepared(notes, len(batch), roots)

    def _needs_checkpoint(self, inode: int) -> bool:
        """Whether what comes before a change of a file must be durable first."""
        return inode in self._frail or inode in self._syncing

    def _note(self, item: Item, names: _Names) -> Note | None:
        """What has to be known of the effect after a power cut, if anything."""
        match item.effect:
            case e.RenameEffect(_, _, to, directory):
                note = self._moved_by(item, names)
                replaced = self._directory(item, to, names) if directory else b""
                if replaced == note.moved:
                    replaced = self.noted.get(item.order, Note()).gone
                return note._replace(gone=replaced) if note.moved or replaced else None
            case e.LinkEffect() | e.ParkEffect() | e.UnparkEffect():
                note = self._moved_by(item, names)
                return note if note.moved else None
            case e.RemoveEffect(_, path, True):
                removed = self._directory(item, path, names) if path else b""
                return Note(gone=removed) if removed else None
            case e.MakeDirectoryEffect(_, path, _):
                return self._make_parked(item, names) if path else None
            case _:
                return None

    def _note_among_programs(self, item: Item, names: _Names) -> Note | None:
        """Besides, what has the name that the effect takes, as it was the first time."""
        effect, path = item.effect, _name_taken(item.effect)
        earlier, again = self.noted.get(item.order, Note()), self.again.get(item.rule)
        there = earlier if earlier.there is not None else self._there(item, path, names)
        note = self._note(item, names)
        if again is not None and earlier.there is not None and not isinstance(effect, e.MakeDirectoryEffect):
            note = again.confirmed(note or Note(), earlier)
            self._moved.pop(effect.inode, None)
            if note.moved:
                self._moved[effect.inode] = note
        is_unneeded = not path or isinstance(effect, e.MakeDirectoryEffect)
        if note is None and is_unneeded and not isinstance(effect, e.ParkEffect):
            return None
        note = (note or Note())._replace(there=there.there, there_ns=there.there_ns)
        if again is not None and earlier.there is not None:
            again.learn(effect, note)
        return None if note == earlier else note

    def _there(self, item: Item, path: bytes, names: _Names) -> Note:
        """What has a name."""
        state = names.state(item.rule, path) if path else "new"
        if state == "changed":
            raise _Depends
        status = status_at(self._open[item.rule].zone, path) if state is None else None
        return Note(there=b"") if status is None else Note(there=status.handle, there_ns=status.mtime_ns)

    def _moved_by(self, item: Item, names: _Names) -> Note:
        """Of what an effect moves; empty where there is nothing that would have to be found again."""
        effect = item.effect
        assert isinstance(effect, e.RenameEffect | e.LinkEffect | e.ParkEffect | e.UnparkEffect)
        zone = self._open[item.rule].zone
        known = self._moved.get(effect.inode)
        if known is not None:
            return known
        if effect.inode in self._fresh:
            return Note()
        if isinstance(effect, e.UnparkEffect):
            note = Note(zone.parked_handle(b"%d" % effect.inode))
        elif names.state(item.rule, effect.path) is not None:
            raise _Depends
        else:
            status = status_at(zone, effect.path)
            note = Note() if status is None else Note(status.handle, b"", status.kind is Kind.DIRECTORY)
        if not note.moved:
            # An earlier process may have moved it away, and was ended before it could say so.
            note = self.noted.get(item.order, Note())._replace(gone=b"")
        if note.moved:
            self._moved[effect.inode] = note
        return note

    def _directory(self, item: Item, path: bytes, names: _Names) -> bytes:
        """Handle of a directory that is about to lose its name."""
        if names.state(item.rule, path) is not None:
            raise _Depends
        status = status_at(self._open[item.rule].zone, path)
        return status.handle if status is not None and status.kind is Kind.DIRECTORY else b""

    def _make_parked(self, item: Item, names: _Names) -> Note | None:
        """Makes the directory that an effect gives a name to, unless there is one of that name."""
        effect = item.effect
        assert isinstance(effect, e.MakeDirectoryEffect)
        zone = self._open[item.rule].zone
        name = name_aside(effect.inode)
        state = names.state(item.rule, effect.path)
        if state == "changed":
            raise _Depends
        if state is None and is_directory(zone, effect.path):
            if not zone.parked_handle(name):
                return None
            # Somebody else has made it since the last look. What was noted of the parked one is not true of it.
            if item.rule in self._shared:
                self._open[item.rule].unwatched.add_path(release(zone, name, effect.path))
            else:
                zone.remove_parked(name)
            return Note()
        try:
            note = Note(zone.make_parked(name))
        except FileExistsError:
            return Note(zone.parked_handle(name))  # there may be something in it
        names.empty.add(effect.inode)
        return note

    def _note_made(self, item: Item, source: object) -> None:
        """The inode gets another object."""
        effect = item.effect
        if not isinstance(effect, _MAKERS) or item.rule not in self._open:
            return
        inode = effect.inode
        self._fresh.discard(inode)
        if self._moved:
            self._moved.pop(inode, None)
        if isinstance(effect, e.MakeNodeEffect):
            self._fresh.add(inode)
        elif isinstance(effect, e.PutFileEffect) and source is not None:
            # Other policies may leave a file in place that was there before.
            if not effect.observed or self._open[item.rule].policy is OnExisting.OVERWRITE:
                self._fresh.add(inode)
            self._note_bytes(effect)

    def _note_bytes(self, effect: e.PutFileEffect) -> None:
        self._syncing.discard(effect.inode)
        self._frail.discard(effect.inode)
        if not self._is_kept(effect):
            self._frail.add(effect.inode)

    def _is_kept(self, effect: e.PutFileEffect) -> bool:
        """Whether the bytes stay here until the file is durable."""
        content = effect.content
        if content.inline is not None or not content.size:
            return True
        return self.retained is not None and self.retained.concerns(effect)


def _name_taken(effect: e.Effect) -> bytes:
    """The name that an effect takes from whatever has it, or by which it changes a file; empty where there is none."""
    match effect:
        case e.LinkEffect() | e.RenameEffect() | e.UnparkEffect():
            return effect.to
        case e.ParkEffect() | e.SetAttributesEffect(kind=Kind.DIRECTORY):
            return b""
        case _:
            return effect.path
