"""Migrates a real tree to two other zones while a program goes on changing it, and ends with a verified receipt."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

from lddp.cli.client import Client
from lddp.cli.display import Meter, PlainDisplay, RichDisplay, make_display, receipt_lines
from lddp.errors import UnavailableError

ROOT = Path(__file__).resolve().parent.parent
FILES_WANTED = 20_000
WRITE_S = 15.0
CHANGES_A_SECOND = 200
DEADLINE_S = 170.0
POLL_S = 0.1
RULE = "demo"


def make_source(source: Path) -> int:
    """Copies the Python library directories of this machine, again until there are tens of thousands of files."""
    paths = sysconfig.get_paths()
    libraries = sorted({Path(paths[key]).resolve() for key in ("stdlib", "platstdlib", "purelib", "platlib")})
    count = copy = 0
    while count < FILES_WANTED:
        copy += 1
        for library in libraries:
            if not library.is_dir() or any(library != other and library.is_relative_to(other) for other in libraries):
                continue
            target = source / f"copy-{copy}" / library.name
            if not target.exists():
                subprocess.run(["cp", "-a", f"{library}/.", make(target)], check=True)
        count = sum(len(files) for _, _, files in os.walk(source))
    return count


def make(directory: Path) -> Path:
    directory.mkdir(parents=True)
    return directory


class Demo:
    def __init__(self, work: Path) -> None:
        self.work = work
        self.cluster = work / "cluster"
        self.source = make(work / "source")
        self.targets = {zone: self.cluster / "zones" / zone / "data" for zone in ("zone-2", "zone-3")}
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.writer: subprocess.Popen[bytes] | None = None

    def lddp(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "lddp.cli.main", *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=self.environment)

    def start_writer(self) -> None:
        outside = make(self.work / "outside")
        command = [sys.executable, "-m", "cluster.writer", str(self.source), str(outside), "--seed", "1"]
        command += ["--rate", str(CHANGES_A_SECOND), "--calm"]
        self.writer = subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE)
        assert self.writer.stdout is not None
        self.writer.stdout.readline()

    def stop_writer(self) -> str:
        """What the writer says that it did."""
        if self.writer is None:
            return ""
        self.writer.send_signal(signal.SIGTERM)
        said, _ = self.writer.communicate(timeout=30)
        self.writer = None
        return said.decode().strip()

    def endpoints(self) -> list[str]:
        import json

        document = json.loads((self.cluster / "cluster.json").read_text())
        return [str(endpoint) for endpoint in document["endpoints"]]

    def client(self, endpoints: list[str]) -> Client:
        return Client(endpoints, self.cluster / "token", None, 10.0)

    def begin(self) -> None:
        members = [{"zone": "zone-1", "local_path": str(self.source), "observe_only": True}]
        members += [{"zone": zone, "local_path": str(path)} for zone, path in self.targets.items()]
        client = self.client(self.endpoints())
        body = {"name": RULE, "path": "/demo", "source": "zone-1", "members": members, "options": {}}
        client.change("POST", "/v1/rules", body=body)
        client.change("POST", f"/v1/rules/{RULE}/migrations", body={})
        client.change("POST", f"/v1/migrations/{RULE}/start")

    def follow(self, display: Any) -> dict[str, Any]:
        """Shows progress; stops the writer when it has written for its time after the scan; the final document."""
        endpoints, meter = self.endpoints(), Meter()
        source = self.client(endpoints[:1])
        deadline = time.monotonic() + DEADLINE_S
        live_at, asked = 0.0, False
        while time.monotonic() < deadline:
            document: dict[str, Any] = source.get(f"/v1/migrations/{RULE}")
            display.progress(meter.state(document, self.lag(endpoints, document["index"]), ""))
            if document["state"] in ("completed", "failed"):
                return document
            if document["state"] == "live" and not live_at:
                live_at = time.monotonic()
                display.say(f"Scanned; the writer goes on for {WRITE_S:.0f} s, and every change follows at once.")
            if live_at and self.writer is not None and time.monotonic() > live_at + WRITE_S:
                display.say(f"The writer has stopped: {self.stop_writer()}")
            if live_at and self.writer is None and not asked:
                source.change("POST", f"/v1/migrations/{RULE}/complete")
                asked = True
            time.sleep(POLL_S)
        raise UnavailableError(f"the demo did not end within {DEADLINE_S:.0f} s; see the logs in {self.cluster}")

    def lag(self, endpoints: list[str], index: int) -> int:
        lags = [0]
        for endpoint in endpoints[1:]:
            with contextlib.suppress(UnavailableError):
                lags.append(index - self.client([endpoint]).get("/v1/status")["log"]["projected"])
        return max(lags)

    def compare(self, display: RichDisplay | PlainDisplay | Any) -> bool:
        """Asks rsync, which knows nothing of lddp, whether anything differs."""
        if shutil.which("rsync") is None:
            display.say("rsync is not installed, so the independent comparison is left out.")
            return True
        found = []
        for target in self.targets.values():
            command = ["rsync", "-aHAXcn", "--delete", "--itemize-changes", f"{self.source}/", f"{target}/"]
            found += subprocess.run(command, check=True, capture_output=True).stdout.splitlines()
        display.say(f"rsync -aHAXcn --delete, both targets: {len(found)} differences.")
        for line in found[:20]:
            display.say("  " + line.decode(errors="backslashreplace"))
        return not found

    def close(self) -> None:
        if self.writer is not None:
            self.stop_writer()
        if (self.cluster / "cluster.json").exists():
            self.lddp("cluster", "down", str(self.cluster))


def main() -> int:
    work = Path(tempfile.mkdtemp(prefix="lddp-demo-"))
    demo = Demo(work)
    display = None
    try:
        sys.stdout.write("Copying the Python libraries of this machine as a source tree ...\n")
        count = make_source(demo.source)
        sys.stdout.write(f"{count:,} files. Starting three nodes on loopback ...\n")
        demo.lddp("cluster", "up", str(demo.cluster), "--nodes", "3")
        demo.start_writer()
        sys.stdout.write(f"A writer changes the tree {CHANGES_A_SECOND} times a second from now on.\n")
        display = make_display(False, "zone-1", "zone-2, zone-3")
        demo.begin()
        document = demo.follow(display)
        if document["state"] != "completed":
            display.say(f"Failed: {document['detail']}")
            for zone, finding in sorted(document["findings"].items()):
                for difference in finding.get("differences", [])[:20]:
                    display.say(f"  zone {zone}: {difference['path']}: {difference['what']}")
            return 1
        receipt = demo.client(demo.endpoints()).get("/v1/receipts")["receipts"][0]
        display.say("\n".join(receipt_lines(receipt)))
        return 0 if demo.compare(display) and receipt["holds"] else 1
    finally:
        if display is not None:
            display.close()
        demo.close()
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
