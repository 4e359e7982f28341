"""TCP: `create_server` and its servers, and asyncio's own streams over them."""

from __future__ import annotations

import asyncio
import errno
import re
import socket
import sys

import pytest
from recording import Recording, connected, payload

since_3_12 = pytest.mark.skipif(sys.version_info < (3, 12), reason="came with 3.12")
since_3_13 = pytest.mark.skipif(sys.version_info < (3, 13), reason="came with 3.13")


# Serving -------------------------------------------------------------------------------------------------------------


async def serve(loop, factory=Recording, host="127.0.0.1", port=0, **kwargs):
    server = await loop.create_server(factory, host, port, **kwargs)
    return server, server.sockets[0].getsockname()[:2] if server.sockets else None


def test_a_server_knows_its_sockets_and_its_state(loop, run):
    async def main():
        server, address = await serve(loop)
        assert isinstance(server, asyncio.AbstractServer)
        assert server.is_serving()
        assert server.get_loop() is loop
        assert address[1] != 0
        assert isinstance(server.sockets, tuple)
        assert all(isinstance(sock, asyncio.trsock.TransportSocket) for sock in server.sockets)
        assert re.match(r"<Server sockets=\(", repr(server))
        server.close()
        assert not server.is_serving()
        assert server.sockets == ()
        server.close()
        await server.wait_closed()

    run(main())


def test_a_closed_server_refuses_connections(loop, run):
    async def main():
        server, address = await serve(loop)
        server.close()
        await server.wait_closed()
        with pytest.raises(ConnectionRefusedError):
            await loop.create_connection(Recording, *address)

    run(main())


def test_a_server_can_listen_on_many_addresses(loop, run):
    async def main():
        server = await loop.create_server(Recording, ["127.0.0.1", "127.0.0.2", "::1"], 0)
        assert {sock.getsockname()[0] for sock in server.sockets} == {"127.0.0.1", "127.0.0.2", "::1"}
        for sock in server.sockets:
            transport, _ = await loop.create_connection(Recording, *sock.getsockname()[:2])
            transport.abort()
        server.close()

    run(main())


def test_a_server_on_every_interface_listens_on_both_families(loop, run):
    async def main():
        server = await loop.create_server(Recording, None, 0)
        assert {sock.family for sock in server.sockets} == {socket.AF_INET, socket.AF_INET6}
        server.close()

    run(main())


def test_a_listening_socket_can_be_given(loop, run):
    async def main():
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        address = listening.getsockname()
        server = await loop.create_server(Recording, sock=listening)
        assert server.sockets[0].getsockname() == address
        transport, _ = await loop.create_connection(Recording, *address)
        transport.abort()
        server.close()
        assert listening.fileno() == -1

    run(main())


def test_an_address_in_use_is_an_error_that_names_it_and_leaves_nothing_open(same_as_asyncio):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        def story(loop):
            loop.run_until_complete(loop.create_server(Recording, ["127.0.0.2", "127.0.0.1"], port))

        outcome = same_as_asyncio(story)
        assert issubclass(outcome.error[0], OSError)
        assert f"error while attempting to bind on address ('127.0.0.1', {port})" in outcome.error[1]


def test_several_servers_can_share_a_port_with_reuse_port(loop, run):
    async def main():
        first, address = await serve(loop, reuse_port=True)
        second, _ = await serve(loop, port=address[1], reuse_port=True)
        assert second.sockets[0].getsockname()[:2] == address
        first.close()
        second.close()

    run(main())


def test_socket_options_are_set_as_asked(loop, run):
    async def main():
        server, _ = await serve(loop)
        assert server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1
        server.close()
        server, _ = await serve(loop, reuse_address=False)
        assert server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0
        server.close()
        if sys.version_info >= (3, 13):
            server, _ = await serve(loop, keep_alive=True)
            assert server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            server.close()

    run(main())


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"host": "127.0.0.1", "port": 0, "sock": "stream"},
        {"sock": "datagram"},
        {"host": "127.0.0.1", "port": 0, "ssl": True},
        {"host": "127.0.0.1", "port": 0, "ssl_handshake_timeout": 1},
        {"host": "127.0.0.1", "port": 0, "ssl_shutdown_timeout": 1},
        {"host": "no such host.invalid", "port": 0, "flags": socket.AI_NUMERICHOST},
    ],
    ids=lambda kwargs: ",".join(kwargs) or "nothing",
)
def test_wrong_arguments_of_create_server_are_refused_as_asyncio_refuses_them(same_as_asyncio, kwargs):
    def story(loop):
        given = dict(kwargs)
        with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram:
            if "sock" in given:
                given["sock"] = {"stream": stream, "datagram": datagram}[given["sock"]]
            try:
                loop.run_until_complete(loop.create_server(asyncio.Protocol, **given))
            except ValueError as error:
                raise ValueError(re.sub(r"<socket\.socket.*>", "<socket>", str(error))) from None

    assert same_as_asyncio(story).error is not None


def test_a_server_can_start_serving_later(loop, run):
    async def main():
        server, address = await serve(loop, start_serving=False)
        assert not server.is_serving()
        client = socket.socket()
        client.setblocking(False)
        assert client.connect_ex(address) in (0, errno.EINPROGRESS, errno.ECONNREFUSED)
        client.close()
        await server.start_serving()
        await server.start_serving()
        assert server.is_serving()
        transport, _ = await loop.create_connection(Recording, *address)
        transport.abort()
        server.close()

    run(main())


def test_serve_forever_serves_until_it_is_cancelled(loop, run):
    async def main():
        server, address = await serve(loop, start_serving=False)
        serving = loop.create_task(server.serve_forever())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="is already being awaited on serve_forever"):
            await server.serve_forever()
        transport, protocol = await loop.create_connection(Recording, *address)
        transport.abort()
        await protocol.closed
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert not server.is_serving()
        with pytest.raises(RuntimeError, match="is closed"):
            await server.serve_forever()
        await server.wait_closed()

    run(main())


def test_a_server_is_an_async_context_manager(loop, run):
    async def main():
        async with (await serve(loop))[0] as server:
            assert server.is_serving()
        assert not server.is_serving()

    run(main())


@since_3_12
def test_wait_closed_waits_for_the_connections(loop, run):
    async def main():
        accepted = loop.create_future()

        def factory():
            protocol = Recording()
            accepted.set_result(protocol)
            return protocol

        server, address = await serve(loop, factory)
        _, near = await loop.create_connection(Recording, *address)
        far = await accepted
        server.close()
        waiting = [loop.create_task(server.wait_closed()) for _ in range(3)]
        for _ in range(10):
            await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        near.transport.write(b"still open")
        assert await far.received(10) == b"still open"
        near.transport.close()
        await asyncio.wait(waiting)
        assert far.closed.done()
        await server.wait_closed()

    run(main())


@since_3_13
@pytest.mark.parametrize("how", ["close_clients", "abort_clients"])
def test_a_server_can_end_its_connections(loop, run, how):
    async def main():
        far = []

        def factory():
            far.append(Recording())
            return far[-1]

        server, address = await serve(loop, factory)
        near = [(await loop.create_connection(Recording, *address))[1] for _ in range(5)]
        for protocol in near:
            protocol.transport.write(b"x")
        for protocol in far:
            await protocol.received(1)
        server.close()
        getattr(server, how)()
        await server.wait_closed()
        for protocol in (*near, *far):
            await protocol.closed

    run(main())


def test_two_hundred_clients_are_served_at_once(loop, run):
    async def main():
        async def double(reader, writer):
            line = await reader.readline()
            writer.write(line * 2)
            writer.close()

        server = await asyncio.start_server(double, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()

        async def client(number):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"%d\n" % number)
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            return answer

        answers = await asyncio.gather(*(client(n) for n in range(200)))
        assert answers == [b"%d\n%d\n" % (n, n) for n in range(200)]
        server.close()
        await server.wait_closed()

    run(main())


# Streams -------------------------------------------------------------------------------------------------------------


def test_streams_read_what_they_are_asked_for(loop, run):
    async def main():
        talked = asyncio.Event()

        async def talk(reader, writer):
            writer.write(b"line one\nline two\nexactly" + b"until;rest of it")
            writer.write_eof()
            await reader.read()
            writer.close()
            talked.set()

        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await reader.readline() == b"line one\n"
        assert await reader.readuntil(b"\n") == b"line two\n"
        assert await reader.readexactly(7) == b"exactly"
        assert await reader.readuntil(b";") == b"until;"
        assert await reader.read(4) == b"rest"
        with pytest.raises(asyncio.IncompleteReadError) as caught:
            await reader.readexactly(100)
        assert caught.value.partial == b" of it"
        assert await reader.read() == b""
        assert reader.at_eof()
        assert isinstance(writer.transport, asyncio.Transport)
        assert writer.get_extra_info("peername") == server.sockets[0].getsockname()
        assert writer.can_write_eof()
        writer.close()
        await writer.wait_closed()
        assert writer.is_closing()
        # 3.11's Server.wait_closed does not wait for connections, and its streams report a cancelled handler.
        await talked.wait()
        server.close()
        await server.wait_closed()

    run(main())


def test_a_stream_much_longer_than_its_limit_flows_through_whole(loop, run):
    data = payload(6_000_000)

    async def main():
        got = loop.create_future()

        async def collect(reader, writer):
            parts = []
            while part := await reader.read(50_000):
                parts.append(part)
            got.set_result(b"".join(parts))
            writer.close()

        server = await asyncio.start_server(collect, "127.0.0.1", 0, limit=1000)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for start in range(0, len(data), 123_457):
            writer.write(data[start : start + 123_457])
            await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert await got == data
        server.close()

    run(main())


def test_the_sendfile_of_the_loop_sends_a_file(loop, run, tmp_path):
    data = payload(700_000)
    path = tmp_path / "file"
    path.write_bytes(data)

    async def main():
        async with connected() as (near, far):
            near.transport.write(b"head")
            with path.open("rb") as file:
                assert await loop.sendfile(near.transport, file) == len(data)
                assert await loop.sendfile(near.transport, file, offset=10, count=20) == 20
            near.transport.write(b"tail")
            assert await far.received(len(data) + 28) == b"head" + data + data[10:30] + b"tail"

    run(main())
