"""Lock, Event, Condition, Semaphore, Barrier: asyncio's classes on the oracle's side, hayase's on the other."""

from __future__ import annotations

import asyncio
import collections.abc
import copy
import gc
import inspect
import math
import pickle
import sys
import warnings
import weakref

import pytest
from conftest import LoopFactory
from coroutines import settle
from hypothesis import given, settings
from hypothesis import strategies as st

since_3_13 = pytest.mark.skipif(
    sys.version_info < (3, 13),
    reason="who is woken after a cancellation was repaired in 3.13; hayase has that everywhere",
)


@pytest.fixture(params=["Lock", "Semaphore"])
def make(request, aio):
    """What is acquired and released."""
    return getattr(aio, request.param)


# Free ----------------------------------------------------------------------------------------------------------------


def test_a_free_one_is_taken_without_a_turn_of_the_loop(loop, run, make):
    async def main():
        lock = make()
        order = []
        loop.call_soon(order.append, "turn")
        assert await lock.acquire() is True
        order.append("taken")
        assert lock.locked()
        lock.release()
        async with lock as value:
            assert value is None
            order.append("entered")
        assert not lock.locked()
        assert order == ["taken", "entered"]

    run(main())


def test_the_coroutine_of_acquire_is_a_coroutine(run, make):
    async def main():
        lock = make()
        coroutine = lock.acquire()
        assert isinstance(coroutine, collections.abc.Coroutine)
        assert asyncio.iscoroutine(coroutine)
        assert inspect.isawaitable(coroutine)
        assert not lock.locked()  # nothing happens before it is awaited
        assert await asyncio.create_task(coroutine) is True
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            await coroutine
        lock.release()
        assert await asyncio.wait_for(lock.acquire(), 10) is True
        lock.release()
        assert await asyncio.gather(lock.acquire()) == [True]

    run(main())


def test_a_coroutine_that_is_never_awaited_warns(make):
    with pytest.warns(RuntimeWarning, match=f"coroutine '{make.__name__}.acquire' was never awaited"):
        make().acquire()
        gc.collect()
    coroutine = make().acquire()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        coroutine.close()
        del coroutine


@pytest.mark.oracle_differs(
    "what __aexit__ gives is awaited at once by everybody; so it is given back without a coroutine"
)
def test_the_end_of_a_block_gives_it_back(run, loop_factory, make):
    async def main():
        lock = make()
        await lock.acquire()
        leaving = lock.__aexit__(None, None, None)
        assert asyncio.iscoroutine(leaving)
        assert isinstance(leaving, collections.abc.Coroutine)
        assert lock.locked() is not loop_factory.is_hayase
        assert await leaving is None
        assert not lock.locked()
        await lock.acquire()
        assert await asyncio.create_task(lock.__aexit__(None, None, None)) is None
        assert not lock.locked()

    run(main())


def test_what_a_block_gives_back_is_not_given_back_twice(run, aio):
    async def main():
        lock = aio.Lock()
        with pytest.raises(RuntimeError, match="Lock is not acquired"):
            async with lock:
                lock.release()
        assert not lock.locked()
        with pytest.raises(TypeError, match=r"__aexit__\(\) missing 3 required positional arguments"):
            lock.__aexit__()

    run(main())


def test_the_methods_of_a_block_are_bound_methods(run, aio):
    async def main():
        group, timeout = aio.TaskGroup(), aio.timeout(None)
        locks = (aio.Lock(), aio.Semaphore(), aio.BoundedSemaphore(), aio.Condition())
        for lock in (*locks, group, timeout):
            other = aio.Lock()
            for name in ("__aenter__", "__aexit__"):
                method, function = getattr(lock, name), getattr(type(lock), name)
                assert inspect.ismethod(method) and callable(method)
                assert method.__self__ is lock and method.__func__ is function
                assert method.__name__ == name and method.__doc__ == function.__doc__
                assert sys.version_info < (3, 12) or inspect.iscoroutinefunction(method)
                assert method == getattr(lock, name) and hash(method) == hash(getattr(lock, name))
                assert method not in (function, getattr(other, name))
                assert repr(method).startswith("<bound method ") and f"{name} of " in repr(method)
                with pytest.raises(AttributeError):
                    method.nothing  # noqa: B018
                with pytest.raises(TypeError):
                    method(1, 2, 3, 4)
                with pytest.raises(TypeError):
                    method(nothing=1)

    run(main())


