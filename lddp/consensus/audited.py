"""The one release of PySyncObj that was read line by line, loaded so that what was checked is what runs."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import CodeType, ModuleType, SimpleNamespace
from typing import Any

from lddp.errors import UsageError

_PACKAGE = "pysyncobj"
_ENCRYPTOR = "pysyncobj.encryptor"
_ENCRYPTION = "cryptography"
_SHA256 = {
    "syncobj.py": "e8bdf06797085d734df86e24ab4802fe87893dff77268565ec036f7ad4a1cfe4",
    "config.py": "fbbc7ff9f18e4d15a7fd563376e42f5bd192956879d4b810b056d5248b955698",
    "node.py": "e4a3f027cd8291f558334bb9c977e952f6b6989e7e1fa1588d3005ef0b990e2c",
    "fast_queue.py": "8477fe5fdf36d9766df933310d3d66ee953d1afc195b1e6482b3a1498fc517bd",
}

logger = logging.getLogger(__name__)


def load_raft(monotonic: Callable[[], float], create_journal: Callable[[Any], Any]) -> ModuleType:
    """PySyncObj's `syncobj` module as a private copy, with our clock and journal in the place of its own.

    A copy each, because these are module names in PySyncObj: two members in one process (tests, the simulator) have
    a clock and a journal each. Raises UsageError where the installed files are not the audited ones.
    """
    code, directory = audited_code()
    module = ModuleType(f"{_PACKAGE}.syncobj")
    module.__package__ = _PACKAGE
    module.__file__ = os.path.join(directory, "syncobj.py")
    with _without_its_encryption():
        exec(code, module.__dict__)
    names: dict[str, Any] = {
        "monotonicTime": monotonic,
        "createJournal": create_journal,
        "createPoller": lambda _kind: SimpleNamespace(poll=lambda _timeout: None),
        "Serializer": NoSnapshots,
        # Election times are ours; what PySyncObj draws for itself is never looked at.
        "random": SimpleNamespace(random=lambda: 0.5),
        "logger": _QuietLogger(logger),
    }
    for name, value in names.items():
        assert name in module.__dict__, f"PySyncObj has no {name}"
        setattr(module, name, value)
    return module


@contextmanager
def _without_its_encryption() -> Iterator[None]:
    """PySyncObj takes `cryptography` for its own transport where it is installed. Ours takes that one's place, so the
    import is only time: nine tenths of what it takes to load PySyncObj."""
    if _ENCRYPTOR in sys.modules or _ENCRYPTION in sys.modules:
        yield
        return
    sys.modules[_ENCRYPTION] = None  # type: ignore[assignment]  # importing it fails, as if it were not there
    try:
        yield
    finally:
        del sys.modules[_ENCRYPTION]


class NoSnapshots:
    """Takes the place of PySyncObj's snapshots, of which nothing is used."""

    def __init__(self, *_: object) -> None:
        pass

    def checkSerializing(self) -> tuple[int, None]:
        return 0, None

    def getTransmissionData(self, _node: object) -> None:
        return None

    def setTransmissionData(self, _data: object) -> bool:
        raise AssertionError("a snapshot arrived although such messages are rejected")

    def cancelTransmisstion(self, _node: object) -> None:
        pass


class _QuietLogger(logging.LoggerAdapter[logging.Logger]):
    """PySyncObj reports every overlap as a truncation of applied entries. Our journal truncates only what really
    conflicts, and stops the node before it would touch what is committed; so the report would be false."""

    def critical(self, msg: object, *args: object, **kwargs: Any) -> None:
        if not str(msg).startswith("truncating already-applied"):
            super().critical(msg, *args, **kwargs)


@cache
def audited_code() -> tuple[CodeType, str]:
    """The checked source of PySyncObj, compiled, and the directory of its package. Read once a process."""
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise UsageError("pysyncobj is not installed; install pysyncobj==0.3.17")
    directory = found.submodule_search_locations[0]
    source = b""
    for name, expected in _SHA256.items():
        with open(os.path.join(directory, name), "rb") as file:
            data = file.read()
        if hashlib.sha256(data).hexdigest() != expected:
            raise UsageError(f"{directory}/{name} is not the audited file; install pysyncobj==0.3.17")
        if name == "syncobj.py":
            source = data
    return compile(source, os.path.join(directory, "syncobj.py"), "exec"), directory
