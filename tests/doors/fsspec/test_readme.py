"""The README's examples of the client library and of `lddp://` run as they are written."""

from __future__ import annotations

import re
from pathlib import Path

import fsspec
import pytest

from tests.doors.served import Served

README = Path(__file__).parents[3] / "README.md"
SECTION = README.read_text("utf-8").partition("\n## From Python\n")[2].partition("\n## ")[0]
EXAMPLES = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 2


@pytest.mark.parametrize("example", EXAMPLES, ids=["client", "fsspec"])
def test_an_example(served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str], example: str) -> None:
    served.describe(tmp_path)
    names: dict[str, object] = {"__name__": "example"}
    exec(compile(example.replace("/tmp/lab", str(tmp_path)), str(README), "exec"), names)
    out = capsys.readouterr().out
    fs = fsspec.filesystem("lddp", cluster=str(tmp_path), skip_instance_cache=True)
    if "asyncio" in names:
        assert out.startswith("b'hello'\n4 of 4\nmkdir 0 ")
        assert fs.cat("/notes/d/new") == b"more"
    else:
        assert "/notes/table.csv" in out
        assert fs.cat(["/notes/one", "/notes/two"]) == {"/notes/one": b"1", "/notes/two": b"2"}
        assert not fs.exists("/notes/tables")
    fs.close()
    for name in ("fs",):
        if isinstance(found := names.get(name), type(fs)):
            found.close()
