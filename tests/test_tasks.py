"""Tasks made by `loop.create_task()`: steps, cancellation, contexts, eager start, reports, and asyncio's own tasks."""

from __future__ import annotations

import asyncio
import collections.abc
import contextvars
import copy
import gc
import inspect
import io
import pickle
import re
import sys
import traceback
import types
import weakref

import pytest
from coroutines import forever

since_3_12 = pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
since_3_14 = pytest.mark.skipif(sys.version_info < (3, 14), reason="create_task passes every keyword on since 3.14")


async def answer(value=42):
    return value


async def fails(error):
    raise error


# Life ----------------------------------------------------------------------------------------------------------------


def test_a_task_runs_its_coroutine(loop, run):
    task = loop.create_task(answer("value"))
    assert isinstance(task, asyncio.Task)
    assert isinstance(task, asyncio.Future)
    assert asyncio.isfuture(task)
    assert not task.done()
    assert task.get_loop() is loop
    assert run(task) == "value"
    assert task.done() and not task.cancelled()
    assert task.result() == "value"
    assert task.exception() is None


def test_a_task_starts_in_the_next_turn_and_steps_once_a_turn(loop, turn):
    seen = []

    async def steps():
        for number in range(3):
            seen.append(number)
            await asyncio.sleep(0)

    task = loop.create_task(steps())
    assert seen == []
    for count in (1, 2, 3):
        turn()
        assert seen == list(range(count))
    turn()
    assert task.done()


def test_tasks_and_callbacks_share_one_order(loop, turn):
    seen = []

    async def step(name):
        seen.append(name)
        await asyncio.sleep(0)
        seen.append(name + " again")

    loop.call_soon(seen.append, "callback 1")
    tasks = [loop.create_task(step("task 1"))]
    loop.call_soon(seen.append, "callback 2")
    tasks.append(loop.create_task(step("task 2")))
    turn()
    assert seen == ["callback 1", "task 1", "callback 2", "task 2"]
    loop.call_soon(seen.append, "callback 3")
    turn()
    assert seen[4:] == ["task 1 again", "task 2 again", "callback 3"]
    assert all(task.done() for task in tasks)


def test_the_error_of_a_task_is_its_exception(loop, run):
    error = ValueError("broken")
    task = loop.create_task(fails(error))
    with pytest.raises(ValueError) as caught:
        run(task)
    assert caught.value is error
    assert task.exception() is error
    assert "fails" in [frame.name for frame in traceback.extract_tb(error.__traceback__)]


def test_awaiting_a_task_gives_its_result_its_error_or_its_cancellation(loop, run):
    async def main():
        assert await loop.create_task(answer(1)) == 1
        with pytest.raises(KeyError):
            await loop.create_task(fails(KeyError()))
        task = loop.create_task(forever())
        await asyncio.sleep(0)
        task.cancel("message")
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert caught.value.args == ("message",)
        assert task.cancelled()

    run(main())


def test_a_result_cannot_be_set_by_hand(same_as_asyncio):
    def story(loop):
        task = loop.create_task(answer())
        texts = []
        for call in (lambda: task.set_result(1), lambda: task.set_exception(ValueError())):
            with pytest.raises(RuntimeError) as caught:
                call()
            texts.append(str(caught.value))
        loop.run_until_complete(task)
        return "\n".join(texts)

    same_as_asyncio(story)


def test_the_result_of_a_pending_task_is_not_ready(same_as_asyncio):
    def story(loop):
        task = loop.create_task(answer())
        texts = []
        for ask in (task.result, task.exception):
            with pytest.raises(asyncio.InvalidStateError) as caught:
                ask()
            texts.append(str(caught.value))
        loop.run_until_complete(task)
        return "\n".join(texts)

    same_as_asyncio(story)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_exit_inside_a_task_passes_through_the_loop_and_is_the_tasks_exception(loop, turn, error):
    task = loop.create_task(fails(error("out")))
    with pytest.raises(error, match="out"):
        turn()
    assert task.done()
    assert isinstance(task.exception(), error)


