"""The `lddp` command. What a subcommand needs is imported when it runs, so that `lddp --help` and thin clients start
fast."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import NamedTuple

import click

from lddp import __version__
from lddp.errors import LddpError

INTERRUPTED = 130
USAGE = 2
FAILED = 1


class Lazy(NamedTuple):
    module: str
    """Holds a click command of the subcommand's name (an underscore in front where that is a Python word)."""
    attribute: str
    help: str


COMMANDS = {
    "migrate": Lazy("lddp.cli.migrate", "migrate", "Migrate a live tree SRC to DST on this machine."),
    "init": Lazy("lddp.cli.init", "init", "Make keys, certificates, token and configuration of an ecosystem."),
    "node": Lazy("lddp.cli.node", "node", "Run one node in the foreground."),
    "cluster": Lazy("lddp.cli.cluster", "cluster", "Run a whole ecosystem on loopback, for development and tests."),
    "status": Lazy("lddp.cli.inspect", "status", "Show what a node is and how far it is."),
    "nodes": Lazy("lddp.cli.inspect", "nodes", "List the nodes of the ecosystem."),
    "leader": Lazy("lddp.cli.inspect", "leader", "Show which node leads."),
    "log": Lazy("lddp.cli.inspect", "log", "Show records of the log, or follow it."),
    "barrier": Lazy("lddp.cli.inspect", "barrier", "Get a linearizable read point, or wait for an index."),
    "receipt": Lazy("lddp.cli.inspect", "receipt", "Show receipts: proof that zones were equal."),
    "rule": Lazy("lddp.cli.rules", "rule", "Create, list, show, remove replication rules."),
    "migration": Lazy("lddp.cli.rules", "migration", "Start, watch and steer a rule's migration."),
    "ls": Lazy("lddp.cli.files", "ls", "List a directory."),
    "cat": Lazy("lddp.cli.files", "cat", "Write files to standard output."),
    "put": Lazy("lddp.cli.files", "put", "Send a local file, or standard input."),
    "get": Lazy("lddp.cli.files", "get", "Fetch a file, or a part of it."),
    "mkdir": Lazy("lddp.cli.files", "mkdir", "Make directories."),
    "mv": Lazy("lddp.cli.files", "mv", "Rename a file or directory."),
    "rm": Lazy("lddp.cli.files", "rm", "Remove files, or trees with -r."),
    "mount": Lazy("lddp.cli.mount", "mount", "Mount a rule's tree on this machine."),
    "unmount": Lazy("lddp.cli.mount", "unmount", "Unmount what 'lddp mount' has mounted."),
    "stat": Lazy("lddp.cli.files", "stat", "Show the attributes of entries."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported one at a time, when they are run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        lazy = COMMANDS.get(cmd_name)
        if lazy is None:
            return None
        command = getattr(importlib.import_module(lazy.module), lazy.attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean '{close[0]}'?" if close else "see 'lddp --help'"
            raise click.UsageError(f"there is no command '{args[0]}'; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.help) for name, lazy in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="lddp", message="%(prog)s %(version)s")
def cli() -> None:
    """An open LiveData Plane: file trees replicated between zones while applications keep writing to them.

    Exit codes: 0 done; 1 failed, or different; 2 usage; 3 no node reachable; 4 not allowed; 130 interrupted.
    """


def complain(message: str) -> None:
    """One line on standard error, whatever the message holds."""
    line = " ".join(message.split())
    sys.stderr.write(f"lddp: {line}\n")
    sys.stderr.flush()


def run(arguments: Sequence[str]) -> int:
    """Runs one command line; returns the exit code. Prints one line for a mistake, never a traceback."""
    try:
        result = cli.main(list(arguments), prog_name="lddp", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the whole help; only newer click has it
            sys.stderr.write(error.format_message() + "\n")
            return USAGE
        where = error.ctx.command_path if error.ctx is not None else "lddp"
        message = error.format_message().rstrip(".")
        complain(message if ";" in message else f"{message}; see '{where} --help'")
        return USAGE
    except click.ClickException as error:
        complain(error.format_message())
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except LddpError as error:
        complain(str(error))
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output went away. Standard output must not be flushed into the pipe once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        name = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
        complain(f"{name}{error.strerror or error}; check the path, its permissions and the free space")
        return FAILED


def main() -> None:
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
