"""What the doors are measured against: a plain aiohttp server that gives the files of a directory and takes new ones.

Run as a module: serves the directory that is named, and writes its port as one line.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiohttp import web

COMMAND = (sys.executable, "-m", "cluster.bench.static")
CHUNK_BYTES = 256 * 1024


async def _take(request: web.Request) -> web.Response:
    """Into a file, which is synced as lddp syncs what it acknowledges."""
    target = Path(request.app[DIRECTORY]) / Path(request.match_info["name"]).name
    with await asyncio.to_thread(open, target, "wb") as file:
        async for chunk in request.content.iter_chunked(CHUNK_BYTES):
            await asyncio.to_thread(file.write, chunk)
        file.flush()
        await asyncio.to_thread(os.fdatasync, file.fileno())
    return web.Response(status=201)


DIRECTORY = web.AppKey("directory", str)


async def _serve(directory: str) -> None:
    app = web.Application(client_max_size=0)
    app[DIRECTORY] = directory
    app.router.add_put("/files/{name}", _take)
    app.router.add_static("/files/", directory)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    sys.stdout.write(f"{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """`HOST:PORT` of a server in a process of its own."""
    process = subprocess.Popen([*COMMAND, str(directory)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
