"""Batches of operations, in one request and over a stream."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import aiohttp
import msgpack
import pytest

from lddp.admin.batch import Window
from lddp.admin.wire import ARGUMENTS, BUILDERS, OPERATIONS_MAX, Origin, record_of
from lddp.core.limits import INLINE_BYTES_MAX
from lddp.core.records import MakeDirectory, OperationId
from lddp.errors import LimitError, OutcomeUnknownError, UnavailableError, UsageError
from tests.admin.fake_backend import FakeBackend

PACKED = {"Content-Type": "application/msgpack"}


async def test_json_batch(http: aiohttp.ClientSession, backend: FakeBackend) -> None:
    operations = [
        {"op": "mkdir", "path": "/d", "mode": 0o700},
        {"op": "put", "path": "/d/f", "data_base64": "AP8="},
        {"op": "put", "path_base64": "L2Qv/w==", "data": "text"},
        {"op": "rmdir", "path": "/absent"},
        {"op": "rename", "path": "/d/f", "to": "/d/\udcfe"},
    ]
    async with http.post("/v1/operations", json={"operations": operations}) as response:
        body = await response.json()
    assert [row["errno"] for row in body["results"]] == [0, 0, 0, errno.ENOENT, 0]
    assert body["results"][3]["error"] == "ENOENT"
    assert [row["sequence"] for row in body["results"]] == [1, 2, 3, 4, 5]
    assert body["index"] == backend.gsn == int(response.headers["Lddp-Index"])
    assert backend.inodes[b"/d/\xfe"].data == b"\0\xff"
    assert backend.inodes[b"/d/\xff"].data == b"text"


async def test_msgpack_batch_and_its_retry(http: aiohttp.ClientSession, backend: FakeBackend) -> None:
    body = msgpack.packb([[5, "mkdir", b"/a"], [6, "put", b"/a/b", b"x"], [7, "mkdir", b"/a"]])
    answers = []
    for _ in range(2):
        async with http.post("/v1/operations", data=body, headers={**PACKED, "Lddp-Session": "0102"}) as response:
            assert response.content_type == "application/msgpack"
            answers.append(msgpack.unpackb(await response.read()))
    assert answers[0] == answers[1] == [[5, 0, 1], [6, 0, 2], [7, errno.EEXIST, 3]]
    assert backend.submitted == 3
    assert OperationId(b"\1\2", 5) in backend.outcomes


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"\xc1", "not valid msgpack"),
        (msgpack.packb({}), "must be an array"),
        (msgpack.packb([1]), "operation 0 of the batch"),
        (msgpack.packb([[1, "mkdir", b"/a"], [2, "mkdri", b"/b"]]), "operation 1 of the batch"),
        (msgpack.packb([[1, "mkdir", "/a"]]), "a path must be bytes"),
        (msgpack.packb([[1, "mkdir", b"/a/../b"]]), "is not valid"),
        (msgpack.packb([[-1, "mkdir", b"/a"]]), "a sequence must be"),
        (msgpack.packb([[1, "mkdir", b"/a", 0o755, 0, 0, 0]]), "at most 3 arguments"),
        (msgpack.packb([[1, "rename", b"/a"]]), "needs 'to'"),
        (msgpack.packb([[1, "mkdir", b"/a", True]]), "'mode' must be"),
        (msgpack.packb([[1, "put", b"/a", b"x" * (INLINE_BYTES_MAX + 1)]]), "PUT them to /v1/files"),
        (msgpack.packb([[1, "mkdir", b"/a"]] * (OPERATIONS_MAX + 1)), "send at most 4096"),
        (msgpack.packb([[1, ["mkdir"], b"/a"]]), "an operation is"),
        (msgpack.packb([[1, "mkdir", b"/a"], [2, "mkdir", b"/b"], [1, "mkdir", b"/c"]]), "have the same sequence"),
    ],
)
async def test_a_malformed_batch_does_nothing(
    http: aiohttp.ClientSession, backend: FakeBackend, body: bytes, expected: str
) -> None:
    async with http.post("/v1/operations", data=body, headers=PACKED) as response:
        assert response.status in (400, 413)
        assert expected in (await response.json(content_type=None))["detail"]
    assert backend.submitted == 0


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"op": "mkdir"}, "needs 'path'"),
        ({"op": "x", "path": "/a"}, "'op' must be one of"),
        ({"op": "mkdir", "path": "/a", "size": 1}, "has no 'size'"),
        ({"op": "put", "path": "/a"}, "needs 'data'"),
        ({"op": "put", "path": "/a", "data_base64": "!"}, "not text or base64"),
        ({"op": "mkdir", "path": 1}, "'path' must be text"),
        ({"op": "mkdir", "path": "/\ud800"}, "not text or base64"),
        ([], "must be an object"),
    ],
)
async def test_mistakes_in_json_operations(http: aiohttp.ClientSession, document: object, expected: str) -> None:
    async with http.post("/v1/operations", json=[document]) as response:
        assert response.status == 400
        assert expected in (await response.json(content_type=None))["detail"]


async def test_operations_of_a_session_have_sequences(http: aiohttp.ClientSession, backend: FakeBackend) -> None:
    """Counted anew in each batch, those of the second one would have been swallowed, and said to be done."""
    session = {"Lddp-Session": "0102"}
    for path, sequences, status in (("/a", [1, 2], 200), ("/b", [3, None], 400), ("/b", [3, 4], 200)):
        batch = [
            {"op": "mkdir", "path": f"{path}{place}"} | ({} if sequence is None else {"sequence": sequence})
            for place, sequence in enumerate(sequences)
        ]
        async with http.post("/v1/operations", json=batch, headers=session) as response:
            body = await response.json(content_type=None)
            assert response.status == status
        if status == 400:
            assert body["detail"].startswith("operation 1 of the batch has no 'sequence'") and backend.submitted == 2
        else:
            assert [row["errno"] for row in body["results"]] == [0, 0]
            assert f"{path}0".encode() in backend.inodes and f"{path}1".encode() in backend.inodes


async def test_a_sequence_that_is_counted_is_not_one_that_is_given(
    http: aiohttp.ClientSession, backend: FakeBackend
) -> None:
    """The second one would have been taken for the first, and said to be done."""
    batch = [{"op": "mkdir", "path": "/a", "sequence": 2}, {"op": "mkdir", "path": "/b"}]
    async with http.post("/v1/operations", json=batch) as response:
        assert response.status == 400
    assert backend.submitted == 0


async def test_a_frame_with_a_sequence_twice_does_nothing(http: aiohttp.ClientSession, backend: FakeBackend) -> None:
    async with http.ws_connect("/v1/operations/stream?session=aa") as socket:
        await socket.send_bytes(msgpack.packb([[1, "mkdir", b"/a"], [1, "mkdir", b"/b"]]))
        assert msgpack.unpackb(await socket.receive_bytes()) == [[1, errno.EINVAL, 0]] * 2
    assert backend.submitted == 0


def test_every_operation_has_arguments_and_a_builder() -> None:
    assert ARGUMENTS.keys() == BUILDERS.keys()
    origin = Origin(b"s", 3, 99, 1000, 1001)
    record = record_of(origin, [1, "mkdir", b"/a"])
    assert record == MakeDirectory(OperationId(b"s", 1), 3, 99, b"/a", 0o755, 1000, 1001)
    samples: dict[str, list[Any]] = {
        "put": [b"x"],
        "write": [0, b"x"],
        "append": [b"x"],
        "truncate": [3],
        "rename": [b"/b"],
        "link": [b"/b"],
        "symlink": [b"t"],
        "setxattr": [b"user.a", b"v"],
        "removexattr": [b"user.a"],
    }
    for name in ARGUMENTS:
        assert record_of(origin, [1, name, b"/a", *samples.get(name, [])]).path == b"/a"
    with pytest.raises(UsageError):
        record_of(origin, [1, "write", b"/a", -1, b""])
    with pytest.raises(LimitError):
        record_of(origin, [1, "append", b"/a", b"x" * (INLINE_BYTES_MAX + 1)])


async def test_stream_answers_every_frame(http: aiohttp.ClientSession, backend: FakeBackend) -> None:
    async with http.ws_connect("/v1/operations/stream?session=aa") as socket:
        for frame in range(50):
            await socket.send_bytes(
                msgpack.packb([[frame * 10 + i, "mkdir", b"/%d-%d" % (frame, i)] for i in range(5)])
            )
        answers: dict[int, tuple[int, int]] = {}
        for _ in range(50):
            for sequence, number, index in msgpack.unpackb(await socket.receive_bytes()):
                answers[sequence] = (number, index)
    assert len(answers) == 250
    assert {number for number, _ in answers.values()} == {0}
    assert sorted(index for _, index in answers.values()) == list(range(1, 251))
    assert OperationId(b"\xaa", 491) in backend.outcomes


async def test_stream_has_many_in_flight_and_retries_elsewhere(
    http: aiohttp.ClientSession, backend: FakeBackend
) -> None:
    backend.gate = asyncio.Event()
    async with http.ws_connect("/v1/operations/stream?session=aa") as socket:
        for sequence in range(20):
            await socket.send_bytes(msgpack.packb([[sequence, "mkdir", b"/%d" % sequence]]))
        backend.gate.set()
        first = [msgpack.unpackb(await socket.receive_bytes()) for _ in range(20)]
    async with http.ws_connect("/v1/operations/stream?session=aa") as socket:
        await socket.send_bytes(msgpack.packb([[sequence, "mkdir", b"/%d" % sequence] for sequence in range(20)]))
        second = msgpack.unpackb(await socket.receive_bytes())
    assert sorted(second) == sorted(row for frame in first for row in frame)
    assert backend.submitted == 20


async def test_stream_refuses_what_it_does_not_understand(http: aiohttp.ClientSession, backend: FakeBackend) -> None:
    async with http.ws_connect("/v1/operations/stream") as socket:
        await socket.send_bytes(msgpack.packb([[1, "mkdir", b"/a"], [2, "mkdir", b"/../b"], "?"]))
        answer = msgpack.unpackb(await socket.receive_bytes())
        assert sorted(answer, key=str) == [[1, 0, 1], [2, errno.EINVAL, 0], [None, errno.EINVAL, 0]]
        await socket.send_bytes(b"\xc1")
        assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
    async with http.ws_connect("/v1/operations/stream") as socket:
        await socket.send_str("[]")
        assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
    assert backend.submitted == 1


@pytest.mark.parametrize(
    ("failure", "number"),
    [
        (UnavailableError("no leader"), errno.EAGAIN),
        (OutcomeUnknownError("leader lost"), errno.ETIMEDOUT),
        (LimitError("too much"), errno.E2BIG),
    ],
)
async def test_stream_tells_what_to_send_again(
    http: aiohttp.ClientSession, backend: FakeBackend, failure: UnavailableError, number: int
) -> None:
    backend.failure = failure
    async with http.ws_connect("/v1/operations/stream") as socket:
        await socket.send_bytes(msgpack.packb([[1, "mkdir", b"/a"]]))
        assert msgpack.unpackb(await socket.receive_bytes()) == [[1, number, 0]]


async def test_the_window_bounds_what_is_in_flight() -> None:
    window = Window(bytes_max=10, frames_max=2)
    await window.take(50)
    waiting = asyncio.ensure_future(window.take(5))
    await asyncio.sleep(0)
    assert not waiting.done()
    window.give_back(50)
    await waiting
    await window.take(5)
    third = asyncio.ensure_future(window.take(0))
    await asyncio.sleep(0)
    assert not third.done()
    window.give_back(5)
    await third


async def test_a_client_chooses_what_an_answer_means(http: aiohttp.ClientSession, backend: FakeBackend) -> None:
    for number, ack in enumerate(("", "&ack=visible", "&ack=ordered")):
        async with http.ws_connect(f"/v1/operations/stream?session=aa{ack}") as socket:
            await socket.send_bytes(msgpack.packb([[number, "mkdir", b"/%d" % number]]))
            assert msgpack.unpackb(await socket.receive_bytes()) == [[number, 0, number + 1]]
    assert backend.visibly == [True, True, False]
    answer = await http.post("/v1/operations?ack=ordered", json=[{"op": "mkdir", "path": "/x"}])
    assert answer.status == 200
    assert backend.visibly[-1] is False
    answer = await http.post("/v1/operations?ack=never", json=[{"op": "mkdir", "path": "/y"}])
    assert answer.status == 400
