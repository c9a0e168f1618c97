"""From the watcher's events to what is dirty."""

from __future__ import annotations

import asyncio
import logging
import struct

from lddp.core.namespace import Inode
from lddp.core.records import Kind
from lddp.core.rules import Rule
from lddp.core.view import View
from lddp.doors.watch.events import Event, Flag, Overflow, Watcher
from lddp.errors import ZoneError
from lddp.gateway import Gateway
from lddp.migrate.dirty import WHOLE
from lddp.migrate.observer import Observer
from lddp.zones.looking import identity

_log = logging.getLogger(__name__)
RETRY_S = 1.0
_OF_THE_FILE = Flag.MODIFIED | Flag.CLOSED_WRITE | Flag.ATTRIBUTES
_HANDLE_TYPE = struct.Struct("<i")


class Intake:
    """Feeds one observer from one watcher. `root` is the handle of the rule's top directory."""

    def __init__(self, gateway: Gateway, rule: Rule, root: bytes, watcher: Watcher, observer: Observer) -> None:
        self._gateway = gateway
        self._rule = rule
        self._root = root
        self._watcher = watcher
        self._observer = observer
        self.overflows = 0
        self.problem = ""

    async def run(self) -> None:
        while True:
            try:
                batch = await self._watcher.batch()
                self.problem = ""
            except ZoneError as error:
                self.problem = str(error)
                _log.error("%s", error)
                await asyncio.sleep(RETRY_S)
                self._observer.scrub()
                await self._observer.notice()
                continue
            with self._gateway.view() as view:
                for event in batch:
                    if isinstance(event, Overflow):
                        self.overflows += 1
                        _log.warning("the kernel dropped change events: every directory is compared again")
                        self._observer.scrub()
                    else:
                        self._take(view, event)
            await self._observer.notice()

    def _find(self, view: View, kernel_handle: bytes) -> Inode | None:
        """The inode of a kernel handle (type as int32, then bytes), None where the namespace does not know it."""
        if not kernel_handle:
            return None
        handle = _identity(kernel_handle)
        number = self._rule.root if handle == self._root else view.by_identity(self._rule.number, handle)
        return view.inode(number) if number else None

    def _take(self, view: View, event: Event) -> None:
        target = self._find(view, event.target)
        if event.target:
            # What is on its way to the log may have been read before this change, under this or another inode number.
            self._observer.note_changed(_identity(event.target))
        if target is not None and target.kind is not Kind.DIRECTORY and event.flags & _OF_THE_FILE:
            # Whatever its name is by now. A write through a mapping moves no time, so the bytes are read in any case.
            self._observer.dirty.files.add(target.number)
            if not event.flags & ~_OF_THE_FILE:
                return
        elif target is None and event.target:
            self._take_stray(event.target, b"")
        known = self._take_names(view, event)
        if event.target and (not known or event.flags & Flag.IS_DIRECTORY):
            self._take_target(event, target)

    def _take_names(self, view: View, event: Event) -> bool:
        """Whether one of the directories is known."""
        dirty = self._observer.dirty
        known = False
        for handle, name in ((event.directory, event.name), (event.new_directory, event.new_name)):
            directory = self._find(view, handle)
            if directory is None and handle:
                self._take_stray(handle, name)
                if event.flags & Flag.LIST and handle == event.directory:
                    self._take_stray(handle, WHOLE)
            elif directory is not None and directory.kind is Kind.DIRECTORY:
                if name and not event.target and event.flags & _OF_THE_FILE:
                    self._take_written(view, directory.number, name)
                else:
                    dirty.add_name(directory.number, name)
                known = True
                if event.flags & Flag.LIST and handle == event.directory:
                    dirty.compare.add(directory.number)
        return known

    def _take_written(self, view: View, directory: int, name: bytes) -> None:
        """The watcher does not know which file it was. Within one tick of the clock a write moves no time, nor does one
        through a mapping, so the bytes are read in any case: those of the file that the log has there, which may have
        lost the name since and have others, and those of what has the name by the time it is looked at."""
        self._observer.dirty.add_written(directory, name)
        known = view.inode(view.child(directory, name))
        if known is not None and known.kind is Kind.FILE and known.identity:
            self._observer.note_changed(known.identity)
            self._observer.dirty.files.add(known.number)

    def _take_stray(self, kernel_handle: bytes, name: bytes) -> None:
        """What the log does not know is looked at when its own name is, unless an operation made it: then the log has
        it already, but not by its identity."""
        if not self._rule.observe_only:
            self._observer.dirty.add_stray(_identity(kernel_handle), name)

    def _take_target(self, event: Event, target: Inode | None) -> None:
        dirty = self._observer.dirty
        if target is None:
            return
        if target.kind is Kind.DIRECTORY:
            dirty.add_name(target.number, b"")
        else:
            dirty.files.add(target.number)


def _identity(kernel_handle: bytes) -> bytes:
    """A watcher's handle as the zone's statuses and the namespace write it."""
    (kind,) = _HANDLE_TYPE.unpack_from(kernel_handle)
    return identity(kind, kernel_handle[_HANDLE_TYPE.size :])
