"""`loop.sendfile` and `loop.sock_sendfile`: what the peer gets, where the file stands afterwards, and who else runs."""

from __future__ import annotations

import asyncio
import io
import random
import socket
import sys

import pytest

DATA = random.Random(1).randbytes(3_000_000)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(DATA)
    with path.open("rb") as file:
        yield file


@pytest.fixture
def pair():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        # Small, so that the file is much more than what is under way.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        ours = socket.socket()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        ours.connect(listening.getsockname())
        theirs, _ = listening.accept()
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


class Sender(asyncio.Protocol):
    def __init__(self):
        self.received = b""
        self.lost = asyncio.get_running_loop().create_future()

    def data_received(self, data):
        self.received += data

    def connection_lost(self, exc):
        self.lost.set_result(exc)


async def everything(loop, sock):
    got = bytearray()
    while data := await loop.sock_recv(sock, 1 << 18):
        got += data
    return bytes(got)


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


# A socket of the program ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "count", "sent"),
    [
        (0, None, DATA),
        (0, 10, DATA[:10]),
        (0, len(DATA), DATA),
        (0, len(DATA) + 5, DATA),
        (2_999_999, None, DATA[-1:]),
        (5, 1_500_000, DATA[5:1_500_005]),
        (3_000_000, None, b""),
        (4_000_000, 7, b""),
    ],
)
def test_a_piece_of_a_file_is_sent_and_the_file_stands_behind_it(loop, run, pair, file, offset, count, sent):
    ours, theirs = pair

    async def main():
        getting = loop.create_task(everything(loop, theirs))
        file.seek(17)
        assert await loop.sock_sendfile(ours, file, offset, count) == len(sent)
        stays = not sent and sys.version_info < (3, 14)
        assert file.tell() == (17 if stays else offset + len(sent))
        ours.shutdown(socket.SHUT_WR)
        assert await getting == sent

    run(main())


def test_an_empty_file_is_sent_at_once(loop, run, pair, tmp_path):
    (tmp_path / "empty").touch()

    async def main():
        with (tmp_path / "empty").open("rb") as file:
            assert await loop.sock_sendfile(pair[0], file) == 0

    run(main())


@pytest.mark.oracle_differs("asyncio leaves the position where it was, so nobody knows what was sent")
def test_a_cancelled_sending_leaves_the_file_behind_what_was_sent(loop, run, pair, file, loop_factory):
    ours, theirs = pair

    async def main():
        sending = loop.create_task(loop.sock_sendfile(ours, file, 100))
        await turns()
        sending.cancel()
        await asyncio.wait([sending])
        assert sending.cancelled()
        ours.shutdown(socket.SHUT_WR)
        got = await everything(loop, theirs)
        assert 0 < len(got) < len(DATA)
        assert got == DATA[100 : 100 + len(got)]
        assert file.tell() == (100 + len(got) if loop_factory.is_hayase else 0)

    run(main())


def test_an_error_midway_is_the_sockets_and_the_file_stands_behind_what_was_sent(loop, run, pair, file):
    ours, theirs = pair

    async def main():
        sending = loop.create_task(loop.sock_sendfile(ours, file))
        await turns()
        assert not sending.done()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        theirs.close()
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await sending
        assert 0 < file.tell() < len(DATA)

    run(main())


def test_what_the_kernel_cannot_send_is_read_and_sent(loop, run, pair):
    ours, theirs = pair

    async def main():
        getting = loop.create_task(everything(loop, theirs))
        with pytest.raises(asyncio.SendfileNotAvailableError, match=r"^not a regular file$"):
            await loop.sock_sendfile(ours, io.BytesIO(DATA), fallback=False)
        memory = io.BytesIO(DATA)
        assert await loop.sock_sendfile(ours, memory, 10) == len(DATA) - 10
        assert memory.tell() == len(DATA)
        ours.shutdown(socket.SHUT_WR)
        assert await getting == DATA[10:]

    run(main())


def test_others_run_while_a_large_file_is_sent(loop, run, pair, file):
    ours, theirs = pair
    order = []

    async def main():
        getting = loop.create_task(everything(loop, theirs))
        loop.call_soon(order.append, "the other")
        await loop.sock_sendfile(ours, file)
        order.append("the file")
        ours.shutdown(socket.SHUT_WR)
        await getting

    run(main())
    assert order == ["the other", "the file"]


@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [
        ((-1,), {}),
        (("0",), {}),
        ((0, 0), {}),
        ((0, -1), {}),
        ((0, "1"), {}),
        ((1.0,), {}),
        ((0, 1.5), {"fallback": False}),
    ],
)
def test_wrong_arguments_are_refused_as_asyncio_refuses_them(same_as_asyncio, tmp_path, arguments, keywords):
    (tmp_path / "file").write_bytes(b"data")

    def story(loop):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours, theirs, (tmp_path / "file").open("rb") as file:
            loop.run_until_complete(loop.sock_sendfile(ours, file, *arguments, **keywords))

    same_as_asyncio(story)


