"""What a zone says of its files when it is asked to look."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lddp.core.records import Attributes, MakeDirectory
from lddp.migrate.options import MigrationOptions
from lddp.migrate.verify import Finding
from lddp.node.survey import Surveyor
from lddp.node.system import SystemClock
from lddp.node.trees import Trees
from tests.core.support import SOURCE, TARGET, Ledger, create_rule, operation_id
from tests.fakes.zone import Bytes, FakeZone
from tests.node.test_driver import FakeEnvironment, FakeGateway


class Interrupted(FakeZone):
    """Something happens before its files are listed."""

    def __init__(self) -> None:
        super().__init__()
        self.before_list: Callable[[], None] = lambda: None

    def list(self, path: bytes) -> Any:
        self.before_list()
        return super().list(path)


class Clock(SystemClock):
    now_ns = 10**18

    def time_ns(self) -> int:
        return self.now_ns


class Quiet:
    """Of a member: nobody asks and nobody is asked."""

    def __init__(self) -> None:
        self.on_message: list[Any] = []


def surveyor_of(gateway: FakeGateway, zone: FakeZone) -> Surveyor:
    unused: Any = None
    parts: Any = (FakeEnvironment(gateway.ledger), gateway, Quiet())
    trees: Any = Trees.__new__(Trees)
    trees.zones = {1: zone}
    return Surveyor(*parts, trees, unused, unused, {}, unused, unused)


async def test_a_state_that_moves_while_the_files_are_read_is_told() -> None:
    """Files may be compared with a state that they have left, or have not reached."""
    ledger, zone = Ledger(), Interrupted()
    ledger.apply(create_rule())
    rule = ledger.machine.rules[1]

    def operate() -> None:
        ledger.apply(MakeDirectory(operation_id(1), TARGET, 1, b"/data/new", 0o755, 0, 0))

    surveyor = surveyor_of(FakeGateway(ledger), zone)
    found = surveyor._verify(rule)
    assert isinstance(found, Finding)
    assert found.namespace_digest == ledger.view.digest(1)
    zone.before_list = operate
    before = ledger.view.digest(1)
    found = surveyor._verify(rule)
    assert isinstance(found, Finding)
    assert found.namespace_digest == ledger.view.digest(1) != before


async def test_files_are_as_old_as_they_were_when_their_observer_began() -> None:
    """Nothing tells it that one has grown old enough meanwhile: it begins anew, and looks at everything then."""
    ledger, zone, clock = Ledger(), FakeZone(), Clock()
    options = MigrationOptions(age_s_min=60).to_bytes()
    ledger.apply(create_rule(source=SOURCE)._replace(options=options))
    rule = ledger.machine.rules[1]
    gateway = FakeGateway(ledger)
    gateway.clock = clock
    surveyor = surveyor_of(gateway, zone)
    zone.put_file(b"young", Attributes(0o644, 0, 0, clock.now_ns - 30 * 10**9), Bytes(b"1"))

    def is_left_out() -> bool:
        found = surveyor._verify(rule)
        assert isinstance(found, Finding)
        return (b"young", "name is not in the log") not in found.differences

    observed = surveyor.begin(rule)
    clock.now_ns += 3600 * 10**9
    assert observed.excludes(b"young", zone.status(b"young"))
    assert is_left_out()
    assert not surveyor.begin(rule).excludes(b"young", zone.status(b"young"))
    assert not is_left_out()
