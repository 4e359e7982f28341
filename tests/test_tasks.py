"""Tasks made by `loop.create_task()`: steps, names and looks, who is current, contexts."""

from __future__ import annotations

import asyncio
import collections.abc
import contextvars
import gc
import io
import re
import sys
import traceback
import types
import weakref

import pytest
from coroutines import forever


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
