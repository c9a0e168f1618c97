"""Runs a cluster in network namespaces of this machine, breaks what can be broken, and judges what came of it.

Exit codes: 0 everything held, 1 something was violated, 2 it could not run here, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import traceback
from pathlib import Path

import aiohttp

from cluster.bench.report import percentile
from cluster.chaos import machine, mounts
from cluster.chaos.campaign import Campaign, Outcome, save
from cluster.chaos.machine import CannotRun
from cluster.chaos.report import write
from cluster.chaos.schedule import BY_NAME_ONLY, KINDS, NEEDS
from cluster.drill_nodes import Failed

HELD, VIOLATED, COULD_NOT_RUN, INTERRUPTED = 0, 1, 2, 130
SECONDS_DEFAULT = 120.0
NODES_DEFAULT = 5


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _kinds(text: str) -> list[str]:
    if text == "all":
        return sorted(KINDS.keys() - BY_NAME_ONLY.keys())
    kinds = [word for word in text.split(",") if word not in ("", "none")]
    for kind in kinds:
        if kind not in KINDS:
            raise argparse.ArgumentTypeError(f"no nemesis {kind!r}; there are {', '.join(KINDS)}")
    return kinds


def _parser() -> argparse.ArgumentParser:
    kinds = "\n".join(f"  {name:10} {kind.what}" for name, kind in KINDS.items())
    parser = argparse.ArgumentParser(
        prog="scripts/chaos",
        description=__doc__,
        epilog=f"nemeses:\n{kinds}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, help="how long faults are made")
    parser.add_argument("--seconds", type=float, help=f"the same in seconds; {SECONDS_DEFAULT:g} if neither is given")
    parser.add_argument("--seed", type=int, default=1, help="decides faults and operations")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between the beginnings of faults, on average")
    parser.add_argument("--active", type=int, default=0, help="begin faults sooner while fewer than so many are active")
    parser.add_argument(
        "--nemeses", type=_kinds, default=_kinds("all"), metavar="LIST", help="such as kill,ring; all; none"
    )
    parser.add_argument("--nodes", type=int, default=NODES_DEFAULT, choices=range(3, 10), metavar="3..9")
    parser.add_argument("--rate", type=float, default=150.0, help="changes a second, over all clients")
    parser.add_argument("--writer-rate", type=float, default=40.0, help="changes a second of the migration's source")
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="where the page goes; into the temporary files if not given"
    )
    parser.add_argument("--directory", type=Path, help="where disks and logs are made; a temporary one if not given")
    parser.add_argument("--keep", action="store_true", help="keep logs and history of a campaign that held too")
    return parser


def main() -> int:
    options = _parser().parse_args()
    options.seconds = options.seconds or (options.minutes * 60 if options.minutes else SECONDS_DEFAULT)
    reason = machine.why_not()
    if reason:
        say(f"cannot run: {reason}")
        return COULD_NOT_RUN
    base = options.directory or Path(tempfile.gettempdir())
    base.mkdir(parents=True, exist_ok=True)
    mounts.enter(base.resolve())
    missing = machine.missing()
    missing |= {kind: missing[need] for kind, need in NEEDS.items() if need in missing}
    unnamed = {kind: why for kind, why in BY_NAME_ONLY.items() if kind not in options.nemeses}
    missing = unnamed | missing
    for kind in [kind for kind in options.nemeses if kind in missing]:
        say(f"skipped: {kind}: {missing[kind]}")
        options.nemeses.remove(kind)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    home = Path(tempfile.mkdtemp(prefix=f"lddp-chaos-{os.getpid()}-", dir=base.resolve()))
    home.chmod(0o755)
    code = COULD_NOT_RUN
    try:
        campaign = Campaign(options, home, missing, say)
        outcome = campaign.run()
        code = HELD if outcome.verdict.held else VIOLATED
        _tell(outcome, options.report or base / f"lddp-chaos-seed-{options.seed}.html", home)
    except KeyboardInterrupt:
        say("interrupted; everything was cleaned up")
        code = INTERRUPTED
    except (CannotRun, Failed, OSError, aiohttp.ClientError, TimeoutError, ExceptionGroup) as error:
        say(f"could not run: {error!r}; see {home}")
        (home / "traceback").write_text(traceback.format_exc(), "utf-8")
    if code in (HELD, INTERRUPTED) and not options.keep:
        shutil.rmtree(home, ignore_errors=True)
    return code


def _tell(outcome: Outcome, report: Path, home: Path) -> None:
    save(outcome, home / "verdict.json")
    write(outcome, report)
    for check in outcome.verdict.checks:
        mark = "held    " if check.held else "VIOLATED"
        say(f"{mark}  {check.name}: {check.count} {check.unit}" + (f"; {check.note}" if check.note else ""))
        for violation in check.violations[:5]:
            say(f"            {violation.text[:400]}")
    for which, gaps in (
        ("faults were mended", [one.seconds for one in outcome.recoveries]),
        ("of them that were the only one left", [one.seconds for one in outcome.recoveries if one.alone]),
    ):
        if gaps:
            middle, most = percentile(gaps, 0.5), percentile(gaps, 0.99)
            say(f"after {len(gaps)} {which}: the next write after {middle:.2f} s (p50), {most:.2f} s (p99)")
    if outcome.drained_s >= 0:
        equal = f"found equal {outcome.equal_s:.1f} s later, of which looking took {outcome.look_s:.1f} s"
        say(f"all zones showed the log {outcome.drained_s:.1f} s after the load, {equal}")
    say(f"{'HELD' if outcome.verdict.held else 'VIOLATED'}; report: {report}")
    if not outcome.verdict.held:
        say(f"kept in {home}; again: {outcome.command}")


if __name__ == "__main__":
    sys.exit(main())
