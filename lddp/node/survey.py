"""Compares the zones of a rule at one GSN: every zone brings itself there and walks its real files."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

from lddp.consensus.member import RaftMember
from lddp.core.records import Content
from lddp.core.rules import Rule
from lddp.core.view import View
from lddp.errors import FormatError, LddpError, UnavailableError
from lddp.gateway import Gateway
from lddp.migrate.options import Exclusion, MigrationOptions
from lddp.migrate.verify import Finding, Verifier
from lddp.node.fields import checked_list, number, text
from lddp.node.trees import Trees
from lddp.ports import ContentStore, KeyValue
from lddp.replay.existing import OnExisting
from lddp.replay.extraneous import remove_extraneous
from lddp.replay.projector import Projector
from lddp.replay.repair import carry_repair, plan_repair

_log = logging.getLogger(__name__)
REACH_TIMEOUT_S = 3600.0
REACH_LOOK_S = 5.0
"""How often a zone that is not at the GSN yet looks whether it can get there."""
ASK_AGAIN_S = 1.0
AWAY_S = 10.0
"""A node that is not heard of for so long is away."""
ANSWERS_KEPT = 16
SENT_MAX = 80
SENT_PATH_BYTES_MAX = 300
"""A message between nodes is small: long lists and long paths are cut, the counts are not."""


class Surveyor:
    """Answers for this zone, and asks the others. Questions are asked again until answered: messages may be lost."""

    def __init__(
        self,
        environment: KeyValue,
        gateway: Gateway,
        member: RaftMember,
        trees: Trees,
        projector: Projector | None,
        executor: Executor,
        nodes: Mapping[int, str],
        store: ContentStore,
        holders: Callable[[int], Sequence[str]],
    ) -> None:
        self._environment = environment
        self._gateway = gateway
        self._member = member
        self._trees = trees
        self._projector = projector
        self._executor = executor
        self._store = store
        self._holders = holders
        self._nodes = nodes
        """Name of the node that owns each other zone, by zone number."""
        self._numbers = itertools.count(gateway.clock.time_ns())
        self._asked: dict[int, asyncio.Future[Finding | str]] = {}
        self._heard: dict[int, float] = {}
        """When a sign of life came last about each question."""
        self._working: dict[tuple[str, int], asyncio.Task[None]] = {}
        """By who asked about which rule: a question that replaces another one waits until that is answered."""
        self._answers: dict[tuple[str, int], dict[str, Any]] = {}
        """The latest answers, in case one was lost on its way."""
        self._began_ns: dict[int, int] = {}
        """When the observer of a rule's source here began, by the number of the rule."""
        member.on_message.append(self._message)

    def begin(self, rule: Rule) -> Exclusion:
        """What an observer that begins now is to leave out. Comparisons go by the same time from now on: a file that
        was too young then is none that it has overlooked."""
        self._began_ns[rule.number] = self._gateway.clock.time_ns()
        return self._exclusion(rule)

    def _exclusion(self, rule: Rule) -> Exclusion:
        now_ns = self._began_ns.get(rule.number)
        options = MigrationOptions.from_bytes(rule.options)
        return Exclusion(options, self._gateway.clock.time_ns() if now_ns is None else now_ns)

    async def survey(self, rule: Rule, gsn: int) -> dict[int, Finding | str]:
        """What each member zone found, or why it could not look."""
        zones = [member.zone for member in rule.members]
        found = await asyncio.gather(*(self._ask(zone, rule, gsn) for zone in zones))
        return dict(zip(zones, found, strict=True))

    async def _ask(self, zone: int, rule: Rule, gsn: int) -> Finding | str:
        if zone == self._gateway.zone:
            return await self._look(rule.number, gsn)
        node = self._nodes.get(zone)
        if node is None:
            return f"no node owns zone {zone}"
        question = next(self._numbers)
        future: asyncio.Future[Finding | str] = asyncio.get_running_loop().create_future()
        clock = self._gateway.clock
        self._asked[question], self._heard[question] = future, clock.monotonic()
        try:
            while clock.monotonic() - self._heard[question] < AWAY_S:
                self._member.send(node, {"type": "survey", "number": question, "rule": rule.number, "gsn": gsn})
                done, _ = await asyncio.wait([future], timeout=ASK_AGAIN_S)
                if done:
                    return future.result()
            return f"node {node} does not answer"
        finally:
            del self._asked[question], self._heard[question]

    def _message(self, peer: str, message: dict[str, Any]) -> None:
        if message.get("type") == "survey":
            self._asked_by(peer, message)
        elif message.get("type") == "surveying" and number(message, "number") in self._heard:
            self._heard[number(message, "number")] = self._gateway.clock.monotonic()
        elif message.get("type") == "finding":
            future, error = self._asked.get(number(message, "number")), text(message, "error")
            if future is not None and not future.done():
                future.set_result(error if error else finding_of(message.get("finding")))

    def _asked_by(self, peer: str, message: dict[str, Any]) -> None:
        question, rule, gsn = number(message, "number"), number(message, "rule"), number(message, "gsn")
        key = (peer, rule)
        if (peer, question) in self._answers:
            self._member.send(peer, self._answers[peer, question])
            return
        if key not in self._working:
            task = asyncio.get_running_loop().create_task(self._answer(peer, question, rule, gsn))
            self._working[key] = task
            task.add_done_callback(lambda _: self._working.pop(key, None))
        self._member.send(peer, {"type": "surveying", "number": question})

    async def _answer(self, peer: str, question: int, rule: int, gsn: int) -> None:
        found = await self._look(rule, gsn)
        answer: dict[str, Any] = {"type": "finding", "number": question, "error": "", "finding": None}
        if isinstance(found, str):
            answer["error"] = found
        else:
            answer["finding"] = list_of(found)
        while len(self._answers) >= ANSWERS_KEPT:
            del self._answers[next(iter(self._answers))]
        self._answers[peer, question] = answer
        self._member.send(peer, answer)

    async def _look(self, rule_number: int, gsn: int) -> Finding | str:
        """This zone's finding once its files are at the GSN."""
        zone, rule = self._trees.usable(rule_number), self._trees.rules.get(rule_number)
        if zone is None or rule is None:
            return self._trees.problems.get(rule_number, "this zone has no tree of the rule")
        try:
            await self._reach(gsn)
            if self._projector is not None:
                await self._remove_extraneous(self._projector, rule)
                await self._projector.checkpoint()
        except (LddpError, OSError) as error:
            return str(error)
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._executor, self._verify, rule)
        if self._projector is None or isinstance(found, str) or not self._may_repair(rule, found):
            return found
        repaired = await self._repair(self._projector, rule, found)
        if repaired:
            found = await loop.run_in_executor(self._executor, self._verify, rule)
            if isinstance(found, Finding):
                found.repaired = repaired
        return found

    async def _reach(self, gsn: int) -> None:
        """Until this zone's files are at the GSN. UnavailableError where something keeps them from it."""
        deadline = self._gateway.clock.monotonic() + REACH_TIMEOUT_S
        while True:
            try:
                await self._gateway.wait(gsn, REACH_LOOK_S)
                if self._projector is not None:
                    await self._projector.wait_through(gsn, REACH_LOOK_S)
                return
            except UnavailableError:
                stopped = self._projector is not None and self._projector.stopped
                if stopped or self._gateway.clock.monotonic() > deadline:
                    raise

    def _may_repair(self, rule: Rule, found: Finding) -> bool:
        """The source is never written, and a policy that keeps other bytes at the target is respected."""
        policy = MigrationOptions.from_bytes(rule.options).on_existing
        writes = policy in (OnExisting.OVERWRITE, OnExisting.SKIP_IDENTICAL)
        return bool(found.difference_count) and rule.source != self._gateway.zone and writes

    async def _repair(self, projector: Projector, rule: Rule, found: Finding) -> int:
        """Brings the listed differences back to what the log says; how many paths that were."""
        carrier = self._trees.carriers.get(rule.number)
        if carrier is None:
            return 0
        paths = [path for path, _ in found.differences]
        try:
            mends = await projector.exclusively(lambda view: plan_repair(view, rule, carrier.zone, paths))
            for mend in mends:
                if mend.content is not None:
                    await self._fetch(mend.content, mend.inode, rule)
            mended = await projector.exclusively(lambda view: carry_repair(view, carrier, self._store, mends))
            await projector.checkpoint()
        except (LddpError, OSError) as error:
            _log.warning("differences of rule %s wait to be repaired: %s", rule.name, error)
            return 0
        for path in mended:
            _log.warning("repaired %r of rule %s, which was not as the log left it", path, rule.name)
        return len(mended)

    async def _fetch(self, content: Content, inode: int, rule: Rule) -> None:
        try:
            await self._store.fetch(content, inode, self._holders(rule.number))
        except UnavailableError as error:
            _log.info("bytes for the repair of inode %d: %s", inode, error)

    async def _remove_extraneous(self, projector: Projector, rule: Rule) -> None:
        options = MigrationOptions.from_bytes(rule.options)
        carrier = self._trees.carriers.get(rule.number)
        if carrier is None or not options.delete_extraneous or rule.source == self._gateway.zone:
            return
        exclusion = self._exclusion(rule)
        removed = await projector.exclusively(lambda view: remove_extraneous(view, rule, carrier, exclusion.excludes))
        for path in removed:
            _log.info("removed %r, which the source of rule %s does not have", path, rule.name)

    def _verify(self, rule: Rule) -> Finding | str:
        exclusion = self._exclusion(rule)
        with self._environment.read() as tables:
            verifier = Verifier(
                self._trees.zones[rule.number], View(tables), rule, exclusion, rule.source == self._gateway.zone
            )
            try:
                finding = verifier.run()
            except OSError as error:
                return f"the tree cannot be read: {error}"
        with self._environment.read() as tables:
            # What was ordered meanwhile may have changed files before they were read: who asked sees that it moved.
            finding.namespace_digest = View(tables).digest(rule.number)
        return finding


