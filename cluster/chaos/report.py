"""The report of a campaign: one HTML page without anything from elsewhere; the verdict first."""

from __future__ import annotations

import html
import json
from collections import Counter
from pathlib import Path

from cluster.bench.report import percentile
from cluster.chaos.campaign import Outcome
from cluster.chaos.history import Document
from cluster.chaos.picture import GROUPS, Picture
from cluster.chaos.schedule import KINDS
from cluster.chaos.verdict import Check

SHOWN_MAX = 6
"""Violations of one check that are not folded away."""
STYLE = """
:root { color-scheme: light dark; --ground: #fbfbfa; --card: #fff; --ink: #1c1e21; --soft: #5c636b; --line: #dcdfe3;
  --good: #14713c; --good-ground: #e3f4e9; --bad: #a81d24; --bad-ground: #fdeaea; --process: #c2453b;
  --network: #2f6fb7; --disk: #9a6a00; --clock: #7a4bb0; --up: #b9c0c7; --leads: #2e8b57; --rate: #5b87b8;
  --median: #1f4e82; --range: #9dbad8; --calm: #eef1ee; --on-bar: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --ground: #16181b; --card: #1e2125; --ink: #e8eaed; --soft: #a3abb4;
  --line: #363b42; --good: #6fd598; --good-ground: #14301f; --bad: #ff9a96; --bad-ground: #3a1a1c; --process: #e0736a;
  --network: #6ba4e4; --disk: #d9a53a; --clock: #b48be0; --up: #545c65; --leads: #4cb27a; --rate: #5584b8;
  --median: #a9cdf5; --range: #44658a; --calm: #1f2522; --on-bar: #101214; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px; max-width: 1080px; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 22px; margin: 0; } h2 { font-size: 16px; margin: 32px 0 8px; }
p { margin: 6px 0; } .soft { color: var(--soft); } code, pre { font: 13px/1.45 ui-monospace, monospace; }
.verdict { padding: 16px 20px; border-radius: 8px; border-left: 6px solid; }
.verdict.held { background: var(--good-ground); border-color: var(--good); } .held h1, .held b { color: var(--good); }
.verdict.violated { background: var(--bad-ground); border-color: var(--bad); } .violated h1 { color: var(--bad); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(148px, 1fr)); gap: 10px; margin: 16px 0; }
.figure { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; }
.figure b { display: block; font-size: 18px; line-height: 1.4; white-space: nowrap; }
.figure span { color: var(--soft); font-size: 13px; line-height: 1.35; display: block; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px;
  overflow-x: auto; margin-bottom: 10px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; color: var(--soft); font-weight: 600; }
th, td { padding: 5px 10px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; } td.number, th.number { text-align: right; white-space: nowrap; }
.good { color: var(--good); font-weight: 600; white-space: nowrap; }
.bad { color: var(--bad); font-weight: 600; white-space: nowrap; }
pre { margin: 6px 0; padding: 10px 12px; background: var(--ground); border: 1px solid var(--line); border-radius: 6px;
  white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin: 8px 0; } summary { cursor: pointer; overflow-wrap: anywhere; }
svg { width: 100%; min-width: 760px; height: auto; display: block; } svg text { font: 11px system-ui, sans-serif; }
.name { fill: var(--ink); } .title { fill: var(--soft); font-weight: 600 !important; } .tick { fill: var(--soft); }
.where { fill: var(--soft); } .inside { fill: var(--on-bar); } .grid { stroke: var(--line); stroke-width: 0.7; }
.tickmark { stroke: var(--soft); } .process { fill: var(--process); } .network { fill: var(--network); }
.disk { fill: var(--disk); } .clock { fill: var(--clock); } .up { fill: var(--up); } .leads { fill: var(--leads); }
.rate { fill: var(--rate); } .median { fill: var(--median); } .range { stroke: var(--range); stroke-width: 1.6; }
.calm { fill: var(--calm); }
.key i { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin: 0 5px 0 14px; }
"""


def write(outcome: Outcome, file: Path) -> None:
    """Replaces the file at once."""
    fresh = file.with_name(f".{file.name}.new")
    fresh.write_text(page(outcome), "utf-8")
    fresh.replace(file)


