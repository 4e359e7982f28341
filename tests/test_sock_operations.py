"""`sock_recv`, `sock_sendall` and their kin: tried at once, waited for if need be, and never in anybody's way."""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import socket
import ssl
import sys
import threading
import time
import warnings

import pytest


def without_blocking(pair):
    for sock in pair:
        sock.setblocking(False)
    return pair


def connected_by_tcp():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = socket.create_connection(listening.getsockname())
        return ours, listening.accept()[0]


@pytest.fixture
def unix_pair():
    ours, theirs = without_blocking(socket.socketpair())
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def tcp_pair():
    ours, theirs = without_blocking(connected_by_tcp())
    with ours, theirs:
        yield ours, theirs


@pytest.fixture(params=["unix_pair", "tcp_pair"], ids=["unix", "tcp"])
def pair(request):
    return request.getfixturevalue(request.param)


def waiting(sock):
    """Whether data lies in its buffer."""
    return bool(select.select([sock], [], [], 0)[0])


async def turns(count=3):
    for _ in range(count):
        await asyncio.sleep(0)


def finish(coroutine):
    """Drives a coroutine that must not have to wait; its result."""
    with pytest.raises(StopIteration) as stop:
        coroutine.send(None)
    return stop.value.value


# At once -------------------------------------------------------------------------------------------------------------


def test_what_is_there_is_given_without_waiting(loop, run, pair):
    ours, theirs = pair

    async def main():
        theirs.send(b"abcdef")
        assert finish(loop.sock_recv(ours, 2)) == b"ab"
        buffer = bytearray(2)
        assert finish(loop.sock_recv_into(ours, buffer)) == 2
        assert buffer == b"cd"
        assert finish(loop.sock_sendall(ours, b"xyz")) is None
        assert theirs.recv(10) == b"xyz"
        assert finish(loop.sock_recv(ours, 100_000)) == b"ef"
        theirs.shutdown(socket.SHUT_WR)
        assert finish(loop.sock_recv(ours, 10)) == b""
        assert finish(loop.sock_recv_into(ours, buffer)) == 0

    run(main())


def test_datagrams_come_with_their_addresses(loop, run):
    async def main():
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as two,
        ):
            for sock in (one, two):
                sock.bind(("127.0.0.1", 0))
                sock.setblocking(False)
            waiting = loop.create_task(loop.sock_recvfrom(two, 100))
            await turns()
            assert await loop.sock_sendto(one, b"hello", two.getsockname()) == 5
            assert await waiting == (b"hello", one.getsockname())
            buffer = bytearray(10)
            for count in ((), (0,), (3,)):
                await loop.sock_sendto(one, b"hello", two.getsockname())
                received = count[0] if count and count[0] else 5
                assert await loop.sock_recvfrom_into(two, buffer, *count) == (received, one.getsockname())
            await loop.sock_sendto(one, b"", two.getsockname())
            assert await loop.sock_recvfrom(two, 100) == (b"", one.getsockname())

    run(main())


@pytest.mark.oracle_differs("asyncio lets a task that always finds data run for ever")
def test_a_task_that_always_finds_data_lets_others_run(loop, run, pair, loop_factory):
    ours, theirs = pair
    order = []

    async def main():
        theirs.send(b"x" * 200)
        loop.call_soon(order.append, "the other")
        for _ in range(200):
            assert await loop.sock_recv(ours, 1) == b"x"
        order.append("the greedy one")
        await asyncio.sleep(0)

    run(main())
    assert order == (["the other", "the greedy one"] if loop_factory.is_hayase else ["the greedy one", "the other"])


def test_a_zero_time_limit_is_enough_for_what_is_there(loop, run, pair):
    ours, theirs = pair

    async def main():
        theirs.send(b"there")
        async with asyncio.timeout(0):
            assert await loop.sock_recv(ours, 10) == b"there"

    with pytest.raises(TimeoutError):
        run(main_that_waits(loop, ours))
    run(main())


async def main_that_waits(loop, sock):
    async with asyncio.timeout(0):
        await loop.sock_recv(sock, 10)


# Waiting -------------------------------------------------------------------------------------------------------------


def test_many_rounds_on_one_socket(loop, run, pair):
    ours, theirs = pair

    async def echo():
        while data := await loop.sock_recv(theirs, 4096):
            await loop.sock_sendall(theirs, data)
        theirs.shutdown(socket.SHUT_WR)

    async def main():
        echoing = loop.create_task(echo())
        for number in range(300):
            message = b"%d" % number
            await loop.sock_sendall(ours, message)
            assert await loop.sock_recv(ours, 4096) == message
        ours.shutdown(socket.SHUT_WR)
        assert await loop.sock_recv(ours, 10) == b""
        await echoing

    run(main())


