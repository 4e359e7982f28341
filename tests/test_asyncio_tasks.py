"""Tasks that are made by `asyncio.Task(...)` itself and wait for the loop's own futures and tasks."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref

import pytest


async def wait_for(awaitable):
    return await awaitable


@pytest.fixture
def waiting(loop, turn):
    """A task of asyncio's own which waits for a future of the loop; both."""
    future = loop.create_future()
    task = asyncio.Task(wait_for(future), loop=loop)
    turn()
    assert not task.done()
    return task, future


def test_it_gets_the_result(waiting, run):
    task, future = waiting
    value = object()
    future.set_result(value)
    assert run(task) is value


def test_it_gets_the_exception(waiting, run):
    task, future = waiting
    error = LookupError("for the task")
    future.set_exception(error)
    with pytest.raises(LookupError) as raised:
        run(task)
    assert raised.value is error


def test_it_is_cancelled_with_the_future_and_hears_why(waiting, run):
    task, future = waiting
    future.cancel("the reason")
    with pytest.raises(asyncio.CancelledError, match="the reason"):
        run(task)
    assert task.cancelled()


def test_its_cancellation_reaches_the_future(waiting, run):
    task, future = waiting
    task.cancel("the reason")
    with pytest.raises(asyncio.CancelledError, match="the reason"):
        run(task)
    assert future.cancelled()


def test_cancelled_while_its_wake_up_waits_it_is_cancelled_at_the_next_await(waiting, run):
    task, future = waiting
    future.set_result(None)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        run(task)
    assert future.result() is None


def test_it_wakes_in_its_turn(waiting, loop, turn):
    task, future = waiting
    seen = []
    task.add_done_callback(lambda _task: seen.append("the task is done"))
    loop.call_soon(seen.append, "before")
    future.set_result(None)
    loop.call_soon(seen.append, "after")
    turn()
    assert seen == ["before", "after"] and task.done()
    turn()
    assert seen == ["before", "after", "the task is done"]


def test_it_waits_for_a_task_of_the_loop(loop, run):
    async def main():
        inner = loop.create_task(asyncio.sleep(0, "slept"))
        failing = loop.create_task(asyncio.wait_for(loop.create_future(), 0))
        assert await asyncio.Task(wait_for(inner), loop=loop) == "slept"
        with pytest.raises(TimeoutError):
            await asyncio.Task(wait_for(failing), loop=loop)

    run(main())


def test_a_class_derived_from_asyncios_works_alike(loop, run):
    class Counted(asyncio.Task):
        made = 0

        def __init__(self, *args, **kwargs):
            Counted.made += 1
            super().__init__(*args, **kwargs)

    async def main():
        future = loop.create_future()
        loop.call_soon(future.set_result, "value")
        return await Counted(wait_for(future), loop=loop)

    assert run(main()) == "value" and Counted.made == 1


def test_a_future_with_a_result_of_its_own_is_asked_for_it(loop, turn):
    asked = []

    class Own(asyncio.Future):
        def result(self):
            asked.append(self)
            return super().result()

    future = Own(loop=loop)
    task = asyncio.Task(wait_for(future), loop=loop)
    turn()
    future.set_result("value")
    turn()
    assert task.result() == "value"
    assert asked and all(one is future for one in asked)


def test_the_future_is_free_when_the_task_has_gone_on(loop, run):
    async def main():
        future = loop.create_future()
        loop.call_soon(future.set_result, None)
        task = asyncio.Task(wait_for(future), loop=loop)
        await task
        seen = weakref.ref(future)
        del future, task
        gc.collect()
        return seen()

    gc.disable()
    try:
        assert run(main()) is None
    finally:
        gc.enable()


@pytest.mark.skipif(sys.version_info < (3, 14), reason="capture_call_graph: since 3.14")
def test_it_is_seen_as_who_awaits_the_future_only_while_it_does(waiting, run):
    task, future = waiting
    assert [one.future for one in asyncio.capture_call_graph(future).awaited_by] == [task]
    future.set_result(None)
    run(task)
    assert asyncio.capture_call_graph(future).awaited_by == ()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager_start: since 3.12")
def test_one_that_starts_at_once_waits_like_the_others(loop, run):
    async def main():
        future = loop.create_future()
        loop.call_soon(future.set_result, "value")
        task = asyncio.Task(wait_for(future), loop=loop, eager_start=True)
        assert not task.done()
        return await task

    assert run(main()) == "value"


def test_a_builtin_callback_gets_the_future(loop, run):
    async def main():
        future = loop.create_future()
        told = []
        future.add_done_callback(told.append)
        future.set_result(None)
        await asyncio.sleep(0)
        assert told == [future]

    run(main())
