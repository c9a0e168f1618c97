"""`lddp mount` and `lddp unmount`: FUSE mounts of a node on this machine."""

from __future__ import annotations

import os

import click

from lddp.cli.options import Session, client_options, write_line
from lddp.config import WriteMode


def _absolute(path: str) -> str:
    return os.path.realpath(path)


@click.command()
@click.argument("rule")
@click.argument("mountpoint", type=click.Path())
@click.option("--soft", is_flag=True, help="Fail with EIO while the log takes nothing, instead of waiting.")
@click.option(
    "--timeo",
    type=click.FloatRange(0.1, 86_400),
    default=30.0,
    show_default=True,
    help="With --soft: after how many s.",
)
@click.option(
    "--write-mode",
    type=click.Choice([mode.value for mode in WriteMode]),
    default=WriteMode.SYNC.value,
    show_default=True,
    help="When a change returns: once it is in the log, or once it is queued, with fsync as the barrier.",
)
@click.option(
    "--passthrough",
    is_flag=True,
    help="Let the kernel read large files by itself, where the zone's filesystem has clones; msync is weaker then.",
)
@client_options
def mount(
    session: Session, rule: str, mountpoint: str, soft: bool, timeo: float, write_mode: str, passthrough: bool
) -> None:
    """Mount the tree of RULE at MOUNTPOINT, an empty directory of this machine.

    The node that is asked serves the mount, so it must run on this machine and have a zone of the rule. The mount stays
    until `lddp unmount MOUNTPOINT`, `umount` or the node's end; what is to be mounted at every start belongs into the
    node's configuration.
    """
    soft_s = timeo if soft else None
    body = {"rule": rule, "mountpoint": _absolute(mountpoint), "soft_timeout_s": soft_s, "write_mode": write_mode}
    made = session.client.change("POST", "/v1/mounts", None, body | ({"passthrough": True} if passthrough else {}))
    if session.as_json:
        session.document(made)
    else:
        write_line(os.fsencode(f"{rule} is mounted at {made['mountpoint']}"))
    if passthrough and made["why_no_passthrough"]:
        click.echo(f"without passthrough: {made['why_no_passthrough']}", err=True)


@click.command()
@click.argument("mountpoint", type=click.Path())
@click.option("--lazy", is_flag=True, help="Also while programs have files open there.")
@client_options
def unmount(session: Session, mountpoint: str, lazy: bool) -> None:
    """Unmount what `lddp mount` has mounted at MOUNTPOINT; what was written there is committed first."""
    # Not resolved: a mount whose node is gone answers to nothing.
    path = os.path.abspath(mountpoint)
    gone = session.client.change("DELETE", "/v1/mounts", {"mountpoint": path, "lazy": "true" if lazy else "false"})
    if session.as_json:
        session.document(gone)
    else:
        write_line(os.fsencode(f"{gone['rule']} is not mounted at {path} any more"))