def test_a_bound_method_of_a_block_is_pickled_by_name(aio):
    lock = aio.Lock()
    method = copy.copy(lock.__aenter__)
    assert method.__self__ is lock and method == lock.__aenter__


def test_a_method_of_a_block_in_a_cycle_is_collected(aio):
    lock = aio.Lock()
    lock.leave = lock.__aexit__
    gone = weakref.ref(lock)
    del lock
    gc.collect()
    assert gone() is None


def test_a_method_of_a_block_keeps_its_object(run, aio):
    async def main():
        enter, leave = (lambda lock: (lock.__aenter__, lock.__aexit__))(aio.Lock())
        assert await enter() is None
        assert enter.__self__.locked()
        assert await leave(exc_type=None, exc=None, tb=None) is None
        assert not enter.__self__.locked()

    run(main())


def test_the_end_of_a_block_can_be_driven_by_hand(make):
    lock = make()
    for how in ("send", "throw", "close"):
        with pytest.raises(StopIteration):
            lock.acquire().send(None)
        leaving = lock.__aexit__(None, None, None)
        if how == "send":
            with pytest.raises(StopIteration) as ended:
                leaving.send(None)
            assert ended.value.value is None
            assert not lock.locked()
        elif how == "throw":
            with pytest.raises(KeyError):
                leaving.throw(KeyError())
        else:
            assert leaving.close() is None
        if lock.locked():
            lock.release()


def test_a_coroutine_can_be_driven_by_hand(make):
    lock = make()
    coroutine = lock.acquire()
    with pytest.raises(TypeError, match="can't send non-None value to a just-started coroutine"):
        coroutine.send(1)
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    assert stopped.value.value is True
    thrown_at = lock.acquire()
    with pytest.raises(ZeroDivisionError):
        thrown_at.throw(ZeroDivisionError())
    thrown_at.close()


# Waiting -------------------------------------------------------------------------------------------------------------


def test_who_waits_is_served_in_the_order_of_arrival(run, make):
    async def main():
        lock, order = make(), []

        async def take(name):
            async with lock:
                order.append(name)
                await asyncio.sleep(0)

        await lock.acquire()
        tasks = [asyncio.create_task(take(name)) for name in "abcd"]
        await settle()
        assert order == []
        lock.release()
        await asyncio.gather(*tasks)
        assert order == list("abcd")
        assert not lock.locked()

    run(main())


def test_nobody_overtakes_who_was_woken(run, make):
    async def main():
        lock, order = make(), []

        async def take(name):
            await lock.acquire()
            order.append(name)
            lock.release()

        await lock.acquire()
        first = asyncio.create_task(take("first"))
        await settle()
        lock.release()  # wakes the first, which has not run yet
        await take("late")
        await first
        assert order == ["first", "late"]

    run(main())


def test_a_cancelled_waiter_is_forgotten(run, make):
    async def main():
        lock = make()
        await lock.acquire()
        cancelled = asyncio.create_task(lock.acquire())
        other = asyncio.create_task(lock.acquire())
        await settle()
        cancelled.cancel()
        await settle()
        assert cancelled.cancelled()
        assert len(lock._waiters) == 1
        lock.release()
        assert await other is True

    run(main())


def test_a_waiter_cancelled_after_it_was_woken_passes_the_turn_on(run, make):
    async def main():
        lock = make()
        await lock.acquire()
        woken = asyncio.create_task(lock.acquire())
        other = asyncio.create_task(lock.acquire())
        await settle()
        lock.release()
        woken.cancel()
        await settle()
        assert woken.cancelled()
        assert other.done() and other.result() is True

    run(main())


