"""What a loop must survive of its own program: use after its end, raising callbacks, cycles, an early exit, no memory."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
import weakref

import pytest
from recording import BufferedRecording, Recording, connected


def turn_quietly(loop, count=1):
    for _ in range(count):
        loop.stop()
        loop.run_forever()


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


GROWS = {
    "callbacks": "while True: loop.call_soon(int)",
    "callbacks of threads": "while True: loop.call_soon_threadsafe(int)",
    "timers": "while True: loop.call_later(1000, int)",
    "tasks": "while True: kept.append(loop.create_task(hayase.sleep(1000)))",
    "a queue": "while True: queue.put_nowait(1)",
    "callbacks of a future": "while True: future.add_done_callback(int)",
    "a stream that is fed": "while True: reader.feed_data(bytes(100_000))",
    "a stream that is read": "await reader.readexactly(300_000_000)",
    "a line that does not end": "await reader.readline()",
    "what is written": "while True: writer.write(bytes(300))",
    "what is written to a pipe": "while True: pipe.write(bytes(300))",
}


@pytest.mark.parametrize("what", GROWS)
@pytest.mark.hayase_only("asyncio raises it too, but what is Python of it cannot always go on")
def test_what_grows_without_end_ends_in_a_memory_error_and_the_loop_goes_on(program, what):
    done = program(
        f"""
        import resource
        import hayase

        async def grow(loop, reader, writer, pipe, queue, future, kept):
            {GROWS[what]}

        async def pour(reader, writer):
            try:
                for _ in range(400):
                    writer.write(bytes(1_000_000))
                    await writer.drain()
            except OSError:
                pass
            writer.close()

        async def main():
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda loop, context: None)
            server = await hayase.start_server(pour, "127.0.0.1", 0)
            reader, writer = await hayase.open_connection(*server.sockets[0].getsockname(), limit=2**30)
            reading, writing = os.pipe()
            pipe, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, open(writing, "wb", buffering=0))
            future, kept = loop.create_future(), []
            with open("/proc/self/statm") as file:
                now = int(file.read().split()[0]) * resource.getpagesize()
            unlimited = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (now + 60_000_000, unlimited[1]))
            try:
                await grow(loop, reader, writer, pipe, hayase.Queue(), future, kept)
            except MemoryError:
                future, kept = None, None
            finally:
                resource.setrlimit(resource.RLIMIT_AS, unlimited)
            for transport in (writer.transport, pipe):
                transport.abort()
            server.close()
            for _ in range(3):
                await asyncio.sleep(0.001)
            print("lives", flush=True)
            os._exit(0)

        loop = new_event_loop()
        loop.run_until_complete(main())
        """,
        "-W",
        "ignore",
        RUST_BACKTRACE="0",
    )
    assert (done.returncode, done.stdout) == (0, "lives\n"), done.stderr[-2000:]
