"""Mounts over HTTP."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from lddp.admin import mounts
from lddp.errors import NotAllowedError
from tests.admin.fake_backend import FakeBackend


async def test_mount_list_unmount(http: aiohttp.ClientSession, backend: FakeBackend) -> None:
    backend.rule_documents["photos"] = {"name": "photos"}
    body = {"rule": "photos", "mountpoint": "/mnt/photos/", "soft_timeout_s": 2.5}
    for mode in ({}, {"write_mode": "pipelined"}, {"passthrough": True}):
        async with http.post("/v1/mounts", json=body | mode) as response:
            assert response.status == 201
            expected = (
                body
                | {"mountpoint": "/mnt/photos", "write_mode": "sync", "passthrough": False, "why_no_passthrough": ""}
                | mode
            )
            assert await response.json() == expected
    async with http.get("/v1/mounts") as response:
        assert await response.json() == {"mounts": [{"rule": "photos", "mountpoint": "/mnt/photos"}]}
    async with http.delete("/v1/mounts?mountpoint=/mnt/photos&lazy=true") as response:
        assert (await response.json())["lazily"] is True
    async with http.delete("/v1/mounts?mountpoint=/mnt/photos") as response:
        assert response.status == 404


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"rule": "photos"},
        {"rule": "", "mountpoint": "/mnt"},
        {"rule": "photos", "mountpoint": "relative"},
        {"rule": "photos", "mountpoint": "/a\0b"},
        {"rule": "photos", "mountpoint": "/mnt", "soft_timeout_s": 0},
        {"rule": "photos", "mountpoint": "/mnt", "soft_timeout_s": True},
        {"rule": "photos", "mountpoint": "/mnt", "options": "suid"},
        {"rule": "photos", "mountpoint": "/mnt", "write_mode": "async"},
        {"rule": "photos", "mountpoint": "/mnt", "write_mode": None},
        {"rule": "photos", "mountpoint": "/mnt", "write_mode": ["sync"]},
        {"rule": "photos", "mountpoint": "/mnt", "passthrough": 1},
        {"rule": "photos", "mountpoint": "/mnt", "passthrough": None},
    ],
)
async def test_what_is_no_mount(http: aiohttp.ClientSession, body: dict[str, Any]) -> None:
    async with http.post("/v1/mounts", json=body) as response:
        assert response.status == 400


async def test_an_absent_rule(http: aiohttp.ClientSession) -> None:
    async with http.post("/v1/mounts", json={"rule": "absent", "mountpoint": "/mnt"}) as response:
        assert response.status == 404


@pytest.mark.parametrize("remote", ["10.0.0.5", "::ffff:10.0.0.5", None])
def test_from_this_machine_only(remote: str | None) -> None:
    class Request:
        pass

    request: Any = Request()
    request.remote = remote
    with pytest.raises(NotAllowedError):
        mounts.require_local(request)
    request.remote = "::1"
    mounts.require_local(request)
