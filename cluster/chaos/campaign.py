"""One campaign: a cluster, a load, a migration and faults, then peace, and the judges."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from cluster.chaos import judging
from cluster.chaos.history import Recorder
from cluster.chaos.load import Load
from cluster.chaos.migration import Migration
from cluster.chaos.nemeses import Nemeses, Struck
from cluster.chaos.network import Network, sweep
from cluster.chaos.nodes import Nodes
from cluster.chaos.schedule import Fault, plan
from cluster.chaos.verdict import Verdict
from cluster.chaos.watch import Watch
from cluster.drill_nodes import Document, Failed

START_S = 60.0
READY_S = 90.0
AFTER_S = 3.0
"""The load goes on so long after the last fault."""
ANSWER_S = 60.0
"""Then what is under way still has so long to be answered."""
DRAIN_S = 120.0
COMPLETE_S = 120.0
LOG_AT_ONCE = 5000
HISTORY = "history.jsonl"
SUSPICIOUS = (" C lddp", "AssertionError", "unforeseen")
AROUND = 80
"""Lines."""
EXCUSED = re.compile(r"No space left|ENOSPC|Input/output|EIO|MDB_MAP_FULL|MDB_PANIC|Read-only file system|EROFS")
"""What a node may say when its own disk failed."""

Say = Callable[[str], None]


@dataclass
class Recovery:
    """After one fault was mended: seconds until the next acknowledged write, and whether nothing else was wrong."""

    fault: Struck
    seconds: float
    alone: bool


@dataclass
class Outcome:
    """Everything for the report."""

    seed: int
    seconds: float
    command: str
    names: list[str]
    missing: dict[str, str]
    verdict: Verdict
    recorder: Recorder
    watch: Watch
    struck: list[Struck] = field(default_factory=list)
    skipped: int = 0
    recoveries: list[Recovery] = field(default_factory=list)
    drained_s: float = -1.0
    equal_s: float = -1.0
    look_s: float = 0.0
    """Of `equal_s`, how long the judge looked before it could say so."""
    migration: Migration | None = None
    notes: list[str] = field(default_factory=list)
    home: str = ""


class Campaign:
    """`home` is its own; `missing` are the nemeses that this machine cannot do."""

    def __init__(self, options: argparse.Namespace, home: Path, missing: dict[str, str], say: Say) -> None:
        self._options = options
        self._home = home
        self._say = say
        names = [f"node-{number}" for number in range(1, options.nodes + 1)]
        self._network = Network(names)
        self._nodes = Nodes(home, self._network, missing, set(options.nemeses))
        self._nemeses = Nemeses(self._nodes, self._network)
        self._migration = Migration(self._nodes, options.seed, options.writer_rate)
        self._undo: dict[int, Struck] = {}
        self._began = time.monotonic()
        self._missing = missing
        self._history = open(home / HISTORY, "w", encoding="ascii")  # noqa: SIM115 - closed in run
        self.outcome: Outcome

    def run(self) -> Outcome:
        """Raises Failed or CannotRun where the campaign could not be carried out. Always cleans up."""
        sweep()
        try:
            self._network.enter()
            if "delay" in self._options.nemeses:
                self._network.start_relay()
            self._nodes.make()
            asyncio.run(self._bounded())
            return self.outcome
        finally:
            self._migration.end()
            self._keep_trees()
            self._nodes.remove()
            self._network.leave()
            self._history.close()

    def _keep_trees(self) -> None:
        """The zones' files, for whoever looks into a violation."""
        if hasattr(self, "outcome") and not self.outcome.verdict.held:
            for name, host in self._nodes.hosts.items():
                there = self._home / "zones" / name
                there.mkdir(parents=True)
                copy = ["rsync", "-aHAX", "--exclude=/.full", f"{host.disks['zone'].path}/", f"{there}/"]
                subprocess.run(copy, capture_output=True, check=False)

    async def _bounded(self) -> None:
        limit = self._options.seconds + START_S + READY_S + ANSWER_S + DRAIN_S + COMPLETE_S + 120
        try:
            async with asyncio.timeout(limit):
                await self._whole()
        except TimeoutError:
            raise Failed(f"not at its end after {limit:g} s") from None
        finally:
            await self._nodes.close()

    async def _whole(self) -> None:
        self._nodes.start_all()
        unready = await self._nodes.until_ready(START_S)
        if unready:
            raise Failed(f"the cluster did not start: {'; '.join(unready)}")
        await self._nodes.make_rule()
        await self._migration.start()
        self._began = time.monotonic()
        recorder = Recorder(self._history, self._began)
        options = self._options
        command = f"scripts/chaos --seed {options.seed} --seconds {options.seconds:g} --every {options.every:g}"
        command += f" --active {options.active}" if options.active else ""
        command += f" --nodes {options.nodes} --rate {options.rate:g} --nemeses {','.join(options.nemeses)}"
        watch = Watch(self._began)
        names = self._nodes.names
        self.outcome = Outcome(options.seed, options.seconds, command, names, self._missing, Verdict(), recorder, watch)
        self.outcome.migration, self.outcome.home = self._migration, str(self._home)
        load = Load(self._nodes, recorder, options.seed, options.rate)
        async with asyncio.TaskGroup() as tasks:
            helpers = [
                tasks.create_task(self._nodes.keep()),
                tasks.create_task(self.outcome.watch.run(self._nodes, self._nemeses)),
                tasks.create_task(self._progress()),
            ]
            loading = tasks.create_task(load.run())
            await self._storm()
            try:
                await self._peace(load, loading)
                for helper in helpers:
                    helper.cancel()
                await self._judge()
            except (aiohttp.ClientError, TimeoutError, Failed) as error:
                # Nothing is broken any more: whoever does not answer now is a finding.
                text = f"{type(error).__name__}: {error}"
                self.outcome.verdict.check("every node answers its judges", "nodes", len(names), [text])
                for task in (*helpers, loading):
                    task.cancel()
        outcome = self.outcome
        outcome.verdict.add_evidence(recorder.operations, self._began)
        outcome.recoveries = list(self._recoveries())

    # -- the storm --------------------------------------------------------------------------------------------------

    async def _storm(self) -> None:
        options = self._options
        faults = plan(options.seed, options.nemeses, options.seconds, options.every, options.nodes, options.active)
        async with asyncio.TaskGroup() as tasks:
            for number, fault in enumerate(faults):
                tasks.create_task(self._fault(number, fault))
            await asyncio.sleep(options.seconds)

    async def _fault(self, number: int, fault: Fault) -> None:
        await asyncio.sleep(max(0.0, self._began + fault.at - time.monotonic()))
        made = await self._nemeses.strike(fault)
        if made is None:
            self.outcome.skipped += 1
            return
        where, undo = made
        struck = Struck(fault.kind, where, time.monotonic() - self._began, undo)
        self.outcome.struck.append(struck)
        self._undo[number] = struck
        self._say(f"{struck.began:6.1f} s  {fault.kind:10} {where}  for {fault.seconds:.1f} s")
        await asyncio.sleep(max(0.0, self._began + fault.at + fault.seconds - time.monotonic()))
        del self._undo[number]
        await undo()
        struck.ended = time.monotonic() - self._began
        self._say(f"{struck.ended:6.1f} s  {fault.kind:10} {where}  mended")

    async def _progress(self) -> None:
        """A line now and then, for whoever waits."""
        before = 0
        while True:
            await asyncio.sleep(5.0)
            recorder = self.outcome.recorder
            done = sum(one.gsn > 0 for one in recorder.operations)
            leaders = self.outcome.watch.leaders
            leader = leaders[-1][1] if leaders else ""
            active = ", ".join(f"{one.kind} {one.where}" for one in self._undo.values()) or "none"
            now = time.monotonic() - self._began
            rate = (done - before) / 5
            before = done
            self._say(
                f"{now:6.1f} s  {done} acknowledged ({rate:.0f}/s), {len(recorder.looks)} reads, leader"
                f" {leader or 'none'}; faults: {active}"
            )
            recorder.flush()

    # -- peace ------------------------------------------------------------------------------------------------------

    async def _peace(self, load: Load, loading: asyncio.Task[None]) -> None:
        """Everything is mended: writes must succeed, everybody be ready, and the zones become equal."""
        check = self.outcome.verdict.check
        mended = time.monotonic()
        unready = await self._nodes.until_ready(READY_S)
        ready_s = time.monotonic() - mended
        check("every node serves again", "nodes", len(self._nodes.names), unready, f"after {ready_s:.1f} s")
        await asyncio.sleep(AFTER_S)
        await self._migration.stop_writing()
        load.stop()
        try:
            await asyncio.wait_for(asyncio.shield(loading), ANSWER_S)
        except TimeoutError:
            load.give_up()
            await loading
        last = [one for one in self.outcome.recorder.operations if one.gsn and one.completed >= mended]
        waited_s = time.monotonic() - mended
        texts = [] if last else [f"no write was acknowledged within {waited_s:.0f} s after the last fault"]
        check("writes succeed again", "since the last fault", len(last), texts)
        began = time.monotonic()
        lags: dict[str, str] = {}
        behind = await self._drain(lags)
        self.outcome.drained_s = time.monotonic() - began
        note = f"after {self.outcome.drained_s:.1f} s; behind when the load ended: {', '.join(lags.values()) or 'none'}"
        check("every zone shows the whole log", "zones", len(self._nodes.names), behind, note)
        began = time.monotonic()
        texts = await self._migration.finish(COMPLETE_S)
        note = f"{self._migration.changes or 'no changes'} by the program; completed {time.monotonic() - began:.1f} s"
        note += " after all of them were ordered"
        check("the migration is complete, with a receipt", "receipt", 1 if self._migration.receipt else 0, texts, note)

    async def _drain(self, lags: dict[str, str]) -> list[str]:
        """Those that do not show everything in time; `lags`: how far zones are behind at first, and until when."""
        began = time.monotonic()
        deadline = began + DRAIN_S
        index = int((await self._nodes.ask(self._nodes.names[0], "POST", "/v1/barrier"))["index"])
        behind = dict.fromkeys(self._nodes.names, "")
        while behind and time.monotonic() < deadline:
            for name in list(behind):
                status = await self._nodes.status(name, 5.0)
                if status is not None and status["log"]["projected"] < index and name not in lags:
                    lags[name] = f"{name} by {index - status['log']['projected']} records"
                if status is not None and status["log"]["projected"] >= index:
                    del behind[name]
                    if name in lags:
                        lags[name] += f" for {time.monotonic() - began:.1f} s"
                else:
                    log, problems = (status["log"], status["problems"]) if status else ("no answer", "")
                    behind[name] = f"{name} does not show {index} after {DRAIN_S:g} s: {log} {problems}"
            await asyncio.sleep(0.1)
        return list(behind.values())

    # -- judging ----------------------------------------------------------------------------------------------------

    async def _judge(self) -> None:
        outcome = self.outcome
        self._say("judging")
        digests = {}
        for name in self._nodes.names:
            status = await self._nodes.ask(name, "GET", "/v1/status")
            digests[name] = [(rule["name"], rule["digest"]) for rule in status["rules"]]
        texts = [] if len({str(one) for one in digests.values()}) == 1 else [f"digests differ: {digests}"]
        outcome.verdict.check("all namespaces have the same digests", "nodes", len(digests), texts)
        logs = {name: await self._log(name) for name in self._nodes.names}
        for name, log in logs.items():
            (self._home / f"{name}.log.jsonl").write_text("".join(json.dumps(one) + "\n" for one in log), "utf-8")
        witness = await asyncio.to_thread(judging.judge_order, outcome.verdict, outcome.recorder, logs)
        await asyncio.to_thread(judging.judge_samples, outcome.verdict, outcome.recorder)
        roots = self._nodes.roots
        outcome.equal_s, outcome.look_s = await asyncio.to_thread(
            judging.judge_trees, outcome.verdict, outcome.recorder, roots, witness.tree
        )
        differences = await asyncio.to_thread(self._migration.differences)
        files = int(self._migration.last.get("files_seen", 0))
        outcome.verdict.check("the migration's targets are its source", "files", files, differences)
        self._judge_processes()

    async def _log(self, name: str) -> list[Document]:
        found: list[Document] = []
        while True:
            target = f"/v1/log?from={len(found) + 1}&limit={LOG_AT_ONCE}"
            page = (await self._nodes.ask(name, "GET", target))["records"]
            found += page
            if len(page) < LOG_AT_ONCE:
                return found

    def _judge_processes(self) -> None:
        texts, excused = [], 0
        for host in self._nodes.hosts.values():
            for at, code, damaged in host.ended:
                text = f"{host.name} ended by itself with {code} at {at - self._began:.1f} s"
                self.outcome.notes.append(text + (" (its disk had failed)" if damaged else ""))
                excused += damaged
                if not damaged:
                    texts.append(f"{text}: {_last_line(host.log)}")
        check = self.outcome.verdict.check
        note = f"{excused} ends with a failed disk, as they should" if excused else ""
        check("no node ends by itself", "nodes", len(self._nodes.names), texts, note)
        lines = [line for host in self._nodes.hosts.values() for line in _suspicious(host.log)]
        check("no node's log has anything critical", "logs", len(self._nodes.names), lines)
        for host in self._nodes.hosts.values():
            self.outcome.notes += [f"{count} x {text}" for text, count in sorted(_tracebacks(host.log).items())]

    def _recoveries(self) -> Iterator[Recovery]:
        ends = sorted(one.completed - self._began for one in self.outcome.recorder.operations if one.gsn)
        for struck in self.outcome.struck:
            later = next((end for end in ends if end >= struck.ended), None)
            if struck.ended >= 0 and later is not None:
                others = [one for one in self.outcome.struck if one is not struck]
                alone = not any(one.began < struck.ended < one.ended for one in others)
                yield Recovery(struck, later - struck.ended, alone)


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").splitlines()
    return lines[-1][:300] if lines else "its log is empty"