def test_a_base_exception_of_an_own_class_inside_a_task_is_its_exception(loop, run):
    class Own(BaseException):
        pass

    task = loop.create_task(fails(Own()))
    with pytest.raises(Own):
        run(task)
    assert isinstance(task.exception(), Own)


def test_a_coroutine_that_yields_something_else_gets_a_runtime_error(same_as_asyncio):
    class Yields:
        def __init__(self, value):
            self.value = value

        def __await__(self):
            yield self.value

    def story(loop):
        texts = []

        async def main(value):
            try:
                await Yields(value)
            except RuntimeError as error:
                texts.append(str(error))

        def generator():
            yield

        for value in (1, "text", object, generator()):
            task = loop.create_task(main(value), name="T")
            loop.run_until_complete(task)
        return "\n".join(texts)

    assert "Task got bad yield: 1" in same_as_asyncio(story).value


def test_a_bare_yield_gives_the_others_one_turn(loop, turn):
    @types.coroutine
    def bare():
        yield

    seen = []

    async def main():
        seen.append("before")
        await bare()
        seen.append("after")

    loop.create_task(main())
    turn()
    assert seen == ["before"]
    turn()
    assert seen == ["before", "after"]


def test_a_future_yielded_without_await_is_refused(same_as_asyncio):
    def story(loop):
        @types.coroutine
        def wrong(future):
            yield future

        async def main():
            future = loop.create_future()
            with pytest.raises(RuntimeError) as caught:
                await wrong(future)
            return str(caught.value)

        return loop.run_until_complete(loop.create_task(main(), name="T"))

    assert "yield was used instead of yield from" in same_as_asyncio(story).value


def test_a_task_cannot_await_itself(same_as_asyncio):
    def story(loop):
        async def main():
            await asyncio.current_task()

        loop.run_until_complete(loop.create_task(main(), name="T"))

    assert same_as_asyncio(story).error[0] is RuntimeError


def test_a_coroutine_can_be_awaited_only_once(loop, run):
    coro = answer()
    run(loop.create_task(coro))
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        run(loop.create_task(coro))


def test_an_object_of_an_own_coroutine_class_can_be_a_task(loop, run):
    class Own(collections.abc.Coroutine):
        def __init__(self):
            self.sent = 0

        def send(self, value):
            self.sent += 1
            if self.sent == 3:
                raise StopIteration("own")

        def throw(self, *args):
            raise args[0]

        def close(self):
            pass

        def __await__(self):
            yield

    assert run(loop.create_task(Own())) == "own"
    task = loop.create_task(Own())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        run(task)


# Names, frames, looks ------------------------------------------------------------------------------------------------


def test_tasks_have_names(loop, run):
    named, numbered = loop.create_task(answer(), name="given"), loop.create_task(answer())
    number = loop.create_task(answer(), name=123)
    assert named.get_name() == "given"
    assert re.fullmatch(r"Task-\d+", numbered.get_name())
    assert number.get_name() == "123"
    named.set_name("other")
    assert named.get_name() == "other"
    named.set_name(4.5)
    assert named.get_name() == "4.5"
    run(asyncio.wait([named, numbered, number]))


def test_generated_names_count_on_with_those_of_asyncio(loop, run):
    ours = loop.create_task(answer())
    by_hand = asyncio.Task(answer(), loop=loop)
    again = loop.create_task(answer())
    numbers = [int(task.get_name().removeprefix("Task-")) for task in (ours, by_hand, again)]
    assert len(set(numbers)) == 3
    run(asyncio.wait([ours, by_hand, again]))


def test_get_coro_and_get_context_give_what_was_given(loop, run):
    coro = answer()
    context = contextvars.copy_context()
    task = loop.create_task(coro, context=context)
    assert task.get_coro() is coro
    if sys.version_info >= (3, 12):
        assert task.get_context() is context
    run(task)
    assert task.get_coro() is coro


