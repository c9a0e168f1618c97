"""What a zone says of its files when it is asked to look."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lddp.core.records import MakeDirectory
from lddp.migrate.verify import Finding
from lddp.node.survey import Surveyor
from lddp.node.trees import Trees
from tests.core.support import TARGET, Ledger, create_rule, operation_id
from tests.fakes.zone import FakeZone
from tests.node.test_driver import FakeEnvironment, FakeGateway


class Interrupted(FakeZone):
    """Something happens before its files are listed."""

    def __init__(self) -> None:
        super().__init__()
        self.before_list: Callable[[], None] = lambda: None

    def list(self, path: bytes) -> Any:
        self.before_list()
        return super().list(path)


class Quiet:
    """Of a member: nobody asks and nobody is asked."""

    def __init__(self) -> None:
        self.on_message: list[Any] = []


async def test_a_state_that_moves_while_the_files_are_read_is_told() -> None:
    """Files may be compared with a state that they have left, or have not reached."""
    ledger, zone = Ledger(), Interrupted()
    ledger.apply(create_rule())
    rule = ledger.machine.rules[1]

    def operate() -> None:
        ledger.apply(MakeDirectory(operation_id(1), TARGET, 1, b"/data/new", 0o755, 0, 0))

    unused: Any = None
    parts: Any = (FakeEnvironment(ledger), FakeGateway(ledger), Quiet())
    trees: Any = Trees.__new__(Trees)
    trees.zones = {1: zone}
    surveyor = Surveyor(*parts, trees, unused, unused, {}, unused, unused)
    found = surveyor._verify(rule)
    assert isinstance(found, Finding)
    assert found.namespace_digest == ledger.view.digest(1)
    zone.before_list = operate
    before = ledger.view.digest(1)
    found = surveyor._verify(rule)
    assert isinstance(found, Finding)
    assert found.namespace_digest == ledger.view.digest(1) != before
