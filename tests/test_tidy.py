"""House rules that a machine can hold."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lddp"
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
ENTRIES = ("lddp.cli.main", "lddp.client", "lddp.doors.fsspec")
"""Where programs begin, also those of others. What an entry imports by name only when it is used counts as imported."""

BANNED_IN_CORE = {"os", "io", "time", "random", "secrets", "asyncio", "logging", "socket", "threading", "datetime"}
# Written in pieces, so that this file obeys its own rule.
BANNED_WORDS = ("Anth" + "ropic", "Clau" + "de", "Chat" + "GPT", "Open" + "AI", "Co" + "pilot")
BANNED_PATHS = ("/work" + "/", "/root" + "/")
BANNED_TEXT = re.compile("|".join((*BANNED_WORDS, *BANNED_PATHS)), re.IGNORECASE)
TEXT_SUFFIXES = {".py", ".md", ".toml", ".sh", ".txt", ".service", ".json", ".yml", ".yaml", ".cfg", ".html", ""}
SKIPPED = {"build", "dist", "__pycache__", "lddp.egg-info"}
SHOWN_DOTFILES = {".ci", ".gitignore"}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def texts() -> Iterator[Path]:
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden = any(part in SKIPPED or (part.startswith(".") and part not in SHOWN_DOTFILES) for part in parts)
        if not hidden and path.is_file() and path.suffix in TEXT_SUFFIXES:
            yield path


@pytest.mark.parametrize("path", sources(), ids=label)
def test_files_and_functions_are_short(path: Path) -> None:
    lines = path.read_text("utf-8").count("\n")
    assert lines < FILE_LINES_MAX, f"{label(path)} has {lines} lines; split it by idea"
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            assert length < FUNCTION_LINES_MAX, f"{label(path)}:{node.lineno} {node.name} has {length} lines"


@pytest.mark.parametrize("path", sources(), ids=label)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(tree_of(path)), f"{label(path)} has no docstring"


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Absolute names of what a file imports, `from a import b` as both `a` and `a.b`."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{label(path)}:{node.lineno} imports relatively"
            module = node.module or ""
            yield module, node.lineno
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").rglob("*.py")), ids=label)
def test_the_core_is_pure(path: Path) -> None:
    for name, line in imports(path):
        assert name.partition(".")[0] not in BANNED_IN_CORE, f"{label(path)}:{line} imports {name}"
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"open", "input", "hash", "id"}, f"{label(path)}:{node.lineno} {node.func.id}()"


def is_swallowing(handler: ast.ExceptHandler) -> bool:
    broad = isinstance(handler.type, ast.Name) and handler.type.id in ("Exception", "BaseException")
    return broad and all(isinstance(one, ast.Pass | ast.Continue) for one in handler.body)


@pytest.mark.parametrize("path", sources(), ids=label)
def test_no_exception_is_swallowed(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{label(path)}:{node.lineno} has a bare except"
            assert not is_swallowing(node), f"{label(path)}:{node.lineno} swallows every exception"
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            names = {ast.unparse(argument) for argument in node.args}
            assert not names & {"Exception", "BaseException"}, f"{label(path)}:{node.lineno} suppresses everything"


@pytest.mark.parametrize("path", sources(), ids=label)
def test_only_commands_print(path: Path) -> None:
    if (PACKAGE / "cli") in path.parents:
        return
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{label(path)}:{node.lineno} prints"


def test_every_note_to_do_something_has_an_owner() -> None:
    note = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b(?!\([a-z][\w.@-]*\))")
    found = [
        f"{label(path)}:{number}"
        for path in texts()
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1)
        if note.search(line)
    ]
    assert not found


def test_no_text_names_a_tool_or_a_machine() -> None:
    found = [
        f"{label(path)}:{number}"
        for path in texts()
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1)
        if BANNED_TEXT.search(line)
    ]
    assert not found


def named_in_strings(path: Path) -> Iterator[str]:
    """Modules that are imported by name."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("lddp."):
            yield node.value


def test_no_module_is_dead() -> None:
    """Everything in the package is imported, directly or not, by a program's entry."""
    by_name = {module_of(path): path for path in sources()}
    reached: set[str] = set()
    ahead = [*ENTRIES]
    while ahead:
        name = ahead.pop()
        if name not in by_name or name in reached:
            continue
        reached.add(name)
        parent = name.rpartition(".")[0]
        ahead += [parent, *(imported for imported, _ in imports(by_name[name]))]
        if name in ENTRIES:
            ahead += named_in_strings(by_name[name])
    packages = {name for name, path in by_name.items() if path.name == "__init__.py"}
    assert not sorted(by_name.keys() - reached - packages)


def test_the_top_of_the_repository_holds_what_it_should() -> None:
    allowed = {
        "README.md",
        "LICENSE",
        "pyproject.toml",
        "lddp",
        "tests",
        "cluster",
        "scripts",
        "uv.lock",
        "lddp.egg-info",
    }
    visible = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert not visible - allowed


@pytest.mark.parametrize("path", sorted([*(ROOT / "scripts").iterdir(), ROOT / ".ci" / "run"]), ids=label)
def test_scripts_parse_and_can_be_run(path: Path) -> None:
    if path.suffix not in ("", ".sh"):
        return
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert path.suffix == ".sh" or os.access(path, os.X_OK), f"{label(path)} is not executable"


def test_python_is_new_enough() -> None:
    assert sys.version_info >= (3, 11)
