"""The two engines of TLS: whoever does the cryptography, a program sees the same as on asyncio, to the letter.

Each story is told with `HAYASE_TLS=direct` and with `memory-bio`. The other end of the wire is an `ssl.SSLObject` that the
test drives by hand, so that it can also misbehave.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import LoopFactory, Outcome

import hayase

CERTIFICATE = Path(__file__).parent.parent / "crates" / "loadgen" / "certificate.pem"
KEY = CERTIFICATE.with_name("key.pem")
NAME = "localhost"

Story = Callable[[asyncio.AbstractEventLoop], Any]


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE, KEY)
    return context


def client_context(*, verifies: bool = True) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if verifies:
        context.load_verify_locations(CERTIFICATE)
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class Told(asyncio.Protocol):
    """What the loop told a protocol."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.data = bytearray()
        self.lost: asyncio.Future[BaseException | None] = loop.create_future()
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self, error: BaseException | None) -> None:
        self.lost.set_result(error)


class Echo(Told):
    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Peer:
    """The other end, by hand: a socket, and an `SSLObject` that is not connected to it but by these methods."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server_side: bool) -> None:
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server_side else NAME
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=server_side, server_hostname=name)

    async def until_done(self, operation: Callable[[], Any]) -> Any:
        loop = asyncio.get_running_loop()
        while True:
            try:
                result = operation()
            except ssl.SSLWantReadError:
                await loop.sock_sendall(self.sock, self.outgoing.read())
                received = await loop.sock_recv(self.sock, 1 << 18)
                if not received:
                    raise EOFError from None
                self.incoming.write(received)
                continue
            except ssl.SSLError:
                with contextlib.suppress(ConnectionError):
                    await loop.sock_sendall(self.sock, self.outgoing.read())  # the alert
                raise
            await loop.sock_sendall(self.sock, self.outgoing.read())
            return result

    async def handshake(self) -> None:
        await self.until_done(self.tls.do_handshake)

    async def read_exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            missing = size - len(data)
            data += await self.until_done(lambda missing=missing: self.tls.read(missing))
        return bytes(data)


@contextlib.contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected sockets; the loop under test gets the first one, which then belongs to a transport."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


def everything_of(error: BaseException | None) -> tuple[object, ...] | None:
    """All that a program can see of an error."""
    if error is None:
        return None
    names = ("errno", "strerror", "library", "reason", "verify_code", "verify_message")
    return (type(error), str(error), repr(error.args), *(getattr(error, name, "-") for name in names))


async def fail(connecting: Any) -> tuple[object, ...] | None:
    try:
        await connecting
    except Exception as error:
        return everything_of(error)
    raise AssertionError("this must fail")


# Errors ------------------------------------------------------------------------------------------------------------

GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "http answer": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "text": b"SSH-2.0-OpenSSH_9.6\r\n",
    "zeros": bytes(64),
    "sslv2": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + bytes(40),
    "huge record": b"\x16\x03\x01\xff\xff" + bytes(64),
    "empty record": b"\x16\x03\x01\x00\x00",
    "wrong message": b"\x16\x03\x01\x00\x04\x14\x00\x00\x00",
    "early data": b"\x17\x03\x03\x00\x05hello",
    "alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "warning": b"\x15\x03\x03\x00\x02\x01\x00",
}


@pytest.mark.parametrize("role", ["client", "server"])
@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_in_the_handshake_is_the_same_error(
    engine: str, same_as_asyncio: Callable[..., Outcome], garbage: str, role: str
) -> None:
    def story(loop: asyncio.AbstractEventLoop) -> Any:
        async def main() -> Any:
            with pair() as (ours, theirs):
                theirs.send(GARBAGE[garbage])
                theirs.shutdown(socket.SHUT_WR)
                if role == "client":
                    return await fail(
                        loop.create_connection(Told, sock=ours, ssl=client_context(), server_hostname=NAME)
                    )
                return await fail(loop.connect_accepted_socket(Told, ours, ssl=server_context()))

        return loop.run_until_complete(main())

    assert same_as_asyncio(story).error is None


async def client_against(
    loop: asyncio.AbstractEventLoop, ours: ssl.SSLContext, theirs: ssl.SSLContext, name: str
) -> Any:
    """A client of the loop under test against a server by hand: the error of each."""
    with pair() as (sock, other):
        peer = Peer(other, theirs, server_side=True)
        return await errors_of(
            loop.create_connection(Told, sock=sock, ssl=ours, server_hostname=name), peer.handshake()
        )


async def server_against(loop: asyncio.AbstractEventLoop, ours: ssl.SSLContext, theirs: ssl.SSLContext) -> Any:
    with pair() as (sock, other):
        peer = Peer(other, theirs, server_side=False)
        return await errors_of(loop.connect_accepted_socket(Told, sock, ssl=ours), peer.handshake())


async def errors_of(connecting: Any, by_hand: Any) -> Any:
    mine, theirs = await asyncio.gather(connecting, by_hand, return_exceptions=True)
    if isinstance(mine, tuple):
        transport, protocol = mine
        transport.abort()
        await protocol.lost
        mine = None
    return everything_of(mine), everything_of(theirs)


@pytest.mark.parametrize(
    ("name", "trusts"), [(NAME, False), ("elsewhere.invalid", True), ("192.0.2.1", True), (NAME, True)]
)
def test_a_certificate_that_does_not_verify_is_the_same_error(
    engine: str, same_as_asyncio: Callable[..., Outcome], name: str, trusts: bool
) -> None:
    def story(loop: asyncio.AbstractEventLoop) -> Any:
        context = client_context() if trusts else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        return loop.run_until_complete(client_against(loop, context, server_context(), name))

    outcome = same_as_asyncio(story)
    assert (outcome.value == (None, None)) == (name == NAME and trusts)


def test_versions_that_do_not_meet_are_the_same_error(engine: str, same_as_asyncio: Callable[..., Outcome]) -> None:
    def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
        new, old = server_context(), client_context()
        new.minimum_version = ssl.TLSVersion.TLSv1_3
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        return new, old

    def as_client(loop: asyncio.AbstractEventLoop) -> Any:
        new, old = contexts()
        return loop.run_until_complete(client_against(loop, old, new, NAME))

    def as_server(loop: asyncio.AbstractEventLoop) -> Any:
        new, old = contexts()
        return loop.run_until_complete(server_against(loop, new, old))

    for story in (as_client, as_server):
        mine, _ = same_as_asyncio(story).value
        assert mine[0] is ssl.SSLError


def test_a_missing_client_certificate_is_the_same_error(engine: str, same_as_asyncio: Callable[..., Outcome]) -> None:
    def story(loop: asyncio.AbstractEventLoop) -> Any:
        context = server_context()
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(CERTIFICATE)
        client = client_context()
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        return loop.run_until_complete(server_against(loop, context, client))

    mine, _ = same_as_asyncio(story).value
    assert mine[4] == "PEER_DID_NOT_RETURN_A_CERTIFICATE" or "PEER_DID_NOT_RETURN" in str(mine)


def test_a_damaged_record_ends_the_connection_with_the_same_error(
    engine: str, same_as_asyncio: Callable[..., Outcome]
) -> None:
    def story(loop: asyncio.AbstractEventLoop) -> Any:
        async def main() -> Any:
            with pair() as (ours, theirs):
                peer = Peer(theirs, client_context(), server_side=False)
                connecting = asyncio.ensure_future(peer.handshake())
                _, protocol = await loop.connect_accepted_socket(Told, ours, ssl=server_context())
                await connecting
                peer.tls.write(b"whole")
                peer.tls.write(b"damaged")
                record = bytearray(peer.outgoing.read())
                record[-1] ^= 1
                await loop.sock_sendall(theirs, record)
                error = await protocol.lost
                # asyncio drops what came whole in the same packet; here it is delivered.
                assert bytes(protocol.data) in (b"", b"whole")
                return everything_of(error)

        return loop.run_until_complete(main())

    assert same_as_asyncio(story).value[0] is ssl.SSLError


def test_data_instead_of_close_notify_is_handled_the_same(engine: str, same_as_asyncio: Callable[..., Outcome]) -> None:
    def story(loop: asyncio.AbstractEventLoop) -> Any:
        async def main() -> Any:
            with pair() as (ours, theirs):
                peer = Peer(theirs, client_context(), server_side=False)
                connecting = asyncio.ensure_future(peer.handshake())
                transport, protocol = await loop.connect_accepted_socket(Told, ours, ssl=server_context())
                await connecting
                transport.close()
                peer.tls.write(b"too late")
                await loop.sock_sendall(theirs, peer.outgoing.read())
                return everything_of(await protocol.lost), bytes(protocol.data)

        return loop.run_until_complete(main())

    same_as_asyncio(story)


# The program's own context -----------------------------------------------------------------------------------------


def exchange(
    loop: asyncio.AbstractEventLoop,
    server: ssl.SSLContext,
    client: ssl.SSLContext,
    talk: Callable[[Any, Told], Any],
) -> Any:
    """Connects two protocols of the loop under test and lets `talk` use the client's."""

    async def main() -> Any:
        with pair() as (a, b):
            accepting = asyncio.ensure_future(loop.connect_accepted_socket(Echo, a, ssl=server))
            transport, protocol = await loop.create_connection(Told, sock=b, ssl=client, server_hostname=NAME)
            _, other = await accepting
            try:
                return await talk(transport, protocol)
            finally:
                transport.abort()
                await protocol.lost
                await other.lost

    return loop.run_until_complete(main())


