"""TLS: the layer between a transport and the program's protocol, on the program's own SSLContext."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import warnings
import weakref
from pathlib import Path

import pytest
from recording import BOTH_PROTOCOLS, BufferedRecording, Recording, connected, payload
from tls_peer import AUTHORITY, client_context, peer_of_client, peer_of_server, server_context, tls_connected

# Everything here, with each of hayase's engines.
pytestmark = pytest.mark.usefixtures("engine")

since_3_13 = pytest.mark.skipif(sys.version_info < (3, 13), reason="came with 3.13")


# Moving bytes --------------------------------------------------------------------------------------------------------


@BOTH_PROTOCOLS
@pytest.mark.parametrize("size", [1, 16384, 16385, 65536, 1_000_003, 5_000_000])
def test_bytes_of_any_size_arrive_whole_and_in_order(run, protocol, size):
    data = payload(size)

    async def main():
        async with tls_connected(protocol, protocol) as (near, far):
            near.transport.write(data)
            assert await far.received(size) == data
            far.transport.write(data)
            assert await near.received(size) == data
            near.transport.close()
            await far.closed
            await near.closed
        for end in (near, far):
            assert end.error is None
            assert [name for name in end.events if "writing" not in name] == [
                "connection_made",
                "data",
                "eof_received",
                "connection_lost",
            ]

    run(main())


def test_small_and_large_writes_mixed_keep_their_order(run):
    choose = random.Random(9)
    pieces = [payload(choose.choice([1, 10, 100, 20_000, 300_000]), n) for n in range(60)]

    async def main():
        async with tls_connected() as (near, far):
            for number, piece in enumerate(pieces):
                kind = (bytes, bytearray, memoryview)[number % 3]
                near.transport.write(kind(piece))
                if number % 7 == 0:
                    await asyncio.sleep(0)
            assert await far.received(sum(map(len, pieces))) == b"".join(pieces)

    run(main())


def test_items_of_writelines_arrive_as_one_stream(run):
    async def main():
        async with tls_connected() as (near, far):
            near.transport.writelines([b"one ", bytearray(b"two "), memoryview(b"three"), b""])
            assert await far.received(13) == b"one two three"

    run(main())


@pytest.mark.hayase_only("asyncio sends each write at once")
def test_writes_of_one_callback_leave_together(run):
    class Answering(Recording):
        def data_received(self, data):
            self.transport.write(b"head")
            self.transport.write(b"body")
            super().data_received(data)

    async def main():
        context = server_context(version=ssl.TLSVersion.TLSv1_2)
        async with peer_of_server(Answering, context=context) as (peer, _):
            await peer.handshake()
            await peer.write(b"question")
            await peer.receive_more()
            assert peer.tls.read(100) == b"head"
            assert peer.tls.read(100) == b"body"

    run(main())


def test_a_protocol_set_on_the_transport_below_loses_no_ciphertext(run):
    async def main():
        async with peer_of_server() as (peer, made):
            await peer.handshake()
            protocol = await made
            await protocol.connected
            layer = protocol.transport._ssl_protocol
            below = layer._transport
            protocol.transport.write(b"before")
            below.set_protocol(asyncio.Protocol())
            below.write(b"after")
            assert await peer.read(6) == b"before"
            below.set_protocol(layer)

    run(main())


def test_a_view_of_larger_items_is_sent_whole(run):
    import array

    numbers = array.array("I", range(50_000))

    async def main():
        async with tls_connected() as (near, far):
            near.transport.write(memoryview(numbers))
            assert await far.received(200_000) == numbers.tobytes()

    run(main())


def test_a_large_write_before_close_arrives_whole(run):
    data = payload(4_000_000)

    async def main():
        async with tls_connected() as (near, far):
            near.transport.write(data)
            near.transport.close()
            assert near.transport.is_closing()
            await far.eof
            assert bytes(far.data) == data
            await near.closed
            await far.closed

    run(main())


def test_what_is_written_in_connection_made_comes_first(run):
    class Greeting(Recording):
        def connection_made(self, transport):
            transport.write(b"hello")
            super().connection_made(transport)

    async def main():
        async with tls_connected(Recording, Greeting) as (near, far):
            far.transport.write(b" again")
            assert await near.received(11) == b"hello again"

    run(main())


def test_a_small_buffer_of_a_buffered_protocol_gets_everything(run):
    data = payload(100_000)

    async def main():
        async with tls_connected(Recording, lambda: BufferedRecording(size=7)) as (near, far):
            near.transport.write(data)
            assert await far.received(len(data)) == data
            assert max(far.chunks) == 7

    run(main())


def test_a_buffer_that_is_a_bytearray_is_filled_beyond_one_record(run):
    class Plain(BufferedRecording):
        def get_buffer(self, sizehint):
            return memoryview(self.buffer)

    data = payload(60_000)

    async def main():
        async with tls_connected(Recording, lambda: Plain(size=65536)) as (near, far):
            near.transport.write(data)
            assert await far.received(len(data)) == data

    run(main())


def test_streams_speak_tls(run):
    async def main():
        async def echo(reader, writer):
            while data := await reader.read(10_000):
                writer.write(data)
                await writer.drain()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server_context())
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context())
        data = payload(700_000)
        writer.write(data)
        assert await reader.readexactly(len(data)) == data
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())


def test_tls_over_a_unix_socket(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    async def main():
        loop = asyncio.get_running_loop()
        accepted = loop.create_future()

        def accept():
            accepted.set_result(Recording())
            return accepted.result()

        server = await loop.create_unix_server(accept, "socket", ssl=server_context())
        _, near = await loop.create_unix_connection(
            Recording, "socket", ssl=client_context(), server_hostname="localhost"
        )
        near.transport.write(b"over a file")
        far = await accepted
        assert await far.received(11) == b"over a file"
        near.transport.close()
        await near.closed
        await far.closed
        server.close()
        await server.wait_closed()

    run(main())


def test_a_connection_that_the_program_accepted_speaks_tls(run):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.setblocking(False)
            connecting = asyncio.ensure_future(
                loop.create_connection(Recording, *listening.getsockname(), ssl=client_context())
            )
            sock, _ = await loop.sock_accept(listening)
            _, far = await loop.connect_accepted_socket(Recording, sock, ssl=server_context())
            _, near = await connecting
            far.transport.write(b"accepted")
            assert await near.received(8) == b"accepted"
            near.transport.close()
            await near.closed
            await far.closed

    run(main())


def test_sendfile_goes_through_tls(run, tmp_path):
    data = payload(300_000)
    (tmp_path / "file").write_bytes(data)

    async def main():
        async with tls_connected() as (near, far):
            with (tmp_path / "file").open("rb") as file:
                assert await asyncio.get_running_loop().sendfile(near.transport, file) == len(data)
            assert await far.received(len(data)) == data
            with (tmp_path / "file").open("rb") as file:
                with pytest.raises(RuntimeError, match="fallback is disabled"):
                    await asyncio.get_running_loop().sendfile(near.transport, file, fallback=False)

    run(main())


# What is known of a connection -----------------------------------------------------------------------------------------


def test_the_transport_is_asyncios_and_knows_its_connection(run):
    async def main():
        of_client = client_context()
        async with tls_connected(of_client=of_client) as (near, far):
            transport = near.transport
            assert isinstance(transport, asyncio.Transport)
            assert transport.get_protocol() is near
            known = transport.get_extra_info
            assert known("sslcontext") is of_client
            assert isinstance(known("ssl_object"), ssl.SSLObject)
            assert known("peercert")["subject"] == ((("commonName", "localhost"),),)
            assert known("peercert") is known("peercert")
            assert known("cipher") == known("ssl_object").cipher()
            assert known("compression") is None
            assert known("compression", "default") is None
            assert known("peername") == far.transport.get_extra_info("sockname")
            assert known("socket").getsockname() == known("sockname")
            assert known("nothing") is None
            assert known("nothing", "default") == "default"
            assert far.transport.get_extra_info("peercert") == {} or not far.transport.get_extra_info("peercert")
            protocol = transport._ssl_protocol
            assert isinstance(protocol, asyncio.BufferedProtocol)
            assert protocol._transport.get_protocol() is protocol
            assert set(protocol._extra) == {"sslcontext", "peercert", "cipher", "compression", "ssl_object"}
        assert known("ssl_object").version()
        assert known("peername", "gone") == "gone"

    run(main())


def test_half_close_is_not_offered(run):
    async def main():
        async with tls_connected() as (near, _):
            assert not near.transport.can_write_eof()
            with pytest.raises(NotImplementedError):
                near.transport.write_eof()

    run(main())


def test_only_bytes_like_data_is_written(same_as_asyncio):
    def story(loop):
        async def main():
            said = []
            async with tls_connected() as (near, _):
                for data in ("text", 5, None, [1]):
                    with pytest.raises(TypeError) as raised:
                        near.transport.write(data)
                    said.append(str(raised.value))
                near.transport.write(b"")
            return said

        return loop.run_until_complete(main())

    same_as_asyncio(story)


# What the context decides ----------------------------------------------------------------------------------------------


def failing_handshake(same_as_asyncio, *, of_client=client_context, of_server=server_context, **keywords):
    """Both sides fail alike, and the server goes on."""

    def story(loop):
        reports = []
        loop.set_exception_handler(lambda loop, context: reports.append(context["message"]))

        async def main():
            server = await loop.create_server(Recording, "127.0.0.1", 0, ssl=of_server())
            port = server.sockets[0].getsockname()[1]
            try:
                await loop.create_connection(Recording, "127.0.0.1", port, ssl=of_client(), **keywords)
            finally:
                transport, protocol = await loop.create_connection(
                    Recording, "127.0.0.1", port, ssl=client_context("client"), server_hostname=good
                )
                transport.abort()
                await protocol.closed
                server.close()
                await server.wait_closed()

        good = keywords.pop("good", None)
        try:
            loop.run_until_complete(main())
        except OSError as error:
            # OpenSSL's own line numbers are not the loop's.
            return type(error).__name__, getattr(error, "reason", None), getattr(error, "verify_message", None), reports

    return same_as_asyncio(story).value


def test_a_name_that_does_not_match_is_refused(same_as_asyncio):
    name, _, message, _ = failing_handshake(same_as_asyncio, server_hostname="example.org", good="localhost")
    assert name == "SSLCertVerificationError"
    assert "example.org" in message


def test_a_certificate_for_somebody_else_is_refused(same_as_asyncio):
    name, *_ = failing_handshake(same_as_asyncio, of_server=lambda: server_context("other"), good="other.example")
    assert name == "SSLCertVerificationError"


def test_a_certificate_of_an_unknown_authority_is_refused(same_as_asyncio):
    name, *_ = failing_handshake(same_as_asyncio, of_client=ssl.create_default_context)
    assert name == "SSLCertVerificationError"


def test_true_means_the_default_context(same_as_asyncio):
    name, *_ = failing_handshake(same_as_asyncio, of_client=lambda: True)
    assert name == "SSLCertVerificationError"


def test_an_expired_certificate_is_refused(same_as_asyncio):
    def story(loop):
        async def main():
            async with tls_connected(of_server=server_context("expired")):
                pass

        try:
            loop.run_until_complete(main())
        except ssl.SSLCertVerificationError as error:
            return error.verify_message

    assert same_as_asyncio(story).value == "certificate has expired"


def test_a_missing_client_certificate_is_refused(same_as_asyncio):
    def of_server():
        context = server_context(version=ssl.TLSVersion.TLSv1_2)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    name, *_ = failing_handshake(same_as_asyncio, of_server=of_server)
    assert name == "ConnectionResetError"


def test_a_client_certificate_is_seen_by_the_server(run):
    async def main():
        of_server = server_context()
        of_server.verify_mode = ssl.CERT_REQUIRED
        async with tls_connected(of_client=client_context("client"), of_server=of_server) as (_, far):
            assert far.transport.get_extra_info("peercert")["subject"] == ((("commonName", "a client"),),)

    run(main())


def test_the_application_protocol_is_negotiated(run):
    async def main():
        of_client, of_server = client_context(), server_context()
        of_client.set_alpn_protocols(["h2", "http/1.1"])
        of_server.set_alpn_protocols(["http/1.1"])
        async with tls_connected(of_client=of_client, of_server=of_server) as ends:
            for end in ends:
                assert end.transport.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"

    run(main())


def test_the_callback_for_server_names_chooses_the_context(run):
    seen = []

    def choose(ssl_object, name, context):
        seen.append((type(ssl_object), name))
        ssl_object.context = server_context("other")

    async def main():
        of_server = server_context()
        of_server.sni_callback = choose
        async with tls_connected(of_server=of_server, server_hostname="other.example") as (near, far):
            assert near.transport.get_extra_info("peercert")["subject"] == ((("commonName", "other.example"),),)
            far.transport.write(b"x")
            await near.received(1)
        assert seen == [(ssl.SSLObject, "other.example")]

    run(main())


def test_a_refusing_callback_for_server_names_ends_the_handshake(same_as_asyncio):
    def of_server():
        context = server_context()

        def choose(ssl_object, name, context):
            if name == "example.org":
                return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
            return None

        context.sni_callback = choose
        return context

    failing_handshake(same_as_asyncio, of_server=of_server, server_hostname="example.org", good="localhost")


@pytest.mark.hayase_only("asyncio goes on with a handshake whose connection is gone, and fails with an AttributeError")
def test_a_callback_that_aborts_the_connection_ends_the_handshake(run, loop):
    reports = []
    loop.set_exception_handler(lambda loop, context: reports.append(context))

    async def main():
        made = []

        def choose(ssl_object, name, context):
            for protocol in made:
                transport = layer_of(protocol)
                transport.abort()

        def layer_of(protocol):
            # The program cannot know its transport yet; this is the nearest thing.
            for object in gc.get_referrers(protocol):
                if hasattr(object, "_app_transport") and object._app_transport is not None:
                    return object._app_transport
            raise AssertionError("no layer")

        def factory():
            protocol = Recording()
            made.append(protocol)
            return protocol

        of_server = server_context()
        of_server.sni_callback = choose
        loop = asyncio.get_running_loop()
        server = await loop.create_server(factory, "127.0.0.1", 0, ssl=of_server)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await loop.create_connection(
                Recording, "127.0.0.1", server.sockets[0].getsockname()[1], ssl=client_context()
            )
        assert made[0].events == []
        server.close()
        await server.wait_closed()

    run(main())


def test_keys_are_logged(run, tmp_path):
    async def main():
        of_client = client_context()
        of_client.keylog_filename = tmp_path / "keys"
        async with tls_connected(of_client=of_client) as (near, far):
            near.transport.write(b"x")
            await far.received(1)

    run(main())
    assert "SECRET" in (tmp_path / "keys").read_text()


def test_a_context_of_the_programs_own_class_is_asked(run):
    class Own(ssl.SSLObject):
        def read(self, *args):
            calls.append("read")
            return super().read(*args)

        def do_handshake(self):
            calls.append("handshake")
            super().do_handshake()

    class Context(ssl.SSLContext):
        sslobject_class = Own
        session = None

        def wrap_bio(self, *args, **keywords):
            return super().wrap_bio(*args, session=self.session, **keywords)

    calls = []

    async def main():
        of_client = Context(ssl.PROTOCOL_TLS_CLIENT)
        of_client.load_verify_locations(AUTHORITY)
        of_server = server_context(version=ssl.TLSVersion.TLSv1_2)
        for resumed in (False, True):
            async with tls_connected(of_client=of_client, of_server=of_server) as (near, far):
                far.transport.write(b"data")
                assert await near.received(4) == b"data"
                ssl_object = near.transport.get_extra_info("ssl_object")
                assert isinstance(ssl_object, Own)
                assert ssl_object.session_reused is resumed
                of_client.session = ssl_object.session
        assert {"read", "handshake"} <= set(calls)

    run(main())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_each_version_of_the_protocol_works(run, version):
    async def main():
        async with tls_connected(of_server=server_context(version=version)) as (near, far):
            near.transport.write(b"version")
            assert await far.received(7) == b"version"
            assert near.transport.get_extra_info("ssl_object").version() == version.name.replace("_", ".")

    run(main())


# Arguments -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keyword", ["ssl_handshake_timeout", "ssl_shutdown_timeout"])
@pytest.mark.parametrize("value", [0, -1, 0.0])
def test_timeouts_are_positive(same_as_asyncio, keyword, value):
    def story(loop):
        async def main():
            async with peer_of_client() as (address, _):
                await loop.create_connection(Recording, *address, ssl=client_context(), **{keyword: value})

        loop.run_until_complete(main())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        assert same_as_asyncio(story).error[0] is ValueError


@pytest.mark.parametrize(
    "keywords",
    [
        {"ssl_handshake_timeout": 1},
        {"ssl_shutdown_timeout": 1},
        {"server_hostname": "localhost"},
        {"ssl": True, "sock": True},
        {"ssl": True, "host": "", "port": 1},
    ],
    ids=str,
)
def test_arguments_of_connecting_are_checked(same_as_asyncio, keywords):
    def story(loop):
        given = dict(keywords)
        with socket.socket() as sock:
            if given.get("sock"):
                given["sock"] = sock
            elif "host" not in given:
                given |= {"host": "127.0.0.1", "port": 1}
            loop.run_until_complete(loop.create_connection(Recording, **given))

    assert same_as_asyncio(story).error[0] is ValueError


def test_arguments_of_serving_are_checked(same_as_asyncio):
    def story(loop):
        said = []
        for keywords in ({"ssl": True}, {"ssl_handshake_timeout": 1}, {"ssl_shutdown_timeout": 1}):
            with pytest.raises((TypeError, ValueError)) as raised:
                loop.run_until_complete(loop.create_server(Recording, "127.0.0.1", 0, **keywords))
            said.append((raised.type, str(raised.value)))
        with socket.socket() as sock, pytest.raises(ValueError) as raised:
            loop.run_until_complete(loop.connect_accepted_socket(Recording, sock, ssl_handshake_timeout=1))
        said.append(str(raised.value))
        return said

    same_as_asyncio(story)


def test_an_accepted_connection_needs_a_context(same_as_asyncio):
    def story(loop):
        near, far = socket.socketpair()
        with near, far:
            loop.run_until_complete(loop.connect_accepted_socket(Recording, near, ssl=True))

    assert same_as_asyncio(story).error[0] is ValueError


def test_arguments_of_start_tls_are_checked(same_as_asyncio):
    def story(loop):
        async def main():
            said = []
            async with connected() as (near, _):
                for transport, context in ((near.transport, None), (object(), server_context()), (None, "context")):
                    with pytest.raises(TypeError) as raised:
                        await loop.start_tls(transport, near, context)
                    text = str(raised.value)
                    said.append(text if "object" not in text else "is not supported by start_tls()" in text)
            return said

        return loop.run_until_complete(main())

    same_as_asyncio(story)


# Bad peers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 100, b"\x16\x03\x01\xff\xff" + b"x" * 70_000])
def test_garbage_instead_of_a_client_hello_ends_that_connection_alone(run, garbage):
    async def main():
        async with peer_of_server() as (peer, made):
            with contextlib.suppress(ConnectionError):
                await peer.send_raw(garbage)
                await peer.end_of_stream()
            protocol = await made
            assert protocol.events == []

    run(main())


def test_garbage_from_a_server_is_an_ssl_error(same_as_asyncio):
    def story(loop):
        async def main():
            async with peer_of_client() as (address, accepted):
                connecting = asyncio.ensure_future(loop.create_connection(Recording, *address, ssl=client_context()))
                peer = await accepted
                await peer.receive_more()
                await peer.send_raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                try:
                    await connecting
                except ssl.SSLError as error:
                    return type(error).__name__, error.reason

        return loop.run_until_complete(main())

    assert same_as_asyncio(story).value[0] == "SSLError"


def test_records_that_arrive_byte_by_byte_are_understood(run):
    async def main():
        async with peer_of_server() as (peer, made):
            await peer.handshake(pieces_of=1)
            await peer.write(b"slowly", pieces_of=1)
            protocol = await made
            assert await protocol.received(6) == b"slowly"
            protocol.transport.write(b"answer")
            assert await peer.read(6) == b"answer"

    run(main())


@pytest.mark.parametrize("way", ["cut", "changed"])
def test_a_damaged_handshake_ends_that_connection_alone(run, loop, way):
    reports = []
    loop.set_exception_handler(lambda loop, context: reports.append(context))

    async def main():
        choose = random.Random(5)
        for _ in range(30):
            async with peer_of_server() as (peer, made):
                with contextlib.suppress(ssl.SSLWantReadError):
                    peer.tls.do_handshake()
                hello = bytearray(peer.outgoing.read())
                place = choose.randrange(len(hello))
                if way == "cut":
                    del hello[place:]
                else:
                    hello[place] ^= 1 << choose.randrange(8)
                with contextlib.suppress(ConnectionError):
                    await peer.send_raw(bytes(hello))
                    peer.sock.shutdown(socket.SHUT_WR)
                    await peer.end_of_stream()
                assert (await made).events == []
        # The next one finds everything in order.
        async with tls_connected() as (near, far):
            near.transport.write(b"fine")
            assert await far.received(4) == b"fine"

    run(main())
    assert reports == []


def test_damaged_records_end_that_connection_with_an_error(run, loop):
    async def main():
        choose = random.Random(6)
        for _ in range(20):
            async with peer_of_server() as (peer, made):
                await peer.handshake()
                protocol = await made
                await protocol.connected
                peer.tls.write(b"x" * choose.randrange(1, 20_000))
                record = bytearray(peer.outgoing.read())
                # Past the header: a longer record would be waited for.
                record[choose.randrange(5, len(record))] ^= 1 << choose.randrange(8)
                with contextlib.suppress(ConnectionError):
                    await peer.send_raw(bytes(record))
                assert isinstance(await protocol.closed, ssl.SSLError)
                assert len(protocol.data) % 16384 == 0

    run(main())


def test_a_handshake_that_never_ends_times_out_on_the_client(same_as_asyncio):
    def story(loop):
        async def main():
            async with peer_of_client() as (address, _):
                await loop.create_connection(Recording, *address, ssl=client_context(), ssl_handshake_timeout=0.05)

        loop.run_until_complete(main())

    assert same_as_asyncio(story).error == (
        ConnectionAbortedError,
        "SSL handshake is taking longer than 0.05 seconds: aborting the connection",
    )


def test_a_handshake_that_never_ends_times_out_on_the_server(run):
    async def main():
        async with peer_of_server(ssl_handshake_timeout=0.05) as (peer, made):
            await peer.send_raw(b"\x16\x03\x01")
            with contextlib.suppress(ConnectionError):
                await peer.end_of_stream()
            assert (await made).events == []

    run(main())


def test_a_reset_in_the_handshake_is_the_clients_error(same_as_asyncio):
    def story(loop):
        async def main():
            async with peer_of_client() as (address, accepted):
                connecting = asyncio.ensure_future(loop.create_connection(Recording, *address, ssl=client_context()))
                peer = await accepted
                await peer.receive_more()
                peer.reset()
                await connecting

        loop.run_until_complete(main())

    assert same_as_asyncio(story).error[0] is ConnectionResetError


def test_the_end_of_the_stream_in_the_handshake_is_a_reset(same_as_asyncio):
    def story(loop):
        async def main():
            async with peer_of_client() as (address, accepted):
                connecting = asyncio.ensure_future(loop.create_connection(Recording, *address, ssl=client_context()))
                peer = await accepted
                await peer.receive_more()
                peer.sock.close()
                await connecting

        loop.run_until_complete(main())

    assert same_as_asyncio(story).error[0] is ConnectionResetError


def test_a_stream_that_ends_without_close_notify_is_an_end(same_as_asyncio):
    def story(loop):
        async def main():
            async with peer_of_server() as (peer, made):
                await peer.handshake()
                await peer.write(b"last words")
                protocol = await made
                await protocol.received(10)
                peer.sock.shutdown(socket.SHUT_WR)
                return await protocol.closed, protocol.events

        return loop.run_until_complete(main())

    assert same_as_asyncio(story).value == (None, ["connection_made", "data", "eof_received", "connection_lost"])


def test_close_notify_without_the_end_of_the_stream_is_answered_and_ends(same_as_asyncio):
    def story(loop):
        async def main():
            async with peer_of_server() as (peer, made):
                await peer.handshake()
                await peer.write(b"last words")
                await peer.close_notify()
                protocol = await made
                await protocol.closed
                await peer.read_close_notify()
                await peer.end_of_stream()
                return protocol.error, protocol.events, bytes(protocol.data)

        return loop.run_until_complete(main())

    assert same_as_asyncio(story).value[0] is None


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs a client that can renegotiate: the openssl command")
def test_renegotiation_is_refused(same_as_asyncio):
    def story(loop):
        async def main():
            made = loop.create_future()

            def accept():
                made.set_result(Recording())
                return made.result()

            context = server_context(version=ssl.TLSVersion.TLSv1_2)
            server = await loop.create_server(accept, "127.0.0.1", 0, ssl=context)
            port = server.sockets[0].getsockname()[1]
            command = ["openssl", "s_client", "-tls1_2", "-quiet", "-no_ign_eof", "-connect", f"127.0.0.1:{port}"]
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            with subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0, **quiet) as client:
                client.stdin.write(b"hello\n")
                protocol = await made
                await protocol.received(6)
                client.stdin.write(b"R\n")
                error = await protocol.closed
            server.close()
            await server.wait_closed()
            return type(error).__name__, getattr(error, "reason", None), bytes(protocol.data)

        return loop.run_until_complete(main())

    assert same_as_asyncio(story).value[2] == b"hello\n"


def test_what_was_written_before_the_peers_close_notify_arrives(run):
    data = payload(6_000_000)

    async def main():
        async with peer_of_server() as (peer, made):
            await peer.handshake()
            protocol = await made
            await protocol.connected
            protocol.transport.write(data)
            await peer.close_notify()
            await protocol.eof
            assert await peer.read(len(data)) == data
            await peer.read_close_notify()
            assert await protocol.closed is None

    run(main())


def test_closing_waits_for_the_peers_close_notify(run):
    async def main():
        async with peer_of_server() as (peer, made):
            await peer.handshake()
            protocol = await made
            await protocol.connected
            protocol.transport.write(b"the rest")
            protocol.transport.close()
            assert await peer.read(8) == b"the rest"
            await peer.read_close_notify()
            assert not protocol.closed.done()
            await peer.close_notify()
            assert await protocol.closed is None

    run(main())


def test_a_peer_that_never_answers_close_notify_is_given_up(same_as_asyncio):
    def story(loop):
        async def main():
            async with peer_of_server(ssl_shutdown_timeout=0.05) as (peer, made):
                await peer.handshake()
                protocol = await made
                await protocol.connected
                protocol.transport.close()
                error = await protocol.closed
                return type(error), str(error)

        return loop.run_until_complete(main())

    assert same_as_asyncio(story).value == (TimeoutError, "SSL shutdown timed out")


def test_a_reset_after_the_handshake_is_told(same_as_asyncio):
    def story(loop):
        async def main():
            async with peer_of_server() as (peer, made):
                await peer.handshake()
                protocol = await made
                await protocol.connected
                peer.reset()
                return type(await protocol.closed)

        return loop.run_until_complete(main())

    assert same_as_asyncio(story).value is ConnectionResetError


def test_a_corrupt_record_ends_the_connection_with_the_error(same_as_asyncio):
    def story(loop):
        async def main():
            async with peer_of_server() as (peer, made):
                await peer.handshake()
                await peer.write(b"good")
                protocol = await made
                await protocol.received(4)
                await peer.send_raw(b"\x17\x03\x03\x00\x20" + b"x" * 32)
                error = await protocol.closed
                return type(error).__name__, error.reason, bytes(protocol.data)

        return loop.run_until_complete(main())

    same_as_asyncio(story)


@pytest.mark.oracle_differs("what came whole before the corrupt record is delivered; asyncio drops it")
def test_good_records_before_a_corrupt_one_are_delivered(run, loop_factory):
    async def main():
        async with peer_of_server() as (peer, made):
            await peer.handshake()
            protocol = await made
            await protocol.connected
            peer.tls.write(b"good")
            await peer.send_raw(peer.outgoing.read() + b"\x17\x03\x03\x00\x20" + b"x" * 32)
            assert isinstance(await protocol.closed, ssl.SSLError)
            assert bytes(protocol.data) == (b"good" if loop_factory.is_hayase else b"")

    run(main())


# Ends ------------------------------------------------------------------------------------------------------------------


def test_abort_ends_at_once(same_as_asyncio):
    def story(loop):
        async def main():
            async with tls_connected() as (near, far):
                near.transport.abort()
                assert near.transport.is_closing()
                await near.closed
                await far.closed
                return near.events, near.error, far.events[:1]

        return loop.run_until_complete(main())

    same_as_asyncio(story)


def test_closing_in_the_handshake_leaves_nothing(run):
    async def main():
        loop = asyncio.get_running_loop()
        async with peer_of_client() as (address, accepted):
            connecting = asyncio.ensure_future(loop.create_connection(Recording, *address, ssl=client_context()))
            peer = await accepted
            await peer.receive_more()
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
            with contextlib.suppress(ConnectionError):
                await peer.end_of_stream()

    run(main())


def test_writing_after_the_end_is_ignored_and_later_told(run, asyncio_log):
    async def main():
        async with tls_connected() as (near, _far):
            near.transport.close()
            await near.closed
            for _ in range(8):
                near.transport.write(b"late")
        assert set(asyncio_log.messages()) == {"SSL connection is closed"}

    run(main())


def test_closing_twice_and_everything_after_it_is_harmless(run):
    async def main():
        async with tls_connected() as (near, _far):
            transport = near.transport
            transport.close()
            transport.close()
            await near.closed
            transport.abort()
            transport.close()
            assert transport.is_closing()

    run(main())


def test_true_from_eof_received_has_no_effect(same_as_asyncio):
    def story(loop):
        async def main():
            async with tls_connected(Recording, lambda: Recording(keep_open=True)) as (near, far):
                near.transport.close()
                await near.closed
                await far.closed
                return far.events

        return loop.run_until_complete(main())

    outcome = same_as_asyncio(story)
    assert outcome.log == [("WARNING", "returning true from eof_received() has no effect when using ssl")]


# Exceptions of the protocol ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "callback", ["connection_made", "data_received", "eof_received", "connection_lost", "pause_writing"]
)
def test_an_exception_of_the_protocol_is_reported_once(same_as_asyncio, callback):
    def story(loop):
        reports = []

        def handler(loop, context):
            reports.append(
                (context["message"].split("<")[0], repr(context["exception"]), sorted(set(context) - {"handle"}))
            )

        loop.set_exception_handler(handler)

        def fail(self, *args):
            getattr(super(Failing, self), callback)(*args)
            raise ZeroDivisionError(callback)

        Failing = type("Failing", (Recording,), {callback: fail})

        async def main():
            async with tls_connected(Recording, Failing) as (near, far):
                near.transport.write(b"data")
                await far.received(4) if callback != "connection_made" else None
                if callback == "pause_writing":
                    near.transport.pause_reading()
                    near.transport._ssl_protocol._transport.pause_reading()
                    while not far.paused.done():
                        far.transport.write(b"x" * 1_000_000)
                        await asyncio.sleep(0)
                    far.transport.abort()
                else:
                    near.transport.close()
                await far.closed
                near.transport.abort()
                await near.closed

        loop.run_until_complete(main())
        return reports

    outcome = same_as_asyncio(story)
    assert len(outcome.value) == 1


def test_keyboard_interrupt_in_a_protocol_leaves_the_loop(loop, run):
    class Interrupting(Recording):
        def data_received(self, data):
            super().data_received(data)
            raise KeyboardInterrupt

    async def main():
        async with tls_connected(Recording, Interrupting) as (near, far):
            near.transport.write(b"x")
            await far.received(1)
            await asyncio.sleep(0)

    task = loop.create_task(main())
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(task)
    run(task)


# Flow control ------------------------------------------------------------------------------------------------------------


def test_the_protocol_is_paused_and_resumed(run):
    async def main():
        async with tls_connected() as (near, far):
            transport = near.transport
            assert transport.get_write_buffer_limits() == (128 * 1024, 512 * 1024)
            transport.set_write_buffer_limits(high=1000)
            assert transport.get_write_buffer_limits() == (250, 1000)
            far.transport.pause_reading()
            far.transport._ssl_protocol._transport.pause_reading()
            written = 0
            while not near.paused.done():
                transport.write(b"x" * 100_000)
                written += 100_000
                await asyncio.sleep(0)
            assert transport.get_write_buffer_size() > 1000
            far.transport._ssl_protocol._transport.resume_reading()
            far.transport.resume_reading()
            await near.resumed
            await far.received(written)
            assert transport.get_write_buffer_size() == 0
            assert near.events == ["connection_made", "pause_writing", "resume_writing"]

    run(main())


def test_limits_are_checked(same_as_asyncio):
    def story(loop):
        async def main():
            said = []
            async with tls_connected() as (near, _):
                transport = near.transport
                for what in ("write", "read"):
                    change = getattr(transport, f"set_{what}_buffer_limits")
                    ask = getattr(transport, f"get_{what}_buffer_limits")
                    for keywords in ({}, {"high": 10}, {"low": 10}, {"high": 10, "low": 3}):
                        change(**keywords)
                        said.append(ask())
                    for keywords in ({"high": 1, "low": 2}, {"high": -1}, {"low": -1}):
                        with pytest.raises(ValueError) as raised:
                            change(**keywords)
                        said.append(str(raised.value))
                said.append(transport.get_read_buffer_size())
                transport.set_write_buffer_limits(high=0)
                said.append(near.events)
                transport.set_write_buffer_limits()
                said.append(near.events)
            return said

        return loop.run_until_complete(main())

    same_as_asyncio(story)


def test_nothing_is_received_while_reading_is_paused(run):
    data = payload(3_000_000)

    async def main():
        async with tls_connected() as (near, far):
            far.transport.pause_reading()
            assert not far.transport.is_reading()
            near.transport.write(data)
            while not far.transport._ssl_protocol._transport._paused:
                await asyncio.sleep(0)
            assert far.events == ["connection_made"]
            # Memory is bounded: the transport below has stopped.
            assert far.transport.get_read_buffer_size() < 1_000_000
            far.transport.resume_reading()
            assert far.transport.is_reading()
            assert await far.received(len(data)) == data

    run(main())


def test_the_end_of_the_stream_waits_for_a_paused_reader(run):
    async def main():
        async with peer_of_server() as (peer, made):
            await peer.handshake()
            protocol = await made
            await protocol.connected
            protocol.transport.pause_reading()
            await peer.write(b"before the end")
            peer.sock.shutdown(socket.SHUT_WR)
            while not protocol.transport._ssl_protocol._transport.get_extra_info("socket"):
                await asyncio.sleep(0)
            for _ in range(5):
                await asyncio.sleep(0.01)
            assert protocol.events == ["connection_made"]
            protocol.transport.resume_reading()
            await protocol.closed
            assert bytes(protocol.data) == b"before the end"
            assert protocol.events == ["connection_made", "data", "eof_received", "connection_lost"]

    run(main())


# start_tls ---------------------------------------------------------------------------------------------------------------


async def upgraded(near, far, of_client=None, of_server=None):
    loop = asyncio.get_running_loop()
    both = asyncio.gather(
        loop.start_tls(near.transport, near, of_client or client_context(), server_hostname="localhost"),
        loop.start_tls(far.transport, far, of_server or server_context(), server_side=True),
    )
    near.transport, far.transport = await both


@BOTH_PROTOCOLS
def test_a_connection_is_upgraded(run, protocol):
    data = payload(200_000)

    async def main():
        async with connected(protocol, protocol) as (near, far):
            near.transport.write(b"plain")
            assert await far.received(5) == b"plain"
            await upgraded(near, far)
            assert near.transport.get_extra_info("ssl_object") is not None
            near.transport.write(data)
            assert await far.received(5 + len(data)) == b"plain" + data
            near.transport.close()
            await near.closed
            await far.closed
            assert near.events.count("connection_made") == 1

    run(main())


def test_tls_inside_tls(run):
    data = payload(300_000)

    async def main():
        async with tls_connected() as (near, far):
            await upgraded(near, far)
            assert near.transport.get_extra_info("ssl_object") is not None
            near.transport.write(data)
            assert await far.received(len(data)) == data
            far.transport.write(data)
            assert await near.received(len(data)) == data
            near.transport.close()
            await near.closed
            await far.closed
            assert near.error is None

    run(main())


def test_a_stream_writer_is_upgraded(run):
    async def main():
        served = asyncio.get_running_loop().create_future()

        async def serve(reader, writer):
            assert await reader.readline() == b"STARTTLS\n"
            writer.write(b"go\n")
            await writer.start_tls(server_context())
            writer.write(await reader.readline())
            await writer.drain()
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
            served.set_result(None)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"STARTTLS\n")
        assert await reader.readline() == b"go\n"
        await writer.start_tls(client_context(), server_hostname="localhost")
        assert writer.get_extra_info("ssl_object") is not None
        writer.write(b"secret\n")
        assert await reader.readline() == b"secret\n"
        writer.close()
        await writer.wait_closed()
        await served
        server.close()
        await server.wait_closed()

    run(main())


@pytest.mark.oracle_differs("before 3.14 asyncio forgets what the reader has received already")
@pytest.mark.parametrize("own", [False, True], ids=["asyncios streams", "streams of the side"])
def test_a_handshake_that_the_reader_has_received_already_is_used(run, loop_factory, own):
    if not loop_factory.is_hayase and sys.version_info < (3, 14):
        return
    streams = asyncio
    if own and loop_factory.is_hayase:
        import hayase

        streams = hayase

    async def main():
        upgraded = asyncio.get_running_loop().create_future()

        async def serve(reader, writer):
            await reader.readline()
            # The client's hello is there too, in the reader's buffer.
            while len(reader._buffer) < 100:
                await asyncio.sleep(0)
            await writer.start_tls(server_context())
            upgraded.set_result(await reader.readline())
            writer.close()
            await writer.wait_closed()

        server = await streams.start_server(serve, "127.0.0.1", 0)
        reader, writer = await streams.open_connection(*server.sockets[0].getsockname())
        writer.write(b"STARTTLS\n")
        await writer.start_tls(client_context(), server_hostname="localhost")
        writer.write(b"secret\n")
        assert await upgraded == b"secret\n"
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())


def test_the_layer_says_what_is_paused(run):
    async def main():
        async with tls_connected() as (near, _far):
            layer = near.transport._ssl_protocol
            assert not layer._app_reading_paused
            near.transport.pause_reading()
            assert layer._app_reading_paused and not layer._ssl_reading_paused
            near.transport.resume_reading()
            await asyncio.sleep(0)
            assert not layer._app_reading_paused
            layer.pause_writing()
            assert layer._ssl_writing_paused and not layer._app_writing_paused
            layer.resume_writing()
            assert not layer._ssl_writing_paused

    run(main())


def test_a_cancelled_upgrade_closes_the_connection(run):
    async def main():
        loop = asyncio.get_running_loop()
        async with connected() as (near, far):
            upgrading = asyncio.ensure_future(
                loop.start_tls(near.transport, near, client_context(), server_hostname="localhost")
            )
            await far.received(100)
            upgrading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await upgrading
            await far.closed
            # asyncio does not tell the protocol of a connection that ended in an upgrade.
            assert not near.closed.done()
            near.closed.set_result(None)

    run(main())


def test_a_failed_upgrade_raises_the_error(same_as_asyncio):
    def story(loop):
        async def main():
            async with connected() as (near, far):
                far.transport.write(b"this is not TLS at all")
                try:
                    await loop.start_tls(near.transport, near, client_context(), server_hostname="localhost")
                except ssl.SSLError as error:
                    return type(error).__name__, error.reason

        return loop.run_until_complete(main())

    assert same_as_asyncio(story).value is not None


class Relay(asyncio.Transport):
    """A transport written in Python, over another one."""

    _start_tls_compatible = True

    def __init__(self, below, protocol):
        super().__init__()
        self.below, self.protocol, self.paused, self.waiting = below, protocol, False, []

    def write(self, data):
        self.below.write(data)

    def set_protocol(self, protocol):
        self.protocol = protocol

    def get_protocol(self):
        return self.protocol

    def pause_reading(self):
        self.below.pause_reading()

    def resume_reading(self):
        self.below.resume_reading()

    def is_closing(self):
        return self.below.is_closing()

    def close(self):
        self.below.close()

    def abort(self):
        self.below.abort()

    def _force_close(self, error):
        self.below.abort()

    def get_extra_info(self, name, default=None):
        return {"through": "relay"}.get(name, default)


class Below(asyncio.Protocol):
    def connection_made(self, transport):
        self.relay = Relay(transport, None)

    def data_received(self, data):
        protocol = self.relay.protocol
        if isinstance(protocol, asyncio.BufferedProtocol):
            while data:
                buffer = protocol.get_buffer(len(data))
                count = min(len(buffer), len(data))
                buffer[:count] = data[:count]
                protocol.buffer_updated(count)
                data = data[count:]
        else:
            protocol.data_received(data)

    def eof_received(self):
        return self.relay.protocol.eof_received()

    def connection_lost(self, error):
        self.relay.protocol.connection_lost(error)


def test_a_transport_of_the_programs_own_is_upgraded(run):
    data = payload(400_000)

    async def main():
        loop = asyncio.get_running_loop()
        async with connected(Below, Recording) as (below, far):
            near = Recording()
            upgrading = loop.start_tls(below.relay, near, client_context(), server_hostname="localhost")
            serving = loop.start_tls(far.transport, far, server_context(), server_side=True)
            transport, far.transport = await asyncio.gather(upgrading, serving)
            near.transport = transport
            assert transport.get_extra_info("through") == "relay"
            transport.write(data)
            assert await far.received(len(data)) == data
            far.transport.write(data)
            assert await near.received(len(data)) == data
            transport.close()
            await near.closed
            await far.closed
            assert near.events[-1] == "connection_lost"

    run(main())


# Servers -----------------------------------------------------------------------------------------------------------------


@since_3_13
def test_a_server_closes_its_clients(run):
    async def main():
        loop = asyncio.get_running_loop()
        made = loop.create_future()

        def factory():
            made.set_result(Recording())
            return made.result()

        server = await loop.create_server(factory, "127.0.0.1", 0, ssl=server_context())
        _transport, near = await loop.create_connection(
            Recording, *server.sockets[0].getsockname(), ssl=client_context()
        )
        far = await made
        await far.connected
        server.close()
        server.close_clients()
        await far.closed
        await near.closed
        await server.wait_closed()

    run(main())


def test_a_server_shows_its_context(run):
    async def main():
        context = server_context()
        server = await asyncio.get_running_loop().create_server(Recording, "127.0.0.1", 0, ssl=context)
        assert server._ssl_context is context
        server.close()
        await server.wait_closed()

    run(main())


def test_a_failed_handshake_is_told_in_debug_mode(loop, run, asyncio_log):
    loop.set_debug(True)

    async def main():
        async with peer_of_server() as (peer, made):
            with contextlib.suppress(ConnectionError):
                await peer.send_raw(b"garbage, and enough of it")
                await peer.end_of_stream()
            await made
            await asyncio.sleep(0)

    run(main())
    errors = [record for record in asyncio_log.take() if record.levelname == "ERROR"]
    assert [record.getMessage().splitlines()[0] for record in errors] == [
        "Error on transport creation for incoming connection"
    ]


# Memory ------------------------------------------------------------------------------------------------------------------


def test_connections_that_ended_leave_nothing(run):
    async def main():
        loop = asyncio.get_running_loop()
        of_client, of_server = client_context(), server_context()
        server = await loop.create_server(Recording, "127.0.0.1", 0, ssl=of_server)
        address = server.sockets[0].getsockname()

        async def once():
            transport, protocol = await loop.create_connection(Recording, *address, ssl=of_client)
            transport.write(b"hello")
            weak = weakref.ref(transport._ssl_protocol)
            transport.close()
            await protocol.closed
            return weak

        gc.collect()
        gc.disable()
        try:
            weak = [await once() for _ in range(50)]
            await asyncio.sleep(0)
            # Without the collector.
            assert [layer for layer in weak[:-1] if layer() is not None] == []
        finally:
            gc.enable()
        server.close()
        await server.wait_closed()

    run(main())


@pytest.mark.hayase_only("asyncio's layer and its buffer of 256 KiB wait for the collector")
def test_a_thousand_connections_leave_no_memory(program):
    done = program(
        f"""
        import asyncio, gc, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from recording import Recording
        from tls_peer import client_context, server_context

        def resident_kib():
            with open("/proc/self/smaps_rollup") as file:
                return next(int(line.split()[1]) for line in file if line.startswith("Rss:"))

        async def connect(number, address, context):
            loop = asyncio.get_running_loop()
            transport, protocol = await loop.create_connection(Recording, *address, ssl=context)
            transport.write(bytes(100 * number))
            if number % 3 == 0:
                transport.abort()
            else:
                transport.close()
            await protocol.closed

        async def main():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(Recording, "127.0.0.1", 0, ssl=server_context())
            address, context = server.sockets[0].getsockname(), client_context()

            async def connect_many(count):
                for _ in range(count // 10):
                    await asyncio.gather(*[connect(number, address, context) for number in range(10)])
                gc.collect()
                return resident_kib()

            before = await connect_many(500)
            print(await connect_many(1_000) - before)
            server.close()

        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main())
        """
    )
    assert done.returncode == 0, done.stderr
    # 1,000 connections; the smallest thing that one could leave is some hundred bytes of OpenSSL's.
    assert int(done.stdout) < 256


def test_what_other_threads_ask_of_the_ssl_object_disturbs_nothing(run):
    data = payload(3_000_000)
    answers = set()
    ended = threading.Event()

    def ask(ssl_object):
        while not ended.is_set():
            # While the loop's thread is inside OpenSSL with a session ticket, the handshake counts as not done.
            with contextlib.suppress(ValueError):
                version, certificate = ssl_object.version(), ssl_object.getpeercert()
                if version is not None:
                    answers.add((version, ssl_object.cipher(), certificate["serialNumber"]))

    async def main():
        async with tls_connected() as (near, far):
            asking = threading.Thread(target=ask, args=(near.transport.get_extra_info("ssl_object"),))
            asking.start()
            try:
                near.transport.write(data)
                far.transport.write(data)
                assert await far.received(len(data)) == data
                assert await near.received(len(data)) == data
            finally:
                ended.set()
                asking.join()

    run(main())
    assert len(answers) == 1


def test_contexts_are_freed_with_their_connections(run):
    async def main():
        of_client = client_context()
        async with tls_connected(of_client=of_client) as (near, far):
            near.transport.close()
            await near.closed
            await far.closed
        near.transport = far.transport = None
        return weakref.ref(of_client)

    weak = run(main())
    gc.collect()
    assert weak() is None


@pytest.mark.hayase_only("what a closed loop leaves open differs among the versions of asyncio; 3.15 keeps it")
def test_a_loop_closed_under_open_connections_frees_them(loop_factory):
    loop = loop_factory()

    async def main():
        server = await loop.create_server(Recording, "127.0.0.1", 0, ssl=server_context())
        transport, _ = await loop.create_connection(Recording, *server.sockets[0].getsockname(), ssl=client_context())
        return server, weakref.ref(transport)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        server, weak = loop.run_until_complete(main())
        server.close()
        loop.close()
        del server
        gc.collect()
        assert weak() is None
    assert "unclosed transport <asyncio._SSLProtocolTransport object>" in [str(each.message) for each in caught]