def test_a_task_looks_as_asyncios(same_as_asyncio):
    async def main():
        await asyncio.sleep(0)
        await asyncio.get_running_loop().create_future()

    async def raises():
        raise ValueError("broken")

    def callback(task):
        pass

    def story(loop):
        texts = []

        def show(task):
            texts.append(re.sub(r"Task-\d+", "Task-N", repr(task)))
            return task

        def turn():
            loop.stop()
            loop.run_forever()

        task = show(loop.create_task(main(), name="named"))
        show(loop.create_task(answer()))
        turn()
        show(task)
        turn()
        show(task)
        task.add_done_callback(callback)
        show(task)
        task.cancel("message")
        show(task)
        turn()
        show(task)
        task = loop.create_task(raises(), name="failing")
        turn()
        show(task).exception()
        task = loop.create_task(answer("result"), name="done")
        turn()
        show(task)
        loop.set_debug(True)
        task = show(loop.create_task(answer("debug"), name="debug"))
        loop.run_until_complete(task)
        show(task)
        return "\n".join(texts)

    text = same_as_asyncio(story).value
    assert "<Task pending name='named' coro=<" in text
    assert "wait_for=<Future pending" in text
    assert "<Task cancelled name='named'" in text


def test_the_private_names_answer_as_asyncios(same_as_asyncio):
    names = (
        "_must_cancel",
        "_log_destroy_pending",
        "_state",
        "_result",
        "_exception",
        "_log_traceback",
        "_cancel_message",
        "_asyncio_future_blocking",
        "_source_traceback",
        "_num_cancels_requested",
    )

    def story(loop):
        rows = []

        def show(task):
            for name in names:
                rows.append((name, repr(getattr(task, name, "absent"))))
            rows.append(type(task._fut_waiter).__name__ if task._fut_waiter is None else "future")
            assert task._loop is loop
            rows.append(hasattr(task, "_coro") and task._coro is task.get_coro())

        task = loop.create_task(forever(), name="T")
        show(task)
        task.cancel("early")
        show(task)
        loop.stop(), loop.run_forever()
        show(task)
        task = loop.create_task(forever(), name="T")
        loop.stop(), loop.run_forever()
        show(task)
        task.cancel("late")
        show(task)
        loop.stop(), loop.run_forever()
        show(task)
        return rows

    same_as_asyncio(story)


def test_the_waiter_of_a_suspended_task_is_the_future_it_waits_for(loop, turn):
    future = loop.create_future()

    async def waits():
        await future

    task = loop.create_task(waits())
    assert task._fut_waiter is None
    turn()
    assert task._fut_waiter is future
    future.set_result(None)
    turn()
    assert task._fut_waiter is None
    assert task.done()


def test_the_stack_of_a_task_can_be_read_and_printed(same_as_asyncio):
    async def inner():
        await forever()

    async def outer():
        await inner()

    async def raises():
        raise ValueError("broken")

    def story(loop):
        texts = []

        def look(task):
            for limit in (None, 1, 0, 5):
                frames = task.get_stack(limit=limit)
                texts.append([frame.f_code.co_name for frame in frames])
            out = io.StringIO()
            task.print_stack(file=out)
            task.print_stack(limit=1, file=out)
            texts.append(out.getvalue())

        task = loop.create_task(outer(), name="T")
        look(task)
        loop.stop(), loop.run_forever()
        look(task)
        task.cancel()
        loop.stop(), loop.run_forever()
        look(task)
        failed = loop.create_task(raises(), name="F")
        loop.stop(), loop.run_forever()
        look(failed)
        failed.exception()
        return texts

    same_as_asyncio(story)


def test_debug_mode_remembers_where_a_task_was_made(loop, run):
    loop.set_debug(True)
    task = loop.create_task(answer())
    assert task._source_traceback[-1].name == "test_debug_mode_remembers_where_a_task_was_made"
    assert "created at" in repr(task)
    run(task)


# Current and all -----------------------------------------------------------------------------------------------------


