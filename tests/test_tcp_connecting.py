"""TCP: `create_connection`, with its addresses, names, races and refusals."""

from __future__ import annotations

import asyncio
import re
import socket
import sys

import pytest
from recording import Recording, connected

since_3_12 = pytest.mark.skipif(sys.version_info < (3, 12), reason="came with 3.12")


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_a_refused_connection_is_an_error_and_leaves_nothing_open(same_as_asyncio):
    port = free_port()

    def story(loop):
        loop.run_until_complete(loop.create_connection(asyncio.Protocol, "127.0.0.1", port))

    assert same_as_asyncio(story).error[0] is ConnectionRefusedError


def test_several_refused_addresses_are_one_error(same_as_asyncio):
    port = free_port()

    def story(loop):
        async def getaddrinfo(host, port_, **kwargs):
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", port)) for n in (1, 2, 3)]

        loop.getaddrinfo = getaddrinfo
        loop.run_until_complete(loop.create_connection(asyncio.Protocol, "several", port))

    outcome = same_as_asyncio(story)
    assert issubclass(outcome.error[0], OSError)
    assert "127.0.0.3" in outcome.error[1]


@since_3_12
def test_all_errors_gives_a_group(loop, run):
    port = free_port()

    async def getaddrinfo(host, port_, **kwargs):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", port)) for n in (1, 2)]

    loop.getaddrinfo = getaddrinfo
    with pytest.raises(ExceptionGroup, match="create_connection failed") as caught:
        run(loop.create_connection(asyncio.Protocol, "several", port, all_errors=True))
    assert [type(error) for error in caught.value.exceptions] == [ConnectionRefusedError] * 2


def test_the_second_address_is_tried_when_the_first_refuses(loop, run):
    async def main():
        server = await loop.create_server(Recording, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        refused = free_port()
        original = loop.getaddrinfo

        async def getaddrinfo(host, port_, **kwargs):
            if host != "two":
                return await original(host, port_, **kwargs)
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", refused)),
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
            ]

        loop.getaddrinfo = getaddrinfo
        for delay in (None, 0.25, 0):
            transport, _ = await loop.create_connection(Recording, "two", port, happy_eyeballs_delay=delay)
            assert transport.get_extra_info("peername")[1] == port
            transport.abort()
        server.close()

    run(main())


def test_happy_eyeballs_races_both_families_on_loopback(loop, run):
    async def main():
        server = await loop.create_server(Recording, ["127.0.0.1", "::1"], 0)
        port = next(s.getsockname()[1] for s in server.sockets if s.family == socket.AF_INET)
        closed_on_six = all(s.getsockname()[1] != port for s in server.sockets if s.family == socket.AF_INET6)

        async def getaddrinfo(host, port_, **kwargs):
            return [
                (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
            ]

        original, loop.getaddrinfo = loop.getaddrinfo, getaddrinfo
        transport, _ = await loop.create_connection(Recording, "both", port, happy_eyeballs_delay=0.25, interleave=1)
        if closed_on_six:
            assert transport.get_extra_info("peername")[0] == "127.0.0.1"
        transport.abort()
        loop.getaddrinfo = original
        server.close()

    run(main())


def test_a_connection_over_ipv6_works(loop, run):
    async def main():
        server = await loop.create_server(lambda: Recording(), "::1", 0)
        address = server.sockets[0].getsockname()
        transport, _ = await loop.create_connection(Recording, *address[:2])
        assert transport.get_extra_info("peername")[:2] == address[:2]
        assert len(transport.get_extra_info("sockname")) == 4
        transport.abort()
        server.close()

    run(main())


def test_a_local_address_can_be_chosen(loop, run):
    async def main():
        async with connected(local_addr=("127.0.0.9", 0)) as (near, far):
            assert near.transport.get_extra_info("sockname")[0] == "127.0.0.9"
            assert far.transport.get_extra_info("peername")[0] == "127.0.0.9"

    run(main())


def test_a_local_address_that_is_taken_is_named_in_the_error(same_as_asyncio):
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as target:
        address, there = taken.getsockname(), target.getsockname()

        def story(loop):
            loop.run_until_complete(loop.create_connection(asyncio.Protocol, *there, local_addr=address))

        outcome = same_as_asyncio(story)
        assert issubclass(outcome.error[0], OSError)
        assert "error while attempting to bind on address" in outcome.error[1]


def test_a_connected_socket_can_be_given(loop, run):
    async def main():
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        transport, protocol = await loop.create_connection(Recording, sock=ours)
        theirs.send(b"through a given socket")
        assert await protocol.received(22) == b"through a given socket"
        transport.close()
        await protocol.closed
        assert ours.fileno() == -1
        theirs.close()

    run(main())


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"host": "127.0.0.1", "port": 1, "sock": "sock"},
        {"sock": "datagram"},
        {"host": "127.0.0.1", "port": 1, "ssl_handshake_timeout": 1},
        {"host": "127.0.0.1", "port": 1, "ssl_shutdown_timeout": 1},
        {"host": "127.0.0.1", "port": 1, "server_hostname": "name"},
        {"host": "127.0.0.1", "port": 1, "local_addr": ("not an address", 0)},
    ],
    ids=lambda kwargs: ",".join(kwargs) or "nothing",
)
def test_wrong_arguments_of_create_connection_are_refused_as_asyncio_refuses_them(same_as_asyncio, kwargs):
    def story(loop):
        given = dict(kwargs)
        with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram:
            if "sock" in given:
                given["sock"] = {"sock": stream, "datagram": datagram}[given["sock"]]
            if "local_addr" in given:

                async def getaddrinfo(host, port, **kw):
                    if host == "not an address":
                        return []
                    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]

                loop.getaddrinfo = getaddrinfo
            try:
                loop.run_until_complete(loop.create_connection(asyncio.Protocol, **given))
            except ValueError as error:
                # The text names the socket, whose descriptor differs.
                raise ValueError(re.sub(r"<socket\.socket.*>", "<socket>", str(error))) from None

    assert same_as_asyncio(story).error is not None


