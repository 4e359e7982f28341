"""The executor that a loop makes itself, or is given, and its shutdown. Every other question of executors: test_executors.py."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import socket
import sys
import threading

import pytest


def nothing():
    pass


def test_a_function_runs_in_the_default_executor(loop, run):
    async def main():
        return await asyncio.gather(*(loop.run_in_executor(None, divmod, n, 7) for n in range(20)))

    assert run(main()) == [divmod(n, 7) for n in range(20)]


def test_the_executor_gives_another_thread_and_its_errors(loop, run):
    def fails():
        raise LookupError(threading.get_ident())

    async def main():
        with pytest.raises(LookupError) as caught:
            await loop.run_in_executor(None, fails)
        return caught.value.args[0]

    assert run(main()) != threading.get_ident()


def test_another_executor_can_be_given_or_set(loop, run):
    names = []

    def note():
        names.append(threading.current_thread().name.split("-")[0].split("_")[0])

    async def main():
        with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="given") as executor:
            await loop.run_in_executor(executor, note)
        loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="default"))
        await loop.run_in_executor(None, note)
        await asyncio.to_thread(note)

    run(main())
    assert names == ["given", "default", "default"]


def test_cancelling_the_future_of_a_running_call_does_not_wait_for_it(loop, run):
    go = threading.Event()

    async def main():
        future = loop.run_in_executor(None, go.wait)
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        go.set()

    run(main())


def test_the_default_executor_is_refused_after_its_shutdown(same_as_asyncio):
    def story(loop):
        async def main():
            await loop.run_in_executor(None, nothing)
            await loop.shutdown_default_executor()
            await loop.run_in_executor(None, nothing)

        loop.run_until_complete(main())

    assert same_as_asyncio(story).error == (RuntimeError, "Executor shutdown has been called")


def test_shutdown_waits_for_calls_that_run(loop, run):
    ended = []
    go = threading.Event()

    def call():
        go.wait()
        ended.append(True)

    async def main():
        future = loop.run_in_executor(None, call)
        loop.call_soon(go.set)
        await loop.shutdown_default_executor()
        assert ended == [True]
        await future

    run(main())


asyncio_waits_for_ever_before_3_13 = (
    pytest.mark.hayase_only("shutdown_default_executor of 3.12.1 waits for the threads, whatever the timeout")
    if sys.version_info < (3, 13)
    else lambda test: test
)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the timeout of shutdown_default_executor came with 3.12")
@asyncio_waits_for_ever_before_3_13
def test_shutdown_with_a_timeout_warns_and_goes_on(loop, run):
    go = threading.Event()

    async def main():
        future = loop.run_in_executor(None, go.wait)
        try:
            with pytest.warns(RuntimeWarning, match="executor did not finish[a-z ]* its threads within 0.01 seconds"):
                await loop.shutdown_default_executor(0.01)
        finally:
            go.set()
        await future

    run(main())


def test_debug_mode_refuses_a_coroutine_for_the_executor(same_as_asyncio):
    async def coroutine_function():
        raise AssertionError("never called")

    def story(loop):
        loop.set_debug(True)
        loop.run_in_executor(None, coroutine_function)

    assert same_as_asyncio(story).error[0] is TypeError


@pytest.mark.parametrize("threshold", [1, 2, 3, 5, 8])
def test_loops_and_connections_can_be_made_while_the_collector_runs_all_the_time(loop_factory, threshold):
    """3.11 makes the dictionary of an object before the object is complete, and may collect just then."""

    async def connect():
        loop = asyncio.get_running_loop()
        for _ in range(10):
            ours, theirs = socket.socketpair()
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
            transport.abort()
            theirs.close()
            await asyncio.sleep(0)

    before = gc.get_threshold()
    gc.set_threshold(threshold)
    try:
        for _ in range(20):
            loop = loop_factory()
            loop.run_until_complete(connect())
            loop.close()
    finally:
        gc.set_threshold(*before)