def test_the_current_task_is_known_in_a_step_and_nowhere_else(loop, turn):
    seen = []

    async def main():
        seen.append(asyncio.current_task())
        loop.call_soon(lambda: seen.append(asyncio.current_task()))
        await asyncio.sleep(0)
        seen.append(asyncio.current_task())
        inner = loop.create_task(child())
        await inner
        seen.append(asyncio.current_task())
        return inner

    async def child():
        seen.append(asyncio.current_task())

    task = loop.create_task(main())
    loop.call_soon(lambda: seen.append(asyncio.current_task()))
    loop.call_later(-1, lambda: seen.append(asyncio.current_task()))
    assert asyncio.current_task(loop) is None
    turn(6)
    assert task.done()
    inner = task.result()
    assert [x for x in seen if x is not None] == [task, task, inner, task]
    assert seen.count(None) == 3
    assert asyncio.current_task(loop) is None


def test_done_callbacks_and_coroutines_driven_by_hand_have_no_current_task(loop, turn):
    seen = []
    task = loop.create_task(answer())
    task.add_done_callback(lambda t: seen.append(asyncio.current_task()))

    async def by_hand():
        seen.append(asyncio.current_task())

    def drive():
        with pytest.raises(StopIteration):
            by_hand().send(None)

    task.add_done_callback(lambda t: drive())
    turn(2)
    assert seen == [None, None]


def test_all_tasks_knows_every_unfinished_task_of_its_loop(loop, loop_factory, turn):
    other = loop_factory()
    elsewhere = other.create_task(forever())
    tasks = {loop.create_task(forever()) for _ in range(10)}
    short = loop.create_task(answer())
    by_hand = asyncio.Task(forever(), loop=loop)
    assert asyncio.all_tasks(loop) == tasks | {short, by_hand}
    seen = []
    loop.call_soon(lambda: seen.append(asyncio.all_tasks()))
    turn()
    assert asyncio.all_tasks(loop) == tasks | {by_hand}
    assert seen == [tasks | {by_hand}]
    assert asyncio.all_tasks(other) == {elsewhere}
    elsewhere.cancel()
    other.run_until_complete(asyncio.wait([elsewhere]))
    other.close()
    for task in [*tasks, by_hand]:
        task.cancel()
    loop.run_until_complete(asyncio.wait([*tasks, by_hand]))
    assert asyncio.all_tasks(loop) == set()


def test_all_tasks_holds_no_task_alive(loop, turn):
    task = loop.create_task(answer())
    turn()
    alive = weakref.ref(task)
    del task
    gc.collect()
    assert alive() is None
    assert asyncio.all_tasks(loop) == set()


# Cancelling ----------------------------------------------------------------------------------------------------------


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


# Contexts ------------------------------------------------------------------------------------------------------------


def test_a_task_has_a_copy_of_the_context_it_was_made_in(loop, run):
    var = contextvars.ContextVar("var", default="default")
    seen = []

    async def child(name):
        seen.append((name, var.get()))
        var.set(name)
        await asyncio.sleep(0)
        seen.append((name, var.get()))

    async def main():
        var.set("parent")
        one, two = loop.create_task(child("one")), loop.create_task(child("two"))
        var.set("changed later")
        await one
        await two
        seen.append(("parent", var.get()))

    run(main())
    assert seen == [("one", "parent"), ("two", "parent"), ("one", "one"), ("two", "two"), ("parent", "changed later")]
    assert var.get() == "default"


def test_a_task_given_a_context_runs_in_it(loop, run):
    var = contextvars.ContextVar("var", default="default")
    context = contextvars.copy_context()

    async def child():
        assert var.get() == "default"
        var.set("from the task")
        await asyncio.sleep(0)
        assert var.get() == "from the task"

    run(loop.create_task(child(), context=context))
    assert context[var] == "from the task"
    assert var.get() == "default"


def test_two_tasks_in_one_context_see_each_other(loop, run):
    var = contextvars.ContextVar("var")
    context = contextvars.copy_context()

    async def sets():
        var.set("shared")

    async def reads():
        return var.get()

    async def main():
        await loop.create_task(sets(), context=context)
        return await loop.create_task(reads(), context=context)

    assert run(main()) == "shared"


