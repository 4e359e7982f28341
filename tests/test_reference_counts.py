"""What a loop leaves behind: nothing, however often.

Each story is told on a new loop, some times to fill what is kept for reuse, then some times more. The interpreter counts its
memory blocks before and after, and in a debug build every reference. One block or reference left by each telling would
show as ten; the interpreter itself leaves one or two now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import ssl
import sys
import weakref

import pytest
from recording import BufferedRecording, Recording, connected
from tls_peer import client_context, server_context, tls_connected

TELLINGS = 10
LEFT_AT_MOST = TELLINGS // 2


@pytest.fixture(scope="module")
def contexts():
    """For all tellings: a context keeps its sessions."""
    return server_context(), client_context()


async def nothing():
    pass


async def fail():
    raise ValueError


class Ending(asyncio.DatagramProtocol, asyncio.Protocol):
    def __init__(self):
        loop = asyncio.get_running_loop()
        self.got, self.ended = loop.create_future(), loop.create_future()

    def datagram_received(self, data, addr):
        if not self.got.done():
            self.got.set_result(data)

    def connection_lost(self, exc):
        self.ended.set_result(exc)


async def cancelled(task):
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


# The stories ---------------------------------------------------------------------------------------------------------


async def tasks(aio, _contexts):
    for task in [asyncio.create_task(nothing()) for _ in range(20)]:
        await task
    waiting = asyncio.create_task(aio.sleep(100))
    await aio.sleep(0)
    await cancelled(waiting)
    failing = asyncio.create_task(fail())
    with contextlib.suppress(ValueError):
        await failing
    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(aio.sleep(0))


async def futures(_aio, _contexts):
    loop = asyncio.get_running_loop()
    for _ in range(10):
        future = loop.create_future()
        future.add_done_callback(id)
        future.set_result(1)
        await future
        future = loop.create_future()
        future.set_exception(ValueError())
        with contextlib.suppress(ValueError):
            await future
        future = loop.create_future()
        future.itself = future
        future.cancel()
        repr(future)


async def handles(aio, _contexts):
    loop = asyncio.get_running_loop()
    for _ in range(10):
        repr(loop.call_soon(int))
        loop.call_later(0, int)
        loop.call_later(100, int).cancel()
        loop.call_at(loop.time(), int)
        loop.call_soon_threadsafe(int)
    await aio.sleep(0.001)


@contextlib.asynccontextmanager
async def conversation(aio, serve):
    """The client's streams of a connection to a server; at the end, both sides close it and wait until it is closed."""

    async def serve_and_close(reader, writer):
        await serve(reader, writer)
        writer.close()
        await writer.wait_closed()
        served.set_result(None)

    served = asyncio.get_running_loop().create_future()
    async with await aio.start_server(serve_and_close, "127.0.0.1", 0) as server:
        reader, writer = await aio.open_connection(*server.sockets[0].getsockname())
        yield reader, writer
        writer.close()
        await writer.wait_closed()
        await served


async def streams(aio, _contexts):
    async def serve(reader, writer):
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()

    async with conversation(aio, serve) as (reader, writer):
        writer.write(b"abc\n" * 5)
        await reader.readline()
        await reader.readexactly(4)
        await reader.readuntil(b"c\n")
        await reader.read(2)
        with contextlib.suppress(TimeoutError):
            await aio.wait_for(reader.readexactly(1000), 0.001)
        bytes(reader._buffer)


async def transports(_aio, _contexts):
    for protocol in (Recording, BufferedRecording):
        async with connected(protocol, protocol) as (near, far):
            near.transport.write(b"x" * 100_000)
            await far.received(100_000)
            near.transport.marker = near
            near.transport.get_extra_info("socket")
            near.transport.pause_reading()
            near.transport.resume_reading()
            near.transport.writelines([b"a", b"b"])
            repr(near.transport)


async def locks(aio, _contexts):
    async def use(lock):
        async with lock:
            await aio.sleep(0)

    for lock in (aio.Lock(), aio.Semaphore(2)):
        await aio.gather(*[use(lock) for _ in range(10)])
        await lock.acquire()
        waiting = asyncio.create_task(use(lock))
        await aio.sleep(0)
        await cancelled(waiting)
        lock.of_the_program = lock
    event = aio.Event()
    waiting = asyncio.create_task(event.wait())
    await aio.sleep(0)
    event.set()
    await waiting
    condition = aio.Condition()
    async with condition:
        with contextlib.suppress(TimeoutError):
            await aio.wait_for(condition.wait(), 0)
    barrier = aio.Barrier(2)
    await aio.gather(barrier.wait(), barrier.wait())


