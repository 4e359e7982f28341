"""Real programs on hayase's loop, over real sockets: aiohttp, uvicorn, anyio, websockets.

Only what every user of them does. Their own test-suites are another matter.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import textwrap
import urllib.request
from pathlib import Path

import pytest
from tls_peer import client_context, server_context

import hayase

aiohttp = pytest.importorskip("aiohttp", reason="the test group of pyproject.toml is not installed")
anyio = pytest.importorskip("anyio", reason="the test group of pyproject.toml is not installed")
websockets = pytest.importorskip("websockets", reason="the test group of pyproject.toml is not installed")

BOTH_WAYS = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])

PACKAGE_HOME = str(Path(hayase.__file__).parent.parent)


@BOTH_WAYS
def test_an_aiohttp_server_answers_an_aiohttp_client(tls: bool) -> None:
    from aiohttp import web

    async def shout(request: web.Request) -> web.Response:
        return web.Response(text=(await request.text()).upper())

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(100):
            await response.write(b"x" * 10_000)
        await response.write_eof()
        return response

    async def main() -> tuple[list[str], int]:
        assert isinstance(asyncio.get_running_loop(), hayase.EventLoop)
        app = web.Application()
        app.add_routes([web.post("/shout", shout), web.get("/stream", stream)])
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_context() if tls else None)
        await site.start()
        address = "{}://{}:{}".format("https" if tls else "http", *runner.addresses[0][:2])
        connector = aiohttp.TCPConnector(ssl=client_context() if tls else True)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def ask(number: int) -> str:
                async with session.post(f"{address}/shout", data=f"hello {number}") as response:
                    assert response.status == 200
                    return await response.text()

            answers = await asyncio.gather(*[ask(number) for number in range(20)])
            async with session.get(f"{address}/stream") as response:
                body = await response.read()
        await runner.cleanup()
        return answers, len(body)

    answers, length = hayase.run(main())
    assert answers == [f"HELLO {number}" for number in range(20)]
    assert length == 1_000_000


def test_uvicorn_serves_on_the_loop_it_is_told(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn", reason="the test group of pyproject.toml is not installed")
    (tmp_path / "program.py").write_text(
        textwrap.dedent("""
            import asyncio

            async def app(scope, receive, send):
                if scope["type"] == "lifespan":
                    while True:
                        event = await receive()
                        await send({"type": event["type"] + ".complete"})
                        if event["type"] == "lifespan.shutdown":
                            return
                loop = type(asyncio.get_running_loop())
                body = f"{loop.__module__} {scope['path']}".encode()
                headers = [(b"content-length", str(len(body)).encode())]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": body})
        """)
    )
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(50)
        listening.set_inheritable(True)
        command = [sys.executable, "-m", "uvicorn", "program:app", "--loop", "hayase:new_event_loop"]
        command += ["--fd", str(listening.fileno()), "--no-access-log"]
        search = os.pathsep.join(filter(None, [PACKAGE_HOME, os.environ.get("PYTHONPATH")]))
        server = subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": search},
            pass_fds=[listening.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            # The listening socket is ours, so a request waits in its backlog until the server is up.
            for path in ("/first", "/second"):
                url = f"http://127.0.0.1:{listening.getsockname()[1]}{path}"
                with urllib.request.urlopen(url, timeout=40) as answer:
                    assert answer.read().decode() == f"hayase.events {path}"
        finally:
            server.terminate()
            output, _ = server.communicate(timeout=20)
    assert "Finished server process" in output, output


def test_anyio_runs_with_its_task_groups_threads_and_streams() -> None:
    async def main() -> tuple[list[int], int, bytes]:
        seen: list[int] = []

        async def work(number: int) -> None:
            await anyio.sleep(0.001 * (5 - number))
            seen.append(number)

        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(work, number)
        in_thread = await anyio.to_thread.run_sync(lambda: anyio.from_thread.run_sync(lambda: 42))
        with anyio.move_on_after(0.01) as scope:
            await anyio.sleep(10)
        assert scope.cancelled_caught

        async def echo(client: anyio.abc.SocketStream) -> None:
            async with client:
                await client.send(await client.receive())

        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, echo)
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(b"around")
                received = await stream.receive()
            group.cancel_scope.cancel()
        await listener.aclose()
        return seen, in_thread, received

    options = {"loop_factory": hayase.new_event_loop}
    seen, in_thread, received = anyio.run(main, backend="asyncio", backend_options=options)
    assert sorted(seen) == [0, 1, 2, 3, 4]
    assert (in_thread, received) == (42, b"around")


@BOTH_WAYS
def test_websockets_talk_both_ways(tls: bool) -> None:
    from websockets.asyncio.client import connect
    from websockets.asyncio.server import serve

    async def main() -> list[str | bytes]:
        async def echo(connection: websockets.asyncio.server.ServerConnection) -> None:
            async for message in connection:
                await connection.send(message)

        async with serve(echo, "127.0.0.1", 0, ssl=server_context() if tls else None) as server:
            port = server.sockets[0].getsockname()[1]
            scheme, context = ("wss", client_context()) if tls else ("ws", None)
            async with connect(f"{scheme}://127.0.0.1:{port}", ssl=context) as connection:
                await connection.send("text")
                await connection.send(b"b" * 300_000)
                answers = [await connection.recv(), await connection.recv()]
                await (await connection.ping())
        return answers

    assert hayase.run(main()) == ["text", b"b" * 300_000]