def test_a_context_already_entered_fails_the_step_with_asyncios_error_and_the_loop_goes_on(loop, turn):
    context = contextvars.copy_context()
    reports = []
    loop.set_exception_handler(lambda loop, details: reports.append(details["exception"]))
    coro = answer()

    def within():
        loop.call_soon(print, context=context)
        loop.stop()
        with pytest.raises(RuntimeError):
            context.run(int)

    context.run(loop.call_soon, within, context=context)
    coro.close()
    turn()
    assert reports == []


def test_each_step_of_each_task_keeps_its_own_context_through_every_kind_of_wake_up(loop, run):
    var = contextvars.ContextVar("var")

    async def child(number, awaitable):
        var.set(number)
        await awaitable
        assert var.get() == number
        await asyncio.sleep(0)
        assert var.get() == number
        return number

    async def main():
        ours, foreign = loop.create_future(), asyncio.Future(loop=loop)
        tasks = [
            loop.create_task(child(1, ours)),
            asyncio.Task(child(2, ours), loop=loop),
            loop.create_task(child(3, foreign)),
            asyncio.Task(child(4, foreign), loop=loop),
            loop.create_task(child(5, answer())),
        ]
        await asyncio.sleep(0)
        loop.call_soon(ours.set_result, None)
        loop.call_soon(foreign.set_result, None)
        return await asyncio.gather(*tasks)

    assert run(main()) == [1, 2, 3, 4, 5]


# Task factories ------------------------------------------------------------------------------------------------------


def test_a_task_factory_makes_the_tasks(loop, run):
    made = []

    def factory(loop, coro, **kwargs):
        made.append(kwargs)
        return asyncio.Task(coro, loop=loop, **kwargs)

    assert loop.get_task_factory() is None
    loop.set_task_factory(factory)
    assert loop.get_task_factory() is factory
    assert run(loop.create_task(answer())) == 42
    loop.set_task_factory(None)
    assert loop.get_task_factory() is None
    assert run(loop.create_task(answer())) == 42
    assert len(made) == 1


@pytest.mark.parametrize("kwargs", [{}, {"name": "n"}, {"context": "c"}, {"name": "n", "context": "c"}], ids=repr)
def test_a_factory_gets_exactly_the_keywords_that_asyncio_gives(same_as_asyncio, kwargs):
    def story(loop):
        seen = []
        given = dict(kwargs)
        if "context" in given:
            given["context"] = contextvars.copy_context()

        def factory(loop, coro, **kw):
            seen.append({key: type(value).__name__ for key, value in kw.items()})
            return asyncio.Task(coro, loop=loop, **kw)

        loop.set_task_factory(factory)
        task = loop.create_task(answer(), **given)
        seen.append(task.get_name() if "name" in given else None)
        loop.run_until_complete(task)
        return seen

    same_as_asyncio(story)


@since_3_14
def test_unknown_keywords_go_to_the_factory(loop, run):
    seen = []

    def factory(loop, coro, **kwargs):
        seen.append(kwargs)
        return asyncio.Task(coro, loop=loop)

    loop.set_task_factory(factory)
    run(loop.create_task(answer(), own_keyword=1, eager_start=False))
    assert seen[0]["own_keyword"] == 1
    assert seen[0]["eager_start"] is False


def test_unknown_keywords_without_a_factory_are_a_type_error(same_as_asyncio):
    def story(loop):
        coro = answer()
        try:
            loop.create_task(coro, own_keyword=1)
        finally:
            coro.close()

    assert same_as_asyncio(story, text=False).error[0] is TypeError


def test_a_factory_may_return_its_own_kind_of_task(loop, run):
    class Own(asyncio.Task):
        pass

    loop.set_task_factory(lambda loop, coro, **kwargs: Own(coro, loop=loop, **kwargs))

    async def main():
        task = asyncio.create_task(answer("own"))
        assert type(task) is Own
        assert type(asyncio.current_task()) is Own
        assert task in asyncio.all_tasks()
        return await task

    assert run(main()) == "own"


