"""What a campaign found: checks with their counts, and violations with the operations that they are about."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from cluster.chaos.history import Document, document_of
from cluster.drill_load import Submitted

SHOWN_MAX = 25
"""Violations of one check that are kept; all are counted."""
EVIDENCE_MAX = 6
_ID = re.compile(r"\b[0-9a-f]{24}:\d+\b")


@dataclass
class Violation:
    """`evidence`: lines of the history."""

    text: str
    evidence: list[Document] = field(default_factory=list)


@dataclass
class Check:
    """One thing that must hold. `count` is how much was looked at, `unit` what of; `note` is for the reader."""

    name: str
    unit: str
    count: int = 0
    violations: list[Violation] = field(default_factory=list)
    found: int = 0
    note: str = ""

    @property
    def held(self) -> bool:
        return not self.found


class Verdict:
    """All checks of a campaign, in the order in which they were made."""

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def check(self, name: str, unit: str, count: int, texts: Iterable[str], note: str = "") -> Check:
        check = Check(name, unit, count, note=note)
        for text in texts:
            check.found += 1
            if len(check.violations) < SHOWN_MAX:
                check.violations.append(Violation(text))
        self.checks.append(check)
        return check

    @property
    def held(self) -> bool:
        return all(check.held for check in self.checks)

    @property
    def found(self) -> int:
        return sum(check.found for check in self.checks)

    def add_evidence(self, operations: Iterable[Submitted], began: float) -> None:
        """Gives each violation the lines of the operations that its text names."""
        by_id = {one.id: one for one in operations}
        for check in self.checks:
            for violation in check.violations:
                ids = dict.fromkeys(_ID.findall(violation.text))
                named = [document_of(by_id[id], began) for id in ids if id in by_id]
                violation.evidence += named[: EVIDENCE_MAX - len(violation.evidence)]
