"""PySyncObj as it is released, on a virtual clock and a transport that only records: to show its faults."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

from lddp.consensus.audited import audited_code

from .simulation import VirtualClock

NO_OP = b"\x01"
REGULAR = b"\x00"


def stock_module(clock: VirtualClock) -> ModuleType:
    code, _ = audited_code()
    module = ModuleType("pysyncobj.syncobj")
    module.__package__ = "pysyncobj"
    exec(code, module.__dict__)
    vars(module)["monotonicTime"] = clock.monotonic
    vars(module)["random"] = SimpleNamespace(random=lambda: 0.5)
    return module


class RecordingTransport:
    ready = True

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.callbacks: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("set"):
            raise AttributeError(name)

        def keep(*arguments: Any) -> None:
            self.callbacks[name] = arguments[-1]

        return keep

    def send(self, node: Any, message: dict[str, Any]) -> None:
        self.sent.append((node.id, message))

    def addNode(self, node: Any) -> None:
        pass

    def dropNode(self, node: Any) -> None:
        pass

    def destroy(self) -> None:
        pass


class Stock:
    """One released SyncObj named `a` with the peers given."""

    def __init__(self, peers: str = "bc", **settings: Any) -> None:
        self.clock = VirtualClock()
        self.module = stock_module(self.clock)
        self.transport = RecordingTransport()
        self.nodes = {name: self.module.Node(name) for name in peers}
        configuration = self.module.SyncObjConf(autoTick=False, **settings)
        self.raft = self.module.SyncObj(
            self.module.Node("a"), list(self.nodes.values()), configuration, transport=self.transport
        )
        for node in self.nodes.values():
            self.transport.callbacks["setOnNodeConnectedCallback"](node)

    def receive(self, peer: str, **message: Any) -> None:
        self.transport.callbacks["setOnMessageReceivedCallback"](self.nodes[peer], message)

    def append(self, peer: str, term: int, previous: tuple[int, int], commit: int, *entries: Any) -> None:
        self.receive(
            peer,
            type="append_entries",
            term=term,
            commit_index=commit,
            entries=list(entries),
            prevLogIdx=previous[0],
            prevLogTerm=previous[1],
        )

    def tick(self, seconds: float = 0.0) -> None:
        self.clock.now += seconds
        self.raft.doTick(0)

    def lead(self) -> None:
        """Makes it the leader by the votes of all peers."""
        self.tick(10.0)
        for peer in self.nodes:
            self.receive(peer, type="response_vote", term=self.raft.raftCurrentTerm)
        assert self.raft._isLeader()

    def close(self) -> None:
        """Closes its journal's file, as its destructor does not."""
        self.raft._doDestroy()

    def kinds(self) -> list[str]:
        return [message["type"] for _, message in self.transport.sent]

    @property
    def last(self) -> int:
        return int(self.raft.getStatus()["log_len"])
