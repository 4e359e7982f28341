"""TCP: connecting, serving, and everything a stream transport owes its protocol."""

from __future__ import annotations

import asyncio
import errno
import random
import re
import socket
import sys
import time

import pytest
from recording import BOTH_PROTOCOLS, BufferedRecording, Recording, connected, payload

since_3_12 = pytest.mark.skipif(sys.version_info < (3, 12), reason="came with 3.12")
since_3_13 = pytest.mark.skipif(sys.version_info < (3, 13), reason="came with 3.13")


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


# Moving bytes --------------------------------------------------------------------------------------------------------


@BOTH_PROTOCOLS
def test_bytes_travel_in_both_directions(run, protocol):
    async def main():
        async with connected(protocol, protocol) as (near, far):
            near.transport.write(b"to the server")
            assert await far.received(13) == b"to the server"
            far.transport.write(b"to the client")
            assert await near.received(13) == b"to the client"
        assert near.events == ["connection_made", "data", "connection_lost"]
        assert far.events == near.events

    run(main())


@BOTH_PROTOCOLS
@pytest.mark.parametrize("size", [1, 64, 4096, 65535, 65536, 65537, 262144, 1_000_003, 8_000_000])
def test_bytes_of_any_size_arrive_whole_and_in_order(run, protocol, size):
    data = payload(size)

    async def main():
        async with connected(Recording, protocol) as (near, far):
            near.transport.write(data)
            assert await far.received(size) == data

    run(main())


@BOTH_PROTOCOLS
def test_many_small_writes_arrive_whole_and_in_order(run, protocol):
    pieces = [payload(random.Random(n).randrange(1, 200), n) for n in range(3000)]

    async def main():
        async with connected(Recording, protocol) as (near, far):
            for number, piece in enumerate(pieces):
                near.transport.write(piece)
                if number % 100 == 0:
                    await asyncio.sleep(0)
            assert await far.received(sum(map(len, pieces))) == b"".join(pieces)

    run(main())


@pytest.mark.hayase_only("asyncio allocates 256 KiB for each read, whatever the allocator makes of it")
def test_a_large_read_needs_no_new_memory_of_the_kernel(program):
    outcome = program(
        """
        import resource

        BLOCK = bytes(80 * 1024)
        ours, theirs = socket.socketpair()

        class Counting(asyncio.Protocol):
            received = 0

            def data_received(self, data):
                self.received += len(data)

        async def main():
            transport, protocol = await asyncio.get_running_loop().create_connection(Counting, sock=ours)

            async def read(count):
                for _ in range(count):
                    wanted = protocol.received + len(BLOCK)
                    theirs.sendall(BLOCK)
                    while protocol.received < wanted:
                        await asyncio.sleep(0)

            await read(10)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            await read(100)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
            transport.close()

        new_event_loop().run_until_complete(main())
        """
    )
    assert outcome.returncode == 0, outcome.stderr
    assert int(outcome.stdout) < 100  # pages: fewer than one a read