def test_a_text_file_a_datagram_socket_and_a_blocking_one_are_refused(same_as_asyncio, tmp_path):
    (tmp_path / "file").write_bytes(b"data")

    def text(loop):
        ours, theirs = socket.socketpair()
        with ours, theirs, (tmp_path / "file").open() as file:
            loop.run_until_complete(loop.sock_sendfile(ours, file))

    def datagram(loop):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, (tmp_path / "file").open("rb") as file:
            loop.run_until_complete(loop.sock_sendfile(sock, file))

    def blocking(loop):
        loop.set_debug(True)
        ours, theirs = socket.socketpair()
        with ours, theirs, (tmp_path / "file").open("rb") as file:
            loop.run_until_complete(loop.sock_sendfile(ours, file))

    for story in (text, datagram, blocking):
        same_as_asyncio(story)


# A transport ---------------------------------------------------------------------------------------------------------


def test_a_transport_sends_a_file_between_what_it_writes_and_goes_on_reading(loop, run, pair, file):
    ours, theirs = pair

    async def main():
        transport, protocol = await loop.create_connection(Sender, sock=ours)
        getting = loop.create_task(everything(loop, theirs))
        transport.write(b"head")
        sending = loop.create_task(loop.sendfile(transport, file, 1, 2_000_000))
        await turns(1)
        for refused in (transport.write, lambda data: transport.writelines([data])):
            with pytest.raises(RuntimeError, match="sendfile is in progress"):
                refused(b"between")
        assert await sending == 2_000_000
        assert file.tell() == 2_000_001
        assert transport.is_reading()
        theirs.send(b"heard")
        while protocol.received != b"heard":
            await asyncio.sleep(0)
        transport.write(b"tail")
        transport.close()
        assert await getting == b"head" + DATA[1:2_000_001] + b"tail"
        assert await protocol.lost is None

    run(main())


def test_a_transport_that_did_not_read_does_not_read_afterwards(loop, run, pair, file):
    ours, theirs = pair

    async def main():
        transport, protocol = await loop.create_connection(Sender, sock=ours)
        transport.pause_reading()
        theirs.send(b"later")
        assert await loop.sendfile(transport, file, 0, 10) == 10
        await turns()
        assert not transport.is_reading()
        assert protocol.received == b""
        transport.resume_reading()
        while protocol.received != b"later":
            await asyncio.sleep(0)
        transport.close()
        await protocol.lost

    run(main())


@pytest.mark.oracle_differs("as for a socket: asyncio leaves the position where it was")
def test_a_cancelled_sendfile_leaves_the_transport_usable(loop, run, pair, file, loop_factory):
    ours, theirs = pair

    async def main():
        transport, protocol = await loop.create_connection(Sender, sock=ours)
        sending = loop.create_task(loop.sendfile(transport, file))
        await turns()
        sending.cancel()
        await asyncio.wait([sending])
        assert sending.cancelled()
        transport.write(b"tail")
        transport.close()
        got = await everything(loop, theirs)
        assert got == DATA[: len(got) - 4] + b"tail"
        assert file.tell() == (len(got) - 4 if loop_factory.is_hayase else 0)
        assert await protocol.lost is None

    run(main())


def test_a_transport_reads_and_writes_what_the_kernel_cannot_send(loop, run, pair):
    ours, theirs = pair

    async def main():
        transport, protocol = await loop.create_connection(Sender, sock=ours)
        getting = loop.create_task(everything(loop, theirs))
        with pytest.raises(asyncio.SendfileNotAvailableError, match=r"^not a regular file$"):
            await loop.sendfile(transport, io.BytesIO(DATA), fallback=False)
        memory = io.BytesIO(DATA)
        assert await loop.sendfile(transport, memory, 5, 1_000_000) == 1_000_000
        assert memory.tell() == 1_000_005
        transport.close()
        assert await getting == DATA[5:1_000_005]
        await protocol.lost

    run(main())


def test_a_connection_that_breaks_midway_ends_sendfile(loop, run, pair, file):
    ours, theirs = pair

    async def main():
        transport, protocol = await loop.create_connection(Sender, sock=ours)
        sending = loop.create_task(loop.sendfile(transport, file))
        await turns()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        theirs.close()
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await sending
        assert 0 < file.tell() < len(DATA)
        transport.close()
        await protocol.lost

    run(main())


def test_a_closing_transport_is_refused(loop, run, pair, file):
    async def main():
        transport, protocol = await loop.create_connection(Sender, sock=pair[0])
        transport.close()
        with pytest.raises(RuntimeError, match=r"^Transport is closing$"):
            await loop.sendfile(transport, file)
        await protocol.lost

    run(main())