def test_the_end_that_comes_with_the_last_data_is_received(loop, run, pair):
    ours, theirs = pair

    async def main():
        receiving = loop.create_task(loop.sock_recv(ours, 4096))
        await turns()
        theirs.send(b"first")
        assert await receiving == b"first"
        receiving = loop.create_task(loop.sock_recv(ours, 4096))
        await turns()
        theirs.send(b"last")
        theirs.shutdown(socket.SHUT_WR)
        assert await receiving == b"last"
        assert await loop.sock_recv(ours, 4096) == b""
        assert await loop.sock_recv(ours, 4096) == b""

    run(main())


def test_what_comes_between_two_receives_is_received(loop, run, pair):
    ours, theirs = pair
    buffer = bytearray(4096)

    async def main():
        receiving = loop.create_task(loop.sock_recv(ours, 4096))
        await turns()
        theirs.send(b"first")
        assert await receiving == b"first"
        for turns_between in range(5):
            theirs.send(b"next")
            await turns(turns_between)
            assert await loop.sock_recv_into(ours, buffer) == 4
            assert buffer.startswith(b"next")

    run(main())


@pytest.mark.oracle_differs("a TCP socket that a receive has emptied is not asked again before the loop has looked")
def test_an_emptied_socket_is_asked_when_the_loop_has_looked(loop, run, tcp_pair, loop_factory):
    ours, theirs = tcp_pair

    async def main():
        receiving = loop.create_task(loop.sock_recv(ours, 4096))
        await turns()
        theirs.send(b"first")
        assert await receiving == b"first"
        theirs.send(b"next")
        receiving = loop.sock_recv(ours, 4096)
        if loop_factory.is_hayase:
            assert asyncio.isfuture(receiving.send(None))
            receiving.close()
            while not waiting(ours):
                pass
            await asyncio.sleep(0.001)
            receiving = loop.sock_recv(ours, 4096)
        assert finish(receiving) == b"next"

    run(main())


def test_a_method_of_sockets_is_called_while_it_is_replaced(loop, run, pair, monkeypatch):
    ours, theirs = pair
    asked = []

    def fileno(sock):
        asked.append(sock)
        return socket.SocketType.fileno(sock)

    async def receive_one():
        receiving = loop.create_task(loop.sock_recv(ours, 10))
        await turns()
        theirs.send(b"x")
        assert await receiving == b"x"

    async def main():
        await receive_one()
        with monkeypatch.context() as patch:
            patch.setattr(socket.socket, "fileno", fileno)
            await receive_one()
        assert ours in asked
        asked.clear()
        await receive_one()
        assert not asked

    run(main())


def test_data_behind_an_urgent_byte_is_received(loop, run, tcp_pair):
    ours, theirs = tcp_pair

    async def main():
        receiving = loop.create_task(loop.sock_recv(ours, 4096))
        await turns()
        theirs.send(b"first")
        assert await receiving == b"first"
        receiving = loop.create_task(loop.sock_recv(ours, 4096))
        await turns()
        theirs.send(b"before")
        theirs.send(b"!", socket.MSG_OOB)
        theirs.send(b"behind")
        assert await receiving == b"before"
        assert await loop.sock_recv(ours, 4096) == b"behind"

    run(main())


def test_a_signal_handler_that_raises_where_the_loop_waits_costs_no_data(loop, pair):
    ours, theirs = pair

    class Interrupted(Exception):
        pass

    armed = False
    # asyncio waits in the selector; hayase below whoever runs the loop. Elsewhere in asyncio's Python an exception may well
    # cost data.
    waiting = {"select", sys._getframe().f_code.co_name}

    def interrupt(number, frame):
        if armed and frame.f_code.co_name in waiting:
            raise Interrupted

    def send_and_interrupt():
        time.sleep(0.002)  # the loop most often sleeps by then, and finds both when it wakes
        theirs.send(b"x")
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        for _ in range(50):
            receiving = loop.create_task(loop.sock_recv(ours, 4096))
            thread = threading.Thread(target=send_and_interrupt)
            thread.start()
            try:
                try:
                    armed = True
                    loop.run_until_complete(receiving)
                finally:
                    armed = False
            except Interrupted:
                armed = False
            thread.join()
            assert loop.run_until_complete(asyncio.wait_for(receiving, 10)) == b"x"
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_more_than_the_socket_takes_arrives_whole_and_in_order(loop, run, unix_pair, kind):
    ours, theirs = unix_pair
    payload = random.Random(1).randbytes(3_000_000)

    async def main():
        sending = loop.create_task(loop.sock_sendall(ours, kind(payload)))
        await turns()
        assert not sending.done()
        got = bytearray()
        while len(got) < len(payload):
            got += await loop.sock_recv(theirs, 200_000)
        assert await sending is None
        assert got == payload

    run(main())


