"""A migration of a tree that programs change behind the back while clients change it by operations, at every zone."""

from __future__ import annotations

from random import Random

from lddp.core.records import Kind
from tests.sim.checks import Violation
from tests.sim.faults import Faults
from tests.sim.migration import END_S, PATH, Migration, settings_of, small_limits
from tests.sim.operations import REST_S, Operations, settle
from tests.sim.world import World


def run(seed: int) -> World:
    """Raises Violation; the world as it was at the end."""
    random = Random(repr((seed, "writable")))
    world = World(("writable", seed), settings_of(random))
    world.network.slow_requests = random.choice([0.2, 0.9])  # the scan goes on for a while, or is soon over
    migration = Migration(world, random, observe_only=False)
    operations = Operations(
        world,
        clients=random.choice([1, 3]),
        count=random.choice([10, 30]),
        path=PATH,
        existing=lambda: migration.tree.paths(*Kind),
    )
    with small_limits(random.choice([3, 2048])), world:
        world.start()
        begun = world.loop.create_task(migration.begin())
        if not world.run_until(begun.done, END_S):
            raise Violation("the migration was not begun in time")
        begun.result()
        faults = Faults(world, world.seed, pause_s=(2.0, 10.0))
        faults.spared = migration.spared
        writing = world.loop.create_task(migration.write())
        operations.start()
        for _ in range(random.choice([2, 6, 12])):
            world.run_for(random.choice([0.0, 0.01, 0.05, 0.3, 1.0]))
            faults.inject()
        faults.heal()
        migration.stop_writing()
        operations.stop_asking()
        if not world.run_until(lambda: operations.done and writing.done(), REST_S):
            raise Violation(f"clients still wait {REST_S} s after the faults have stopped")
        migration.follow()
        migration.finish()
        settle(world)
        world.checks.check_history()
        world.checks.check_states(list(world.machines.values()))
        migration.check()
    return world