def page(outcome: Outcome) -> str:
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>lddp chaos, seed {outcome.seed}: {_word(outcome)}</title><style>{STYLE}</style></head><body>",
        _verdict(outcome),
        _figures(outcome),
        _violations(outcome),
        "<h2>What happened</h2>",
        f'<div class="card">{_key(outcome)}{Picture(outcome).svg()}</div>',
        _checks(outcome),
        _recovery(outcome),
        _faults(outcome),
        _again(outcome),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _e(value: object) -> str:
    return html.escape(str(value))


def _word(outcome: Outcome) -> str:
    return "held" if outcome.verdict.held else "violated"


def _verdict(outcome: Outcome) -> str:
    checks = outcome.verdict.checks
    broken = [check for check in checks if not check.held]
    kinds = len({struck.kind for struck in outcome.struck})
    text = f"{len(outcome.names)} nodes, {outcome.seconds:g} s, {len(outcome.struck)} faults of {kinds} kinds"
    if broken:
        head = f"Violated: {len(broken)} of {len(checks)} checks"
        text += ". Not so: " + "; ".join(check.name for check in broken) + "."
    else:
        head = f"Held: all {len(checks)} checks"
        text += ". Nothing that was acknowledged was lost, doubled, reordered or read stale, and all zones are equal."
    return f'<div class="verdict {_word(outcome)}"><h1>{head}</h1><p>Seed {outcome.seed}; {_e(text)}</p></div>'


def _figures(outcome: Outcome) -> str:
    recorder = outcome.recorder
    acknowledged = [one for one in recorder.operations if one.gsn]
    unknown = len(recorder.operations) - len(acknowledged)
    gaps = sorted(one.seconds for one in outcome.recoveries)
    elected = sum(bool(leader) for _, leader in outcome.watch.leaders)
    figures = [
        (f"{len(acknowledged):,}", "changes acknowledged"),
        (f"{unknown:,}", "outcomes never learned"),
        (f"{len(recorder.looks):,}", "reads"),
        (f"{elected}", "times a leader was found"),
        (_quantiles(gaps), "p50 / p99 from mending to an acknowledged change"),
        (_seconds(max(outcome.drained_s, 0.0)), "from the end until all zones showed all"),
    ]
    cells = "".join(f'<div class="figure"><b>{_e(value)}</b><span>{_e(what)}</span></div>' for value, what in figures)
    return f'<div class="figures">{cells}</div>'


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s" if value < 10 else f"{value:.0f} s"


def _quantiles(gaps: list[float]) -> str:
    if not gaps:
        return "-"
    return f"{_seconds(percentile(gaps, 0.5))} / {_seconds(percentile(gaps, 0.99))}"


def _key(outcome: Outcome) -> str:
    words = {"process": "processes", "network": "network", "disk": "disks", "clock": "clocks"}
    struck = {one.kind for one in outcome.struck}
    words = {group: word for group, word in words.items() if struck & set(GROUPS[group])}
    marks = "".join(f'<i style="background: var(--{group})"></i>{word}' for group, word in words.items())
    return f'<p class="key soft">Faults of{marks}<i style="background: var(--leads)"></i>leader</p>'


def _violations(outcome: Outcome) -> str:
    broken = [check for check in outcome.verdict.checks if not check.held]
    if not broken:
        return ""
    return "<h2>Violations</h2>" + "".join(map(_violation, broken))


def _violation(check: Check) -> str:
    head = f'<p><span class="bad">{_e(check.name)}</span>: {check.found} found</p>'
    rows = []
    for number, violation in enumerate(check.violations):
        text = _e(violation.text[:600])
        if not violation.evidence:
            rows.append(f"<p>{text}</p>")
            continue
        opened = " open" if number < 2 else ""
        lines = _e("\n".join(map(_line, violation.evidence)))
        rows.append(f"<details{opened}><summary>{text}</summary><pre>{lines}</pre></details>")
    shown, rest = "".join(rows[:SHOWN_MAX]), "".join(rows[SHOWN_MAX:])
    if rest:
        kept = "" if check.found == len(rows) else f", of which {len(rows) - SHOWN_MAX} are kept here"
        rest = f"<details><summary>{check.found - SHOWN_MAX} more{kept}</summary>{rest}</details>"
    return f'<div class="card">{head}{shown}{rest}</div>'