def test_a_buffer_that_waits_to_be_sent_keeps_its_size(loop, run, pair):
    ours, _theirs = pair
    data = bytearray(10_000_000)

    async def main():
        sending = loop.create_task(loop.sock_sendall(ours, data))
        await turns()
        with pytest.raises(BufferError):
            data.clear()
        sending.cancel()
        await asyncio.wait([sending])

    run(main())
    # What asyncio's future held is gone with the task.
    data.clear()


def test_both_directions_wait_at_the_same_time(loop, run, pair):
    ours, theirs = pair

    async def main():
        sending = loop.create_task(loop.sock_sendall(ours, b"x" * 2_000_000))
        receiving = loop.create_task(loop.sock_recv(ours, 10))
        await turns()
        await loop.sock_sendall(theirs, b"back")
        assert await receiving == b"back"
        got = 0
        while got < 2_000_000:
            got += len(await loop.sock_recv(theirs, 1 << 20))
        await sending

    run(main())


@pytest.mark.oracle_differs("in asyncio the second takes the place of the first, which then waits for ever")
def test_two_who_wait_for_the_same_socket_are_both_served(loop, run, pair, loop_factory):
    ours, theirs = pair

    async def main():
        first = loop.create_task(loop.sock_recv(ours, 3))
        second = loop.create_task(loop.sock_recv(ours, 3))
        await turns()
        theirs.send(b"onetwo")
        done, waiting = await asyncio.wait([first, second], timeout=None if loop_factory.is_hayase else 0.05)
        assert (len(done), len(waiting)) == ((2, 0) if loop_factory.is_hayase else (1, 1))
        for task in waiting:
            task.cancel()
        await asyncio.wait([first, second])
        if loop_factory.is_hayase:
            assert (first.result(), second.result()) == (b"one", b"two")

    run(main())


def test_a_cancelled_receive_takes_nothing(loop, run, pair):
    ours, theirs = pair

    async def main():
        for _ in range(50):
            waiting = loop.create_task(loop.sock_recv(ours, 100))
            await turns()
            waiting.cancel()
            theirs.send(b"for the next")
            await asyncio.wait([waiting])
            assert waiting.cancelled()
            assert await loop.sock_recv(ours, 100) == b"for the next"

    run(main())


@pytest.mark.oracle_differs("asyncio receives when the socket is ready and loses it if the task is cancelled then")
def test_a_receive_cancelled_after_data_came_takes_nothing(loop, run, pair, loop_factory):
    ours, theirs = pair

    async def main():
        waiting = loop.create_task(loop.sock_recv(ours, 100))
        await turns()
        # Runs after the socket was found ready and before the task that waits for it.
        waiting._fut_waiter.add_done_callback(lambda _: waiting.cancel())
        theirs.send(b"precious")
        await asyncio.wait([waiting])
        return waiting

    waiting = run(main())
    if waiting.cancelled() and not loop_factory.is_hayase:
        with pytest.raises(BlockingIOError):
            ours.recv(100)
    else:
        assert (ours.recv(100) if waiting.cancelled() else waiting.result()) == b"precious"


@pytest.mark.oracle_differs("a coroutine of asyncio's that is closed leaves its reader, which receives for nobody")
def test_a_closed_coroutine_waits_no_more(loop, run, pair, loop_factory):
    ours, theirs = pair

    async def main():
        coroutine = loop.sock_recv(ours, 10)
        future = coroutine.send(None)
        assert future.get_loop() is loop
        coroutine.close()
        coroutine.close()
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            coroutine.send(None)
        theirs.send(b"kept")
        await turns()
        if loop_factory.is_hayase:
            assert await loop.sock_recv(ours, 10) == b"kept"
        else:
            with pytest.raises(BlockingIOError):
                ours.recv(10)

    run(main())


