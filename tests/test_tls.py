"""TLS: the layer between a transport and the program's protocol, on the program's own SSLContext."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import socket
import ssl
import sys
import threading
import warnings
import weakref
from pathlib import Path

import pytest
from recording import BOTH_PROTOCOLS, BufferedRecording, Recording, payload
from tls_peer import client_context, peer_of_client, peer_of_server, server_context, tls_connected

# Everything here, with each of hayase's engines.
pytestmark = pytest.mark.usefixtures("engine")

since_3_13 = pytest.mark.skipif(sys.version_info < (3, 13), reason="came with 3.13")


# Moving bytes --------------------------------------------------------------------------------------------------------


@BOTH_PROTOCOLS
@pytest.mark.parametrize("size", [1, 16384, 16385, 65536, 1_000_003, 5_000_000])
def test_bytes_of_any_size_arrive_whole_and_in_order(run, protocol, size):
    data = payload(size)

    async def main():
        async with tls_connected(protocol, protocol) as (near, far):
            near.transport.write(data)
            assert await far.received(size) == data
            far.transport.write(data)
            assert await near.received(size) == data
            near.transport.close()
            await far.closed
            await near.closed
        for end in (near, far):
            assert end.error is None
            assert [name for name in end.events if "writing" not in name] == [
                "connection_made",
                "data",
                "eof_received",
                "connection_lost",
            ]

    run(main())


def test_small_and_large_writes_mixed_keep_their_order(run):
    choose = random.Random(9)
    pieces = [payload(choose.choice([1, 10, 100, 20_000, 300_000]), n) for n in range(60)]

    async def main():
        async with tls_connected() as (near, far):
            for number, piece in enumerate(pieces):
                kind = (bytes, bytearray, memoryview)[number % 3]
                near.transport.write(kind(piece))
                if number % 7 == 0:
                    await asyncio.sleep(0)
            assert await far.received(sum(map(len, pieces))) == b"".join(pieces)

    run(main())


def test_items_of_writelines_arrive_as_one_stream(run):
    async def main():
        async with tls_connected() as (near, far):
            near.transport.writelines([b"one ", bytearray(b"two "), memoryview(b"three"), b""])
            assert await far.received(13) == b"one two three"

    run(main())


@pytest.mark.hayase_only("asyncio sends each write at once")
def test_writes_of_one_callback_leave_together(run):
    class Answering(Recording):
        def data_received(self, data):
            self.transport.write(b"head")
            self.transport.write(b"body")
            super().data_received(data)

    async def main():
        context = server_context(version=ssl.TLSVersion.TLSv1_2)
        async with peer_of_server(Answering, context=context) as (peer, _):
            await peer.handshake()
            await peer.write(b"question")
            await peer.receive_more()
            assert peer.tls.read(100) == b"head"
            assert peer.tls.read(100) == b"body"

    run(main())


def test_a_protocol_set_on_the_transport_below_loses_no_ciphertext(run):
    async def main():
        async with peer_of_server() as (peer, made):
            await peer.handshake()
            protocol = await made
            await protocol.connected
            layer = protocol.transport._ssl_protocol
            below = layer._transport
            protocol.transport.write(b"before")
            below.set_protocol(asyncio.Protocol())
            below.write(b"after")
            assert await peer.read(6) == b"before"
            below.set_protocol(layer)

    run(main())


def test_a_view_of_larger_items_is_sent_whole(run):
    import array

    numbers = array.array("I", range(50_000))

    async def main():
        async with tls_connected() as (near, far):
            near.transport.write(memoryview(numbers))
            assert await far.received(200_000) == numbers.tobytes()

    run(main())


def test_a_large_write_before_close_arrives_whole(run):
    data = payload(4_000_000)

    async def main():
        async with tls_connected() as (near, far):
            near.transport.write(data)
            near.transport.close()
            assert near.transport.is_closing()
            await far.eof
            assert bytes(far.data) == data
            await near.closed
            await far.closed

    run(main())


def test_what_is_written_in_connection_made_comes_first(run):
    class Greeting(Recording):
        def connection_made(self, transport):
            transport.write(b"hello")
            super().connection_made(transport)

    async def main():
        async with tls_connected(Recording, Greeting) as (near, far):
            far.transport.write(b" again")
            assert await near.received(11) == b"hello again"

    run(main())


def test_a_small_buffer_of_a_buffered_protocol_gets_everything(run):
    data = payload(100_000)

    async def main():
        async with tls_connected(Recording, lambda: BufferedRecording(size=7)) as (near, far):
            near.transport.write(data)
            assert await far.received(len(data)) == data
            assert max(far.chunks) == 7

    run(main())


def test_a_buffer_that_is_a_bytearray_is_filled_beyond_one_record(run):
    class Plain(BufferedRecording):
        def get_buffer(self, sizehint):
            return memoryview(self.buffer)

    data = payload(60_000)

    async def main():
        async with tls_connected(Recording, lambda: Plain(size=65536)) as (near, far):
            near.transport.write(data)
            assert await far.received(len(data)) == data

    run(main())


def test_streams_speak_tls(run):
    async def main():
        async def echo(reader, writer):
            while data := await reader.read(10_000):
                writer.write(data)
                await writer.drain()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server_context())
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context())
        data = payload(700_000)
        writer.write(data)
        assert await reader.readexactly(len(data)) == data
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())


def test_tls_over_a_unix_socket(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    async def main():
        loop = asyncio.get_running_loop()
        accepted = loop.create_future()

        def accept():
            accepted.set_result(Recording())
            return accepted.result()

        server = await loop.create_unix_server(accept, "socket", ssl=server_context())
        _, near = await loop.create_unix_connection(
            Recording, "socket", ssl=client_context(), server_hostname="localhost"
        )
        near.transport.write(b"over a file")
        far = await accepted
        assert await far.received(11) == b"over a file"
        near.transport.close()
        await near.closed
        await far.closed
        server.close()
        await server.wait_closed()

    run(main())


def test_a_connection_that_the_program_accepted_speaks_tls(run):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.setblocking(False)
            connecting = asyncio.ensure_future(
                loop.create_connection(Recording, *listening.getsockname(), ssl=client_context())
            )
            sock, _ = await loop.sock_accept(listening)
            _, far = await loop.connect_accepted_socket(Recording, sock, ssl=server_context())
            _, near = await connecting
            far.transport.write(b"accepted")
            assert await near.received(8) == b"accepted"
            near.transport.close()
            await near.closed
            await far.closed

    run(main())


def test_sendfile_goes_through_tls(run, tmp_path):
    data = payload(300_000)
    (tmp_path / "file").write_bytes(data)

    async def main():
        async with tls_connected() as (near, far):
            with (tmp_path / "file").open("rb") as file:
                assert await asyncio.get_running_loop().sendfile(near.transport, file) == len(data)
            assert await far.received(len(data)) == data
            with (tmp_path / "file").open("rb") as file:
                with pytest.raises(RuntimeError, match="fallback is disabled"):
                    await asyncio.get_running_loop().sendfile(near.transport, file, fallback=False)

    run(main())


# Ends ------------------------------------------------------------------------------------------------------------------


def test_abort_ends_at_once(same_as_asyncio):
    def story(loop):
        async def main():
            async with tls_connected() as (near, far):
                near.transport.abort()
                assert near.transport.is_closing()
                await near.closed
                await far.closed
                return near.events, near.error, far.events[:1]

        return loop.run_until_complete(main())

    same_as_asyncio(story)


def test_closing_in_the_handshake_leaves_nothing(run):
    async def main():
        loop = asyncio.get_running_loop()
        async with peer_of_client() as (address, accepted):
            connecting = asyncio.ensure_future(loop.create_connection(Recording, *address, ssl=client_context()))
            peer = await accepted
            await peer.receive_more()
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
            with contextlib.suppress(ConnectionError):
                await peer.end_of_stream()

    run(main())


def test_writing_after_the_end_is_ignored_and_later_told(run, asyncio_log):
    async def main():
        async with tls_connected() as (near, _far):
            near.transport.close()
            await near.closed
            for _ in range(8):
                near.transport.write(b"late")
        assert set(asyncio_log.messages()) == {"SSL connection is closed"}

    run(main())


def test_closing_twice_and_everything_after_it_is_harmless(run):
    async def main():
        async with tls_connected() as (near, _far):
            transport = near.transport
            transport.close()
            transport.close()
            await near.closed
            transport.abort()
            transport.close()
            assert transport.is_closing()

    run(main())


def test_true_from_eof_received_has_no_effect(same_as_asyncio):
    def story(loop):
        async def main():
            async with tls_connected(Recording, lambda: Recording(keep_open=True)) as (near, far):
                near.transport.close()
                await near.closed
                await far.closed
                return far.events

        return loop.run_until_complete(main())

    outcome = same_as_asyncio(story)
    assert outcome.log == [("WARNING", "returning true from eof_received() has no effect when using ssl")]


# Exceptions of the protocol ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "callback", ["connection_made", "data_received", "eof_received", "connection_lost", "pause_writing"]
)
def test_an_exception_of_the_protocol_is_reported_once(same_as_asyncio, callback):
    def story(loop):
        reports = []

        def handler(loop, context):
            reports.append(
                (context["message"].split("<")[0], repr(context["exception"]), sorted(set(context) - {"handle"}))
            )

        loop.set_exception_handler(handler)

        def fail(self, *args):
            getattr(super(Failing, self), callback)(*args)
            raise ZeroDivisionError(callback)

        Failing = type("Failing", (Recording,), {callback: fail})

        async def main():
            async with tls_connected(Recording, Failing) as (near, far):
                near.transport.write(b"data")
                await far.received(4) if callback != "connection_made" else None
                if callback == "pause_writing":
                    near.transport.pause_reading()
                    near.transport._ssl_protocol._transport.pause_reading()
                    while not far.paused.done():
                        far.transport.write(b"x" * 1_000_000)
                        await asyncio.sleep(0)
                    far.transport.abort()
                else:
                    near.transport.close()
                await far.closed
                near.transport.abort()
                await near.closed

        loop.run_until_complete(main())
        return reports

    outcome = same_as_asyncio(story)
    assert len(outcome.value) == 1


def test_keyboard_interrupt_in_a_protocol_leaves_the_loop(loop, run):
    class Interrupting(Recording):
        def data_received(self, data):
            super().data_received(data)
            raise KeyboardInterrupt

    async def main():
        async with tls_connected(Recording, Interrupting) as (near, far):
            near.transport.write(b"x")
            await far.received(1)
            await asyncio.sleep(0)

    task = loop.create_task(main())
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(task)
    run(task)


# Flow control ------------------------------------------------------------------------------------------------------------


def test_the_protocol_is_paused_and_resumed(run):
    async def main():
        async with tls_connected() as (near, far):
            transport = near.transport
            assert transport.get_write_buffer_limits() == (128 * 1024, 512 * 1024)
            transport.set_write_buffer_limits(high=1000)
            assert transport.get_write_buffer_limits() == (250, 1000)
            far.transport.pause_reading()
            far.transport._ssl_protocol._transport.pause_reading()
            written = 0
            while not near.paused.done():
                transport.write(b"x" * 100_000)
                written += 100_000
                await asyncio.sleep(0)
            assert transport.get_write_buffer_size() > 1000
            far.transport._ssl_protocol._transport.resume_reading()
            far.transport.resume_reading()
            await near.resumed
            await far.received(written)
            assert transport.get_write_buffer_size() == 0
            assert near.events == ["connection_made", "pause_writing", "resume_writing"]

    run(main())


def test_limits_are_checked(same_as_asyncio):
    def story(loop):
        async def main():
            said = []
            async with tls_connected() as (near, _):
                transport = near.transport
                for what in ("write", "read"):
                    change = getattr(transport, f"set_{what}_buffer_limits")
                    ask = getattr(transport, f"get_{what}_buffer_limits")
                    for keywords in ({}, {"high": 10}, {"low": 10}, {"high": 10, "low": 3}):
                        change(**keywords)
                        said.append(ask())
                    for keywords in ({"high": 1, "low": 2}, {"high": -1}, {"low": -1}):
                        with pytest.raises(ValueError) as raised:
                            change(**keywords)
                        said.append(str(raised.value))
                said.append(transport.get_read_buffer_size())
                transport.set_write_buffer_limits(high=0)
                said.append(near.events)
                transport.set_write_buffer_limits()
                said.append(near.events)
            return said

        return loop.run_until_complete(main())

    same_as_asyncio(story)


def test_nothing_is_received_while_reading_is_paused(run):
    data = payload(3_000_000)

    async def main():
        async with tls_connected() as (near, far):
            far.transport.pause_reading()
            assert not far.transport.is_reading()
            near.transport.write(data)
            while not far.transport._ssl_protocol._transport._paused:
                await asyncio.sleep(0)
            assert far.events == ["connection_made"]
            # Memory is bounded: the transport below has stopped.
            assert far.transport.get_read_buffer_size() < 1_000_000
            far.transport.resume_reading()
            assert far.transport.is_reading()
            assert await far.received(len(data)) == data

    run(main())


def test_the_end_of_the_stream_waits_for_a_paused_reader(run):
    async def main():
        async with peer_of_server() as (peer, made):
            await peer.handshake()
            protocol = await made
            await protocol.connected
            protocol.transport.pause_reading()
            await peer.write(b"before the end")
            peer.sock.shutdown(socket.SHUT_WR)
            while not protocol.transport._ssl_protocol._transport.get_extra_info("socket"):
                await asyncio.sleep(0)
            for _ in range(5):
                await asyncio.sleep(0.01)
            assert protocol.events == ["connection_made"]
            protocol.transport.resume_reading()
            await protocol.closed
            assert bytes(protocol.data) == b"before the end"
            assert protocol.events == ["connection_made", "data", "eof_received", "connection_lost"]

    run(main())


# Servers -----------------------------------------------------------------------------------------------------------------


@since_3_13
def test_a_server_closes_its_clients(run):
    async def main():
        loop = asyncio.get_running_loop()
        made = loop.create_future()

        def factory():
            made.set_result(Recording())
            return made.result()

        server = await loop.create_server(factory, "127.0.0.1", 0, ssl=server_context())
        _transport, near = await loop.create_connection(
            Recording, *server.sockets[0].getsockname(), ssl=client_context()
        )
        far = await made
        await far.connected
        server.close()
        server.close_clients()
        await far.closed
        await near.closed
        await server.wait_closed()

    run(main())


def test_a_server_shows_its_context(run):
    async def main():
        context = server_context()
        server = await asyncio.get_running_loop().create_server(Recording, "127.0.0.1", 0, ssl=context)
        assert server._ssl_context is context
        server.close()
        await server.wait_closed()

    run(main())


def test_a_failed_handshake_is_told_in_debug_mode(loop, run, asyncio_log):
    loop.set_debug(True)

    async def main():
        async with peer_of_server() as (peer, made):
            with contextlib.suppress(ConnectionError):
                await peer.send_raw(b"garbage, and enough of it")
                await peer.end_of_stream()
            await made
            await asyncio.sleep(0)

    run(main())
    errors = [record for record in asyncio_log.take() if record.levelname == "ERROR"]
    assert [record.getMessage().splitlines()[0] for record in errors] == [
        "Error on transport creation for incoming connection"
    ]


# Memory ------------------------------------------------------------------------------------------------------------------


def test_connections_that_ended_leave_nothing(run):
    async def main():
        loop = asyncio.get_running_loop()
        of_client, of_server = client_context(), server_context()
        server = await loop.create_server(Recording, "127.0.0.1", 0, ssl=of_server)
        address = server.sockets[0].getsockname()

        async def once():
            transport, protocol = await loop.create_connection(Recording, *address, ssl=of_client)
            transport.write(b"hello")
            weak = weakref.ref(transport._ssl_protocol)
            transport.close()
            await protocol.closed
            return weak

        gc.collect()
        gc.disable()
        try:
            weak = [await once() for _ in range(50)]
            await asyncio.sleep(0)
            # Without the collector.
            assert [layer for layer in weak[:-1] if layer() is not None] == []
        finally:
            gc.enable()
        server.close()
        await server.wait_closed()

    run(main())


@pytest.mark.hayase_only("asyncio's layer and its buffer of 256 KiB wait for the collector")
def test_a_thousand_connections_leave_no_memory(program):
    done = program(
        f"""
        import asyncio, gc, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from recording import Recording
        from tls_peer import client_context, server_context

        def resident_kib():
            with open("/proc/self/smaps_rollup") as file:
                return next(int(line.split()[1]) for line in file if line.startswith("Rss:"))

        async def connect(number, address, context):
            loop = asyncio.get_running_loop()
            transport, protocol = await loop.create_connection(Recording, *address, ssl=context)
            transport.write(bytes(100 * number))
            if number % 3 == 0:
                transport.abort()
            else:
                transport.close()
            await protocol.closed

        async def main():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(Recording, "127.0.0.1", 0, ssl=server_context())
            address, context = server.sockets[0].getsockname(), client_context()

            async def connect_many(count):
                for _ in range(count // 10):
                    await asyncio.gather(*[connect(number, address, context) for number in range(10)])
                gc.collect()
                return resident_kib()

            before = await connect_many(500)
            print(await connect_many(1_000) - before)
            server.close()

        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main())
        """
    )
    assert done.returncode == 0, done.stderr
    # 1,000 connections; the smallest thing that one could leave is some hundred bytes of OpenSSL's.
    assert int(done.stdout) < 256


def test_what_other_threads_ask_of_the_ssl_object_disturbs_nothing(run):
    data = payload(3_000_000)
    answers = set()
    ended = threading.Event()

    def ask(ssl_object):
        while not ended.is_set():
            # While the loop's thread is inside OpenSSL with a session ticket, the handshake counts as not done.
            with contextlib.suppress(ValueError):
                version, certificate = ssl_object.version(), ssl_object.getpeercert()
                if version is not None:
                    answers.add((version, ssl_object.cipher(), certificate["serialNumber"]))

    async def main():
        async with tls_connected() as (near, far):
            asking = threading.Thread(target=ask, args=(near.transport.get_extra_info("ssl_object"),))
            asking.start()
            try:
                near.transport.write(data)
                far.transport.write(data)
                assert await far.received(len(data)) == data
                assert await near.received(len(data)) == data
            finally:
                ended.set()
                asking.join()

    run(main())
    assert len(answers) == 1


def test_contexts_are_freed_with_their_connections(run):
    async def main():
        of_client = client_context()
        async with tls_connected(of_client=of_client) as (near, far):
            near.transport.close()
            await near.closed
            await far.closed
        near.transport = far.transport = None
        return weakref.ref(of_client)

    weak = run(main())
    gc.collect()
    assert weak() is None


@pytest.mark.hayase_only("what a closed loop leaves open differs among the versions of asyncio; 3.15 keeps it")
def test_a_loop_closed_under_open_connections_frees_them(loop_factory):
    loop = loop_factory()

    async def main():
        server = await loop.create_server(Recording, "127.0.0.1", 0, ssl=server_context())
        transport, _ = await loop.create_connection(Recording, *server.sockets[0].getsockname(), ssl=client_context())
        return server, weakref.ref(transport)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        server, weak = loop.run_until_complete(main())
        server.close()
        loop.close()
        del server
        gc.collect()
        assert weak() is None
    assert "unclosed transport <asyncio._SSLProtocolTransport object>" in [str(each.message) for each in caught]