async def queues(aio, _contexts):
    for make in (aio.Queue, aio.PriorityQueue, aio.LifoQueue):
        queue = make(2)

        async def put(queue=queue):
            for number in range(10):
                await queue.put(number)

        putting = asyncio.create_task(put())
        for _ in range(10):
            await queue.get()
            queue.task_done()
        await putting
        await queue.join()
        waiting = asyncio.create_task(queue.get())
        await aio.sleep(0)
        await cancelled(waiting)
        queue.put_nowait(1)
        list(queue._queue)


async def timeouts(aio, _contexts):
    with contextlib.suppress(TimeoutError):
        async with aio.timeout(0.001):
            await aio.sleep(100)
    async with aio.timeout(100) as timeout:
        timeout.reschedule(None)
    with contextlib.suppress(TimeoutError):
        await aio.wait_for(aio.sleep(100), 0.001)
    await aio.wait_for(aio.sleep(0), 5)
    await asyncio.wait([asyncio.create_task(aio.sleep(0))], timeout=1)


async def many_as_one(aio, _contexts):
    await aio.gather(*[aio.sleep(0, number) for number in range(10)])
    await aio.gather(fail(), aio.sleep(0), return_exceptions=True)
    with contextlib.suppress(ValueError):
        await aio.gather(fail(), aio.sleep(0))
    await aio.shield(aio.sleep(0))
    inner = asyncio.create_task(aio.sleep(0.001))
    await cancelled(aio.shield(inner))
    await inner
    for future in asyncio.as_completed([aio.sleep(0) for _ in range(3)]):
        await future


async def tls(_aio, contexts, protocol=Recording):
    of_server, of_client = contexts
    async with tls_connected(protocol, protocol, of_client=of_client, of_server=of_server) as (near, far):
        near.transport.write(b"x" * 50_000)
        await far.received(50_000)
        near.transport.get_extra_info("peercert")
        near.transport.get_extra_info("cipher")
        near.transport.marker = near
        far.transport.write(b"y")
        await near.received(1)
        near.transport.close()
        await near.closed
        await far.closed


async def tls_into_buffers(aio, contexts):
    await tls(aio, contexts, BufferedRecording)


async def refused_tls(_aio, contexts):
    loop = asyncio.get_running_loop()
    made = []

    def accept():
        made.append(Recording())
        return made[-1]

    async with await loop.create_server(accept, "127.0.0.1", 0, ssl=contexts[0]) as server:
        address = server.sockets[0].getsockname()
        with contextlib.suppress(ssl.SSLError):
            await loop.create_connection(asyncio.Protocol, *address, ssl=STRANGER, server_hostname="somebody")
        server.close()


STRANGER = ssl.create_default_context()


async def an_upgrade(aio, contexts):
    async def serve(reader, writer):
        await reader.readline()
        writer.write(b"go ahead\n")
        await writer.start_tls(contexts[0])
        writer.write(await reader.readline())

    async with conversation(aio, serve) as (reader, writer):
        writer.write(b"plain\n")
        await reader.readline()
        await writer.start_tls(contexts[1], server_hostname="localhost")
        writer.write(b"secret\n")
        await reader.readline()


async def datagrams(_aio, _contexts):
    loop = asyncio.get_running_loop()
    near, here = await loop.create_datagram_endpoint(Ending, local_addr=("127.0.0.1", 0))
    far, there = await loop.create_datagram_endpoint(Ending, remote_addr=near.get_extra_info("sockname"))
    far.sendto(b"x")
    await here.got
    near.sendto(b"y", far.get_extra_info("sockname"))
    await there.got
    near.close()
    far.close()
    await here.ended
    await there.ended


async def children(aio, _contexts):
    process = await aio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    await process.communicate(b"through a child")
    process = await aio.create_subprocess_exec("false")
    await process.wait()


async def pipes(_aio, _contexts):
    loop = asyncio.get_running_loop()
    reading, writing = os.pipe()
    _, reader = await loop.connect_read_pipe(Ending, os.fdopen(reading, "rb"))
    transport, writer = await loop.connect_write_pipe(Ending, os.fdopen(writing, "wb"))
    transport.close()
    await writer.ended
    await reader.ended


async def sockets(aio, _contexts):
    loop = asyncio.get_running_loop()
    with socket.socket() as listening, socket.socket() as client:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.setblocking(False)
        client.setblocking(False)
        accepting = asyncio.create_task(loop.sock_accept(listening))
        await loop.sock_connect(client, listening.getsockname())
        accepted, _ = await accepting
        receiving = asyncio.create_task(loop.sock_recv(accepted, 10))
        await aio.sleep(0)
        await loop.sock_sendall(client, b"abc")
        await receiving
        receiving = asyncio.create_task(loop.sock_recv(accepted, 10))
        await aio.sleep(0)
        await cancelled(receiving)
        loop.add_reader(accepted, int)
        loop.add_writer(accepted, int)
        await aio.sleep(0.001)
        loop.remove_writer(accepted)
        accepted.close()
        loop.remove_reader(accepted)


