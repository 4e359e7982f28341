"""Cancelling tasks: when it arrives, what stops it, how often it is asked."""

from __future__ import annotations

import asyncio
import inspect
import sys
import traceback

import pytest
from coroutines import forever


async def answer(value=42):
    return value


async def fails(error):
    raise error


def test_a_task_cancelled_before_its_start_never_starts(loop, turn):
    started = []

    async def main():
        started.append(True)

    task = loop.create_task(main())
    assert task.cancel() is True
    assert not task.cancelled()
    turn()
    assert task.cancelled()
    assert started == []


def test_a_cancellation_reaches_the_innermost_await(loop, run):
    seen = []

    async def inner():
        try:
            await loop.create_future()
        except asyncio.CancelledError as error:
            seen.append(("inner", error.args))
            raise

    async def outer():
        try:
            await inner()
        finally:
            seen.append("outer")

    async def main():
        task = loop.create_task(outer())
        await asyncio.sleep(0)
        assert task.cancel("through") is True
        await asyncio.wait([task])
        return task

    task = run(main())
    assert seen == [("inner", ("through",)), "outer"]
    assert task.cancelled()
    assert task.cancel() is False


def test_a_cancellation_goes_to_the_task_that_is_awaited(loop, run):
    async def main():
        inner = loop.create_task(forever())

        async def waits():
            await inner

        outer = loop.create_task(waits())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        outer.cancel("down")
        await asyncio.wait([outer])
        assert inner.cancelled() and outer.cancelled()
        with pytest.raises(asyncio.CancelledError) as caught:
            outer.result()
        assert caught.value.args == ("down",)

    run(main())


def test_a_swallowed_cancellation_lets_the_task_go_on(loop, run):
    async def stubborn():
        try:
            await forever()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return "went on"

    async def main():
        task = loop.create_task(stubborn())
        await asyncio.sleep(0)
        task.cancel()
        assert await task == "went on"
        assert not task.cancelled()
        assert task.cancelling() == 1

    run(main())


def test_a_task_can_cancel_itself(loop, run):
    async def main():
        asyncio.current_task().cancel("myself")
        with pytest.raises(asyncio.CancelledError) as caught:
            await asyncio.sleep(0)
        return caught.value.args

    assert run(main()) == ("myself",)


def test_a_task_that_cancels_itself_in_its_last_step_is_cancelled(loop, run):
    async def main():
        asyncio.current_task().cancel("at the end")
        return "too late"

    task = loop.create_task(main())
    with pytest.raises(asyncio.CancelledError) as caught:
        run(task)
    assert task.cancelled()
    assert caught.value.args == ("at the end",)


def test_cancelling_a_task_whose_future_is_already_done_arrives_at_the_next_await(loop, run):
    async def waits(future):
        return await future

    async def main():
        future = loop.create_future()
        task = loop.create_task(waits(future))
        await asyncio.sleep(0)
        future.set_result("won")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    run(main())


def test_requests_to_cancel_are_counted_and_can_be_taken_back(loop, run):
    async def main():
        task = asyncio.current_task()
        assert task.cancelling() == 0
        assert task.uncancel() == 0
        task.cancel()
        task.cancel()
        assert task.cancelling() == 2
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(0)
        assert task.uncancel() == 1
        assert task.cancelling() == 1
        assert task.uncancel() == 0
        assert task.uncancel() == 0
        await asyncio.sleep(0)

    run(main())


def test_uncancel_before_the_await_takes_the_cancellation_away_from_3_13_on(loop, run):
    async def main():
        task = asyncio.current_task()
        task.cancel()
        task.uncancel()
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            return "cancelled"
        return "not cancelled"

    assert run(main()) == ("not cancelled" if sys.version_info >= (3, 13) else "cancelled")


def test_cancel_says_whether_it_could(loop, run):
    async def main():
        task = loop.create_task(answer())
        await task
        assert task.cancel() is False
        waiting = loop.create_task(forever())
        await asyncio.sleep(0)
        assert waiting.cancel() is True
        assert waiting.cancel() is True
        assert waiting.cancelling() == 2
        await asyncio.wait([waiting])
        assert waiting.cancel() is False
        assert waiting.cancelling() == 2

    run(main())


@pytest.mark.parametrize("message", [None, "text", 5, ""], ids=repr)
def test_the_message_travels(same_as_asyncio, message):
    def story(loop):
        async def main():
            rows = []
            before, during, awaited = (loop.create_task(forever()) for _ in range(3))
            before.cancel(message)
            await asyncio.sleep(0)
            during.cancel(msg=message)
            loop.call_soon(awaited.cancel, message)
            for task in (before, during, awaited):
                with pytest.raises(asyncio.CancelledError) as caught:
                    await task
                rows.append(repr(caught.value.args))
                with pytest.raises(asyncio.CancelledError) as caught:
                    task.result()
                rows.append(repr(caught.value.args))
                with pytest.raises(asyncio.CancelledError) as caught:
                    task.exception()
                rows.append(repr(caught.value.args))
            return rows

        return loop.run_until_complete(main())

    same_as_asyncio(story)


def test_the_traceback_of_a_cancellation_shows_where_it_struck(loop, run):
    async def struck_here():
        await loop.create_future()

    async def main():
        task = loop.create_task(struck_here())
        await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError as error:
            return error, inspect.getinnerframes(error.__traceback__)

    error, _ = run(main())
    names, seen = [], set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        names += [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        error = error.__context__
    assert "struck_here" in names


def test_timeouts_and_task_groups_work(loop, run):
    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await forever()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(forever(), 0.001)
        assert await asyncio.wait_for(answer(), 60) == 42
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(answer(n)) for n in range(10)]
        assert [task.result() for task in tasks] == list(range(10))
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                never = group.create_task(forever())
                group.create_task(fails(ValueError("one")))
        assert [str(e) for e in caught.value.exceptions] == ["one"]
        assert never.cancelled()
        if sys.version_info >= (3, 13):  # before, a task group left its own request behind
            assert asyncio.current_task().cancelling() == 0

    run(main())


def test_gather_wait_shield_and_as_completed_work(loop, run):
    async def main():
        assert await asyncio.gather(*(answer(n) for n in range(100))) == list(range(100))
        results = await asyncio.gather(answer(), fails(KeyError(1)), return_exceptions=True)
        assert results[0] == 42 and isinstance(results[1], KeyError)
        with pytest.raises(KeyError):
            await asyncio.gather(fails(KeyError(1)), answer())
        tasks = [loop.create_task(answer(n)) for n in range(3)]
        assert sorted([await each for each in asyncio.as_completed(tasks)]) == [0, 1, 2]
        done, pending = await asyncio.wait([loop.create_task(answer())], timeout=10)
        assert len(done) == 1 and not pending
        inner = loop.create_task(answer("kept"))
        outer = loop.create_task(asyncio.wait_for(asyncio.shield(inner), 10))
        await asyncio.sleep(0)
        outer.cancel()
        await asyncio.wait([outer])
        assert await inner == "kept"
        assert asyncio.ensure_future(inner) is inner

    run(main())
