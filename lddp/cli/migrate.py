"""`lddp migrate SRC DST`: the main job on one machine."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import click

from lddp.cli.client import Client
from lddp.cli.display import (
    JsonDisplay,
    Meter,
    PlainDisplay,
    RichDisplay,
    make_display,
    printable,
    receipt_lines,
)
from lddp.cli.embedded import GOES_ON, SOURCE, TARGET, ZONES, Embedded
from lddp.cli.options import SIZE
from lddp.errors import LddpError, NotAllowedError, UnavailableError, UsageError

RULE = "data"
RULE_PATH = "/data"
POLL_S = 0.1
READY_POLL_S = 0.01
START_TIMEOUT_S = 60.0
INTERRUPTED = 130
SHOWN_MAX = 20
AUTHORITIES = "SSL_CERT_FILE"
"""Where OpenSSL looks for the authorities to trust by default."""
AGE = click.IntRange(0)
STOPPED_STATES = {"created": "start", "stopped": "start", "paused": "resume", "failed": "start"}


class _Interrupted(Exception):
    """Ctrl-C, or a request to end."""


def check_paths(source: Path, target: Path) -> tuple[Path, Path, Path]:
    """(source, target, state directory), resolved. UsageError or NotAllowedError, in one line, for what cannot work."""
    if not source.exists():
        raise UsageError(f"{source} does not exist; name the directory to migrate")
    if not source.is_dir():
        raise UsageError(f"{source} is not a directory; name the directory to migrate")
    source, target = source.resolve(), target.resolve()
    if source == target:
        raise UsageError("SRC and DST are the same directory; name two")
    if target.is_relative_to(source):
        raise UsageError(f"DST {target} is inside SRC {source}; choose a target outside of it")
    if source.is_relative_to(target):
        raise UsageError(f"SRC {source} is inside DST {target}; choose a target that does not hold the source")
    if target.exists() and not target.is_dir():
        raise UsageError(f"DST {target} exists and is not a directory; remove it or choose another")
    parent = target if target.is_mount() else target.parent
    if not parent.is_dir():
        raise UsageError(f"{parent} does not exist; make it first, or choose another DST")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise NotAllowedError(
            f"{parent} is not writable for this user; state and staging are kept there: choose another DST"
        )
    if target.exists() and not os.access(target, os.R_OK | os.W_OK | os.X_OK):
        raise NotAllowedError(
            f"DST {target} cannot be read and written by this user; change its owner or mode, or choose another DST"
        )
    if not os.access(source, os.R_OK | os.X_OK):
        raise NotAllowedError(f"{source} is not readable for this user; run as a user who may read it")
    return source, target, parent / f".{target.name}.lddp"


@click.command()
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path, readable=False))
@click.argument("target", metavar="DST", type=click.Path(path_type=Path, readable=False))
@click.option("--once", is_flag=True, help="End when scanned, drained and verified.")
@click.option(
    "--on-existing",
    type=click.Choice(["overwrite", "skip-identical", "skip-same-size-mtime", "keep"]),
    default="skip-identical",
    show_default=True,
    help="What to do where DST has a file already.",
)
@click.option("--delete-extraneous", is_flag=True, help="Remove from DST what SRC does not have.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Leave out paths that match; may repeat.")
@click.option("--exclude-regex", multiple=True, metavar="REGEX", help="Leave out paths that match; may repeat.")
@click.option("--min-size", type=SIZE, default=0, help="Leave out smaller files; bytes, or 10K, 10M, 10G.")
@click.option("--max-size", type=SIZE, default=0, help="Leave out larger files.")
@click.option("--min-age", type=AGE, default=0, help="Leave out files modified less long ago, in seconds.")
@click.option("--max-age", type=AGE, default=0, help="Leave out files modified longer ago, in seconds.")
@click.option("--bwlimit", type=SIZE, default=0, help="Bytes a second to send at most; 0 is no limit.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON lines.")
def migrate(source: Path, target: Path, once: bool, as_json: bool, **settings: Any) -> None:
    """Migrate the live tree SRC to DST while programs go on changing SRC.

    SRC is only read. Without --once the target follows the source until Ctrl-C. Run the command again to resume.
    """
    source, target, state = check_paths(source, target)
    options = {
        "on_existing": settings["on_existing"],
        "delete_extraneous": settings["delete_extraneous"],
        "exclude": list(settings["exclude"]),
        "exclude_regex": list(settings["exclude_regex"]),
        "size_bytes_min": settings["min_size"],
        "size_bytes_max": settings["max_size"],
        "age_s_min": settings["min_age"],
        "age_s_max": settings["max_age"],
        "bandwidth": settings["bwlimit"],
    }
    sys.exit(_Run(source, target, state, options, once, as_json).run())


class _Run:
    """One run of the command."""

    def __init__(
        self, source: Path, target: Path, state: Path, options: dict[str, Any], once: bool, as_json: bool
    ) -> None:
        from lddp.migrate.options import MigrationOptions

        MigrationOptions.from_mapping(options)
        self._source = source
        self._target = target
        self._options = options
        self._once = once
        self._as_json = as_json
        self._embedded = Embedded(source, target, state)
        self._display: JsonDisplay | PlainDisplay | RichDisplay | None = None
        self._began = time.monotonic()
        self._meter = Meter()
        self._drained_at = 0.0
        self._completing = False
        self._ended = False
        """There is a receipt, and it holds."""
        self._last: dict[str, Any] = {}
        """The migration's document as it was shown last."""

    def run(self) -> int:
        """The exit code."""
        self._embedded.open()
        _load_node()
        interrupted = False
        signal.signal(signal.SIGTERM, _raise_interrupted)
        try:
            self._embedded.start()
            self._display = make_display(self._as_json, str(self._source), str(self._target))
            client = self._client()
            self._prepare(client)
            return self._follow(client)
        except (KeyboardInterrupt, _Interrupted):
            interrupted = True
            return INTERRUPTED
        finally:
            with contextlib.suppress(KeyboardInterrupt):
                if self._display is not None:
                    self._display.close()
                self._embedded.stop()
                if self._ended and self._embedded.state.is_relative_to(self._target):
                    self._remove_state()
                if interrupted:
                    click.echo("\nStopped; nothing is lost. Run the same command again to resume.", err=True)

    def _remove_state(self) -> None:
        """DST is a mount point, and is to be what SRC is, its time included."""
        before = os.stat(self._target)
        self._embedded.remove()
        os.utime(self._target, ns=(before.st_atime_ns, before.st_mtime_ns))

    def _client(self) -> Client:
        endpoints = [self._embedded.endpoints[SOURCE], self._embedded.endpoints[TARGET]]
        return Client(endpoints, self._embedded.state / "token", None, 10.0)

    def _prepare(self, client: Client) -> None:
        """Waits for a leader, and creates rule and migration, or goes on with those of an earlier run."""
        deadline = time.monotonic() + START_TIMEOUT_S
        impatient = Client([self._embedded.endpoints[SOURCE]], self._embedded.state / "token", None, 0.0)
        while True:
            self._embedded.revive()
            try:
                with impatient.request("GET", "/readyz"):
                    break
            except LddpError as error:
                if time.monotonic() > deadline or self._embedded.problem:
                    reason = self._embedded.problem.removesuffix(GOES_ON) or error
                    raise UnavailableError(f"the nodes did not get ready: {reason}") from None
                time.sleep(READY_POLL_S)
        rules = client.get("/v1/rules")["rules"]
        if not any(rule["name"] == RULE for rule in rules):
            members = [
                {"zone": SOURCE, "local_path": os.fspath(self._source), "observe_only": True},
                {"zone": TARGET, "local_path": os.fspath(self._target)},
            ]
            body = {"name": RULE, "path": RULE_PATH, "source": SOURCE, "members": members, "options": self._options}
            client.change("POST", "/v1/rules", body=body)
        elif rules[0]["options"] != self._options:
            client.change("PATCH", f"/v1/rules/{RULE}", body={"options": self._options})
        self._start(client)

    def _start(self, client: Client) -> None:
        migrations = client.get("/v1/migrations")["migrations"]
        if not migrations:
            client.change("POST", f"/v1/rules/{RULE}/migrations", body={})
            state = "created"
        else:
            state = migrations[0]["state"]
        if state in ("completed", "aborted"):
            client.change("POST", f"/v1/migrations/{RULE}/reset")
            state = "created"
        if state in STOPPED_STATES:
            client.change("POST", f"/v1/migrations/{RULE}/{STOPPED_STATES[state]}")

    def _follow(self, client: Client) -> int:
        """Shows progress until the end."""
        while True:
            revived = self._embedded.revive()
            if revived and self._display is not None:
                self._display.say(f"restarted: {', '.join(revived)}")
            try:
                document = self._document()
            except UnavailableError:
                if self._embedded.problem and self._last:
                    self._show({**self._last, "problem": self._embedded.problem})
                time.sleep(POLL_S)
                continue
            self._last = document
            self._show({**document, "problem": document.get("problem") or self._embedded.problem})
            match document["state"]:
                case "completed":
                    return self._receipt(client, document)
                case "failed":
                    return self._failure(document)
                case "aborted":
                    return self._aborted()
                case "live" if self._once and not self._completing and not document["lag"]:
                    self._ask_to_complete()
            time.sleep(POLL_S)

    def _ask_to_complete(self) -> None:
        self._drained_at = time.monotonic()
        source = Client([self._embedded.endpoints[SOURCE]], self._embedded.state / "token", None, 5.0)
        with contextlib.suppress(UnavailableError):
            source.change("POST", f"/v1/migrations/{RULE}/complete")
            self._completing = True

    def _document(self) -> dict[str, Any]:
        """The migration as its source sees it, with the target's lag."""
        token = self._embedded.state / "token"
        source = Client([self._embedded.endpoints[SOURCE]], token, None, 0.5)
        migrations = source.get("/v1/migrations")["migrations"]
        if not migrations:
            raise UnavailableError("the source has not folded the record of its migration yet")
        document: dict[str, Any] = migrations[0]
        if document.get("state") == "live" and not document.get("verifying"):
            self._completing = False
        document["lag"] = 0
        document["target_problem"] = ""
        with contextlib.suppress(UnavailableError):
            status = Client([self._embedded.endpoints[TARGET]], token, None, 0.5).get("/v1/status")
            document["lag"] = max(0, document["index"] - status["log"]["projected"])
            document["target_problem"] = "; ".join(status["problems"])
        return document

    def _show(self, document: dict[str, Any]) -> None:
        assert self._display is not None
        self._display.progress(self._meter.state(document, document["lag"], document["target_problem"]))

    def _receipt(self, client: Client, document: dict[str, Any]) -> int:
        assert self._display is not None
        self._display.close()
        receipt = client.get("/v1/receipts")["receipts"][0]
        self._ended = bool(receipt["holds"])
        finding = (document.get("findings") or {}).get(str(ZONES[TARGET]), {})
        extraneous, count = finding.get("extraneous", []), finding.get("extraneous_count", 0)
        scanned = (self._drained_at or time.monotonic()) - self._began
        verified = time.monotonic() - self._began - scanned
        if isinstance(self._display, JsonDisplay):
            seconds = {"copy_seconds": round(scanned, 3), "verify_seconds": round(verified, 3)}
            self._display.receipt({**receipt, **seconds, "extraneous_count": count, "extraneous": extraneous})
            return 0 if self._ended else 1
        lines = receipt_lines(receipt)
        if count:
            lines.append(f"Besides, DST holds what SRC does not have, and it was left alone ({count:,}):")
            lines += [f"  {printable(one['path'])}" for one in extraneous[:SHOWN_MAX]]
        lines.append(f"Copied in {scanned:.1f} s; every byte read again and compared in {verified:.1f} s.")
        self._display.say("\n".join(lines))
        return 0 if self._ended else 1

    def _aborted(self) -> int:
        assert self._display is not None
        self._display.close()
        self._display.say("Aborted; what DST has got is left there. Run the same command again to begin anew.")
        return 1

    def _failure(self, document: dict[str, Any]) -> int:
        assert self._display is not None
        self._display.close()
        lines = [f"Failed: {document['detail'] or document['problem']}."]
        for failure in (document.get("failed_paths") or [])[:SHOWN_MAX]:
            lines.append(f"  {failure['errno']}  {printable(failure['path'])}")
        names = {str(number): name for name, number in ZONES.items()}
        kinds: set[str] = set()
        for zone, finding in sorted((document.get("findings") or {}).items()):
            for difference in finding.get("differences", [])[:SHOWN_MAX]:
                kinds.add(difference["what"])
                lines.append(f"  {names[zone]}: {printable(difference['path']) or '.'}: {difference['what']}")
        if kinds & {"owner", "group"} and os.geteuid() != 0:
            lines.append("Only root can give files to their owners; run as root to have them the same.")
        lines.append("Run the same command again to go on.")
        self._display.say("\n".join(lines))
        return 1


def _load_node() -> None:
    """Imports what the nodes are made of, before they are forked. aiohttp reads the authorities of the web meanwhile,
    for a client that is not used here: an empty list of them takes no time. Nothing that is imported is garbage: it is
    not looked through for cycles, neither now nor by the nodes."""
    before = os.environ.get(AUTHORITIES)
    os.environ[AUTHORITIES] = os.devnull
    gc.disable()
    try:
        from lddp.node import warm_up

        warm_up()
    finally:
        gc.enable()
        del os.environ[AUTHORITIES]
        if before is not None:
            os.environ[AUTHORITIES] = before
    gc.freeze()


def _raise_interrupted(*_: object) -> None:
    raise _Interrupted
