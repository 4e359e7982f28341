"""File descriptors watched directly, and sockets moved by hand."""

from __future__ import annotations

import asyncio
import os
import random
import socket

import pytest


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


def fill(sock):
    """Write until the kernel takes no more."""
    try:
        while True:
            sock.send(b"x" * 65536)
    except BlockingIOError:
        pass


def drain(sock):
    try:
        while sock.recv(1 << 20):
            pass
    except BlockingIOError:
        pass


# Readers and writers -------------------------------------------------------------------------------------------------


def test_a_reader_is_called_when_there_is_something_to_read(loop, pair):
    ours, theirs = pair
    seen = []

    def readable(argument):
        seen.append((argument, ours.recv(10)))
        loop.stop()

    loop.add_reader(ours, readable, "argument")
    loop.call_soon(theirs.send, b"data")
    loop.run_forever()
    assert seen == [("argument", b"data")]
    assert loop.remove_reader(ours) is True


def test_a_reader_is_called_again_while_data_is_left(loop, pair):
    ours, theirs = pair
    theirs.send(b"abc")
    seen = []

    def readable():
        seen.append(ours.recv(1))
        if len(seen) == 3:
            loop.stop()

    loop.add_reader(ours, readable)
    loop.run_forever()
    loop.remove_reader(ours)
    assert seen == [b"a", b"b", b"c"]


def test_a_writer_is_called_when_there_is_room(loop, pair):
    ours, theirs = pair
    fill(ours)
    seen = []

    def writable(argument):
        seen.append(argument)
        loop.remove_writer(ours)
        loop.stop()

    loop.add_writer(ours, writable, "room")
    loop.call_soon(drain, theirs)
    loop.run_forever()
    assert seen == ["room"]


def test_one_descriptor_can_have_a_reader_and_a_writer(loop, pair, turn):
    ours, theirs = pair
    seen = []
    theirs.send(b"x")
    loop.add_reader(ours, seen.append, "read")
    loop.add_writer(ours, seen.append, "write")
    turn()
    assert sorted(seen) == ["read", "write"]
    assert loop.remove_reader(ours) is True
    seen.clear()
    turn()
    assert seen == ["write"]
    assert loop.remove_writer(ours) is True
    seen.clear()
    turn()
    assert seen == []


def test_removing_says_whether_there_was_one(loop, pair):
    ours, _ = pair
    assert loop.remove_reader(ours) is False
    assert loop.remove_writer(ours) is False
    loop.add_reader(ours, print)
    assert loop.remove_writer(ours) is False
    assert loop.remove_reader(ours) is True
    assert loop.remove_reader(ours) is False


def test_a_second_reader_replaces_the_first(loop, pair, turn):
    ours, theirs = pair
    seen = []
    theirs.send(b"x")
    loop.add_reader(ours, seen.append, "first")
    loop.add_reader(ours, seen.append, "second")
    turn()
    assert seen == ["second"]
    assert loop.remove_reader(ours) is True
    assert loop.remove_reader(ours) is False
    loop.add_writer(ours, seen.append, "first writer")
    loop.add_writer(ours, seen.append, "second writer")
    turn()
    assert seen == ["second", "second writer"]
    loop.remove_writer(ours)


def test_a_reader_removed_in_the_same_turn_is_not_called(loop, turn):
    pairs = [socket.socketpair() for _ in range(2)]
    seen = []

    def first_of_both(own, other):
        seen.append(own)
        loop.remove_reader(other[0])

    for own, other in ((pairs[0], pairs[1]), (pairs[1], pairs[0])):
        own[1].send(b"x")
        loop.add_reader(own[0], first_of_both, own, other)
    turn()
    turn()
    assert len(set(seen)) == 1
    for one, two in pairs:
        loop.remove_reader(one)
        one.close()
        two.close()


def test_a_descriptor_is_named_by_number_or_by_an_object_with_fileno(loop, pair, turn):
    ours, theirs = pair

    class Named:
        def fileno(self):
            return ours.fileno()

    seen = []
    theirs.send(b"x")
    for name in (ours, ours.fileno(), Named()):
        loop.add_reader(name, seen.append, 1)
    turn()
    assert seen == [1]
    assert loop.remove_reader(ours.fileno()) is True
    assert loop.remove_reader(Named()) is False