_FINDING = (int, bytes, bytes, int, int, int, int, list, int, list, int)
"""Types of the fields of a finding in a message."""


def list_of(finding: Finding) -> list[Any]:
    """A finding as a message can carry it."""
    return [
        finding.gsn,
        finding.namespace_digest,
        finding.total.to_bytes(40, "big"),
        finding.directories,
        finding.files,
        finding.file_bytes,
        finding.difference_count,
        [[path[:SENT_PATH_BYTES_MAX], what] for path, what in finding.differences[:SENT_MAX]],
        finding.extraneous_count,
        [path[:SENT_PATH_BYTES_MAX] for path in finding.extraneous[:SENT_MAX]],
        finding.repaired,
    ]


def finding_of(fields: object) -> Finding:
    """FormatError."""
    if type(fields) is not list or len(fields) != len(_FINDING):
        raise FormatError("a finding has not the fields that it should have")
    for value, kind in zip(fields, _FINDING, strict=True):
        if type(value) is not kind:
            raise FormatError(f"a field of a finding is not {kind.__name__}")
    gsn, digest, total, directories, files, file_bytes, count, differences, extraneous_count, extraneous, repaired = (
        fields
    )
    for difference in checked_list(differences, "differences", list):
        if [type(part) for part in difference] != [bytes, str]:
            raise FormatError("a difference is not a path and what it is")
    return Finding(
        gsn,
        digest,
        int.from_bytes(total, "big"),
        directories,
        files,
        file_bytes,
        count,
        [(path, what) for path, what in differences],
        extraneous_count,
        checked_list(extraneous, "extraneous", bytes),
        repaired,
    )
