"""What a node says about itself: status, nodes, metrics, progress of migrations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lddp.admin.backend import Document, Metric
from lddp.core.machine import read_gsn
from lddp.core.rules import Migration, Rule
from lddp.core.tables import Tables
from lddp.core.view import View
from lddp.errors import errno_name
from lddp.gateway import NOT_SETTLED
from lddp.node.describe import finding_document, progress_of
from lddp.node.migration import MigrationDriver
from lddp.replay.outbox import count_after
from lddp.serving.paths import named

if TYPE_CHECKING:
    from lddp.node.runtime import Node

FAILED_SHOWN_MAX = 100
LAG_COUNTED_MAX = 10_000
"""Counted while everybody else waits: an answer must not take long."""


class Reports:
    def __init__(self, node: Node) -> None:
        self._node = node

    def projected(self) -> int:
        projector = self._node.projector
        return self._node.gateway.gsn if projector is None else projector.projected

    def status(self) -> Document:
        node = self._node
        member, config = node.member, node.config
        with node.environment.read() as tables:
            lag = self._lag(tables)
        with node.gateway.latest() as view:
            rules = [self._rule(view, rule) for rule in view.rules()]
        return {
            "node": config.name,
            "ecosystem": config.ecosystem,
            "role": config.role.value,
            "zone": None if config.zone is None else config.zone.name,
            "leader": member.leader,
            "term": member.term,
            "state": member.role.name.lower(),
            "log": {
                "first": member.first_index,
                "last": member.last_index,
                "commit": member.commit_index,
                "applied": member.applied_index,
                "index": node.gateway.latest_gsn,
                "projected": self.projected(),
            },
            "lag": {"entries": lag, "bytes": 0 if node.projector is None else node.projector.waiting_bytes},
            "rules": rules,
            "disk": {"free_bytes": self._free_bytes()},
            "problems": self._problems(),
        }

    def _lag(self, tables: Tables) -> int:
        """Effects that this zone has not carried out yet, counted up to a limit."""
        projector = self._node.projector
        if projector is None or projector.projected >= self._node.gateway.gsn:
            return 0
        return count_after(tables, (projector.projected, 0xFFFFFFFE), LAG_COUNTED_MAX)

    def _rule(self, view: View, rule: Rule) -> Document:
        totals = view.totals(rule.number)
        return {
            "name": rule.name,
            **named("path", rule.path),
            "digest": view.digest(rule.number).hex(),
            "directories": totals.directories,
            "files": totals.files + totals.others,
            "bytes": totals.bytes,
            "pending": totals.pending_directories + totals.pending_files,
        }

    def _free_bytes(self) -> int | None:
        zones = list(self._node.trees.zones.values())
        return zones[0].free_bytes() if zones else None

    def _problems(self) -> list[str]:
        node = self._node
        problems = list(node.trees.problems.values())
        if node.projector is not None and node.projector.stopped:
            reason = node.projector.stopped
            problems.append(f"this zone does not project: {reason}; it goes on by itself once that is mended")
        if node.member.sidelined:
            problems.append("this node is sidelined: it needs log entries that the others have dropped")
        problems += [driver.problem for driver in node.drivers.values() if driver.problem]
        return problems

    def readiness(self) -> str:
        node = self._node
        if node.member.leader is None:
            return "no leader is known"
        if node.gateway.gsn < node.ready_at:
            return f"it is at {node.gateway.gsn} and was at {node.ready_at} before its start"
        if not node.member.is_settled:
            return NOT_SETTLED
        problems = self._problems()
        return problems[0] if problems else ""

    def nodes(self) -> list[Document]:
        node = self._node
        own: Document = {
            "name": node.config.name,
            "role": node.config.role.value,
            "zone": None if node.config.zone is None else node.config.zone.name,
            "address": str(node.config.peer),
            "http": str(node.config.http),
            "connected": True,
            "leader": node.member.leader == node.config.name,
            "projected": self.projected(),
        }
        others = [
            {
                "name": name,
                "role": peer.role.value,
                "zone": peer.zone or None,
                "address": str(peer.address),
                "http": peer.http or None,
                "connected": name in node.member.connected_peers,
                "leader": node.member.leader == name,
                "projected": node.gossip.projected.get(name),
            }
            for name, peer in sorted(node.config.peers.items())
        ]
        return [own, *others]

    def metrics(self) -> Iterable[Metric]:
        node = self._node
        with node.environment.read() as tables:
            gsn = read_gsn(tables)
        yield Metric("lddp_applied_index", "gauge", "GSN folded by this node", gsn)
        yield Metric("lddp_projected_index", "gauge", "GSN this zone's files are at", self.projected())
        yield Metric("lddp_raft_term", "gauge", "Raft term", node.member.term)
        yield Metric("lddp_is_leader", "gauge", "1 on the leader", float(node.member.leader == node.config.name))
        for peer, traffic in node.traffic.peers.items():
            labels = (("peer", peer),)
            sent = traffic.pushed + traffic.served
            yield Metric("lddp_content_sent_bytes_total", "counter", "Content sent", sent, labels)
            received = traffic.received + traffic.pulled
            yield Metric("lddp_content_received_bytes_total", "counter", "Content received", received, labels)
            yield Metric("lddp_content_handed_bytes_total", "counter", "Content handed over", traffic.handed, labels)

    # -- migrations -------------------------------------------------------------------------------------------------

    def migrations(self) -> list[Document]:
        found: list[Document] = []
        with self._node.gateway.view() as view:
            for rule in view.rules():
                migration = view.migration(rule.number)
                if migration is not None:
                    found.append(self._migration(view, rule, migration))
        return found

    def _migration(self, view: View, rule: Rule, migration: Migration) -> Document:
        document: Document = {
            "id": rule.name,
            "rule": rule.name,
            "state": migration.state,
            "detail": migration.detail,
            "created_ns": migration.created_ns,
            "changed_ns": migration.changed_ns,
            **progress_of(view.totals(rule.number)),
            "index": view.gsn,
        }
        driver = self._node.drivers.get(rule.number)
        if driver is not None:
            document.update(self._source_part(driver))
            document.update(_pace(driver, document["bytes_seen"] - document["bytes_migrated"]))
        elif rule.number in self._node.trees.problems:
            document["problem"] = self._node.trees.problems[rule.number]
        return document

    def _source_part(self, driver: MigrationDriver) -> Document:
        """What only the source's node knows."""
        observer = driver.observer
        part: Document = {
            "verifying": driver.verifying,
            "problem": driver.problem,
            "watcher": None if driver.watcher is None else driver.watcher.kind,
            "watcher_reason": None if driver.watcher is None else driver.watcher.reason,
            "findings": {str(zone): finding_document(finding) for zone, finding in driver.findings.items()},
        }
        if observer is not None:
            part["changes"] = observer.counters.changes
            part["observations"] = observer.counters.observations
            part["voids"] = observer.counters.voids
            part["content_bytes"] = observer.pace.total
            part["files_skipped"] = len(observer.counters.skipped)
            part["skipped_paths"] = [
                named("path", path) for path in sorted(observer.counters.skipped)[:FAILED_SHOWN_MAX]
            ]
            part["files_excluded"] = len(observer.counters.excluded)
            part["events_behind"] = len(observer.dirty)
            part["failed_paths"] = [
                {**named("path", failure.path), "errno": errno_name(failure.errno)}
                for failure in list(observer.failures.values())[:FAILED_SHOWN_MAX]
            ]
        return part


def _pace(driver: MigrationDriver, left: int) -> Document:
    """Of `left` bytes of content that are not in the log: how fast they go, and how long that takes."""
    pace = None if driver.observer is None else driver.observer.pace
    rate = 0.0 if pace is None else pace.per_second()
    under_way = 0 if pace is None else pace.under_way
    left = max(0, left - under_way)
    eta = 0 if not left else round(left / rate) if rate >= 1 else None
    return {"bytes_under_way": under_way, "bytes_per_second": round(rate), "eta_seconds": eta}
