"""sleep, timeout, wait_for, gather, shield: asyncio's functions on the oracle's side, hayase's on the other."""

from __future__ import annotations

import asyncio
import collections.abc
import copy
import gc
import inspect
import pickle
import sys
import warnings
import weakref
from unittest import mock

import pytest
from conftest import LoopFactory
from coroutines import forever, settle
from hypothesis import given, settings
from hypothesis import strategies as st

since_3_12 = pytest.mark.skipif(sys.version_info < (3, 12), reason="wait_for makes a task before 3.12")
since_3_13 = pytest.mark.skipif(sys.version_info < (3, 13), reason="asked for since 3.13")


async def answer(value=42):
    return value


async def fail(error):
    raise error


# sleep ---------------------------------------------------------------------------------------------------------------


def test_sleep_gives_its_result(run, aio):
    async def main():
        assert await aio.sleep(0) is None
        assert await aio.sleep(0, "now") == "now"
        assert await aio.sleep(-1, "before") == "before"
        assert await aio.sleep(1e-9, "later") == "later"
        assert await aio.sleep(delay=1e-9, result="named") == "named"
        assert await asyncio.create_task(aio.sleep(0, "task")) == "task"

    run(main())


def test_sleep_of_nothing_lets_everything_ready_run_once(loop, run, aio):
    async def main():
        order = []
        loop.call_soon(lambda: (order.append("first"), loop.call_soon(order.append, "second")))
        await aio.sleep(0)
        assert order == ["first"]
        await aio.sleep(0)
        assert order == ["first", "second"]

    run(main())


def test_a_cancelled_sleep_leaves_no_timer(loop, run, aio):
    class Marker:
        pass

    async def main():
        marker = Marker()
        reference = weakref.ref(marker)
        task = asyncio.create_task(aio.sleep(1000, marker))
        await settle()
        del marker
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        del task
        gc.collect()
        assert reference() is None

    run(main())


def test_sleep_uses_the_timers_of_the_loop(loop, run, aio):
    asked = []
    call_later = loop.call_later

    def replaced(delay, *args, **kwargs):
        asked.append(delay)
        return call_later(0, *args, **kwargs)

    loop.call_later = replaced
    run(aio.sleep(1000))
    assert asked == [1000]


@pytest.mark.oracle_differs(
    "what __aexit__ gives is awaited at once by everybody; so a timeout ends without a coroutine"
)
def test_the_end_of_its_block_ends_a_timeout(run, aio, loop_factory):
    async def main():
        timeout = aio.timeout(1000)
        await timeout.__aenter__()
        leaving = timeout.__aexit__(None, None, None)
        assert asyncio.iscoroutine(leaving)
        assert ("finished" in repr(timeout)) is loop_factory.is_hayase
        assert await leaving is None
        assert "finished" in repr(timeout)
        again = timeout.__aexit__(None, None, None)
        with pytest.raises(AssertionError):
            await again

    run(main())


def test_the_timer_of_a_timeout_can_be_looked_at(run, aio):
    async def main():
        async with aio.timeout(1000) as timeout:
            handle = timeout._timeout_handler
            assert handle._callback.__self__ is timeout and handle._callback.__name__ == "_on_timeout"
            assert handle._args == () and "_on_timeout" in repr(handle)
            assert handle == handle and handle.when() == timeout.when()
            timeout.reschedule(None)
            assert handle.cancelled() and timeout._timeout_handler is None

    run(main())


def test_a_deadline_is_taken_away_without_a_running_loop(run, aio):
    async def main():
        timeout = aio.timeout(1000)
        await timeout.__aenter__()
        return timeout

    timeout = run(main())
    timeout.reschedule(None)
    assert timeout.when() is None
    with pytest.raises(RuntimeError, match="no running event loop"):
        timeout.reschedule(1)


