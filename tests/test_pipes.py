"""`connect_read_pipe` and `connect_write_pipe`: pipes, FIFOs, sockets, terminals, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
import gc
import logging
import os
import random
import socket
import termios
import tty
import weakref

import pytest
from recording import Recording, payload


def opened(what, mode):
    """A file object without a buffer; whoever connects it closes it."""
    return open(what, mode, 0)


def pipe_files():
    reader, writer = os.pipe()
    return opened(reader, "rb"), opened(writer, "wb")


@contextlib.asynccontextmanager
async def reading(file, protocol=Recording):
    _, made = await asyncio.get_running_loop().connect_read_pipe(protocol, file)
    try:
        yield made
    finally:
        if not made.closed.done():
            made.transport.close()
        await asyncio.wait([made.closed])


@contextlib.asynccontextmanager
async def writing(file, protocol=Recording):
    _, made = await asyncio.get_running_loop().connect_write_pipe(protocol, file)
    try:
        yield made
    finally:
        if not made.transport.is_closing() or made.transport.get_write_buffer_size() > 0:
            made.transport.abort()
        await asyncio.wait([made.closed])


@contextlib.asynccontextmanager
async def pipe(reader_protocol=Recording, writer_protocol=Recording):
    """The protocols of a pipe's two ends."""
    read_end, write_end = pipe_files()
    async with reading(read_end, reader_protocol) as reader, writing(write_end, writer_protocol) as writer:
        yield reader, writer


def full(transport):
    """Write until the kernel takes no more; gives what was written."""
    written = b""
    for number in range(1000):
        if transport.get_write_buffer_size() > 0:
            return written
        piece = payload(30_000, number)
        transport.write(piece)
        written += piece
    raise AssertionError("the pipe is never full")


# Moving bytes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4096, 65535, 65536, 65537, 262144, 1_000_003, 5_000_000])
def test_bytes_of_any_size_arrive_whole_and_in_order(run, size):
    data = payload(size)

    async def main():
        async with pipe() as (reader, writer):
            writer.transport.write(data)
            assert await reader.received(size) == data
            assert writer.transport.get_write_buffer_size() == 0

    run(main())


def test_many_small_and_large_writes_keep_their_order(run):
    choose = random.Random(9)
    pieces = [payload(choose.choice([1, 10, 100, 70_000, 300_000]), n) for n in range(80)]

    async def main():
        async with pipe() as (reader, writer):
            for piece in pieces:
                writer.transport.write(piece)
            assert await reader.received(sum(map(len, pieces))) == b"".join(pieces)

    run(main())


def test_what_is_written_is_there_at_once(run):
    read_end, write_end = pipe_files()

    async def main():
        async with writing(write_end) as writer:
            writer.transport.write(b"first")
            os.write(write_end.fileno(), b"second")
            writer.transport.write(b"third")
            assert os.read(read_end.fileno(), 100) == b"firstsecondthird"

    run(main())
    read_end.close()


def test_mutable_data_is_copied(run):
    async def main():
        async with pipe() as (reader, writer):
            written = full(writer.transport)
            data = bytearray(b"as it was")
            writer.transport.write(data)
            writer.transport.write(memoryview(data)[3:])
            data[:] = b"different"
            assert await reader.received(len(written) + 15) == written + b"as it wasit was"

    run(main())


def test_writelines_writes_everything(run):
    async def main():
        async with pipe() as (reader, writer):
            writer.transport.writelines([b"one ", bytearray(b"two "), memoryview(b"three")])
            assert await reader.received(13) == b"one two three"
            with pytest.raises(TypeError):
                writer.transport.writelines([b"one", 2])

    run(main())


@pytest.mark.parametrize("data", ["text", None, 3, [b"list"]])
def test_only_bytes_can_be_written(same_as_asyncio, data):
    def story(loop):
        async def main():
            async with pipe() as (_, writer):
                writer.transport.write(data)

        loop.run_until_complete(main())

    assert same_as_asyncio(story).error == (AssertionError, repr(data))


def test_nothing_to_write_is_nothing(run):
    async def main():
        async with pipe() as (reader, writer):
            for nothing in (b"", bytearray(), memoryview(b"")):
                writer.transport.write(nothing)
            writer.transport.close()
            await reader.closed
            assert reader.events == ["connection_made", "eof_received", "connection_lost"]

    run(main())


