"""TCP: everything a stream transport owes its protocol. Connecting, serving and flow control have files of their own."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import socket
import sys
import time

import pytest
from recording import BOTH_PROTOCOLS, BufferedRecording, Recording, connected, payload

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


@pytest.mark.oracle_differs("each write of asyncio's fails in the task that wrote; hayase's fails when the turn ends")
def test_who_is_told_of_a_failed_write_never_sees_the_task_of_another(run, loop, loop_factory):
    seen = []
    ours, theirs = socket.socketpair()

    class Log(logging.Handler):
        def emit(self, record):
            if "Fatal write error" in record.getMessage():
                seen.append(asyncio.current_task(loop))

    async def write(transport):
        transport.write(b"x")

    async def do_something_else():
        assert asyncio.current_task() is not writer

    async def main():
        nonlocal writer
        transport, protocol = await loop.create_connection(Recording, sock=ours)
        transport.pause_reading()  # else the end would be read first
        theirs.close()
        writer, other = asyncio.create_task(write(transport)), asyncio.create_task(do_something_else())
        await asyncio.gather(writer, other)
        assert isinstance(await protocol.closed, BrokenPipeError)

    writer = None
    log, logger = Log(), logging.getLogger("asyncio")
    level = logger.level
    logger.addHandler(log)
    logger.setLevel(logging.DEBUG)
    loop.set_debug(True)
    try:
        run(main())
    finally:
        loop.set_debug(False)
        logger.setLevel(level)
        logger.removeHandler(log)
    assert seen == ([None] if loop_factory.is_hayase else [writer])


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


AFTER_THE_FIRST = {
    "pause": lambda transport: transport.pause_reading(),
    "close": lambda transport: transport.close(),
    "abort": lambda transport: transport.abort(),
    "replace": lambda transport: transport.set_protocol(Recording()),
}


@pytest.mark.parametrize("act", AFTER_THE_FIRST.values(), ids=AFTER_THE_FIRST)
def test_a_buffered_protocol_that_wants_no_more_gets_no_more(run, act):
    """Also if more has come than its buffer takes."""

    class Once(BufferedRecording):
        def buffer_updated(self, count):
            super().buffer_updated(count)
            act(self.transport)

    async def main():
        async with connected(lambda: Once(size=4), Recording) as (near, far):
            transport = near.transport
            far.transport.write(b"0123456789")
            assert await near.received(4) == b"0123"
            for _ in range(5):
                await asyncio.sleep(0.001)
            assert near.data == b"0123"
            if transport.is_closing():
                return
            if transport.get_protocol() is near:
                transport.resume_reading()
                assert await near.received(8) == b"01234567"
                transport.abort()
                return
            after = transport.get_protocol()
            assert await after.received(6) == b"456789"
            transport.close()
            await after.closed
            near.closed.set_result(None)

    run(main())


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