def test_a_waiter_whose_coroutine_is_closed_leaves_the_line(run, make):
    async def main():
        lock = make()
        await lock.acquire()
        coroutine = lock.acquire()
        assert asyncio.isfuture(coroutine.send(None))
        assert len(lock._waiters) == 1
        coroutine.close()
        assert len(lock._waiters) == 0
        dropped = lock.acquire()
        dropped.send(None)
        assert len(lock._waiters) == 1
        del dropped
        gc.collect()
        assert len(lock._waiters) == 0

    run(main())


def test_what_waits_belongs_to_the_loop_it_first_waited_on(loop_factory, make):
    async def occupied(lock):
        waiting = asyncio.create_task(lock.acquire())
        await settle()
        if not waiting.done():
            waiting.cancel()
            await settle()
        return waiting

    lock = make()
    first, second = loop_factory(), loop_factory()
    try:
        first.run_until_complete(lock.acquire())
        assert lock._loop is None  # nobody waited
        first.run_until_complete(occupied(lock))
        assert lock._loop is first
        waiting = second.run_until_complete(occupied(lock))
        with pytest.raises(RuntimeError, match="is bound to a different event loop"):
            waiting.result()
    finally:
        first.close()
        second.close()


def test_they_work_on_the_other_sides_loop_too(loop_factory, make):
    async def main():
        lock, order = make(), []

        async def take(name):
            async with lock:
                order.append(name)
                await asyncio.sleep(0)

        await asyncio.gather(take(1), take(2), take(3))
        assert order == [1, 2, 3]
        holder = await lock.acquire()
        waiting = asyncio.create_task(lock.acquire())
        await settle()
        waiting.cancel()
        await settle()
        assert holder and waiting.cancelled() and not len(lock._waiters)

    other = LoopFactory("asyncio" if loop_factory.is_hayase else "hayase")()
    try:
        other.run_until_complete(main())
    finally:
        other.close()


# Lock, semaphore -----------------------------------------------------------------------------------------------------


def test_releasing_a_free_lock_is_an_error(aio):
    with pytest.raises(RuntimeError, match=r"^Lock is not acquired\.$"):
        aio.Lock().release()


def test_a_semaphore_counts(run, aio):
    async def main():
        semaphore = aio.Semaphore(2)
        assert semaphore._value == 2 and semaphore._waiters is None
        async with semaphore, semaphore:
            assert semaphore.locked()
            waiting = asyncio.create_task(semaphore.acquire())
            await settle()
            assert not waiting.done()
        assert await waiting is True
        semaphore.release()
        semaphore.release()  # more permits than it began with
        assert semaphore._value == 3

    run(main())


@pytest.mark.parametrize("value", [math.inf, 2.0, 2.5, 0.0])
def test_a_semaphore_counts_with_the_number_it_is_given(run, aio, value):
    """Programs give `math.inf` for "no limit"."""

    async def main():
        semaphore = aio.Semaphore(value)
        taken = 0
        while not semaphore.locked() and taken < 10:
            await semaphore.acquire()
            taken += 1
        assert taken == (int(value) if value.is_integer() else 10)
        assert semaphore._value == value - taken
        assert type(semaphore._value) is float
        if semaphore.locked():
            waiting = asyncio.ensure_future(semaphore.acquire())
            await asyncio.sleep(0)
            semaphore.release()
            assert await waiting
        semaphore.release()
        assert repr(semaphore).endswith(f"[unlocked, value:{semaphore._value!r}]>")
        bounded = aio.BoundedSemaphore(value)
        with pytest.raises(ValueError, match="released too many times"):
            bounded.release()

    run(main())


def test_a_bounded_semaphore_is_not_released_too_often(run, aio):
    async def main():
        semaphore = aio.BoundedSemaphore(value=1)
        assert isinstance(semaphore, aio.Semaphore)
        async with semaphore:
            assert semaphore._value == 0
        with pytest.raises(ValueError, match=r"^BoundedSemaphore released too many times$"):
            semaphore.release()

    run(main())


