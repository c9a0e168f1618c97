"""Which kinds of records and effects the cases have: folded in memory, without a node."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, get_args

from lddp.core import effects as e
from lddp.core.codec import CODES, encode
from lddp.core.records import Guarded, Observation
from tests.crash.cases import CASES, Make, first_records
from tests.crash.expected import Fold


class Kinds(NamedTuple):
    records: set[type]
    effects: set[type]


def wanted() -> Kinds:
    """All that there are. Observations are records too; what guards an operation has no effects of its own."""
    return Kinds(set(CODES) - {Guarded} | {Observation}, set(get_args(e.Effect)))


def had() -> Kinds:
    """Those of the cases."""
    found = Kinds(set(), set())
    for step, case in enumerate(CASES.values(), 1):
        elsewhere: dict[bytes, bytes] = {}
        fold, make = Fold(elsewhere), Make(Path("/nowhere"), step, elsewhere)
        fold.take(map(encode, first_records(make)))
        fold.take(map(encode, [make.directory(), *case.before(make)]))
        for look in (*case.observed, case.operation):
            records = look(make, fold.ledger.view)
            fold.take(map(encode, records))
            found.records.update(map(type, records))
        found.effects.update(type(scoped.effect) for effects in fold.ledger.effects for scoped in effects)
        assert not any(outcome.errno for outcome in fold.ledger.outcomes), case.name
    return found
