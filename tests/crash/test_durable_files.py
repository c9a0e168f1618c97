"""The other files that outlive a process: after a power cut none of them is believed that is not whole."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from lddp.content import suspects
from lddp.content.store import Store
from lddp.core.records import Content
from lddp.errors import CorruptError
from lddp.replay import progress as progress_module
from lddp.replay.progress import Progress
from lddp.storage.environment import Environment

SEEDS = range(1, 41)
BLOB_BYTES = 40_000
SECTOR = 512


def torn(chance: Random, *versions: bytes) -> bytes:
    """Every sector as one of the versions has it, and not all as the first."""
    size = max(map(len, versions))
    while True:
        padded = [version.ljust(size, b"\0") for version in versions]
        sectors = [chance.choice(padded)[at : at + SECTOR] for at in range(0, size, SECTOR)]
        data = b"".join(sectors)[: chance.choice((size, size, chance.randrange(size)))]
        if data != versions[0]:
            return data


def hold(store: Store, data: bytes, *, sealed: bool = True) -> Content:
    arrival = store.arrival()
    arrival.write([data])
    digest = arrival.seal()
    store.publish(arrival, digest, sealed=sealed)
    return Content(digest, len(data), sealed=sealed)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_content_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    chance = Random(seed)
    boot = tmp_path / "boot_id"
    boot.write_text("first\n")
    monkeypatch.setattr(suspects, "BOOT_ID_PATH", str(boot))
    first = Store(tmp_path / "content")
    whole, broken, chained = (chance.randbytes(BLOB_BYTES) for _ in range(3))
    contents = [hold(first, whole), hold(first, broken), hold(first, chained, sealed=False)]
    (tmp_path / "content" / "incoming" / "half").write_bytes(broken[:100])
    first.close()
    (tmp_path / "content" / "blobs" / contents[1].digest.hex()).write_bytes(torn(chance, broken, b""))
    boot.write_text("second\n")
    second = Store(tmp_path / "content")
    found = second.open(contents[0])
    assert found is not None
    assert b"".join(bytes(piece) for _, piece in found.chunks()) == whole
    assert second.open(contents[1]) is None, "its bytes are not those of its name"
    assert second.open(contents[2]) is None, "nothing tells whether it is whole"
    assert not list((tmp_path / "content" / "incoming").iterdir())
    second.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_marks_of_another_boot_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    chance = Random(seed)
    monkeypatch.setattr(progress_module, "MARKS_MAX", 64)
    path = tmp_path / "progress"
    first = Progress(str(path))
    early = path.read_bytes()
    for gsn in range(1, 30):
        first.mark((gsn, 0))
    first.reset({(29, 0)})
    path.write_bytes(torn(chance, path.read_bytes(), early, b""))
    first.close()
    monkeypatch.setattr(progress_module, "boot_id", lambda: b"another boot".ljust(36))
    second = Progress(str(path))
    assert (second.survived, second.done, second.begun) == (False, set(), set())
    second.mark((31, 0))
    assert Progress(str(path)).done == {(31, 0)}


@pytest.mark.parametrize("left", ["nothing", "empty", "first sector"])
def test_a_node_does_not_forget_that_it_had_a_database(tmp_path: Path, left: str) -> None:
    """With an empty log it might vote twice."""
    Environment.open(str(tmp_path), ecosystem="crash", node="alone").close()
    data = tmp_path / "data.mdb"
    whole = data.read_bytes()
    data.unlink()
    if left != "nothing":
        data.write_bytes(b"" if left == "empty" else whole[:SECTOR])
    with pytest.raises(CorruptError):
        Environment.open(str(tmp_path), ecosystem="crash", node="alone")


@pytest.mark.parametrize("size", [0, 1, 30])
def test_a_note_of_the_owner_that_was_not_finished(tmp_path: Path, size: int) -> None:
    """It gets its name once it is whole; before, the database itself says whose it is."""
    Environment.open(str(tmp_path), ecosystem="crash", node="alone").close()
    note = tmp_path / "marker.json"
    whole = note.read_bytes()
    note.rename(tmp_path / "marker.json.new")
    (tmp_path / "marker.json.new").write_bytes(whole[:size])
    Environment.open(str(tmp_path), ecosystem="crash", node="alone").close()
    assert note.read_bytes() == whole
