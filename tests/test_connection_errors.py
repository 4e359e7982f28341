"""Connecting and serving when addresses, sockets and lookups fail; and connecting through methods that the program replaced.

CPython's suite tells these stories with mocks for the socket module inside the stock loop. Here they happen: with refused
ports, addresses that are taken, families that do not exist, and a `getaddrinfo` or `sock_connect` of the program's own.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import sys

import pytest
from recording import Recording

TCP = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
NO_SUCH_FAMILY = (45, socket.SOCK_STREAM, 0, "")


def refused_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def answer_lookups(loop, infos, local=()):
    """Replaces the loop's `getaddrinfo`: `infos` for everything but the host "local"."""

    async def getaddrinfo(host, port, **kwargs):
        return list(local if host == "local" else infos)

    loop.getaddrinfo = getaddrinfo


def connecting(loop, **kwargs):
    return loop.run_until_complete(loop.create_connection(asyncio.Protocol, "name", 80, **kwargs))


def told(error):
    """An error as something to compare: type, number, text; of a group, all of them."""
    if isinstance(error, BaseExceptionGroup):
        return type(error).__name__, error.message, [told(each) for each in error.exceptions]
    return type(error).__name__, getattr(error, "errno", None), str(error)


def failure_of(loop, **kwargs):
    with pytest.raises(BaseException) as caught:
        connecting(loop, **kwargs)
    return told(caught.value)


def started_server(loop):
    listener = socket.create_server(("127.0.0.1", 0))
    return loop.run_until_complete(loop.create_server(asyncio.Protocol, sock=listener)), listener.getsockname()


# Several addresses ---------------------------------------------------------------------------------------------------


def all_errors_keyword(all_errors):
    """The keyword, which came with 3.12."""
    return {"all_errors": True} if all_errors else {}


def errors_told():
    since = pytest.mark.skipif(sys.version_info < (3, 12), reason="all_errors came with 3.12")
    return pytest.mark.parametrize("all_errors", [False, pytest.param(True, marks=since)])


def delays():
    return pytest.mark.parametrize("delay", [None, 0.001], ids=["in turn", "raced"])


@delays()
@errors_told()
def test_different_errors_of_several_addresses_are_told_together(same_as_asyncio, delay, all_errors):
    ports = [refused_port(), refused_port()]

    def story(loop):
        answer_lookups(loop, [(*TCP, ("127.0.0.1", port)) for port in ports])
        return failure_of(loop, happy_eyeballs_delay=delay, **all_errors_keyword(all_errors))

    name, _, what = same_as_asyncio(story).value
    assert name == "ExceptionGroup" if all_errors else what.startswith("Multiple exceptions: [Errno 111]")


@delays()
def test_one_error_of_several_addresses_is_raised_as_it_is(same_as_asyncio, delay):
    port = refused_port()

    def story(loop):
        answer_lookups(loop, [(*TCP, ("127.0.0.1", port))] * 3)
        return failure_of(loop, happy_eyeballs_delay=delay)

    assert same_as_asyncio(story).value[:2] == ("ConnectionRefusedError", errno.ECONNREFUSED)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="all_errors came with 3.12")
def test_a_socket_that_cannot_be_made_is_one_of_the_errors(loop):
    port = refused_port()
    answer_lookups(loop, [(*NO_SUCH_FAMILY, ("127.0.0.1", 80)), (*TCP, ("127.0.0.1", port))])
    kind, message, found = failure_of(loop, all_errors=True)
    assert (kind, message) == ("ExceptionGroup", "create_connection failed")
    assert [number for _, number, _ in found] == [errno.EAFNOSUPPORT, errno.ECONNREFUSED]


def test_after_an_address_that_fails_the_next_one_is_used(loop):
    server, address = started_server(loop)
    answer_lookups(loop, [(*NO_SUCH_FAMILY, ("127.0.0.1", 80)), (*TCP, ("127.0.0.1", refused_port())), (*TCP, address)])
    transport, _ = connecting(loop)
    assert transport.get_extra_info("peername") == address
    transport.close()
    server.close()
    loop.run_until_complete(server.wait_closed())


def test_an_ipv6_address_with_a_scope_is_tried_with_it(loop, loop_factory):
    tried = []

    async def sock_connect(sock, address):
        tried.append((sock.family, sock.type, address))
        raise OSError("enough")

    loop.sock_connect = sock_connect
    with pytest.raises(OSError, match=r"^enough$"):
        loop.run_until_complete(loop.create_connection(asyncio.Protocol, "fe80::1%1", 80))
    assert tried == [(socket.AF_INET6, socket.SOCK_STREAM, ("fe80::1", 80, 0, 1))]