def _line(document: Document) -> str:
    return json.dumps(document)


def _checks(outcome: Outcome) -> str:
    rows = []
    for check in outcome.verdict.checks:
        mark = '<span class="good">held</span>' if check.held else f'<span class="bad">{check.found} violated</span>'
        rows.append(
            f'<tr><td>{mark}</td><td>{_e(check.name)}</td><td class="number">{check.count:,}</td>'
            f'<td>{_e(check.unit)}</td><td class="soft">{_e(check.note)}</td></tr>'
        )
    head = '<tr><th></th><th>what must hold</th><th class="number">looked at</th><th></th><th></th></tr>'
    return f'<h2>Checks</h2><div class="card"><table>{head}{"".join(rows)}</table></div>'


def _recovery(outcome: Outcome) -> str:
    alone = sorted(one.seconds for one in outcome.recoveries if one.alone)
    all_gaps = sorted(one.seconds for one in outcome.recoveries)
    rows = [
        ("after any fault was mended, others perhaps still active", all_gaps),
        ("after the last active fault was mended", alone),
    ]
    cells = "".join(
        f'<tr><td>{what}</td><td class="number">{len(gaps)}</td><td class="number">{_quantiles(gaps)}</td>'
        f'<td class="number">{_seconds(gaps[-1]) if gaps else "-"}</td></tr>'
        for what, gaps in rows
    )
    head = (
        '<tr><th>until the first acknowledged change</th><th class="number">times</th>'
        '<th class="number">p50 / p99</th><th class="number">worst</th></tr>'
    )
    lines = [
        f"All zones showed the whole log {_seconds(max(outcome.drained_s, 0))} after the load ended, and their files"
        f" were found equal {_seconds(max(outcome.equal_s, 0))} after that, of which looking took"
        f" {_seconds(outcome.look_s)}.",
        f"{outcome.recorder.retries:,} requests were sent again under the same ids.",
    ]
    text = "".join(f"<p>{_e(line)}</p>" for line in lines)
    return f'<h2>Recovery</h2><div class="card"><table>{head}{cells}</table>{text}</div>'


def _faults(outcome: Outcome) -> str:
    counts = Counter(struck.kind for struck in outcome.struck)
    rows = "".join(
        f'<tr><td>{_e(kind)}</td><td class="number">{counts[kind]}</td>'
        f'<td class="soft">{_e(KINDS[kind].what)}</td></tr>'
        for kind in KINDS
        if counts[kind]
    )
    missing = "".join(
        f'<tr><td>{_e(kind)}</td><td class="number">skipped</td><td class="soft">{_e(why)}</td></tr>'
        for kind, why in sorted(outcome.missing.items())
    )
    notes = [f"{outcome.skipped} faults found no node that was free for them."] if outcome.skipped else []
    notes += outcome.notes
    refused = sorted(outcome.recorder.refused.items())
    notes += [f"Answers that were no outcome: {count} x {text}" for text, count in refused]
    problems = sorted(outcome.watch.problems.items(), key=lambda one: one[1])
    notes += [f"{at:.1f} s: {text}" for text, at in problems]
    listed = "".join(f"<li>{_e(note[:300])}</li>" for note in notes[:40])
    said = f"<details><summary>What nodes said and did meanwhile ({len(notes)})</summary><ul>{listed}</ul></details>"
    table = f"<table>{rows}{missing}</table>{said if notes else ''}"
    return f'<h2>Faults</h2><div class="card">{table}</div>'


def _again(outcome: Outcome) -> str:
    kept = "" if outcome.verdict.held else f"<p>Logs and history.jsonl are kept in {_e(outcome.home)}.</p>"
    text = (
        "The seed gives the same faults at the same times and the same clients; what meets what, the machine decides."
    )
    return f"<h2>Again</h2><pre>{_e(outcome.command)}</pre><p class='soft'>{text}</p>{kept}"
