"""A migration and operations on another rule at the same time, on the same nodes."""

from __future__ import annotations

from random import Random

from lddp.gateway import NO_ZONE
from tests.sim.checks import Violation
from tests.sim.faults import Faults
from tests.sim.migration import END_S, SOURCE, Migration, small_limits
from tests.sim.operations import REST_S, Operations, settle
from tests.sim.world import Settings, World

OPERATIONS_RULE = 2


def settings_of(random: Random) -> Settings:
    return Settings(
        zones=random.choice([(SOURCE, 2, NO_ZONE), (SOURCE, 2, 3), (SOURCE, 2, 3, 4, NO_ZONE)]),
        delay_s=random.choice([(0.0002, 0.002), (0.0005, 0.03)]),
        sync_s=random.choice([(0.0, 0.002), (0.0, 0.03)]),
        heartbeat_s=0.3,
        election_timeout_min_s=1.0,
        election_timeout_max_s=2.0,
        checkpoint_s=random.choice([0.1, 5.0]),
    )


def run(seed: int) -> World:
    """Raises Violation; the world as it was at the end."""
    random = Random(repr((seed, "mixed")))
    world = World(("mixed", seed), settings_of(random))
    migration = Migration(world, random)
    operations = Operations(world, clients=random.choice([1, 3]), count=random.choice([10, 30]), rule=OPERATIONS_RULE)
    with small_limits(random.choice([3, 2048])), world:
        world.start()
        for beginning in (migration.begin(), operations.create()):
            begun = world.loop.create_task(beginning)
            if not world.run_until(begun.done, END_S):
                raise Violation("the rules were not created in time")
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
        operations.check()
    return world
