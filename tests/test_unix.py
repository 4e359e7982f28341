"""Unix stream sockets: connecting, serving, names and files; what follows is TCP's, and tested there."""

from __future__ import annotations

import asyncio
import errno
import os
import posix
import re
import socket
import stat
import sys
from pathlib import Path

import pytest
from recording import BufferedRecording, Recording

removes_its_file = sys.version_info >= (3, 13)
since_3_13 = pytest.mark.skipif(not removes_its_file, reason="cleanup_socket came with 3.13")


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A short path: an address holds 107 bytes."""
    monkeypatch.chdir(tmp_path)
    return "socket"


def abstract(path):
    return f"\0hayase-test-{os.getpid()}-{Path.cwd().name}-{path}"


async def serve(path, factory=Recording, **kwargs):
    """A server, and a future for the protocol of its first connection."""
    loop = asyncio.get_running_loop()
    accepted = loop.create_future()

    def accept():
        protocol = factory()
        if not accepted.done():
            accepted.set_result(protocol)
        return protocol

    return await loop.create_unix_server(accept, path, **kwargs), accepted


async def close(*things):
    for thing in things:
        if isinstance(thing, Recording | BufferedRecording):
            thing.transport.close()
            await thing.closed
        else:
            thing.close()
            await thing.wait_closed()


# Moving bytes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [Recording, BufferedRecording], ids=["protocol", "buffered"])
@pytest.mark.parametrize("size", [1, 65536, 3_000_003])
def test_bytes_travel_in_both_directions(run, path, protocol, size):
    async def main():
        server, accepted = await serve(path, protocol)
        _, near = await asyncio.get_running_loop().create_unix_connection(protocol, path)
        far = await accepted
        near.transport.write(b"x" * size)
        assert await far.received(size) == b"x" * size
        far.transport.write(b"y" * size)
        assert await near.received(size) == b"y" * size
        near.transport.write_eof()
        await far.eof
        await far.closed
        await near.closed
        assert [name for name in far.events if "writing" not in name] == [
            "connection_made",
            "data",
            "eof_received",
            "connection_lost",
        ]
        await close(server)

    run(main())


def test_streams_work_over_unix_sockets(run, path):
    async def answer(reader, writer):
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main():
        async with await asyncio.start_unix_server(answer, path):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"hello\n")
            assert await reader.read() == b"HELLO\n"
            writer.close()
            await writer.wait_closed()

    run(main())


def test_many_connections_are_accepted(run, path):
    async def main():
        loop = asyncio.get_running_loop()
        protocols = []
        all_accepted = loop.create_future()

        def accept():
            protocols.append(Recording())
            if len(protocols) == 150:
                all_accepted.set_result(None)
            return protocols[-1]

        server = await loop.create_unix_server(accept, path, backlog=200)
        pairs = await asyncio.gather(*(loop.create_unix_connection(Recording, path) for _ in range(150)))
        for number, (transport, _) in enumerate(pairs):
            transport.write(b"%d" % number)
            transport.close()
        for _, near in pairs:
            await near.closed
        await all_accepted
        for far in protocols:
            await far.closed
        assert {bytes(far.data) for far in protocols} == {b"%d" % number for number in range(150)}
        await close(server)

    run(main())


@pytest.mark.oracle_differs("asyncio takes a full backlog for a connection, whose first write then fails")
def test_a_connection_waits_while_the_backlog_is_full(run, path, loop_factory):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path)
            listening.listen(0)
            with socket.socket(socket.AF_UNIX) as first:
                first.connect(path)
                attempt = asyncio.ensure_future(loop.create_unix_connection(Recording, path))
                if loop_factory.is_hayase:
                    for _ in range(20):
                        await asyncio.sleep(0)
                    assert not attempt.done()
                    listening.accept()[0].close()
                    _, near = await attempt
                    accepted, _ = listening.accept()
                    near.transport.write(b"arrived")
                    await asyncio.sleep(0)
                    assert accepted.recv(100) == b"arrived"
                    accepted.close()
                    await near.closed
                else:
                    _, near = await attempt
                    assert near.transport.get_extra_info("peername") is None
                    near.transport.abort()
                    await near.closed

    run(main())


@pytest.mark.hayase_only("asyncio does not wait there, see above")
def test_a_connection_that_waits_for_the_backlog_can_be_cancelled(run, path):
    async def main():
        with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as first:
            listening.bind(path)
            listening.listen(0)
            first.connect(path)
            attempt = asyncio.ensure_future(asyncio.get_running_loop().create_unix_connection(Recording, path))
            await asyncio.sleep(0)
            attempt.cancel()
            with pytest.raises(asyncio.CancelledError):
                await attempt

    run(main())


# Names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["str", "bytes", "path", "abstract str", "abstract bytes"])
def test_every_kind_of_path_can_be_served_and_connected(run, path, kind):
    place = {
        "str": path,
        "bytes": os.fsencode(path),
        "path": Path(path),
        "abstract str": abstract(path),
        "abstract bytes": os.fsencode(abstract(path)),
    }[kind]
    name = os.fsencode(abstract(path)) if "abstract" in kind else path

    async def main():
        server, accepted = await serve(place)
        assert server.sockets[0].getsockname() == name
        transport, near = await asyncio.get_running_loop().create_unix_connection(Recording, place)
        far = await accepted
        await far.connected
        assert transport.get_extra_info("peername") == name
        assert transport.get_extra_info("sockname") == ""
        assert far.transport.get_extra_info("sockname") == name
        assert far.transport.get_extra_info("peername") == ""
        for protocol in (near, far):
            sock = protocol.transport.get_extra_info("socket")
            assert (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
        await close(near, far, server)

    run(main())


def test_the_name_of_a_client_that_bound_one_is_its_peername(run, path):
    async def main():
        server, accepted = await serve(path)
        sock = socket.socket(socket.AF_UNIX)
        sock.bind("client\udcff")
        sock.connect(path)
        transport, near = await asyncio.get_running_loop().create_unix_connection(Recording, sock=sock)
        far = await accepted
        await far.connected
        assert far.transport.get_extra_info("peername") == "client\udcff"
        assert transport.get_extra_info("sockname") == "client\udcff"
        await close(near, far, server)

    run(main())


@pytest.mark.oracle_differs("asyncio has no peer credentials")
def test_the_peers_process_and_user_are_known(run, path, loop_factory):
    async def main():
        server, accepted = await serve(path)
        transport, near = await asyncio.get_running_loop().create_unix_connection(Recording, path)
        far = await accepted
        await far.connected
        expected = (os.getpid(), os.getuid(), os.getgid()) if loop_factory.is_hayase else None
        assert transport.get_extra_info("peercred") == expected
        assert far.transport.get_extra_info("peercred") == expected
        transport.get_extra_info("socket")
        assert transport.get_extra_info("peercred") == expected
        await close(near, far, server)
        assert transport.get_extra_info("peercred", "gone") == "gone"

    run(main())


def test_a_tcp_connection_has_no_peer_credentials(run):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recording, "127.0.0.1", 0)
        transport, near = await loop.create_connection(Recording, *server.sockets[0].getsockname())
        assert transport.get_extra_info("peercred") is None
        await close(near, server)

    run(main())


def test_tcp_options_are_not_attempted_on_unix_sockets(run, path, monkeypatch):
    async def main():
        server, accepted = await serve(path)
        near_sock, far_sock = socket.socketpair()
        loop = asyncio.get_running_loop()
        _, near = await loop.create_unix_connection(Recording, sock=near_sock)
        _, far = await loop.connect_accepted_socket(Recording, far_sock)
        near.transport.write(b"through a pair")
        assert await far.received(14) == b"through a pair"
        await close(near, far, server)
        assert not accepted.done()

    run(main())


# Files ---------------------------------------------------------------------------------------------------------------


def test_a_closed_server_leaves_its_file_as_the_version_says(run, path):
    async def main():
        server, _ = await serve(path)
        assert stat.S_ISSOCK(os.stat(path).st_mode)
        await close(server)
        assert os.path.exists(path) is not removes_its_file

    run(main())


@since_3_13
@pytest.mark.parametrize("cleanup", [True, False])
def test_cleanup_socket_says_whether_the_file_is_removed(run, path, cleanup):
    async def main():
        server, _ = await serve(path, cleanup_socket=cleanup)
        await close(server)
        assert os.path.exists(path) is not cleanup

    run(main())


@since_3_13
def test_the_file_of_a_given_socket_is_removed_too(run, path):
    async def main():
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        server = await asyncio.get_running_loop().create_unix_server(Recording, sock=sock)
        await close(server)
        assert not os.path.exists(path)

    run(main())


@since_3_13
def test_a_server_that_never_served_removes_its_file(run, path):
    async def main():
        server, _ = await serve(path, start_serving=False)
        assert not server.is_serving()
        await close(server)
        assert not os.path.exists(path)

    run(main())


@since_3_13
def test_a_file_that_is_not_the_servers_any_more_stays(run, path):
    async def main():
        server, _ = await serve(path)
        os.rename(path, "moved")
        Path(path).write_text("somebody else's")
        await close(server)
        assert Path(path).read_text() == "somebody else's"

    run(main())


@since_3_13
def test_a_file_that_is_gone_already_is_no_error(run, path):
    async def main():
        server, _ = await serve(path)
        os.remove(path)
        await close(server)

    run(main())


@since_3_13
def test_a_file_that_cannot_be_removed_is_logged(run, path, asyncio_log, monkeypatch, loop_factory):
    asked_about_files = posix if loop_factory.is_hayase else os

    async def main():
        server, _ = await serve(path)

        def refuse(_path):
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(asked_about_files, "unlink", refuse)
        await close(server)
        [message] = asyncio_log.messages()
        assert message == (
            "Unable to clean up listening UNIX socket 'socket': PermissionError(13, 'Permission denied')"
        )

    run(main())


def test_a_stale_socket_is_replaced(run, path):
    async def main():
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(path)
        server, accepted = await serve(path)
        _, near = await asyncio.get_running_loop().create_unix_connection(Recording, path)
        await close(near, await accepted, server)

    run(main())


def test_a_stale_socket_that_cannot_be_looked_at_is_logged(same_as_asyncio, path, monkeypatch):
    def refuse(_path):
        raise PermissionError(errno.EACCES, "Permission denied")

    def story(loop):
        with monkeypatch.context() as patch:
            for module in (os, posix):  # asyncio asks the one, hayase the other
                patch.setattr(module, "stat", refuse)
            server = loop.run_until_complete(loop.create_unix_server(Recording, abstract(path), start_serving=False))
            server.close()
            os.path.lexists("other") and os.remove("other")
            kwargs = {"cleanup_socket": False} if removes_its_file else {}
            server = loop.run_until_complete(loop.create_unix_server(Recording, "other", start_serving=False, **kwargs))
            server.close()

    outcome = same_as_asyncio(story)
    assert [level for level, _ in outcome.log] == ["ERROR"]


@pytest.mark.hayase_only("such guards know asyncio's functions by file and name")
def test_a_guard_against_blocking_calls_is_not_met_by_a_server(run, path, monkeypatch):
    def forbid(*_args):
        raise AssertionError("a blocking call in a running loop")

    async def main():
        with monkeypatch.context() as guard:
            for name in ("stat", "unlink", "remove"):
                guard.setattr(os, name, forbid)
            for _ in range(2):  # the second finds what the first left
                server, _accepted = await serve(path, **({"cleanup_socket": False} if removes_its_file else {}))
                await close(server)
            server, _accepted = await serve(path)
            await close(server)

    run(main())


def test_what_is_no_socket_is_not_replaced(same_as_asyncio, path):
    Path(path).write_text("precious")
    outcome = same_as_asyncio(lambda loop: loop.run_until_complete(loop.create_unix_server(Recording, path)))
    assert outcome.error == (OSError, "[Errno 98] Address 'socket' is already in use")
    assert Path(path).read_text() == "precious"


def test_an_abstract_name_in_use_is_refused(same_as_asyncio, path):
    name = abstract(path)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(name)
        outcome = same_as_asyncio(lambda loop: loop.run_until_complete(loop.create_unix_server(Recording, name)))
    assert outcome.error == (OSError, f"[Errno 98] Address {name!r} is already in use")


# Refusals ------------------------------------------------------------------------------------------------------------


def connection(*args, **kwargs):
    return lambda loop: loop.run_until_complete(loop.create_unix_connection(Recording, *args, **kwargs))


def server(*args, **kwargs):
    return lambda loop: loop.run_until_complete(loop.create_unix_server(Recording, *args, **kwargs))


@pytest.mark.parametrize(
    "story",
    [
        connection("missing"),
        connection("missing-folder/socket"),
        connection("/dev/null"),
        connection("\0hayase-nobody-listens"),
        connection(b"\0hayase-nobody-listens"),
        connection("x" * 200),
        connection(b"\0" + b"x" * 200),
        connection(""),
        connection("a\0b"),
        connection(5),
        connection(object),
        connection(),
        connection("path", sock=object()),
        connection("path", server_hostname="here"),
        connection("path", ssl_handshake_timeout=1),
        connection("path", ssl_shutdown_timeout=1),
        connection("path", ssl=True),
        connection("path", server_hostname=5),
        server(),
        server(5),
        server(""),
        server("x" * 200),
        server("a\0b"),
        server("missing-folder/socket"),
        server("path", ssl=True),
        server("path", ssl=False),
        server("path", ssl_handshake_timeout=1),
        server("path", ssl_shutdown_timeout=1),
        server("path", sock=object()),
    ],
)
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # asyncio's, of an empty path
def test_bad_arguments_get_asyncios_error(same_as_asyncio, path, story):
    assert same_as_asyncio(story).error is not None


@pytest.mark.parametrize("kind", ["tcp", "datagram"])
@pytest.mark.parametrize("what", ["connection", "server"])
def test_a_socket_of_another_kind_is_refused(same_as_asyncio, kind, what):
    family, type_ = (socket.AF_INET, socket.SOCK_STREAM) if kind == "tcp" else (socket.AF_UNIX, socket.SOCK_DGRAM)
    with socket.socket(family, type_) as sock:
        make = connection if what == "connection" else server
        outcome = same_as_asyncio(make(sock=sock))
    assert outcome.error is not None
    assert re.match("A UNIX Domain Stream Socket was expected, got <socket", outcome.error[1])


def test_a_protocol_factory_that_fails_leaves_nothing_open(run, path):
    class Failed(Exception):
        pass

    def fail():
        raise Failed

    async def main():
        server, _ = await serve(path)
        with pytest.raises(Failed):
            await asyncio.get_running_loop().create_unix_connection(fail, path)
        await close(server)

    run(main())


def test_a_peer_that_resets_is_told_to_the_protocol(run, path):
    async def main():
        server, accepted = await serve(path)
        transport, near = await asyncio.get_running_loop().create_unix_connection(Recording, path)
        far = await accepted
        await far.connected
        far.transport.pause_reading()
        transport.write(b"unread")
        await asyncio.sleep(0)
        far.transport.abort()
        assert isinstance(await near.closed, ConnectionResetError)
        await close(server)

    run(main())
