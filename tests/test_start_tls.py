"""`start_tls`: a connection that becomes a TLS connection, over every kind of transport."""

from __future__ import annotations

import asyncio
import ssl
import sys

import pytest
from recording import BOTH_PROTOCOLS, Recording, connected, payload
from tls_peer import client_context, server_context, tls_connected

# Everything here, with each of hayase's engines.
pytestmark = pytest.mark.usefixtures("engine")


async def upgraded(near, far, of_client=None, of_server=None):
    loop = asyncio.get_running_loop()
    both = asyncio.gather(
        loop.start_tls(near.transport, near, of_client or client_context(), server_hostname="localhost"),
        loop.start_tls(far.transport, far, of_server or server_context(), server_side=True),
    )
    near.transport, far.transport = await both


@BOTH_PROTOCOLS
def test_a_connection_is_upgraded(run, protocol):
    data = payload(200_000)

    async def main():
        async with connected(protocol, protocol) as (near, far):
            near.transport.write(b"plain")
            assert await far.received(5) == b"plain"
            await upgraded(near, far)
            assert near.transport.get_extra_info("ssl_object") is not None
            assert "SSL" in type(near.transport).__name__  # so programs ask whether the upgrade was done
            near.transport.write(data)
            assert await far.received(5 + len(data)) == b"plain" + data
            near.transport.close()
            await near.closed
            await far.closed
            assert near.events.count("connection_made") == 1

    run(main())


def test_tls_inside_tls(run):
    data = payload(300_000)

    async def main():
        async with tls_connected() as (near, far):
            await upgraded(near, far)
            assert near.transport.get_extra_info("ssl_object") is not None
            near.transport.write(data)
            assert await far.received(len(data)) == data
            far.transport.write(data)
            assert await near.received(len(data)) == data
            near.transport.close()
            await near.closed
            await far.closed
            assert near.error is None

    run(main())


def test_a_stream_writer_is_upgraded(run):
    async def main():
        served = asyncio.get_running_loop().create_future()

        async def serve(reader, writer):
            assert await reader.readline() == b"STARTTLS\n"
            writer.write(b"go\n")
            await writer.start_tls(server_context())
            writer.write(await reader.readline())
            await writer.drain()
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
            served.set_result(None)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"STARTTLS\n")
        assert await reader.readline() == b"go\n"
        await writer.start_tls(client_context(), server_hostname="localhost")
        assert writer.get_extra_info("ssl_object") is not None
        writer.write(b"secret\n")
        assert await reader.readline() == b"secret\n"
        writer.close()
        await writer.wait_closed()
        await served
        server.close()
        await server.wait_closed()

    run(main())


@pytest.mark.oracle_differs("before 3.14 asyncio forgets what the reader has received already")
@pytest.mark.parametrize("own", [False, True], ids=["asyncios streams", "streams of the side"])
def test_a_handshake_that_the_reader_has_received_already_is_used(run, loop_factory, own):
    if not loop_factory.is_hayase and sys.version_info < (3, 14):
        return
    streams = asyncio
    if own and loop_factory.is_hayase:
        import hayase

        streams = hayase

    async def main():
        upgraded = asyncio.get_running_loop().create_future()

        async def serve(reader, writer):
            await reader.readline()
            # The client's hello is there too, in the reader's buffer.
            while len(reader._buffer) < 100:
                await asyncio.sleep(0)
            await writer.start_tls(server_context())
            upgraded.set_result(await reader.readline())
            writer.close()
            await writer.wait_closed()

        server = await streams.start_server(serve, "127.0.0.1", 0)
        reader, writer = await streams.open_connection(*server.sockets[0].getsockname())
        writer.write(b"STARTTLS\n")
        await writer.start_tls(client_context(), server_hostname="localhost")
        writer.write(b"secret\n")
        assert await upgraded == b"secret\n"
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())


def test_the_layer_says_what_is_paused(run):
    async def main():
        async with tls_connected() as (near, _far):
            layer = near.transport._ssl_protocol
            assert not layer._app_reading_paused
            near.transport.pause_reading()
            assert layer._app_reading_paused and not layer._ssl_reading_paused
            near.transport.resume_reading()
            await asyncio.sleep(0)
            assert not layer._app_reading_paused
            layer.pause_writing()
            assert layer._ssl_writing_paused and not layer._app_writing_paused
            layer.resume_writing()
            assert not layer._ssl_writing_paused

    run(main())


def test_a_cancelled_upgrade_closes_the_connection(run):
    async def main():
        loop = asyncio.get_running_loop()
        async with connected() as (near, far):
            upgrading = asyncio.ensure_future(
                loop.start_tls(near.transport, near, client_context(), server_hostname="localhost")
            )
            await far.received(100)
            upgrading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await upgrading
            await far.closed
            # asyncio does not tell the protocol of a connection that ended in an upgrade.
            assert not near.closed.done()
            near.closed.set_result(None)

    run(main())


def test_a_failed_upgrade_raises_the_error(same_as_asyncio):
    def story(loop):
        async def main():
            async with connected() as (near, far):
                far.transport.write(b"this is not TLS at all")
                try:
                    await loop.start_tls(near.transport, near, client_context(), server_hostname="localhost")
                except ssl.SSLError as error:
                    return type(error).__name__, error.reason

        return loop.run_until_complete(main())

    assert same_as_asyncio(story).value is not None


class Relay(asyncio.Transport):
    """A transport written in Python, over another one."""

    _start_tls_compatible = True

    def __init__(self, below, protocol):
        super().__init__()
        self.below, self.protocol, self.paused, self.waiting = below, protocol, False, []

    def write(self, data):
        self.below.write(data)

    def set_protocol(self, protocol):
        self.protocol = protocol

    def get_protocol(self):
        return self.protocol

    def pause_reading(self):
        self.below.pause_reading()

    def resume_reading(self):
        self.below.resume_reading()

    def is_closing(self):
        return self.below.is_closing()

    def close(self):
        self.below.close()

    def abort(self):
        self.below.abort()

    def _force_close(self, error):
        self.below.abort()

    def get_extra_info(self, name, default=None):
        return {"through": "relay"}.get(name, default)


class Below(asyncio.Protocol):
    def connection_made(self, transport):
        self.relay = Relay(transport, None)

    def data_received(self, data):
        protocol = self.relay.protocol
        if isinstance(protocol, asyncio.BufferedProtocol):
            while data:
                buffer = protocol.get_buffer(len(data))
                count = min(len(buffer), len(data))
                buffer[:count] = data[:count]
                protocol.buffer_updated(count)
                data = data[count:]
        else:
            protocol.data_received(data)

    def eof_received(self):
        return self.relay.protocol.eof_received()

    def connection_lost(self, error):
        self.relay.protocol.connection_lost(error)


def test_a_transport_of_the_programs_own_is_upgraded(run):
    data = payload(400_000)

    async def main():
        loop = asyncio.get_running_loop()
        async with connected(Below, Recording) as (below, far):
            near = Recording()
            upgrading = loop.start_tls(below.relay, near, client_context(), server_hostname="localhost")
            serving = loop.start_tls(far.transport, far, server_context(), server_side=True)
            transport, far.transport = await asyncio.gather(upgrading, serving)
            near.transport = transport
            assert transport.get_extra_info("through") == "relay"
            transport.write(data)
            assert await far.received(len(data)) == data
            far.transport.write(data)
            assert await near.received(len(data)) == data
            transport.close()
            await near.closed
            await far.closed
            assert near.events[-1] == "connection_lost"

    run(main())
