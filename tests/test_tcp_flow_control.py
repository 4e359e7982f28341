"""TCP: pausing what is read, and back-pressure on what is written."""

from __future__ import annotations

import asyncio
import os
import pathlib
import re

import pytest
from recording import BOTH_PROTOCOLS, Recording, connected, payload

# Pausing -------------------------------------------------------------------------------------------------------------


@BOTH_PROTOCOLS
def test_nothing_is_delivered_while_reading_is_paused_and_nothing_is_lost(run, protocol):
    data = payload(2_000_000)

    async def main():
        async with connected(protocol, Recording) as (near, far):
            assert near.transport.is_reading()
            near.transport.pause_reading()
            assert not near.transport.is_reading()
            far.transport.write(data)
            for _ in range(20):
                await asyncio.sleep(0)
            assert near.data == b""
            near.transport.resume_reading()
            assert near.transport.is_reading()
            assert await near.received(len(data)) == data

    run(main())


@BOTH_PROTOCOLS
def test_pausing_inside_a_callback_stops_the_very_next_delivery(run, protocol):
    data = payload(1_000_000)

    class Pauses(protocol):
        def _arrived(self, data):
            assert self.transport.is_reading()
            super()._arrived(data)
            self.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self.transport.resume_reading)

    async def main():
        async with connected(Pauses, Recording) as (near, far):
            far.transport.write(data)
            assert await near.received(len(data)) == data
            assert len(near.chunks) > 1

    run(main())


def test_pausing_and_resuming_twice_is_harmless(run):
    async def main():
        async with connected() as (near, far):
            near.transport.pause_reading()
            near.transport.pause_reading()
            near.transport.resume_reading()
            near.transport.resume_reading()
            far.transport.write(b"x")
            await near.received(1)
        near.transport.pause_reading()
        near.transport.resume_reading()

    run(main())


def test_the_end_of_a_paused_connection_is_heard_when_it_is_resumed(run):
    async def main():
        async with connected() as (near, far):
            near.transport.pause_reading()
            far.transport.write(b"last words")
            far.transport.close()
            await far.closed
            for _ in range(10):
                await asyncio.sleep(0)
            assert near.events == ["connection_made"]
            near.transport.resume_reading()
            await near.closed
            assert near.events == ["connection_made", "data", "eof_received", "connection_lost"]
            assert near.data == b"last words"

    run(main())


def test_pausing_in_connection_made_keeps_what_is_there_already(run):
    class Pauses(Recording):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()

    async def main():
        async with connected(Recording, Pauses) as (near, far):
            near.transport.write(b"early")
            for _ in range(10):
                await asyncio.sleep(0)
            assert far.data == b""
            far.transport.resume_reading()
            assert await far.received(5) == b"early"

    run(main())


@pytest.mark.parametrize("late", [False, True], ids=["resumed before it comes", "resumed when it is there"])
def test_reading_on_request_gets_every_message(run, late):
    """As anyio's streams read: resume, wait, pause."""

    async def main():
        async with connected() as (near, far):
            near.transport.pause_reading()
            for number in range(50):
                message = b"%d," % number
                if late:
                    far.transport.write(message)
                    for _ in range(5):
                        await asyncio.sleep(0)
                    assert near.data == b""
                near.transport.resume_reading()
                if not late:
                    far.transport.write(message)
                await near.received(len(message))
                near.transport.pause_reading()
                assert near.data == message
                near.data.clear()

    run(main())


def is_registered(fd):
    """Whether an epoll of this process has the descriptor, as /proc tells it."""
    epolls = [entry.name for entry in os.scandir("/proc/self/fd") if "eventpoll" in os.readlink(entry.path)]
    texts = [pathlib.Path(f"/proc/self/fdinfo/{epoll}").read_text() for epoll in epolls]
    return any(re.search(rf"^tfd: +{fd} ", text, re.MULTILINE) for text in texts)


