"""A node as a process: until a signal, or until it fails."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
import time

import uvloop

from lddp.config import NodeConfig
from lddp.consensus.audited import load_raft
from lddp.errors import LddpError
from lddp.node.runtime import Node
from lddp.node.system import tune_process
from lddp.zones.workers import Workers

_log = logging.getLogger(__name__)
FAILED_STOP_S = 3.0


async def serve(config: NodeConfig, workers: Workers | None) -> int:
    """Runs a node until a signal or a failure; the exit code."""
    tune_process()
    node = Node(config, workers)
    stop = asyncio.Event()
    patience_s: float | None = None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    node.member.on_leader_change.append(functools.partial(_tell_leader, node))
    try:
        await node.start()
        where = f"clients at {node.url}, peers at {config.peer}"
        _log.info("node %s of %s runs: %s", config.name, config.ecosystem, where)
        failed = node.member.failed
        failed.add_done_callback(lambda _: stop.set())
        await stop.wait()
        if failed.done():
            error = failed.exception()
            _log.critical("node %s stops: %s", config.name, error)
            # It does nothing any more: it is to end, and be started again, soon.
            patience_s = FAILED_STOP_S
            return 1
        _log.info("node %s stops: it was asked to", config.name)
        return 0
    finally:
        with contextlib.suppress(LddpError, TimeoutError):
            async with asyncio.timeout(patience_s):
                await node.stop()


def _tell_leader(node: Node, leader: str | None) -> None:
    if leader is None:
        _log.info("no leader is heard")
    elif leader == node.config.name:
        _log.info("this node leads in term %d", node.member.term)
    else:
        _log.info("follows %s in term %d", leader, node.member.term)


def warm_up() -> None:
    """What every node of a process does at its start, done once before several nodes are forked."""
    load_raft(time.monotonic, lambda _: None)


def run(config: NodeConfig, *, writes: bool = True) -> int:
    """Runs one node in the foreground; its exit code. `writes` says whether its zone is more than observed."""
    return uvloop.run(serve(config, Workers.start() if writes and config.zone is not None else None))
