"""Streams: readers, writers and their protocol. asyncio's own classes on its loop are the oracle of hayase's on hayase's."""

from __future__ import annotations

import asyncio
import collections.abc
import gc
import socket
import sys
import warnings
import weakref

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

since_3_13 = pytest.mark.skipif(sys.version_info < (3, 13), reason="tuples of separators came with 3.13")


@pytest.fixture
def streams(aio):
    """The module of one side."""
    return aio.streams


@pytest.fixture
def reader(streams, loop):
    return streams.StreamReader(limit=16, loop=loop)


class Pausable(asyncio.Transport):
    """Writes down what the reader asks of it."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def pause_reading(self):
        self.asked.append("pause")

    def resume_reading(self):
        self.asked.append("resume")


async def caught(awaitable):
    """What an awaitable came to: its value, or class and text of its exception."""
    try:
        return await awaitable
    except BaseException as error:
        return type(error), str(error)


def attempt(run, awaitable):
    return run(caught(awaitable))


# What is there already -----------------------------------------------------------------------------------------------


def test_what_is_there_is_returned_at_once(reader):
    reader.feed_data(b"one\ntwo\nthree|four")
    for reading, expected in [
        (reader.readline(), b"one\n"),
        (reader.readexactly(2), b"tw"),
        (reader.read(100), b"o\nthree|four"),
    ]:
        with pytest.raises(StopIteration) as stopped:
            reading.send(None)
        assert stopped.value.value == expected
    assert not reader.at_eof()


def test_readings_are_coroutines(run, reader):
    reading = reader.read(1)
    assert isinstance(reading, collections.abc.Coroutine)
    assert asyncio.iscoroutine(reading)
    assert reading.__name__ == "read"
    assert reading.__qualname__ == "StreamReader.read"
    assert not reading.cr_running
    reading.close()

    async def main():
        reader.feed_data(b"abcdefgh")
        assert await asyncio.create_task(reader.readexactly(1)) == b"a"
        assert await asyncio.wait_for(reader.readexactly(1), 5) == b"b"
        assert await asyncio.gather(reader.readexactly(1), reader.readexactly(1)) == [b"c", b"d"]
        assert await asyncio.shield(reader.read(9)) == b"efgh"

    run(main())


def test_a_reading_begins_when_it_is_awaited(run, reader):
    # Also its errors: a coroutine function's body has not run yet.
    reading = reader.readexactly(-1)
    reader.feed_data(b"x")
    assert attempt(run, reading) == (ValueError, "readexactly size can not be less than zero")


def test_a_reading_that_is_never_awaited_is_warned_about(reader):
    with pytest.warns(RuntimeWarning, match=r"^coroutine 'StreamReader.readline' was never awaited"):
        reader.readline()
        gc.collect()


def test_a_reading_cannot_be_awaited_twice(run, reader):
    reader.feed_data(b"ab")
    reading = reader.read(1)
    assert run(reading) == b"a"
    with pytest.raises(RuntimeError, match=r"^cannot reuse already awaited coroutine$"):
        reading.send(None)


def test_the_first_value_sent_must_be_none(reader):
    reading = reader.read(1)
    with pytest.raises(TypeError, match=r"^can't send non-None value to a just-started coroutine$"):
        reading.send(1)
    reading.close()


def test_what_is_thrown_into_a_reading_comes_out_of_it(reader):
    for start in (False, True):
        reading = reader.read(1)
        if start:
            reading.send(None)
        with pytest.raises(KeyError):
            reading.throw(KeyError("x"))
        assert reader._waiter is None


@pytest.mark.parametrize(
    "reading",
    [
        lambda r: r.read(),
        lambda r: r.read(-1),
        lambda r: r.read(-7),
        lambda r: r.read(0),
        lambda r: r.read(3),
        lambda r: r.read(n=4),
        lambda r: r.read(10**30),
        lambda r: r.read(True),
        lambda r: r.read(None),
        # With an empty buffer, 3.15 takes any number for a count, because it is never used as one.
        lambda r: r.read(1.5) if r._buffer else r.read(),
        lambda r: r.read("x"),
        lambda r: r.readexactly(0),
        lambda r: r.readexactly(5),
        lambda r: r.readexactly(n=5),
        lambda r: r.readexactly(99),
        lambda r: r.readexactly(-2),
        lambda r: r.readexactly(None),
        lambda r: r.readline(),
        lambda r: r.readuntil(),
        lambda r: r.readuntil(b"|"),
        lambda r: r.readuntil(separator=b"|"),
        lambda r: r.readuntil(bytearray(b"e|")),
        lambda r: r.readuntil(b"nowhere"),
        lambda r: r.readuntil(b""),
    ],
)
@pytest.mark.parametrize("content", [b"", b"ab", b"one\ntwo|", b"x" * 40, b"y" * 30 + b"\n", b"z" * 16 + b"\nmore|"])
def test_every_reading_of_every_content_is_asyncios(streams, loop, run, reading, content):
    def outcome(module, use):
        reader = module.StreamReader(limit=16, loop=loop)
        if content:
            reader.feed_data(content)
        reader.feed_eof()
        try:
            first = use(caught(reading(reader)))
        except TypeError as error:
            first = str(error)
        return first, bytes(reader._buffer), reader.at_eof(), repr(reader)

    assert outcome(streams, run) == outcome(asyncio.streams, run)


@since_3_13
def test_of_several_separators_the_one_that_ends_first_counts(run, reader):
    reader.feed_data(b"head\r\n\r\nbody\nrest")
    assert run(reader.readuntil((b"\r\n\r\n", b"\n"))) == b"head\r\n"
    assert run(reader.readuntil((b"xyz", b"\r\n"))) == b"\r\n"
    assert attempt(run, reader.readuntil(())) == (ValueError, "Separator should contain at least one element")
    assert attempt(run, reader.readuntil((b"a", b""))) == (
        ValueError,
        "Separator should be at least one-byte string",
    )


@pytest.mark.parametrize("call", ["read(1, 2)", "readline(1)", "readexactly()", "read(1, n=2)", "readline(n=1)"])
def test_wrong_arguments_are_type_errors(reader, call):
    with pytest.raises(TypeError):
        eval(f"reader.{call}", {"reader": reader}).close()


def test_incomplete_and_overrun_say_how_much(run, reader):
    async def main():
        reader.feed_data(b"x" * 20)
        with pytest.raises(asyncio.LimitOverrunError) as overrun:
            await reader.readuntil(b"--")
        assert overrun.value.consumed == 19
        assert await reader.read(3) == b"xxx"
        reader.feed_data(b"--")
        with pytest.raises(asyncio.LimitOverrunError) as overrun:
            await reader.readuntil(b"--")
        assert overrun.value.consumed == 17
        assert await reader.readexactly(19) == b"x" * 17 + b"--"
        reader.feed_data(b"left")
        reader.feed_eof()
        with pytest.raises(asyncio.IncompleteReadError) as incomplete:
            await reader.readexactly(9)
        assert (incomplete.value.partial, incomplete.value.expected) == (b"left", 9)

    run(main())


# Waiting -------------------------------------------------------------------------------------------------------------


def test_a_reading_waits_for_what_it_needs(run, reader):
    async def main():
        line = asyncio.create_task(reader.readline())
        for piece in (b"a", b"bc", b"d\nrest"):
            await asyncio.sleep(0)
            assert not line.done()
            reader.feed_data(piece)
        assert await line == b"abcd\n"
        assert await reader.readexactly(4) == b"rest"

    run(main())


def test_a_second_reading_that_would_wait_is_refused(run, reader):
    async def main():
        waiting = asyncio.create_task(reader.readexactly(4))
        await asyncio.sleep(0)
        for reading, name in [
            (reader.read(1), "read"),
            (reader.readline(), "readuntil"),
            (reader.readexactly(1), "readexactly"),
        ]:
            text = f"{name}() called while another coroutine is already waiting for incoming data"
            assert await caught(reading) == (RuntimeError, text)
        reader.feed_data(b"done")
        assert await waiting == b"done"

    run(main())


def test_a_cancelled_reading_loses_no_byte(run, reader):
    async def main():
        waiting = asyncio.create_task(reader.readexactly(4))
        await asyncio.sleep(0)
        reader.feed_data(b"ab")
        await asyncio.sleep(0)
        waiting.cancel()
        assert await caught(waiting) == (asyncio.CancelledError, "")
        assert reader._waiter is None
        reader.feed_data(b"cd")
        assert await reader.readexactly(4) == b"abcd"

    run(main())


def test_a_reading_cancelled_as_its_data_comes_loses_no_byte(run, reader):
    async def main():
        waiting = asyncio.create_task(reader.readexactly(4))
        await asyncio.sleep(0)
        reader.feed_data(b"abcd")
        waiting.cancel()
        assert await caught(waiting) == (asyncio.CancelledError, "")
        assert await reader.readexactly(4) == b"abcd"

    run(main())


def test_an_exception_reaches_who_waits_and_who_comes_later(run, reader):
    async def main():
        waiting = asyncio.create_task(reader.read(1))
        await asyncio.sleep(0)
        reader.set_exception(OSError("gone"))
        assert await caught(waiting) == (OSError, "gone")
        assert str(reader.exception()) == "gone"
        for reading in (reader.read(0), reader.readexactly(0), reader.readline(), reader.readuntil(b"x")):
            assert await caught(reading) == (OSError, "gone")

    run(main())


@pytest.mark.hayase_only("asyncio goes on at its old place in the buffer, misses the separator and waits for ever")
def test_what_another_reading_took_is_not_searched_again(run, reader):
    # The first search has seen three bytes when they are taken from under it.
    async def main():
        line = asyncio.create_task(reader.readuntil(b"ab"))
        await asyncio.sleep(0)
        reader.feed_data(b"xxa")
        await asyncio.sleep(0)
        reader.feed_data(b"y")
        assert await reader.readexactly(4) == b"xxay"
        reader.feed_data(b"ab")
        assert await line == b"ab"

    run(main())


def test_the_end_wakes_who_waits(run, reader):
    async def main():
        waiting = asyncio.create_task(reader.read(5))
        await asyncio.sleep(0)
        reader.feed_eof()
        assert await waiting == b""
        assert reader.at_eof()
        assert [line async for line in reader] == []
        with pytest.raises(AssertionError, match=r"^feed_data after feed_eof$"):
            reader.feed_data(b"late")

    run(main())


def test_lines_can_be_iterated(run, reader):
    async def main():
        reader.feed_data(b"one\ntwo\nthree")
        reader.feed_eof()
        assert [line async for line in reader] == [b"one\n", b"two\n", b"three"]

    run(main())


def test_the_transport_is_paused_above_twice_the_limit_and_resumed_at_the_limit(run, reader):
    transport = Pausable()
    reader.set_transport(transport)
    with pytest.raises(AssertionError, match=r"^Transport already set$"):
        reader.set_transport(transport)
    reader.feed_data(b"x" * 32)
    assert transport.asked == []
    reader.feed_data(b"x")
    reader.feed_data(b"x")
    assert transport.asked == ["pause"]
    assert len(run(reader.read(17))) == 17
    assert transport.asked == ["pause"]
    assert len(run(reader.read(1))) == 1
    assert transport.asked == ["pause", "resume"]


def test_a_reading_of_more_than_the_limit_resumes_a_paused_transport(run, reader):
    transport = Pausable()
    reader.set_transport(transport)
    reader.feed_data(b"x" * 33)

    async def main():
        waiting = asyncio.create_task(reader.readexactly(50))
        await asyncio.sleep(0)
        assert transport.asked == ["pause", "resume"]
        reader.feed_data(b"x" * 17)
        assert len(await waiting) == 50
        assert transport.asked == ["pause", "resume", "pause", "resume"]

    run(main())


def test_a_transport_that_cannot_pause_is_not_asked_again(reader):
    class Unpausable(asyncio.Transport):
        asked = 0

        def pause_reading(self):
            self.asked += 1
            raise NotImplementedError

    transport = Unpausable()
    reader.set_transport(transport)
    reader.feed_data(b"x" * 40)
    reader.feed_data(b"x" * 40)
    assert transport.asked == 1
    assert reader._transport is None


def test_the_limit_must_be_positive(streams, loop):
    for limit in (0, -1):
        with pytest.raises(ValueError, match=r"^Limit cannot be <= 0$"):
            streams.StreamReader(limit=limit, loop=loop)
    assert streams.StreamReader(limit=2**70, loop=loop)._limit > 2**62


def test_programs_may_change_the_limit(run, reader):
    reader._limit = 100
    reader.feed_data(b"x" * 50 + b"\n")
    assert len(run(reader.readline())) == 51


def test_users_may_subclass_the_reader(streams, loop, run):
    class Counting(streams.StreamReader):
        def __init__(self, name, **rest):
            super().__init__(**rest)
            self.name = name
            self.fed = 0

        def feed_data(self, data):
            self.fed += len(data)
            super().feed_data(data)

    reader = Counting("mine", limit=10, loop=loop)
    protocol = streams.StreamReaderProtocol(reader, loop=loop)
    protocol.data_received(b"hello\n")
    assert run(reader.readline()) == b"hello\n"
    assert (reader.name, reader.fed) == ("mine", 6)
    assert isinstance(reader, asyncio.StreamReader)


STEP = st.one_of(
    st.tuples(st.just("feed"), st.binary(min_size=1, max_size=12).map(lambda b: bytes(x % 4 + 97 for x in b))),
    st.tuples(st.just("read"), st.integers(-1, 9)),
    st.tuples(st.just("readexactly"), st.integers(-1, 12)),
    st.tuples(st.just("readuntil"), st.sampled_from([b"a", b"ab", b"cab", b""])),
    st.tuples(st.just("readline"), st.none()),
    st.tuples(st.just("cancel"), st.integers(0, 3)),
    st.tuples(st.just("turn"), st.none()),
    st.tuples(st.just("eof"), st.none()),
    st.tuples(st.just("fail"), st.none()),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, max_size=25), limit=st.integers(1, 20), looks=st.booleans())
def test_any_order_of_operations_gives_what_asyncio_gives(streams, run, loop, steps, limit, looks):
    async def play(module):
        reader = module.StreamReader(limit=limit, loop=loop)
        transport = Pausable()
        reader.set_transport(transport)
        log, tasks, searching = [], [], None

        async def one(number, reading):
            log.append((number, await caught(reading)))

        for what, argument in steps:
            if what.startswith("read"):
                # No reading takes what another one has searched, or was woken for: there hayase differs, see below.
                while reader._waiter is None and any(not task.done() for task in tasks):
                    await asyncio.sleep(0)
                if searching is not None and not searching.done():
                    continue
            match what:
                case "feed" if not reader._eof:
                    reader.feed_data(argument)
                case "turn":
                    await asyncio.sleep(0)
                case "eof":
                    reader.feed_eof()
                case "fail":
                    reader.set_exception(OSError("told"))
                case "cancel":
                    if argument < len(tasks):
                        tasks[-1 - argument].cancel()
                case "readline":
                    tasks.append(asyncio.ensure_future(one(len(tasks), reader.readline())))
                case "read" | "readexactly" | "readuntil":
                    tasks.append(asyncio.ensure_future(one(len(tasks), getattr(reader, what)(argument))))
            if what.startswith("read"):
                await asyncio.sleep(0)
                if what in ("readline", "readuntil"):
                    searching = tasks[-1]
            # Looking is itself a use of the buffer.
            buffer = bytes(reader._buffer) if looks else None
            log.append((buffer, reader._paused, reader._waiter is None, list(transport.asked)))
        for _ in range(3):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return log

    with warnings.catch_warnings():
        # A task that is cancelled before it began never awaits its reading.
        warnings.simplefilter("ignore", RuntimeWarning)
        ours = run(play(streams))
        gc.collect()
        assert ours == run(play(asyncio.streams))
        gc.collect()


@pytest.mark.oracle_differs("asyncio's first reading returns b'', as if the stream had ended")
def test_a_reading_whose_data_another_took_waits_again(run, reader, loop_factory):
    async def main():
        first = asyncio.create_task(reader.read(1))
        await asyncio.sleep(0)
        second = asyncio.create_task(reader.read(1))
        reader.feed_data(b"a")
        assert await second == b"a"
        if not loop_factory.is_hayase:
            assert await first == b""
            return
        await asyncio.sleep(0)
        reader.feed_data(b"b")
        assert await first == b"b"

    run(main())


@pytest.mark.oracle_differs("asyncio searches on where it was, behind the separator, and waits for ever")
def test_a_search_whose_data_another_took_begins_again(run, reader, loop_factory):
    async def main():
        reader.feed_data(b"b")
        first = asyncio.create_task(reader.readuntil(b"a"))
        await asyncio.sleep(0)
        assert await reader.read(1) == b"b"
        reader.feed_data(b"a")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if not loop_factory.is_hayase:
            assert not first.done()
            first.cancel()
            return
        assert await first == b"a"

    run(main())


def test_reading_all_takes_what_came_before_an_exception(run, reader):
    async def main():
        reading = asyncio.create_task(reader.read())
        await asyncio.sleep(0)
        reader.feed_data(b"a")
        reader.set_exception(OSError("told"))
        with pytest.raises(OSError, match="told"):
            await reading
        assert bytes(reader._buffer) == b""

    run(main())


# Over a connection ---------------------------------------------------------------------------------------------------


async def connected(streams, serve, **keywords):
    server = await streams.start_server(serve, "127.0.0.1", 0, **keywords)
    reader, writer = await streams.open_connection(*server.sockets[0].getsockname(), **keywords)
    return server, reader, writer


async def over(server, writer):
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    # Up to 3.12.0 that does not wait for the callbacks of the connections, and one that is cancelled is reported.
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0.001)


def test_lines_travel_both_ways(streams, run):
    async def echo(reader, writer):
        async for line in reader:
            writer.write(line.upper())
            await writer.drain()
        writer.close()

    async def main():
        server, reader, writer = await connected(streams, echo)
        for word in (b"one\n", b"two\n", b"x" * 60_000 + b"\n"):
            writer.write(word)
            assert await reader.readline() == word.upper()
        writer.writelines([b"a", b"b", b"\n"])
        assert await reader.readline() == b"AB\n"
        assert writer.can_write_eof()
        writer.write_eof()
        assert await reader.read() == b""
        assert reader.at_eof()
        await over(server, writer)

    run(main())


def test_much_data_is_read_whole_and_in_order_through_a_small_limit(streams, run):
    data = bytes(range(256)) * 8_000

    async def send(reader, writer):
        writer.write(data)
        await writer.drain()
        writer.close()

    async def main():
        server, reader, writer = await connected(streams, send, limit=1_000)
        received = bytearray()
        while chunk := await reader.read(777):
            received += chunk
            await asyncio.sleep(0)
        assert received == data
        await over(server, writer)

    run(main())


def test_drain_waits_while_the_peer_does_not_read(streams, run):
    async def main():
        go = asyncio.Event()

        async def slow(reader, writer):
            await go.wait()
            while await reader.read(1 << 16):
                pass
            writer.close()

        server, reader, writer = await connected(streams, slow)
        writer.write(bytes(16 << 20))
        draining = asyncio.create_task(writer.drain())
        for _ in range(5):
            await asyncio.sleep(0)
        assert not draining.done()
        go.set()
        assert await draining is None
        writer.write_eof()
        assert await reader.read() == b""
        await over(server, writer)

    run(main())


def test_who_drains_hears_that_the_connection_is_lost(streams, run):
    async def main():
        async def never(reader, writer):
            await reader.read(1)
            writer.transport.abort()

        server, _reader, writer = await connected(streams, never)
        writer.write(bytes(16 << 20))
        draining = [asyncio.create_task(caught(writer.drain())) for _ in range(3)]
        for outcome in await asyncio.gather(*draining):
            assert issubclass(outcome[0], ConnectionError)
        assert issubclass((await caught(writer.drain()))[0], ConnectionError)
        server.close()
        assert issubclass((await caught(writer.wait_closed()))[0], ConnectionError)

    run(main())


def test_drain_after_close_says_so(streams, run):
    async def main():
        async def serve(reader, writer):
            await reader.read()
            writer.close()

        server, _reader, writer = await connected(streams, serve)
        assert not writer.is_closing()
        writer.close()
        assert writer.is_closing()
        assert await caught(writer.drain()) == (ConnectionResetError, "Connection lost")
        await over(server, writer)

    run(main())


def test_a_reset_reaches_the_reader(streams, run):
    async def main():
        async def serve(reader, writer):
            await reader.read(1)
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            writer.transport.abort()

        server, reader, writer = await connected(streams, serve)
        writer.write(b"x")
        assert (await caught(reader.read()))[0] is ConnectionResetError
        assert (await caught(writer.wait_closed()))[0] is ConnectionResetError
        server.close()
        await server.wait_closed()

    run(main())


def test_an_exception_in_the_callback_is_reported_and_closes_the_connection(streams, run, loop):
    reports = []
    loop.set_exception_handler(lambda _, report: reports.append(report))

    async def main():
        async def broken(reader, writer):
            raise ZeroDivisionError("in the callback")

        server, reader, writer = await connected(streams, broken)
        assert await reader.read() == b""
        await over(server, writer)

    run(main())
    assert [report["message"] for report in reports] == ["Unhandled exception in client_connected_cb"]
    assert isinstance(reports[0]["exception"], ZeroDivisionError)
    assert isinstance(reports[0]["transport"], asyncio.Transport)


def test_the_callback_may_be_a_plain_function(streams, run):
    async def main():
        connections = []
        server, reader, writer = await connected(streams, lambda r, w: connections.append((r, w)))
        writer.write(b"ping")
        while not connections:
            await asyncio.sleep(0)
        (their_reader, their_writer) = connections.pop()
        assert await their_reader.readexactly(4) == b"ping"
        their_writer.close()
        assert await reader.read() == b""
        await over(server, writer)
        await their_writer.wait_closed()

    run(main())


def test_the_writer_tells_of_its_connection(streams, run):
    async def main():
        async def serve(reader, writer):
            await reader.read()
            writer.close()

        server, reader, writer = await connected(streams, serve)
        assert isinstance(writer, asyncio.StreamWriter)
        assert writer.get_extra_info("peername") == server.sockets[0].getsockname()
        assert writer.get_extra_info("nothing") is None
        assert writer.get_extra_info("nothing", 7) == 7
        assert writer.transport is writer._transport
        assert repr(writer).startswith("<StreamWriter transport=<")
        assert repr(reader).startswith("<StreamReader transport=<")
        with pytest.raises(TypeError):
            writer.write("text")
        await over(server, writer)

    run(main())


def test_a_writer_that_is_forgotten_warns_and_closes(streams, run):
    async def main():
        async def serve(reader, writer):
            await reader.read()
            writer.close()

        server, reader, writer = await connected(streams, serve)
        transport = writer.transport
        with pytest.warns(ResourceWarning, match=r"^unclosed <StreamWriter"):
            del writer
            gc.collect()
        assert transport.is_closing()
        assert await reader.read() == b""
        server.close()
        await server.wait_closed()

    run(main())


def test_streams_that_nobody_holds_are_freed(streams, run):
    async def main():
        seen = []

        async def serve(reader, writer):
            seen.extend([weakref.ref(reader), weakref.ref(writer), weakref.ref(writer._protocol)])
            await reader.read()
            writer.close()
            await writer.wait_closed()

        server, reader, writer = await connected(streams, serve)
        seen.extend([weakref.ref(reader), weakref.ref(writer), weakref.ref(writer._protocol)])
        await over(server, writer)
        del reader, writer
        # Up to 3.12.0 `wait_closed()` of a server does not wait for its connections: they end a few turns later.
        for _ in range(200):
            gc.collect()
            if not any(ref() for ref in seen):
                break
            await asyncio.sleep(0.01)
        assert [ref() for ref in seen] == [None] * 6

    run(main())


def test_a_connection_without_its_reader_is_drained_and_ends(streams, run):
    async def main():
        async def serve(reader, writer):
            writer.write(b"unheard")
            writer.close()
            await writer.wait_closed()
            heard.set()

        heard = asyncio.Event()
        server, reader, writer = await connected(streams, serve)
        writer._reader = None
        reader = weakref.ref(reader)
        gc.collect()
        assert reader() is None
        writer.write_eof()
        await heard.wait()
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())


def test_a_protocol_of_the_programs_may_stand_on_ours(streams, run):
    async def main():
        lines = []

        class Spy(streams.StreamReaderProtocol):
            def data_received(self, data):
                lines.append(bytes(data))
                super().data_received(data)

        loop = asyncio.get_running_loop()
        reader = streams.StreamReader(loop=loop)

        async def serve(reader, writer):
            writer.write(b"hello\n")
            writer.close()

        server = await streams.start_server(serve, "127.0.0.1", 0)
        transport, protocol = await loop.create_connection(
            lambda: Spy(reader, loop=loop), *server.sockets[0].getsockname()
        )
        assert await reader.readline() == b"hello\n"
        assert lines == [b"hello\n"]
        writer = streams.StreamWriter(transport, protocol, reader, loop)
        await over(server, writer)

    run(main())


def test_wait_closed_may_be_awaited_by_many(streams, run):
    async def main():
        async def serve(reader, writer):
            await reader.read()
            writer.close()

        server, _reader, writer = await connected(streams, serve)
        waits = [asyncio.create_task(writer.wait_closed()) for _ in range(3)]
        await asyncio.sleep(0)
        waits[0].cancel()
        writer.close()
        assert await caught(waits[0]) == (asyncio.CancelledError, "")
        # The closing itself was cancelled with the first wait, as in asyncio: there is one future for all.
        for wait in waits[1:]:
            assert (await caught(wait))[0] is asyncio.CancelledError
        server.close()
        await server.wait_closed()

    run(main())


# The buffer, which programs reach into -------------------------------------------------------------------------------


def test_what_is_done_to_the_buffer_before_the_next_reading_counts(reader, run):
    reader.feed_data(b"injected before STARTTLS\n")
    assert reader._buffer is reader._buffer
    reader._buffer.clear()
    reader.feed_data(b"after\n")
    assert run(reader.readline()) == b"after\n"
    reader.feed_data(b"12345")
    del reader._buffer[:2]
    reader._buffer.extend(b"67")
    assert bytes(reader._buffer) == b"34567"
    assert run(reader.readexactly(5)) == b"34567"
    assert reader._buffer == b""


def test_a_reading_that_waits_finds_the_buffer_changed(reader, run, turn, loop):
    reading = loop.create_task(reader.readline())
    turn()
    reader.feed_data(b"begin")
    turn(2)
    reader._buffer[:] = b"another"
    reader.feed_data(b" end\nrest")
    assert run(reading) == b"another end\n"
    assert bytes(reader._buffer) == b"rest"


@pytest.mark.parametrize(
    ("method", "count"), [("read", 6), ("read", 100), ("read", 2**40), ("readexactly", 6), ("readexactly", 4)]
)
@pytest.mark.parametrize("meanwhile", ["nothing", "more", "look", "change", "another", "end", "failure"])
def test_what_arrives_whole_for_a_reading_that_waits_may_be_used_before(
    reader, run, turn, loop, method, count, meanwhile
):
    reading = loop.create_task(caught(getattr(reader, method)(count)))
    turn()
    reader.feed_data(b"whole.")
    other = None
    match meanwhile:
        case "more":
            reader.feed_data(b"more")
        case "look":
            assert reader._buffer == b"whole."
        case "change":
            reader._buffer[:3] = b"other"
        case "another":
            with pytest.raises(StopIteration) as done_at_once:
                reader.read(5).send(None)
            other = done_at_once.value.value
        case "end":
            reader.feed_eof()
        case "failure":
            reader.set_exception(OSError("told"))
    turn(2)
    done = reading.done()
    if not done:
        reader.feed_data(b"the end")
    taken = {"read": b"whole.", "readexactly": b"whole."[:count]}[method]
    match meanwhile:
        case "nothing" | "look" | "end" | "failure":
            expected, left = taken, b"whole."[len(taken) :]
        case "more":
            expected, left = b"whole.more"[:count], b"whole.more"[count:]
        case "change":
            expected, left = b"otherle."[:count], b"otherle."[count:]
        case "another" if method == "readexactly":
            expected, left = b".the end"[:count], b".the end"[count:]
        case "another":
            expected, left = b".", b""
    assert run(reading) == expected
    assert other in (None, b"whole")
    assert reader._buffer == left
    assert done is not (meanwhile == "another" and method == "readexactly")


def test_a_reading_that_is_cancelled_leaves_what_arrived_whole(reader, run, turn, loop):
    for method in ("read", "readexactly"):
        reading = loop.create_task(getattr(reader, method)(5))
        turn()
        reader.feed_data(b"12345")
        reading.cancel()
        assert attempt(run, reading) == (asyncio.CancelledError, "")
        assert run(reader.read(3)) == b"123"
        assert run(reader.read(3)) == b"45"


def test_more_than_the_limit_arriving_whole_pauses_and_resumes_the_transport(reader, run, turn, loop):
    transport = Pausable()
    reader.set_transport(transport)
    for take in (100, 33, 20):
        reading = loop.create_task(reader.read(take))
        turn()
        reader.feed_data(b"x" * 33)
        assert transport.asked == ["pause"]
        assert len(run(reading)) == min(take, 33)
        assert transport.asked == ["pause", "resume"]
        assert len(reader._buffer) == 33 - min(take, 33)
        reader._buffer.clear()
        transport.asked.clear()


def test_looking_at_the_buffer_changes_nothing(reader, run, turn, loop):
    reading = loop.create_task(reader.readline())
    turn()
    for byte in b"a line\n":
        reader.feed_data(bytes([byte]))
        assert reader._buffer.endswith(bytes([byte]))
        turn(2)
    assert run(reading) == b"a line\n"
