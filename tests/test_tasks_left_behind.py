"""Tasks that nobody waits for: reports of what they raised, and that the collector finds them."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import gc
import pickle
import sys
import weakref

import pytest
from coroutines import forever


async def answer(value=42):
    return value


async def fails(error):
    raise error


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