@pytest.mark.hayase_only("asyncio tells the kernel of every pause at once; programs see no difference")
def test_a_paused_connection_stays_registered_until_something_comes(run):
    async def main():
        async with connected() as (near, far):
            fd = near.transport.get_extra_info("socket").fileno()
            await asyncio.sleep(0)
            assert is_registered(fd)
            near.transport.pause_reading()
            await asyncio.sleep(0)
            assert is_registered(fd)
            far.transport.write(b"waits")
            while is_registered(fd):
                await asyncio.sleep(0)
            assert near.data == b""
            near.transport.resume_reading()
            assert is_registered(fd)
            assert await near.received(5) == b"waits"

    run(main())


def test_what_waits_for_a_paused_connection_does_not_keep_the_others_from_being_heard(run):
    async def main():
        async with connected() as (near, far), connected() as (other, others_peer):
            for _ in range(3):
                near.transport.pause_reading()
                far.transport.write(b"waits")
                others_peer.transport.write(b"heard")
                await other.received(5)
                other.data.clear()
                assert near.data == b""
                near.transport.resume_reading()
                await near.received(5)
                near.data.clear()

    run(main())


@pytest.mark.parametrize("end", ["close", "abort"])
@pytest.mark.parametrize("something_came", [False, True], ids=["silent", "with data"])
def test_a_paused_connection_ends_once_and_its_descriptor_is_free_for_the_next(run, end, something_came):
    async def main():
        for _ in range(3):
            async with connected() as (near, far):
                near.transport.pause_reading()
                if something_came:
                    far.transport.write(b"never read")
                    for _ in range(5):
                        await asyncio.sleep(0)
                getattr(near.transport, end)()
                await near.closed
                assert near.events == ["connection_made", "connection_lost"]
                near.transport.resume_reading()
            async with connected() as (near, far):
                far.transport.write(b"the next")
                assert await near.received(8) == b"the next"

    run(main())


def test_a_paused_connection_that_also_writes_hears_of_both(run):
    data = payload(3_000_000)

    async def main():
        async with connected() as (near, far):
            far.transport.pause_reading()
            near.transport.pause_reading()
            near.transport.write(data)
            far.transport.write(b"question")
            for _ in range(5):
                await asyncio.sleep(0)
            near.transport.resume_reading()
            assert await near.received(8) == b"question"
            near.transport.pause_reading()
            far.transport.resume_reading()
            assert await far.received(len(data)) == data
            near.data.clear()
            near.transport.resume_reading()
            far.transport.write(b"answer")
            assert await near.received(6) == b"answer"

    run(main())


def test_a_watched_descriptor_of_a_paused_connection_goes_back_to_it(run, loop):
    """As `loop.sendfile` needs it."""

    async def main():
        async with connected() as (near, far):
            near.transport.pause_reading()
            seen = loop.create_future()
            with near.transport.get_extra_info("socket").dup() as twin:
                loop.add_reader(twin, seen.set_result, None)
                far.transport.write(b"both hear")
                await seen
                loop.remove_reader(twin)
            assert near.data == b""
            near.transport.resume_reading()
            assert await near.received(9) == b"both hear"

    run(main())


# Back-pressure -------------------------------------------------------------------------------------------------------


def test_writing_is_paused_above_the_high_mark_and_resumed_below_the_low_one(run):
    async def main():
        async with connected() as (near, far):
            far.transport.pause_reading()
            near.transport.set_write_buffer_limits(high=100_000, low=20_000)
            assert near.transport.get_write_buffer_limits() == (20_000, 100_000)
            written = 0
            while not near.paused.done():
                near.transport.write(b"x" * 10_000)
                written += 10_000
            assert near.transport.get_write_buffer_size() > 100_000
            assert near.events[-1] == "pause_writing"
            for _ in range(10):
                near.transport.write(b"x" * 10_000)
                written += 10_000
            assert near.events.count("pause_writing") == 1
            far.transport.resume_reading()
            await near.resumed
            assert near.transport.get_write_buffer_size() <= 20_000
            await far.received(written)
            assert near.transport.get_write_buffer_size() == 0
            assert near.events == ["connection_made", "pause_writing", "resume_writing"]

    run(main())