@pytest.mark.parametrize("service", ["http", b"http", "80", 80, b"80"])
def test_a_port_may_be_the_name_of_a_service(loop, service):
    tried = []

    async def sock_connect(sock, address):
        tried.append(address)
        raise OSError("enough")

    loop.sock_connect = sock_connect
    with pytest.raises(OSError, match=r"^enough$"):
        loop.run_until_complete(loop.create_connection(asyncio.Protocol, "127.0.0.1", service))
    assert tried == [("127.0.0.1", 80)]


@pytest.mark.parametrize("service", ["nonsense", b"nonsense"])
def test_a_service_nobody_knows_is_the_error_of_the_lookup(same_as_asyncio, service):
    def story(loop):
        with pytest.raises(OSError) as caught:
            loop.run_until_complete(loop.create_connection(asyncio.Protocol, "127.0.0.1", service))
        return told(caught.value)

    assert same_as_asyncio(story).value[0] == "gaierror"


# Local addresses -----------------------------------------------------------------------------------------------------


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()


@errors_told()
def test_each_local_address_that_cannot_be_bound_is_named(same_as_asyncio, taken, all_errors):
    def story(loop):
        foreign = ("192.0.2.1", 0)  # reserved for documentation: no machine has it
        answer_lookups(loop, [(*TCP, taken)], local=[(*TCP, taken), (*TCP, foreign)])
        return failure_of(loop, local_addr=("local", 0), **all_errors_keyword(all_errors))

    same_as_asyncio(story)


def test_the_next_local_address_is_used_if_one_is_taken(loop, taken):
    answer_lookups(loop, [(*TCP, taken)], local=[(*TCP, taken), (*TCP, ("127.0.0.7", 0))])
    transport, _ = connecting(loop, local_addr=("local", 0))
    assert transport.get_extra_info("sockname")[0] == "127.0.0.7"
    transport.abort()
    loop.run_until_complete(asyncio.sleep(0))


def test_a_local_address_of_another_family_is_refused(same_as_asyncio, taken):
    def story(loop):
        local = [(socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("::1", 0, 0, 0))]
        answer_lookups(loop, [(*TCP, taken)], local=local)
        return failure_of(loop, local_addr=("local", 0))

    assert "no matching local address with family=" in same_as_asyncio(story).value[2]


def test_a_local_name_without_addresses_is_an_error(same_as_asyncio, taken):
    def story(loop):
        answer_lookups(loop, [(*TCP, taken)], local=[])
        return failure_of(loop, local_addr=("local", 0))

    assert same_as_asyncio(story).value == ("OSError", None, "getaddrinfo() returned empty list")


# A replaced sock_connect ---------------------------------------------------------------------------------------------


def replaced(factory, how, sock_connect):
    """A loop whose `sock_connect` is replaced: on the instance, or by a subclass."""
    if how == "instance":
        loop = factory()
        loop.sock_connect = sock_connect
        return loop
    return type("Ours", (factory.loop_class,), {"sock_connect": staticmethod(sock_connect)})()


@pytest.fixture(params=["instance", "subclass"])
def with_sock_connect(request, loop_factory):
    loops = []

    def make(sock_connect):
        loops.append(replaced(loop_factory, request.param, sock_connect))
        return loops[0]

    yield make
    for loop in loops:
        loop.close()


@delays()
def test_connections_are_made_by_a_replaced_sock_connect(with_sock_connect, loop_factory, delay):
    seen = []

    async def sock_connect(sock, address):
        seen.append((sock, address))
        await loop_factory.loop_class.sock_connect(loop, sock, address)

    loop = with_sock_connect(sock_connect)
    server, address = started_server(loop)

    async def main():
        transport, _ = await loop.create_connection(asyncio.Protocol, *address, happy_eyeballs_delay=delay)
        sock = transport.get_extra_info("socket")
        assert [to for _, to in seen] == [address]
        assert (seen[0][0].fileno(), seen[0][0].getpeername()) == (sock.fileno(), address)
        transport.abort()
        server.close()
        await server.wait_closed()

    loop.run_until_complete(main())
    assert seen[0][0].fileno() == -1


@delays()
@errors_told()
def test_errors_of_a_replaced_sock_connect_are_those_of_the_connection(with_sock_connect, delay, all_errors):
    sockets = []

    async def sock_connect(sock, address):
        sockets.append(sock)
        raise OSError(f"no way to {address[0]}")

    loop = with_sock_connect(sock_connect)
    answer_lookups(loop, [(*TCP, ("127.0.0.1", 80)), (*TCP, ("127.0.0.2", 80))])
    error = failure_of(loop, happy_eyeballs_delay=delay, **all_errors_keyword(all_errors))
    texts = ["no way to 127.0.0.1", "no way to 127.0.0.2"]
    if all_errors:
        expected = ("ExceptionGroup", "create_connection failed", [("OSError", None, text) for text in texts])
    else:
        expected = ("OSError", None, "Multiple exceptions: " + ", ".join(texts))
    assert error == expected
    assert [sock.fileno() for sock in sockets] == [-1, -1]