# Eager tasks ---------------------------------------------------------------------------------------------------------


@since_3_12
def test_the_eager_task_factory_runs_the_first_step_at_once(loop, run):
    async def main():
        loop.set_task_factory(asyncio.eager_task_factory)
        seen = []

        async def child():
            seen.append("first step")
            await asyncio.sleep(0)
            seen.append("second step")

        task = asyncio.create_task(child())
        seen.append("created")
        assert not task.done()
        await task
        assert seen == ["first step", "created", "second step"]
        quick = asyncio.create_task(answer("quick"))
        assert quick.done() and quick.result() == "quick"
        broken = asyncio.create_task(fails(ValueError("quick")))
        assert broken.done()
        with pytest.raises(ValueError):
            await broken

    run(main())


@since_3_12
def test_an_eager_task_is_current_in_its_first_step_and_the_parent_afterwards(loop, run):
    async def main():
        loop.set_task_factory(asyncio.eager_task_factory)
        parent = asyncio.current_task()
        seen = []

        async def child():
            seen.append(asyncio.current_task())
            assert seen[0] in asyncio.all_tasks()
            await asyncio.sleep(0)
            seen.append(asyncio.current_task())

        task = asyncio.create_task(child(), name="eager")
        assert asyncio.current_task() is parent
        assert seen == [task]
        assert task.get_name() == "eager"
        await task
        assert seen == [task, task]

    run(main())


@since_3_12
def test_an_eager_task_has_its_own_context_already_in_the_first_step(loop, run):
    var = contextvars.ContextVar("var", default="default")

    async def main():
        loop.set_task_factory(asyncio.eager_task_factory)
        var.set("parent")

        async def child():
            assert var.get() == "parent"
            var.set("child")
            await asyncio.sleep(0)
            assert var.get() == "child"

        task = asyncio.create_task(child())
        assert var.get() == "parent"
        await task
        given = contextvars.Context()

        async def sets():
            var.set("in given")

        await asyncio.create_task(sets(), context=given)
        assert given[var] == "in given"

    run(main())


@since_3_12
def test_an_eager_task_can_be_cancelled_and_nested(loop, run):
    async def main():
        loop.set_task_factory(asyncio.eager_task_factory)

        async def nested(depth):
            if depth:
                return await asyncio.create_task(nested(depth - 1))
            await asyncio.sleep(0)
            return "bottom"

        assert await asyncio.create_task(nested(20)) == "bottom"
        task = asyncio.create_task(forever())
        assert task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        async def cancels_itself():
            asyncio.current_task().cancel()
            await asyncio.sleep(0)

        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(cancels_itself())

    run(main())


@since_3_14
@pytest.mark.parametrize("eager", [True, False, None])
def test_eager_start_can_be_asked_for_each_task(same_as_asyncio, eager):
    def story(loop):
        async def main():
            seen = []

            async def child():
                seen.append("child")

            task = loop.create_task(child(), eager_start=eager)
            seen.append("created")
            await task
            return seen

        return loop.run_until_complete(main())

    same_as_asyncio(story)


@since_3_12
def test_an_exit_in_an_eager_first_step_passes_through(loop, asyncio_log):
    async def main():
        loop.set_task_factory(asyncio.eager_task_factory)
        with pytest.raises(KeyboardInterrupt):
            asyncio.create_task(fails(KeyboardInterrupt("eager")))
        return asyncio.current_task() is not None

    assert loop.run_until_complete(main()) is True
    gc.collect()
    [report] = asyncio_log.messages()
    assert report.startswith("Task exception was never retrieved")


@since_3_12
def test_a_foreign_eager_task_works_on_the_loop(loop, run):
    async def main():
        task = asyncio.Task(answer("eager by hand"), loop=loop, eager_start=True)
        assert task.done()
        slow = asyncio.Task(asyncio.sleep(0, "slow"), loop=loop, eager_start=True)
        assert not slow.done()
        assert asyncio.current_task() is not slow
        return await task, await slow

    assert run(main()) == ("eager by hand", "slow")


