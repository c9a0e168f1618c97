"""What commands make of nodes that break off: before they answer, and in the middle of it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lddp.core.records import Kind
from lddp.errors import UnavailableError
from tests.admin.fake_backend import FakeBackend
from tests.cli.conftest import Result, Served, serve
from tests.cli.test_commands import error, ok

Lddp = Callable[..., Result]


@contextlib.contextmanager
def answering(*answers: bytes) -> Iterator[str]:
    """An endpoint that takes one request a connection, answers it with these bytes and closes; whoever comes after the
    last of them is refused."""
    server = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        for number, data in enumerate(answers, 1):
            connection, _ = server.accept()
            with connection:
                if number == len(answers):
                    server.close()
                head = b""
                while b"\r\n\r\n" not in head:
                    head += connection.recv(65_536)
                connection.sendall(data)

    thread = threading.Thread(target=answer)
    thread.start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}"
    thread.join()


@pytest.fixture
def known(token_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token is known, and the endpoints are to be given."""
    monkeypatch.setenv("LDDP_TOKEN_FILE", str(token_file))


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"])
def test_a_change_that_was_sent_and_not_answered_may_have_happened(lddp: Lddp, begun: bytes) -> None:
    with answering(begun) as url:
        said = error(lddp("mv", "/a", "/b", "-n", "--endpoint", url), 3)
    assert "the outcome is not known" in said and "may have taken effect" in said
    with answering(begun) as url:
        said = error(lddp("ls", "/a", "--endpoint", url), 3)
    assert "may have" not in said, "it changes nothing"


@pytest.mark.usefixtures("known")
def test_a_part_of_a_file_is_not_taken_for_the_whole(lddp: Lddp, tmp_path: Path) -> None:
    part = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 100
    with answering(part) as url:
        result = lddp("cat", "/data/f", "--endpoint", url)
    assert result.out == b"x" * 100
    assert "broke off its answer (900 bytes are missing)" in error(result, 3)
    with answering(part) as url:
        assert "broke off its answer" in error(lddp("get", "/data/f", str(tmp_path / "f"), "--endpoint", url), 3)
    assert [path.name for path in tmp_path.iterdir()] == ["token"]
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}") as url:
        assert "may have taken effect" in error(lddp("mkdir", "/data/d", "--endpoint", url), 3)


@pytest.mark.usefixtures("known")
def test_what_is_not_known_of_one_node_is_not_made_certain_by_another(lddp: Lddp) -> None:
    weak = FakeBackend("weak")
    weak.failure = UnavailableError("no leader; wait")
    url, stop = serve(weak)
    try:
        with answering(b"") as lost:
            endpoints = ["--endpoint", lost, "--endpoint", url, "--timeout", "0.5"]
            assert f"({lost}: " in error(lddp("mkdir", "/a", *endpoints), 3)
        with answering(b"HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\n\r\n") as gateway:
            endpoints = ["--endpoint", gateway, "--endpoint", url, "--timeout", "0.5"]
            assert "HTTP status 504" in error(lddp("mkdir", "/a", *endpoints), 3)
    finally:
        stop()


def test_a_change_whose_answer_is_lost_is_asked_for_again(served: Served, lddp: Lddp) -> None:
    with answering(b"") as lost:
        ok(lddp("mkdir", "/a", "--endpoint", lost, "--endpoint", served.url))
    assert served.backend.inodes[b"/a"].kind is Kind.DIRECTORY


@pytest.mark.usefixtures("known")
def test_a_request_that_a_stranger_refuses_is_not_repeated(lddp: Lddp, tmp_path: Path) -> None:
    """As a web server refuses a part behind the end of a file."""
    with answering(b"HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\n\r\n") as url:
        said = lddp("get", "/f", str(tmp_path / "f"), "--range", "100-200", "--endpoint", url)
    assert "HTTP status 416 without a problem document" in error(said, 1)
