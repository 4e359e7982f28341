"""Odd arguments: whatever asyncio makes of one, hayase makes of it, be it a result or an error.

Every story is told on asyncio and on hayase with each of many odd values, and both must say the same, errors to the
letter. So nothing is written down here that differs between versions of Python: the running asyncio is asked.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import math
import os
import re
import socket
import sys
import warnings
from decimal import Decimal
from fractions import Fraction

import pytest
from coroutines import settle

import hayase


class Index:
    def __index__(self):
        return 1

    def __repr__(self):
        return "Index()"


class SubInt(int):
    pass


class SubStr(str):
    pass


def released():
    view = memoryview(b"abc")
    view.release()
    return view


NUMBERS = {
    "True": lambda: True,
    "0": lambda: 0,
    "1": lambda: 1,
    "-1": lambda: -1,
    "1.0": lambda: 1.0,
    "2.5": lambda: 2.5,
    "-0.5": lambda: -0.5,
    "nan": lambda: math.nan,
    "inf": lambda: math.inf,
    "-inf": lambda: -math.inf,
    "2**31": lambda: 2**31,
    "2**63-1": lambda: 2**63 - 1,
    "2**63": lambda: 2**63,
    "2**80": lambda: 2**80,
    "-2**80": lambda: -(2**80),
    "Fraction": lambda: Fraction(3, 2),
    "Decimal": lambda: Decimal(2),
    "Index": Index,
    "subclass of int": lambda: SubInt(1),
    "complex": lambda: 1j,
}
BUFFERS = {
    "b''": lambda: b"",
    "bytearray": lambda: bytearray(b"ab"),
    "memoryview": lambda: memoryview(b"abcd"),
    "of ints": lambda: memoryview(array.array("i", [1, 2])),
    "released": released,
}
OBJECTS = {
    "''": lambda: "",
    "'x'": lambda: "x",
    "subclass of str": lambda: SubStr("127.0.0.1"),
    "nul": lambda: "a\0b",
    "None": lambda: None,
    "object": lambda: Fraction,
    "function": lambda: len,
    "[]": list,
    "[1]": lambda: [1],
    "()": lambda: (),
    "(1, 2)": lambda: (1, 2),
    "{}": dict,
    "exception": lambda: ValueError("v"),
    "class of exceptions": lambda: ValueError,
}
EVERYTHING = NUMBERS | BUFFERS | OBJECTS

STORIES = []


def told_with(values, but=()):
    """Registers a story; `but` says with which values it cannot be told, or not with the same end every time."""

    def register(story):
        STORIES.append(
            pytest.param(story, {name: values[name] for name in values if name not in but}, id=story.__name__)
        )
        return story

    return register


def taken(calls):
    """What each of the calls says, one after the other."""
    said = []
    for call in calls:
        try:
            said.append(repr(call()))
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")
    return said


async def started(*coroutines):
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    await settle()
    return tasks


async def ended(tasks):
    """How many are done. The others are cancelled."""
    done = sum(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return done


@told_with(EVERYTHING)
async def the_value_of_a_semaphore(aio, value):
    semaphore = aio.Semaphore(value)
    said = taken([lambda: semaphore._value, semaphore.locked, lambda: str(semaphore).split("[")[1]])
    tasks = await started(*(semaphore.acquire() for _ in range(3)))
    return said + taken([semaphore.release, lambda: semaphore._value]) + [await ended(tasks)]


@told_with(EVERYTHING)
async def the_value_of_a_bounded_semaphore(aio, value):
    semaphore = aio.BoundedSemaphore(value)
    return taken([lambda: semaphore._bound_value, semaphore.release, semaphore.locked, lambda: semaphore._value])


@told_with(EVERYTHING)
async def the_parties_of_a_barrier(aio, value):
    barrier = aio.Barrier(value)
    tasks = await started(*(barrier.wait() for _ in range(3)))
    said = taken([lambda: barrier.parties, lambda: barrier.n_waiting, lambda: repr(barrier).split("[")[1]])
    return [*said, await ended(tasks)]


@told_with(EVERYTHING)
async def the_number_that_a_condition_notifies(aio, value):
    condition = aio.Condition()

    async def wait():
        async with condition:
            await condition.wait()

    said = taken([lambda: condition.notify(value)])
    async with condition:
        said += taken([lambda: condition.notify(value)])
    tasks = await started(wait(), wait(), wait())
    async with condition:
        said += taken([lambda: condition.notify(value)])
    await settle()
    return [*said, await ended(tasks)]


@told_with(EVERYTHING)
async def the_size_of_a_queue(aio, value):
    queue = aio.Queue(value)
    put = lambda: queue.put_nowait(1)  # noqa: E731
    return taken([lambda: queue.maxsize, queue.full, put, put, put, queue.full, queue.get_nowait])


# What is no number for its heap ends asyncio's loop later, if at all.
@told_with({name: NUMBERS[name] for name in ("True", "1", "-1", "2.5", "inf", "-inf", "2**63", "Fraction", "Decimal")})
async def the_time_of_a_timeout(aio, value):
    timeout = aio.Timeout(value)
    async with timeout:
        return [timeout.when(), repr(timeout)]


@told_with(EVERYTHING)
async def what_wait_for_waits_for(aio, value):
    return await aio.wait_for(value, None)


@told_with(EVERYTHING)
async def the_exception_of_a_reader(aio, value):
    reader = aio.StreamReader()
    reader.feed_data(b"data")
    reader.set_exception(value)
    return await reader.read(1)


# hayase takes tuples on every version.
@told_with(EVERYTHING, but=() if sys.version_info >= (3, 13) else ("()", "(1, 2)"))
async def the_separator_of_readuntil(aio, value):
    reader = aio.StreamReader()
    reader.feed_data(b"some data")
    reader.feed_eof()
    return await reader.readuntil(value)


@told_with(EVERYTHING)
async def the_data_of_a_reader(aio, value):
    reader = aio.StreamReader()
    reader.feed_data(value)
    reader.feed_eof()
    return await reader.read()


@contextlib.asynccontextmanager
async def connected():
    """The transport of a connected socket, and its peer."""
    ours, peer = socket.socketpair()
    with peer:
        ours.setblocking(False)
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
        try:
            yield transport, peer
        finally:
            transport.abort()
            await settle()


@told_with(EVERYTHING)
async def the_high_mark_of_a_transport(aio, value):
    async with connected() as (transport, _):
        transport.set_write_buffer_limits(high=value)
        # Whole bytes are what counts.
        return [int(mark) for mark in transport.get_write_buffer_limits() if mark < 2**62]


@told_with(EVERYTHING)
async def the_low_mark_of_a_transport(aio, value):
    async with connected() as (transport, _):
        transport.set_write_buffer_limits(low=value)
        return [int(mark) for mark in transport.get_write_buffer_limits() if mark < 2**61]


@told_with({"None": lambda: None, "0": lambda: 0, "''": str, "1": lambda: 1, "[1]": lambda: [1]})
async def the_list_of_writelines(aio, value):
    async with connected() as (transport, _):
        return transport.writelines(value)


# Small numbers are descriptors of this process.
@told_with(EVERYTHING, but=("True", "0", "1", "subclass of int"))
async def the_descriptor_of_a_reader(aio, value):
    loop = asyncio.get_running_loop()
    return taken([lambda: loop.add_reader(value, print), lambda: loop.remove_reader(value)])


# A host that is no text is refused in other words.
@told_with(EVERYTHING, but=("(1, 2)", "bytearray", "memoryview", "of ints"))
async def the_address_of_sock_connect(aio, value):
    with socket.socket() as sock:
        sock.setblocking(False)
        return await asyncio.get_running_loop().sock_connect(sock, value)


PORTS = ("1", "True", "1.0", "Fraction", "Decimal", "Index", "subclass of int")


@told_with(EVERYTHING, but=(*PORTS, "'x'", "nul", "2.5", "subclass of str"))
async def the_port_of_a_server(aio, value):
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", value)
    server.close()
    return len(server.sockets)


@told_with(EVERYTHING, but=("object", "exception", "class of exceptions"))
async def whether_a_server_starts_serving(aio, value):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, start_serving=value)
    is_serving = server.is_serving()
    server.close()
    return is_serving


@told_with(EVERYTHING)
async def the_backlog_of_a_server(aio, value):
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0, backlog=value)
    server.close()


@told_with(EVERYTHING, but=("nul", "'x'", "subclass of str", "(1, 2)", "memoryview", "bytearray", "of ints"))
async def the_local_address_of_a_connection(aio, value):
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        transport, _ = await loop.create_connection(asyncio.Protocol, *listening.getsockname(), local_addr=value)
        transport.abort()
        await settle()


@told_with({"nul": lambda: "127.0.0.1\0", "-1": lambda: "127.0.0.1"})
async def the_host_of_a_connection(aio, value):
    await asyncio.get_running_loop().create_connection(asyncio.Protocol, value, -1)


@told_with(EVERYTHING, but=("2.5", "inf", "Fraction", "Decimal"))
async def how_a_connection_interleaves_addresses(aio, value):
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        transport, _ = await loop.create_connection(asyncio.Protocol, *listening.getsockname(), interleave=value)
        transport.abort()
        await settle()


@told_with(EVERYTHING)
async def the_family_of_getaddrinfo(aio, value):
    return await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80, family=value, type=socket.SOCK_STREAM)


# Before 3.13 asyncio refuses what memory cannot hold.
@told_with({name: NUMBERS[name] for name in ("1", "True", "2**63", "2**80")[: 4 if sys.version_info >= (3, 13) else 2]})
async def the_count_of_sendfile(aio, value):
    loop = asyncio.get_running_loop()
    async with connected() as (transport, peer):
        with open(__file__, "rb") as file:
            sent = await loop.sendfile(transport, file, os.path.getsize(__file__) - 10, value)
        return sent, peer.recv(100)


@told_with(EVERYTHING)
async def what_the_factory_of_a_connection_makes(aio, value):
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        await loop.create_connection(lambda: value, *listening.getsockname())


@told_with(EVERYTHING)
async def what_the_factory_of_an_endpoint_makes(aio, value):
    await asyncio.get_running_loop().create_datagram_endpoint(lambda: value, ("127.0.0.1", 0))


def observe(aio, new_loop, story, value):
    """What comes of the story, as text."""
    loop = new_loop()
    loop.set_exception_handler(lambda loop, context: None)
    try:
        with warnings.catch_warnings():
            # Some values are coroutines that nobody awaits then, or descriptors that nobody closes.
            warnings.simplefilter("ignore")
            said = repr(loop.run_until_complete(story(aio, value)))
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    finally:
        loop.run_until_complete(settle())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    return re.sub(r"0x[0-9a-f]+", "0x...", said)


@pytest.mark.parametrize(("story", "values"), STORIES)
def test_an_odd_argument_is_taken_as_asyncio_takes_it(story, values):
    expected = {name: observe(asyncio, asyncio.SelectorEventLoop, story, make()) for name, make in values.items()}
    found = {name: observe(hayase, hayase.new_event_loop, story, make()) for name, make in values.items()}
    assert found == expected


# Odd uses ------------------------------------------------------------------------------------------------------------


def test_gather_is_of_the_loop_of_its_first_future_or_from_3_14_on_of_the_running_one(loop, loop_factory):
    elsewhere = loop_factory()
    first, second = elsewhere.create_future(), elsewhere.create_future()

    async def main():
        return loop_factory.module.gather(first, second)

    if sys.version_info >= (3, 14):
        with pytest.raises(ValueError, match="belongs to a different loop"):
            loop.run_until_complete(main())
    else:
        together = loop.run_until_complete(main())
        first.set_result(1)
        second.set_result(2)
        assert elsewhere.run_until_complete(together) == [1, 2]
    elsewhere.close()


def next_of_nothing():
    return next(iter(()))


@pytest.mark.parametrize("call", ["wait_for", "create_connection"])
def test_a_stop_iteration_of_the_programs_function_is_not_the_end_of_the_coroutine(loop, run, loop_factory, call):
    async def main():
        if call == "wait_for":
            condition = loop_factory.module.Condition()
            async with condition:
                await condition.wait_for(next_of_nothing)
        else:
            with socket.create_server(("127.0.0.1", 0)) as listening:
                await loop.create_connection(next_of_nothing, *listening.getsockname())

    with pytest.raises(RuntimeError, match="coroutine raised StopIteration") as caught:
        run(main())
    assert isinstance(caught.value.__cause__, StopIteration)


@pytest.mark.parametrize("name", ["Lock", "Event", "Condition", "Semaphore", "Barrier", "Queue"])
def test_a_subclass_finds_the_running_loop(loop, run, loop_factory, name):
    made = getattr(loop_factory.module, name)(*[2] if name == "Barrier" else [])

    async def main():
        return made._get_loop()

    assert run(main()) is loop
    another = loop_factory()
    with pytest.raises(RuntimeError, match="is bound to a different event loop"):
        another.run_until_complete(main())
    another.close()


def test_wrong_calls_are_told_as_python_tells_them(loop_factory):
    aio = loop_factory.module
    queue = aio.Queue()
    with pytest.raises(TypeError, match=r"Queue.put_nowait\(\) got multiple values for argument 'item'"):
        queue.put_nowait(1, item=2)
    with pytest.raises(TypeError, match=r"Queue.put\(\) got multiple values for argument 'item'"):
        queue.put(1, item=2)
    if hasattr(queue, "shutdown"):
        with pytest.raises(
            TypeError, match=r"Queue.shutdown\(\) takes from 1 to 2 positional arguments but 3 were given"
        ):
            queue.shutdown(False, False)
    with pytest.raises(TypeError, match=r"__aexit__\(\) takes 4 positional arguments but 5 were given"):
        aio.Lock().__aexit__(None, None, None, None)
    with pytest.raises(TypeError, match=r"Barrier.__aexit__\(\) got an unexpected keyword argument 'exc'"):
        aio.Barrier(2).__aexit__(exc=None)


@pytest.mark.parametrize("thrown", [1, None, "text", (ValueError,)], ids=repr)
def test_what_is_no_exception_cannot_be_thrown_into_a_coroutine(loop_factory, thrown):
    coroutine = loop_factory.module.Lock().acquire()
    text = f"exceptions must be classes or instances deriving from BaseException, not {type(thrown).__name__}"
    with pytest.raises(TypeError, match=text):
        coroutine.throw(thrown)
    coroutine.close()


def test_a_runner_takes_no_loop_factory_but_none_for_none(loop_factory):
    async def main():
        pass

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with pytest.raises(TypeError, match="'int' object is not callable"):
            loop_factory.module.Runner(loop_factory=0).run(main())


@pytest.mark.hayase_only("asyncio counts items where the socket counts bytes, and waits for ever")
def test_a_buffer_of_large_items_is_sent_whole(loop, run):
    numbers = array.array("i", range(1000))

    async def main():
        ours, peer = socket.socketpair()
        with ours, peer:
            ours.setblocking(False)
            await loop.sock_sendall(ours, numbers)
            assert peer.recv(10_000) == numbers.tobytes()

    run(main())


@pytest.mark.hayase_only("asyncio can wait for ever for such a child")
def test_a_childs_protocol_that_is_none_is_an_error(loop, run):
    reports = []
    loop.set_exception_handler(lambda loop, context: reports.append(str(context["exception"])))

    async def main():
        with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'connection_made'"):
            await loop.subprocess_exec(lambda: None, "true", stdin=None, stdout=None, stderr=None)

    run(main())
    assert set(reports) <= {
        f"'NoneType' object has no attribute '{name}'" for name in ("process_exited", "connection_lost")
    }
