"""Who makes a loop's tasks: factories, the eager factory, and tasks that are not the loop's own."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys

import pytest
from coroutines import forever

since_3_12 = pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
since_3_14 = pytest.mark.skipif(sys.version_info < (3, 14), reason="create_task passes every keyword on since 3.14")


async def answer(value=42):
    return value


async def fails(error):
    raise error


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
@pytest.mark.parametrize("kwargs", [{}, {"name": "given"}, {"name": None}, {"context": None}], ids=repr)
def test_the_eager_task_factory_is_told_what_asyncio_tells_it(same_as_asyncio, kwargs):
    def story(loop):
        async def child():
            # Before 3.14 a task gets its name after its first step.
            first = asyncio.current_task().get_name() == "given"
            await asyncio.sleep(0)
            return first, asyncio.current_task().get_name() == "given"

        async def main():
            loop.set_task_factory(asyncio.eager_task_factory)
            assert loop.get_task_factory() is asyncio.eager_task_factory
            return await loop.create_task(child(), **kwargs)

        return loop.run_until_complete(main())

    same_as_asyncio(story)


@since_3_12
def test_the_eager_task_factory_schedules_while_the_loop_does_not_run(loop, run):
    loop.set_task_factory(asyncio.eager_task_factory)
    task = loop.create_task(answer("later"))
    assert not task.done()
    assert run(task) == "later"


@since_3_12
def test_the_eager_task_factory_can_be_taken_away_again(loop, run):
    async def main():
        loop.set_task_factory(asyncio.eager_task_factory)
        eager = loop.create_task(answer())
        assert eager.done()
        loop.set_task_factory(None)
        task = loop.create_task(answer())
        assert not task.done()
        assert type(eager) is type(task)
        await task
        loop.set_task_factory(asyncio.create_eager_task_factory(asyncio.Task))
        assert loop.create_task(answer()).done()

    run(main())


@since_3_14
@pytest.mark.parametrize("eager", [True, False, None])
def test_the_eager_task_factory_starts_a_task_later_on_request(same_as_asyncio, eager):
    def story(loop):
        async def main():
            loop.set_task_factory(asyncio.eager_task_factory)
            task = loop.create_task(answer(), eager_start=eager)
            done = task.done()
            await task
            return done

        return loop.run_until_complete(main())

    same_as_asyncio(story)


@since_3_12
def test_what_is_no_coroutine_is_refused_by_the_eager_task_factory_too(same_as_asyncio):
    def story(loop):
        loop.set_task_factory(asyncio.eager_task_factory)
        loop.create_task(1)

    assert same_as_asyncio(story).error[0] is TypeError


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
