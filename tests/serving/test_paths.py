"""Paths between URLs, JSON and the namespace."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lddp.core.limits import PATH_BYTES_MAX
from lddp.errors import UsageError
from lddp.serving.paths import bytes_in, checked, from_url, is_well_formed, named

names = st.binary(min_size=1, max_size=12).filter(lambda n: n not in (b".", b"..") and not set(n) & {0, 0x2F})
paths = st.lists(names, min_size=1, max_size=5).map(lambda parts: b"".join(b"/" + part for part in parts))


@given(paths)
def test_any_path_goes_through_a_url(path: bytes) -> None:
    assert from_url("/v1/files" + quote(path, safe="/") + "?op=stat&to=/x", "/v1/files") == path


@given(st.binary(max_size=20))
def test_any_bytes_go_through_json(name: bytes) -> None:
    document = json.loads(json.dumps(named("name", name)))
    assert bytes_in(document, "name") == name
    document.pop("name_base64", None)
    assert bytes_in(document, "name") == name


@given(st.binary(max_size=20).map(lambda tail: b"/" + tail))
def test_well_formed_means_no_strange_component(path: bytes) -> None:
    parts = path[1:].split(b"/")
    plain = all(part not in (b"", b".", b"..") and b"\0" not in part for part in parts)
    assert is_well_formed(path) is plain


def test_limits_and_the_root() -> None:
    assert checked(b"/", root=True) == b"/"
    assert from_url("/v1/files", "/v1/files", root=True) == b"/"
    assert from_url("/v1/files/a/", "/v1/files") == b"/a"
    for wrong in (b"", b"a", b"/" + b"x" * PATH_BYTES_MAX, b"/"):
        with pytest.raises(UsageError):
            checked(wrong)
    assert bytes_in({}, "name") is None