@pytest.mark.parametrize("method", ["add_reader", "add_writer", "remove_reader", "remove_writer"])
@pytest.mark.parametrize("fd", [-1, "text", None, 1.5, object()], ids=["negative", "text", "none", "float", "object"])
def test_what_is_no_descriptor_is_refused_as_asyncio_refuses_it(same_as_asyncio, method, fd):
    def story(loop):
        getattr(loop, method)(fd, *([print] if method.startswith("add") else []))

    assert same_as_asyncio(story).error[0] is ValueError


def test_a_closed_descriptor_is_refused_as_asyncio_refuses_it(same_as_asyncio):
    def story(loop):
        fd = os.open("/dev/null", os.O_RDONLY)
        os.close(fd)
        loop.add_reader(fd, print)

    assert same_as_asyncio(story).error == (OSError, "[Errno 9] Bad file descriptor")


def test_a_regular_file_cannot_be_watched(same_as_asyncio, tmp_path):
    path = tmp_path / "file"
    path.write_text("x")

    def story(loop):
        with path.open() as file:
            loop.add_reader(file, print)

    assert same_as_asyncio(story).error == (PermissionError, "[Errno 1] Operation not permitted")


def test_a_descriptor_of_a_transport_is_refused(loop, run):
    async def main():
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        transport, _ = await loop.create_connection(asyncio.Protocol, *address)
        fd = transport.get_extra_info("socket").fileno()
        texts = []
        for call in (
            lambda: loop.add_reader(fd, print),
            lambda: loop.add_writer(fd, print),
            lambda: loop.remove_reader(fd),
            lambda: loop.remove_writer(fd),
        ):
            with pytest.raises(RuntimeError, match=r"^File descriptor \d+ is used by transport <"):
                call()
            texts.append(1)
        transport.abort()
        server.close()
        await server.wait_closed()
        return len(texts)

    assert run(main()) == 4


def test_the_peers_end_is_readable_and_writable(loop, pair, turn):
    ours, theirs = pair
    theirs.close()
    seen = []
    loop.add_reader(ours, seen.append, "read")
    loop.add_writer(ours, seen.append, "write")
    turn()
    assert sorted(seen) == ["read", "write"]
    loop.remove_reader(ours)
    loop.remove_writer(ours)


@pytest.mark.oracle_differs("asyncio takes the new owner of a reused number for the old one, and never hears it")
def test_a_descriptor_closed_without_removal_reaches_nobody_when_its_number_is_reused(loop, loop_factory, turn):
    seen = []
    one, two = socket.socketpair()
    number = one.fileno()
    loop.add_reader(one, seen.append, "old")
    one.close()
    two.close()
    other, peer = socket.socketpair()
    assert number in (other.fileno(), peer.fileno())
    reused, sender = (other, peer) if other.fileno() == number else (peer, other)
    sender.send(b"x")
    turn(2)
    assert seen == []
    loop.add_reader(reused, seen.append, "new")
    turn()
    assert seen == (["new"] if loop_factory.is_hayase else [])
    assert loop.remove_reader(reused) is True
    other.close()
    peer.close()


def test_removing_the_reader_of_a_closed_descriptor_is_harmless(loop, turn):
    for add, remove in ((loop.add_reader, loop.remove_reader), (loop.add_writer, loop.remove_writer)):
        one, two = socket.socketpair()
        number = one.fileno()
        add(number, print)
        one.close()
        two.close()
        assert remove(number) is True
        assert remove(number) is False
    turn()


@pytest.mark.parametrize("kind", ["reader", "writer"])
def test_a_handle_is_removed_by_the_socket_it_was_added_with_also_when_that_is_closed(loop, turn, kind):
    ours, theirs = socket.socketpair()
    getattr(loop, f"add_{kind}")(ours, print)
    ours.close()
    assert getattr(loop, f"remove_{kind}")(ours) is True
    with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
        getattr(loop, f"remove_{kind}")(ours)
    with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
        getattr(loop, f"remove_{kind}")(-1)
    turn()
    theirs.close()


