"""The directories that this node has used as roots of trees. Each is noted when it is used first, and no other one is
used in its place: what a tree has not is removed everywhere, and what a directory lacks would not be put into it."""

from __future__ import annotations

import os
from collections.abc import Mapping

from lddp.core.rules import Rule
from lddp.core.tables import Table, Tables
from lddp.zones.roots import RootIdentity, identity_at, root_from_bytes

_ROOT = b"root-identity:"
WHAT_TO_DO = (
    "if its filesystem is not mounted, mount it, and this goes on by itself; if another directory is meant, remove the"
    " rule and create it anew, or remove the state directory of 'lddp migrate'"
)


def read_noted(tables: Tables, rule: int) -> RootIdentity | None:
    """None where the rule's tree has not been used yet, or only by a version that noted none."""
    data = tables.get(Table.LOCAL, _ROOT + b"%d" % rule)
    return None if data is None else root_from_bytes(data)


def note(tables: Tables, rule: int, root: RootIdentity) -> None:
    tables.put(Table.LOCAL, _ROOT + b"%d" % rule, root.to_bytes())


def problem_of(rule: Rule, path: bytes, expected: RootIdentity, found: RootIdentity | None) -> str:
    """What is wrong with what is `found` at the path of a rule's tree, None if that is nothing; empty where it is the
    directory that is expected there."""
    if found is None:
        wrong = f"is gone (the directory {expected.described()})"
    elif not found.is_same(expected):
        wrong = f"is another directory than before ({found.described()}, not {expected.described()})"
    else:
        return ""
    return f"rule {rule.name}: {os.fsdecode(path)!r} {wrong}: {WHAT_TO_DO}"


def look_at(paths: Mapping[int, bytes]) -> dict[int, RootIdentity | None]:
    """What is at the paths now, None for nothing; blocking. Left out is what cannot be told."""
    found: dict[int, RootIdentity | None] = {}
    for number, path in paths.items():
        try:
            found[number] = identity_at(path)
        except (FileNotFoundError, NotADirectoryError):
            found[number] = None
        except OSError:
            continue
    return found
