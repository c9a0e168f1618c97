"""The messages between Raft members, and their bytes: one msgpack array a frame, the first element its kind.

What comes from the network is taken apart here and nowhere else; whatever does not have exactly the shape of a
message raises FormatError and ends the connection.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, get_type_hints

import msgpack

from lddp.errors import FormatError

REGULAR = 0
NO_OP = 1
"""First byte of an entry's command, as PySyncObj has it; all other kinds of its commands are refused."""

Entry = tuple[bytes, int, int]
"""(command, index, term), as PySyncObj has it."""


class Append(NamedTuple):
    """AppendEntries; without entries a heartbeat."""

    term: int
    commit: int
    previous: int
    previous_term: int
    entries: tuple[Entry, ...]


class Appended(NamedTuple):
    """Answer to Append, sent once what it says is durable. `matched`: the sender's log agrees with the leader's up to
    `next` - 1. Otherwise `commit`, the sender's commit index, is where it surely agrees."""

    term: int
    next: int
    matched: bool
    commit: int


class VoteRequest(NamedTuple):
    """`forced`: the leader itself handed over, so that nobody protects it."""

    term: int
    last: int
    last_term: int
    forced: bool


class Vote(NamedTuple):
    term: int


class Canvass(NamedTuple):
    """Pre-vote (Ongaro's thesis, 9.6): would you vote for me in `term`? Changes nothing at who answers."""

    term: int
    last: int
    last_term: int


class CanvassReply(NamedTuple):
    asked_term: int
    term: int
    granted: bool


class Later(NamedTuple):
    """The term is higher than that of a message just received."""

    term: int


class HandOver(NamedTuple):
    """The leader of `term` asks the receiver to take over."""

    term: int


class Sidelined(NamedTuple):
    """The leader has dropped the entries that the receiver needs; its log starts at `first`."""

    term: int
    first: int


class Forward(NamedTuple):
    """Records that wait for ordering, from a follower to the leader of `term`, and to no other: whoever submitted them
    asks the next leader anew, once it knows what has become of these. `follows`: they left together with those of the
    Forward before it, and must not be ordered without them."""

    records: tuple[bytes, ...]
    follows: bool
    term: int


class ReadAsk(NamedTuple):
    number: int


class ReadAnswer(NamedTuple):
    """`at` 0: not the leader any more."""

    number: int
    at: int


class Confirm(NamedTuple):
    """Am I still the leader of `term`?"""

    term: int
    number: int


class Confirmed(NamedTuple):
    term: int
    number: int


class Note(NamedTuple):
    """A message of the application."""

    body: bytes


Message = (
    Append
    | Appended
    | VoteRequest
    | Vote
    | Canvass
    | CanvassReply
    | Later
    | HandOver
    | Sidelined
    | Forward
    | ReadAsk
    | ReadAnswer
    | Confirm
    | Confirmed
    | Note
)

_KINDS: tuple[type[Any], ...] = (
    Append,
    Appended,
    VoteRequest,
    Vote,
    Canvass,
    CanvassReply,
    Later,
    HandOver,
    Sidelined,
    Forward,
    ReadAsk,
    ReadAnswer,
    Confirm,
    Confirmed,
    Note,
)
"""A kind's number is its place here: append only."""
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}
_TYPES: dict[type[Any], tuple[type, ...]] = {
    kind: tuple(hint if hint in (int, bool, bytes) else list for hint in get_type_hints(kind).values())
    for kind in _KINDS
}
_INTEGER_MAX = 1 << 62


class Outlet(Protocol):
    """Where messages leave. A message is delivered whole and in order, or the link goes down."""

    def send(self, peer: str, message: Message) -> None: ...


def encode_message(message: Message) -> bytes:
    packed: Any
    if isinstance(message, Append):
        entries = [(command, term) for command, _, term in message.entries]
        packed = (0, message.term, message.commit, message.previous, message.previous_term, entries)
    else:
        packed = (_NUMBERS[type(message)], *message)
    return bytes(msgpack.packb(packed))


def decode_message(body: bytes) -> Message:
    """Raises FormatError."""
    try:
        value = msgpack.unpackb(body, use_list=True, strict_map_key=True)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise FormatError("a Raft frame is not msgpack") from error
    if type(value) is not list or not value or type(value[0]) is not int or not 0 <= value[0] < len(_KINDS):
        raise FormatError("a Raft frame is of no known kind")
    kind = _KINDS[value[0]]
    fields = value[1:]
    types = _TYPES[kind]
    if len(fields) != len(types) or any(type(field) is not type_ for field, type_ in zip(fields, types, strict=True)):
        raise FormatError(f"a Raft frame has not the fields of {kind.__name__}")
    if any(type(field) is int and not 0 <= field < _INTEGER_MAX for field in fields):
        raise FormatError(f"a number in {kind.__name__} is out of range")
    if kind is Append:
        fields[4] = _entries(fields[2], fields[4], fields[0], fields[3])
    elif kind is Forward:
        if not all(type(record) is bytes for record in fields[0]):
            raise FormatError("a forwarded record is not bytes")
        fields[0] = tuple(fields[0])
    message: Message = kind(*fields)
    return message


def _entries(previous: int, pairs: list[Any], term_max: int, term: int) -> tuple[Entry, ...]:
    """The entries after index `previous`, whose terms must ascend from `term` to at most `term_max`."""
    entries: list[Entry] = []
    for index, pair in enumerate(pairs, previous + 1):
        if type(pair) is not list or len(pair) != 2 or type(pair[0]) is not bytes or type(pair[1]) is not int:
            raise FormatError("an entry is not a command and its term")
        command, entry_term = pair
        if not command or command[0] not in (REGULAR, NO_OP):
            raise FormatError("an entry's command is of no kind that is used here")
        if not term <= entry_term <= term_max:
            raise FormatError("an entry's term does not lie between its neighbours'")
        term = entry_term
        entries.append((command, index, entry_term))
    return tuple(entries)


def encode_records(records: list[bytes]) -> bytes:
    """The payload of one log entry."""
    return bytes(msgpack.packb(records))


def decode_records(payload: bytes) -> list[bytes]:
    """Raises FormatError."""
    try:
        records = msgpack.unpackb(payload)
    except (ValueError, msgpack.UnpackException) as error:
        raise FormatError("a log entry is not msgpack") from error
    if type(records) is not list or not all(type(record) is bytes for record in records):
        raise FormatError("a log entry is not an array of records")
    return records