@pytest.mark.oracle_differs("asyncio raises EBADF when one of two interests in a closed descriptor is removed")
def test_removing_reader_and_writer_of_a_closed_descriptor_is_harmless(loop, loop_factory, turn):
    one, two = socket.socketpair()
    number = one.fileno()
    loop.add_reader(number, print)
    loop.add_writer(number, print)
    one.close()
    two.close()
    if loop_factory.is_hayase:
        assert loop.remove_reader(number) is True
        assert loop.remove_writer(number) is True
    else:
        with pytest.raises(OSError):
            loop.remove_reader(number)
    turn()


def test_the_exception_of_a_reader_is_reported_and_the_reader_stays(loop, pair, turn):
    ours, theirs = pair
    contexts = []
    loop.set_exception_handler(lambda loop, context: contexts.append(context["exception"]))

    def breaks():
        raise ValueError("in reader")

    theirs.send(b"x")
    loop.add_reader(ours, breaks)
    turn(2)
    assert [str(error) for error in contexts] == ["in reader"] * 2
    assert loop.remove_reader(ours)


def test_a_reader_that_passes_an_interrupt_through_stays_too(loop, pair, turn):
    ours, theirs = pair

    def interrupts():
        raise KeyboardInterrupt

    theirs.send(b"x")
    loop.add_reader(ours, interrupts)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            turn()
    assert loop.remove_reader(ours)


def test_a_pipe_and_a_listening_socket_can_be_watched(loop, turn):
    seen = []
    read_end, write_end = os.pipe()
    listening = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listening.getsockname())
    os.write(write_end, b"x")
    loop.add_reader(read_end, seen.append, "pipe")
    loop.add_reader(listening, seen.append, "listening")
    loop.add_writer(write_end, seen.append, "room")
    turn()
    assert sorted(seen) == ["listening", "pipe", "room"]
    loop.remove_reader(read_end), loop.remove_reader(listening), loop.remove_writer(write_end)
    os.close(read_end)
    os.close(write_end)
    listening.close()
    client.close()


def test_closing_the_loop_forgets_readers_without_closing_their_descriptors(loop, pair):
    ours, theirs = pair
    loop.add_reader(ours, print)
    loop.add_writer(ours, print)
    loop.close()
    theirs.send(b"still open")
    assert ours.recv(100) == b"still open"


def test_a_thousand_descriptors_are_served(loop, turn):
    pairs = [socket.socketpair() for _ in range(200)]
    seen = set()
    for index, (one, two) in enumerate(pairs):
        loop.add_reader(one, seen.add, index)
        two.send(b"x")
    turn(3)
    while len(seen) < len(pairs):
        turn()
    for one, two in pairs:
        loop.remove_reader(one)
        one.close()
        two.close()
    assert len(seen) == 200


# Sockets by hand -----------------------------------------------------------------------------------------------------


def test_the_socket_methods_of_the_loop_move_bytes(loop, run):
    async def main():
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setblocking(False)
        client = socket.socket()
        client.setblocking(False)
        accepting = loop.create_task(loop.sock_accept(listening))
        await loop.sock_connect(client, listening.getsockname())
        served, _ = await accepting
        served.setblocking(False)
        payload = random.Random(1).randbytes(3_000_000)
        sending = loop.create_task(loop.sock_sendall(client, payload))
        got = bytearray()
        while len(got) < len(payload):
            got += await loop.sock_recv(served, 1 << 16)
        await sending
        assert got == payload
        buffer = bytearray(10)
        await loop.sock_sendall(served, b"hello")
        assert await loop.sock_recv_into(client, buffer) == 5
        assert buffer[:5] == b"hello"
        client.close()
        assert await loop.sock_recv(served, 10) == b""
        served.close()
        listening.close()

    run(main())


def test_cancelling_a_receive_leaves_the_socket_usable(loop, run, pair):
    ours, theirs = pair

    async def main():
        for _ in range(3):
            waiting = loop.create_task(loop.sock_recv(ours, 100))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            assert waiting.cancelled()
        theirs.send(b"for the next")
        assert await loop.sock_recv(ours, 100) == b"for the next"

    run(main())