def waiting(sock):
    """What lies in a socket's buffer, without waiting for more."""
    try:
        return sock.recv(65536, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return b""


@pytest.mark.oracle_differs("each write of asyncio's tries to send at once")
def test_small_writes_leave_when_the_callback_that_wrote_them_ends(run, loop, loop_factory):
    seen = []
    ours, theirs = socket.socketpair()

    def head_and_body(transport):
        transport.write(b"head")
        seen.append(waiting(theirs))
        transport.write(b"body")
        seen.append(transport.get_write_buffer_size())

    async def main():
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        loop.call_soon(head_and_body, transport)
        await asyncio.sleep(0.001)
        seen.append(waiting(theirs))
        transport.close()

    with theirs:
        run(main())
    assert seen == ([b"", 8, b"headbody"] if loop_factory.is_hayase else [b"head", 0, b"body"])


def test_what_callbacks_of_one_turn_write_has_left_when_it_ends(run, loop):
    seen = []
    pairs = [socket.socketpair() for _ in range(3)]

    async def main():
        transports = [(await loop.create_connection(asyncio.Protocol, sock=ours))[0] for ours, _ in pairs]
        for transport in transports:
            loop.call_soon(transport.write, b"x")
        await asyncio.sleep(0)  # this step belongs to the turn of the writes, the next one does not
        await asyncio.sleep(0)
        seen.extend(waiting(theirs) for _, theirs in pairs)
        for transport in transports:
            transport.close()

    try:
        run(main())
    finally:
        for _, theirs in pairs:
            theirs.close()
    assert seen == [b"x"] * 3


def test_a_long_callback_holds_up_nothing_that_comes_after_it(run, loop):
    """What was written before and by it has left when the next callback of the turn runs."""
    seen = []
    ours, theirs = socket.socketpair()

    def busy():
        end = time.monotonic() + 0.002
        while time.monotonic() < end:
            pass

    async def main():
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        loop.call_soon(transport.write, b"before")
        loop.call_soon(busy)
        loop.call_soon(lambda: seen.append(waiting(theirs)))
        await asyncio.sleep(0.001)
        transport.close()

    with theirs:
        run(main())
    assert seen == [b"before"]


def test_small_and_large_writes_mixed_keep_their_order(run):
    choose = random.Random(9)
    pieces = [payload(choose.choice([1, 10, 100, 70_000, 300_000]), n) for n in range(60)]

    async def main():
        async with connected() as (near, far):
            for number, piece in enumerate(pieces):
                near.transport.write(choose.choice([bytes, bytearray, memoryview])(piece))
                if number % 7 == 0:
                    await asyncio.sleep(0)
            assert await far.received(sum(map(len, pieces))) == b"".join(pieces)

    run(main())


def test_an_echo_of_everything_comes_back_whole(run):
    data = payload(5_000_000)

    class Echo(Recording):
        def data_received(self, data):
            self.transport.write(data)

    async def main():
        async with connected(Recording, Echo) as (near, _far):
            near.transport.write(data)
            assert await near.received(len(data)) == data

    run(main())


def test_what_is_written_before_close_arrives(run):
    data = payload(3_000_000)

    async def main():
        async with connected() as (near, far):
            near.transport.write(data)
            near.transport.write(b"end")
            near.transport.close()
            assert near.transport.is_closing()
            assert await far.closed is None
            assert bytes(far.data) == data + b"end"
            assert await near.closed is None
            assert far.events == ["connection_made", "data", "eof_received", "connection_lost"]

    run(main())


@pytest.mark.parametrize(
    "make",
    [bytes, bytearray, memoryview, lambda data: memoryview(bytearray(data))],
    ids=["bytes", "bytearray", "memoryview", "memoryview of bytearray"],
)
def test_any_buffer_of_bytes_can_be_written(run, make):
    async def main():
        async with connected() as (near, far):
            near.transport.write(make(b"one "))
            near.transport.writelines([make(b"two "), make(b""), make(b"three")])
            assert await far.received(13) == b"one two three"

    run(main())


def test_other_buffers_are_taken_as_asyncio_takes_them(same_as_asyncio):
    import array

    def story(loop):
        async def main():
            rows = []
            async with connected() as (near, far):
                for data in (array.array("b", b"array"), memoryview(b"abcdef")[::2], memoryview(b"abcdef").cast("H")):
                    try:
                        near.transport.write(data)
                    except Exception as error:
                        rows.append(type(error).__name__)
                    else:
                        rows.append("taken")
                near.transport.write(b"end")
                near.transport.close()
                await far.closed
                return rows, bytes(far.data)

        return loop.run_until_complete(main())

    same_as_asyncio(story)


@pytest.mark.parametrize("wrong", ["text", 1, None, [b"a"], object()], ids=["str", "int", "None", "list", "object"])
def test_what_is_no_buffer_is_refused(same_as_asyncio, wrong):
    def story(loop):
        async def main():
            async with connected() as (near, _far):
                near.transport.write(wrong)

        loop.run_until_complete(main())

    assert same_as_asyncio(story).error[0] is TypeError


def test_empty_writes_are_nothing(run):
    async def main():
        async with connected() as (near, far):
            for _ in range(10):
                near.transport.write(b"")
                near.transport.writelines([])
                near.transport.writelines([b"", b""])
            assert near.transport.get_write_buffer_size() == 0
            near.transport.write(b"x")
            assert await far.received(1) == b"x"
            assert far.chunks == [1]

    run(main())


def test_writelines_takes_any_iterable(run):
    async def main():
        async with connected() as (near, far):
            near.transport.writelines(bytes([n]) for n in range(100))
            near.transport.writelines((b"a", b"b"))
            big = payload(1_000_000)
            near.transport.writelines([big, big])
            assert await far.received(2_000_102) == bytes(range(100)) + b"ab" + big + big

    run(main())


@pytest.mark.oracle_differs("asyncio from 3.12 on keeps a view of the caller's buffer; hayase sends what was written")
def test_changing_a_buffer_after_writing_it_does_not_change_what_the_peer_sees(run, loop_factory):
    size = 4_000_000

    async def main():
        async with connected() as (near, far):
            far.transport.pause_reading()
            filler = bytearray(b"a") * size
            near.transport.write(filler)
            late = bytearray(b"b") * 1000
            near.transport.write(late)
            lines = bytearray(b"c") * 1000
            near.transport.writelines([lines])
            filler[:] = b"X" * size
            late[:] = b"Y" * 1000
            lines[:] = b"Z" * 1000
            far.transport.resume_reading()
            return await far.received(size + 2000)

    got = run(main())
    if loop_factory.is_hayase:
        assert got == b"a" * size + b"b" * 1000 + b"c" * 1000
    elif sys.version_info >= (3, 12):
        assert b"X" in got and b"Y" in got
    else:
        assert got[:size] == b"a" * size


@pytest.mark.hayase_only("a buffer that asyncio keeps a view of cannot be resized; on hayase it stays the caller's")
def test_a_written_buffer_can_be_resized_afterwards(run):
    async def main():
        async with connected() as (near, far):
            far.transport.pause_reading()
            data = bytearray(b"a") * 4_000_000
            near.transport.write(data)
            data.clear()
            far.transport.resume_reading()
            assert await far.received(4_000_000) == b"a" * 4_000_000

    run(main())


@BOTH_PROTOCOLS
def test_closing_inside_data_received_ends_the_calls(run, protocol):
    async def main():
        async with connected(protocol, Recording) as (near, far):

            class Closes(Recording):
                def data_received(self, data):
                    super().data_received(data)
                    self.transport.close()

            closes = Closes()
            closes.transport = near.transport
            near.transport.set_protocol(closes)
            for _ in range(10):
                far.transport.write(payload(200_000))
            await closes.closed
            assert closes.events == ["data", "connection_lost"]
            assert len(closes.chunks) == 1
            near.closed.set_result(None)
            await far.closed

    run(main())


# Protocols that receive into their own buffer ------------------------------------------------------------------------


def test_a_buffered_protocol_of_one_byte_gets_everything(run):
    async def main():
        async with connected(lambda: BufferedRecording(size=1), Recording) as (near, far):
            far.transport.write(b"hello world")
            assert await near.received(11) == b"hello world"
            assert set(near.chunks) == {1}
            assert all(isinstance(hint, int) for hint in near.hints)

    run(main())


@pytest.mark.parametrize("give", ["empty", "not a buffer", "raises", "readonly"])
def test_a_wrong_buffer_closes_the_connection_with_asyncios_report(same_as_asyncio, give):
    def story(loop):
        reports = []
        loop.set_exception_handler(
            lambda loop, context: reports.append((context["message"], type(context.get("exception")).__name__))
        )

        class Wrong(BufferedRecording):
            def get_buffer(self, sizehint):
                if give == "raises":
                    raise ZeroDivisionError
                return {"empty": bytearray(), "not a buffer": 1, "readonly": b"readonly"}[give]

        async def main():
            async with connected(Wrong, Recording) as (near, far):
                far.transport.write(b"x")
                await near.closed
                return reports, type(near.error).__name__, near.events

        return loop.run_until_complete(main())

    assert same_as_asyncio(story).value[1] != "NoneType"


def test_a_memoryview_and_an_array_can_be_given_as_buffers(run):
    import array

    async def main():
        for buffer in (memoryview(bytearray(100)), array.array("B", bytes(100)), memoryview(bytearray(100))[10:90]):

            class Own(BufferedRecording):
                def get_buffer(self, sizehint, buffer=buffer):
                    return buffer

                def buffer_updated(self, nbytes, buffer=buffer):
                    self._arrived(bytes(buffer[:nbytes]))

            async with connected(Own, Recording) as (near, far):
                far.transport.write(b"into your own")
                assert await near.received(13) == b"into your own"

    run(main())


def test_the_protocol_can_be_changed_between_kinds_and_no_byte_is_lost(run):
    data = payload(400_000)

    async def main():
        async with connected(Recording, Recording) as (near, far):
            assert near.transport.get_protocol() is near
            kinds = [Recording, BufferedRecording]
            parts = []
            sender = asyncio.create_task(send_slowly(far.transport))
            current = near
            total = 0
            for turn in range(40):
                while not current.data:
                    await asyncio.sleep(0)
                following = kinds[turn % 2]()
                following.transport = near.transport
                near.transport.set_protocol(following)
                assert near.transport.get_protocol() is following
                parts.append(bytes(current.data))
                total += len(parts[-1])
                current = following
                if total + 10_000 > len(data):
                    break
            await current.received(len(data) - total)
            parts.append(bytes(current.data))
            assert b"".join(parts) == data
            await sender
            near.transport.set_protocol(near)

    async def send_slowly(transport):
        for start in range(0, len(data), 10_000):
            transport.write(data[start : start + 10_000])
            await asyncio.sleep(0)

    run(main())


def test_a_protocol_without_base_class_is_enough(run):
    class Bare:
        def __init__(self):
            self.got = asyncio.get_running_loop().create_future()
            self.lost = asyncio.get_running_loop().create_future()

        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.got.set_result(data)

        def eof_received(self):
            return None

        def connection_lost(self, error):
            self.lost.set_result(error)

        def pause_writing(self):
            pass

        def resume_writing(self):
            pass

    async def main():
        async with connected(Bare, Recording) as (near, far):
            far.transport.write(b"bare")
            assert await near.got == b"bare"
            far.transport.close()
            assert await near.lost is None

    run(main())


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


# Ends ----------------------------------------------------------------------------------------------------------------


def test_the_end_of_the_peer_closes_the_connection(run):
    async def main():
        async with connected() as (near, far):
            far.transport.close()
            await near.closed
            assert near.events == ["connection_made", "eof_received", "connection_lost"]
            assert near.error is None and far.error is None
            assert near.transport.is_closing()

    run(main())


@BOTH_PROTOCOLS
def test_half_closing_keeps_the_other_direction(run, protocol):
    async def main():
        async with connected(Recording, lambda: protocol(keep_open=True)) as (near, far):
            assert near.transport.can_write_eof() is True
            near.transport.write(b"question")
            near.transport.write_eof()
            near.transport.write_eof()
            await far.eof
            assert far.data == b"question"
            assert not far.transport.is_closing()
            answer = payload(2_000_000)
            far.transport.write(answer)
            assert await near.received(len(answer)) == answer
            assert near.events == ["connection_made", "data"]
            far.transport.close()
            await near.closed
            await far.closed

    run(main())


def test_eof_follows_what_is_still_queued(run):
    data = payload(6_000_000)

    async def main():
        async with connected(Recording, lambda: Recording(keep_open=True)) as (near, far):
            far.transport.pause_reading()
            near.transport.write(data)
            near.transport.write_eof()
            assert near.transport.get_write_buffer_size() > 0
            far.transport.resume_reading()
            await far.eof
            assert far.data == data

    run(main())


def test_writing_after_eof_is_refused(same_as_asyncio):
    def story(loop):
        async def main():
            texts = []
            async with connected(Recording, lambda: Recording(keep_open=True)) as (near, far):
                near.transport.write_eof()
                for call in (lambda: near.transport.write(b"x"), lambda: near.transport.writelines([b"x"])):
                    try:
                        call()
                    except RuntimeError as error:
                        texts.append(str(error))
                await far.eof
            return texts

        return loop.run_until_complete(main())

    assert same_as_asyncio(story).value == ["Cannot call write() after write_eof()"] + (
        ["Cannot call writelines() after write_eof()"]
        if sys.version_info >= (3, 12)
        else ["Cannot call write() after write_eof()"]
    )


def test_abort_drops_what_is_queued_and_tells_the_protocol_in_the_next_turn(run):
    async def main():
        async with connected() as (near, far):
            far.transport.pause_reading()
            near.transport.write(b"x" * 20_000_000)
            near.transport.abort()
            assert near.transport.is_closing()
            assert near.transport.get_write_buffer_size() == 0
            assert "connection_lost" not in near.events
            assert await near.closed is None
            near.transport.abort()
            far.transport.resume_reading()
            await far.closed
            assert len(far.data) < 20_000_000

    run(main())


def test_close_then_abort_ends_once(run):
    async def main():
        async with connected() as (near, far):
            far.transport.pause_reading()
            near.transport.write(b"x" * 20_000_000)
            near.transport.close()
            near.transport.close()
            await asyncio.sleep(0)
            assert not near.closed.done()
            near.transport.abort()
            await near.closed
            assert near.events.count("connection_lost") == 1
            far.transport.abort()

    run(main())


def test_writes_after_close_go_nowhere_and_are_warned_about(same_as_asyncio):
    def story(loop):
        async def main():
            async with connected() as (near, far):
                near.transport.close()
                await near.closed
                for _ in range(8):
                    near.transport.write(b"too late")
                await far.closed
                return bytes(far.data)

        return loop.run_until_complete(main())

    outcome = same_as_asyncio(story)
    assert outcome.value == b""
    assert outcome.log != []


def test_a_closed_transport_still_answers(run):
    async def main():
        async with connected() as (near, _far):
            peer = near.transport.get_extra_info("peername")
            near.transport.close()
            await near.closed
        transport = near.transport
        assert transport.is_closing()
        assert transport.get_extra_info("peername") == peer
        assert transport.get_write_buffer_size() == 0
        assert transport.is_reading() is False
        assert transport.get_write_buffer_limits() == (16384, 65536)
        transport.pause_reading()
        transport.resume_reading()
        transport.close()
        transport.abort()
        assert "closed" in repr(transport)

    run(main())


def test_eof_received_may_be_missing_its_end(run):
    async def main():
        async with connected(lambda: Recording(keep_open=True), Recording) as (near, far):
            far.transport.write_eof()
            await near.eof
            near.transport.write(b"still writing")
            assert await far.received(13) == b"still writing"
            near.transport.close()
            await near.closed
            await far.closed

    run(main())


# What a transport says about itself ----------------------------------------------------------------------------------


def test_a_transport_is_asyncios_transport_and_knows_its_socket(run):
    async def main():
        async with connected() as (near, far):
            transport = near.transport
            assert isinstance(transport, asyncio.Transport)
            sock = transport.get_extra_info("socket")
            assert isinstance(sock, asyncio.trsock.TransportSocket)
            assert sock.family == socket.AF_INET and sock.type == socket.SOCK_STREAM
            assert sock.gettimeout() == 0
            assert transport.get_extra_info("sockname") == far.transport.get_extra_info("peername")
            assert transport.get_extra_info("peername") == far.transport.get_extra_info("sockname")
            assert sock.getsockname() == transport.get_extra_info("sockname")
            assert transport.get_extra_info("nothing") is None
            assert transport.get_extra_info("nothing", "default") == "default"
            assert transport.get_extra_info("sslcontext") is None

    run(main())


def test_nagle_is_off_on_both_ends(run):
    async def main():
        async with connected() as (near, far):
            for protocol in (near, far):
                sock = protocol.transport.get_extra_info("socket")
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1

    run(main())


def test_a_transport_shows_its_state(run):
    async def main():
        async with connected() as (near, _far):
            text = repr(near.transport)
            assert re.match(r"<\w*Transport .*fd=\d+", text)
            assert f"fd={near.transport.get_extra_info('socket').fileno()}" in text
            near.transport.close()
            assert "clos" in repr(near.transport)

    run(main())


def test_transports_can_be_weakly_referenced_and_hold_attributes_of_protocols(run):
    import weakref

    async def main():
        async with connected() as (near, _far):
            assert weakref.ref(near.transport)() is near.transport
            assert len({near.transport, near.transport}) == 1

    run(main())


def test_a_transport_dropped_open_warns_and_closes(loop, run, turn):
    import gc

    ours, theirs = socket.socketpair()

    async def main():
        ours.setblocking(False)
        return await loop.create_connection(asyncio.Protocol, sock=ours)

    transport, protocol = run(main())
    theirs.setblocking(False)
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        loop.close()
        del transport, protocol
        gc.collect()
    ours.close()
    theirs.close()


# Connecting ----------------------------------------------------------------------------------------------------------


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
