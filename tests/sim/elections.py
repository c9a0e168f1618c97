"""A group that elects all the time, under faults of links and leaders: few operations, many terms, and whatever is said
may be said again over the next link, when it does not hold any more."""

from __future__ import annotations

from random import Random

from lddp.gateway import NO_ZONE
from tests.sim.checks import Violation
from tests.sim.faults import Faults
from tests.sim.operations import REST_S, Operations, come_to_rest
from tests.sim.world import Settings, World

FAULTS = {
    "kill": 2,
    "restart": 6,
    "power cut": 1,
    "break a link": 4,
    "one-way clog": 4,
    "messages repeated over the next link": 6,
    "all is repeated over the next links": 12,
    "isolate": 3,
    "one-way partition": 3,
    "leader stranded": 4,
    "swizzle": 2,
    "majority ring": 2,
    "heal the network": 8,
    "pause of the leader": 2,
    "slow network": 3,
    "slow sync": 2,
}
LEADER_PAUSE_S = (0.5, 3.0)


def settings_of(random: Random) -> Settings:
    """Elections last about as long as messages are on their way, so that answers to several are in the air at once."""
    timeout_s = random.choice([0.1, 0.3])
    return Settings(
        zones=random.choice([(1, 2, NO_ZONE), (1, 2, 3), (1, 2, NO_ZONE, NO_ZONE, NO_ZONE), (1, 2, 3, NO_ZONE)]),
        delay_s=random.choice([(0.001, 0.02), (0.005, 0.1)]),
        sync_s=random.choice([(0.0, 0.002), (0.0, 0.05)]),
        heartbeat_s=timeout_s / 4,
        election_timeout_min_s=timeout_s,
        election_timeout_max_s=2 * timeout_s,
        raft={"window_entries_max": random.choice([16, 4096]), "entry_records_max": random.choice([1, 512])},
    )


def run(seed: int) -> World:
    """Raises Violation; the world as it was at the end."""
    random = Random(repr((seed, "elections")))
    world = World(("elections", seed), settings_of(random))
    # Links are there again before what is repeated is of no use any more.
    world.network.redial_s, world.network.notice_s = (0.0, 0.01), (0.0, 0.005)
    with world:
        world.start()
        operations = Operations(world, clients=random.choice([2, 4]), count=30)
        created = world.loop.create_task(operations.create())
        if not world.run_until(created.done, REST_S):
            raise Violation("the rule was not created in time")
        faults = Faults(world, world.seed, leader_pause_s=LEADER_PAUSE_S)
        faults.kinds = tuple((name, FAULTS[name], act) for name, _, act in faults.kinds if name in FAULTS)
        operations.start()
        for _ in range(random.choice([10, 30, 60])):
            world.run_for(random.choice([0.0, 0.02, 0.05, 0.1, 0.3]))
            faults.inject()
        faults.heal()
        come_to_rest(world, operations)
        world.checks.check_history()
        world.checks.check_states(list(world.machines.values()))
        operations.check()
    return world
