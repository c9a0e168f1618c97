"""The node as its HTTP API sees it: implements `lddp.admin.backend.Backend`."""

from __future__ import annotations

import errno
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lddp.access import ContentWriter, Decided, Entry, OpenFile
from lddp.admin.backend import Document, Event, Metric, RuleRequest
from lddp.config import WriteMode
from lddp.core import records as r
from lddp.core.records import MigrationAction, OperationId, Outcome, Record, ZoneMember
from lddp.core.rules import NO_SOURCE, read_receipt, receipt_gsns
from lddp.errors import OutcomeUnknownError, UnavailableError, UsageError, quoted
from lddp.gateway import NOT_SETTLED
from lddp.migrate.options import MigrationOptions
from lddp.node.describe import receipt_document, rule_document
from lddp.node.history import History
from lddp.node.lookup import entry_at, listing_at, rule_at
from lddp.node.reading import Reader, elsewhere
from lddp.node.reports import Reports
from lddp.node.uploads import Upload
from lddp.replay.awaited import name_of_changed

if TYPE_CHECKING:
    from lddp.node.runtime import Node


class NodeBackend:
    """Reads and submits on behalf of clients of this node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._history = History(node)
        self._reports = Reports(node)
        self._reader = Reader(node)

    # -- what this node is and sees ---------------------------------------------------------------------------------

    def status(self) -> Document:
        return self._reports.status()

    def readiness(self) -> str:
        return self._reports.readiness()

    def nodes(self) -> list[Document]:
        return self._reports.nodes()

    def metrics(self) -> Iterable[Metric]:
        return self._reports.metrics()

    def applied(self) -> int:
        return self._node.gateway.latest_gsn

    def zone_number(self) -> int:
        return self._node.gateway.zone

    def time_ns(self) -> int:
        return self._node.clock.time_ns()

    # -- records ----------------------------------------------------------------------------------------------------

    def next_id(self) -> OperationId:
        return self._node.gateway.next_id()

    async def submit(self, record: Record, timeout_s: float) -> tuple[int, Outcome]:
        (answer,) = await self.submit_many([record], timeout_s)
        return answer

    async def submit_many(
        self, records: Sequence[Record], timeout_s: float, *, visible: bool = True, decided: Decided | None = None
    ) -> list[tuple[int, Outcome]]:
        if self._node.witness:
            raise elsewhere(self._node, "a witness takes no operations; ask a node that has a zone")
        deadline = self._node.clock.monotonic() + timeout_s
        applied = await self._node.gateway.submit_many(records, timeout_s, early=not visible)
        answers = [(one.gsn, one.outcome) for one in applied]
        if decided is not None:
            decided(answers)
        projector = self._node.projector if visible else None
        if projector is not None:
            try:
                for record, one in zip(records, applied, strict=True):
                    if not one.outcome.errno:
                        left_s = max(0.0, deadline - self._node.clock.monotonic())
                        await projector.wait(one.gsn, left_s, name_of_changed(record))
            except UnavailableError as error:
                # It is ordered: that it surely did not happen, as UnavailableError says, would be wrong.
                raise OutcomeUnknownError(
                    f"ordered, but not visible here yet ({error}); ask again with the same id"
                ) from None
        return answers

    async def barrier(self, timeout_s: float) -> int:
        deadline = self._node.clock.monotonic() + timeout_s
        gsn = await self._node.gateway.barrier(timeout_s)
        await self._node.mounts.told(max(0.0, deadline - self._node.clock.monotonic()))
        return gsn

    async def wait(self, index: int, timeout_s: float) -> None:
        deadline = self._node.clock.monotonic() + timeout_s
        await self._node.gateway.wait(index, timeout_s)
        if self._node.projector is not None:
            await self._node.projector.wait_through(index, max(0.0, deadline - self._node.clock.monotonic()))
        await self._node.mounts.told(max(0.0, deadline - self._node.clock.monotonic()))

    # -- the namespace and its files --------------------------------------------------------------------------------

    def entry(self, path: bytes) -> Entry | None:
        self._require_files()
        with self._node.gateway.latest() as view:
            return entry_at(view, path)

    def listing(self, path: bytes, after: bytes, limit: int) -> list[tuple[bytes, Entry]]:
        self._require_files()
        with self._node.gateway.latest() as view:
            return listing_at(view, path, after, limit)

    async def open_file(self, path: bytes) -> OpenFile:
        self._require_files()
        return await self._reader.open(path)

    def content_writer(self, path: bytes, size: int | None) -> ContentWriter:
        self._require_files()
        with self._node.gateway.latest() as view:
            rule = rule_at(view, path)
        return Upload(self._node, rule)

    def _require_zone(self) -> None:
        """A witness keeps the log and does not fold it: that nothing is there it cannot know."""
        if self._node.witness:
            raise elsewhere(self._node, "a witness has no files and no rules; ask a node that has a zone")

    def _require_files(self) -> None:
        """Nothing is shown that is older than what was shown before a restart."""
        self._require_zone()
        if not self._node.member.is_settled:
            raise UnavailableError(f"{NOT_SETTLED}; ask another node, or again")

    # -- FUSE mounts ------------------------------------------------------------------------------------------------

    def mounts(self) -> list[Document]:
        return self._node.mounts.documents()

    async def mount(
        self, rule: str, mountpoint: bytes, soft_s: float | None, mode: WriteMode, *, passthrough: bool = False
    ) -> Document:
        self._require_zone()
        return await self._node.mounts.mount(rule, mountpoint, soft_s, mode, passthrough=passthrough)

    async def unmount(self, mountpoint: bytes, *, lazily: bool) -> Document:
        return await self._node.mounts.unmount(mountpoint, lazily=lazily)

    # -- rules, migrations, receipts, the log -----------------------------------------------------------------------

    def zones(self) -> dict[str, int]:
        return self._node.config.zones()

    def _names(self) -> dict[int, str]:
        return {number: name for name, number in self.zones().items()}

    def rules(self) -> list[Document]:
        self._require_zone()
        with self._node.gateway.view() as view:
            return [rule_document(rule, view.digest(rule.number), self._names()) for rule in view.rules()]

    def rule(self, name: str) -> Document | None:
        return next((rule for rule in self.rules() if rule["name"] == name), None)

    async def create_rule(self, request: RuleRequest, id: OperationId, timeout_s: float) -> tuple[int, Outcome]:
        zones = self.zones()
        for name in [member.zone for member in request.members] + ([request.source] if request.source else []):
            if name not in zones:
                raise UsageError(f"there is no zone {name!r}; zones are {', '.join(sorted(zones))}")
        members = tuple(
            ZoneMember(zones[member.zone], member.zone, member.local_path, member.observe_only)
            for member in request.members
        )
        own = self._node.config.zone
        for member in members:
            if own is not None and member.zone == own.number and not own.contains(member.local_path):
                raise UsageError(f"{quoted(member.local_path)} is outside of this zone's root {own.root}")
        options = MigrationOptions.from_mapping(dict(request.options)).to_bytes()
        source = zones[request.source] if request.source else NO_SOURCE
        record = r.CreateRule(id, self.time_ns(), request.name, request.path, source, members, options)
        return await self.submit(record, timeout_s)

    async def change_rule(
        self, name: str, options: Mapping[str, Any], id: OperationId, timeout_s: float
    ) -> tuple[int, Outcome]:
        packed = MigrationOptions.from_mapping(dict(options)).to_bytes()
        return await self.submit(r.SetRuleOptions(id, self.time_ns(), name, packed), timeout_s)

    async def remove_rule(self, name: str, id: OperationId, timeout_s: float) -> tuple[int, Outcome]:
        return await self.submit(r.RemoveRule(id, self.time_ns(), name), timeout_s)

    def migrations(self) -> list[Document]:
        self._require_zone()
        return self._reports.migrations()

    def migration(self, rule: str) -> Document | None:
        return next((one for one in self.migrations() if one["rule"] == rule), None)

    async def change_migration(
        self, rule: str, action: MigrationAction, id: OperationId, timeout_s: float
    ) -> tuple[int, Outcome]:
        self._require_zone()
        if action is MigrationAction.COMPLETE:
            return self._complete(rule)
        record = r.ChangeMigration(id, self.time_ns(), rule, action)
        return await self.submit(record, timeout_s)

    def _complete(self, name: str) -> tuple[int, Outcome]:
        """The source compares the zones, writes the receipt, and then completes the migration."""
        with self._node.gateway.view() as view:
            rule = view.rule(name)
            migration = None if rule is None else view.migration(rule.number)
        if rule is None or migration is None:
            return self.applied(), Outcome(errno.ENOENT)
        if migration.state not in ("running", "live"):
            return self.applied(), Outcome(errno.EINVAL)
        self._node.completion.ask(rule.number)
        return self.applied(), Outcome(0)

    def receipts(self, rule: str) -> list[Document]:
        self._require_zone()
        with self._node.environment.read() as tables:
            found = [(gsn, read_receipt(tables, gsn)) for gsn in reversed(receipt_gsns(tables))]
        names = self._names()
        return [
            receipt_document(gsn, fields, names)
            for gsn, fields in found
            if fields is not None and rule in ("", fields[1])
        ]

    def receipt(self, id: int) -> Document | None:
        self._require_zone()
        with self._node.environment.read() as tables:
            fields = read_receipt(tables, id)
        return None if fields is None else receipt_document(id, fields, self._names())

    async def log(self, first: int, last: int, path: bytes, limit: int) -> tuple[list[Document], int]:
        return await self._history.documents(first, last, path, limit)

    def subscribe(self, after: int) -> AsyncGenerator[list[Event], None]:
        return self._history.events(after)