def _suspicious(log: Path) -> Iterator[str]:
    """What a node calls critical, unless the lines around it speak of its disk."""
    lines = log.read_text("utf-8", "replace").splitlines()
    for place, line in enumerate(lines):
        if any(mark in line for mark in SUSPICIOUS):
            around = "\n".join(lines[max(0, place - AROUND) : place + AROUND])
            if not EXCUSED.search(around):
                yield f"{log.parent.name}: {line[:300]}"


def _tracebacks(log: Path) -> Counter[str]:
    """The last lines of all tracebacks: ugly perhaps, and no violation."""
    found: Counter[str] = Counter()
    inside = False
    for line in log.read_text("utf-8", "replace").splitlines():
        if line.startswith("Traceback"):
            inside = True
        elif inside and not line.startswith(" ") and line:
            found[f"{log.parent.name}: traceback: {line[:160]}"] += 1
            inside = False
    return found


def save(outcome: Outcome, file: Path) -> None:
    """The verdict for programs."""
    checks = [
        {"name": check.name, "count": check.count, "unit": check.unit, "violations": check.found, "note": check.note}
        | {"found": [{"text": one.text, "evidence": one.evidence} for one in check.violations]}
        for check in outcome.verdict.checks
    ]
    document = {"seed": outcome.seed, "held": outcome.verdict.held, "command": outcome.command, "checks": checks}
    file.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