@pytest.mark.parametrize("where", ["loop", "class", "subclass", "class of the next loop"])
def test_a_clock_and_timers_that_a_program_replaced_are_asked(where, run, aio, loop, loop_factory, monkeypatch):
    asked, inside = [], False

    def replacement(of, name):
        original = getattr(of, name)

        def replaced(*args, **kwargs):
            nonlocal inside
            if inside:  # asyncio's own call_later asks the clock and calls call_at
                return original(*args, **kwargs)
            asked.append(name)
            inside = True
            try:
                return original(*args, **kwargs)
            finally:
                inside = False

        return replaced

    async def main():
        await aio.sleep(1e-9)
        async with aio.timeout(1000) as timeout:
            assert timeout.when() > asyncio.get_running_loop().time() + 999
        await aio.wait_for(answer(), 1000)
        await aio.wait([asyncio.ensure_future(answer())], timeout=1000)
        assert [await each for each in aio.as_completed([answer()], timeout=1000)] == [42]

    run(main())
    assert asked == []
    names = ("time", "call_at", "call_later")
    used, runs = type(loop), loop
    if where == "loop":
        for name in names:
            setattr(loop, name, replacement(loop, name))
    elif where == "subclass":
        used = type("Loop", (used,), {name: replacement(used, name) for name in names})
        runs = used()
    else:
        for name in names:
            monkeypatch.setattr(used, name, replacement(used, name))
        if where == "class of the next loop":
            runs = used()
    try:
        runs.run_until_complete(main())
    finally:
        if runs is not loop:
            runs.close()
    assert asked.count("time") >= 3
    of_wait_for = "call_at" if sys.version_info >= (3, 12) else "call_later"
    timers = [name for name in asked if name != "time"]
    assert timers == ["call_later", "call_at", of_wait_for, "call_later", "call_later"]
    used_before = len(asked)
    monkeypatch.undo()
    if where == "class":
        run(main())
        assert len(asked) == used_before


@since_3_13
def test_sleep_refuses_what_is_no_number(run, aio):
    with pytest.raises(ValueError, match=r"^Invalid delay: NaN \(not a number\)$"):
        run(aio.sleep(float("nan")))


def test_sleep_checks_its_arguments(run, aio):
    with pytest.raises(TypeError, match=r"^sleep\(\) missing 1 required positional argument: 'delay'$"):
        run(aio.sleep())
    with pytest.raises(TypeError, match=r"^sleep\(\) takes from 1 to 2 positional arguments but 3 were given$"):
        run(aio.sleep(1, 2, 3))
    with pytest.raises(TypeError, match=r"^sleep\(\) got an unexpected keyword argument 'loop'$"):
        run(aio.sleep(1, loop=None))
    with pytest.raises(TypeError, match=r"^sleep\(\) got multiple values for argument 'delay'$"):
        run(aio.sleep(1, delay=1))
    with pytest.raises(TypeError, match="'<=' not supported between instances of 'str' and 'int'"):
        run(aio.sleep("long"))