def test_the_default_limits_are_asyncios(run):
    async def main():
        async with connected() as (near, _far):
            assert near.transport.get_write_buffer_limits() == (16384, 65536)
            assert near.transport.get_write_buffer_size() == 0

    run(main())


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"high": 0},
        {"high": 1},
        {"low": 0},
        {"low": 10},
        {"high": 10, "low": 10},
        {"high": 1000, "low": 0},
        {"high": 1, "low": 10},
        {"high": 1, "low": -1},
        {"high": -1},
        {"low": -1},
        {"high": None, "low": None},
        {"high": "x"},
    ],
    ids=repr,
)
def test_limits_are_taken_as_asyncio_takes_them(same_as_asyncio, limits):
    def story(loop):
        async def main():
            async with connected() as (near, _far):
                near.transport.set_write_buffer_limits(**limits)
                return near.transport.get_write_buffer_limits()

        return loop.run_until_complete(main())

    same_as_asyncio(story, text=limits != {"high": "x"})


def test_setting_a_lower_limit_pauses_at_once(same_as_asyncio):
    def story(loop):
        async def main():
            async with connected() as (near, far):
                far.transport.pause_reading()
                near.transport.set_write_buffer_limits(high=100_000_000)
                near.transport.write(b"x" * 20_000_000)
                before = list(near.events)
                near.transport.set_write_buffer_limits(high=1000)
                return before, list(near.events)

        return loop.run_until_complete(main())

    same_as_asyncio(story)


def test_with_a_limit_of_zero_every_unsent_byte_pauses(run):
    async def main():
        async with connected() as (near, far):
            far.transport.pause_reading()
            near.transport.set_write_buffer_limits(high=0)
            while not near.paused.done():
                near.transport.write(b"x" * 100_000)
                await asyncio.sleep(0)
            far.transport.resume_reading()
            await near.resumed
            assert near.transport.get_write_buffer_size() == 0

    run(main())


def test_an_error_of_pause_writing_and_resume_writing_is_reported(same_as_asyncio):
    def story(loop):
        reports = []
        loop.set_exception_handler(
            lambda loop, context: reports.append((context["message"], str(context["exception"])))
        )

        class Broken(Recording):
            def pause_writing(self):
                super().pause_writing()
                raise ValueError("in pause_writing")

            def resume_writing(self):
                super().resume_writing()
                raise ValueError("in resume_writing")

        async def main():
            async with connected(Broken, Recording) as (near, far):
                far.transport.pause_reading()
                near.transport.write(b"x" * 20_000_000)
                await near.paused
                far.transport.resume_reading()
                await near.resumed
                await far.received(20_000_000)
                near.transport.write(b"still alive")
                await far.received(20_000_011)

        loop.run_until_complete(main())
        return reports

    assert same_as_asyncio(story).value == [
        ("protocol.pause_writing() failed", "in pause_writing"),
        ("protocol.resume_writing() failed", "in resume_writing"),
    ]


def test_draining_a_stream_waits_for_the_peer(run):
    async def main():
        received = asyncio.get_running_loop().create_future()
        go = asyncio.Event()

        async def slow(reader, writer):
            await go.wait()
            received.set_result(len(await reader.read(-1)))
            writer.close()

        server = await asyncio.start_server(slow, "127.0.0.1", 0)
        _reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"x" * 30_000_000)
        draining = asyncio.create_task(writer.drain())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not draining.done()
        go.set()
        await draining
        writer.close()
        await writer.wait_closed()
        assert await received == 30_000_000
        server.close()

    run(main())
