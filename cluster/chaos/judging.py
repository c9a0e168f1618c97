"""All checks of a campaign over what it recorded."""

from __future__ import annotations

import ast
import re
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path

from cluster import compare
from cluster.chaos import search
from cluster.chaos.history import Look, Recorder
from cluster.chaos.search import Step
from cluster.chaos.verdict import Verdict, Violation
from cluster.chaos.witness import Witness
from cluster.drill_load import Submitted
from cluster.drill_nodes import ROOT, Document

SETTLE_S = 25.0
"""Directories get their times at a checkpoint, some seconds after the last change."""
AROUND_S = 3.0
_PATH = re.compile(r"""\bb(?:'[^']*'|"[^"]*")""")


def judge_order(verdict: Verdict, recorder: Recorder, logs: Mapping[str, list[Document]]) -> Witness:
    """The logs against each other, then against the history. The witness, for its tree."""
    names = list(logs)
    pairs = [(one, other) for one, other in pairwise(names) if logs[one] != logs[other]]
    records = len(logs[names[0]])
    verdict.check("all nodes have the same log", "records", records, (_first_difference(logs, *pair) for pair in pairs))
    witness = Witness(recorder.operations, recorder.looks, logs[names[0]])
    wrong = list(witness.fold())
    known = sum(one.gsn > 0 for one in recorder.operations)
    unknown = len(recorder.operations) - known
    lost = list(witness.acknowledged())
    note = f"{witness.doubles} records came again and had no second effect; {unknown} outcomes unknown"
    verdict.check("no acknowledged operation is lost or doubled", "acknowledged", known, lost, note)
    note = "an independent model of a file tree, in index order"
    verdict.check("the model gives every outcome", "outcomes", witness.outcomes, wrong, note)
    wrong = [*witness.real_time(), *witness.looks_in_time()]
    verdict.check("real-time order is index order", "operations", known, wrong)
    _judge_looks(verdict, recorder, witness, True, "linearizable reads show no less than what had ended")
    _judge_looks(verdict, recorder, witness, False, "local reads show no less than their node acknowledged")
    return witness


def _judge_looks(verdict: Verdict, recorder: Recorder, witness: Witness, strong: bool, name: str) -> None:
    wrong = [
        (look, text)
        for (_, _, look), text in zip(witness.unseen, witness.looks(), strict=True)
        if look.strong is strong
    ]
    count = sum(look.strong is strong for look in recorder.looks)
    check = verdict.check(name, "reads", count, (text for _, text in wrong))
    for violation, (look, _) in zip(check.violations, wrong, strict=False):
        violation.evidence = [recorder.line(one) for one in (look, *_around(look, recorder.operations))]


def _first_difference(logs: Mapping[str, list[Document]], one: str, other: str) -> str:
    for mine, theirs in zip(logs[one], logs[other], strict=False):
        if mine != theirs:
            return f"the logs of {one} and {other} differ at {mine['index']}: {mine} and {theirs}"
    return f"the log of {one} has {len(logs[one])} records, that of {other} {len(logs[other])}"


def _around(look: Look, operations: list[Submitted]) -> list[Submitted]:
    """The last changes of the same path that may have had to be seen."""
    near = [one for one in operations if look.path in (one.path, one.arguments.get("to"))]
    near = [one for one in near if one.invoked <= look.completed and one.completed > look.invoked - AROUND_S]
    return near[-4:]


def judge_samples(verdict: Verdict, recorder: Recorder) -> None:
    """Every sample, searched for an order without the help of the indexes."""
    violations: list[Violation] = []
    undecided = configurations = count = 0
    for sample in recorder.samples:
        steps = [search.step_of(one) for one in sample]
        answer = search.check(steps)
        count += len(steps)
        configurations += answer.configurations
        undecided += answer.linearizable is None
        if answer.linearizable is False:
            path = sample[0].path.decode(errors="backslashreplace")
            text = f"no order of the {len(steps)} operations on {path} gives what was answered; stuck before: "
            lines = [recorder.line(one) for one in sample if search.step_of(one) in answer.stuck]
            violations.append(Violation(text + ", ".join(map(_said, answer.stuck)), lines[:6]))
    note = f"{count} operations on {len(recorder.samples)} paths, {configurations} configurations tried"
    note += f"; {undecided} samples undecided" if undecided else ""
    name = "exhaustive search finds an order (no indexes used)"
    check = verdict.check(name, "samples", len(recorder.samples), (), note)
    check.violations, check.found = violations, len(violations)


def _said(step: Step) -> str:
    result = "unknown" if step.result is None else f"errno {step.result[0]}" if step.result[0] else step.result[1]
    return f"{step.name}({step.argument.hex()}) -> {result!r}"


def judge_trees(
    verdict: Verdict, recorder: Recorder, roots: Mapping[str, Path], tree: Callable[[bytes], Iterator[str]]
) -> tuple[float, float]:
    """All zones, byte by byte, with each other and with the model; seconds until they were found to be the same, and of
    these how many the last look took."""
    began = time.monotonic()
    while True:
        looked = time.monotonic()
        between = [
            f"{one} and {other}: {line}"
            for (one, here), (other, there) in pairwise(roots.items())
            for line in compare.differences(here, there)
        ]
        against = [f"{zone}: {line}" for zone, root in roots.items() for line in tree(bytes(root))]
        ended = time.monotonic()
        seconds = ended - began
        if (not between and not against) or seconds > SETTLE_S:
            break
        time.sleep(0.5)
    entries = len(compare.facts(bytes(next(iter(roots.values())))))
    verdict.check("the zones' files are the same", "entries a zone", entries, between, "rsync, and a walk of its own")
    check = verdict.check("the zones' files are the model's", "entries a zone", entries, against)
    for violation in check.violations:
        violation.evidence = [recorder.line(one) for one in _of_path(violation.text, recorder.operations)]
    return seconds, ended - looked


def _of_path(text: str, operations: list[Submitted]) -> list[Submitted]:
    """The last changes of the entry that a difference is about, under the name that it has in the end."""
    found = _PATH.search(text)
    if found is None:
        return []
    path = ROOT + b"/" + ast.literal_eval(found[0])
    known = [one for one in operations if one.gsn and path in (one.path, one.arguments.get("to"))]
    return sorted(known, key=lambda one: one.gsn)[-4:]
