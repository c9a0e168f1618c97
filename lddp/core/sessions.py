"""Exactly once to the client: the outcome of every recent operation, by its id.

A retry carries the id of the first try and gets the first outcome back. Outcomes are kept for at least
SESSION_WINDOW_RECORDS later records and then forgotten, in batches at fixed GSNs, so that all nodes forget alike.
"""

from __future__ import annotations

import struct

from lddp.core.limits import SESSION_WINDOW_RECORDS
from lddp.core.namespace import NUMBER
from lddp.core.records import OperationId, Outcome
from lddp.core.tables import Table, Tables

FORGET_EVERY_RECORDS = 1024
_OUTCOME = struct.Struct(">QIQQ")
"""GSN, errno, inode, version."""


def _key(operation: OperationId) -> bytes:
    session, sequence = operation
    return b"%c%b%b" % (len(session), session, NUMBER.pack(sequence))


def recall(tables: Tables, operation: OperationId) -> tuple[int, Outcome] | None:
    """(GSN, outcome) of the first try, or None where it is not known."""
    data = tables.get(Table.OUTCOMES, _key(operation))
    if data is None:
        return None
    gsn, number, inode, version = _OUTCOME.unpack(data)
    return gsn, Outcome(number, inode, version)


def remember(tables: Tables, operation: OperationId, gsn: int, outcome: Outcome) -> None:
    key = _key(operation)
    tables.put(Table.OUTCOMES, key, _OUTCOME.pack(gsn, outcome.errno, outcome.inode, outcome.version))
    tables.put(Table.OUTCOMES_BY_GSN, NUMBER.pack(gsn), key)


def forget(tables: Tables, gsn: int) -> None:
    """Drops what is older than the window, where `gsn` is one at which that is done."""
    if gsn % FORGET_EVERY_RECORDS or gsn <= SESSION_WINDOW_RECORDS:
        return
    stop = NUMBER.pack(gsn - SESSION_WINDOW_RECORDS)
    for key, operation in list(tables.scan(Table.OUTCOMES_BY_GSN, b"", stop)):
        tables.delete(Table.OUTCOMES, operation)
        tables.delete(Table.OUTCOMES_BY_GSN, key)
