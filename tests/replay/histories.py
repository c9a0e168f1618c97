"""Random histories as a source, its scanner, its watcher and clients of all zones make them, and what becomes of the
bytes that they name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from lddp.core import effects as e
from lddp.core.namespace import Inode
from lddp.core.records import (
    Append,
    Content,
    Kind,
    Link,
    MakeDirectory,
    Observation,
    Put,
    Record,
    RemoveDirectory,
    Rename,
    RenameFlag,
    SetAttributes,
    SetXattr,
    Symlink,
    Truncate,
    Unlink,
    Write,
)
from lddp.core.view import View
from lddp.replay.outbox import is_for
from tests.core.source import Flight, Source, World
from tests.core.support import SOURCE, TARGET, Ledger, content, create_rule, operation_id, tree
from tests.core.test_theorem import WATCHED, random_steps
from tests.core.test_writable import DISTURBED, Written, random_operation

STEPS_MAX = 90
_ACTIONS = ["new", "rewrite", "link", "attributes", "any"] * 2 + ["move", "unlink"]


@dataclass
class History:
    """Records from the making of the rule on. `data` holds the bytes by digest; those in `gone` may be lost for ever,
    because the log ends without a file that is made of them."""

    records: list[Record]
    data: dict[bytes, bytes]
    gone: set[bytes]


def make_history(seed: int) -> History:
    """The same one for a seed, every time."""
    random = Random(seed)
    draw = random.random()
    ledger = _operated(random) if draw < 0.2 else _moved(random) if draw < 0.5 else _world(random, seed).ledger
    data: dict[bytes, bytes] = {}
    late = random.choice([0.3, 0.7, 0.95])
    drawn: dict[bytes, bool] = {}

    def take(content: Content) -> Content:
        assert content.inline is not None
        data[content.digest] = content.inline
        if not drawn.setdefault(content.digest, content.size > 0 and random.random() < late):
            return content
        return content._replace(inline=None)

    records = [_map(record, take) for record in ledger.records]
    wanted = _wanted(ledger)
    share = random.choice([0.0, 0.5, 0.9])
    return History(records, data, {digest for digest in sorted(data.keys() - wanted) if random.random() < share})


def _operated(random: Random) -> Ledger:
    """Operations alone, mostly on the few files that there are."""
    ledger = Ledger()
    ledger.apply(create_rule())
    root = ledger.machine.rules[1].root
    for sequence in range(1, random.randrange(20, 120)):
        found = tree(ledger.view, root)
        paths = sorted(path for path, inode in found.items() if path and (inode.kind is Kind.FILE or len(path) < 4))
        operation = random_operation(random, sequence, paths, random.choice([SOURCE, TARGET]))
        if isinstance(operation, Put | Append):
            operation = operation._replace(content=content(b"%d" % random.randrange(10**9)))
        ledger.apply(operation)
    return ledger


def _moved(random: Random) -> Ledger:
    """Operations that move what there is, change it under one name and take away another, or move it back."""
    ledger = Ledger()
    ledger.apply(create_rule())
    root = ledger.machine.rules[1].root
    for sequence in range(1, random.randrange(20, 160)):
        found = {path: inode for path, inode in tree(ledger.view, root).items() if path}
        ledger.apply(_move(random, sequence, found))
    return ledger


def _move(random: Random, sequence: int, found: dict[bytes, Inode]) -> Record:
    paths = sorted(found)
    files = [path for path in paths if found[path].kind is Kind.FILE] or [b"a"]
    above = [b"", b"", *(path + b"/" for path in paths if found[path].kind is Kind.DIRECTORY and path.count(b"/") < 2)]
    path = b"/data/" + random.choice(paths or [b"a"])
    file = b"/data/" + random.choice(files)
    new = b"/data/" + random.choice(above) + random.choice([b"a", b"b", b"c", b"d"])
    data = content(b"%d" % random.randrange(10**9))
    head = operation_id(sequence), random.choice([SOURCE, TARGET]), 10**6 + sequence
    if len(paths) < 5 or random.random() < 0.25:
        new_ones: list[Record] = [
            Put(*head, new, 0o640, 1, 1, data),
            MakeDirectory(*head, new, 0o750, 1, 1),
            Link(*head, file, new),
            Symlink(*head, new, b"somewhere", 1, 1),
        ]
        return random.choice(new_ones)
    if random.random() < 0.6:
        flag = random.choice([RenameFlag.NONE, RenameFlag.NONE, RenameFlag.EXCHANGE])
        to = b"/data/" + random.choice(paths) if flag is RenameFlag.EXCHANGE or random.random() < 0.3 else new
        return Rename(*head, path, to, flag)
    others: list[Record] = [
        Put(*head, file, 0o640, 1, 1, data),
        Write(*head, file, random.randrange(9), data),
        Append(*head, file, data),
        Truncate(*head, file, random.randrange(9)),
        Unlink(*head, file),
        RemoveDirectory(*head, path),
        SetAttributes(*head, path, random.choice([0o600, 0o666])),
        SetXattr(*head, path, b"user.y", b"%d" % random.randrange(9)),
    ]
    return random.choice(others)


def _world(random: Random, seed: int) -> World:
    observed = random.random() < 0.5
    world = World(seed_tree=seed, check=False) if observed else Written(seed, True, False)
    world.check, world.targets = False, []
    if random.random() < 0.8:
        for _ in range(random.randrange(20)):
            world.source.change(random)
        world.settle(random)
    share = random.choice([0.2, 0.8])
    for what, step_seed in random_steps(seed, WATCHED if observed else DISTURBED, STEPS_MAX):
        if not observed and random.random() < 0.25:
            world.step("operation", step_seed)
        elif random.random() < share:
            _churn(world, random)
        else:
            world.step(what, step_seed)
    world.step("land all", seed)
    return world


def _churn(world: World, random: Random) -> None:
    """The source changes, and what it has now is in the log with its bytes before the next change."""
    for _ in range(random.choice([1, 1, 2, 4])):
        _change(world.source, random)
    world.project()
    marks, world.source.name_marks = world.source.name_marks, set()
    world.launch(world.look_at_names(random, marks))
    world.step("land all", random.randrange(2**32))
    for handle in sorted(world.source.object_marks):
        world.source.object_marks.discard(handle)
        world.launch(world.look_at_object(random, handle))
    for number in world.pending():
        inode = world.ledger.view.inode(number)
        thing = None if inode is None else world.source.alive(inode.identity)
        if thing is not None and thing.kind is Kind.FILE:
            world.launch(Flight(world.report_object(random, number, thing), objects={thing.handle}))
    world.step("land all", random.randrange(2**32))


def _change(source: Source, random: Random) -> None:
    """Mostly of files that are there: replaced, rewritten, moved over others, linked over others."""
    files = [row for row in source.names() if row[2].kind is Kind.FILE]
    action = random.choice(_ACTIONS)
    if not files or action == "any":
        source.change(random)
        return
    latest = max(files, key=lambda row: row[2].changed)
    parent, name, thing = latest if random.random() < 0.4 else random.choice(files)
    directory, other, there = random.choice(files)
    match action:
        case "new":
            fresh = source.new(random, Kind.FILE)
            fresh.data = b"%d" % random.randrange(10**9)
            source.edit(parent, name, fresh)
        case "rewrite":
            assert thing.attributes is not None
            thing.data = b"%d" % random.randrange(10**9)
            thing.attributes = thing.attributes._replace(mtime_ns=source.tick())
            source.touched(random, parent, name, thing)
        case "move":
            source.rename_name(random, random.choice(["rename", "exchange"]), (parent, name, thing), directory, other)
        case "link" if there is not thing:
            source.edit(directory, other, thing)
        case "attributes":
            assert thing.attributes is not None
            thing.attributes = thing.attributes._replace(mode=random.choice([0o644, 0o600, 0o640]))
            source.touched(random, parent, name, thing)
        case "unlink":
            source.edit(parent, name, None)


def _map(record: Record, take: Callable[[Content], Content]) -> Record:
    match record:
        case Put() | Write() | Append():
            return record._replace(content=take(record.content))
        case Observation():
            directories = tuple(
                report._replace(
                    entries=tuple(
                        entry if entry.content is None else entry._replace(content=take(entry.content))
                        for entry in report.entries
                    )
                )
                for report in record.directories
            )
            inodes = tuple(
                report if report.content is None else report._replace(content=take(report.content))
                for report in record.inodes
            )
            return record._replace(directories=directories, inodes=inodes)
        case _:
            return record


def _wanted(ledger: Ledger) -> set[bytes]:
    """Bytes that the target must have in the end: of every file the last that replaced it, and all that changed a
    file in part."""
    wanted: set[bytes] = set()
    last: dict[int, bytes] = {}
    view: View = ledger.view
    for effects in ledger.effects:
        for _, scope, effect in effects:
            if not is_for(TARGET, scope):
                continue
            if isinstance(effect, e.PutFileEffect):
                last[effect.inode] = effect.content.digest
            elif isinstance(effect, e.WriteEffect):
                wanted.add(effect.content.digest)
    return wanted | {digest for number, digest in last.items() if view.inode(number) is not None}