def test_a_coroutine_that_is_never_awaited_is_warned_of(loop, pair):
    with pytest.warns(RuntimeWarning, match=r"sock_recv' was never awaited"):
        loop.sock_recv(pair[0], 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loop.sock_recv(pair[0], 10).close()


# Beside readers and writers ------------------------------------------------------------------------------------------


def test_a_reader_and_a_send_share_a_socket(loop, run, pair):
    ours, theirs = pair
    seen = []

    async def main():
        sending = loop.create_task(loop.sock_sendall(ours, b"x" * 2_000_000))
        await turns()
        loop.add_reader(ours, lambda: seen.append(ours.recv(100)))
        theirs.send(b"one")
        got = 0
        while got < 2_000_000:
            got += len(await loop.sock_recv(theirs, 1 << 20))
        await sending
        theirs.send(b"two")
        while b"".join(seen) != b"onetwo":
            await asyncio.sleep(0)
        assert loop.remove_reader(ours)
        assert not loop.remove_reader(ours)
        theirs.send(b"three")
        assert await loop.sock_recv(ours, 100) == b"three"

    run(main())


def test_a_reader_after_a_receive_is_told_of_what_is_there_already(loop, run, pair):
    ours, theirs = pair

    async def main():
        waiting = loop.create_task(loop.sock_recv(ours, 1))
        await turns()
        theirs.send(b"ab")
        assert await waiting == b"a"
        told = loop.create_future()
        loop.add_reader(ours, told.set_result, None)
        await told
        loop.remove_reader(ours)
        assert await loop.sock_recv(ours, 10) == b"b"

    run(main())


# Descriptors that come and go ----------------------------------------------------------------------------------------


def connected_at(number):
    """A pair whose first socket has this descriptor number."""
    ours, theirs = socket.socketpair()
    if ours.fileno() != number:
        os.dup2(ours.fileno(), number)
        ours.close()
        ours = socket.socket(fileno=number)
    ours.setblocking(False)
    return ours, theirs


def test_a_new_socket_with_the_number_of_a_closed_one_is_heard(loop, run):
    async def main():
        number = None
        for _ in range(20):
            ours, theirs = socket.socketpair() if number is None else connected_at(number)
            ours.setblocking(False)
            number = ours.fileno()
            waiting = loop.create_task(loop.sock_recv(ours, 10))
            await turns()
            theirs.send(b"heard")
            assert await waiting == b"heard"
            ours.close()
            theirs.close()

    run(main())


@pytest.mark.oracle_differs("asyncio takes the new socket for the one that it watches, and waits for ever")
def test_what_happens_to_a_new_socket_does_not_reach_who_waited_for_the_old_one(loop, run, loop_factory):
    async def main():
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        number = ours.fileno()
        forsaken = loop.create_task(loop.sock_recv(ours, 10))
        await turns()
        ours.close()
        theirs.close()
        new, peer = connected_at(number)
        waiting = loop.create_task(loop.sock_recv(new, 10))
        await turns()
        peer.send(b"new")
        if loop_factory.is_hayase:
            assert await waiting == b"new"
        else:
            await turns(10)
            assert not waiting.done()
            waiting.cancel()
        await turns()
        assert not forsaken.done()
        forsaken.cancel()
        await asyncio.wait([forsaken])
        new.close()
        peer.close()

    run(main())


def test_a_socket_object_whose_descriptor_was_replaced_is_heard(loop, run, pair):
    ours, theirs = pair

    async def main():
        waiting = loop.create_task(loop.sock_recv(ours, 10))
        await turns()
        theirs.send(b"before")
        assert await waiting == b"before"
        one, two = socket.socketpair()
        one.setblocking(False)
        with one, two:
            os.dup2(one.fileno(), ours.fileno())
            waiting = loop.create_task(loop.sock_recv(ours, 10))
            await turns()
            two.send(b"after")
            assert await waiting == b"after"

    run(main())


def test_a_socket_becomes_a_transport_and_its_number_a_socket_again(loop, run):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as listening:
            for _ in range(3):
                sock = socket.socket()
                sock.setblocking(False)
                await loop.sock_connect(sock, listening.getsockname())
                served, _ = listening.accept()
                waiting = loop.create_task(loop.sock_recv(sock, 10))
                await turns()
                served.send(b"one")
                assert await waiting == b"one"
                reader, writer = await asyncio.open_connection(sock=sock)
                served.send(b"two")
                assert await reader.readexactly(3) == b"two"
                writer.close()
                await writer.wait_closed()
                served.close()

    run(main())


# What is refused -----------------------------------------------------------------------------------------------------


def test_the_descriptor_of_a_transport_is_refused(loop, run, pair):
    ours, _theirs = pair

    async def main():
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        other = socket.socket(fileno=os.dup(ours.fileno()))
        # The same number in another object.
        same = socket.socket(fileno=ours.fileno())
        same.setblocking(False)
        with pytest.raises(RuntimeError, match="is used by transport"):
            await loop.sock_recv(same, 10)
        same.detach()
        other.close()
        transport.close()
        await turns()

    run(main())


def test_a_tls_socket_is_refused(loop, run, pair):
    ours, _theirs = pair
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False

    async def main():
        with context.wrap_socket(ours, do_handshake_on_connect=False) as wrapped:
            for attempt in (
                loop.sock_recv(wrapped, 10),
                loop.sock_recv_into(wrapped, bytearray(1)),
                loop.sock_recvfrom(wrapped, 10),
                loop.sock_recvfrom_into(wrapped, bytearray(1)),
                loop.sock_sendall(wrapped, b"x"),
                loop.sock_sendto(wrapped, b"x", ("127.0.0.1", 1)),
                loop.sock_accept(wrapped),
                loop.sock_connect(wrapped, ("127.0.0.1", 1)),
            ):
                with pytest.raises(TypeError, match=r"^Socket cannot be of type SSLSocket$"):
                    await attempt

    run(main())


def test_a_blocking_socket_is_refused_in_debug_mode(loop, run, pair):
    ours, theirs = pair
    ours.setblocking(True)

    async def main():
        for attempt in (
            loop.sock_recv(ours, 10),
            loop.sock_recv_into(ours, bytearray(1)),
            loop.sock_recvfrom(ours, 10),
            loop.sock_recvfrom_into(ours, bytearray(1)),
            loop.sock_sendall(ours, b"x"),
            loop.sock_sendto(ours, b"x", ("127.0.0.1", 1)),
            loop.sock_accept(ours),
            loop.sock_connect(ours, ("127.0.0.1", 1)),
        ):
            with pytest.raises(ValueError, match=r"^the socket must be non-blocking$"):
                await attempt
        loop.set_debug(False)
        # As in asyncio, the program's own affair then.
        theirs.send(b"x")
        assert await loop.sock_recv(ours, 10) == b"x"

    loop.set_debug(True)
    run(main())


@pytest.mark.parametrize(
    "attempt",
    [
        lambda loop, sock: loop.sock_recv(sock, -1),
        lambda loop, sock: loop.sock_recv(sock, "1"),
        lambda loop, sock: loop.sock_recv(sock, 10**30),
        lambda loop, sock: loop.sock_recv(sock, 0),
        lambda loop, sock: loop.sock_recv(sock, True),
        lambda loop, sock: loop.sock_recv_into(sock, b"constant"),
        lambda loop, sock: loop.sock_recv_into(sock, 5),
        lambda loop, sock: loop.sock_recvfrom_into(sock, 5),
        lambda loop, sock: loop.sock_recvfrom_into(sock, bytearray(2), 3),
        lambda loop, sock: loop.sock_sendall(sock, "text"),
        lambda loop, sock: loop.sock_sendall(sock, None),
        lambda loop, sock: loop.sock_sendall(sock, memoryview(b"abcdef")[::2]),
        lambda loop, sock: loop.sock_sendall(sock, b""),
        lambda loop, sock: loop.sock_sendto(sock, "text", ("127.0.0.1", 1)),
        lambda loop, sock: loop.sock_accept(sock),
        lambda loop, sock: loop.sock_recv(None, 1),
    ],
)
def test_what_is_wrong_with_a_call_is_said_as_asyncio_says_it(same_as_asyncio, attempt):
    def story(loop):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.send(b"data")

        async def main():
            return await attempt(loop, ours)

        with ours, theirs:
            return loop.run_until_complete(main())

    same_as_asyncio(story)


def test_errors_of_the_socket_are_its_own(loop, run, unix_pair):
    ours, theirs = unix_pair

    async def main():
        theirs.close()
        with pytest.raises(BrokenPipeError):
            await loop.sock_sendall(ours, b"x")
        ours.close()
        for attempt in (
            loop.sock_recv(ours, 1),
            loop.sock_sendall(ours, b"x"),
            loop.sock_recv_into(ours, bytearray(1)),
        ):
            with pytest.raises(OSError, match="Bad file descriptor"):
                await attempt

    run(main())


def test_a_reset_reaches_who_waits(loop, run):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as listening:
            client = socket.create_connection(listening.getsockname())
            served, _ = listening.accept()
        served.setblocking(False)
        waiting = loop.create_task(loop.sock_recv(served, 10))
        await turns()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        with pytest.raises(ConnectionResetError):
            await waiting
        served.close()

    run(main())


def test_a_loop_that_is_closed_refuses_to_wait(loop_factory, pair):
    ours, _theirs = pair
    loop = loop_factory()
    loop.close()
    coroutine = loop.sock_recv(ours, 10)
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        coroutine.send(None)
