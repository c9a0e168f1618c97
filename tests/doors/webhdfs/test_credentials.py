"""Who is let in: bearer tokens, delegation tokens, simple authentication, and nobody else."""

from __future__ import annotations

import base64

import pytest

from lddp.doors.webhdfs.tokens import LIFETIME_MS, Identifier, Invalid, Tokens, decode
from tests.doors.webhdfs.conftest import TOKEN, Client
from tests.doors.webhdfs.machine import MachineBackend

REFUSED = (401, "SecurityException")
INVALID = (403, "InvalidToken")


@pytest.mark.parametrize(
    "query",
    [
        "op=LISTSTATUS",
        "op=LISTSTATUS&user.name=root",
        "op=NONE",
        "",
        "op=GETDELEGATIONTOKEN",
        "op=LISTSTATUS&doas=root",
    ],
)
async def test_without_a_token_everything_is_refused(stranger: Client, query: str) -> None:
    for path in ("", "/", "/data", "/none", "/data/%00"):
        answer = await stranger("GET", f"{path}?{query}")
        assert answer.error == REFUSED
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    for method in ("PUT", "POST", "DELETE"):
        assert (await stranger(method, f"/data/x?{query}&data=true", b"abc")).error == REFUSED


@pytest.mark.parametrize("header", ["Bearer wrong", "Bearer ", f"Basic {TOKEN}", TOKEN, "Bearer \xff"])
async def test_wrong_headers(stranger: Client, header: str) -> None:
    assert (await stranger("GET", "/data?op=LISTSTATUS", Authorization=header)).error == REFUSED
    # A header that is wrong is not made good by a parameter that is right.
    answer = await stranger("GET", f"/data?op=LISTSTATUS&delegation={TOKEN}", Authorization=header)
    assert answer.error == REFUSED


async def test_the_token_may_be_a_parameter(stranger: Client, node: MachineBackend) -> None:
    first = await stranger("PUT", f"/data/x?delegation={TOKEN}&op=CREATE")
    assert first.status == 307
    assert (await stranger("PUT", first.headers["Location"], b"abc")).status == 201
    assert node.content(b"/data/x") == b"abc"
    for wrong in ("wrong", "%00", "%FF", "A" * 3000, "AAAA", "%C3%A4", "=", TOKEN + "x"):
        assert (await stranger("GET", f"/data?op=LISTSTATUS&delegation={wrong}")).error == INVALID
    # The first one counts, wherever others stand.
    answer = await stranger("GET", f"/data?op=LISTSTATUS&delegation=wrong&delegation={TOKEN}")
    assert answer.error == INVALID


@pytest.mark.parametrize("simple", [True])
async def test_simple_authentication(url: str, stranger: Client, http: Client, node: MachineBackend) -> None:
    assert (await stranger.create("/data/x", b"abc", "&user.name=root")).status == 201
    assert (await stranger("GET", "?op=GETHOMEDIRECTORY&user.name=alice")).document == {"Path": "/user/alice"}
    assert (await stranger("GET", "?op=GETHOMEDIRECTORY&user.name=alice&doas=bob")).document == {"Path": "/user/bob"}
    assert (await stranger("GET", "/data?op=LISTSTATUS")).status == 200
    for wrong in ("a/b", "0day", "a%20b", "%00", "a%0Ab"):
        answer = await stranger("GET", f"/data?op=LISTSTATUS&user.name={wrong}")
        assert answer.error == (400, "IllegalArgumentException")
    # Who shows a token shows a good one.
    assert (await stranger("GET", "/data?op=LISTSTATUS&delegation=wrong")).error == INVALID
    assert (await stranger("GET", "/data?op=LISTSTATUS", Authorization="Bearer wrong")).error == REFUSED
    assert (await http("GET", "/data?op=LISTSTATUS")).status == 200
    # Believing names brings no token, which other nodes would take; and websites are not believed.
    assert (await stranger("GET", "/?op=GETDELEGATIONTOKEN&user.name=root")).document == {"Token": None}
    assert (await http("GET", "/?op=GETDELEGATIONTOKEN&user.name=root")).document["Token"]
    answer = await stranger("POST", "/data/x?op=TRUNCATE&newlength=0&user.name=root", Origin="https://example.org")
    assert answer.error == REFUSED
    # It is WebHDFS alone that believes names.
    assert (await stranger("GET", f"{url}/v1/status?user.name=root")).status == 401