# Foreign tasks -------------------------------------------------------------------------------------------------------


def test_tasks_made_by_hand_live_beside_ours(loop, run):
    async def child(number):
        await asyncio.sleep(0)
        assert asyncio.current_task().get_name() == f"by hand {number}"
        return number

    async def main():
        tasks = [asyncio.Task(child(n), loop=loop, name=f"by hand {n}") for n in range(10)]
        ours = loop.create_task(awaits_all(tasks))
        return await ours

    async def awaits_all(tasks):
        return [await task for task in tasks]

    assert run(main()) == list(range(10))


def test_python_tasks_and_ours_await_each_other(loop, run):
    from asyncio.tasks import _PyTask

    async def main():
        inner = loop.create_task(answer("inner"))

        async def middle():
            return await inner

        python = _PyTask(middle(), loop=loop)
        return await python

    assert run(main()) == "inner"


def test_a_cancelled_foreign_task_cancels_what_it_awaits_of_ours(loop, run):
    async def main():
        ours = loop.create_task(forever())

        async def waits():
            await ours

        foreign = asyncio.Task(waits(), loop=loop)
        await asyncio.sleep(0)
        foreign.cancel("across")
        with pytest.raises(asyncio.CancelledError):
            await foreign
        assert ours.cancelled()

    run(main())


# Left behind ---------------------------------------------------------------------------------------------------------


def test_a_task_whose_error_nobody_read_is_reported(same_as_asyncio):
    def story(loop):
        async def broken():
            raise ValueError("nobody asked")

        loop.create_task(broken(), name="T")
        loop.stop(), loop.run_forever()
        gc.collect()

    [(_level, text)] = same_as_asyncio(story).log
    assert text.startswith("Task exception was never retrieved\nfuture: <Task finished name='T' coro=<")


def test_a_pending_task_that_is_collected_is_reported(same_as_asyncio):
    def story(loop):
        async def waits(future):
            await future

        task = loop.create_task(waits(loop.create_future()), name="T")
        loop.stop(), loop.run_forever()
        del task
        gc.collect()

    [(_level, text)] = same_as_asyncio(story).log
    assert text.startswith("Task was destroyed but it is pending!\ntask: <Task pending name='T' coro=<")


def test_the_report_of_a_destroyed_task_holds_the_task(loop, turn):
    contexts = []
    loop.set_exception_handler(lambda loop, context: contexts.append(context))
    for _ in range(3):
        loop.create_task(forever(), name="lost")
        turn()
        gc.collect()
    assert [context["message"] for context in contexts] == ["Task was destroyed but it is pending!"] * 3
    assert all(context["task"].get_name() == "lost" and not context["task"].done() for context in contexts)
    assert all(set(context) == {"message", "task"} for context in contexts)
    for context in contexts:
        context["task"]._log_destroy_pending = False
    contexts.clear()
    gc.collect()
    contexts.clear()


def test_the_report_of_a_destroyed_task_can_be_switched_off(loop, turn):
    task = loop.create_task(forever())
    turn()
    task._log_destroy_pending = False
    assert task._log_destroy_pending is False
    del task
    gc.collect()


def test_a_task_that_was_never_started_warns_about_its_coroutine(loop_factory):
    loop = loop_factory()
    task = loop.create_task(answer())
    task._log_destroy_pending = False
    loop.close()
    with pytest.warns(RuntimeWarning, match="coroutine 'answer' was never awaited"):
        del task
        gc.collect()


def test_a_scheduled_task_is_held_by_the_loop(loop, turn):
    seen = []

    async def main():
        for number in range(3):
            seen.append(number)
            gc.collect()
            await asyncio.sleep(0)

    loop.create_task(main())
    gc.collect()
    turn(4)
    assert seen == [0, 1, 2]


def test_a_task_waiting_for_a_held_future_is_held_by_it(loop, turn):
    future = loop.create_future()
    seen = []

    async def waits():
        seen.append(await future)

    loop.create_task(waits())
    turn()
    gc.collect()
    future.set_result("arrived")
    turn()
    assert seen == ["arrived"]