def test_messages_on_a_packet_socket_keep_their_bounds(run):
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    async def main():
        async with writing(near) as writer:
            writer.transport.write(b"one")
            writer.transport.write(b"two")
            assert [far.recv(100), far.recv(100)] == [b"one", b"two"]

    run(main())
    far.close()


# What is accepted ------------------------------------------------------------------------------------------------------


def fifo(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    reader = opened(os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK), "rb")
    return reader, opened(tmp_path / "fifo", "wb")


def terminal(tmp_path):
    master, slave = os.openpty()
    tty.setraw(slave, termios.TCSANOW)
    return opened(master, "rb"), opened(slave, "wb")


KINDS = pytest.mark.parametrize(
    "make",
    [lambda _: pipe_files(), fifo, lambda _: socket.socketpair(), terminal],
    ids=["pipe", "fifo", "socket", "terminal"],
)


@KINDS
def test_both_ends_of_everything_that_flows_are_accepted(run, tmp_path, make):
    read_end, write_end = make(tmp_path)

    async def main():
        async with reading(read_end) as reader:
            async with writing(write_end) as writer:
                assert not os.get_blocking(read_end.fileno())
                assert not os.get_blocking(write_end.fileno())
                writer.transport.write(b"hello")
                assert await reader.received(5) == b"hello"
                assert isinstance(reader.transport, asyncio.ReadTransport)
                assert isinstance(writer.transport, asyncio.WriteTransport)
                assert reader.transport.get_extra_info("pipe") is read_end
                assert writer.transport.get_extra_info("pipe") is write_end
                assert writer.transport.get_extra_info("nothing", "default") == "default"
                assert reader.transport.get_extra_info("nothing") is None
                writer.transport.close()
                await writer.closed
            await reader.closed

    run(main())
    assert read_end.fileno() == -1 if isinstance(read_end, socket.socket) else read_end.closed
    assert write_end.fileno() == -1 if isinstance(write_end, socket.socket) else write_end.closed


