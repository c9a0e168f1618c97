"""The state machine: folds the log, record by record, into the namespace and the control state.

The same records give the same state, outcomes and digests on every node, however consensus grouped them into entries.
Nothing here reads a clock, a disk, a random number or the name of the node.
"""

from __future__ import annotations

import errno
from typing import Any, assert_never

import msgpack

from lddp.core import digest, sessions
from lddp.core import effects as e
from lddp.core import records as r
from lddp.core.namespace import ATTRIBUTES_UNKNOWN, NUMBER, RULE, Inode, Namespace, Totals
from lddp.core.observations import Observations
from lddp.core.operations import Operations
from lddp.core.records import Attributes, Kind, Outcome
from lddp.core.rules import (
    NO_SOURCE,
    Rule,
    change_migration,
    encode_rule,
    read_rules,
    refusal,
    write_receipt,
)
from lddp.core.tables import Table, Tables

MILESTONE_RECORDS = 4096
"""Every so many records all nodes note their digests at the same GSN, so that they can be compared."""
_GSN = b"gsn"
_RULES_MADE = b"rules_made"


class StateMachine:
    """The fold. `apply` takes one record; `flush` writes what is cached into the tables before a commit."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.gsn = _number(tables.get(Table.META, _GSN))
        self.decided = self.gsn
        """GSN at which the outcome of the last applied record was decided: an earlier one where it was a retry."""
        self.milestones: dict[int, dict[int, bytes]] = {}
        """Digest by rule at the latest milestone GSN, since this object was made."""
        self._rules_made = _number(tables.get(Table.META, _RULES_MADE))
        self._namespace = Namespace(tables)
        self._by_number: dict[int, Rule] = {}
        self._by_path: dict[bytes, Rule] = {}
        for rule in read_rules(tables):
            self._admit(rule)
        self._operations = Operations(self._namespace, self._by_path)
        self._observations = Observations(self._namespace, self._by_number)

    def bind(self, tables: Tables) -> None:
        """Goes on in another transaction over the same state; everything must have been flushed."""
        self.tables = tables
        self._namespace.bind(tables)

    @property
    def namespace(self) -> Namespace:
        return self._namespace

    @property
    def rules(self) -> dict[int, Rule]:
        return self._by_number

    def apply(self, record: r.Record) -> tuple[Outcome, list[e.ScopedEffect]]:
        """The record's outcome and what zones must do; its GSN is `self.gsn` afterwards."""
        self.gsn += 1
        self.decided = self.gsn
        self._namespace.prior.clear()
        if isinstance(record, r.Observation):
            outcome, effects = self._observations.apply(record, self.gsn)
        else:
            outcome, effects = self._apply_once(record)
        sessions.forget(self.tables, self.gsn)
        if self.gsn % MILESTONE_RECORDS == 0:
            self.milestones = {self.gsn: {number: self.digest(rule.name) for number, rule in self._by_number.items()}}
        return outcome, effects

    def _apply_once(self, record: r.Operation | r.Guarded | r.Control) -> tuple[Outcome, list[e.ScopedEffect]]:
        earlier = sessions.recall(self.tables, record.id)
        if earlier is not None:
            self.decided = earlier[0]
            return earlier[1], []
        outcome, effects = self._dispatch(record)
        # EAGAIN, too: whoever was told so has given up the bytes, or has asked anew, when a copy of the record comes.
        sessions.remember(self.tables, record.id, self.gsn, outcome)
        return outcome, effects

    def _dispatch(self, record: r.Operation | r.Guarded | r.Control) -> tuple[Outcome, list[e.ScopedEffect]]:
        match record:
            case r.CreateRule():
                return self._create_rule(record)
            case r.RemoveRule():
                return Outcome(self._remove_rule(record)), []
            case r.SetRuleOptions():
                return Outcome(self._set_rule_options(record)), []
            case r.ChangeMigration():
                rule = self.rule(record.rule)
                if rule is None or rule.source == NO_SOURCE:
                    return Outcome(errno.ENOENT), []
                return Outcome(change_migration(self.tables, rule.number, record, self.gsn), version=self.gsn), []
            case r.Barrier():
                return Outcome(errno.ENOENT if self.rule(record.rule) is None else 0, version=self.gsn), []
            case r.Receipt():
                write_receipt(self.tables, record, self.gsn)
                return Outcome(0, version=self.gsn), []
            case (
                r.MakeDirectory()
                | r.Create()
                | r.CreateFile()
                | r.Put()
                | r.Write()
                | r.Append()
                | r.Truncate()
                | r.Shorten()
                | r.Rename()
                | r.Unlink()
                | r.RemoveDirectory()
                | r.Remove()
                | r.Link()
                | r.Symlink()
                | r.SetAttributes()
                | r.SetXattr()
                | r.RemoveXattr()
            ):
                return self._operations.apply(record, self.gsn)
            case r.Guarded():
                refused = self._guard(record)
                return (Outcome(refused), []) if refused else self._operations.apply(record.operation, self.gsn)
            case _:
                assert_never(record)

    def _guard(self, record: r.Guarded) -> int:
        """Whether what the operation supposes is so; an errno where it is not."""
        if record.after is not None and not self._is_done(record.after):
            return errno.ECANCELED
        expected = []
        for number in (record.above, record.at, record.to_above, record.to_at):
            if number < 0:
                made = sessions.recall(self.tables, record.id._replace(sequence=-number))
                if made is None or made[1].errno:
                    return errno.ECANCELED
                number = made[1].inode
            expected.append(number)
        return self._operations.guard(record.operation, *expected)

    def _is_done(self, operation: r.OperationId) -> bool:
        earlier = sessions.recall(self.tables, operation)
        return earlier is not None and not earlier[1].errno

    def flush(self) -> None:
        """Writes the cached state; the tables then hold all that was applied."""
        put = self.tables.put
        for number in self._namespace.flush():
            if number in self._by_number:
                total = digest.to_bytes(self._namespace.sums[number])
                put(Table.META, b"sum:" + RULE.pack(number), total)
                put(Table.META, b"totals:" + RULE.pack(number), msgpack.packb(self._namespace.totals[number]))
        put(Table.META, _GSN, NUMBER.pack(self.gsn))
        put(Table.META, _RULES_MADE, NUMBER.pack(self._rules_made))

    # -- rules ------------------------------------------------------------------------------------------------------

    def rule(self, name: str) -> Rule | None:
        return next((rule for rule in self._by_number.values() if rule.name == name), None)

    def digest(self, name: str) -> bytes:
        """The rule's digest after the last applied record (32 bytes)."""
        rule = self.rule(name)
        assert rule is not None, f"no rule {name}"
        self._namespace.settle()
        return digest.to_bytes(self._namespace.sums.get(rule.number, 0))

    def totals(self, name: str) -> Totals:
        rule = self.rule(name)
        assert rule is not None, f"no rule {name}"
        self._namespace.settle()
        return Totals(*self._namespace.totals[rule.number])

    def _admit(self, rule: Rule) -> None:
        self._by_number[rule.number] = rule
        self._by_path[rule.path] = rule
        self._namespace.sums[rule.number] = read_sum(self.tables, rule.number)
        self._namespace.totals[rule.number] = list(read_totals(self.tables, rule.number))

    def _create_rule(self, record: r.CreateRule) -> tuple[Outcome, list[e.ScopedEffect]]:
        refused = refusal(record, list(self._by_number.values()))
        if refused:
            return Outcome(refused), []
        self._rules_made += 1
        root = self.gsn << 16
        rule = Rule(
            self._rules_made,
            record.name,
            record.path,
            record.source,
            record.members,
            record.options,
            root,
            self.gsn,
        )
        self.tables.put(Table.RULES, RULE.pack(rule.number), encode_rule(rule))
        self._admit(rule)
        has_source = record.source != NO_SOURCE
        attributes = Attributes(ATTRIBUTES_UNKNOWN if has_source else 0o755, 0, 0, 0 if has_source else record.time_ns)
        version = 0 if has_source else self.gsn
        inode = Inode(root, rule.number, Kind.DIRECTORY, *attributes, version=version, nlink=1, pending=has_source)
        self._namespace.add(inode)
        effects: list[e.ScopedEffect] = []
        if not has_source:
            effect = e.MakeDirectoryEffect(root, b"", attributes)
            effects.append(e.ScopedEffect(rule.number, e.Scope(), effect))
        return Outcome(0, root, self.gsn), effects

    def _remove_rule(self, record: r.RemoveRule) -> int:
        """The rule goes at once; its files stay in the zones. Its namespace is dropped in the same step."""
        rule = self.rule(record.name)
        if rule is None:
            return errno.ENOENT
        for table in (Table.PENDING, Table.IDENTITIES):
            for key, _ in list(self.tables.scan(table, RULE.pack(rule.number), RULE.pack(rule.number + 1))):
                self.tables.delete(table, key)
        self._drop_tree(rule.root)
        del self._by_number[rule.number]
        del self._by_path[rule.path]
        self._namespace.directory_moves += 1
        self.tables.delete(Table.RULES, RULE.pack(rule.number))
        for key in (b"sum:", b"totals:"):
            self.tables.delete(Table.META, key + RULE.pack(rule.number))
        self.tables.delete(Table.CONTROL, b"migration:" + RULE.pack(rule.number))
        return 0

    def _drop_tree(self, root: int) -> None:
        waiting = [root]
        while waiting:
            inode = self._namespace.get(waiting.pop())
            if inode is None:
                continue
            for name, child, _ in list(self._namespace.entries(inode.number)):
                self.tables.delete(Table.DENTRIES, NUMBER.pack(inode.number) + name)
                if child:
                    waiting.append(child)
            start, stop = NUMBER.pack(inode.number), NUMBER.pack(inode.number + 1)
            for key, _ in list(self.tables.scan(Table.LINKS, start, stop)):
                self.tables.delete(Table.LINKS, key)
            self._namespace.drop(inode)

    def _set_rule_options(self, record: r.SetRuleOptions) -> int:
        rule = self.rule(record.name)
        if rule is None:
            return errno.ENOENT
        changed = rule._replace(options=record.options)
        self._by_number[rule.number] = self._by_path[rule.path] = changed
        self._namespace.directory_moves += 1
        self.tables.put(Table.RULES, RULE.pack(rule.number), encode_rule(changed))
        return 0


def _number(data: bytes | None) -> int:
    return 0 if data is None else int(NUMBER.unpack(data)[0])


def read_gsn(tables: Tables) -> int:
    """GSN of the last record folded into these tables."""
    return _number(tables.get(Table.META, _GSN))


def read_sum(tables: Tables, rule: int) -> int:
    return int.from_bytes(tables.get(Table.META, b"sum:" + RULE.pack(rule)) or b"", "big")


def read_totals(tables: Tables, rule: int) -> Totals:
    data: Any = tables.get(Table.META, b"totals:" + RULE.pack(rule))
    return Totals() if data is None else Totals(*msgpack.unpackb(data))
