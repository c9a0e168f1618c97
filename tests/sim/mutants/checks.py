"""The checks that notice mutants, by the names that they have in tables, and how each says that something is wrong."""

from __future__ import annotations

import re

SAYS = {
    "a node stops by itself": r"has stopped:",
    "a read point covers what was acknowledged": r"^a read point at",
    "a mount after a start shows what one before it did": r"after a start, and had shown",
    "a refusal is told once": r"nothing of it was refused since",
    "a retry is told where it first took effect": r"was acknowledged at \d+, and is at",
    "a zone is where it says that it is": r"says that it is at",
    "all comes to rest in time": r"\d s after",
    "all zones equal at rest": r"^\w is not \w:",
    "answers and files as the model has them": r"was answered .*allowed is|what the model has|those of the model",
    "changes are made to the objects that were meant": r"was done (to|at)",
    "committed prefixes equal": r"folds another entry|leaves some out",
    "each entry is folded once": r"folds entry \d+ after \d+$",
    "no observation brings back a removed name": r"which was removed later",
    "source equals namespace once drained": r"^the source is not what the namespace says",
    "what a message promises is on the disk when it leaves": r"on its disk$",
    "what a sync has covered is there": r"is not there, (nobody else has done anything|and \d+ was synced)",
    "what is acknowledged is visible": r"acknowledges .* and there",
    "what is refused is told at the next sync": r"was synced without an error",
    "what is reported was once so": r"was never like that at the source",
    "what the kernel believes is so": r"is believed to be",
    "what was promised is in the log in order": r"behind what was promised later",
    "who has a file open for long reads what the log has": r"a reader of \d+ sees",
    "who leads has the votes of a majority": r"for which only",
}


def is_noticed_by(check: str, failure: str) -> bool:
    """Whether it is this check that says so."""
    return re.search(SAYS[check], failure.strip().splitlines()[0]) is not None
