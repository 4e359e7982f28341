"""What a loop must survive: hostile peers, full tables, raising callbacks, re-entrancy, lost memory, early ends."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest
from recording import BufferedRecording, Record, Recording, connected

RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, no time: close() sends RST


def turn_quietly(loop, count=1):
    for _ in range(count):
        loop.stop()
        loop.run_forever()


# 1. No descriptors left for accept -----------------------------------------------------------------------------------

SERVER_WITH_FEW_DESCRIPTORS = """
import asyncio, json, os, resource, sys, time
sys.path[:0] = {path!r}
if {side!r} == "hayase":
    import hayase
    loop = hayase.new_event_loop()
else:
    loop = asyncio.SelectorEventLoop()
reports = []
loop.set_exception_handler(lambda loop, context: reports.append((context["message"], repr(context.get("exception")))))
began = time.monotonic()

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)

def on_command():
    if not os.read(0, 1000):
        loop.stop()
        return
    print(json.dumps([reports, time.monotonic() - began]), flush=True)

server = loop.run_until_complete(loop.create_server(Echo, "127.0.0.1", 0, backlog=100))
loop.add_reader(0, on_command)
limit = len(os.listdir("/proc/self/fd")) + 9
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
print(server.sockets[0].getsockname()[1], flush=True)
loop.run_forever()
loop.remove_reader(0)
server.close()
loop.close()
"""


@pytest.mark.oracle_differs("asyncio reports once for every place in the backlog; hayase at most once a second")
def test_accepting_without_free_descriptors_keeps_listening_reports_little_and_recovers(loop_factory):
    import json

    path = (
        [str(Path(sys.modules["hayase"].__file__).parent.parent)]
        if loop_factory.is_hayase and loop_factory().close() is None
        else []
    )
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER_WITH_FEW_DESCRIPTORS.format(side=loop_factory.side, path=path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = server.stdout.readline()
        assert line, server.stderr.read()
        address = ("127.0.0.1", int(line))
        clients = []
        for number in range(30):
            client = socket.create_connection(address, timeout=40)
            client.sendall(b"%d" % number)
            clients.append(client)
        # Each one answered gives its descriptor back, and so lets another in: all are served in the end.
        for number, client in enumerate(clients):
            assert client.recv(100) == b"%d" % number
            client.close()
        server.stdin.write("report\n")
        server.stdin.flush()
        reports, seconds = json.loads(server.stdout.readline())
        assert reports
        assert all("socket.accept() out of system resource" in message for message, _ in reports)
        assert all("Too many open files" in error for _, error in reports)
        if loop_factory.is_hayase:
            assert len(reports) <= seconds + 2
        _, errors = server.communicate(timeout=20)
        assert server.returncode == 0, errors
    finally:
        if server.poll() is None:
            server.kill()
            server.communicate()


# 2. Resets -----------------------------------------------------------------------------------------------------------


def test_a_reset_in_the_middle_of_writing_is_told_once(loop, run, asyncio_log):
    async def main():
        async with connected() as (near, far):
            far.transport.pause_reading()
            near.transport.write(b"x" * 20_000_000)
            sock = far.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            far.transport.abort()
            error = await near.closed
            assert isinstance(error, (ConnectionResetError, BrokenPipeError))
            assert near.events.count("connection_lost") == 1
            assert near.transport.get_write_buffer_size() == 0
            for _ in range(10):
                near.transport.write(b"ignored")
            near.transport.close()
            near.transport.abort()
            await asyncio.sleep(0)
            assert near.events.count("connection_lost") == 1

    run(main())
    assert set(asyncio_log.messages()) <= {"socket.send() raised exception."}


def test_a_reset_while_reading_is_told_once(loop, run):
    async def main():
        async with connected() as (near, far):
            sock = far.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            far.transport.abort()
            assert isinstance(await near.closed, ConnectionResetError)
            assert near.events == ["connection_made", "connection_lost"]

    run(main())


def test_a_reset_reaches_a_stream_that_reads_and_one_that_drains(loop, run):
    async def main():
        peers = []

        async def accept(reader, writer):
            peers.append(writer)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        for use in ("read", "drain"):
            reader, writer = await asyncio.open_connection(*address)
            while not peers:
                await asyncio.sleep(0)
            peer = peers.pop()
            if use == "drain":
                peer.transport.pause_reading()
                writer.write(b"x" * 20_000_000)
                waiting = loop.create_task(writer.drain())
            else:
                waiting = loop.create_task(reader.readexactly(10))
            await asyncio.sleep(0)
            sock = peer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            peer.transport.abort()
            with pytest.raises(ConnectionError):
                await waiting
            writer.close()
            with pytest.raises(ConnectionError):
                await writer.wait_closed()
        server.close()

    run(main())


def test_a_client_that_resets_before_it_is_accepted_does_not_disturb_the_server(loop, run):
    async def main():
        server = await loop.create_server(Recording, "127.0.0.1", 0, start_serving=False, backlog=50)
        address = server.sockets[0].getsockname()
        server.sockets[0].dup().close()
        await server.start_serving()
        for _ in range(20):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            client.setblocking(False)
            client.connect_ex(address)
            client.close()
        transport, _ = await loop.create_connection(Recording, *address)
        transport.abort()
        server.close()

    run(main())


# 4. A peer that never reads ------------------------------------------------------------------------------------------


def test_a_peer_that_never_reads_costs_one_pause_and_can_be_aborted_at_once(loop, run):
    async def main():
        async with connected() as (near, far):
            far.transport.pause_reading()
            chunk = b"x" * 100_000
            written = 0
            for _ in range(200):
                near.transport.write(chunk)
                written += len(chunk)
                if written % 1_000_000 == 0:
                    await asyncio.sleep(0)
            assert near.events.count("pause_writing") == 1
            assert 0 < near.transport.get_write_buffer_size() <= written
            near.transport.abort()
            assert await near.closed is None

    run(main())


# 5, 6. Many idle, one fast -------------------------------------------------------------------------------------------


def test_many_idle_connections_do_not_hinder_the_one_that_talks(loop, run):
    async def main():
        class Echo(Recording):
            def data_received(self, data):
                self.transport.write(data)

        server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=500)
        address = server.sockets[0].getsockname()
        idle = [(await loop.create_connection(Recording, *address))[1] for _ in range(300)]
        _, talker = await loop.create_connection(Recording, *address)
        for number in range(1, 300):
            talker.transport.write(b"x" * 10)
            await talker.received(number * 10)
        for protocol in (*idle, talker):
            protocol.transport.close()
        await asyncio.gather(*(protocol.closed for protocol in (*idle, talker)))
        server.close()

    run(main())


def test_one_fast_peer_does_not_keep_timers_callbacks_or_others_waiting(loop, run):
    """Counted in turns, not in seconds: between two turns, one connection may deliver only so much."""
    total = 60_000_000

    class Sink(Recording):
        largest = this_turn = seen = 0

        def data_received(self, data):
            self.this_turn += len(data)
            self.seen += len(data)
            self.largest = max(self.largest, self.this_turn)
            if self.seen >= total:
                self.finished.set_result(None)

    async def main():
        async with connected(Sink, Recording) as (near, _far):
            near.finished = loop.create_future()
            address = near.transport.get_extra_info("sockname")
            assert address

            def next_turn():
                near.this_turn = 0
                if not near.finished.done():
                    loop.call_soon(next_turn)

            loop.call_soon(next_turn)
            sock = _far.transport.get_extra_info("socket")
            fd = os.dup(sock.fileno())
            _far.transport.pause_reading()

            def blast():
                with socket.socket(fileno=fd) as raw:
                    raw.setblocking(True)
                    chunk = b"x" * 1_000_000
                    for _ in range(total // len(chunk)):
                        raw.sendall(chunk)

            blasting = threading.Thread(target=blast)
            blasting.start()
            await near.finished
            await loop.run_in_executor(None, blasting.join)
            assert near.largest <= 2_000_000

    run(main())


# 8. Every byte -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [Recording, BufferedRecording], ids=["protocol", "buffered"])
def test_checksums_hold_through_partial_writes_small_buffers_and_random_pauses(loop, run, protocol):
    choose = random.Random(11)

    class Hashes(protocol):
        def __init__(self):
            super().__init__()
            self.hash = hashlib.sha256()
            self.count = 0

        def _arrived(self, data):
            self.hash.update(data)
            self.count += len(data)
            if choose.random() < 0.2:
                self.transport.pause_reading()
                asyncio.get_running_loop().call_soon(self.transport.resume_reading)

    async def main():
        async with connected(Recording, Hashes) as (near, far):
            near.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
            far.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
            sent = hashlib.sha256()
            total = 0
            for _ in range(150):
                pieces = [
                    choose.randbytes(choose.choice([1, 7, 100, 5000, 40_000])) for _ in range(choose.randrange(1, 4))
                ]
                for piece in pieces:
                    sent.update(piece)
                    total += len(piece)
                if choose.random() < 0.5:
                    near.transport.writelines(pieces)
                else:
                    for piece in pieces:
                        near.transport.write(piece)
                if choose.random() < 0.3:
                    await asyncio.sleep(0)
            near.transport.close()
            await far.closed
            assert far.count == total
            assert far.hash.digest() == sent.digest()

    run(main())


# 14. After and during the end ----------------------------------------------------------------------------------------


@pytest.mark.oracle_differs("a lost transport of asyncio's answers some calls with AttributeError")
def test_transports_and_servers_of_a_closed_loop_answer_without_harm(loop_factory, asyncio_log):
    refusals = RuntimeError if loop_factory.is_hayase else (RuntimeError, AttributeError)
    loop = loop_factory()

    async def main():
        server = await loop.create_server(Recording, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        transport, protocol = await loop.create_connection(Recording, *address)
        return server, transport, protocol

    server, transport, protocol = loop.run_until_complete(main())
    transport.abort()
    turn_quietly(loop, 3)
    server.close()
    turn_quietly(loop, 3)
    loop.close()
    for call in (
        lambda: transport.write(b"x"),
        lambda: transport.writelines([b"x"]),
        lambda: transport.close(),
        lambda: transport.abort(),
        lambda: transport.pause_reading(),
        lambda: transport.resume_reading(),
        lambda: transport.get_write_buffer_size(),
        lambda: transport.get_extra_info("socket"),
        lambda: repr(transport),
        lambda: server.close(),
        lambda: server.sockets,
        lambda: repr(server),
    ):
        try:
            call()
        except refusals:
            pass
    asyncio_log.take()
    protocol._waiting.clear()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.oracle_differs("asyncio leaves open transports to the collector; hayase frees everything in loop.close()")
def test_closing_the_loop_with_everything_open_frees_every_descriptor(loop_factory):
    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    loop = loop_factory()
    pair = socket.socketpair()

    async def main():
        server = await loop.create_server(Recording, ["127.0.0.1", "::1"], 0)
        address = next(s for s in server.sockets if s.family == socket.AF_INET).getsockname()
        protocols = [(await loop.create_connection(Recording, *address))[1] for _ in range(10)]
        protocols[0].transport.write(b"x" * 20_000_000)
        protocols[1].transport.close()
        loop.add_reader(pair[0], print)
        loop.call_later(1000, print)
        loop.call_soon(print)
        return server, protocols

    kept = loop.run_until_complete(main())
    loop.close()
    left = descriptors() - before - 2
    if loop_factory.is_hayase:
        assert left == 0
    else:
        assert left > 0
    del kept
    gc.collect()
    for sock in pair:
        sock.close()


# 15. Exceptions in every protocol callback ---------------------------------------------------------------------------

CALLBACKS = [
    "connection_made",
    "data_received",
    "eof_received",
    "connection_lost",
    "pause_writing",
    "resume_writing",
    "get_buffer",
    "buffer_updated",
]


def raising_in(callback, error):
    """A protocol class whose callback raises, once."""
    base = BufferedRecording if callback in ("get_buffer", "buffer_updated") else Recording

    def raises(self, *args):
        result = getattr(base, callback)(self, *args)
        if not getattr(self, "raised", False):
            self.raised = True
            raise error(f"in {callback}")
        return result

    return type("Raising", (base,), {callback: raises})


async def provoke(callback, near, far):
    """Make the callback of `near` happen."""
    if callback in ("data_received", "get_buffer", "buffer_updated"):
        far.transport.write(b"x")
    elif callback == "eof_received":
        far.transport.write_eof()
    elif callback == "connection_lost":
        near.transport.abort()
    elif callback in ("pause_writing", "resume_writing"):
        far.transport.pause_reading()
        near.transport.write(b"x" * 20_000_000)
        await near.paused
        far.transport.resume_reading()
        await near.resumed


@pytest.mark.parametrize("callback", CALLBACKS)
def test_an_exception_of_a_protocol_callback_is_reported_once_and_the_others_live(same_as_asyncio, callback):
    def story(loop):
        reports = []
        loop.set_exception_handler(
            lambda loop, context: reports.append(
                (context["message"].split("<")[0].split(" in callback")[0], str(context["exception"]))
            )
        )

        async def main():
            async with (
                connected() as (other_near, other_far),
                connected(raising_in(callback, ValueError)) as (near, far),
            ):
                await provoke(callback, near, far)
                if callback in ("data_received", "eof_received", "get_buffer", "buffer_updated"):
                    # The connection is at fault; it ends, and its protocol hears why.
                    error = await near.closed
                    assert str(error) == f"in {callback}"
                    await far.closed
                elif callback == "connection_lost":
                    await far.closed
                else:
                    if callback == "connection_made":
                        far.transport.write(b"lives too")
                        await near.received(9)
                        assert not near.transport.is_closing()
                    near.transport.abort()
                    await near.closed
                other_near.transport.write(b"lives")
                await other_far.received(5)

        loop.run_until_complete(main())
        return reports

    reports = same_as_asyncio(story).value
    assert [text for _, text in reports] == [f"in {callback}"]


@pytest.mark.parametrize("callback", list(CALLBACKS))
@pytest.mark.oracle_differs("an interrupt in resume_writing leaves asyncio 3.13 a writer without data; it reports that")
def test_an_interrupt_in_a_protocol_callback_passes_through_and_the_loop_lives(
    loop, loop_factory, callback, asyncio_log
):
    async def main():
        async with connected(raising_in(callback, KeyboardInterrupt)) as (near, far):
            await provoke(callback, near, far)
            await loop.create_future()

    task = loop.create_task(main())
    with pytest.raises(KeyboardInterrupt, match=f"in {callback}"):
        loop.run_until_complete(task)

    async def fine():
        async with connected() as (near, far):
            near.transport.write(b"fine")
            return await far.received(4)

    assert loop.run_until_complete(fine()) == b"fine"
    task.cancel()
    turn_quietly(loop, 30)
    task._log_destroy_pending = False
    if not loop_factory.is_hayase:
        asyncio_log.take()


@pytest.mark.hayase_only("asyncio tells of this in debug mode only, and leaves the accepted connection open")
def test_an_exception_of_the_factory_of_a_server_is_reported_and_the_server_lives(loop, run):
    reports = []
    loop.set_exception_handler(lambda loop, context: reports.append(context))

    async def main():
        made = []

        def factory():
            made.append(None)
            if len(made) == 1:
                raise ZeroDivisionError("in the factory")
            return Recording()

        server = await loop.create_server(factory, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        _, first = await loop.create_connection(Recording, *address)
        await first.closed
        _, second = await loop.create_connection(Recording, *address)
        second.transport.abort()
        await second.closed
        server.close()

    run(main())
    assert [str(context["exception"]) for context in reports] == ["in the factory"]
    reports.clear()


def test_an_exception_of_a_streams_callback_is_reported_and_the_server_lives(loop, run):
    reports = []
    loop.set_exception_handler(lambda loop, context: reports.append(context["message"]))

    async def main():
        async def broken(reader, writer):
            raise ZeroDivisionError

        server = await asyncio.start_server(broken, "127.0.0.1", 0)
        for _ in range(3):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
        server.close()

    if sys.version_info >= (3, 12):
        run(main())
        assert reports == ["Unhandled exception in client_connected_cb"] * 3


# 18. Cycles ----------------------------------------------------------------------------------------------------------


def test_a_cycle_of_protocol_transport_and_loop_is_freed_after_closing(loop_factory):
    loop = loop_factory()
    loop.attribute = loop

    async def main():
        loop = asyncio.get_running_loop()
        near_and_far = []
        async with connected() as (near, far):
            near.cycle = [near, near.transport, loop, far]
            far.cycle = near.cycle
            near.transport.write(b"x")
            await far.received(1)
            near_and_far += [near, far, near.transport, far.transport]
        return [weakref.ref(thing) for thing in near_and_far]

    refs = loop.run_until_complete(main())
    loop.run_until_complete(asyncio.sleep(0))
    gc.collect()
    assert [ref() for ref in refs] == [None] * 4
    loop.close()
    alive = weakref.ref(loop)
    del loop
    gc.collect()
    assert alive() is None


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("closed", [True, False], ids=["closed", "never closed"])
def test_everything_abandoned_open_is_freed_by_the_collector(loop_factory, closed, asyncio_log):
    loop = loop_factory()

    class Abandoned(Recording):
        pass

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Abandoned, "127.0.0.1", 0)
        transport, protocol = await loop.create_connection(Abandoned, *server.sockets[0].getsockname())
        protocol.cycle = [loop, transport, server]
        transport.write(b"x" * 20_000_000)
        waiting = loop.create_task(asyncio.sleep(1000))
        loop.attribute = [transport, waiting]
        waiting._log_destroy_pending = False
        await asyncio.sleep(0)
        return [weakref.ref(thing) for thing in (loop, transport, protocol, server, waiting)]

    refs = loop.run_until_complete(main())
    if closed:
        loop.close()
    del loop
    for _ in range(3):
        gc.collect()
    assert [ref() for ref in refs] == [None] * 5
    asyncio_log.take()


def test_connections_that_come_and_go_leave_nothing_behind(loop, run):
    async def some(count):
        server = await asyncio.start_server(echo_and_close, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        for _ in range(count):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"line\n")
            assert await reader.readline() == b"line\n"
            writer.close()
            await writer.wait_closed()
        server.close()
        await server.wait_closed()

    async def echo_and_close(reader, writer):
        writer.write(await reader.readline())
        writer.close()

    run(some(20))
    gc.collect()
    objects, blocks = len(gc.get_objects()), sys.getallocatedblocks()
    run(some(300))
    gc.collect()
    assert len(gc.get_objects()) - objects < 60
    assert sys.getallocatedblocks() - blocks < 1500


def test_everything_works_while_the_collector_runs_at_every_allocation(program):
    done = program("""
        gc.set_threshold(1)

        async def echo(reader, writer):
            while line := await reader.readline():
                writer.write(line)
            writer.close()

        async def client(address, number):
            reader, writer = await asyncio.open_connection(*address)
            for step in range(3):
                writer.write(b"%d %d\\n" % (number, step))
                assert await reader.readline() == b"%d %d\\n" % (number, step)
            writer.close()
            await writer.wait_closed()

        async def main():
            loop = asyncio.get_running_loop()
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            async with asyncio.timeout(60):
                await asyncio.gather(*(client(address, n) for n in range(5)))
            future = loop.create_future()
            loop.call_later(0.001, future.set_result, None)
            await asyncio.wait_for(future, 10)
            task = loop.create_task(asyncio.sleep(100))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            server.close()
            await server.wait_closed()

        loop = new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        print("fine")
    """)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


# 19. The end of the interpreter --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["return", "sys.exit", "exception", "daemon thread"])
def test_the_interpreter_ends_well_with_connections_open(program, how):
    done = program(
        f"""
        how = {how!r}

        class Echo(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport
                kept.append(self)
            def data_received(self, data):
                self.transport.write(data * 2)

        kept = []
        ready = threading.Event()

        async def main():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(Echo, "127.0.0.1", 0)
            kept.append(server)
            for _ in range(5):
                transport, _ = await loop.create_connection(Echo, *server.sockets[0].getsockname())
                transport.write(b"ping-pong for ever")
            transport.write(b"x" * 20_000_000)
            await asyncio.sleep(0.01)
            ready.set()
            if how == "daemon thread":
                await loop.create_future()

        loop = new_event_loop()
        if how == "daemon thread":
            threading.Thread(target=lambda: loop.run_until_complete(main()), daemon=True).start()
            ready.wait()
        else:
            loop.run_until_complete(main())
        print("main ends", flush=True)
        if how == "sys.exit":
            sys.exit(0)
        if how == "exception":
            raise ZeroDivisionError
        """,
        "-W",
        "ignore",
    )
    assert done.returncode == (1 if how == "exception" else 0), done.stderr
    assert done.stdout == "main ends\n"
    assert "Fatal" not in done.stderr and "panicked" not in done.stderr


# 20. No memory -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["call_soon", "create_task", "futures", "timers", "echo"])
@pytest.mark.hayase_only("asyncio of 3.11, being Python, is left in a state in which it cannot run again")
def test_running_out_of_memory_anywhere_is_an_error_and_never_the_end_of_the_process(program, what):
    pytest.importorskip("_testcapi", reason="this interpreter was built without its test modules")
    done = program(
        f"""
        import _testcapi
        gc.disable()  # CPython 3.13 itself crashes when a collection finds no memory, on stock asyncio too
        what = {what!r}
        seen = {{}}

        class Echo(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport
            def data_received(self, data):
                self.transport.write(data)

        def turn(loop, count):
            for _ in range(count):
                loop.stop()
                loop.run_forever()

        async def child():
            await asyncio.sleep(0)
            return []

        async def waits(future):
            return await future

        def act(loop, sockets):
            if what == "call_soon":
                for number in range(5):
                    loop.call_soon(max, number, 1)
            elif what == "create_task":
                kept = [loop.create_task(child(), name="n") for _ in range(3)]
                kept[0].cancel("message")
            elif what == "futures":
                future = loop.create_future()
                kept = loop.create_task(waits(future))
                turn(loop, 1)
                future.set_result([1])
            elif what == "timers":
                handles = [loop.call_later(0, max, n, 1) for n in range(5)]
                handles[2].cancel()
            else:
                for number, theirs in enumerate(sockets):
                    theirs.send(b"data")
            turn(loop, 3)

        for start in range(400 if what != "echo" else 250):
            loop = new_event_loop()
            loop.set_exception_handler(lambda loop, context: None)
            sockets, made = [], []
            if what == "echo":
                for _ in range(2):
                    ours, theirs = socket.socketpair()
                    ours.setblocking(False)
                    theirs.setblocking(False)
                    made.append(loop.run_until_complete(loop.create_connection(Echo, sock=ours)))
                    sockets.append(theirs)
            error = None
            _testcapi.set_nomemory(start, start + 1)
            try:
                act(loop, sockets)
            except BaseException as caught:
                error = caught
            finally:
                _testcapi.remove_mem_hooks()
            name = type(error).__name__
            seen[name] = seen.get(name, 0) + 1
            error = None
            # Whatever was lost, the loop lives.
            try:
                turn(loop, 3)
                ran = []
                loop.call_soon(ran.append, 1)
                turn(loop, 1)
                assert ran == [1], start
            finally:
                for transport, _ in made:
                    transport.abort()
                turn(loop, 2)
                for task in asyncio.all_tasks(loop):
                    task.cancel()
                turn(loop, 3)
                for theirs in sockets:
                    theirs.close()
                loop.close()
        print(seen, file=sys.stderr)
        print("survived", flush=True)
        os._exit(0)  # no last collection either
        """,
        "-W",
        "ignore",
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == "survived\n"
    assert "Fatal" not in done.stderr and "aborting" not in done.stderr


# 21. Descriptors closed under the loop -------------------------------------------------------------------------------


def test_a_descriptor_closed_under_a_transport_does_not_crash_and_the_transport_can_be_ended(program):
    done = program(
        """
        class Note(asyncio.Protocol):
            def __init__(self):
                self.got = []
                self.lost = False
            def connection_made(self, transport):
                self.transport = transport
            def data_received(self, data):
                self.got.append(data)
            def connection_lost(self, error):
                self.lost = True

        async def main():
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda loop, context: None)
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            transport, protocol = await loop.create_connection(Note, sock=ours)
            theirs.send(b"before")
            while not protocol.got:
                await asyncio.sleep(0)
            os.close(ours.fileno())
            # The number goes to somebody else, who gets data that is not the transport's.
            other, peer = socket.socketpair()
            reused = other.fileno() == ours.fileno()
            (peer if other.fileno() == ours.fileno() else other).send(b"for somebody else")
            for _ in range(5):
                await asyncio.sleep(0)
            assert protocol.got == [b"before"], protocol.got
            transport.abort()
            for _ in range(5):
                await asyncio.sleep(0)
            assert protocol.lost
            theirs.close()

        loop = new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        print("fine", flush=True)
        os._exit(0)
        """,
        "-W",
        "ignore",
    )
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


# 25. Timers in bulk --------------------------------------------------------------------------------------------------


def test_a_million_timers_armed_and_cancelled_give_their_memory_back(program):
    done = program("""
        def resident():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * 4096

        loop = new_event_loop()
        def some(count):
            handles = [loop.call_later(1000 + n % 1000, max, n, n) for n in range(count)]
            for handle in handles:
                handle.cancel()
            del handles, handle
            loop.stop()
            loop.run_forever()
        some(200_000)
        gc.collect()
        before = resident()
        for _ in range(5):
            some(200_000)
        gc.collect()
        grown = resident() - before
        assert grown < 40_000_000, grown
        loop.close()
        print("fine")
    """)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


# 27. Slow names ------------------------------------------------------------------------------------------------------

SLOW_RESOLVER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A resolver that answers "slow.invalid" only when the file named by RELEASE exists. */
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result) {
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) = dlsym(RTLD_NEXT, "getaddrinfo");
    if (node && strcmp(node, "slow.invalid") == 0) {
        while (access(getenv("RELEASE"), F_OK) != 0) usleep(1000);
        return EAI_NONAME;
    }
    return real(node, service, hints, result);
}
"""


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler for a resolver that is slow on purpose")
def test_a_cancelled_lookup_returns_at_once_and_others_are_not_held_up(program, tmp_path):
    source, library, release = tmp_path / "slow.c", tmp_path / "slow.so", tmp_path / "release"
    source.write_text(SLOW_RESOLVER)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    done = program(
        """
        async def main():
            loop = asyncio.get_running_loop()
            slow = [loop.create_task(loop.create_connection(asyncio.Protocol, "slow.invalid", 80)) for _ in range(2)]
            await asyncio.sleep(0.01)
            server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
            transport, _ = await loop.create_connection(asyncio.Protocol, "localhost", server.sockets[0].getsockname()[1], family=socket.AF_INET)
            transport.abort()
            server.close()
            for task in slow:
                assert not task.done()
                task.cancel()
            await asyncio.wait(slow)
            assert all(task.cancelled() for task in slow)
            open(os.environ["RELEASE"], "w").close()

        loop = new_event_loop()
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        print("fine")
        """,
        LD_PRELOAD=str(library),
        RELEASE=str(release),
    )
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


# 29. Anything from anywhere ------------------------------------------------------------------------------------------


class Scene:
    """A loop with a live connection on it, and everything an operation may want to touch."""

    def __init__(self, loop):
        self.loop = loop
        self.pair = socket.socketpair()
        self.results = []
        self.future = loop.create_future()
        self.handle = loop.call_later(1000, print)
        self.task = None
        self.near = self.far = None
        self.server = None
        self.leftovers = []

    def perform(self, operation):
        try:
            OPERATIONS[operation](self)
        except Exception as error:
            self.results.append(type(error).__name__)
        else:
            self.results.append("done")


async def _idle():
    await asyncio.sleep(0)


def _create_and_cancel(scene):
    task = scene.loop.create_task(_idle())
    task.cancel()
    scene.leftovers.append(task)


def _nested_run(scene):
    coro = _idle()
    try:
        scene.loop.run_until_complete(coro)
    finally:
        coro.close()


OPERATIONS = {
    "stop": lambda s: s.loop.stop(),
    "close": lambda s: s.loop.close(),
    "run_until_complete": _nested_run,
    "call_soon": lambda s: s.loop.call_soon(int),
    "call_soon_threadsafe": lambda s: s.loop.call_soon_threadsafe(int),
    "call_later": lambda s: s.loop.call_later(0, int),
    "cancel handle": lambda s: s.handle.cancel(),
    "set future": lambda s: s.future.done() or s.future.set_result(None),
    "cancel future": lambda s: s.future.cancel(),
    "create task": _create_and_cancel,
    "debug on and off": lambda s: (s.loop.set_debug(True), s.loop.set_debug(False)),
    "set handler": lambda s: s.loop.set_exception_handler(s.loop.get_exception_handler()),
    "call handler": lambda s: s.loop.call_exception_handler({"message": "on purpose"}),
    "reader": lambda s: (s.loop.add_reader(s.pair[0], int), s.loop.remove_reader(s.pair[0])),
    "writer": lambda s: (s.loop.add_writer(s.pair[0], int), s.loop.remove_writer(s.pair[0])),
    "write": lambda s: s.near.transport.write(b"x" * 10),
    "write much": lambda s: s.near.transport.write(b"x" * 1_000_000),
    "writelines": lambda s: s.near.transport.writelines([b"a", b"b"]),
    "write_eof": lambda s: s.near.transport.write_eof(),
    "close transport": lambda s: s.near.transport.close(),
    "abort transport": lambda s: s.near.transport.abort(),
    "pause and resume": lambda s: (s.near.transport.pause_reading(), s.near.transport.resume_reading()),
    "set_protocol": lambda s: s.near.transport.set_protocol(s.near.transport.get_protocol()),
    "limits": lambda s: s.near.transport.set_write_buffer_limits(high=100),
    "ask transport": lambda s: None,
    "close server": lambda s: s.server.close(),
    "ask loop": lambda s: None,
    "collect": lambda s: gc.collect() and None,
    "new loop": lambda s: type(s.loop)().close(),
}


class Provoking(Recording):
    """Performs the operation of the scene in the callback that was asked for."""

    def __init__(self, scene, callback, operation):
        super().__init__(keep_open=True)
        self.scene, self.callback, self.operation = scene, callback, operation

    def _in(self, callback):
        if callback == self.callback and not self.scene.results:
            self.scene.near = self if self.transport is not None else self.scene.near
            self.scene.perform(self.operation)

    def connection_made(self, transport):
        super().connection_made(transport)
        self._in("connection_made")

    def data_received(self, data):
        super().data_received(data)
        self._in("data_received")

    def eof_received(self):
        super().eof_received()
        self._in("eof_received")
        return True

    def connection_lost(self, error):
        super().connection_lost(error)
        self._in("connection_lost")

    def pause_writing(self):
        super().pause_writing()
        self._in("pause_writing")

    def resume_writing(self):
        super().resume_writing()
        self._in("resume_writing")


class ProvokingBuffered(BufferedRecording, Provoking):
    data_received = property()

    def __init__(self, scene, callback, operation):
        Provoking.__init__(self, scene, callback, operation)
        self.buffer = bytearray(100)
        self.hints = []

    def get_buffer(self, sizehint):
        self._in("get_buffer")
        return super().get_buffer(sizehint)

    def buffer_updated(self, nbytes):
        super().buffer_updated(nbytes)
        self._in("buffer_updated")


class Mortal:
    def __init__(self, scene, operation):
        self.arguments = scene, operation

    def __del__(self):
        scene, operation = self.arguments
        scene.perform(operation)


class Referent:
    pass


def _by_protocol(callback):
    def provoke(scene):
        if callback in ("data_received", "get_buffer", "buffer_updated"):
            scene.far.transport.write(b"x")
        elif callback == "eof_received":
            scene.far.transport.write_eof()
        elif callback == "connection_lost":
            scene.near.transport.abort()
        elif callback in ("pause_writing", "resume_writing"):
            scene.loop.call_soon(scene.near.transport.write, b"x" * 8_000_000)

    return provoke


def _reader(scene, operation):
    def readable():
        scene.loop.remove_reader(scene.pair[0])
        scene.perform(operation)

    scene.loop.add_reader(scene.pair[0], readable)
    scene.pair[1].send(b"x")


def _task(scene, operation):
    async def main():
        scene.perform(operation)

    scene.leftovers.append(scene.loop.create_task(main()))


def _done_callback(scene, operation):
    future = scene.loop.create_future()
    future.add_done_callback(lambda f: scene.perform(operation))
    future.set_result(None)


def _handler(scene, operation):
    def handler(loop, context):
        loop.set_exception_handler(None)
        loop.set_exception_handler(lambda loop, context: None)
        scene.perform(operation)

    scene.loop.set_exception_handler(handler)
    scene.loop.call_soon(scene.loop.call_exception_handler, {"message": "provoked"})


def _factory(scene, operation):
    def factory(loop, coro, **kwargs):
        loop.set_task_factory(None)
        scene.perform(operation)
        return asyncio.Task(coro, loop=loop, **kwargs)

    scene.loop.set_task_factory(factory)
    scene.loop.call_soon(lambda: scene.leftovers.append(scene.loop.create_task(_idle())))


def _finalizer_of_a_dropped_argument(scene, operation):
    scene.loop.call_soon(lambda mortal: None, Mortal(scene, operation))


def _finalizer_of_a_cancelled_argument(scene, operation):
    handle = scene.loop.call_later(1000, print, Mortal(scene, operation))
    scene.loop.call_soon(handle.cancel)


def _finalizer_of_a_result(scene, operation):
    async def main():
        return Mortal(scene, operation)

    scene.loop.create_task(main())


def _weakref_callback(scene, operation):
    thing = Referent()
    scene.leftovers.append(weakref.ref(thing, lambda ref: scene.perform(operation)))
    scene.loop.call_soon(lambda thing: None, thing)


def _signal_handler(scene, operation):
    def handler():
        scene.loop.remove_signal_handler(signal.SIGUSR1)
        scene.perform(operation)

    scene.loop.add_signal_handler(signal.SIGUSR1, handler)
    os.kill(os.getpid(), signal.SIGUSR1)


PLACES = {
    "callback": lambda scene, operation: scene.loop.call_soon(scene.perform, operation),
    "timer": lambda scene, operation: scene.loop.call_later(0, scene.perform, operation),
    "threadsafe callback": lambda scene, operation: scene.loop.call_soon_threadsafe(scene.perform, operation),
    "reader": _reader,
    "task": _task,
    "done callback": _done_callback,
    "exception handler": _handler,
    "task factory": _factory,
    "finalizer of an argument": _finalizer_of_a_dropped_argument,
    "finalizer of a cancelled argument": _finalizer_of_a_cancelled_argument,
    "finalizer of a result": _finalizer_of_a_result,
    "weak reference": _weakref_callback,
    "signal handler": _signal_handler,
}
PROTOCOL_PLACES = [
    "connection_made",
    "data_received",
    "eof_received",
    "connection_lost",
    "pause_writing",
    "resume_writing",
    "get_buffer",
    "buffer_updated",
]


async def _stage(scene, place, operation):
    loop = scene.loop
    accepted = loop.create_future()

    def accept():
        accepted.set_result(Recording(keep_open=True))
        return accepted.result()

    def make():
        kind = ProvokingBuffered if place in ("get_buffer", "buffer_updated") else Provoking
        protocol = kind(scene, place, operation)
        scene.near = protocol
        return protocol

    scene.server = await loop.create_server(accept, "127.0.0.1", 0)
    await loop.create_connection(make, *scene.server.sockets[0].getsockname())
    scene.far = await accepted
    await scene.far.connected


def perform_everywhere(loop, place, operation):
    """Set the scene, provoke the place, let it all end. Returns what the operation said there."""
    scene = Scene(loop)
    loop.set_exception_handler(lambda loop, context: None)
    staging = loop.create_task(_stage(scene, place, operation))
    for _ in range(5):  # `stop` may be the operation of connection_made
        try:
            loop.run_until_complete(staging)
            break
        except RuntimeError:
            continue
    if place in PLACES:
        PLACES[place](scene, operation)
    else:
        _by_protocol(place)(scene)
    for _ in range(1000):
        if scene.results:
            break
        turn_quietly(loop)
        gc.collect(0) if place.startswith(("finalizer", "weak")) else None
    if isinstance(scene.near, Record):
        for protocol in (scene.near, scene.far):
            protocol.transport.abort()
    scene.server.close()
    scene.handle.cancel()
    turn_quietly(loop, 5)
    ran = []
    loop.call_soon(ran.append, "the loop lives")
    turn_quietly(loop)
    for sock in scene.pair:
        sock.close()
    scene.near = scene.far = scene.leftovers = None
    return scene.results[:1], ran


@pytest.mark.parametrize("place", [*PLACES, *PROTOCOL_PLACES])
def test_every_operation_can_be_performed_from_every_kind_of_callback(same_as_asyncio, loop_factory, place, recwarn):
    def story_of(operation):
        return lambda loop: perform_everywhere(loop, place, operation)

    for operation in OPERATIONS:
        outcome = same_as_asyncio(story_of(operation))
        assert outcome.error is None, (operation, outcome)
        results, ran = outcome.value
        assert len(results) == 1, operation
        assert ran == ["the loop lives"], operation
