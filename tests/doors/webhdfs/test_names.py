"""MKDIRS, RENAME, DELETE."""

from __future__ import annotations

import pytest

from lddp.core import records as r
from lddp.core.records import Record
from lddp.doors.webhdfs import directories, walking
from tests.doors.webhdfs.conftest import Client
from tests.doors.webhdfs.machine import MachineBackend

TRUE, FALSE = {"boolean": True}, {"boolean": False}


async def tree(http: Client, *paths: str) -> None:
    """Directories end with a slash."""
    for path in paths:
        if path.endswith("/"):
            assert (await http("PUT", f"{path}?op=MKDIRS")).document == TRUE
        else:
            assert (await http.create(path, path.encode())).status == 201


async def test_mkdirs(http: Client) -> None:
    assert (await http("PUT", "/data/a/b/c?op=mkdirs&permission=0700")).document == TRUE
    assert (await http.status("/data/a/b/c"))["permission"] == "700"
    assert (await http.status("/data/a"))["permission"] == "755"
    assert (await http("PUT", "/data/a/b/c?op=MKDIRS")).document == TRUE
    assert (await http("PUT", "/?op=MKDIRS")).document == TRUE
    await http.create("/data/x")
    assert (await http("PUT", "/data/x?op=MKDIRS")).error == (403, "FileAlreadyExistsException")
    assert (await http("PUT", "/data/x/y?op=MKDIRS")).error == (403, "ParentNotDirectoryException")
    assert (await http("PUT", "/data/x/y/z?op=MKDIRS")).error == (403, "ParentNotDirectoryException")
    assert (await http("PUT", "/none/y?op=MKDIRS")).error == (404, "FileNotFoundException")
    for wrong in ("8", "01777777", "rwx", "-1", "4755", "1.0"):
        assert (await http("PUT", f"/data/p?op=MKDIRS&permission={wrong}")).error == (400, "IllegalArgumentException")


# -- RENAME -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "to", "renamed"),
    [
        ("/data/f", "/data/new", "/data/new"),
        ("/data/f", "/data/new/", "/data/new"),
        ("/data/f", "/data/d", "/data/d/f"),
        ("/data/d", "/data/e", "/data/e/d"),
        ("/data/d", "/data/new", "/data/new"),
        ("/data/f", "/data/f", "/data/f"),
        ("/data/f", "/data/g", ""),
        ("/data/f", "/data/full", ""),
        ("/data/d", "/data/d", ""),
        ("/data/d", "/data/d/below", ""),
        ("/data/d", "/data/g", ""),
        ("/data/none", "/data/new", ""),
        ("/data/f", "/data/none/new", ""),
        ("/data/f", "/data/g/new", ""),
    ],
)
async def test_rename_without_options(http: Client, source: str, to: str, renamed: str) -> None:
    await tree(http, "/data/f", "/data/g", "/data/d/", "/data/e/", "/data/full/f")
    before = await http.status(source)
    answer = await http("PUT", f"{source}?op=RENAME&destination={to}")
    assert answer.document == (TRUE if renamed else FALSE)
    if renamed:
        assert (await http.status(renamed))["fileId"] == before["fileId"]
        assert renamed == source or await http.status(source) is None
    elif before:
        assert (await http.status(source))["fileId"] == before["fileId"]


@pytest.mark.parametrize(
    ("source", "to", "options", "expected"),
    [
        ("/data/f", "/data/new", "NONE", 200),
        ("/data/f", "/data/g", "NONE", (403, "FileAlreadyExistsException")),
        ("/data/f", "/data/g", "overwrite", 200),
        ("/data/f", "/data/g", "OVERWRITE,TO_TRASH", 200),
        ("/data/f", "/data/d", "NONE", (403, "FileAlreadyExistsException")),
        ("/data/f", "/data/d", "OVERWRITE", (403, "IOException")),
        ("/data/d", "/data/e", "OVERWRITE", 200),
        ("/data/d", "/data/full", "OVERWRITE", (403, "IOException")),
        ("/data/d", "/data/f", "OVERWRITE", (403, "IOException")),
        ("/data/f", "/data/f", "OVERWRITE", (403, "FileAlreadyExistsException")),
        ("/data/d", "/data/d/below", "NONE", (403, "IOException")),
        ("/data/none", "/data/new", "NONE", (404, "FileNotFoundException")),
        ("/data/f", "/data/none/new", "NONE", (404, "FileNotFoundException")),
        ("/data/f", "/data/g/new", "NONE", (403, "ParentNotDirectoryException")),
        ("/data/f", "/data/new", "SOMETHING", (400, "IllegalArgumentException")),
    ],
)
async def test_rename_with_options(
    http: Client, source: str, to: str, options: str, expected: int | tuple[int, str]
) -> None:
    await tree(http, "/data/f", "/data/g", "/data/d/", "/data/e/", "/data/full/f")
    before = await http.status(source)
    answer = await http("PUT", f"{source}?op=RENAME&destination={to}&renameoptions={options}")
    if expected == 200:
        assert (answer.status, answer.body) == (200, b"")
        assert (await http.status(to))["fileId"] == before["fileId"]
        assert await http.status(source) is None
    else:
        assert answer.error == expected
        assert not before or (await http.status(source))["fileId"] == before["fileId"]


