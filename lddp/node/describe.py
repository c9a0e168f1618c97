"""Records, rules and inodes as documents for people and programs."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from lddp.access import Entry
from lddp.admin.backend import Document
from lddp.core import records as r
from lddp.core.namespace import Inode, Totals
from lddp.core.rules import Rule
from lddp.migrate.options import MigrationOptions
from lddp.migrate.verify import Finding
from lddp.serving.paths import named

_NAMES = ("path", "to", "target", "name")


def entry_of(inode: Inode) -> Entry:
    content = inode.content
    sealed = content is not None and content.sealed
    return Entry(
        inode.kind,
        inode.number,
        inode.version,
        max(inode.mode, 0),
        inode.uid,
        inode.gid,
        inode.size,
        inode.mtime_ns,
        inode.nlink,
        inode.pending,
        content.digest if content is not None and sealed else b"",
        inode.target,
        inode.rdev,
        inode.xattrs,
    )


def rule_document(rule: Rule, digest: bytes, names: dict[int, str]) -> Document:
    return {
        "name": rule.name,
        **named("path", rule.path),
        "source": names.get(rule.source, rule.source) if rule.source >= 0 else None,
        "members": [
            {"zone": member.name, **named("local_path", member.local_path), "observe_only": member.observe_only}
            for member in rule.members
        ],
        "options": options_document(rule.options),
        "digest": digest.hex(),
        "created_at_index": rule.gsn,
    }


def options_document(options: bytes) -> Document:
    from dataclasses import asdict

    known = asdict(MigrationOptions.from_bytes(options))
    return {key: list(value) if isinstance(value, tuple) else value for key, value in known.items()}


def progress_of(totals: Totals) -> Document:
    """The part of a migration's progress that is state."""
    return {
        "dirs_seen": totals.directories,
        "dirs_migrated": totals.directories - totals.pending_directories,
        "files_seen": totals.files + totals.others,
        "files_migrated": totals.files + totals.others - totals.pending_files,
        "bytes_seen": totals.bytes + totals.pending_bytes,
        "bytes_migrated": totals.bytes,
    }


def finding_document(finding: Finding | str) -> Document:
    if isinstance(finding, str):
        return {"error": finding}
    return {
        "index": finding.gsn,
        "directories": finding.directories,
        "files": finding.files,
        "bytes": finding.file_bytes,
        "difference_count": finding.difference_count,
        "differences": [{**named("path", path), "what": what} for path, what in finding.differences],
        "repaired": finding.repaired,
        "extraneous_count": finding.extraneous_count,
        "extraneous": [named("path", path) for path in finding.extraneous],
    }


def receipt_document(
    gsn: int, fields: tuple[int, str, int, tuple[r.ZoneFinding, ...]], names: dict[int, str]
) -> Document:
    time_ns, rule, barrier, findings = fields
    return {
        "id": gsn,
        "rule": rule,
        "index": barrier,
        "time_ns": time_ns,
        "holds": len({finding.digest for finding in findings}) == 1,
        "zones": [
            {
                "zone": names.get(finding.zone, str(finding.zone)),
                "digest": finding.digest.hex(),
                "directories": finding.directories,
                "files": finding.files,
                "bytes": finding.file_bytes,
            }
            for finding in findings
        ],
    }


def record_document(gsn: int, record: r.Record) -> Document:
    """One record of the log, without its bytes."""
    if isinstance(record, r.Guarded):
        record = record.operation
    document: dict[str, Any] = {"index": gsn, "record": type(record).__name__}
    if isinstance(record, r.Observation):
        document["zone"] = record.zone
        document["as_of"] = record.as_of
        document["directories"] = len(record.directories)
        document["entries"] = sum(len(report.entries) for report in record.directories)
        document["absent"] = sum(len(report.absent) for report in record.directories)
        document["inodes"] = len(record.inodes)
        return document
    for field, value in zip(record._fields, record, strict=True):
        match value:
            case r.OperationId():
                document["id"] = f"{value.session.hex()}:{value.sequence}"
            case r.Content():
                document["content"] = {"digest": value.digest.hex(), "size": value.size}
            case bytes():
                document.update(named(field, value) if field in _NAMES else {f"{field}_bytes": len(value)})
            case IntEnum():
                document[field] = value.name.lower()
            case int() | str() | None:
                document[field] = value
            case _:
                continue
    return document


def event_kind(record: r.Record) -> str:
    match record:
        case r.Observation():
            return "observation"
        case r.CreateRule() | r.RemoveRule() | r.SetRuleOptions():
            return "rule"
        case r.ChangeMigration():
            return "migration"
        case r.Barrier():
            return "barrier"
        case r.Receipt():
            return "receipt"
        case _:
            return "operation"
