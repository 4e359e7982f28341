"""HTTP servers that people run: a small answer to 50 keep-alive connections.

The packages are imported where they are used: only the process that serves with one needs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from benchmarks.case import Announce, Case, Served

BODY = b"Hello, World!"
CONNECTIONS = 50
START_POLL_SECONDS = 0.005


async def serve_uvicorn(announce: Announce) -> None:
    import uvicorn

    async def app(
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(BODY)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": BODY})

    # The loop is the Runner's, and uvicorn's own choice of a loop is never asked: serve() runs inside it.
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, lifespan="off", ws="none", access_log=False, log_level="warning"
    )
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server.serve())
    while not server.started and not serving.done():
        await asyncio.sleep(START_POLL_SECONDS)
    if server.started:
        announce(server.servers[0].sockets[0].getsockname()[1])
    await serving


async def serve_aiohttp(announce: Announce) -> None:
    from aiohttp import web

    async def hello(request: web.Request) -> web.Response:
        return web.Response(body=BODY, content_type="text/plain")

    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    announce(runner.addresses[0][1])
    await asyncio.Event().wait()


CASES: tuple[Case, ...] = (
    Served("http_uvicorn", "Web", serve_uvicorn, "http", CONNECTIONS, len(BODY), native=False),
    Served("http_aiohttp", "Web", serve_aiohttp, "http", CONNECTIONS, len(BODY), native=False),
)