@pytest.mark.parametrize("connect", ["connect_read_pipe", "connect_write_pipe"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # asyncio's half-made transports
@pytest.mark.parametrize("what", ["file", "folder", "closed file", "number", "object", "bad number"])
def test_anything_else_is_refused(same_as_asyncio, tmp_path, connect, what):
    (tmp_path / "file").write_bytes(b"")

    class BadNumber:
        def fileno(self):
            return 4000

    def story(loop):
        with contextlib.ExitStack() as stack:
            if what == "folder":
                number = os.open(tmp_path, os.O_RDONLY)
                stack.callback(os.close, number)
                file = type("Folder", (), {"fileno": lambda self: number})()
            elif what in ("file", "closed file"):
                file = stack.enter_context(open(tmp_path / "file", "r+b", 0))
                if what == "closed file":
                    file.close()
            else:
                file = {"number": 3, "object": object(), "bad number": BadNumber()}[what]
            try:
                loop.run_until_complete(getattr(loop, connect)(lambda: asyncio.Protocol(), file))
            finally:
                if what == "file":
                    assert not file.closed

    assert same_as_asyncio(story).error is not None


def test_the_null_device_can_be_written(run):
    async def main():
        async with writing(opened("/dev/null", "wb")) as writer:
            writer.transport.write(b"x" * 100_000)
            assert writer.transport.get_write_buffer_size() == 0
            writer.transport.close()
            assert await writer.closed is None

    run(main())


@pytest.mark.oracle_differs("asyncio reports EPERM to the exception handler and leaves a transport that never reads")
def test_a_device_that_epoll_refuses_is_a_clear_error(run, loop_factory, asyncio_log):
    file = opened("/dev/zero", "rb")

    async def main():
        loop = asyncio.get_running_loop()
        if not loop_factory.is_hayase:
            transport, _ = await loop.connect_read_pipe(asyncio.Protocol, file)
            (report,) = asyncio_log.take()
            assert report.exc_info[0] is PermissionError
            transport._pipe.close()
            transport._pipe = None
            return
        with pytest.raises(PermissionError, match=r"/dev/zero.* cannot be waited for: epoll refuses it") as caught:
            await loop.connect_read_pipe(asyncio.Protocol, file)
        assert caught.value.errno == errno.EPERM
        await asyncio.sleep(0)
        assert file.closed

    run(main())


def test_a_terminal_carries_both_directions_through_one_descriptor(run):
    class Other:
        """A second file object for the same descriptor, which is the first one's to close."""

        def __init__(self, number):
            self.number = number

        def fileno(self):
            return self.number

        def close(self):
            pass

    master, slave = os.openpty()
    tty.setraw(slave, termios.TCSANOW)
    for_writing = opened(master, "wb")
    for_reading = Other(master)

    async def main():
        async with writing(for_writing) as writer, reading(for_reading) as reader:
            written = full(writer.transport)  # now both wait for the descriptor
            os.set_blocking(slave, False)
            seen = b""
            while len(seen) < len(written):
                with contextlib.suppress(BlockingIOError):
                    seen += os.read(slave, 4096)
                await asyncio.sleep(0)
            assert seen == written
            os.write(slave, b"to the reader")
            assert await reader.received(13) == b"to the reader"

    run(main())
    os.close(slave)


def test_what_is_typed_does_not_close_the_writing_end_of_a_terminal(run):
    master, slave = os.openpty()
    tty.setraw(slave, termios.TCSANOW)

    async def main():
        async with writing(opened(slave, "wb")) as writer:
            os.write(master, b"typed")
            for _ in range(5):
                await asyncio.sleep(0)
            writer.transport.write(b"still here")
            assert os.read(master, 100) == b"still here"

    run(main())
    os.close(master)


# The end -----------------------------------------------------------------------------------------------------------------


def test_the_end_of_the_stream_comes_after_the_data(run):
    read_end, write_end = pipe_files()

    async def main():
        async with reading(read_end) as reader:
            os.write(write_end.fileno(), b"data")
            write_end.close()
            assert await reader.closed is None
            assert reader.events == ["connection_made", "data", "eof_received", "connection_lost"]
            assert reader.transport.is_closing()
            assert not reader.transport.is_reading()
            reader.transport.close()
            reader.transport.pause_reading()
            reader.transport.resume_reading()

    run(main())
    assert read_end.closed


def test_a_terminal_whose_other_side_is_gone_ends_with_EIO_and_without_a_report(run):
    master, slave = os.openpty()

    async def main():
        async with reading(opened(master, "rb")) as reader:
            os.close(slave)
            assert (await reader.closed).errno == errno.EIO
            assert reader.events == ["connection_made", "connection_lost"]

    run(main())


def test_closing_the_reading_end_calls_connection_lost_once(run):
    async def main():
        async with pipe() as (reader, writer):
            writer.transport.write(b"too late")
            reader.transport.close()
            reader.transport.close()
            assert await reader.closed is None
            assert reader.events == ["connection_made", "connection_lost"]

    run(main())


def test_closing_the_writing_end_flushes_first(run):
    async def main():
        async with pipe() as (reader, writer):
            written = full(writer.transport)
            writer.transport.close()
            writer.transport.close()
            assert writer.transport.is_closing()
            assert not writer.closed.done()
            assert await writer.closed is None
            await reader.closed
            assert reader.data == written
            assert writer.events == ["connection_made", "pause_writing", "resume_writing", "connection_lost"] or (
                writer.events == ["connection_made", "connection_lost"]
            )

    run(main())


def test_write_eof_closes_the_writing_end_after_what_is_queued(run):
    async def main():
        async with pipe() as (reader, writer):
            assert writer.transport.can_write_eof()
            written = full(writer.transport)
            writer.transport.write_eof()
            writer.transport.write_eof()
            writer.transport.write(b"ignored")
            assert await writer.closed is None
            await reader.closed
            assert reader.data == written

    run(main())


def test_aborting_drops_what_is_queued(run):
    async def main():
        async with pipe() as (reader, writer):
            reader.transport.pause_reading()
            written = full(writer.transport)
            left = writer.transport.get_write_buffer_size()
            writer.transport.abort()
            assert writer.transport.get_write_buffer_size() == 0
            assert await writer.closed is None
            reader.transport.resume_reading()
            await reader.closed
            assert reader.data == written[: len(written) - left]

    run(main())


def test_aborting_while_closing_ends_it(run):
    async def main():
        async with pipe() as (reader, writer):
            reader.transport.pause_reading()
            full(writer.transport)
            writer.transport.close()
            writer.transport.abort()
            assert await writer.closed is None

    run(main())


@pytest.mark.oracle_differs("asyncio calls connection_lost of a transport whose protocol is gone: AttributeError")
def test_aborting_twice_is_aborting_once(run, loop_factory, asyncio_log):
    async def main():
        async with pipe() as (_, writer):
            writer.transport.abort()
            if loop_factory.is_hayase:
                writer.transport.abort()
            assert await writer.closed is None
        assert writer.events == ["connection_made", "connection_lost"]

    run(main())


def test_writing_after_the_end_is_ignored_and_told_from_the_sixth_time_on(run, asyncio_log):
    async def main():
        async with pipe() as (_, writer):
            writer.transport.close()
            for number in range(8):
                writer.transport.write(b"too late")
                told = asyncio_log.messages()
                expected = ["pipe closed by peer or os.write(pipe, data) raised exception."] if number >= 5 else []
                assert told == expected

    run(main())


def test_an_idle_writer_hears_that_the_reader_is_gone(run):
    async def main():
        async with pipe() as (reader, writer):
            reader.transport.close()
            assert await writer.closed is None

    run(main())


def test_a_writer_that_loses_data_hears_of_a_broken_pipe(run):
    async def main():
        async with pipe() as (reader, writer):
            reader.transport.pause_reading()
            full(writer.transport)
            reader.transport.close()
            error = await writer.closed
            assert type(error) is BrokenPipeError
            assert writer.transport.get_write_buffer_size() == 0

    run(main())


def test_writing_into_a_pipe_whose_reader_is_gone_breaks_it(run, asyncio_log):
    read_end, write_end = pipe_files()

    async def main():
        async with writing(write_end) as writer:
            read_end.close()
            writer.transport.write(b"nobody reads this")
            assert writer.transport.is_closing()
            error = await writer.closed
            assert (type(error), error.errno) == (BrokenPipeError, errno.EPIPE)
            assert asyncio_log.messages() == []

    run(main())


# Flow control --------------------------------------------------------------------------------------------------------------


def test_data_that_arrives_while_paused_waits(run):
    async def main():
        async with pipe() as (reader, writer):
            reader.transport.pause_reading()
            reader.transport.pause_reading()
            assert not reader.transport.is_reading()
            writer.transport.write(b"patient")
            for _ in range(5):
                await asyncio.sleep(0)
            assert reader.data == b""
            reader.transport.resume_reading()
            reader.transport.resume_reading()
            assert reader.transport.is_reading()
            assert await reader.received(7) == b"patient"

    run(main())


def test_a_reader_can_be_paused_in_connection_made(run):
    class Paused(Recording):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()

    async def main():
        async with pipe(Paused) as (reader, writer):
            writer.transport.write(b"later")
            for _ in range(5):
                await asyncio.sleep(0)
            assert reader.data == b""
            reader.transport.resume_reading()
            assert await reader.received(5) == b"later"

    run(main())


def test_a_reader_paused_in_data_received_gets_nothing_more(run):
    class OneByOne(Recording):
        def data_received(self, data):
            self.transport.pause_reading()
            super().data_received(data)

    async def main():
        async with pipe(OneByOne) as (reader, writer):
            writer.transport.write(b"one")
            assert await reader.received(3) == b"one"
            writer.transport.write(b"two")
            for _ in range(5):
                await asyncio.sleep(0)
            assert reader.data == b"one"
            reader.transport.resume_reading()
            assert await reader.received(6) == b"onetwo"

    run(main())


def test_writing_is_paused_above_the_high_mark_and_resumed_below_the_low_one(run):
    async def main():
        async with pipe() as (reader, writer):
            reader.transport.pause_reading()
            assert writer.transport.get_write_buffer_limits() == (16384, 65536)
            writer.transport.set_write_buffer_limits(high=1000, low=10)
            assert writer.transport.get_write_buffer_limits() == (10, 1000)
            full(writer.transport)
            writer.transport.write(b"x" * 2000)
            assert writer.events == ["connection_made", "pause_writing"]
            reader.transport.resume_reading()
            await writer.resumed
            assert writer.transport.get_write_buffer_size() == 0
            writer.transport.set_write_buffer_limits()
            assert writer.transport.get_write_buffer_limits() == (16384, 65536)

    run(main())


@pytest.mark.parametrize("limits", [{"high": 1, "low": 2}, {"high": -1}, {"low": -4}])
def test_marks_that_make_no_sense_are_refused(same_as_asyncio, limits):
    def story(loop):
        async def main():
            async with pipe() as (_, writer):
                writer.transport.set_write_buffer_limits(**limits)

        loop.run_until_complete(main())

    assert same_as_asyncio(story).error[0] is ValueError


# Exceptions ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["connection_made", "data_received", "eof_received", "connection_lost"])
def test_an_exception_of_the_protocol_is_reported_once_and_the_pipe_goes_on(run, asyncio_log, where):
    class Failing(Recording):
        failures = 0

        def fail(self, name):
            if name == where and self.failures == 0:
                self.failures += 1
                raise ZeroDivisionError(where)

        def connection_made(self, transport):
            super().connection_made(transport)
            self.fail("connection_made")

        def data_received(self, data):
            super().data_received(data)
            self.fail("data_received")

        def eof_received(self):
            super().eof_received()
            self.fail("eof_received")

        def connection_lost(self, error):
            super().connection_lost(error)
            self.fail("connection_lost")

    async def main():
        async with pipe(Failing) as (reader, writer):
            writer.transport.write(b"one")
            await reader.received(3)
            writer.transport.write(b"two")
            assert await reader.received(6) == b"onetwo"
            writer.transport.close()
            await reader.closed
            assert reader.events == ["connection_made", "data", "eof_received", "connection_lost"]
        await asyncio.sleep(0)

    run(main())
    (report,) = asyncio_log.take()
    assert report.getMessage().startswith("Exception in callback")
    assert report.exc_info[0] is ZeroDivisionError


@pytest.mark.parametrize("where", ["pause_writing", "resume_writing"])
def test_an_exception_in_flow_control_is_reported_and_the_pipe_goes_on(run, asyncio_log, where):
    class Failing(Recording):
        def pause_writing(self):
            if where == "pause_writing":
                raise ZeroDivisionError(where)

        def resume_writing(self):
            if where == "resume_writing":
                raise ZeroDivisionError(where)

    async def main():
        async with pipe(Recording, Failing) as (reader, writer):
            writer.transport.set_write_buffer_limits(high=0)
            written = full(writer.transport)
            assert await reader.received(len(written)) == written

    run(main())
    (report,) = asyncio_log.take()
    assert report.getMessage().startswith(f"protocol.{where}() failed")


@pytest.mark.parametrize("connect", ["connect_read_pipe", "connect_write_pipe"])
def test_a_factory_that_fails_leaves_the_file_alone(run, connect):
    async def main():
        with pytest.raises(ZeroDivisionError):
            await getattr(asyncio.get_running_loop(), connect)(lambda: 1 / 0, files[index])
        assert not files[index].closed

    files = pipe_files()
    index = ["connect_read_pipe", "connect_write_pipe"].index(connect)
    run(main())
    for file in files:
        file.close()


@pytest.mark.parametrize("connect", ["connect_read_pipe", "connect_write_pipe"])
def test_cancelling_while_connecting_closes_the_pipe(run, connect):
    async def main():
        protocols = []
        task = asyncio.create_task(
            getattr(asyncio.get_running_loop(), connect)(lambda: protocols.append(Recording()) or protocols[0], file)
        )
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await protocols[0].closed is None
        assert file.closed

    files = pipe_files()
    file = files[["connect_read_pipe", "connect_write_pipe"].index(connect)]
    run(main())
    for each in files:
        each.close()


# Around it -------------------------------------------------------------------------------------------------------------------


def test_streams_work_over_pipes(run):
    read_end, write_end = pipe_files()

    async def main():
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), read_end)
        transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, write_end)
        writer = asyncio.StreamWriter(transport, protocol, None, loop)

        async def write():
            for number in range(2000):
                writer.write(b"line %d\n" % number * 50)
                await writer.drain()
            writer.close()

        task = asyncio.create_task(write())
        lines = [line async for line in reader]
        await task
        assert lines == [b"line %d\n" % number for number in range(2000) for _ in range(50)]

    run(main())


