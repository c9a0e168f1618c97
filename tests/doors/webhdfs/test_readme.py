"""The README's examples of WebHDFS in Python run as they are written, but for the port."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.doors.webhdfs.conftest import TOKEN, Served

pytest.importorskip("hdfs", reason="HdfsCLI (`hdfs` on PyPI) is not installed")
pytest.importorskip("fsspec", reason="fsspec is not installed")

README = Path(__file__).parents[3] / "README.md"
SECTION = README.read_text("utf-8").partition("\n## WebHDFS\n")[2].partition("\n## ")[0]
EXAMPLES = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)


def test_the_examples(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served.node.add_rule("photos", b"/photos")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token").write_text(TOKEN + "\n")
    (tmp_path / "cat.jpg").write_bytes(b"a cat")
    names: dict[str, object] = {"__name__": "example"}
    assert len(EXAMPLES) == 2
    for example in EXAMPLES:
        exec(compile(example.replace("7480", served.url.rpartition(":")[2]), str(README), "exec"), names)
    assert (tmp_path / "copy.jpg").read_bytes() == b"a cat"
    assert served.node.content(b"/photos/2026/cat.jpg") == b"a cat"
    assert capsys.readouterr().out == "['/photos/2026']\n"
    names["client"]._session.close()  # type: ignore[attr-defined]
    names["webhdfs"].session.close()  # type: ignore[attr-defined]