async def received(protocol: Told, size: int) -> bytes:
    while len(protocol.data) < size:
        await asyncio.sleep(0)
    return bytes(protocol.data)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_what_the_ssl_object_answers_is_the_same(
    engine: str, same_as_asyncio: Callable[..., Outcome], version: ssl.TLSVersion
) -> None:
    def story(loop: asyncio.AbstractEventLoop) -> Any:
        server, client = server_context(), client_context()
        client.maximum_version = client.minimum_version = version
        server.set_alpn_protocols(["h2", "http/1.1"])
        client.set_alpn_protocols(["http/1.1"])

        async def talk(transport: Any, protocol: Told) -> Any:
            transport.write(b"x")
            await received(protocol, 1)
            tls = transport.get_extra_info("ssl_object")
            return (
                type(tls),
                tls.version(),
                tls.cipher(),
                tls.selected_alpn_protocol(),
                tls.getpeercert(),
                tls.getpeercert(binary_form=True),
                tls.server_hostname,
                tls.server_side,
                tls.compression(),
                tls.pending(),
                tls.session_reused,
                bool(tls.session),
                len(tls.get_channel_binding("tls-unique") or b""),
                transport.get_extra_info("peercert"),
                transport.get_extra_info("cipher"),
                transport.get_extra_info("sslcontext") is client,
            )

        return exchange(loop, server, client, talk)

    assert same_as_asyncio(story).value[1] in ("TLSv1.2", "TLSv1.3")