def test_another_protocol_can_take_over(run):
    async def main():
        async with pipe() as (reader, writer):
            assert reader.transport.get_protocol() is reader
            assert writer.transport.get_protocol() is writer
            other = Recording()
            reader.transport.set_protocol(other)
            writer.transport.write(b"for the other")
            assert await other.received(13) == b"for the other"
            reader.transport.set_protocol(reader)
            assert other.events == ["data"]

    run(main())


def test_the_repr_says_what_the_transport_does(same_as_asyncio):
    def story(loop):
        async def main():
            async with pipe() as (reader, writer):
                seen = [repr(reader.transport), repr(writer.transport)]
                reader.transport.pause_reading()
                full(writer.transport)
                seen += [repr(reader.transport), repr(writer.transport)]
                transports = reader.transport, writer.transport
                writer.transport.close()
                seen.append(repr(writer.transport))
                reader.transport.close()
                seen += map(repr, transports)
                await asyncio.wait([reader.closed, writer.closed])
                await asyncio.sleep(0)
                return [*seen, *map(repr, transports)]

        return "\n".join(loop.run_until_complete(main())).replace("_Unix", "")

    value = same_as_asyncio(story).value
    assert value.splitlines()[0] == "<Transport fd=… polling>"
    assert value.splitlines()[-1] == "<Transport closed fd=… closed>"