@pytest.mark.parametrize("error", [TimeoutError("late"), ZeroDivisionError("bug")], ids=type)
def test_any_other_error_of_a_replaced_sock_connect_ends_the_attempts(with_sock_connect, error):
    sockets = []

    def sock_connect(sock, address):
        sockets.append(sock)
        raise error

    loop = with_sock_connect(sock_connect)
    answer_lookups(loop, [(*TCP, ("127.0.0.1", 80)), (*TCP, ("127.0.0.2", 80))])
    with pytest.raises(type(error), match=str(error)):
        connecting(loop)
    # A TimeoutError is an OSError: the next address is tried.
    assert [sock.fileno() for sock in sockets] == [-1] * (2 if isinstance(error, OSError) else 1)


def test_a_cancelled_connection_closes_the_socket_given_to_a_replaced_sock_connect(with_sock_connect):
    async def main():
        task = loop.create_task(loop.create_connection(asyncio.Protocol, "127.0.0.1", 80))
        sock = await waiting
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return sock

    async def sock_connect(sock, address):
        waiting.set_result(sock)
        await loop.create_future()

    loop = with_sock_connect(sock_connect)
    waiting = loop.create_future()
    assert loop.run_until_complete(main()).fileno() == -1


def test_a_local_address_is_bound_before_a_replaced_sock_connect_is_called(with_sock_connect):
    async def sock_connect(sock, address):
        raise OSError(f"from {sock.getsockname()[0]}")

    loop = with_sock_connect(sock_connect)
    with pytest.raises(OSError, match=r"^from 127\.0\.0\.8$"):
        loop.run_until_complete(loop.create_connection(asyncio.Protocol, "127.0.0.1", 80, local_addr=("127.0.0.8", 0)))


def test_sock_connect_looks_up_what_is_no_address_by_the_loops_getaddrinfo(loop):
    server, address = started_server(loop)
    asked = []

    async def getaddrinfo(host, port, **kwargs):
        asked.append((host, port))
        return [(*TCP, address)]

    loop.getaddrinfo = getaddrinfo
    with socket.socket() as sock:
        sock.setblocking(False)
        loop.run_until_complete(loop.sock_connect(sock, ("some name", 1)))
        assert sock.getpeername() == address
    assert asked == [("some name", 1)]
    server.close()
    loop.run_until_complete(server.wait_closed())


# Serving -------------------------------------------------------------------------------------------------------------


def test_a_server_that_cannot_bind_one_of_its_addresses_closes_the_others(same_as_asyncio, taken):
    def story(loop):
        answer_lookups(loop, [(*TCP, ("127.0.0.3", 0)), (*TCP, taken)])
        with pytest.raises(OSError) as caught:
            loop.run_until_complete(loop.create_server(Recording, "name", 0))
        return told(caught.value)

    assert same_as_asyncio(story).value[:2] == ("OSError", errno.EADDRINUSE)


def test_a_server_skips_a_family_that_the_system_does_not_have(loop):
    answer_lookups(loop, [(*NO_SUCH_FAMILY, ("127.0.0.1", 0)), (*TCP, ("127.0.0.1", 0))])
    server = loop.run_until_complete(loop.create_server(Recording, "name", 0))
    assert [sock.family for sock in server.sockets] == [socket.AF_INET]
    server.close()
    loop.run_until_complete(server.wait_closed())


def test_a_server_of_several_hosts_listens_once_on_each_address(loop):
    server = loop.run_until_complete(loop.create_server(Recording, ["127.0.0.1", "127.0.0.2", "127.0.0.1"], 0))
    assert sorted(sock.getsockname()[0] for sock in server.sockets) == ["127.0.0.1", "127.0.0.2"]
    server.close()
    loop.run_until_complete(server.wait_closed())


def test_a_server_of_a_name_without_addresses_is_an_error(same_as_asyncio):
    def story(loop):
        answer_lookups(loop, [])
        with pytest.raises(OSError) as caught:
            loop.run_until_complete(loop.create_server(Recording, "name", 0))
        return told(caught.value)

    same_as_asyncio(story)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="from 3.14 on asyncio closes it")
def test_a_given_socket_is_closed_if_no_transport_can_be_made(loop):
    server, address = started_server(loop)
    sock = socket.create_connection(address)

    def factory():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop.run_until_complete(loop.create_connection(factory, sock=sock))
    assert sock.fileno() == -1
    server.close()
    loop.run_until_complete(server.wait_closed())