def test_finished_tasks_leave_their_coroutine_and_context_free(loop, run):
    class Thing:
        pass

    thing = Thing()
    alive = weakref.ref(thing)

    async def holds(thing):
        await asyncio.sleep(0)

    task = loop.create_task(holds(thing))
    run(task)
    del thing
    gc.collect()
    assert alive() is None


def test_a_task_in_a_cycle_with_its_own_frame_is_collected(loop, turn):
    class Thing:
        pass

    thing = Thing()
    alive = weakref.ref(thing)

    async def cyclic(thing, task_box):
        thing.task = task_box
        await loop.create_future()

    box = []
    box.append(loop.create_task(cyclic(thing, box)))
    box[0]._log_destroy_pending = False
    turn()
    del box, thing
    gc.collect()
    assert alive() is None


def test_tasks_can_be_weakly_referenced_and_are_freed_without_the_collector(loop, run):
    gc.collect()
    gc.disable()
    try:
        task = loop.create_task(answer())
        alive = weakref.ref(task)
        run(task)
        del task
        assert alive() is None
    finally:
        gc.enable()


def test_ten_thousand_tasks_leave_nothing_behind(loop, run):
    async def child(value):
        await asyncio.sleep(0)
        return value

    async def raises():
        raise ValueError

    async def main(rounds):
        for _ in range(rounds):
            await loop.create_task(child([]))
            cancelled = loop.create_task(forever())
            await asyncio.sleep(0)
            cancelled.cancel()
            try:
                await cancelled
            except asyncio.CancelledError:
                pass
            try:
                await loop.create_task(raises())
            except ValueError:
                pass

    run(main(100))
    gc.collect()
    before, blocks = len(gc.get_objects()), sys.getallocatedblocks()
    run(main(3400))
    gc.collect()
    assert len(gc.get_objects()) - before < 50
    assert sys.getallocatedblocks() - blocks < 1000


def test_reference_counts_of_what_goes_in_are_what_they_were(loop, run):
    value, error, context = object(), ValueError(), contextvars.copy_context()
    none = sys.getrefcount(None)

    async def gives():
        await asyncio.sleep(0)
        return value

    async def main():
        for _ in range(1000):
            await loop.create_task(gives(), context=context, name="name")
            try:
                await loop.create_task(fails(error), context=context)
            except ValueError:
                error.__traceback__ = None
                error.__context__ = None

    counts = [sys.getrefcount(thing) for thing in (value, error, context, loop)]
    run(main())
    gc.collect()
    assert [sys.getrefcount(thing) for thing in (value, error, context, loop)] == counts
    assert abs(sys.getrefcount(None) - none) < 100


def test_tasks_cannot_be_pickled_or_copied(loop, run):
    task = loop.create_task(answer())
    for refuse in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError):
            refuse(task)
    run(task)


def test_creating_a_task_on_a_closed_loop_leaves_the_coroutine_to_its_owner(loop):
    loop.close()
    coro = answer()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.create_task(coro)
    coro.close()


def test_a_thousand_tasks_awaiting_one_another_in_a_chain_finish(loop, run):
    async def link(previous):
        return await previous + 1 if previous else 0

    async def main():
        task = None
        for _ in range(1000):
            task = loop.create_task(link(task))
        return await task

    assert run(main()) == 999


def test_deep_coroutine_chains_meet_the_recursion_limit_as_an_error_and_not_as_a_crash(loop, run):
    async def deep(depth):
        return await deep(depth + 1)

    with pytest.raises(RecursionError):
        run(deep(0))

    async def fine():
        return "fine"

    assert run(fine()) == "fine"


def test_dropping_a_long_chain_of_pending_tasks_does_not_overflow_the_stack(loop, turn):
    async def link(previous):
        await previous

    task = loop.create_future()
    for _ in range(20_000):
        task = loop.create_task(link(task))
        task._log_destroy_pending = False
    turn()
    del task
    gc.collect()