@pytest.mark.parametrize("end", [0, 1])
def test_a_forgotten_transport_warns_and_closes_its_file(run, end):
    files = pipe_files()

    async def main():
        loop = asyncio.get_running_loop()
        connect = [loop.connect_read_pipe, loop.connect_write_pipe][end]
        transport, _ = await connect(asyncio.Protocol, files[end])
        if end == 0:
            transport.pause_reading()
        else:
            loop.remove_reader(files[end]) if not hasattr(loop, "_watch_child") else None
        return transport

    transport = run(main())
    gone = weakref.ref(transport)
    if end == 1 and "hayase" in type(transport).__module__:
        # It watches the reader, and so lives: what asyncio does too.
        transport.close()
        run(asyncio.sleep(0))
    else:
        with pytest.warns(ResourceWarning, match="unclosed transport <"):
            del transport
            gc.collect()
        assert gone() is None
    assert files[end].closed
    files[1 - end].close()


def test_a_closed_loop_leaves_the_files_to_the_program(loop, run):
    read_end, write_end = pipe_files()

    async def main():
        reader, _ = await loop.connect_read_pipe(asyncio.Protocol, read_end)
        writer, _ = await loop.connect_write_pipe(asyncio.Protocol, write_end)
        return reader, writer

    reader, writer = run(main())
    loop.close()
    assert not read_end.closed and not write_end.closed
    assert " open" in repr(reader) and " open" in repr(writer)
    for transport in (reader, writer):
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            transport.close()
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        del reader, writer, transport
        gc.collect()
    assert read_end.closed and write_end.closed