def test_the_sni_callback_chooses_and_refuses(engine: str, same_as_asyncio: Callable[..., Outcome]) -> None:
    def story(loop: asyncio.AbstractEventLoop) -> Any:
        seen = []
        answers = iter([None, ssl.ALERT_DESCRIPTION_HANDSHAKE_FAILURE, ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME])

        def choose(tls: ssl.SSLObject, name: str, context: ssl.SSLContext) -> int | None:
            seen.append((type(tls), name, context is server))
            return next(answers)

        server = server_context()
        server.sni_callback = choose
        outcomes = [loop.run_until_complete(server_against(loop, server, client_context())) for _ in range(3)]
        return outcomes, seen

    outcomes, seen = same_as_asyncio(story).value
    assert outcomes[0] == (None, None)
    assert len(seen) == 3


def test_an_exception_in_the_sni_callback_goes_to_the_unraisable_hook(
    engine: str, same_as_asyncio: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    hooked: list[tuple[Any, str]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda info: hooked.append((info.exc_type, str(info.exc_value))))

    def story(loop: asyncio.AbstractEventLoop) -> Any:
        def refuse(*_: object) -> None:
            raise ZeroDivisionError("in the callback")

        server = server_context()
        server.sni_callback = refuse
        hooked.clear()
        return loop.run_until_complete(server_against(loop, server, client_context())), list(hooked)

    _, unraisable = same_as_asyncio(story).value
    assert unraisable == [(ZeroDivisionError, "in the callback")]


def test_an_exception_in_the_message_callback_reaches_the_loop(
    engine: str, same_as_asyncio: Callable[..., Outcome]
) -> None:
    def story(loop: asyncio.AbstractEventLoop) -> Any:
        calls = 0
        reports: list[tuple[str, tuple[object, ...] | None]] = []
        loop.set_exception_handler(
            lambda _, context: reports.append((context["message"], everything_of(context.get("exception"))))
        )

        def listen(*_: object) -> None:
            nonlocal calls
            calls += 1
            raise ZeroDivisionError("in the callback")

        context = client_context()
        context._msg_callback = listen  # type: ignore[attr-defined]
        error, _ = loop.run_until_complete(asyncio.wait_for(client_against(loop, context, server_context(), NAME), 20))
        return error, calls, reports

    same_as_asyncio(story)


def test_keys_are_logged_to_the_file_of_the_context(engine: str, loop_factory: LoopFactory, tmp_path: Path) -> None:
    context = client_context()
    context.keylog_filename = str(tmp_path / "keys")
    loop = loop_factory()

    async def talk(transport: Any, protocol: Told) -> bytes:
        transport.write(b"x")
        return await received(protocol, 1)

    assert exchange(loop, server_context(), context, talk) == b"x"
    loop.close()
    assert "CLIENT_TRAFFIC_SECRET_0" in (tmp_path / "keys").read_text()


def test_a_session_is_used_again(engine: str, loop_factory: LoopFactory) -> None:
    server, client = server_context(), client_context()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    loop = loop_factory()

    async def session(transport: Any, protocol: Told) -> Any:
        return transport.get_extra_info("ssl_object").session

    first = exchange(loop, server, client, session)
    assert first.has_ticket
    assert first.timeout > 0

    async def main() -> bool:
        # `create_connection` takes no session, so the client is driven by hand.
        with pair() as (ours, theirs):
            peer = Peer(theirs, client, server_side=False)
            peer.tls.session = first
            connecting = asyncio.ensure_future(peer.handshake())
            transport, protocol = await loop.connect_accepted_socket(Told, ours, ssl=server)
            await connecting
            reused = transport.get_extra_info("ssl_object").session_reused and peer.tls.session_reused
            transport.abort()
            await protocol.lost
            return bool(reused)

    assert loop.run_until_complete(main())
    loop.close()


# Bytes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_every_byte_comes_through_in_order(engine: str, loop_factory: LoopFactory, version: ssl.TLSVersion) -> None:
    sizes = [1, 2, 1000, 16383, 16384, 16385, 70_000, 300_000]
    pieces = [bytes([number]) * size for number, size in enumerate(sizes)]
    client = client_context()
    client.maximum_version = client.minimum_version = version
    loop = loop_factory()

    async def talk(transport: Any, protocol: Told) -> bytes:
        for number, piece in enumerate(pieces):
            kinds: tuple[Callable[[bytes], Any], ...] = (bytes, bytearray, memoryview)
            transport.write(kinds[number % 3](piece))
        return await received(protocol, sum(sizes))

    assert exchange(loop, server_context(), client, talk) == b"".join(pieces)
    loop.close()


def test_records_that_come_byte_by_byte_are_put_together(engine: str, loop_factory: LoopFactory) -> None:
    loop = loop_factory()

    async def main() -> bytes:
        with pair() as (ours, theirs):
            peer = Peer(theirs, client_context(), server_side=False)
            accepting = asyncio.ensure_future(loop.connect_accepted_socket(Echo, ours, ssl=server_context()))
            await peer.handshake()
            transport, protocol = await accepting
            peer.tls.write(b"split")
            for byte in peer.outgoing.read():
                await loop.sock_sendall(theirs, bytes([byte]))
            echo = await peer.read_exactly(5)
            transport.abort()
            await protocol.lost
            return echo

    assert loop.run_until_complete(main()) == b"split"
    loop.close()


@pytest.mark.hayase_only("ssl itself enters OpenSSL twice, or waits for its own lock")
def test_writing_inside_a_message_callback_does_not_enter_openssl_twice(
    loop_factory: LoopFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAYASE_TLS", "direct")
    client = client_context()
    loop = loop_factory()
    writes: list[Callable[[], None]] = []

    def listen(*_: object) -> None:
        while writes:
            writes.pop()()

    client._msg_callback = listen  # type: ignore[attr-defined]

    async def talk(transport: Any, protocol: Told) -> bytes:
        writes.append(lambda: transport.write(b"inner"))
        transport.write(b"outer")
        return await received(protocol, 10)

    assert sorted(exchange(loop, server_context(), client, talk)) == sorted(b"outerinner")
    loop.close()


def test_the_ssl_object_outlives_its_connection(engine: str, same_as_asyncio: Callable[..., Outcome]) -> None:
    def story(loop: asyncio.AbstractEventLoop) -> Any:
        async def talk(transport: Any, protocol: Told) -> Any:
            return transport.get_extra_info("ssl_object")

        tls = exchange(loop, server_context(), client_context(), talk)
        gc.collect()
        with pytest.raises(ssl.SSLWantReadError):
            tls.read(1)
        return tls.write(b"to nobody"), tls.version(), tls.getpeercert()

    assert same_as_asyncio(story).value[0] == 9


def test_a_connection_leaves_nothing_of_tls_behind(engine: str, loop_factory: LoopFactory) -> None:
    loop = loop_factory()
    kept: list[weakref.ref[Any]] = []

    async def talk(transport: Any, protocol: Told) -> None:
        kept.append(weakref.ref(transport.get_extra_info("ssl_object")))

    for _ in range(3):
        exchange(loop, server_context(), client_context(), talk)
    gc.collect()
    assert [ref() for ref in kept] == [None] * 3
    loop.close()


# Which engine ------------------------------------------------------------------------------------------------------


def test_build_info_names_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HAYASE_TLS", raising=False)
    automatic = hayase.build_info()["tls_engine"]
    assert automatic == "direct" or automatic.startswith("memory-bio (")
    monkeypatch.setenv("HAYASE_TLS", "memory-bio")
    assert hayase.build_info()["tls_engine"].startswith("memory-bio (")
    monkeypatch.setenv("HAYASE_TLS", "quick")
    assert (
        hayase.build_info()["tls_engine"] == 'none (ValueError: HAYASE_TLS is auto, direct or memory-bio, not "quick")'
    )


STRANGE_LIBRARY = """
    import _ssl, ssl
    _ssl.OPENSSL_VERSION_NUMBER = 1
    print(hayase.build_info()["tls_engine"])
    async def main():
        loop = asyncio.get_running_loop()
        a, b = socket.socketpair()
        b.close()
        a.setblocking(False)
        try:
            await loop.create_connection(asyncio.Protocol, sock=a, ssl=ssl.create_default_context(), server_hostname="x")
        except Exception as error:
            print(type(error).__name__, error)
        a.close()
    loop = new_event_loop()
    loop.run_until_complete(main())
    loop.close()
"""


@pytest.mark.hayase_only("asyncio has one engine")
def test_a_library_that_does_not_match_is_left_alone(
    loop_factory: LoopFactory, program: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = program(STRANGE_LIBRARY, HAYASE_TLS="auto")
    assert done.stderr == ""
    engine, outcome = done.stdout.splitlines()
    assert engine.startswith("memory-bio (found OpenSSL 0x")
    assert outcome.startswith(("ConnectionResetError", "BrokenPipeError"))


@pytest.mark.hayase_only("asyncio has one engine")
def test_an_engine_that_was_asked_for_and_cannot_be_is_an_error(
    loop_factory: LoopFactory, program: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = program(STRANGE_LIBRARY, HAYASE_TLS="direct")
    assert "RuntimeError HAYASE_TLS=direct, but this interpreter's OpenSSL cannot be called" in done.stdout
