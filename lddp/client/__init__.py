"""A client of an ecosystem for asyncio, over the nodes' HTTP API. It knows nothing of the node but that.

    async with Client.of_cluster("/tmp/lab") as client:
        written = await client.write("/notes/hello", b"hello")
        print(await client.read("/notes/hello"))

What it does for its user: it tries other nodes when one does not answer, until a deadline; it sends a change again
under the same operation id, so that it takes effect once; it reads what it has written, at whichever zone it asks; it
goes on with a download at another node behind the last byte that came. See `Client`.

The names below are loaded when they are first used, because some users of the modules in here, such as the commands,
must start fast and do not need all of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lddp.client.batches import Batch as Batch
    from lddp.client.batches import Result as Result
    from lddp.client.client import Client as Client
    from lddp.client.entries import Entry as Entry
    from lddp.client.entries import Written as Written
    from lddp.client.options import Options as Options
    from lddp.client.options import Progress as Progress
    from lddp.client.problems import FileError as FileError
    from lddp.client.settings import Settings as Settings

_MODULES = {
    "Batch": "lddp.client.batches",
    "Client": "lddp.client.client",
    "Entry": "lddp.client.entries",
    "FileError": "lddp.client.problems",
    "Options": "lddp.client.options",
    "Progress": "lddp.client.options",
    "Result": "lddp.client.batches",
    "Settings": "lddp.client.settings",
    "Written": "lddp.client.entries",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