class SocketOfTheProgram(socket.socket):
    pass


async def sockets_of_a_class_of_the_programs(_aio, _contexts):
    loop = asyncio.get_running_loop()
    raw, other = socket.socketpair()
    with SocketOfTheProgram(fileno=raw.detach()) as near, other as far:
        near.setblocking(False)
        far.setblocking(False)
        size = 1_000_000
        sending = asyncio.create_task(loop.sock_sendall(near, bytes(size)))
        while size > 0:
            size -= len(await loop.sock_recv(far, 100_000))
        await sending
        await loop.sock_sendall(far, b"x")
        await loop.sock_recv(near, 10)


async def lookups_and_refusals(_aio, _contexts):
    loop = asyncio.get_running_loop()
    await loop.getaddrinfo("localhost", 80)
    await loop.getaddrinfo("127.0.0.1", 80)
    await loop.run_in_executor(None, int)
    with contextlib.suppress(OSError):
        await loop.create_connection(asyncio.Protocol, "127.0.0.1", 1)
    with contextlib.suppress(ValueError):
        await loop.create_connection(asyncio.Protocol, "127.0.0.1", 1, sock=3)


async def a_sent_file(_aio, _contexts):
    async with connected() as (near, _far):
        with open(__file__, "rb") as file:
            await asyncio.get_running_loop().sendfile(near.transport, file)


async def reports(aio, _contexts):
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: None)
    loop.call_soon(lambda: 1 / 0)
    await aio.sleep(0)
    loop.create_future().set_exception(ValueError())

    class Refusing(Recording):
        def data_received(self, data):
            raise ValueError

    async with connected(Recording, Refusing) as (near, far):
        near.transport.write(b"x")
        await far.closed


async def what_is_never_awaited(aio, _contexts):
    coroutines = [asyncio.get_running_loop().getaddrinfo("127.0.0.1", 1), aio.Lock().acquire()]
    for coroutine in coroutines:
        weakref.ref(coroutine)
        coroutine.close()


STORIES = [
    tasks,
    futures,
    handles,
    streams,
    transports,
    locks,
    queues,
    timeouts,
    many_as_one,
    datagrams,
    children,
    pipes,
    sockets,
    sockets_of_a_class_of_the_programs,
]
STORIES += [lookups_and_refusals, a_sent_file, reports, what_is_never_awaited]
STORIES_OF_TLS = [tls, tls_into_buffers, refused_tls, an_upgrade]


# The count -----------------------------------------------------------------------------------------------------------


def counts():
    # What this frees of optimised code is gone only after a collection.
    getattr(sys, "_clear_internal_caches", sys._clear_type_cache)()
    gc.collect()
    gc.collect()
    # Names that C code makes of its strings stay in the cache of looked-up attributes until others take their place;
    # finalizers that the collector calls look some up too.
    sys._clear_type_cache()
    references = sys.gettotalrefcount() if hasattr(sys, "gettotalrefcount") else 0
    return references, sys.getallocatedblocks()


def check_that_nothing_is_left(loop_factory, story):
    def tell(times):
        for _ in range(times):
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                runner.run(story())

    def growth(times):
        before = counts()
        tell(times)
        return [after - then for after, then in zip(counts(), before, strict=True)]

    growth(TELLINGS)  # the first count frees what earlier tests have left to it
    left = []
    # What is kept for reuse may need longer to fill up: one count out of three has to be right.
    for _ in range(3):
        # The counting itself holds some objects.
        left.append([grown - idle for grown, idle in zip(growth(TELLINGS), growth(0), strict=True)])
        if max(left[-1]) <= LEFT_AT_MOST:
            return
    pytest.fail(f"left behind by {TELLINGS} tellings each (references, blocks): {left}")


without_noise = pytest.mark.filterwarnings("ignore:sys._clear_type_cache:DeprecationWarning")


@without_noise
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_nothing_is_left_of(loop_factory, aio, contexts, story):
    check_that_nothing_is_left(loop_factory, lambda: story(aio, contexts))


@without_noise
@pytest.mark.parametrize("story", STORIES_OF_TLS, ids=lambda story: story.__name__)
def test_nothing_is_left_of_tls(loop_factory, aio, contexts, engine, story):
    check_that_nothing_is_left(loop_factory, lambda: story(aio, contexts))


@without_noise
def test_one_object_left_by_each_telling_would_show(loop_factory):
    kept = []

    async def story():
        kept.append(object())

    with pytest.raises(pytest.fail.Exception, match="left behind"):
        check_that_nothing_is_left(loop_factory, story)