async def test_the_http_api_still_asks_for_its_token(url: str, stranger: Client) -> None:
    for path in ("/v1/status", "/v1/files/data", "/webhdfs/v2/data", "/webhdfs", "/webhdfs/v1x", "/"):
        assert (await stranger("GET", url + path)).status == 401


# -- delegation tokens ------------------------------------------------------------------------------------------------


async def test_a_delegation_token(stranger: Client, http: Client, node: MachineBackend) -> None:
    answer = await http("GET", "/?op=GETDELEGATIONTOKEN&renewer=yarn&user.name=alice&service=10.0.0.1:7480")
    token = answer.document["Token"]["urlString"]
    who = await stranger("GET", f"/?op=GETHOMEDIRECTORY&delegation={token}&user.name=bob&doas=bob")
    assert who.document == {"Path": "/user/alice"}
    end_ms = node.time_ns() // 1_000_000 + LIFETIME_MS
    renewed = await http("PUT", f"/?op=RENEWDELEGATIONTOKEN&token={token}")
    assert abs(renewed.document["long"] - end_ms) <= 1
    assert (await http("PUT", f"/?op=CANCELDELEGATIONTOKEN&token={token}")).error == (
        400,
        "UnsupportedOperationException",
    )
    for operation in ("RENEWDELEGATIONTOKEN", "CANCELDELEGATIONTOKEN"):
        assert (await http("PUT", f"/?op={operation}&token=wrong")).error == INVALID
        assert (await http("PUT", f"/?op={operation}")).error == (400, "IllegalArgumentException")
    another = await stranger("GET", f"/?op=GETDELEGATIONTOKEN&delegation={token}")
    assert another.error == (403, "IOException")
    await http.create("/data/x", b"abc")
    assert (await stranger("GET", f"/data/x?op=OPEN&delegation={token}")).body == b"abc"


async def test_a_token_ends(stranger: Client, http: Client, node: MachineBackend) -> None:
    token = (await http("GET", "/?op=GETDELEGATIONTOKEN")).document["Token"]["urlString"]
    target = f"/data?op=LISTSTATUS&delegation={token}"
    assert (await stranger("GET", target)).status == 200
    now = node.time_ns()
    node.time_ns = lambda: now + LIFETIME_MS * 1_000_000  # type: ignore[method-assign]
    assert (await stranger("GET", target)).error == INVALID


def test_tokens_are_hadoops() -> None:
    """The layout that `Token.decodeFromUrlString` and `AbstractDelegationTokenIdentifier.readFields` read."""
    text = Tokens("secret of the ecosystem").issue("alice", "yarn", 1_700_000_000_000, "10.0.0.1:7480")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    owner = b"\0" + b"\x05alice" + b"\x04yarn" + b"\0"
    times = b"\x8a" + (1_700_000_000_000).to_bytes(6, "big") + b"\x8a" + (1_700_086_400_000).to_bytes(6, "big")
    identifier = owner + times + b"\0\0"
    assert data.startswith(bytes([len(identifier)]) + identifier + bytes([32]))
    assert data[len(identifier) + 34 :] == b"\x12WEBHDFS delegation" + b"\x0d10.0.0.1:7480"
    assert decode(identifier) == Identifier("alice", "yarn", 1_700_000_000_000, 1_700_086_400_000)


def test_a_token_with_another_service_is_the_same_token() -> None:
    """Hadoop's clients write the service into it."""
    tokens = Tokens("secret of the ecosystem")
    text = tokens.issue("alice", "yarn", 1000, "a")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    changed = base64.urlsafe_b64encode(data[:-2] + b"\x0ba.b.c:12345").decode()
    assert tokens.check(changed, 1001) == tokens.check(changed.rstrip("="), 1001) == tokens.check(text, 1001)


def test_no_other_bytes_are_a_token() -> None:
    tokens = Tokens("secret of the ecosystem")
    text = tokens.issue("alice", "yarn", 1000, "")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    signed = 1 + data[0] + 1 + 32
    for place in range(signed):
        for flipped in (data[place] ^ 1, data[place] ^ 0x80):
            changed = data[:place] + bytes([flipped]) + data[place + 1 :]
            with pytest.raises(Invalid):
                tokens.check(base64.urlsafe_b64encode(changed).decode(), 1001)
        with pytest.raises(Invalid):
            tokens.check(base64.urlsafe_b64encode(data[:place]).decode(), 1001)
    with pytest.raises(Invalid):
        Tokens("secret of another one").check(text, 1001)
    with pytest.raises(Invalid):
        tokens.check(text, 1000 + LIFETIME_MS)