async def test_rename_to_another_rule_is_an_error(http: Client, node: MachineBackend) -> None:
    node.add_rule("other", b"/other")
    await tree(http, "/data/f")
    for options in ("", "&renameoptions=NONE"):
        assert (await http("PUT", f"/data/f?op=RENAME&destination=/other/f{options}")).error == (403, "IOException")
    assert (await http("PUT", "/data?op=RENAME&destination=/data2")).document == FALSE
    assert (await http("PUT", "/data?op=RENAME&destination=/other")).error == (403, "IOException")


@pytest.mark.parametrize("destination", ["", "relative", "/", "/data/../x", "/data//x", "/data/%00", "/data/."])
async def test_a_destination_must_be_a_path(http: Client, destination: str) -> None:
    await tree(http, "/data/f")
    answer = await http("PUT", f"/data/f?op=RENAME&destination={destination}")
    assert answer.error == (400, "IllegalArgumentException")


# -- DELETE -----------------------------------------------------------------------------------------------------------


async def test_delete(http: Client) -> None:
    await tree(http, "/data/f", "/data/d/", "/data/full/f")
    assert (await http("DELETE", "/data/f?op=DELETE")).document == TRUE
    assert (await http("DELETE", "/data/f?op=DELETE")).document == FALSE
    assert (await http("DELETE", "/data/d?op=DELETE&recursive=False")).document == TRUE
    answer = await http("DELETE", "/data/full?op=DELETE")
    assert answer.error == (403, "PathIsNotEmptyDirectoryException")
    assert (await http("DELETE", "/data/full?op=DELETE&recursive=True")).document == TRUE
    assert await http.status("/data/full") is None
    for root in ("", "/", "/data"):
        assert (await http("DELETE", f"{root}?op=DELETE&recursive=true")).error == (403, "AccessControlException")


async def test_a_tree_is_deleted_from_below_in_batches(
    http: Client, node: MachineBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directories, "BATCH", 3)
    monkeypatch.setattr(walking, "PAGE", 2)
    paths = [f"/data/t/{one}/{two}/{three}" for one in range(3) for two in range(3) for three in "abc"]
    await tree(http, *paths, "/data/t/empty/", "/data/kept/x")
    await http("PUT", "/data/t/link?op=CREATESYMLINK&destination=/data/kept")
    node.order.clear()
    assert (await http("DELETE", "/data/t?op=DELETE&recursive=true")).document == TRUE
    assert await http.status("/data/t") is None
    assert (await http.status("/data/kept/x"))["length"] == 12
    removed = [record.path for record in node.order if isinstance(record, r.Remove)]
    assert removed.pop(0) == b"/data/t"  # the attempt that said it is not empty
    assert sorted(removed) == sorted(set(removed))
    for place, path in enumerate(removed):
        assert not any(later.startswith(path + b"/") for later in removed[place:])
    assert node.visibly[-1]


async def test_what_is_made_meanwhile_goes_too(http: Client, node: MachineBackend) -> None:
    await tree(http, "/data/t/a", "/data/t/b")
    made: list[Record] = []
    submit = node.submit_many

    async def late(records, timeout_s, *, visible=True):  # type: ignore[no-untyped-def]
        answers = await submit(records, timeout_s, visible=visible)
        if not visible and not made:
            made.append(r.Create(node.next_id(), 0, 1, b"/data/t/late", r.Kind.FILE, 0o600, 0, 0))
            node.apply(made[0])
        return answers

    node.submit_many = late  # type: ignore[method-assign]
    assert (await http("DELETE", "/data/t?op=DELETE&recursive=true")).document == TRUE
    assert made
    assert await http.status("/data/t") is None


async def test_a_tree_that_is_never_empty_is_told(http: Client, node: MachineBackend) -> None:
    await tree(http, "/data/t/a")
    submit = node.submit_many

    async def again(records, timeout_s, *, visible=True):  # type: ignore[no-untyped-def]
        answers = await submit(records, timeout_s, visible=visible)
        node.apply(r.Create(node.next_id(), 0, 1, b"/data/t/again", r.Kind.FILE, 0o600, 0, 0))
        return answers

    node.submit_many = again  # type: ignore[method-assign]
    answer = await http("DELETE", "/data/t?op=DELETE&recursive=true")
    assert answer.error == (403, "PathIsNotEmptyDirectoryException")