@pytest.mark.parametrize("name", ["sleep", "wait_for", "gather", "shield", "timeout", "timeout_at"])
def test_functions_look_as_asyncios_do(aio, name):
    ours, theirs = getattr(aio, name), getattr(asyncio, name)
    assert ours.__name__ == ours.__qualname__ == name and ours.__doc__
    assert [p.replace(annotation=p.empty) for p in inspect.signature(ours).parameters.values()] == [
        p.replace(annotation=p.empty) for p in inspect.signature(theirs).parameters.values()
    ]
    assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(theirs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert asyncio.iscoroutinefunction(ours) == asyncio.iscoroutinefunction(theirs)
    assert pickle.loads(pickle.dumps(ours)) is ours
    assert copy.copy(ours) is ours


@pytest.mark.hayase_only("that hayase's own are used; they behave as asyncio's")
@pytest.mark.parametrize("name", ["sleep", "gather", "shield", "timeout", "timeout_at", "Timeout", "wait_for"])
def test_the_native_ones_are_used(loop, name):
    import hayase
    from hayase import _core

    if name == "wait_for" and sys.version_info < (3, 12):
        assert hayase.wait_for is asyncio.wait_for
    else:
        assert getattr(hayase, name) is getattr(_core, name)


def test_a_patched_sleep_is_an_async_mock(run, aio):
    with mock.patch.object(aio, "sleep") as patched:
        assert isinstance(patched, mock.AsyncMock)
        run(aio.sleep(1000))
    patched.assert_awaited_once_with(1000)


# timeout -------------------------------------------------------------------------------------------------------------


def test_a_timeout_that_is_not_reached_changes_nothing(loop, run, aio):
    async def main():
        async with aio.timeout(1000) as timeout:
            assert isinstance(timeout, aio.Timeout)
            assert timeout.when() > loop.time()
            assert not timeout.expired()
            assert repr(timeout) == f"<Timeout [active] when={round(timeout.when(), 3)}>"
        assert not timeout.expired() and repr(timeout) == "<Timeout [finished]>"
        async with aio.timeout(None) as timeout:
            assert timeout.when() is None and repr(timeout) == "<Timeout [active] when=None>"

    run(main())


def test_a_timeout_makes_a_timeout_error_of_its_own_cancellation(run, aio):
    async def main():
        with pytest.raises(TimeoutError) as caught:
            async with aio.timeout(0) as timeout:
                await forever()
        assert isinstance(caught.value.__cause__, asyncio.CancelledError)
        assert caught.value.__context__ is caught.value.__cause__
        assert timeout.expired() and repr(timeout) == "<Timeout [expired]>"
        assert asyncio.current_task().cancelling() == 0
        with pytest.raises(TimeoutError):
            async with aio.timeout_at(asyncio.get_running_loop().time() - 1):
                await forever()

    run(main())


def test_somebody_elses_cancellation_stays_one(run, aio):
    async def main():
        async def wait():
            async with aio.timeout(0):
                await asyncio.sleep(0)
                await forever()

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()  # and in the same turn the time is over
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    run(main())


def test_the_inner_of_two_timeouts_is_the_one_that_is_over(run, aio):
    async def main():
        async with aio.timeout(1000) as outer:
            with pytest.raises(TimeoutError):
                async with aio.timeout(0) as inner:
                    await forever()
        assert inner.expired() and not outer.expired()
        with pytest.raises(TimeoutError):
            async with aio.timeout(0) as outer, aio.timeout(1000) as inner:
                await forever()
        assert outer.expired() and not inner.expired()

    run(main())


def test_a_timeout_can_be_moved(loop, run, aio):
    async def main():
        with pytest.raises(TimeoutError):
            async with aio.timeout(1000) as timeout:
                timeout.reschedule(loop.time() - 1)
                await forever()
        async with aio.timeout(0) as timeout:
            timeout.reschedule(None)
            await settle()
        assert not timeout.expired()
        with pytest.raises(RuntimeError, match=r"^Cannot change state of finished Timeout$"):
            timeout.reschedule(1)
        with pytest.raises(RuntimeError, match=r"^Timeout has not been entered$"):
            aio.timeout(1).reschedule(1)
        with pytest.raises(RuntimeError, match=r"^Timeout has already been entered$"):
            async with timeout:
                pass

    run(main())


def test_a_timeout_can_be_subclassed(loop, run, aio):
    """As the package async-timeout does."""

    class Counting(aio.Timeout):
        def __init__(self, when, name):
            super().__init__(when)
            self.name, self.moved, self.timed_out = name, [], 0

        @property
        def expired(self):
            return super().expired()

        def reschedule(self, when):
            self.moved.append(when)
            super().reschedule(when)

        def _on_timeout(self):
            self.timed_out += 1
            super()._on_timeout()

    async def main():
        async with Counting(None, "first") as timeout:
            assert isinstance(timeout, aio.Timeout) and timeout.name == "first"
            assert timeout._state.value == "active" and repr(timeout) == "<Timeout [active] when=None>"
            later = loop.time() + 1000
            timeout.reschedule(later)
            assert timeout.when() == later and timeout._task is asyncio.current_task()
        assert timeout.moved == [None, later] and not timeout.expired and timeout.timed_out == 0
        with pytest.raises(TimeoutError):
            async with Counting(0, "second") as timeout:
                await forever()
        assert timeout.moved == [0] and timeout.expired and timeout.timed_out == 1
        assert timeout._state.value == "expired"
        with pytest.raises(RuntimeError, match=r"^Timeout has already been entered$"):
            await timeout.__aenter__()

    run(main())


def test_what_a_program_replaces_on_a_timeout_is_called(run, aio):
    async def main():
        timeout, moved = aio.timeout(1000), []
        timeout.reschedule = moved.append
        async with timeout:
            assert moved == [timeout.when()] and timeout._timeout_handler is None

    run(main())


def test_a_timeout_wants_a_task(loop, run, aio):
    with pytest.raises(RuntimeError, match="no running event loop"):
        aio.timeout(1)

    failures = []

    def outside_of_tasks():
        try:
            aio.timeout(1).__aenter__().send(None)
        except RuntimeError as error:
            failures.append(str(error))

    loop.call_soon(outside_of_tasks)
    run(settle())
    assert failures == ["Timeout should be used inside a task"]


@since_3_13
def test_an_error_raised_while_the_time_is_over_has_it_in_its_context(run, aio):
    async def main():
        with pytest.raises(ValueError) as caught:
            async with aio.timeout(0):
                try:
                    await forever()
                except asyncio.CancelledError:
                    raise ValueError from None
        assert isinstance(caught.value.__context__, TimeoutError)
        assert isinstance(caught.value.__context__.__cause__, asyncio.CancelledError)

    run(main())


# wait_for ------------------------------------------------------------------------------------------------------------


def test_wait_for_gives_the_result(loop, run, aio):
    async def main():
        future = loop.create_future()
        loop.call_soon(future.set_result, "future")
        assert await aio.wait_for(future, 1000) == "future"
        assert await aio.wait_for(answer(), None) == 42
        assert await aio.wait_for(answer(1), timeout=0.5 + 1000) == 1
        with pytest.raises(ZeroDivisionError):
            await aio.wait_for(fail(ZeroDivisionError()), 1000)
        assert isinstance(coroutine := aio.wait_for(answer(), 1), collections.abc.Coroutine)
        assert await coroutine == 42

    run(main())


def test_wait_for_cancels_what_takes_too_long(loop, run, aio):
    async def main():
        seen = []

        async def stubborn():
            try:
                await forever()
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        for time in (0, -1, 1e-9):
            with pytest.raises(TimeoutError) as caught:
                await aio.wait_for(stubborn(), time)
            assert isinstance(caught.value.__cause__, asyncio.CancelledError)
        assert seen == ["cancelled"]  # with no time at all it never began
        future = loop.create_future()
        with pytest.raises(TimeoutError):
            await aio.wait_for(future, 1e-9)
        assert future.cancelled()
        done = loop.create_future()
        done.set_result("done")
        assert await aio.wait_for(done, 0) == "done"

    run(main())


@since_3_12
def test_wait_for_keeps_a_value_that_came_in_spite_of_the_cancellation(run, aio):
    async def rescued():
        try:
            await forever()
        except asyncio.CancelledError:
            return "rescued"

    assert run(aio.wait_for(rescued(), 1e-9)) == "rescued"


@since_3_12
def test_wait_for_runs_in_the_callers_task(run, aio):
    async def who():
        return asyncio.current_task()

    async def main():
        assert await aio.wait_for(who(), 1000) is asyncio.current_task()

    run(main())


@since_3_12
def test_wait_for_refuses_what_cannot_be_awaited(run, aio):
    async def expected(what):
        await what

    for what in (5, "text", None, (x for x in ())):
        with pytest.raises(TypeError) as ours:
            run(aio.wait_for(what, 1000))
        with pytest.raises(TypeError) as theirs:
            run(expected(what))
        assert str(ours.value) == str(theirs.value)


def test_cancelling_wait_for_cancels_what_it_waits_for(loop, run, aio):
    async def main():
        future = loop.create_future()
        task = asyncio.create_task(aio.wait_for(future, 1000))
        await settle()
        task.cancel("message")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert future.cancelled()

    run(main())


# gather --------------------------------------------------------------------------------------------------------------


def test_gather_keeps_the_order(loop, run, aio):
    async def main():
        first, second = loop.create_future(), loop.create_future()
        gathered = aio.gather(first, answer("coroutine"), second, first)
        assert asyncio.isfuture(gathered) and isinstance(gathered, asyncio.Future)
        second.set_result(2)
        first.set_result(1)
        assert await gathered == [1, "coroutine", 2, 1]
        assert await aio.gather() == []
        assert await aio.gather(*(answer(i) for i in range(100))) == list(range(100))

    run(main())


def test_the_same_coroutine_twice_runs_once(run, aio):
    async def main():
        count = 0

        async def once():
            nonlocal count
            count += 1
            return count

        coroutine = once()
        assert await aio.gather(coroutine, coroutine) == [1, 1]

    run(main())


def test_the_first_exception_ends_gather_and_the_others_go_on(loop, run, aio):
    async def main():
        slow = loop.create_future()
        with pytest.raises(ZeroDivisionError):
            await aio.gather(slow, fail(ZeroDivisionError()))
        assert not slow.done()
        slow.set_exception(ValueError("seen by gather, so not reported"))
        await settle()

    run(main())


def test_exceptions_can_be_results(loop, run, aio):
    async def main():
        error = ZeroDivisionError()
        cancelled = asyncio.create_task(forever())
        gathered = aio.gather(answer(), fail(error), cancelled, return_exceptions=True)
        await settle()
        cancelled.cancel("enough")
        results = await gathered
        assert results[:2] == [42, error]
        assert type(results[2]) is asyncio.CancelledError

    run(main())


def test_a_cancelled_child_is_an_exception(run, aio):
    async def main():
        child = asyncio.create_task(forever())
        gathered = aio.gather(child, answer())
        await settle()
        child.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gathered
        assert not gathered.cancelled()  # it has the exception; nobody cancelled it

    run(main())


def test_cancelling_gather_cancels_all_that_are_not_done(loop, run, aio):
    async def main():
        done, pending = loop.create_future(), [loop.create_future() for _ in range(3)]
        done.set_result(1)
        gathered = aio.gather(done, *pending)
        assert gathered.cancel("why") is True
        assert not gathered.done()
        with pytest.raises(asyncio.CancelledError):
            await gathered
        assert all(future.cancelled() for future in pending) and gathered.cancel() is False
        task = asyncio.create_task(forever())
        gathering = asyncio.create_task(_gather(aio, task))
        await settle()
        gathering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gathering
        assert task.cancelled()

    run(main())


async def _gather(aio, *what):
    return await aio.gather(*what)


def test_gather_takes_futures_of_every_kind(loop, run, aio):
    class Mine(asyncio.Future):
        pass

    class Awaitable:
        def __await__(self):
            return (yield from asyncio.sleep(0, "awaited").__await__())

    async def main():
        mine = Mine()
        loop.call_soon(mine.set_result, "mine")
        stock = asyncio.Task(answer("stock"), loop=loop)
        assert await aio.gather(mine, stock, Awaitable(), aio.sleep(0, "slept")) == [
            "mine",
            "stock",
            "awaited",
            "slept",
        ]
        failing = Mine()
        failing.set_exception(ZeroDivisionError())
        assert isinstance((await aio.gather(failing, return_exceptions=True))[0], ZeroDivisionError)
        cancelled = Mine()
        gathered = aio.gather(cancelled)
        gathered.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gathered
        with pytest.raises(TypeError, match=r"An asyncio\.Future, a coroutine or an awaitable is required"):
            aio.gather(1)

    run(main())


def test_gather_refuses_another_loops_future(loop_factory, run, aio):
    other = loop_factory()
    try:
        theirs = other.create_future()

        async def main():
            own = asyncio.get_running_loop().create_future()
            with pytest.raises(ValueError, match="The future belongs to a different loop than the one specified"):
                aio.gather(own, theirs)

        run(main())
    finally:
        other.close()


def test_a_gathered_cycle_is_collected(loop, run, aio):
    class Marker:
        pass

    async def main():
        marker = Marker()
        future = loop.create_future()
        gathered = aio.gather(future)
        shielded = aio.shield(future)
        future.add_done_callback(lambda _, keep=(marker, gathered, shielded, future): None)
        reference = weakref.ref(marker)
        del marker, future, gathered, shielded
        gc.collect()
        assert reference() is None

    run(main())


# shield --------------------------------------------------------------------------------------------------------------


def test_a_shield_passes_the_ending_on(loop, run, aio):
    async def main():
        assert await aio.shield(answer()) == 42
        with pytest.raises(ZeroDivisionError):
            await aio.shield(fail(ZeroDivisionError()))
        inner = loop.create_future()
        outer = aio.shield(inner)
        assert outer is not inner
        inner.cancel()
        await settle()
        assert outer.cancelled()
        done = loop.create_future()
        done.set_result(1)
        assert aio.shield(done) is done

    run(main())


def test_cancelling_a_shield_leaves_the_inside_alone(loop, run, aio):
    async def main():
        inner = loop.create_future()
        outer = aio.shield(inner)
        task = asyncio.create_task(_await(outer))
        await settle()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert outer.cancelled() and not inner.done()
        await settle()
        inner.set_result(1)
        await settle()
        assert inner.result() == 1

    run(main())


async def _await(what):
    return await what


# Any schedule --------------------------------------------------------------------------------------------------------

steps = st.lists(
    st.tuples(st.sampled_from(["result", "error", "cancel", "turn", "outer", "await"]), st.integers(0, 3)), max_size=16
)


async def play(namespace, make, steps, return_exceptions):
    loop = asyncio.get_running_loop()
    log = []
    inner = [loop.create_future() for _ in range(4)]
    if make == "gather":
        outer = namespace.gather(*inner, return_exceptions=return_exceptions)
    else:
        outer = namespace.shield(inner[0])
    outer.add_done_callback(lambda outer: log.append("outer is done"))
    for number, future in enumerate(inner):
        future.add_done_callback(lambda future, number=number: log.append(f"{number} is done"))

    async def watch(number):
        try:
            log.append((number, repr(await asyncio.shield(outer))))
        except BaseException as error:
            log.append((number, repr(error)))

    tasks = []
    for step, number in steps:
        if step == "turn":
            await asyncio.sleep(0)
        elif step == "outer":
            log.append(outer.cancel(f"message {number}"))
        elif step == "await":
            tasks.append(asyncio.create_task(watch(len(tasks))))
        elif not inner[number].done():
            if step == "result":
                inner[number].set_result(number)
            elif step == "error":
                inner[number].set_exception(ZeroDivisionError(number))
            else:
                inner[number].cancel()
        log.append((outer.done(), outer.cancelled()))
    for future in inner:
        future.cancel()
    await settle()
    log.append(outer.cancelled() or repr(outer.exception() or outer.result()))
    for future in inner:
        if not future.cancelled():
            future.exception()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return log


@settings(max_examples=200, deadline=None)
@given(make=st.sampled_from(["gather", "shield"]), steps=steps, return_exceptions=st.booleans())
def test_any_schedule_goes_as_with_asyncio(make, steps, return_exceptions):
    import hayase

    def outcome(namespace, side):
        loop = LoopFactory(side)()
        try:
            loop.set_exception_handler(lambda loop, context: None)  # on which turn an unseen error is reported differs
            return loop.run_until_complete(play(namespace, make, steps, return_exceptions))
        finally:
            loop.close()

    expected = outcome(asyncio, "asyncio")
    assert outcome(hayase, "hayase") == expected
    assert outcome(hayase, "asyncio") == expected


def test_timeouts_know_the_tasks_of_asyncios_python_implementation(loop, run, aio, monkeypatch):
    """As a program has it that puts the Python tasks in the place of the C ones (`nest_asyncio` does)."""
    tasks = asyncio.tasks
    for name in ("current_task", "all_tasks"):
        if hasattr(tasks, f"_py_{name}"):
            monkeypatch.setattr(tasks, name, getattr(tasks, f"_py_{name}"))

    async def work():
        async with aio.timeout(60) as inside:
            assert inside.when() is not None
        with pytest.raises(TimeoutError):
            async with aio.timeout(0):
                await forever()
        return await aio.wait_for(answer(), 60)

    assert run(tasks._PyTask(work(), loop=loop)) == 42
