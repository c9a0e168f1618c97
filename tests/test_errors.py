"""What messages say of paths."""

from __future__ import annotations

import pytest

from lddp.errors import quoted


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (b"/data/a b", "'/data/a b'"),
        (b"", "''"),
        ("/données".encode(), "'/données'"),
        (b"/a\nb\x1b[31m", r"'/a\nb\x1b[31m'"),
        (b"/\xff\xfe", r"'/\\xff\\xfe'"),
        (b"/it's", '"/it\'s"'),
    ],
)
def test_a_path_is_one_line_of_printable_characters(path: bytes, text: str) -> None:
    assert quoted(path) == text
    assert quoted(path).isprintable()