def test_bad_arguments_get_asyncios_errors(aio):
    with pytest.raises(ValueError, match=r"^Semaphore initial value must be >= 0$"):
        aio.Semaphore(-1)
    with pytest.raises(TypeError, match="not supported between instances of 'str' and 'int'"):
        aio.Semaphore("many")
    for name in ("Lock", "Event", "Semaphore", "BoundedSemaphore"):
        with pytest.raises(TypeError, match=rf"{name}\.__init__\(\) got an unexpected keyword argument 'loop'"):
            getattr(aio, name)(loop=None)
    with pytest.raises(TypeError, match=r"Lock\.__init__\(\) takes 1 positional argument but 2 were given"):
        aio.Lock(1)
    with pytest.raises(TypeError, match=r"can't be (used in 'await' expression|awaited)"):
        asyncio.run(_await(aio.Lock()))


async def _await(what):
    await what


@since_3_13
def test_permits_that_come_together_serve_as_many(run, aio):
    async def main():
        semaphore = aio.Semaphore(0)
        tasks = [asyncio.create_task(semaphore.acquire()) for _ in range(4)]
        await settle()
        tasks[0].cancel()
        for _ in range(3):
            semaphore.release()
        tasks[1].cancel()
        await settle()
        assert [task.done() and not task.cancelled() for task in tasks] == [False, False, True, True]
        assert semaphore._value == 1

    run(main())


# Event ---------------------------------------------------------------------------------------------------------------


def test_setting_an_event_wakes_all_even_if_it_is_cleared_at_once(run, aio):
    async def main():
        event = aio.Event()
        tasks = [asyncio.create_task(event.wait()) for _ in range(3)]
        await settle()
        tasks[1].cancel()
        event.set()
        assert event.is_set()
        event.clear()
        await settle()
        assert not event.is_set()
        assert tasks[1].cancelled()
        assert await tasks[0] is True and await tasks[2] is True
        assert len(event._waiters) == 0
        event.set()
        assert await event.wait() is True

    run(main())


# Condition, barrier --------------------------------------------------------------------------------------------------


def test_a_condition_notifies_as_many_as_it_is_told(run, aio):
    async def main():
        condition, woken = aio.Condition(), []

        async def wait(name):
            async with condition:
                assert await condition.wait() is True
                woken.append(name)

        tasks = [asyncio.create_task(wait(name)) for name in range(5)]
        await settle()
        async with condition:
            condition.notify(2)
        await settle()
        assert woken == [0, 1]
        async with condition:
            condition.notify_all()
        await asyncio.gather(*tasks)
        assert woken == [0, 1, 2, 3, 4]

    run(main())


def test_a_condition_wants_its_lock_held(run, aio):
    async def main():
        condition = aio.Condition()
        with pytest.raises(RuntimeError, match="cannot wait on un-acquired lock"):
            await condition.wait()
        with pytest.raises(RuntimeError, match="cannot notify on un-acquired lock"):
            condition.notify()
        with pytest.raises(RuntimeError, match="cannot notify on un-acquired lock"):
            condition.notify_all()

    run(main())


def test_a_condition_waits_for_a_predicate(run, aio):
    async def main():
        condition, number = aio.Condition(aio.Lock()), 0

        async def wait():
            async with condition:
                return await condition.wait_for(lambda: number >= 3 and number)

        task = asyncio.create_task(wait())
        for number in range(1, 5):  # noqa: B007
            await settle()
            async with condition:
                condition.notify_all()
        assert await task == 3 or number == 4

    run(main())


def test_a_cancelled_waiter_of_a_condition_has_the_lock_again(run, aio):
    async def main():
        condition, seen = aio.Condition(), []

        async def wait():
            async with condition:
                try:
                    await condition.wait()
                except asyncio.CancelledError:
                    seen.append(condition.locked())
                    raise

        task = asyncio.create_task(wait())
        await settle()
        async with condition:
            task.cancel()
            await settle()
            assert seen == []  # it cannot have the lock yet
        await settle()
        assert seen == [True] and task.cancelled() and not condition.locked()

    run(main())


