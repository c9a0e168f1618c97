"""Records as documents."""

from __future__ import annotations

from lddp.core import records as r
from lddp.core.records import OperationId
from lddp.node.describe import event_kind, record_document
from lddp.node.history import concerns


def test_a_guarded_operation_is_shown_as_what_is_asked_for() -> None:
    rename = r.Rename(OperationId(b"\1", 7), 0, 5, b"/data/a", b"/data/b/c")
    guarded = r.Guarded(rename, OperationId(b"\1", 6), above=3)
    assert record_document(9, guarded) == record_document(9, rename)
    assert record_document(9, guarded)["record"] == "Rename"
    assert event_kind(guarded) == event_kind(rename) == "operation"
    for record in (rename, guarded):
        assert concerns(record, b"/data/a") and concerns(record, b"/data/b") and not concerns(record, b"/data/c")
