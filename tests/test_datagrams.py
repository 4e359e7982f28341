"""Datagrams: UDP and Unix sockets, connected and not, and what the kernel says when it refuses one."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import gc
import os
import re
import socket
import sys
import weakref
from pathlib import Path

import pytest

empty_datagrams_are_sent = sys.version_info >= (3, 13)
header_bytes = 8 if sys.version_info >= (3, 13) else 0


class Recording(asyncio.DatagramProtocol):
    """`events` holds the names of the calls, `datagrams` pairs of data and sender."""

    def __init__(self):
        loop = asyncio.get_running_loop()
        self.events, self.datagrams, self.errors = [], [], []
        self.closed = loop.create_future()
        self.transport = None
        self._waiting = []

    def connection_made(self, transport):
        self.transport = transport
        self.events.append("connection_made")

    def datagram_received(self, data, addr):
        assert type(data) is bytes
        self.datagrams.append((data, addr))
        self._look("datagrams")

    def error_received(self, exc):
        self.errors.append(exc)
        self._look("errors")

    def connection_lost(self, exc):
        self.events.append("connection_lost")
        self.closed.set_result(exc)

    def pause_writing(self):
        self.events.append("pause_writing")

    def resume_writing(self):
        self.events.append("resume_writing")

    def _look(self, kind):
        for entry in list(self._waiting):
            wanted, count, future = entry
            if wanted == kind and len(getattr(self, kind)) >= count:
                self._waiting.remove(entry)
                future.cancelled() or future.set_result(None)

    async def some(self, kind, count):
        if len(getattr(self, kind)) < count:
            future = asyncio.get_running_loop().create_future()
            self._waiting.append((kind, count, future))
            await future
        return getattr(self, kind)

    async def received(self, count):
        return [data for data, _ in await self.some("datagrams", count)]


async def endpoint(*args, factory=Recording, **kwargs):
    return (await asyncio.get_running_loop().create_datagram_endpoint(factory, *args, **kwargs))[1]


async def local(factory=Recording, **kwargs):
    """An endpoint on loopback, and its address."""
    protocol = await endpoint(("127.0.0.1", 0), factory=factory, **kwargs)
    return protocol, protocol.transport.get_extra_info("sockname")


async def close(*protocols):
    for protocol in protocols:
        protocol.transport.close()
        assert await protocol.closed is None


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this system has no IPv6 on loopback")


def pair():
    """Two Unix datagram sockets with names, connected to each other."""
    near, far = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    near.bind("")  # the kernel gives an abstract name
    far.bind("")
    near.connect(far.getsockname())
    far.connect(near.getsockname())
    return near, far


def full_pair():
    """Such a pair, the first with a full buffer; and how many datagrams made it full."""
    near, far = pair()
    near.setblocking(False)
    far.setblocking(False)
    count = 0
    try:
        while True:
            near.send(b"filling")
            count += 1
    except BlockingIOError:
        return near, far, count


# Sending and receiving -----------------------------------------------------------------------------------------------


def test_datagrams_travel_between_endpoints_that_are_not_connected(run):
    async def main():
        near, near_address = await local()
        far, far_address = await local()
        near.transport.sendto(b"to far", far_address)
        assert await far.some("datagrams", 1) == [(b"to far", near_address)]
        far.transport.sendto(b"to near", near_address)
        assert await near.some("datagrams", 1) == [(b"to near", far_address)]
        await close(near, far)
        assert near.events == far.events == ["connection_made", "connection_lost"]

    run(main())


def test_a_connected_endpoint_needs_no_address(run):
    async def main():
        server, address = await local()
        client = await endpoint(remote_addr=address)
        assert client.transport.get_extra_info("peername") == address
        client.transport.sendto(b"without")
        client.transport.sendto(b"with", address)
        client.transport.sendto(b"with None", None)
        assert await server.received(3) == [b"without", b"with", b"with None"]
        server.transport.sendto(b"answer", server.datagrams[0][1])
        assert await client.some("datagrams", 1) == [(b"answer", address)]
        await close(client, server)

    run(main())


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_kind_of_bytes_can_be_sent_and_changed_afterwards(run, kind):
    async def main():
        server, address = await local()
        client = await endpoint(remote_addr=address)
        memory = bytearray(b"before")
        data = memoryview(memory) if kind is memoryview else kind(memory)
        client.transport.sendto(data)
        memory[:] = b"after!"
        assert await server.received(1) == [b"before"]
        await close(client, server)

    run(main())


def test_keywords_can_be_used(run):
    async def main():
        server, address = await local()
        client, _ = await local()
        client.transport.sendto(data=b"one", addr=address)
        client.transport.sendto(b"two", addr=address)
        assert await server.received(2) == [b"one", b"two"]
        await close(client, server)

    run(main())


@pytest.mark.parametrize("size", [1, 1400, 9000, 65507])
def test_datagrams_of_any_size_arrive_whole(run, size):
    async def main():
        server, address = await local()
        client = await endpoint(remote_addr=address)
        client.transport.sendto(b"x" * size)
        assert await server.received(1) == [b"x" * size]
        await close(client, server)

    run(main())


def test_an_empty_datagram_arrives_and_is_sent_as_the_version_says(run):
    async def main():
        server, address = await local()
        client = await endpoint(remote_addr=address)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", address)
        assert await server.received(1) == [b""]
        client.transport.sendto(b"")
        client.transport.sendto(b"last")
        expected = [b"", b"", b"last"] if empty_datagrams_are_sent else [b"", b"last"]
        assert await server.received(len(expected)) == expected
        await close(client, server)

    run(main())


def test_datagrams_keep_their_order_and_their_senders(run):
    async def main():
        server, address = await local()
        clients = [await endpoint(remote_addr=address) for _ in range(20)]
        names = [client.transport.get_extra_info("sockname") for client in clients]
        for number in range(10):
            for client, name in zip(clients, names, strict=True):
                client.transport.sendto(f"{number} {name[1]}".encode())
        await server.received(200)
        assert server.datagrams == [(f"{n} {name[1]}".encode(), name) for n in range(10) for name in names]
        await close(server, *clients)

    run(main())


def test_many_peers_are_answered_by_the_addresses_that_were_given(run):
    """More than any table of addresses could have places for."""

    class Echo(Recording):
        def datagram_received(self, data, addr):
            self.transport.sendto(data, addr)

    async def main():
        server, address = await local(Echo)
        sockets = []
        for number in range(300):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((f"127.0.{number % 7}.{1 + number % 200}", 0))
            sock.setblocking(False)
            sockets.append(sock)
        loop = asyncio.get_running_loop()
        for first in [*range(0, 300, 50)] * 2:
            some = sockets[first : first + 50]  # a socket's buffer has room for so many
            for sock in some:
                sock.sendto(repr(sock.getsockname()).encode(), address)
            for sock in some:
                data, sender = await loop.sock_recvfrom(sock, 100)
                assert (data.decode(), sender) == (repr(sock.getsockname()), address)
        for sock in sockets:
            sock.close()
        await close(server)

    run(main())


def test_an_address_that_is_no_plain_tuple_is_understood(run):
    class Host(str):
        pass

    class Pair(tuple):
        pass

    async def main():
        server, (host, port) = await local()
        client, _ = await local()
        client.transport.sendto(b"1", (Host(host), port))
        client.transport.sendto(b"2", Pair((host, port)))
        client.transport.sendto(b"3", ("localhost", port))
        assert await server.received(3) == [b"1", b"2", b"3"]
        await close(client, server)

    run(main())


def test_an_address_that_changes_is_read_anew(run):
    class Port:
        def __index__(self):
            return self.number

    async def main():
        one, one_address = await local()
        two, two_address = await local()
        client, _ = await local()
        port = Port()
        changing = ("127.0.0.1", port)
        for protocol, address in ((one, one_address), (two, two_address), (one, one_address)):
            port.number = address[1]
            client.transport.sendto(b"for %d" % address[1], changing)
            assert (await protocol.received(1))[-1] == b"for %d" % address[1]
        await close(client, one, two)

    run(main())


@needs_ipv6
def test_ipv6_addresses_have_four_parts(run):
    async def main():
        server = await endpoint(("::1", 0))
        address = server.transport.get_extra_info("sockname")
        assert len(address) == 4
        client = await endpoint(("::1", 0))
        client.transport.sendto(b"four", address)
        client.transport.sendto(b"two", address[:2])
        assert await server.received(2) == [b"four", b"two"]
        assert server.datagrams[0][1] == client.transport.get_extra_info("sockname")
        connected = await endpoint(remote_addr=("::1", address[1]))
        connected.transport.sendto(b"connected")
        assert (await server.received(3))[2] == b"connected"
        await close(server, client, connected)

    run(main())


@needs_ipv6
def test_a_scope_id_is_kept(run):
    scope = socket.if_nametoindex("lo")

    async def main():
        server = await endpoint(("::1", 0))
        port = server.transport.get_extra_info("sockname")[1]
        client = await endpoint(("::1", 0))
        client.transport.sendto(b"number", ("::1", port, 0, scope))
        assert await server.received(1) == [b"number"]
        # Where the name of an interface means nothing, the lookup says so.
        client.transport.sendto(b"name", ("::1%lo", port))
        assert [type(error) for error in client.errors] == [socket.gaierror]
        await close(server, client)

    run(main())


# Unix ----------------------------------------------------------------------------------------------------------------


def test_unix_datagrams_between_paths(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    async def main():
        one = await endpoint("one", family=socket.AF_UNIX)
        two = await endpoint("two", "one", family=socket.AF_UNIX)
        three = await endpoint(f"\0hayase-test-three-{os.getpid()}", family=socket.AF_UNIX)
        nameless = await endpoint(family=socket.AF_UNIX)
        abstract = three.transport.get_extra_info("sockname")
        assert (one.transport.get_extra_info("sockname"), type(abstract)) == ("one", bytes)
        assert two.transport.get_extra_info("peername") == "one"
        two.transport.sendto(b"connected")
        three.transport.sendto(b"abstract", "one")
        nameless.transport.sendto(b"nameless", b"one")
        expected = [(b"connected", "two"), (b"abstract", abstract), (b"nameless", None)]
        assert await one.some("datagrams", 3) == expected
        one.transport.sendto(b"back", abstract)
        one.transport.sendto(b"back", "two")
        assert await three.received(1) == await two.received(1) == [b"back"]
        await close(one, two, three, nameless)

    run(main())


@pytest.mark.oracle_differs(
    "asyncio takes a peer without a name for none, and ends the transport at the first datagram"
)
def test_a_pair_of_sockets_without_names_is_connected(run, loop_factory, asyncio_log):
    async def main():
        near, far = [await endpoint(sock=sock) for sock in socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)]
        near.transport.sendto(b"to whom?")
        if loop_factory.is_hayase:
            assert await far.some("datagrams", 1) == [(b"to whom?", None)]
            far.transport.sendto(b"back", None)
            assert await near.received(1) == [b"back"]
            await close(near, far)
        else:
            assert type(await near.closed) is TypeError
            await close(far)
            assert len(asyncio_log.messages()) == 1

    run(main())


def test_a_stale_unix_socket_is_replaced_and_a_file_is_not(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stale:
        stale.bind("stale")
    Path("file").write_text("precious")

    async def main():
        await close(await endpoint("stale", family=socket.AF_UNIX))
        with pytest.raises(OSError, match=re.escape("[Errno 98] Address already in use")):
            await endpoint("file", family=socket.AF_UNIX)

    run(main())


@pytest.mark.parametrize("size", [65536, 100_000])
def test_a_unix_datagram_larger_than_any_of_udp_arrives_whole(run, size):
    async def main():
        near, far = [await endpoint(sock=sock) for sock in pair()]
        near.transport.sendto(b"x" * size)
        assert await far.received(1) == [b"x" * size]
        await close(near, far)

    run(main())


def test_a_datagram_larger_than_asyncios_buffer_is_cut_off(run):
    async def main():
        near, far = pair()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        size = 256 * 1024 + 1
        if near.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) < 2 * size:
            near.close(), far.close()
            pytest.skip("this system allows no such datagram")
        near, far = await endpoint(sock=near), await endpoint(sock=far)
        assert far.transport.max_size == 256 * 1024
        near.transport.sendto(b"x" * size)
        assert await far.received(1) == [b"x" * (256 * 1024)]
        await close(near, far)

    run(main())


# Errors of the kernel ------------------------------------------------------------------------------------------------


def test_a_port_where_nobody_listens_is_told_and_ends_nothing(run):
    async def main():
        gone, address = await local()
        await close(gone)
        client = await endpoint(remote_addr=address)
        client.transport.sendto(b"anybody?")
        [error] = await client.some("errors", 1)
        assert type(error) is ConnectionRefusedError
        assert not client.transport.is_closing()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(address)
            client.transport.sendto(b"now?")
            server.sendto(b"yes", client.transport.get_extra_info("sockname"))
            assert await client.received(1) == [b"yes"]
        await close(client)

    run(main())


def test_a_datagram_that_is_too_long_is_told_at_once(run):
    async def main():
        server, address = await local()
        client = await endpoint(remote_addr=address)
        client.transport.sendto(b"x" * 65508)
        assert [error.errno for error in client.errors] == [errno.EMSGSIZE]
        client.transport.sendto(b"short")
        assert await server.received(1) == [b"short"]
        await close(client, server)

    run(main())


def test_a_unix_peer_that_is_not_there_is_told_at_once(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    async def main():
        client = await endpoint(family=socket.AF_UNIX)
        client.transport.sendto(b"anybody?", "missing")
        assert [type(error) for error in client.errors] == [FileNotFoundError]
        await close(client)

    run(main())


def test_a_broadcast_without_leave_is_refused_and_with_it_is_not(run):
    async def main():
        without, _ = await local()
        without.transport.sendto(b"all", ("127.255.255.255", 9))
        assert [type(error) for error in without.errors] == [PermissionError]
        allowed, _ = await local(allow_broadcast=True)
        allowed.transport.sendto(b"all", ("127.255.255.255", 9))
        assert allowed.errors == []
        await close(without, allowed)

    run(main())


def test_an_endpoint_that_may_broadcast_is_not_connected_and_sends_to_its_address(run):
    async def main():
        server, address = await local()
        client = await endpoint(remote_addr=address, allow_broadcast=True)
        assert client.transport.get_extra_info("peername") is None
        client.transport.sendto(b"one")
        client.transport.sendto(b"two", address)
        assert await server.received(2) == [b"one", b"two"]
        with pytest.raises(ValueError, match=re.escape(f"Invalid address: must be None or {address}")):
            client.transport.sendto(b"three", ("127.0.0.1", 9))
        await close(client, server)

    run(main())


def test_what_error_received_raises_reaches_who_sent(run):
    class Failing(Recording):
        def error_received(self, exc):
            raise LookupError

    async def main():
        _, address = server = await local()
        client = await endpoint(remote_addr=address, factory=Failing)
        with pytest.raises(LookupError):
            client.transport.sendto(b"x" * 70000)
        assert not client.transport.is_closing()
        await close(client, server[0])

    run(main())


# Misuse --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", ["text", 5, None, [1]], ids=repr)
def test_what_is_no_bytes_is_refused(same_as_asyncio, data):
    def story(loop):
        async def main():
            protocol, address = await local()
            try:
                protocol.transport.sendto(data, address)
            finally:
                await close(protocol)

        loop.run_until_complete(main())

    assert same_as_asyncio(story).error[0] is TypeError


@pytest.mark.parametrize("arguments", [(), (b"x", None, 5)], ids=["none", "three"])
def test_a_wrong_number_of_arguments_is_refused(same_as_asyncio, arguments):
    def story(loop):
        async def main():
            protocol, _ = await local()
            try:
                protocol.transport.sendto(*arguments)
            finally:
                await close(protocol)

        loop.run_until_complete(main())

    assert same_as_asyncio(story, text=False).error[0] is TypeError


def test_another_address_than_the_connected_one_is_refused(same_as_asyncio):
    def story(loop):
        async def main():
            server, address = await local()
            client = await endpoint(remote_addr=address)
            try:
                client.transport.sendto(b"elsewhere", ("127.0.0.1", 9))
            except ValueError as error:
                return str(error).replace(str(address), "…")
            finally:
                await close(client, server)

        return loop.run_until_complete(main())

    assert same_as_asyncio(story).value == "Invalid address: must be None or …"


@pytest.mark.parametrize(
    "address",
    [None, "127.0.0.1", ("127.0.0.1",), ("127.0.0.1", "9"), ("127.0.0.1", 70000), (5, 9), ("127.0.0.1", 9, 0)],
    ids=repr,
)
def test_an_address_that_is_none_ends_the_transport_as_asyncios(same_as_asyncio, address):
    def story(loop):
        async def main():
            protocol, _ = await local()
            protocol.transport.sendto(b"where?", address)
            error = await protocol.closed
            return f"{type(error).__name__}: {error}"

        return loop.run_until_complete(main())

    outcome = same_as_asyncio(story)
    assert outcome.log[0][0] == "ERROR"
    assert outcome.log[0][1].startswith("Fatal write error on datagram transport")


def test_memory_that_is_not_contiguous_ends_the_transport_as_asyncios(same_as_asyncio):
    def story(loop):
        async def main():
            protocol, address = await local()
            protocol.transport.sendto(memoryview(b"abcd")[::2], address)
            return type(await protocol.closed).__name__

        return loop.run_until_complete(main())

    assert same_as_asyncio(story).value == "BufferError"


def test_what_datagram_received_raises_is_reported_and_ends_nothing(run, loop):
    class Failing(Recording):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            raise LookupError(data)

    reports = []
    loop.set_exception_handler(lambda _, report: reports.append(report))

    async def main():
        server, address = await local(Failing)
        client = await endpoint(remote_addr=address)
        for data in (b"1", b"2", b"3"):
            client.transport.sendto(data)
        await server.received(3)
        await asyncio.sleep(0)
        assert [str(report["exception"]) for report in reports] == ["b'1'", "b'2'", "b'3'"]
        assert all(report["message"].startswith("Exception in callback ") for report in reports)
        assert not server.transport.is_closing()
        await close(client, server)

    run(main())


@pytest.mark.parametrize("callback", ["connection_made", "connection_lost"])
def test_what_other_callbacks_raise_is_reported_once(run, loop, callback):
    class Failing(Recording):
        pass

    def fail(self, *args):
        getattr(Recording, callback)(self, *args)
        raise LookupError

    setattr(Failing, callback, fail)
    reports = []
    loop.set_exception_handler(lambda _, report: reports.append(type(report["exception"])))

    async def main():
        protocol, _ = await local(Failing)
        await close(protocol)
        await asyncio.sleep(0)
        assert reports == [LookupError]

    run(main())


# Closing -------------------------------------------------------------------------------------------------------------


def test_nothing_is_received_after_close_or_abort(run):
    async def main():
        for end in ("close", "abort"):
            server, address = await local()
            client = await endpoint(remote_addr=address)
            client.transport.sendto(b"late")
            getattr(server.transport, end)()
            assert server.transport.is_closing()
            assert await server.closed is None
            assert server.datagrams == []
            getattr(server.transport, end)()
            await close(client)
            assert server.events == ["connection_made", "connection_lost"]

    run(main())


def test_a_protocol_that_closes_in_the_middle_of_many_datagrams_receives_no_more(run):
    class Closing(Recording):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            if data == b"3":
                self.transport.close()

    async def main():
        server, address = await local(Closing)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for number in range(8):
                sock.sendto(b"%d" % number, address)
        await server.closed
        assert [data for data, _ in server.datagrams] == [b"0", b"1", b"2", b"3"]

    run(main())


def test_what_is_sent_before_close_arrives(run):
    async def main():
        near, far, filled = full_pair()
        near = await endpoint(sock=near)
        for number in range(5):
            near.transport.sendto(b"%d" % number)
        assert near.transport.get_write_buffer_size() == 5 * (1 + header_bytes)
        near.transport.close()
        near.transport.sendto(b"after close")
        await asyncio.sleep(0)
        assert near.events == ["connection_made"]
        far = await endpoint(sock=far)
        assert (await far.received(filled + 6))[filled:] == [b"0", b"1", b"2", b"3", b"4", b"after close"]
        assert await near.closed is None
        await close(far)

    run(main())


def test_abort_forgets_what_waits(run):
    async def main():
        near, far, filled = full_pair()
        near = await endpoint(sock=near)
        near.transport.sendto(b"never")
        near.transport.abort()
        assert await near.closed is None
        far = await endpoint(sock=far)
        assert await far.received(filled) == [b"filling"] * filled
        await close(far)

    run(main())


@pytest.mark.oracle_differs("asyncio raises an AttributeError where no remote address was given")
def test_sending_after_the_end_is_ignored_and_told_at_last(run, loop_factory, asyncio_log):
    async def main():
        server, address = await local()
        client = await endpoint(remote_addr=address)
        await close(client, server)
        for _ in range(6):
            client.transport.sendto(b"gone")
        assert asyncio_log.messages() == ["socket.send() raised exception."] * 2
        if loop_factory.is_hayase:
            for _ in range(6):
                server.transport.sendto(b"gone", address)
            assert asyncio_log.messages() == ["socket.send() raised exception."] * 2
        else:
            with pytest.raises(AttributeError):
                server.transport.sendto(b"gone", address)

    run(main())


def test_a_transport_that_is_forgotten_warns_and_closes_its_socket(loop_factory):
    loop = loop_factory()
    transport, _ = loop.run_until_complete(loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0)))
    died = weakref.ref(transport)
    descriptor = transport.get_extra_info("socket").fileno()
    with pytest.warns(ResourceWarning, match="unclosed"):
        loop.close()
        del transport
        gc.collect()
    assert died() is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


# Flow control --------------------------------------------------------------------------------------------------------


@pytest.mark.oracle_differs("3.13.0 forgets to take the headers of sent datagrams off")
def test_writing_is_paused_above_the_high_mark_and_resumed_when_the_queue_is_short(run, loop_factory):
    async def main():
        near, far, filled = full_pair()
        near = await endpoint(sock=near)
        transport = near.transport
        assert transport.get_write_buffer_limits() == (16384, 65536)
        transport.set_write_buffer_limits(high=100, low=0 if loop_factory.is_hayase else 99)
        each = 10 + header_bytes
        count = 100 // each
        for _ in range(count):
            transport.sendto(b"0123456789")
        assert near.events == ["connection_made"]
        transport.sendto(b"0123456789")
        assert near.events == ["connection_made", "pause_writing"]
        assert transport.get_write_buffer_size() == each * (count + 1)
        far = await endpoint(sock=far)
        assert (await far.received(filled + count + 1))[filled:] == [b"0123456789"] * (count + 1)
        await asyncio.sleep(0)
        assert near.events == ["connection_made", "pause_writing", "resume_writing"]
        if loop_factory.is_hayase:
            assert transport.get_write_buffer_size() == 0
        await close(near, far)

    run(main())


def test_a_datagram_that_is_queued_is_a_copy(run):
    async def main():
        near, far, filled = full_pair()
        near = await endpoint(sock=near)
        data = bytearray(b"before")
        near.transport.sendto(data)
        data[:] = b"after!"
        data.clear()
        far = await endpoint(sock=far)
        assert (await far.received(filled + 1))[filled:] == [b"before"]
        await close(near, far)

    run(main())


def test_marks_in_the_wrong_order_are_refused(same_as_asyncio):
    def story(loop):
        async def main():
            protocol, _ = await local()
            try:
                protocol.transport.set_write_buffer_limits(high=5, low=6)
            finally:
                await close(protocol)

        loop.run_until_complete(main())

    assert same_as_asyncio(story).error == (ValueError, "high (5) must be >= low (6) must be >= 0")


def test_reading_can_be_paused_and_nothing_is_lost(run):
    class Pausing(Recording):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            if data == b"1":
                self.transport.pause_reading()

    async def main():
        server, address = await local(Pausing)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for number in range(6):
                sock.sendto(b"%d" % number, address)
        assert await server.received(2) == [b"0", b"1"]
        assert not server.transport.is_reading()
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(server.datagrams) == 2
        server.transport.resume_reading()
        assert await server.received(6) == [b"0", b"1", b"2", b"3", b"4", b"5"]
        await close(server)

    run(main())


@pytest.mark.timeout(30)
def test_a_flood_of_datagrams_starves_nobody(run):
    """Two endpoints that keep each other busy for ever; a timer and a callback have their turn nevertheless."""

    class Ball(Recording):
        def datagram_received(self, data, addr):
            self.transport.sendto(data, addr)
            self.transport.sendto(data, addr)

    async def main():
        near, _ = await local(Ball)
        far, address = await local(Ball)
        near.transport.sendto(b"ball", address)
        for _ in range(50):
            await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        await close(near, far)

    run(main())


# The object ----------------------------------------------------------------------------------------------------------


def test_a_datagram_transport_is_one(run):
    async def main():
        protocol, address = await local()
        transport = protocol.transport
        if sys.version_info >= (3, 13):
            assert isinstance(transport, asyncio.DatagramTransport)
        assert isinstance(transport, asyncio.Transport)
        assert isinstance(transport, asyncio.BaseTransport)
        assert transport.get_protocol() is protocol
        assert transport.get_extra_info("sockname") == address
        assert transport.get_extra_info("peername") is None
        assert transport.get_extra_info("missing", "default") == "default"
        sock = transport.get_extra_info("socket")
        assert (sock.family, sock.type, sock.getsockname()) == (socket.AF_INET, socket.SOCK_DGRAM, address)
        assert transport.is_reading()
        assert re.fullmatch(
            r"<\w+ fd=\d+ read=polling write=<idle, bufsize=0>>", repr(transport).replace("_Selector", "")
        )
        await close(protocol)
        assert re.fullmatch(r"<\w+ closed fd=\d+>", repr(transport))
        other = Recording()
        transport.set_protocol(other)
        assert transport.get_protocol() is other

    run(main())


def test_another_protocol_receives_what_comes_next(run):
    async def main():
        first, address = await local()
        client = await endpoint(remote_addr=address)
        client.transport.sendto(b"1")
        await first.received(1)
        second = Recording()
        second.transport = first.transport
        first.transport.set_protocol(second)
        client.transport.sendto(b"2")
        assert await second.received(1) == [b"2"]
        await close(second, client)
        assert first.events == ["connection_made"]

    run(main())


def test_callbacks_run_in_the_context_in_which_the_endpoint_was_made(run):
    variable = contextvars.ContextVar("variable", default="outside")
    seen = []

    class Looking(Recording):
        def connection_made(self, transport):
            seen.append(variable.get())
            super().connection_made(transport)

        def datagram_received(self, data, addr):
            seen.append(variable.get())
            super().datagram_received(data, addr)

        def connection_lost(self, exc):
            seen.append(variable.get())
            super().connection_lost(exc)

    async def main():
        token = variable.set("inside")
        server, address = await local(Looking)
        variable.reset(token)
        client = await endpoint(remote_addr=address)
        client.transport.sendto(b"x")
        await server.received(1)
        await close(client)
        server.transport.abort()
        await server.closed
        assert seen[:2] == ["inside", "inside"]

    run(main())


@pytest.mark.oracle_differs("asyncio refuses from 3.12 on; before, both lose datagrams to each other")
def test_two_transports_on_one_descriptor_are_refused(run, loop_factory):
    if not (loop_factory.is_hayase or sys.version_info >= (3, 12)):
        return

    async def main():
        protocol, _ = await local()
        sock = socket.socket(fileno=os.dup(protocol.transport.get_extra_info("socket").fileno()))
        with sock, socket.socket(fileno=protocol.transport.get_extra_info("socket").fileno()) as same:
            with pytest.raises(RuntimeError, match="is used by transport"):
                await endpoint(sock=same)
            same.detach()
        await close(protocol)

    run(main())


# Making one ----------------------------------------------------------------------------------------------------------


def make(*args, **kwargs):
    return lambda loop: loop.run_until_complete(
        loop.create_datagram_endpoint(asyncio.DatagramProtocol, *args, **kwargs)
    )


@pytest.mark.parametrize(
    "story",
    [
        make(),
        make("127.0.0.1"),
        make(("127.0.0.1",)),
        make(("127.0.0.1", 0, 0)),
        make(["127.0.0.1", 0]),
        make(5),
        make(("127.0.0.1", 0), ("::1", 9)),
        make(("127.0.0.1", 0), family=socket.AF_INET6, flags=socket.AI_NUMERICHOST),
        make(5, family=socket.AF_UNIX),
        make(b"path", family=socket.AF_UNIX),
        make(("127.0.0.1", 0), family=socket.AF_UNIX),
        make(("192.0.2.1", 0)),
        make("missing-folder/socket", family=socket.AF_UNIX),
        make(remote_addr="missing-socket", family=socket.AF_UNIX),
        make(family="inet"),
        make(("127.0.0.1", 99999)),
        make(("127.0.0.1", 0), reuse_address=True),
        make(family=socket.AF_UNIX, reuse_port=True),
    ],
)
def test_bad_arguments_get_asyncios_error(same_as_asyncio, story, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = same_as_asyncio(story, text=False)
    assert outcome.error is not None
    if outcome.error[0] is not TypeError or "argument" not in outcome.error[1]:
        same_as_asyncio(story)


@pytest.mark.parametrize(
    "options",
    [
        {"local_addr": ("127.0.0.1", 0)},
        {"remote_addr": ("127.0.0.1", 9)},
        {"family": 2},
        {"proto": 17},
        {"flags": 1},
        {"reuse_port": True},
        {"allow_broadcast": True},
        {"allow_broadcast": 1, "family": 2, "flags": 0},
    ],
    ids=lambda options: "+".join(options),
)
def test_a_given_socket_excludes_every_option(same_as_asyncio, options):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert same_as_asyncio(make(sock=sock, **options)).error[0] is ValueError


def test_a_stream_socket_is_refused(same_as_asyncio):
    with socket.socket() as sock:
        assert same_as_asyncio(make(sock=sock)).error[0] is ValueError


def test_options_are_set_as_asked(run):
    async def main():
        plain, _ = await local()
        special, address = await local(reuse_port=True, allow_broadcast=True)
        for protocol, expected in ((plain, False), (special, True)):
            sock = protocol.transport.get_extra_info("socket")
            for option in (socket.SO_REUSEPORT, socket.SO_BROADCAST):
                assert bool(sock.getsockopt(socket.SOL_SOCKET, option)) is expected
        again = await endpoint(address, reuse_port=True)
        await close(plain, special, again)

    run(main())


def test_a_name_is_looked_up_by_the_loop(run, loop, monkeypatch):
    asked = []

    async def getaddrinfo(host, port, **kwargs):
        asked.append((host, port, kwargs["type"], kwargs["family"]))
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("127.0.0.1", 0))]

    async def main():
        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        protocol = await endpoint(("somewhere", 7), family=socket.AF_INET)
        assert asked == [("somewhere", 7, socket.SOCK_DGRAM, socket.AF_INET)]
        numeric = await endpoint(("127.0.0.1", 0))
        assert len(asked) == 1
        await close(protocol, numeric)

    run(main())


def test_the_next_address_is_tried_when_one_cannot_be_bound(run, loop, monkeypatch):
    async def getaddrinfo(host, port, **kwargs):
        return [
            (socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("192.0.2.1", 0)),
            (socket.AF_INET, socket.SOCK_DGRAM, 0, "", ("127.0.0.1", 0)),
        ]

    async def main():
        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        protocol = await endpoint(("somewhere", 0))
        assert protocol.transport.get_extra_info("sockname")[0] == "127.0.0.1"
        await close(protocol)

    run(main())


def test_a_factory_that_fails_leaves_nothing_open(run):
    def fail():
        raise LookupError

    async def main():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            with pytest.raises(LookupError):
                await endpoint(sock=sock, factory=fail)

    run(main())


@pytest.mark.parametrize("debug", [False, True])
def test_making_one_is_logged_in_debug_mode(run, loop, caplog, debug):
    loop.set_debug(debug)

    async def main():
        protocol, _ = await local()
        await close(protocol)

    with caplog.at_level("DEBUG", logger="asyncio"):
        import logging

        logging.getLogger("asyncio").addHandler(caplog.handler)
        run(main())
        logging.getLogger("asyncio").removeHandler(caplog.handler)
    found = [record for record in caplog.records if record.getMessage().startswith("Datagram endpoint local_addr")]
    assert len(found) == (1 if debug else 0)