@pytest.mark.oracle_differs(
    "before 3.13 the notification of a cancelled waiter, and the message of its cancellation, are lost"
)
def test_a_notified_waiter_that_is_cancelled_hands_its_notification_on(run, aio, loop_factory):
    repaired = loop_factory.is_hayase or sys.version_info >= (3, 13)

    async def main():
        condition, messages = aio.Condition(), []

        async def wait():
            async with condition:
                try:
                    await condition.wait()
                except asyncio.CancelledError as error:
                    messages.append(error.args)
                    raise

        first, second = (asyncio.create_task(wait()) for _ in range(2))
        await settle()
        async with condition:
            condition.notify()
            await settle()
            # It was woken and waits for the lock.
            first.cancel("why")
            await settle()
        await settle()
        assert first.cancelled() and messages == [("why",) if repaired else ()]
        assert second.done() is repaired
        second.cancel()
        await asyncio.wait([second])
        assert not condition.locked()

    run(main())


def test_a_condition_uses_whatever_lock_it_is_given(run, aio):
    class Counting(aio.Lock):
        taken = 0

        async def acquire(self):
            self.taken += 1
            return await super().acquire()

    async def main():
        lock = Counting()
        condition = aio.Condition(lock)
        async with condition:
            assert lock.locked() and lock.taken == 1
            waiting = asyncio.create_task(_wait_in(condition))
        await settle()
        async with condition:
            condition.notify()
        assert await waiting is True
        assert lock.taken == 4

    run(main())


async def _wait_in(condition):
    async with condition:
        return await condition.wait()


def test_a_barrier_lets_all_parties_pass_together(run, aio):
    async def main():
        barrier, order = aio.Barrier(3), []

        async def pass_it(name):
            order.append(f"{name} comes")
            position = await barrier.wait()
            order.append(f"{name} passes")
            return position

        positions = await asyncio.gather(*(pass_it(name) for name in "abc"))
        assert sorted(positions) == [0, 1, 2]
        assert [word[2:] for word in order] == ["comes"] * 3 + ["passes"] * 3
        assert barrier.parties == 3 and barrier.n_waiting == 0 and not barrier.broken
        waiting = asyncio.create_task(barrier.wait())
        await settle()
        assert barrier.n_waiting == 1
        await barrier.abort()
        with pytest.raises(asyncio.BrokenBarrierError):
            await waiting
        assert barrier.broken
        await barrier.reset()
        assert not barrier.broken

    run(main())


# As objects ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Lock", "Event", "Condition", "Semaphore", "BoundedSemaphore", "Barrier"])
def test_repr_says_what_asyncios_says(run, aio, name):
    arguments = (1,) if name == "Barrier" else ()

    async def texts(namespace):
        made = getattr(namespace, name)(*arguments)
        said = [repr(made)]
        for method in ("acquire", "set", "release", "clear"):
            if hasattr(made, method):
                result = getattr(made, method)()
                if inspect.isawaitable(result):
                    await result
                said.append(repr(made))
        return [text.partition("[")[2] for text in said], str(type(made).__name__)

    assert run(texts(aio)) == run(texts(asyncio))


def test_repr_counts_who_waits(run, aio):
    async def main():
        for made, method, word in (
            (aio.Lock(), "acquire", "locked"),
            (aio.Semaphore(1), "acquire", "locked"),
            (aio.Event(), "wait", "unset"),
        ):
            if method == "acquire":
                await made.acquire()
            tasks = [asyncio.create_task(getattr(made, method)()) for _ in range(2)]
            await settle()
            assert repr(made).endswith(f" [{word}, waiters:2]>")
            for task in tasks:
                task.cancel()
            await settle()

    run(main())


@pytest.mark.parametrize("name", ["Lock", "Event", "Semaphore", "BoundedSemaphore"])
def test_they_are_ordinary_objects(aio, name):
    base = getattr(aio, name)

    class Mine(base):
        def __init__(self, colour):
            super().__init__()
            self.colour = colour

    mine = Mine("red")
    assert mine.colour == "red" and mine.__dict__["colour"] == "red"
    plain = base()
    plain.colour = "blue"
    assert vars(plain).get("colour") == "blue"
    reference = weakref.ref(mine)
    mine.itself = mine
    del mine
    gc.collect()
    assert reference() is None
    assert base.__name__ == name and base.__doc__


