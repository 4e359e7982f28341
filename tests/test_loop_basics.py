"""The loop itself: what runs when, what is refused, how it starts, stops and closes.

Transports, readers, signals, futures and tasks have files of their own.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import gc
import logging
import math
import random
import re
import socket
import sys
import threading
import time
import weakref

import pytest

# Order ---------------------------------------------------------------------------------------------------------------


def test_callbacks_run_in_the_order_they_were_added(loop, turn):
    seen = []
    for number in range(1000):
        loop.call_soon(seen.append, number)
    turn()
    assert seen == list(range(1000))


def test_a_callback_added_by_a_callback_waits_for_the_next_turn(loop, turn):
    seen = []

    def first():
        seen.append("first")
        loop.call_soon(seen.append, "added")

    loop.call_soon(first)
    loop.call_soon(seen.append, "second")
    turn()
    assert seen == ["first", "second"]
    turn()
    assert seen == ["first", "second", "added"]


def test_a_callback_added_from_its_own_thread_as_threadsafe_keeps_its_place(loop, turn):
    seen = []
    loop.call_soon(seen.append, 1)
    loop.call_soon_threadsafe(seen.append, 2)
    loop.call_soon(seen.append, 3)
    turn(2)
    assert seen == [1, 2, 3]


def test_a_turn_runs_what_was_ready_then_io_then_timers(loop, turn):
    ours, theirs = socket.socketpair()
    seen = []

    def set_up():
        theirs.send(b"x")
        loop.add_reader(ours, seen.append, "io")
        loop.call_at(loop.time() - 1, seen.append, "timer")
        loop.call_soon(seen.append, "ready")

    loop.call_soon(set_up)
    turn()
    assert seen == []
    turn()
    assert seen == ["ready", "io", "timer"]
    loop.remove_reader(ours)
    ours.close()
    theirs.close()


def test_io_and_timers_are_not_starved_by_callbacks_that_keep_adding_callbacks(loop):
    ours, theirs = socket.socketpair()
    seen = []

    def again():
        if len(seen) < 2:
            loop.call_soon(again)
        else:
            loop.stop()

    def readable():
        loop.remove_reader(ours)
        seen.append("io")

    loop.add_reader(ours, readable)
    loop.call_later(0, seen.append, "timer")
    loop.call_soon(again)
    theirs.send(b"x")
    loop.run_forever()
    assert sorted(seen) == ["io", "timer"]
    ours.close()
    theirs.close()


def test_timers_that_are_due_run_in_the_order_of_their_deadlines(loop, turn):
    seen = []
    now = loop.time()
    delays = [-number / 1000 for number in range(1, 200)]
    random.Random(1).shuffle(delays)
    for delay in delays:
        loop.call_at(now + delay, seen.append, delay)
    turn()
    assert seen == sorted(delays)


@pytest.mark.oracle_differs("asyncio keeps timers in an unstable heap; ours of equal deadline run as they were added")
def test_timers_with_one_deadline_run_in_the_order_they_were_added(loop, loop_factory, turn):
    seen = []
    when = loop.time() - 1
    for number in range(500):
        loop.call_at(when, seen.append, number)
    turn()
    if loop_factory.is_hayase:
        assert seen == list(range(500))
    else:
        assert sorted(seen) == list(range(500))


@pytest.mark.oracle_differs("asyncio lets a timer fire one clock resolution early; ours never fires early")
def test_a_timer_never_fires_early(loop, loop_factory):
    early = 0.0 if loop_factory.is_hayase else time.get_clock_info("monotonic").resolution
    left = 0
    wrong = []

    def fired(handle_of):
        nonlocal left
        now = loop.time()
        if now < handle_of[0].when() - early:
            wrong.append(handle_of[0].when() - now)
        left -= 1
        if not left:
            loop.stop()

    choose = random.Random(2)
    for delay in [0, 1e-9, 1e-6, 1e-4, 0.0005, 0.001, 0.0015, *(choose.random() / 50 for _ in range(200))]:
        box = []
        left += 1
        box.append(loop.call_later(delay, fired, box))
    loop.run_forever()
    assert wrong == []


def test_a_timer_in_the_past_runs_in_the_next_turn(loop, turn):
    seen = []
    loop.call_later(-5, seen.append, "later")
    loop.call_at(-5, seen.append, "at")
    loop.call_later(-math.inf, seen.append, "-inf")
    turn()
    assert sorted(seen) == ["-inf", "at", "later"]


def test_a_timer_at_infinity_never_runs_and_can_be_cancelled(loop, turn):
    seen = []
    handle = loop.call_later(math.inf, seen.append, "never")
    assert handle.when() == math.inf
    loop.call_soon(seen.append, "soon")
    turn(3)
    assert seen == ["soon"]
    handle.cancel()
    turn()
    assert seen == ["soon"]


def test_a_timer_at_nan_runs_in_the_next_turn(loop, turn):
    seen = []
    handle = loop.call_later(math.nan, seen.append, "nan")
    assert math.isnan(handle.when())
    turn()
    assert seen == ["nan"]


def test_a_cancelled_timer_never_runs_whatever_it_is_between(loop, turn):
    seen = []
    now = loop.time()
    handles = [loop.call_at(now - 1 + number / 10_000, seen.append, number) for number in range(1000)]
    gone = set(random.Random(3).sample(range(1000), 800))
    for number in gone:
        handles[number].cancel()
    turn()
    assert seen == [number for number in range(1000) if number not in gone]


def test_a_timer_can_cancel_another_that_is_due_in_the_same_turn(loop, turn):
    seen = []
    now = loop.time()
    loop.call_at(now - 2, lambda: second.cancel())
    second = loop.call_at(now - 1, seen.append, "second")
    turn(2)
    assert seen == []


def test_a_ready_callback_can_cancel_the_next_one(loop, turn):
    seen = []
    loop.call_soon(lambda: second.cancel())
    second = loop.call_soon(seen.append, "second")
    turn(2)
    assert seen == []


def test_a_hundred_thousand_timers_armed_and_cancelled_give_their_callbacks_back(loop, turn):
    class Callback:
        def __call__(self):
            raise AssertionError("was cancelled")

    callback = Callback()
    alive = weakref.ref(callback)
    handles = [loop.call_later(3600 + number, callback) for number in range(100_000)]
    for handle in handles:
        handle.cancel()
    del callback, handle, handles
    turn(2)
    gc.collect()
    assert alive() is None


def test_loop_time_is_the_monotonic_clock(loop):
    before = time.monotonic()
    now = loop.time()
    assert isinstance(now, float)
    assert before <= now <= time.monotonic()


def test_a_callback_runs_in_its_own_context_and_in_the_one_given(loop, turn):
    var = contextvars.ContextVar("var", default="none")
    seen = []
    given = contextvars.copy_context()
    given.run(var.set, "given")

    def note_and_change(name):
        seen.append((name, var.get()))
        var.set("changed by " + name)

    var.set("outer")
    loop.call_soon(note_and_change, "copy")
    loop.call_soon(note_and_change, "second copy")
    loop.call_soon(note_and_change, "given", context=given)
    loop.call_later(-1, note_and_change, "timer", context=given)
    loop.call_soon_threadsafe(note_and_change, "threadsafe", context=given)
    turn(2)
    assert sorted(seen) == [
        ("copy", "outer"),
        ("given", "given"),
        ("second copy", "outer"),
        ("threadsafe", "changed by given"),
        ("timer", "changed by threadsafe"),
    ]
    assert var.get() == "outer"
    assert given[var] == "changed by timer"


# Bad arguments -------------------------------------------------------------------------------------------------------


def nothing():
    pass


@pytest.mark.parametrize(
    "story",
    [
        pytest.param(lambda loop: loop.call_at(None, nothing), id="call_at-none"),
        pytest.param(lambda loop: loop.call_later(None, nothing), id="call_later-none"),
        pytest.param(lambda loop: loop.run_until_complete(1), id="run_until_complete-int"),
        pytest.param(lambda loop: loop.run_until_complete(None), id="run_until_complete-none"),
        pytest.param(lambda loop: loop.set_exception_handler(1), id="set_exception_handler-int"),
        pytest.param(lambda loop: loop.set_task_factory(1), id="set_task_factory-int"),
        pytest.param(lambda loop: loop.set_default_executor(1), id="set_default_executor-int"),
        pytest.param(lambda loop: loop.set_default_executor(None), id="set_default_executor-none"),
        pytest.param(lambda loop: loop.create_task(1), id="create_task-int"),
        pytest.param(lambda loop: loop.create_task(None), id="create_task-none"),
        pytest.param(lambda loop: loop.create_task(nothing), id="create_task-function"),
    ],
)
def test_a_wrong_argument_is_refused_as_asyncio_refuses_it(same_as_asyncio, story):
    assert same_as_asyncio(story).error is not None


@pytest.mark.parametrize(
    "story",
    [
        pytest.param(lambda loop: loop.call_soon(), id="call_soon"),
        pytest.param(lambda loop: loop.call_soon(nothing, wrong=1), id="call_soon-keyword"),
        pytest.param(lambda loop: loop.call_later(1), id="call_later"),
        pytest.param(lambda loop: loop.call_later("1", nothing), id="call_later-str"),
        pytest.param(lambda loop: loop.call_at(), id="call_at"),
        pytest.param(lambda loop: loop.call_soon_threadsafe(), id="call_soon_threadsafe"),
        pytest.param(lambda loop: loop.call_soon_threadsafe(nothing, 1, wrong=2), id="call_soon_threadsafe-keyword"),
        pytest.param(lambda loop: loop.run_until_complete(), id="run_until_complete"),
        pytest.param(lambda loop: loop.run_forever(1), id="run_forever"),
        pytest.param(lambda loop: loop.create_future(1), id="create_future"),
        pytest.param(lambda loop: loop.create_task(), id="create_task"),
        pytest.param(lambda loop: loop.set_exception_handler(), id="set_exception_handler"),
        pytest.param(lambda loop: loop.call_exception_handler(), id="call_exception_handler"),
        pytest.param(lambda loop: loop.stop(1), id="stop"),
    ],
)
def test_a_call_with_the_wrong_shape_is_a_type_error(same_as_asyncio, story):
    assert same_as_asyncio(story, text=False).error[0] is TypeError


def test_a_callback_that_is_no_callable_is_reported_when_it_is_called(same_as_asyncio):
    def story(loop):
        loop.call_soon(1)
        loop.call_at(0.25, "text")
        loop.call_soon(loop.stop)
        loop.run_forever()

    assert len(same_as_asyncio(story).log) == 2


def test_call_later_takes_anything_that_is_a_number(loop, turn):
    from fractions import Fraction

    seen = []
    for delay in (True, 0, -1, Fraction(-1, 2), -0.5):
        handle = loop.call_later(delay, seen.append, delay)
        if delay is True:
            assert handle.when() >= loop.time()
            handle.cancel()
    turn()
    assert sorted(seen) == [-1, Fraction(-1, 2), -0.5, 0]


# Running, stopping, closing ------------------------------------------------------------------------------------------


def test_a_new_loop_is_neither_running_nor_closed(loop):
    assert isinstance(loop, asyncio.AbstractEventLoop)
    assert not loop.is_running()
    assert not loop.is_closed()
    assert loop.get_debug() is False


def test_the_running_loop_is_known_inside_and_unknown_outside(loop, turn):
    seen = []

    def look():
        seen.append((asyncio.get_running_loop() is loop, loop.is_running(), asyncio.current_task(loop)))

    loop.call_soon(look)
    turn()
    assert seen == [(True, True, None)]
    assert not loop.is_running()
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


def test_stop_before_the_start_gives_one_turn(loop):
    seen = []
    loop.call_soon(seen.append, 1)
    loop.stop()
    loop.run_forever()
    assert seen == [1]


def test_stop_lets_the_turn_end_and_keeps_the_rest_for_the_next_run(loop):
    seen = []

    def stopping():
        loop.stop()
        loop.call_soon(seen.append, "next run")

    loop.call_soon(stopping)
    loop.call_soon(seen.append, "same turn")
    loop.run_forever()
    assert seen == ["same turn"]
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == ["same turn", "next run"]


def test_stop_called_twice_stops_once(loop):
    loop.stop()
    loop.stop()
    loop.run_forever()
    seen = []
    loop.call_soon(seen.append, 1)
    loop.call_soon(lambda: loop.call_soon(lambda: (seen.append(2), loop.stop())))
    loop.run_forever()
    assert seen == [1, 2]


def test_a_loop_can_run_many_times(loop):
    async def answer(value):
        await asyncio.sleep(0)
        return value

    assert [loop.run_until_complete(answer(n)) for n in range(20)] == list(range(20))


def test_run_until_complete_inside_a_running_loop_is_refused(loop, loop_factory):
    other = loop_factory()
    seen = []

    async def inside():
        for nested in (loop, other):
            with pytest.raises(RuntimeError) as caught:
                nested.run_until_complete(nested.create_future())
            seen.append(str(caught.value))
        assert asyncio.get_running_loop() is loop

    loop.run_until_complete(inside())
    other.close()
    assert seen == [
        "This event loop is already running",
        "Cannot run the event loop while another loop is running",
    ]


@pytest.mark.oracle_differs("asyncio of 3.13.0 forgets the running loop when a nested run_forever is refused")
def test_run_forever_inside_a_running_loop_is_refused(loop, loop_factory):
    other = loop_factory()
    seen = []

    async def inside():
        for nested in (loop, other):
            with pytest.raises(RuntimeError) as caught:
                nested.run_forever()
            seen.append(str(caught.value))
            if loop_factory.is_hayase or sys.version_info[:3] != (3, 13, 0):
                assert asyncio.get_running_loop() is loop
                assert loop.is_running()
            else:
                assert asyncio._get_running_loop() is None
                asyncio._set_running_loop(loop)
                loop._thread_id = threading.get_ident()

    loop.run_until_complete(inside())
    other.close()
    assert seen == [
        "This event loop is already running",
        "Cannot run the event loop while another loop is running",
    ]


@pytest.mark.oracle_differs("asyncio of 3.13.0 loses the hooks of the running loop when the other thread is refused")
def test_a_running_loop_cannot_be_run_from_another_thread(loop, loop_factory):
    errors = []

    def elsewhere():
        try:
            loop.run_forever()
        except RuntimeError as error:
            errors.append(str(error))
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=elsewhere)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    assert errors == ["This event loop is already running"]
    if not loop_factory.is_hayase and sys.version_info[:3] == (3, 13, 0):
        sys.set_asyncgen_hooks(None, None)


def test_a_loop_can_run_in_one_thread_and_then_in_another(loop):
    idents = []

    def here():
        loop.call_soon(lambda: idents.append(threading.get_ident()))
        loop.call_soon(loop.stop)
        loop.run_forever()

    here()
    thread = threading.Thread(target=here)
    thread.start()
    thread.join()
    here()
    assert idents == [threading.get_ident(), thread.ident, threading.get_ident()]


def test_run_until_complete_gives_the_result_or_the_error(loop, run):
    class Broken(Exception):
        pass

    async def fails():
        raise Broken("why")

    async def succeeds():
        return "value"

    assert run(succeeds()) == "value"
    with pytest.raises(Broken, match="why"):
        run(fails())
    future = loop.create_future()
    loop.call_soon(future.set_result, 7)
    assert run(future) == 7
    assert run(future) == 7


def test_run_until_complete_takes_any_awaitable(loop, run):
    class Awaitable:
        def __await__(self):
            yield from asyncio.sleep(0).__await__()
            return "awaited"

    assert run(Awaitable()) == "awaited"


def test_run_until_complete_says_when_the_loop_was_stopped_first(same_as_asyncio):
    def story(loop):
        loop.call_soon(loop.stop)
        loop.run_until_complete(loop.create_future())

    outcome = same_as_asyncio(story)
    assert outcome.error == (RuntimeError, "Event loop stopped before Future completed.")


def test_run_until_complete_refuses_a_future_of_another_loop(loop, loop_factory):
    other = loop_factory()
    future = other.create_future()
    with pytest.raises(ValueError) as caught:
        loop.run_until_complete(future)
    assert str(caught.value) == "The future belongs to a different loop than the one specified as the loop argument"
    other.close()


def test_run_until_complete_leaves_no_callback_behind_when_interrupted(loop):
    future = loop.create_future()

    def interrupt():
        raise KeyboardInterrupt

    loop.call_soon(interrupt)
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(future)
    seen = []
    loop.call_soon(future.set_result, None)
    loop.call_later(0, lambda: loop.call_soon(seen.append, 1))
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    assert seen == [1]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_base_exception_of_a_callback_passes_through_and_the_loop_can_run_again(loop, turn, error):
    seen = []

    def breaks():
        raise error("through")

    loop.call_soon(breaks)
    loop.call_soon(seen.append, 1)
    if error is GeneratorExit:
        loop.set_exception_handler(lambda loop, context: seen.append(type(context["exception"])))
        turn()
        assert seen == [GeneratorExit, 1]
        return
    with pytest.raises(error, match="through"):
        turn()
    assert not loop.is_running()
    loop.call_soon(seen.append, 2)
    turn()
    assert 2 in seen


def test_closing_is_refused_while_running_and_may_be_repeated(loop, run):
    async def inside():
        loop.close()

    with pytest.raises(RuntimeError, match=r"^Cannot close a running event loop$"):
        run(inside())
    assert not loop.is_closed()
    loop.close()
    assert loop.is_closed()
    loop.close()


def _closed(call):
    def story(loop):
        loop.close()
        return call(loop)

    return story


async def _never():
    raise AssertionError("not started")


def _create_task_on(loop):
    coro = _never()
    try:
        loop.create_task(coro)
    finally:
        coro.close()


def _run_until_complete_on(loop):
    coro = _never()
    try:
        loop.run_until_complete(coro)
    finally:
        coro.close()


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda loop: loop.call_soon(nothing), id="call_soon"),
        pytest.param(lambda loop: loop.call_later(1, nothing), id="call_later"),
        pytest.param(lambda loop: loop.call_at(1, nothing), id="call_at"),
        pytest.param(lambda loop: loop.call_soon_threadsafe(nothing), id="call_soon_threadsafe"),
        pytest.param(lambda loop: loop.run_forever(), id="run_forever"),
        pytest.param(_run_until_complete_on, id="run_until_complete"),
        pytest.param(_create_task_on, id="create_task"),
        pytest.param(lambda loop: loop.run_in_executor(None, nothing), id="run_in_executor"),
        pytest.param(lambda loop: loop.add_reader(0, nothing), id="add_reader"),
        pytest.param(lambda loop: loop.add_writer(0, nothing), id="add_writer"),
    ],
)
def test_a_closed_loop_refuses(same_as_asyncio, call):
    assert same_as_asyncio(_closed(call)).error == (RuntimeError, "Event loop is closed")


def test_a_closed_loop_still_answers_questions(loop):
    loop.close()
    assert loop.is_closed()
    assert not loop.is_running()
    assert loop.time() > 0
    assert loop.get_debug() is False
    assert "closed=True" in repr(loop)
    loop.stop()


def test_close_drops_what_was_scheduled(loop):
    class Callback:
        def __call__(self):
            raise AssertionError("the loop was closed")

    soon, later = Callback(), Callback()
    refs = [weakref.ref(soon), weakref.ref(later)]
    loop.call_soon(soon)
    loop.call_later(1000, later)
    del soon, later
    loop.close()
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


def test_a_loop_dropped_without_closing_warns(loop_factory):
    loop = loop_factory()
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        del loop
        gc.collect()


def test_the_loop_says_what_it_is(loop, turn):
    seen = []
    assert re.search(r"running=False closed=False debug=False", repr(loop))
    loop.call_soon(lambda: seen.append(repr(loop)))
    turn()
    assert "running=True closed=False debug=False" in seen[0]


def test_a_subclass_of_the_loop_is_a_loop(loop_factory):
    class Counting(loop_factory.loop_class):
        def __init__(self, start):
            super().__init__()
            self.scheduled = start

        def call_soon(self, callback, *args, context=None):
            self.scheduled += 1
            return super().call_soon(callback, *args, context=context)

        @property
        def twice(self):
            return self.scheduled * 2

    async def main():
        await asyncio.sleep(0)
        return "done"

    loop = Counting(10)
    assert loop.run_until_complete(main()) == "done"
    loop.call_soon(nothing)
    assert loop.scheduled > 10
    assert loop.twice == loop.scheduled * 2
    loop.close()


def test_a_method_replaced_on_the_instance_is_the_one_called(loop):
    calls = []
    original = loop.call_soon

    def counted(callback, *args, **kwargs):
        calls.append(callback)
        return original(callback, *args, **kwargs)

    loop.call_soon = counted
    assert loop.__dict__["call_soon"] is counted
    loop.call_soon(nothing)
    assert calls == [nothing]
    loop.anything = 1
    assert loop.anything == 1
    del loop.call_soon
    loop.call_soon(nothing)
    assert calls == [nothing]


def test_create_task_replaced_on_the_instance_is_used_by_asyncio(loop, run):
    seen = []
    original = loop.create_task

    def spying(coro, **kwargs):
        seen.append(coro.__name__)
        return original(coro, **kwargs)

    async def child():
        return 1

    async def main():
        return await asyncio.create_task(child())

    loop.create_task = spying
    assert loop.run_until_complete(main()) == 1
    assert "child" in seen


def test_loops_can_be_weakly_referenced_and_are_collected(loop_factory):
    loop = loop_factory()
    loop.own_cycle = loop
    loop.close()
    alive = weakref.ref(loop)
    del loop
    gc.collect()
    assert alive() is None


def test_a_hundred_loops_open_at_once(loop_factory):
    loops = [loop_factory() for _ in range(100)]
    seen = []
    for number, loop in enumerate(loops):
        loop.call_soon(seen.append, number)
        loop.stop()
        loop.run_forever()
    for loop in loops:
        loop.close()
    assert seen == list(range(100))


# Handles -------------------------------------------------------------------------------------------------------------


def test_handles_are_asyncios_handles(loop, turn):
    context = contextvars.copy_context()
    soon = loop.call_soon(nothing, context=context)
    timer = loop.call_later(10, nothing, context=context)
    safe = loop.call_soon_threadsafe(nothing)
    for handle in (soon, timer, safe):
        assert isinstance(handle, asyncio.Handle)
        assert handle.cancelled() is False
    assert isinstance(timer, asyncio.TimerHandle)
    assert not isinstance(soon, asyncio.TimerHandle)
    if sys.version_info >= (3, 12):
        assert soon.get_context() is context
        assert timer.get_context() is context
    timer.cancel()
    assert timer.cancelled() is True
    timer.cancel()
    assert timer.when() == pytest.approx(loop.time() + 10, abs=5)


def test_a_cancelled_handle_forgets_callback_and_arguments(loop):
    class Big:
        def method(self, other):
            raise AssertionError("was cancelled")

    for arm in (loop.call_soon, lambda *args: loop.call_later(1000, *args), loop.call_soon_threadsafe):
        big, argument = Big(), Big()
        refs = [weakref.ref(big), weakref.ref(argument)]
        handle = arm(big.method, argument)
        del big, argument
        handle.cancel()
        gc.collect()
        assert [ref() for ref in refs] == [None, None]


def test_a_handle_that_ran_can_still_be_cancelled(loop, turn):
    seen = []
    handle = loop.call_soon(seen.append, 1)
    turn()
    assert handle.cancelled() is False
    handle.cancel()
    assert handle.cancelled() is True
    assert seen == [1]


def test_handles_look_as_asyncios(same_as_asyncio):
    class Thing:
        def __repr__(self):
            return "<Thing>"

        def __call__(self):
            pass

    def story(loop):
        import functools

        texts = []
        for arm in (loop.call_soon, loop.call_soon_threadsafe, functools.partial(loop.call_at, 123.5)):
            for callback, args in [
                (nothing, ()),
                (nothing, (1, "two")),
                (Thing(), ()),
                (functools.partial(nothing, 1), (2,)),
                (print, (1,)),
                ([].append, (1,)),
            ]:
                handle = arm(callback, *args)
                texts.append(repr(handle))
                handle.cancel()
                texts.append(repr(handle))
        return "\n".join(texts)

    assert "nothing" in same_as_asyncio(story).value


def test_a_deadline_given_as_an_integer_is_answered_as_an_integer(loop):
    handle = loop.call_at(10**6, nothing)
    assert handle.when() == 10**6
    assert type(handle.when()) is int


def test_handles_in_debug_mode_say_where_they_were_made(same_as_asyncio):
    def story(loop):
        loop.set_debug(True)
        handle = loop.call_soon(nothing)
        timer = loop.call_at(5, nothing)
        texts = [repr(handle), repr(timer)]
        handle.cancel()
        timer.cancel()
        return "\n".join([*texts, repr(handle), repr(timer)])

    assert "created at" in same_as_asyncio(story).value


def test_timer_handles_compare_by_deadline_and_hash_by_it(loop):
    early, late = loop.call_at(1000, nothing), loop.call_at(2000, nothing)
    same = loop.call_at(1000, nothing)
    assert early < late and early <= late and late > early and late >= early
    assert early <= same and early >= same
    assert early == same
    assert early != late
    assert hash(early) == hash(same)
    assert not early < same
    same.cancel()
    assert early != same
    assert early != 1000
    assert (early == object()) is False
    with pytest.raises(TypeError):
        early < 1000  # noqa: B015
    by_hand = asyncio.TimerHandle(1000, nothing, (), loop)
    assert (early <= by_hand) and (early >= by_hand)
    assert by_hand <= late


def test_handles_made_by_hand_run(loop, turn):
    seen = []
    handle = asyncio.Handle(seen.append, ("by hand",), loop)
    handle._run()
    assert seen == ["by hand"]


def test_a_handle_can_be_run_by_hand_as_selector_loops_of_libraries_do(loop):
    seen = []
    handle = loop.call_soon(seen.append, 1)
    handle._run()
    assert seen == [1]
    assert handle._cancelled is False
    handle.cancel()
    assert handle._cancelled is True


def test_handles_have_the_private_names_that_asyncio_has(loop):
    handle = loop.call_soon(nothing)
    assert handle._callback is nothing
    assert handle._args == ()
    assert handle._loop is loop
    timer = loop.call_at(12.5, nothing, 1)
    assert timer._when == 12.5
    assert timer._args == (1,)
    assert timer._scheduled is True
    timer.cancel()


def test_handles_can_be_weakly_referenced(loop, turn):
    handle = loop.call_soon(nothing)
    alive = weakref.ref(handle)
    assert alive() is handle
    del handle
    turn()
    gc.collect()
    assert alive() is None


# Other threads -------------------------------------------------------------------------------------------------------


def test_callbacks_of_each_thread_keep_their_order_and_none_is_lost(loop):
    threads, each = 8, 2000
    seen = [[] for _ in range(threads)]
    left = threads * each

    def arrive(thread, number):
        nonlocal left
        seen[thread].append(number)
        left -= 1
        if not left:
            loop.stop()

    def send(thread):
        for number in range(each):
            loop.call_soon_threadsafe(arrive, thread, number)

    senders = [threading.Thread(target=send, args=(n,)) for n in range(threads)]
    for sender in senders:
        sender.start()
    loop.run_forever()
    for sender in senders:
        sender.join()
    assert seen == [list(range(each))] * threads


def test_a_thread_wakes_a_loop_that_sleeps(loop):
    # Ping-pong: the loop has nothing to do but wait, each time, so that a lost wake-up would hang the test.
    rounds = 500
    asleep = threading.Semaphore(0)

    def other():
        for _ in range(rounds):
            asleep.acquire()
            loop.call_soon_threadsafe(asleep.release)
        asleep.acquire()
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=other)
    thread.start()
    loop.call_soon(asleep.release)
    loop.run_forever()
    thread.join()


@pytest.mark.parametrize("attempt", range(10))
def test_threads_may_go_on_scheduling_while_the_loop_closes(loop, turn, attempt):
    errors = []
    started = threading.Barrier(5)

    def hammer():
        started.wait()
        try:
            while True:
                loop.call_soon_threadsafe(nothing)
        except RuntimeError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.wait()
    turn(3)
    loop.close()
    for thread in threads:
        thread.join()
    assert errors == ["Event loop is closed"] * 4


def test_a_coroutine_can_be_run_from_another_thread(loop):
    async def double(number):
        await asyncio.sleep(0)
        return number * 2

    results = []

    def other():
        futures = [asyncio.run_coroutine_threadsafe(double(n), loop) for n in range(100)]
        results.extend(future.result() for future in futures)
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=other)
    thread.start()
    loop.run_forever()
    thread.join()
    assert results == [n * 2 for n in range(100)]


# Exceptions of callbacks ---------------------------------------------------------------------------------------------


def test_the_exception_of_a_callback_is_reported_and_the_rest_goes_on(loop, turn):
    contexts, seen = [], []
    loop.set_exception_handler(lambda got, context: contexts.append((got, context)))

    def breaks():
        raise ValueError("broken")

    handle = loop.call_soon(breaks)
    loop.call_soon(seen.append, "after")
    turn()
    assert seen == ["after"]
    [(got, context)] = contexts
    assert got is loop
    assert isinstance(context["exception"], ValueError)
    assert context["handle"] is handle
    assert context["message"].startswith("Exception in callback ")
    assert set(context) == {"message", "exception", "handle"}


def test_the_report_of_a_broken_callback_reads_as_asyncios(same_as_asyncio, asyncio_log):
    def breaks(*args):
        raise ValueError("broken")

    def story(loop):
        loop.call_soon(breaks, 1, "two")
        loop.call_at(0.25, breaks)
        loop.call_soon_threadsafe(breaks)
        loop.stop()
        loop.run_forever()
        [loop.stop(), loop.run_forever()]

    assert len(same_as_asyncio(story).log) == 3


def test_a_report_carries_the_traceback(loop, turn, asyncio_log):
    def breaks():
        raise ValueError("broken")

    loop.call_soon(breaks)
    turn()
    [record] = asyncio_log.take()
    assert record.levelno == logging.ERROR
    assert record.exc_info[0] is ValueError
    traceback = record.exc_info[2]
    while traceback.tb_next:
        traceback = traceback.tb_next
    assert traceback.tb_frame.f_code is breaks.__code__


def test_the_default_handler_writes_a_context_as_asyncio_does(same_as_asyncio):
    def story(loop):
        loop.call_exception_handler({})
        loop.call_exception_handler({"message": "only a message"})
        loop.call_exception_handler({"message": "more", "b": 2, "a": [1], "exception": ValueError("x")})
        loop.call_exception_handler({"message": "stacks", "source_traceback": [("file.py", 1, "name", "text")]})
        loop.call_exception_handler({"message": "stacks", "handle_traceback": [("file.py", 1, "name", "text")]})
        loop.default_exception_handler({"message": "asked directly"})

    assert len(same_as_asyncio(story).log) == 6


def test_a_handler_that_raises_is_reported_too(same_as_asyncio):
    def breaks(loop, context):
        raise RuntimeError("the handler itself")

    def story(loop):
        loop.set_exception_handler(breaks)
        loop.call_exception_handler({"message": "first"})

    assert [text.splitlines()[0] for _, text in same_as_asyncio(story).log] == ["Unhandled error in exception handler"]


def test_a_default_handler_that_raises_is_reported_too(loop_factory, asyncio_log):
    class Broken(loop_factory.loop_class):
        def default_exception_handler(self, context):
            raise RuntimeError("the default one")

    loop = Broken()
    loop.call_exception_handler({"message": "first"})
    loop.close()
    assert asyncio_log.messages() == ["Exception in default exception handler"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_base_exception_of_a_handler_passes_through(loop, error):
    def handler(loop, context):
        raise error

    loop.set_exception_handler(handler)
    with pytest.raises(error):
        loop.call_exception_handler({"message": "x"})


def test_the_exception_handler_can_be_asked_for_and_taken_away(loop, asyncio_log):
    def handler(loop, context):
        raise AssertionError("taken away")

    assert loop.get_exception_handler() is None
    loop.set_exception_handler(handler)
    assert loop.get_exception_handler() is handler
    loop.set_exception_handler(None)
    assert loop.get_exception_handler() is None
    loop.call_exception_handler({"message": "to the log"})
    assert asyncio_log.messages() == ["to the log"]


def test_the_exception_handler_runs_in_the_context_of_the_callback(loop, turn):
    var = contextvars.ContextVar("var", default="outside")
    seen = []
    loop.set_exception_handler(lambda loop, context: seen.append(var.get()))

    def breaks():
        raise ValueError

    context = contextvars.copy_context()
    context.run(var.set, "inside")
    loop.call_soon(breaks, context=context)
    turn()
    if sys.version_info >= (3, 12):
        assert seen == ["inside"]
    else:
        assert len(seen) == 1


def test_the_asyncio_logger_is_looked_up_when_it_is_needed(loop):
    lines = []

    class Handler(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    handler = Handler()
    logging.getLogger("asyncio").addHandler(handler)
    loop.call_exception_handler({"message": "late handler"})
    logging.getLogger("asyncio").removeHandler(handler)
    assert lines == ["late handler"]


@pytest.fixture(autouse=True)
def _take_what_the_late_handler_saw(request, asyncio_log):
    yield
    if "late" in request.node.name or "looked_up" in request.node.name:
        asyncio_log.take()


# Debug mode ----------------------------------------------------------------------------------------------------------


def test_debug_mode_is_a_switch(loop):
    loop.set_debug(True)
    assert loop.get_debug() is True
    assert "debug=True" in repr(loop)
    loop.set_debug(False)
    assert loop.get_debug() is False
    assert loop.slow_callback_duration == 0.1
    loop.slow_callback_duration = 5
    assert loop.slow_callback_duration == 5


def test_debug_mode_names_the_slow_callback(loop, turn, asyncio_log):
    loop.set_debug(True)
    loop.slow_callback_duration = 0
    loop.call_soon(nothing)
    turn()
    [message] = [m for m in asyncio_log.messages() if "nothing" in m]
    assert re.fullmatch(
        r"Executing <Handle nothing\(\) at .*test_loop_basics\.py:\d+ created at .*test_loop_basics\.py:\d+>"
        r" took \d+\.\d{3} seconds",
        message,
    )


def test_debug_mode_names_the_slow_task(loop, asyncio_log):
    async def slow():
        pass

    loop.set_debug(True)
    loop.slow_callback_duration = 0
    loop.run_until_complete(loop.create_task(slow(), name="Snail"))
    assert any(
        re.match(r"Executing <Task .*name='Snail' coro=<.*slow\(\) .*took \d+\.\d{3} seconds", m)
        for m in asyncio_log.messages()
    )


def test_debug_mode_refuses_another_thread(loop):
    loop.set_debug(True)
    errors = []

    def elsewhere():
        for call in (
            lambda: loop.call_soon(nothing),
            lambda: loop.call_later(1, nothing),
            lambda: loop.call_at(1, nothing),
        ):
            try:
                call()
            except RuntimeError as error:
                errors.append(str(error))
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=elsewhere)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    assert errors == ["Non-thread-safe operation invoked on an event loop other than the current one"] * 3


@pytest.mark.parametrize("name", ["call_soon", "call_soon_threadsafe", "call_later", "call_at"])
def test_debug_mode_refuses_what_is_no_plain_callable(same_as_asyncio, name):
    async def coroutine_function():
        raise AssertionError("never called")

    def story(loop):
        loop.set_debug(True)
        schedule = getattr(loop, name)
        if name in ("call_later", "call_at"):
            schedule = lambda callback, schedule=schedule: schedule(1, callback)  # noqa: E731
        texts = []
        coro = coroutine_function()
        for callback in (coro, coroutine_function, 1):
            try:
                schedule(callback)
            except TypeError as error:
                texts.append(str(error))
        coro.close()
        return "\n".join(texts)

    assert len(same_as_asyncio(story).value.splitlines()) == 3


def test_debug_mode_remembers_where_coroutines_were_made(loop, turn):
    depth = []
    loop.set_debug(True)
    loop.call_soon(lambda: depth.append(sys.get_coroutine_origin_tracking_depth()))
    turn()
    loop.set_debug(False)
    loop.call_soon(lambda: depth.append(sys.get_coroutine_origin_tracking_depth()))
    turn()
    assert depth == [asyncio.constants.DEBUG_STACK_DEPTH, 0]
    assert sys.get_coroutine_origin_tracking_depth() == 0


def test_debug_mode_switched_on_while_running_starts_to_remember(loop, run):
    async def main():
        loop.set_debug(True)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        inside = sys.get_coroutine_origin_tracking_depth()
        loop.set_debug(False)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return inside, sys.get_coroutine_origin_tracking_depth()

    assert run(main()) == (asyncio.constants.DEBUG_STACK_DEPTH, 0)


# Asynchronous generators ---------------------------------------------------------------------------------------------


def test_unfinished_generators_are_closed_at_shutdown(loop, run):
    ended = []

    async def numbers(name):
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    async def main():
        generators = [numbers(n) for n in range(3)]
        return generators, [await generator.__anext__() for generator in generators]

    _generators, first = run(main())
    assert first == [1, 1, 1]
    assert ended == []
    run(loop.shutdown_asyncgens())
    assert sorted(ended) == [0, 1, 2]
    run(loop.shutdown_asyncgens())


def test_a_generator_dropped_halfway_is_closed_by_the_loop(loop, run):
    ended = []

    async def numbers():
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    async def main():
        async for _ in numbers():
            break
        gc.collect()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    run(main())
    assert ended == [True]


def test_a_generator_that_fails_while_it_is_closed_is_reported(same_as_asyncio):
    async def broken():
        try:
            yield 1
        finally:
            raise ZeroDivisionError("in finally")

    def story(loop):
        async def main():
            generator = broken()
            await generator.__anext__()
            return generator

        generator = loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_asyncgens())
        del generator

    [(_level, text)] = same_as_asyncio(story).log
    assert "an error occurred during closing of asynchronous generator" in text


def test_a_generator_started_after_shutdown_warns(loop, run):
    async def numbers():
        yield 1

    async def main():
        await loop.shutdown_asyncgens()
        generator = numbers()
        with pytest.warns(ResourceWarning, match="was scheduled after loop.shutdown_asyncgens"):
            await generator.__anext__()
        await generator.aclose()

    run(main())


# Executors -----------------------------------------------------------------------------------------------------------


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


# Names ---------------------------------------------------------------------------------------------------------------


def test_every_public_name_of_the_stock_loop_answers(loop):
    stock = {name for name in dir(asyncio.SelectorEventLoop) if not name.startswith("_")}
    assert sorted(stock - set(dir(loop))) == []


@pytest.mark.parametrize(
    "host, port, expected",
    [
        ("127.0.0.1", 80, (socket.AF_INET, ("127.0.0.1", 80))),
        ("::1", 443, (socket.AF_INET6, ("::1", 443, 0, 0))),
        ("127.0.0.1", "80", (socket.AF_INET, ("127.0.0.1", 80))),
        (b"127.0.0.1", 80, (socket.AF_INET, ("127.0.0.1", 80))),
    ],
)
def test_a_numeric_address_is_resolved(loop, run, host, port, expected):
    infos = run(loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    assert [(info[0], info[4]) for info in infos] == [expected]
    assert infos == socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


def test_names_are_resolved_as_socket_resolves_them(loop, run):
    assert run(loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)) == socket.getaddrinfo(
        "localhost", 80, type=socket.SOCK_STREAM
    )
    assert run(loop.getaddrinfo(None, 0, flags=socket.AI_PASSIVE)) == socket.getaddrinfo(
        None, 0, flags=socket.AI_PASSIVE
    )
    assert run(loop.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)) == (
        "127.0.0.1",
        "80",
    )


def test_a_name_that_does_not_resolve_is_a_gaierror(loop, run):
    with pytest.raises(socket.gaierror):
        run(loop.getaddrinfo("127.0.0.1", 80, family=socket.AF_INET6, flags=socket.AI_NUMERICHOST))
    with pytest.raises(socket.gaierror):
        run(loop.getaddrinfo("no such host.invalid", 80, flags=socket.AI_NUMERICHOST))


def test_a_lookup_can_be_cancelled(loop, run, monkeypatch):
    may_end = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_keywords: may_end.wait() and [])

    async def main():
        task = loop.create_task(loop.getaddrinfo("localhost", 80))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        may_end.set()
        await loop.shutdown_default_executor()

    run(main())


# What a turn has made ready ------------------------------------------------------------------------------------------


def turns_until(run, loop, act, heard):
    """How many turns a busy loop takes until a protocol hears of what was done at the other end of its connection."""

    class Hearing(asyncio.Protocol):
        def __init__(self):
            self.heard = []

        def connection_made(self, transport):
            self.heard.append("made")

        def data_received(self, data):
            self.heard.append("data")

        def eof_received(self):
            self.heard.append("eof")

        def connection_lost(self, exc):
            self.heard.append("lost")

    async def main():
        ours, theirs = socket.socketpair()
        near, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        far, protocol = await loop.create_connection(Hearing, sock=theirs)
        turns = 0
        act(near, far)
        while heard not in protocol.heard:
            await asyncio.sleep(0)
            turns += 1
            assert turns < 50
        near.abort()
        far.abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return turns

    return run(main())


def resume_with_data(near, far):
    far.pause_reading()
    near.write(b"data")
    far.resume_reading()


@pytest.mark.parametrize(
    ("act", "heard"),
    [
        (lambda near, far: near.write(b"data"), "data"),
        (lambda near, far: near.writelines([b"da", b"ta"]), "data"),
        (lambda near, far: near.write_eof(), "eof"),
        (lambda near, far: near.close(), "eof"),
        (lambda near, far: near.abort(), "eof"),
        (resume_with_data, "data"),
    ],
    ids=["write", "writelines", "write_eof", "close", "abort", "resume_reading"],
)
def test_what_one_end_does_is_heard_at_the_other_as_many_turns_later_as_on_asyncio(same_as_asyncio, act, heard):
    same_as_asyncio(lambda loop: turns_until(loop.run_until_complete, loop, act, heard))


def test_a_reader_of_what_is_readable_already_is_called_as_many_turns_later_as_on_asyncio(same_as_asyncio):
    def story(loop):
        async def main():
            ours, theirs = socket.socketpair()
            with ours, theirs:
                theirs.send(b"data")
                called = []
                loop.add_reader(ours, called.append, 1)
                turns = 0
                while not called:
                    await asyncio.sleep(0)
                    turns += 1
                    assert turns < 50
                loop.remove_reader(ours)
                return turns

        return loop.run_until_complete(main())

    same_as_asyncio(story)
