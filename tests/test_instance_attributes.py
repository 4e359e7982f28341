"""What a program puts on an object of a loop: attributes and methods of its own, weak references.

asyncio's transports, servers and streams are Python objects with a `__dict__`; its handles and coroutines have none. A
method that was replaced on an instance is the one that asyncio's own code calls, and so it is here.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import weakref

import pytest
from recording import Recording, connected
from tls_peer import client_context, tls_connected

# Which objects have what ---------------------------------------------------------------------------------------------


async def stream_transport(stack, _aio):
    return (await stack.enter_async_context(connected()))[0].transport


async def tls_transport(stack, _aio):
    return (await stack.enter_async_context(tls_connected()))[0].transport


async def tls_protocol(stack, aio):
    return (await tls_transport(stack, aio))._ssl_protocol


async def server(stack, _aio):
    loop = asyncio.get_running_loop()
    return await stack.enter_async_context(await loop.create_server(asyncio.Protocol, "127.0.0.1", 0))


class Waiting(asyncio.BaseProtocol):
    """Knows when it was told of the end."""

    def __init__(self):
        self.ended = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc):
        self.ended.set_result(exc)

    def process_exited(self):
        pass

    def eof_received(self):
        pass


async def ended(stack, made, end="close"):
    transport, protocol = await made

    async def finish():
        getattr(transport, end)()
        await protocol.ended

    stack.push_async_callback(finish)
    return transport


async def datagram_transport(stack, _aio):
    loop = asyncio.get_running_loop()
    return await ended(stack, loop.create_datagram_endpoint(Waiting, local_addr=("127.0.0.1", 0)))


async def reading_end_of_a_pipe(stack, _aio):
    reading, writing = os.pipe()
    stack.callback(os.close, writing)
    loop = asyncio.get_running_loop()
    return await ended(stack, loop.connect_read_pipe(Waiting, os.fdopen(reading, "rb")))


async def writing_end_of_a_pipe(stack, _aio):
    reading, writing = os.pipe()
    stack.callback(os.close, reading)
    loop = asyncio.get_running_loop()
    return await ended(stack, loop.connect_write_pipe(Waiting, os.fdopen(writing, "wb")))


async def child_transport(stack, _aio):
    loop = asyncio.get_running_loop()
    return await ended(stack, loop.subprocess_exec(Waiting, "true", stdin=None, stdout=None, stderr=None))


async def loop_itself(_stack, _aio):
    return asyncio.get_running_loop()


async def future(_stack, _aio):
    return asyncio.get_running_loop().create_future()


async def task(_stack, _aio):
    return asyncio.current_task()


async def handle(_stack, _aio):
    return asyncio.get_running_loop().call_soon(int)


async def timer_handle(_stack, _aio):
    return asyncio.get_running_loop().call_later(0, int)


async def thread_safe_handle(_stack, _aio):
    return asyncio.get_running_loop().call_soon_threadsafe(int)


async def reader(_stack, aio):
    return aio.StreamReader()


async def stream_protocol(_stack, aio):
    return aio.StreamReaderProtocol(aio.StreamReader())


async def writer(stack, aio):
    transport = await stream_transport(stack, aio)
    reader = aio.StreamReader()
    stack.callback(transport.close)
    return aio.StreamWriter(transport, aio.StreamReaderProtocol(reader), reader, asyncio.get_running_loop())


async def lock(_stack, aio):
    return aio.Lock()


async def queue(_stack, aio):
    return aio.Queue()


async def timeout(_stack, aio):
    return aio.timeout(None)


async def coroutine_of_the_loop(stack, _aio):
    coroutine = asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80)
    stack.callback(coroutine.close)
    return coroutine


async def coroutine_of_a_lock(stack, aio):
    coroutine = aio.Lock().acquire()
    stack.callback(coroutine.close)
    return coroutine


@pytest.mark.parametrize(
    ("make", "has_dict", "takes_attributes"),
    [
        *((make, True, True) for make in (stream_transport, tls_transport, tls_protocol, datagram_transport, server)),
        *((make, True, True) for make in (reading_end_of_a_pipe, writing_end_of_a_pipe, child_transport, loop_itself)),
        *((make, True, True) for make in (reader, writer, stream_protocol, lock, queue, timeout)),
        *((make, False, True) for make in (future, task)),
        *((make, False, False) for make in (handle, timer_handle, thread_safe_handle)),
        *((make, False, False) for make in (coroutine_of_the_loop, coroutine_of_a_lock)),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_objects_take_attributes_and_weak_references_as_asyncios_do(run, aio, make, has_dict, takes_attributes):
    async def main():
        async with contextlib.AsyncExitStack() as stack:
            made = await make(stack, aio)
            assert weakref.ref(made)() is made
            assert hasattr(made, "__dict__") == has_dict
            if not takes_attributes:
                with pytest.raises(AttributeError):
                    made.of_the_program = 1
                return
            made.of_the_program = 1
            assert made.of_the_program == 1
            del made.of_the_program
            assert not hasattr(made, "of_the_program")

    run(main())


def test_a_transport_in_a_cycle_through_its_own_attributes_is_collected(run):
    class Marker:
        pass

    async def main():
        for connect in (connected, tls_connected):
            async with connect() as (near, _far):
                near.transport.marker = marker = Marker()
                near.transport.itself = near.transport
                reference = weakref.ref(marker)
            del near, _far, marker
            await asyncio.sleep(0)
            gc.collect()
            assert reference() is None

    run(main())


# Methods of an instance ----------------------------------------------------------------------------------------------


def test_a_write_that_was_replaced_is_what_streams_write_with(run, aio):
    async def main():
        served = asyncio.get_running_loop().create_future()

        async def serve(reader, writer):
            written = []
            send, writer.transport.write = writer.transport.write, written.append
            writer.write(b"kept")
            await writer.drain()
            send(b"sent")
            del writer.transport.write
            writer.write(b", and sent")
            writer.close()
            await writer.wait_closed()
            served.set_result(written)

        async with await aio.start_server(serve, "127.0.0.1", 0) as server:
            reader, writer = await aio.open_connection(*server.sockets[0].getsockname())
            assert await reader.read() == b"sent, and sent"
            writer.close()
            await writer.wait_closed()
            assert await served == [b"kept"]

    run(main())


def test_is_closing_close_and_pause_reading_of_an_instance_are_what_streams_call(run, aio):
    async def main():
        async def serve(reader, writer):
            writer.write(b"x" * 100)
            writer.close()
            await writer.wait_closed()

        asked = []
        async with await aio.start_server(serve, "127.0.0.1", 0) as server:
            reader, writer = await aio.open_connection(*server.sockets[0].getsockname(), limit=10)
            transport = writer.transport
            transport.is_closing = lambda: asked.append("is_closing") or True
            assert writer.is_closing()
            pause = transport.pause_reading
            transport.pause_reading = lambda: asked.append("pause") or pause()
            assert len(await reader.readexactly(100)) == 100
            close = transport.close
            transport.close = lambda: asked.append("close") or close()
            writer.close()
            assert asked[0] == "is_closing" and "pause" in asked and asked[-1] == "close"
            del transport.is_closing
            await writer.wait_closed()

    run(main())


def test_a_close_that_was_replaced_is_called_at_the_end_of_the_peer(run):
    async def main():
        async with connected() as (near, far):
            closed = asyncio.get_running_loop().create_future()
            near.transport.close = lambda: closed.set_result("called")
            far.transport.close()
            assert await closed == "called"
            del near.transport.close
            near.transport.close()
            await near.closed

    run(main())


def test_a_write_that_was_replaced_below_tls_gets_the_records(run):
    async def main():
        async with tls_connected() as (near, far):
            below = near.transport._ssl_protocol._transport
            records = []
            send = below.write
            below.write = lambda data: records.append(len(data)) or send(data)
            near.transport.write(b"through both")
            assert await far.received(12) == b"through both"
            assert len(records) == 1 and records[0] > 12
            del below.write
            near.transport.write(b", then one")
            assert await far.received(22) == b"through both, then one"
            assert len(records) == 1

    run(main())


def test_a_write_that_was_replaced_before_tls_began_gets_the_handshake(run):
    async def main():
        loop = asyncio.get_running_loop()
        async with connected() as (near, far):
            kept = []
            near.transport.write = kept.append
            upgrading = asyncio.ensure_future(
                loop.start_tls(near.transport, near, client_context(), server_hostname="localhost")
            )
            while not kept:
                await asyncio.sleep(0)
            assert kept[0][:1] == b"\x16"  # the record of a handshake
            assert far.data == b""
            upgrading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await upgrading
            near.transport.abort()
            # asyncio does not tell the protocol of a connection that ended in an upgrade.
            near.closed.set_result(None)

    run(main())


def test_a_datagram_transport_whose_sendto_was_replaced_sends_with_it(run):
    async def main():
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(Waiting, local_addr=("127.0.0.1", 0))
        sent = []
        transport.sendto = lambda data, address=None: sent.append(data)
        transport.sendto(b"kept")
        assert sent == [b"kept"]
        transport.close()
        await protocol.ended

    run(main())


def test_a_recorded_protocol_survives_attributes_set_in_connection_made(run):
    class Tagging(Recording):
        def connection_made(self, transport):
            transport.tag = self
            super().connection_made(transport)

    async def main():
        async with connected(Tagging, Tagging) as (near, far):
            assert near.transport.tag is near and far.transport.tag is far
            near.transport.write(b"tagged")
            assert await far.received(6) == b"tagged"

    run(main())