def test_a_cycle_of_transport_and_protocol_is_collected(run):
    read_end, write_end = pipe_files()

    async def main():
        async with reading(read_end) as reader:
            reader.myself = reader
            write_end.close()
            await reader.closed
            return weakref.ref(reader), weakref.ref(reader.transport)

    refs = run(main())
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


@pytest.mark.oracle_differs("asyncio lets add_reader take the descriptor away from the transport, which hears no more")
def test_the_descriptor_of_a_transport_is_not_the_programs_to_watch(run, loop_factory):
    async def main():
        loop = asyncio.get_running_loop()
        async with pipe() as (reader, writer):
            if loop_factory.is_hayase:
                with pytest.raises(RuntimeError, match=r"is used by transport <ReadPipeTransport"):
                    loop.add_reader(reader.transport.get_extra_info("pipe"), print)
            else:
                loop.add_reader(reader.transport.get_extra_info("pipe"), print)
                loop.remove_reader(reader.transport.get_extra_info("pipe"))
                return
            writer.transport.write(b"data")
            assert await reader.received(4) == b"data"

    run(main())


def test_debug_mode_tells_of_pipes(loop, run, caplog):
    loop.set_debug(True)

    async def main():
        async with pipe() as (reader, writer):
            reader.transport.pause_reading()
            reader.transport.resume_reading()
            writer.transport.close()
            await reader.closed

    with caplog.at_level(logging.DEBUG, logger="asyncio"):
        logging.getLogger("asyncio").addHandler(caplog.handler)
        try:
            run(main())
        finally:
            logging.getLogger("asyncio").removeHandler(caplog.handler)
    told = [record.getMessage() for record in caplog.records]
    for text in ("Read pipe ", "Write pipe ", "pauses reading", "resumes reading", "was closed by peer"):
        assert [line for line in told if text in line], text