def test_they_can_be_copied_while_nobody_waits(run, aio):
    async def main():
        lock = aio.Lock()
        lock.colour = "red"
        await lock.acquire()
        for twin in (copy.copy(lock), copy.deepcopy(lock)):
            assert twin.locked() and twin.colour == "red"
            twin.release()
        assert lock.locked()
        event = aio.Event()
        event.set()
        assert copy.deepcopy(event).is_set()
        semaphore = pickle.loads(pickle.dumps(aio.BoundedSemaphore(3)))
        assert semaphore._value == semaphore._bound_value == 3
        assert copy.deepcopy({"a": aio.Semaphore(2)})["a"]._value == 2
        waiting = asyncio.create_task(lock.acquire())
        await settle()
        with pytest.raises(TypeError, match="cannot pickle"):
            copy.deepcopy(lock)
        waiting.cancel()

    run(main())


def test_what_a_subclass_overrides_is_used_by_async_with(run, make):
    class Noisy(make):
        def __init__(self):
            super().__init__()
            self.heard = []

        async def acquire(self):
            self.heard.append("acquire")
            return await super().acquire()

        def release(self):
            self.heard.append("release")
            super().release()

    async def main():
        noisy = Noisy()
        async with noisy:
            assert noisy.locked()
        assert noisy.heard == ["acquire", "release"]
        replaced = make()
        replaced.release = lambda: noisy.heard.append("replaced")
        async with replaced:
            pass
        assert noisy.heard[-1] == "replaced" and replaced.locked()

    run(main())


def test_a_pending_waiter_in_a_cycle_is_collected(run, make):
    async def main():
        lock = make()
        await lock.acquire()
        coroutine = lock.acquire()
        coroutine.send(None)
        lock.coroutine = coroutine
        reference = weakref.ref(lock)
        del lock, coroutine
        gc.collect()
        assert reference() is None

    run(main())


# Any schedule --------------------------------------------------------------------------------------------------------

steps = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.integers(0, 9)),
        st.tuples(st.just("cancel"), st.integers(0, 9)),
        st.tuples(st.just("release"), st.just(0)),
        st.tuples(st.just("turn"), st.just(0)),
    ),
    max_size=40,
)


async def play(made, steps, hold):
    """What happens, in order, when the steps are taken."""
    log, tasks = [], {}

    async def use(name):
        try:
            log.append(f"{name} asks")
            await made.acquire()
            log.append(f"{name} has")
            for _ in range(hold):
                await asyncio.sleep(0)
            made.release()
            log.append(f"{name} gives")
        except asyncio.CancelledError:
            log.append(f"{name} is cancelled")
            raise
        except (RuntimeError, ValueError) as error:
            log.append(f"{name} fails: {error}")

    for step, name in steps:
        if step == "start" and (name not in tasks or tasks[name].done()):
            tasks[name] = asyncio.create_task(use(name))
        elif step == "cancel" and name in tasks:
            tasks[name].cancel()
        elif step == "release" and made.locked():
            try:
                made.release()
            except (RuntimeError, ValueError) as error:
                log.append(str(error))
        elif step == "turn":
            await asyncio.sleep(0)
        log.append((made.locked(), len(made._waiters or ())))
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)
    log.append((made.locked(), len(made._waiters or ())))
    return log


@since_3_13
@settings(max_examples=150, deadline=None)
@given(steps=steps, hold=st.integers(0, 3), permits=st.integers(0, 3))
def test_any_schedule_goes_as_with_asyncio(steps, hold, permits):
    import hayase

    def outcome(namespace, new_loop):
        loop = new_loop()
        try:
            made = namespace.Semaphore(permits) if permits else namespace.Lock()
            return loop.run_until_complete(play(made, steps, hold))
        finally:
            loop.close()

    expected = outcome(asyncio, asyncio.SelectorEventLoop)
    assert outcome(hayase, hayase.new_event_loop) == expected
    assert outcome(hayase, asyncio.SelectorEventLoop) == expected
