"""TLS: what the program's context decides, what is known of a connection, and which arguments are refused."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import warnings

import pytest
from recording import Recording, connected
from tls_peer import AUTHORITY, client_context, peer_of_client, server_context, tls_connected

# Everything here, with each of hayase's engines.
pytestmark = pytest.mark.usefixtures("engine")

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
