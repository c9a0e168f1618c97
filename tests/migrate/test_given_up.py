"""Reports of an observer that ends before they are in the log. Whoever observes next compares everything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from lddp.core.records import Attributes, InodeReport
from lddp.migrate.batch import Shipment
from lddp.migrate.observer import Observer
from lddp.migrate.portions import Pack
from tests.core.support import content
from tests.gateway.bench import Bench
from tests.migrate.conftest import root_only
from tests.migrate.world import World

pytestmark = root_only
Work = Callable[[Observer], Coroutine[Any, Any, None]]


def a_shipment(observer: Observer) -> Coroutine[Any, Any, None]:
    loop = asyncio.get_running_loop()
    before, posted = loop.create_future(), loop.create_future()
    before.set_result(None)
    observer._slots.acquire()
    return observer._ship(Shipment(1, (), (), Pack(b"\0" * 16)), before, posted)


def a_large_file(observer: Observer) -> Coroutine[Any, Any, None]:
    return observer._report_file(1, InodeReport(5, Attributes(0o600, 0, 0, 1), 1, content(b"x")))


@pytest.mark.parametrize("work", [a_shipment, a_large_file])
async def test_they_are_not_submitted_again(world: World, work: Work) -> None:
    bench = Bench()
    unused: Any = None
    observer = Observer(
        bench.gateway,
        world.environment,
        world.source_zone,
        world.rule,
        world.exclusion,
        unused,
        [],
        lambda gsn: gsn,
        unused,
        unused,
    )
    reporting = asyncio.create_task(work(observer))
    await asyncio.sleep(0)
    assert len(bench.member.taken) == 1
    reporting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reporting
    bench.time.now += 60.0
    assert bench.late() == []
