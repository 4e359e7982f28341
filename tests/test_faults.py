"""What a loop must survive of peers and the system: resets, floods, full tables, closed descriptors, slow names."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from recording import BufferedRecording, Recording, connected

RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, no time: close() sends RST


# 1. No descriptors left for accept -----------------------------------------------------------------------------------

SERVER_WITH_FEW_DESCRIPTORS = """
import asyncio, json, os, resource, sys, time
sys.path[:0] = {path!r}
if {side!r} == "hayase":
    import hayase
    loop = hayase.new_event_loop()
else:
    loop = asyncio.SelectorEventLoop()
reports = []
loop.set_exception_handler(lambda loop, context: reports.append((context["message"], repr(context.get("exception")))))
began = time.monotonic()

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)

def on_command():
    if not os.read(0, 1000):
        loop.stop()
        return
    print(json.dumps([reports, time.monotonic() - began]), flush=True)

server = loop.run_until_complete(loop.create_server(Echo, "127.0.0.1", 0, backlog=100))
loop.add_reader(0, on_command)
limit = len(os.listdir("/proc/self/fd")) + 9
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
print(server.sockets[0].getsockname()[1], flush=True)
loop.run_forever()
loop.remove_reader(0)
server.close()
loop.close()
"""


@pytest.mark.oracle_differs("asyncio reports once for every place in the backlog; hayase at most once a second")
def test_accepting_without_free_descriptors_keeps_listening_reports_little_and_recovers(loop_factory):
    import json

    path = (
        [str(Path(sys.modules["hayase"].__file__).parent.parent)]
        if loop_factory.is_hayase and loop_factory().close() is None
        else []
    )
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER_WITH_FEW_DESCRIPTORS.format(side=loop_factory.side, path=path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = server.stdout.readline()
        assert line, server.stderr.read()
        address = ("127.0.0.1", int(line))
        clients = []
        for number in range(30):
            client = socket.create_connection(address, timeout=40)
            client.sendall(b"%d" % number)
            clients.append(client)
        # Each one answered gives its descriptor back, and so lets another in: all are served in the end.
        for number, client in enumerate(clients):
            assert client.recv(100) == b"%d" % number
            client.close()
        server.stdin.write("report\n")
        server.stdin.flush()
        reports, seconds = json.loads(server.stdout.readline())
        assert reports
        assert all("socket.accept() out of system resource" in message for message, _ in reports)
        assert all("Too many open files" in error for _, error in reports)
        if loop_factory.is_hayase:
            assert len(reports) <= seconds + 2
        _, errors = server.communicate(timeout=20)
        assert server.returncode == 0, errors
    finally:
        if server.poll() is None:
            server.kill()
            server.communicate()


# 2. Resets -----------------------------------------------------------------------------------------------------------


def test_a_reset_in_the_middle_of_writing_is_told_once(loop, run, asyncio_log):
    async def main():
        async with connected() as (near, far):
            far.transport.pause_reading()
            near.transport.write(b"x" * 20_000_000)
            sock = far.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            far.transport.abort()
            error = await near.closed
            assert isinstance(error, (ConnectionResetError, BrokenPipeError))
            assert near.events.count("connection_lost") == 1
            assert near.transport.get_write_buffer_size() == 0
            for _ in range(10):
                near.transport.write(b"ignored")
            near.transport.close()
            near.transport.abort()
            await asyncio.sleep(0)
            assert near.events.count("connection_lost") == 1

    run(main())
    assert set(asyncio_log.messages()) <= {"socket.send() raised exception."}


def test_a_reset_while_reading_is_told_once(loop, run):
    async def main():
        async with connected() as (near, far):
            sock = far.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            far.transport.abort()
            assert isinstance(await near.closed, ConnectionResetError)
            assert near.events == ["connection_made", "connection_lost"]

    run(main())


def test_a_reset_reaches_a_stream_that_reads_and_one_that_drains(loop, run):
    async def main():
        peers = []

        async def accept(reader, writer):
            peers.append(writer)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        for use in ("read", "drain"):
            reader, writer = await asyncio.open_connection(*address)
            while not peers:
                await asyncio.sleep(0)
            peer = peers.pop()
            if use == "drain":
                peer.transport.pause_reading()
                writer.write(b"x" * 20_000_000)
                waiting = loop.create_task(writer.drain())
            else:
                waiting = loop.create_task(reader.readexactly(10))
            await asyncio.sleep(0)
            sock = peer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            peer.transport.abort()
            with pytest.raises(ConnectionError):
                await waiting
            writer.close()
            with pytest.raises(ConnectionError):
                await writer.wait_closed()
        server.close()

    run(main())


def test_a_client_that_resets_before_it_is_accepted_does_not_disturb_the_server(loop, run):
    async def main():
        server = await loop.create_server(Recording, "127.0.0.1", 0, start_serving=False, backlog=50)
        address = server.sockets[0].getsockname()
        server.sockets[0].dup().close()
        await server.start_serving()
        for _ in range(20):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            client.setblocking(False)
            client.connect_ex(address)
            client.close()
        transport, _ = await loop.create_connection(Recording, *address)
        transport.abort()
        server.close()

    run(main())


# 4. A peer that never reads ------------------------------------------------------------------------------------------


def test_a_peer_that_never_reads_costs_one_pause_and_can_be_aborted_at_once(loop, run):
    async def main():
        async with connected() as (near, far):
            far.transport.pause_reading()
            chunk = b"x" * 100_000
            written = 0
            for _ in range(200):
                near.transport.write(chunk)
                written += len(chunk)
                if written % 1_000_000 == 0:
                    await asyncio.sleep(0)
            assert near.events.count("pause_writing") == 1
            assert 0 < near.transport.get_write_buffer_size() <= written
            near.transport.abort()
            assert await near.closed is None

    run(main())


# 5, 6. Many idle, one fast -------------------------------------------------------------------------------------------


def test_many_idle_connections_do_not_hinder_the_one_that_talks(loop, run):
    async def main():
        class Echo(Recording):
            def data_received(self, data):
                self.transport.write(data)

        server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=500)
        address = server.sockets[0].getsockname()
        idle = [(await loop.create_connection(Recording, *address))[1] for _ in range(300)]
        _, talker = await loop.create_connection(Recording, *address)
        for number in range(1, 300):
            talker.transport.write(b"x" * 10)
            await talker.received(number * 10)
        for protocol in (*idle, talker):
            protocol.transport.close()
        await asyncio.gather(*(protocol.closed for protocol in (*idle, talker)))
        server.close()

    run(main())


def test_one_fast_peer_does_not_keep_timers_callbacks_or_others_waiting(loop, run):
    """Counted in turns, not in seconds: between two turns, one connection may deliver only so much."""
    total = 60_000_000

    class Sink(Recording):
        largest = this_turn = seen = 0

        def data_received(self, data):
            self.this_turn += len(data)
            self.seen += len(data)
            self.largest = max(self.largest, self.this_turn)
            if self.seen >= total:
                self.finished.set_result(None)

    async def main():
        async with connected(Sink, Recording) as (near, _far):
            near.finished = loop.create_future()
            address = near.transport.get_extra_info("sockname")
            assert address

            def next_turn():
                near.this_turn = 0
                if not near.finished.done():
                    loop.call_soon(next_turn)

            loop.call_soon(next_turn)
            sock = _far.transport.get_extra_info("socket")
            fd = os.dup(sock.fileno())
            _far.transport.pause_reading()

            def blast():
                with socket.socket(fileno=fd) as raw:
                    raw.setblocking(True)
                    chunk = b"x" * 1_000_000
                    for _ in range(total // len(chunk)):
                        raw.sendall(chunk)

            blasting = threading.Thread(target=blast)
            blasting.start()
            await near.finished
            await loop.run_in_executor(None, blasting.join)
            assert near.largest <= 2_000_000

    run(main())


# 8. Every byte -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [Recording, BufferedRecording], ids=["protocol", "buffered"])
def test_checksums_hold_through_partial_writes_small_buffers_and_random_pauses(loop, run, protocol):
    choose = random.Random(11)

    class Hashes(protocol):
        def __init__(self):
            super().__init__()
            self.hash = hashlib.sha256()
            self.count = 0

        def _arrived(self, data):
            self.hash.update(data)
            self.count += len(data)
            if choose.random() < 0.2:
                self.transport.pause_reading()
                asyncio.get_running_loop().call_soon(self.transport.resume_reading)

    async def main():
        async with connected(Recording, Hashes) as (near, far):
            near.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
            far.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
            sent = hashlib.sha256()
            total = 0
            for _ in range(150):
                pieces = [
                    choose.randbytes(choose.choice([1, 7, 100, 5000, 40_000])) for _ in range(choose.randrange(1, 4))
                ]
                for piece in pieces:
                    sent.update(piece)
                    total += len(piece)
                if choose.random() < 0.5:
                    near.transport.writelines(pieces)
                else:
                    for piece in pieces:
                        near.transport.write(piece)
                if choose.random() < 0.3:
                    await asyncio.sleep(0)
            near.transport.close()
            await far.closed
            assert far.count == total
            assert far.hash.digest() == sent.digest()

    run(main())


# 21. Descriptors closed under the loop -------------------------------------------------------------------------------


def test_a_descriptor_closed_under_a_transport_does_not_crash_and_the_transport_can_be_ended(program):
    done = program(
        """
        class Note(asyncio.Protocol):
            def __init__(self):
                self.got = []
                self.lost = False
            def connection_made(self, transport):
                self.transport = transport
            def data_received(self, data):
                self.got.append(data)
            def connection_lost(self, error):
                self.lost = True

        async def main():
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda loop, context: None)
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            transport, protocol = await loop.create_connection(Note, sock=ours)
            theirs.send(b"before")
            while not protocol.got:
                await asyncio.sleep(0)
            os.close(ours.fileno())
            # The number goes to somebody else, who gets data that is not the transport's.
            other, peer = socket.socketpair()
            reused = other.fileno() == ours.fileno()
            (peer if other.fileno() == ours.fileno() else other).send(b"for somebody else")
            for _ in range(5):
                await asyncio.sleep(0)
            assert protocol.got == [b"before"], protocol.got
            transport.abort()
            for _ in range(5):
                await asyncio.sleep(0)
            assert protocol.lost
            theirs.close()

        loop = new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        print("fine", flush=True)
        os._exit(0)
        """,
        "-W",
        "ignore",
    )
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


# 25. Timers in bulk --------------------------------------------------------------------------------------------------


def test_a_million_timers_armed_and_cancelled_give_their_memory_back(program):
    done = program("""
        def resident():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * 4096

        loop = new_event_loop()
        def some(count):
            handles = [loop.call_later(1000 + n % 1000, max, n, n) for n in range(count)]
            for handle in handles:
                handle.cancel()
            del handles, handle
            loop.stop()
            loop.run_forever()
        at_once = 200_000 if SIDE == "hayase" else 40_000  # asyncio's heap takes half a minute in a debug build
        some(at_once)
        gc.collect()
        before = resident()
        for _ in range(5):
            some(at_once)
        gc.collect()
        grown = resident() - before
        assert grown < 200 * at_once, grown
        loop.close()
        print("fine")
    """)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


# 27. Slow names ------------------------------------------------------------------------------------------------------

SLOW_RESOLVER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A resolver that answers "slow.invalid" only when the file named by RELEASE exists. */
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result) {
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) = dlsym(RTLD_NEXT, "getaddrinfo");
    if (node && strcmp(node, "slow.invalid") == 0) {
        while (access(getenv("RELEASE"), F_OK) != 0) usleep(1000);
        return EAI_NONAME;
    }
    return real(node, service, hints, result);
}
"""


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler for a resolver that is slow on purpose")
def test_a_cancelled_lookup_returns_at_once_and_others_are_not_held_up(program, tmp_path):
    source, library, release = tmp_path / "slow.c", tmp_path / "slow.so", tmp_path / "release"
    source.write_text(SLOW_RESOLVER)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    done = program(
        """
        async def main():
            loop = asyncio.get_running_loop()
            slow = [loop.create_task(loop.create_connection(asyncio.Protocol, "slow.invalid", 80)) for _ in range(2)]
            await asyncio.sleep(0.01)
            server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
            transport, _ = await loop.create_connection(asyncio.Protocol, "localhost", server.sockets[0].getsockname()[1], family=socket.AF_INET)
            transport.abort()
            server.close()
            for task in slow:
                assert not task.done()
                task.cancel()
            await asyncio.wait(slow)
            assert all(task.cancelled() for task in slow)
            open(os.environ["RELEASE"], "w").close()

        loop = new_event_loop()
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        print("fine")
        """,
        LD_PRELOAD=str(library),
        RELEASE=str(release),
    )
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr
