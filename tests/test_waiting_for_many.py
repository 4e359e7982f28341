"""wait, as_completed, ensure_future: asyncio's functions on the oracle's side, hayase's on the other."""

from __future__ import annotations

import asyncio
import gc
import inspect
import pickle
import re
import sys
import weakref

import pytest
from conftest import LoopFactory
from coroutines import forever, settle
from hypothesis import given, settings
from hypothesis import strategies as st

since_3_13 = pytest.mark.skipif(sys.version_info < (3, 13), reason="asynchronous iteration came with 3.13")
since_3_14 = pytest.mark.skipif(sys.version_info < (3, 14), reason="the call graph came with 3.14")

WHEN = [asyncio.ALL_COMPLETED, asyncio.FIRST_COMPLETED, asyncio.FIRST_EXCEPTION]


async def answer(value=42, turns=0):
    for _ in range(turns):
        await asyncio.sleep(0)
    return value


async def fail(error, turns=0):
    for _ in range(turns):
        await asyncio.sleep(0)
    raise error


def callbacks(future):
    return len(future._callbacks or [])


@pytest.mark.parametrize("name", ["wait", "as_completed", "ensure_future"])
def test_functions_look_as_asyncios_do(aio, name):
    ours, theirs = getattr(aio, name), getattr(asyncio, name)
    assert ours.__name__ == ours.__qualname__ == name and ours.__doc__
    assert [p.replace(annotation=p.empty) for p in inspect.signature(ours).parameters.values()] == [
        p.replace(annotation=p.empty) for p in inspect.signature(theirs).parameters.values()
    ]
    assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(theirs) or sys.version_info < (3, 12)
    assert pickle.loads(pickle.dumps(ours)) is ours


# wait ----------------------------------------------------------------------------------------------------------------


def test_wait_gives_what_is_done_and_what_is_not(loop, run, aio):
    async def main():
        quick, slow = asyncio.ensure_future(answer()), loop.create_future()
        assert await aio.wait([quick, slow, quick], return_when=asyncio.FIRST_COMPLETED) == ({quick}, {slow})
        assert await aio.wait(iter([quick])) == ({quick}, set())
        slow.cancel()
        assert await aio.wait(fs={quick, slow}, return_when="ALL_COMPLETED") == ({quick, slow}, set())

    run(main())


def test_wait_for_the_first_exception(loop, run, aio):
    async def main():
        good, cancelled, bad, slow = (loop.create_future() for _ in range(4))
        waiting = asyncio.ensure_future(aio.wait([good, cancelled, bad, slow], return_when=asyncio.FIRST_EXCEPTION))
        await settle()
        good.set_result(1)
        cancelled.cancel()
        await settle()
        assert not waiting.done()
        bad.set_exception(ValueError())
        assert await waiting == ({good, cancelled, bad}, {slow})
        assert callbacks(slow) == 0

    run(main())


def test_wait_gives_up_after_its_time_without_an_error(loop, run, aio):
    async def main():
        slow = loop.create_future()
        assert await aio.wait([slow], timeout=0.001) == (set(), {slow})
        assert await aio.wait([slow], timeout=0) == (set(), {slow})
        assert not slow.done() and callbacks(slow) == 0
        done = asyncio.ensure_future(answer())
        assert await aio.wait([done], timeout=1000) == ({done}, set())

    run(main())


def test_a_cancelled_wait_leaves_what_it_waited_for_alone(loop, run, aio):
    async def main():
        future = loop.create_future()
        waiting = asyncio.ensure_future(aio.wait([future], timeout=1000))
        await settle()
        assert callbacks(future) == 1
        waiting.cancel("why")
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not future.done() and callbacks(future) == 0

    run(main())


def test_wait_refuses_what_it_cannot_wait_for(loop, run, aio):
    async def main():
        future, coroutine = loop.create_future(), answer()
        for wrong, error, text in [
            (future, TypeError, f"expect a list of futures, not {type(future).__name__}"),
            (coroutine, TypeError, "expect a list of futures, not coroutine"),
            ([], ValueError, "Set of Tasks/Futures is empty."),
            (None, ValueError, "Set of Tasks/Futures is empty."),
            (iter([]), AssertionError, "Set of Futures is empty."),
            (42, TypeError, "'int' object is not iterable"),
            ([42], AttributeError, "'int' object has no attribute 'add_done_callback'"),
            ([[]], TypeError, "unhashable type: 'list'"),
        ]:
            with pytest.raises(error) as caught:
                await aio.wait(wrong)
            # 3.14 says more about what cannot be hashed.
            assert text in str(caught.value), wrong
        for wrong in ("SOME_COMPLETED", None, 42):
            with pytest.raises(ValueError, match=f"^Invalid return_when value: {wrong}$"):
                await aio.wait([future], return_when=wrong)
        with pytest.raises(TypeError, match=r"^wait\(\) takes 1 positional argument but 2 were given$"):
            aio.wait([future], 1)
        with pytest.raises(TypeError, match=r"^wait\(\) missing 1 required positional argument: 'fs'$"):
            aio.wait()
        with pytest.raises(TypeError, match=r"^wait\(\) got an unexpected keyword argument 'loop'$"):
            aio.wait([future], loop=None)
        coroutine.close()

    run(main())


def test_wait_takes_tasks_of_every_kind(loop, run, aio):
    class Mine(asyncio.Task):
        pass

    async def main():
        mine, stock = Mine(answer(1), loop=loop), asyncio.Future(loop=loop)
        loop.call_soon(stock.set_result, 2)
        done, pending = await aio.wait([mine, stock, loop.create_task(answer(3))])
        assert {future.result() for future in done} == {1, 2, 3} and pending == set()
        slow = Mine(forever(), loop=loop)
        assert await aio.wait([slow], timeout=0.001) == (set(), {slow})
        slow.cancel()

    run(main())


@since_3_14
def test_wait_is_seen_as_who_awaits(loop, run, aio):
    async def main():
        future = loop.create_future()
        waiting = asyncio.ensure_future(aio.wait([future]))
        await settle()
        assert [one.future for one in asyncio.capture_call_graph(future).awaited_by] == [waiting]
        waiting.cancel()
        await settle()
        assert asyncio.capture_call_graph(future).awaited_by == ()

    run(main())


@since_3_14
def test_the_call_graph_goes_through_what_is_written_in_rust(loop, run, aio):
    async def inner(future):
        await future

    async def outer(future):
        await aio.wait_for(inner(future), 1000)

    async def main():
        future = loop.create_future()
        tasks = [asyncio.create_task(outer(future)), asyncio.create_task(aio.Event().wait())]
        await settle()
        names = [entry.frame.f_code.co_name for entry in asyncio.capture_call_graph(tasks[0]).call_stack]
        assert [name for name in names if name != "wait_for"] == ["inner", "outer"]
        for task in tasks:
            assert task.get_name() in asyncio.format_call_graph(task)
            task.cancel()

    run(main())


# as_completed --------------------------------------------------------------------------------------------------------


def test_as_completed_gives_results_in_the_order_of_their_ends(loop, run, aio):
    async def main():
        coroutines = [answer("third", 9), answer("first"), answer("second", 4)]
        seen = [await one for one in aio.as_completed(coroutines)]
        assert seen == ["first", "second", "third"]
        assert list(aio.as_completed([])) == []
        assert list(aio.as_completed(fs=iter(()), timeout=None)) == []

    run(main())


def test_as_completed_raises_where_the_future_failed(loop, run, aio):
    async def main():
        seen = []
        future = loop.create_future()
        future.cancel()
        for one in aio.as_completed([answer(1, 2), fail(ValueError("no"), 4), future]):
            try:
                seen.append(await one)
            except (ValueError, asyncio.CancelledError) as error:
                seen.append(type(error))
        assert seen == [asyncio.CancelledError, 1, ValueError]

    run(main())


def test_what_is_given_twice_is_one(loop, run, aio):
    async def main():
        future, coroutine = loop.create_future(), answer(2)
        loop.call_later(0.001, future.set_result, 1)
        seen = [await one for one in aio.as_completed([future, coroutine, future, coroutine])]
        assert seen == [2, 1]

    run(main())


def test_as_completed_stops_when_its_time_is_over(loop, run, aio):
    async def main():
        slow, quick = loop.create_future(), loop.create_future()
        quick.set_result("quick")
        seen = []
        for one in aio.as_completed([slow, quick], timeout=0.001):
            try:
                seen.append(await one)
            except TimeoutError as error:
                seen.append(error.args)
        assert seen == ["quick", ()]
        assert not slow.done() and callbacks(slow) == 0
        assert [await one for one in aio.as_completed([quick], timeout=1000)] == ["quick"]

    run(main())


def test_what_as_completed_gives_may_be_awaited_in_any_order_by_anybody(loop, run, aio):
    async def main():
        futures = [loop.create_future() for _ in range(3)]
        waiting = [asyncio.ensure_future(one) for one in aio.as_completed(futures)]
        await settle()
        waiting[0].cancel()
        await settle()
        for i in (2, 0, 1):
            futures[i].set_result(i)
        assert await asyncio.gather(*waiting[1:]) == [2, 0]
        assert waiting[0].cancelled()

    run(main())


def test_as_completed_refuses_what_is_no_iterable_of_awaitables(loop, run, aio):
    wants = "expects an iterable of awaitables" if sys.version_info >= (3, 13) else "expect an iterable of futures"

    async def main():
        future, coroutine = loop.create_future(), answer()
        for wrong in (future, coroutine):
            with pytest.raises(TypeError, match=re.escape(f"{wants}, not {type(wrong).__name__}")):
                list(aio.as_completed(wrong))
        coroutine.close()
        with pytest.raises(TypeError, match=r"^An asyncio.Future, a coroutine or an awaitable is required$"):
            list(aio.as_completed([42]))
        with pytest.raises(TypeError, match=r"^'int' object is not iterable$"):
            list(aio.as_completed(42))
        with pytest.raises(TypeError, match=r"as_completed\(\) takes 1 positional argument but 2 were given$"):
            aio.as_completed([], 1)

    run(main())


def test_as_completed_begins_when_its_version_begins(loop, run, aio):
    async def main():
        future = loop.create_future()
        iterator = aio.as_completed([future])
        assert iter(iterator) is iterator
        assert callbacks(future) == (1 if sys.version_info >= (3, 13) else 0)
        assert hasattr(iterator, "__aiter__") == (sys.version_info >= (3, 13))
        one = next(iterator)
        assert callbacks(future) == 1
        with pytest.raises(StopIteration):
            next(iterator)
        future.set_result(1)
        assert await one == 1

    run(main())


@since_3_13
def test_asynchronous_iteration_gives_the_futures_themselves(loop, run, aio):
    async def main():
        task, future = loop.create_task(answer(1, 3)), loop.create_future()
        future.set_exception(ValueError())
        seen = [one async for one in aio.as_completed([task, future])]
        assert seen == [future, task]
        with pytest.raises(ValueError):
            await future
        seen = [await one async for one in aio.as_completed([answer(1, 1), answer(2)])]
        assert seen == [2, 1]
        with pytest.raises(TimeoutError):
            async for _ in aio.as_completed([loop.create_future()], timeout=0.001):
                pass
        iterator = aio.as_completed([])
        with pytest.raises(StopAsyncIteration):
            await anext(iterator)
        assert await anext(iterator, "default") == "default"

    run(main())


def test_a_cycle_with_as_completed_is_collected(loop, run, aio):
    async def main():
        class Marker:
            pass

        async def hold(marker):
            await answer()

        marker = Marker()
        marker.iterator = aio.as_completed([hold(marker)])
        next(iter(marker.iterator)).close()
        await settle()
        reference = weakref.ref(marker)
        del marker
        gc.collect()
        assert reference() is None

    run(main())


# ensure_future -------------------------------------------------------------------------------------------------------


def test_ensure_future_makes_a_task_of_what_is_none(loop, run, aio):
    class Awaitable:
        def __await__(self):
            return answer("awaited").__await__()

    async def main():
        future = loop.create_future()
        assert aio.ensure_future(future) is future
        assert aio.ensure_future(future, loop=loop) is future
        assert aio.ensure_future(coro_or_future=future, loop=None) is future
        task = aio.ensure_future(answer())
        assert isinstance(task, asyncio.Task) and await task == 42
        assert await aio.ensure_future(Awaitable()) == "awaited"
        assert await aio.ensure_future(aio.sleep(0, "slept"), loop=loop) == "slept"

    run(main())


def test_ensure_future_refuses_another_loops_future_and_what_cannot_be_awaited(loop_factory, loop, run, aio):
    other = loop_factory()
    text = "^The future belongs to a different loop than the one specified as the loop argument$"

    async def main():
        for future in (loop.create_future(), asyncio.Future(loop=loop)):
            with pytest.raises(ValueError, match=text):
                aio.ensure_future(future, loop=other)
        for wrong in (42, None, [answer]):
            with pytest.raises(TypeError, match=r"^An asyncio.Future, a coroutine or an awaitable is required$"):
                aio.ensure_future(wrong)
        with pytest.raises(TypeError, match=r"ensure_future\(\) takes 1 positional argument but 2 were given$"):
            aio.ensure_future(loop.create_future(), loop)

    try:
        run(main())
    finally:
        other.close()


def test_a_coroutine_that_a_closed_loop_refuses_is_closed(loop_factory, aio):
    loop = loop_factory()
    loop.close()
    coroutine = answer()
    with pytest.raises(RuntimeError, match="closed"):
        aio.ensure_future(coroutine, loop=loop)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


# Random schedules ----------------------------------------------------------------------------------------------------

steps = st.lists(
    st.tuples(st.sampled_from(["result", "error", "cancel", "give up", "turn"]), st.integers(0, 3)), max_size=10
)


def settle_one(future, action, value):
    if action == "result":
        future.set_result(value)
    elif action == "error":
        future.set_exception(ValueError(value))
    else:
        future.cancel()


async def play(namespace, what, steps, count):
    """What each waiting task saw, and after how many steps; then who still hears of the futures."""
    loop = asyncio.get_running_loop()
    futures = [loop.create_future() if i % 2 else asyncio.Future(loop=loop) for i in range(count)]
    seen = []
    now = 0

    def name(future):
        return futures.index(future)

    async def wait(return_when):
        done, pending = await namespace.wait(futures, return_when=return_when)
        return sorted(map(name, done)), sorted(map(name, pending))

    async def take(one):
        return await one

    async def iterate(iterator):
        found = []
        try:
            async for future in iterator:
                found.append(name(future))
                seen.append((now, "found", found[-1]))
        finally:
            seen.append((now, "found in all", list(found)))

    async def tell(place, waiting):
        try:
            seen.append((now, place, await waiting))
        except BaseException as error:
            seen.append((now, place, type(error).__name__, error.args))
            raise

    if what == "as_completed":
        waiting = [take(one) for one in namespace.as_completed(futures)]
    elif what == "async as_completed":
        iterator = namespace.as_completed(futures)
        waiting = [iterate(iterator), iterate(iterator)]
    else:
        waiting = [wait(what), *(wait(when) for when in WHEN)]
    tasks = [loop.create_task(tell(place, one)) for place, one in enumerate(waiting)]
    await asyncio.sleep(0)
    for action, index in steps:
        now += 1
        future, task = futures[index % count], tasks[index % len(tasks)]
        if action == "turn":
            await asyncio.sleep(0)
        elif action == "give up":
            task.cancel()
        elif not future.done():
            settle_one(future, action, index)
    now += 1
    await settle()
    seen.append([callbacks(future) for future in futures])
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for future in futures:
        if future.done() and not future.cancelled():
            future.exception()
    return seen, [callbacks(future) for future in futures]


KINDS = [*WHEN, "as_completed", *(["async as_completed"] if sys.version_info >= (3, 13) else [])]


@settings(max_examples=300, deadline=None)
@given(what=st.sampled_from(KINDS), steps=steps, count=st.integers(1, 4))
def test_any_schedule_goes_as_with_asyncio(what, steps, count):
    import hayase

    def outcome(namespace, side):
        loop = LoopFactory(side)()
        try:
            loop.set_exception_handler(lambda loop, context: None)
            return loop.run_until_complete(play(namespace, what, steps, count))
        finally:
            loop.close()

    expected = outcome(asyncio, "asyncio")
    assert outcome(hayase, "hayase") == expected
    assert outcome(hayase, "asyncio") == expected
    assert outcome(asyncio, "hayase") == expected