def test_the_callbacks_run_in_the_context_of_the_connecting_task(run):
    variable = contextvars.ContextVar("variable", default="outside")
    seen = []

    class Seeing(Recording):
        def connection_made(self, transport):
            seen.append(variable.get())
            super().connection_made(transport)

        def data_received(self, data):
            seen.append(variable.get())
            super().data_received(data)

        def connection_lost(self, error):
            seen.append(variable.get())
            super().connection_lost(error)

    async def main():
        variable.set("inside")
        async with pipe(Seeing) as (reader, writer):
            writer.transport.write(b"data")
            await reader.received(4)

    run(main())
    assert seen == ["inside"] * 3


# Any order -------------------------------------------------------------------------------------------------------------------


async def the_loop_asked_the_system(times):
    """Turns in which the loop looked for what is ready, which it need not do in every turn."""
    loop = asyncio.get_running_loop()
    with socket.socket() as always_ready:
        always_ready.setblocking(False)
        for _ in range(times):
            seen = loop.create_future()
            loop.add_writer(always_ready, lambda seen=seen: seen.done() or seen.set_result(None))
            await seen
        loop.remove_writer(always_ready)


def any_story(seed):
    """Thirty steps on the two ends of a pipe, each followed by enough turns to come to rest; what both ends saw."""
    choose = random.Random(seed)

    async def main():
        told = []
        read_end, write_end = pipe_files()
        loop = asyncio.get_running_loop()
        _, reader = await loop.connect_read_pipe(Recording, read_end)
        _, writer = await loop.connect_write_pipe(Recording, write_end)

        def abort():
            # asyncio calls connection_lost twice then.
            if not writer.transport.is_closing() or writer.transport.get_write_buffer_size() > 0:
                writer.transport.abort()

        steps = {
            "write": lambda: writer.transport.write(b"w" * choose.randrange(1, 200_000)),
            "write little": lambda: writer.transport.write(b"l" * choose.randrange(1, 100)),
            "writelines": lambda: writer.transport.writelines([b"a" * 100, bytearray(b"b" * 70_000)]),
            "limits": lambda: writer.transport.set_write_buffer_limits(choose.randrange(0, 300_000)),
            "pause": reader.transport.pause_reading,
            "resume": reader.transport.resume_reading,
            "write_eof": writer.transport.write_eof,
            "close writer": writer.transport.close,
            "close reader": reader.transport.close,
            "abort": abort,
        }
        weights = [10, 10, 5, 3, 8, 8, 1, 1, 1, 1]
        for name in choose.choices(list(steps), weights, k=30):
            steps[name]()
            if choose.random() < 0.7:
                await the_loop_asked_the_system(40)
                state = reader.transport.is_reading(), reader.transport.is_closing(), writer.transport.is_closing()
                told.append((name, *state, len(reader.data), writer.transport.get_write_buffer_size()))
        reader.transport.close()
        abort()
        await asyncio.wait([reader.closed, writer.closed])
        for end in (reader, writer):
            told.append((end.events, type(end.error)))
        return told

    return main


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_done_in_whatever_order_ends_as_on_asyncio(same_as_asyncio, seed):
    same_as_asyncio(lambda loop: loop.run_until_complete(any_story(seed)()))
