"""TLS with peers that break its rules, leave, or never end: garbage, cut handshakes, certificates that are no good."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import socket
import ssl
import subprocess

import pytest
from recording import Recording, payload
from tls_peer import client_context, peer_of_client, peer_of_server, server_context, tls_connected

# Everything here, with each of hayase's engines.
pytestmark = pytest.mark.usefixtures("engine")


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 100, b"\x16\x03\x01\xff\xff" + b"x" * 70_000])
def test_garbage_instead_of_a_client_hello_ends_that_connection_alone(run, garbage):
    async def main():
        async with peer_of_server() as (peer, made):
            with contextlib.suppress(ConnectionError):
                await peer.send_raw(garbage)
                await peer.end_of_stream()
            protocol = await made
            assert protocol.events == []

    run(main())


def test_garbage_from_a_server_is_an_ssl_error(same_as_asyncio):
    def story(loop):
        async def main():
            async with peer_of_client() as (address, accepted):
                connecting = asyncio.ensure_future(loop.create_connection(Recording, *address, ssl=client_context()))
                peer = await accepted
                await peer.receive_more()
                await peer.send_raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                try:
                    await connecting
                except ssl.SSLError as error:
                    return type(error).__name__, error.reason

        return loop.run_until_complete(main())

    assert same_as_asyncio(story).value[0] == "SSLError"


def test_records_that_arrive_byte_by_byte_are_understood(run):
    async def main():
        async with peer_of_server() as (peer, made):
            await peer.handshake(pieces_of=1)
            await peer.write(b"slowly", pieces_of=1)
            protocol = await made
            assert await protocol.received(6) == b"slowly"
            protocol.transport.write(b"answer")
            assert await peer.read(6) == b"answer"

    run(main())


@pytest.mark.parametrize("way", ["cut", "changed"])
def test_a_damaged_handshake_ends_that_connection_alone(run, loop, way):
    reports = []
    loop.set_exception_handler(lambda loop, context: reports.append(context))

    async def main():
        choose = random.Random(5)
        for _ in range(30):
            async with peer_of_server() as (peer, made):
                with contextlib.suppress(ssl.SSLWantReadError):
                    peer.tls.do_handshake()
                hello = bytearray(peer.outgoing.read())
                place = choose.randrange(len(hello))
                if way == "cut":
                    del hello[place:]
                else:
                    hello[place] ^= 1 << choose.randrange(8)
                with contextlib.suppress(ConnectionError):
                    await peer.send_raw(bytes(hello))
                    peer.sock.shutdown(socket.SHUT_WR)
                    await peer.end_of_stream()
                assert (await made).events == []
        # The next one finds everything in order.
        async with tls_connected() as (near, far):
            near.transport.write(b"fine")
            assert await far.received(4) == b"fine"

    run(main())
    assert reports == []


def test_damaged_records_end_that_connection_with_an_error(run, loop):
    async def main():
        choose = random.Random(6)
        for _ in range(20):
            async with peer_of_server() as (peer, made):
                await peer.handshake()
                protocol = await made
                await protocol.connected
                peer.tls.write(b"x" * choose.randrange(1, 20_000))
                record = bytearray(peer.outgoing.read())
                # Past the header: a longer record would be waited for.
                record[choose.randrange(5, len(record))] ^= 1 << choose.randrange(8)
                with contextlib.suppress(ConnectionError):
                    await peer.send_raw(bytes(record))
                assert isinstance(await protocol.closed, ssl.SSLError)
                assert len(protocol.data) % 16384 == 0

    run(main())


def test_a_handshake_that_never_ends_times_out_on_the_client(same_as_asyncio):
    def story(loop):
        async def main():
            async with peer_of_client() as (address, _):
                await loop.create_connection(Recording, *address, ssl=client_context(), ssl_handshake_timeout=0.05)

        loop.run_until_complete(main())

    assert same_as_asyncio(story).error == (
        ConnectionAbortedError,
        "SSL handshake is taking longer than 0.05 seconds: aborting the connection",
    )


def test_a_handshake_that_never_ends_times_out_on_the_server(run):
    async def main():
        async with peer_of_server(ssl_handshake_timeout=0.05) as (peer, made):
            await peer.send_raw(b"\x16\x03\x01")
            with contextlib.suppress(ConnectionError):
                await peer.end_of_stream()
            assert (await made).events == []

    run(main())


def test_a_reset_in_the_handshake_is_the_clients_error(same_as_asyncio):
    def story(loop):
        async def main():
            async with peer_of_client() as (address, accepted):
                connecting = asyncio.ensure_future(loop.create_connection(Recording, *address, ssl=client_context()))
                peer = await accepted
                await peer.receive_more()
                peer.reset()
                await connecting

        loop.run_until_complete(main())

    assert same_as_asyncio(story).error[0] is ConnectionResetError


def test_the_end_of_the_stream_in_the_handshake_is_a_reset(same_as_asyncio):
    def story(loop):
        async def main():
            async with peer_of_client() as (address, accepted):
                connecting = asyncio.ensure_future(loop.create_connection(Recording, *address, ssl=client_context()))
                peer = await accepted
                await peer.receive_more()
                peer.sock.close()
                await connecting

        loop.run_until_complete(main())

    assert same_as_asyncio(story).error[0] is ConnectionResetError


def test_a_stream_that_ends_without_close_notify_is_an_end(same_as_asyncio):
    def story(loop):
        async def main():
            async with peer_of_server() as (peer, made):
                await peer.handshake()
                await peer.write(b"last words")
                protocol = await made
                await protocol.received(10)
                peer.sock.shutdown(socket.SHUT_WR)
                return await protocol.closed, protocol.events

        return loop.run_until_complete(main())

    assert same_as_asyncio(story).value == (None, ["connection_made", "data", "eof_received", "connection_lost"])


def test_close_notify_without_the_end_of_the_stream_is_answered_and_ends(same_as_asyncio):
    def story(loop):
        async def main():
            async with peer_of_server() as (peer, made):
                await peer.handshake()
                await peer.write(b"last words")
                await peer.close_notify()
                protocol = await made
                await protocol.closed
                await peer.read_close_notify()
                await peer.end_of_stream()
                return protocol.error, protocol.events, bytes(protocol.data)

        return loop.run_until_complete(main())

    assert same_as_asyncio(story).value[0] is None


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs a client that can renegotiate: the openssl command")
def test_renegotiation_is_refused(same_as_asyncio):
    def story(loop):
        async def main():
            made = loop.create_future()

            def accept():
                made.set_result(Recording())
                return made.result()

            context = server_context(version=ssl.TLSVersion.TLSv1_2)
            server = await loop.create_server(accept, "127.0.0.1", 0, ssl=context)
            port = server.sockets[0].getsockname()[1]
            command = ["openssl", "s_client", "-tls1_2", "-quiet", "-no_ign_eof", "-connect", f"127.0.0.1:{port}"]
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            with subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0, **quiet) as client:
                client.stdin.write(b"hello\n")
                protocol = await made
                await protocol.received(6)
                client.stdin.write(b"R\n")
                error = await protocol.closed
            server.close()
            await server.wait_closed()
            return type(error).__name__, getattr(error, "reason", None), bytes(protocol.data)

        return loop.run_until_complete(main())

    assert same_as_asyncio(story).value[2] == b"hello\n"


def test_what_was_written_before_the_peers_close_notify_arrives(run):
    data = payload(6_000_000)

    async def main():
        async with peer_of_server() as (peer, made):
            await peer.handshake()
            protocol = await made
            await protocol.connected
            protocol.transport.write(data)
            await peer.close_notify()
            await protocol.eof
            assert await peer.read(len(data)) == data
            await peer.read_close_notify()
            assert await protocol.closed is None

    run(main())


def test_closing_waits_for_the_peers_close_notify(run):
    async def main():
        async with peer_of_server() as (peer, made):
            await peer.handshake()
            protocol = await made
            await protocol.connected
            protocol.transport.write(b"the rest")
            protocol.transport.close()
            assert await peer.read(8) == b"the rest"
            await peer.read_close_notify()
            assert not protocol.closed.done()
            await peer.close_notify()
            assert await protocol.closed is None

    run(main())


def test_a_peer_that_never_answers_close_notify_is_given_up(same_as_asyncio):
    def story(loop):
        async def main():
            async with peer_of_server(ssl_shutdown_timeout=0.05) as (peer, made):
                await peer.handshake()
                protocol = await made
                await protocol.connected
                protocol.transport.close()
                error = await protocol.closed
                return type(error), str(error)

        return loop.run_until_complete(main())

    assert same_as_asyncio(story).value == (TimeoutError, "SSL shutdown timed out")


def test_a_reset_after_the_handshake_is_told(same_as_asyncio):
    def story(loop):
        async def main():
            async with peer_of_server() as (peer, made):
                await peer.handshake()
                protocol = await made
                await protocol.connected
                peer.reset()
                return type(await protocol.closed)

        return loop.run_until_complete(main())

    assert same_as_asyncio(story).value is ConnectionResetError


def test_a_corrupt_record_ends_the_connection_with_the_error(same_as_asyncio):
    def story(loop):
        async def main():
            async with peer_of_server() as (peer, made):
                await peer.handshake()
                await peer.write(b"good")
                protocol = await made
                await protocol.received(4)
                await peer.send_raw(b"\x17\x03\x03\x00\x20" + b"x" * 32)
                error = await protocol.closed
                return type(error).__name__, error.reason, bytes(protocol.data)

        return loop.run_until_complete(main())

    same_as_asyncio(story)


@pytest.mark.oracle_differs("what came whole before the corrupt record is delivered; asyncio drops it")
def test_good_records_before_a_corrupt_one_are_delivered(run, loop_factory):
    async def main():
        async with peer_of_server() as (peer, made):
            await peer.handshake()
            protocol = await made
            await protocol.connected
            peer.tls.write(b"good")
            await peer.send_raw(peer.outgoing.read() + b"\x17\x03\x03\x00\x20" + b"x" * 32)
            assert isinstance(await protocol.closed, ssl.SSLError)
            assert bytes(protocol.data) == (b"good" if loop_factory.is_hayase else b"")

    run(main())