def test_a_name_without_addresses_is_an_error(same_as_asyncio):
    def story(loop):
        async def getaddrinfo(host, port, **kwargs):
            return []

        loop.getaddrinfo = getaddrinfo
        loop.run_until_complete(loop.create_connection(asyncio.Protocol, "nowhere", 80))

    assert same_as_asyncio(story).error == (OSError, "getaddrinfo() returned empty list")


def test_a_cancelled_connect_leaves_nothing_open(loop, run):
    async def main():
        # A full backlog keeps further connects waiting.
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        others = []
        for _ in range(4):
            other = socket.socket()
            other.setblocking(False)
            other.connect_ex(address)
            others.append(other)
        connecting = loop.create_task(loop.create_connection(Recording, *address))
        for _ in range(5):
            await asyncio.sleep(0)
        connecting.cancel()
        await asyncio.wait([connecting])
        assert connecting.cancelled()
        for sock in (listening, *others):
            sock.close()

    run(main())


def test_the_protocol_factory_that_raises_leaves_nothing_open(loop, run):
    def broken():
        raise ZeroDivisionError("in the factory")

    async def main():
        server = await loop.create_server(Recording, "127.0.0.1", 0)
        with pytest.raises(ZeroDivisionError):
            await loop.create_connection(broken, *server.sockets[0].getsockname())
        server.close()
        await server.wait_closed()

    run(main())


def test_the_transport_is_returned_after_connection_made(loop, run):
    order = []

    class Ordered(Recording):
        def connection_made(self, transport):
            super().connection_made(transport)
            order.append("made")

    async def main():
        server = await loop.create_server(Recording, "127.0.0.1", 0)
        transport, protocol = await loop.create_connection(Ordered, *server.sockets[0].getsockname())
        order.append("returned")
        assert protocol.transport is transport
        transport.abort()
        server.close()

    run(main())
    assert order == ["made", "returned"]


def test_an_accepted_socket_can_be_connected(loop, run):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as listening:
            client = socket.create_connection(listening.getsockname())
            accepted, _ = listening.accept()
        transport, protocol = await loop.connect_accepted_socket(Recording, accepted)
        client.sendall(b"accepted elsewhere")
        assert await protocol.received(18) == b"accepted elsewhere"
        transport.write(b"answer")
        transport.close()
        await protocol.closed
        assert client.recv(100) == b"answer"
        client.close()

    run(main())


def test_a_datagram_socket_is_refused_as_an_accepted_one(same_as_asyncio):
    def story(loop):
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            try:
                loop.run_until_complete(loop.connect_accepted_socket(asyncio.Protocol, sock))
            except ValueError as error:
                raise ValueError(re.sub(r"<socket\.socket.*>", "<socket>", str(error))) from None

    assert same_as_asyncio(story).error[0] is ValueError
