"""Each callback and each task has a context of its own, a copy from when it was scheduled.

hayase makes that copy only when somebody could tell (`crates/hayase/src/raw/kept_context.rs`). These stories are about
everybody who could.
"""

import asyncio
import contextvars
import gc
import itertools
import random
import socket
import sys
import threading
import weakref

import pytest

variable = contextvars.ContextVar("variable", default="unset")

since_3_12 = pytest.mark.skipif(sys.version_info < (3, 12), reason="get_context() came with 3.12")


class Value:
    pass


def arms(loop):
    past = itertools.count()  # one after the other: asyncio runs timers of equal time in any order
    return [loop.call_soon, lambda *args: loop.call_at(next(past) / 1e6, *args), loop.call_soon_threadsafe]


async def settle():
    for _ in range(3):
        await asyncio.sleep(0)
    await asyncio.sleep(0.001)


def test_what_a_callback_sets_no_other_callback_sees(loop, run):
    seen = []

    def callback(number):
        seen.append(variable.get())
        if number % 2:
            variable.set(number)
            seen.append(variable.get())

    async def main():
        for arm in arms(loop):
            for number in range(4):
                arm(callback, number)
        await settle()
        return variable.get()

    assert run(main()) == "unset"
    assert seen == ["unset", "unset", 1, "unset", "unset", 3] * 3


def test_a_callback_sees_what_was_set_when_it_was_scheduled(loop, run):
    seen = []

    async def main():
        for arm in arms(loop):
            for number in range(3):
                variable.set(number)
                for _ in range(3):
                    arm(lambda: seen.append(variable.get()))
                variable.set("later")
        await settle()

    run(main())
    assert seen == [0, 0, 0, 1, 1, 1, 2, 2, 2] * 3


def test_what_a_task_sets_it_sees_after_every_wait_and_nobody_else_does(loop, run):
    seen = []

    async def story(name):
        await asyncio.sleep(0)
        if name % 2:
            variable.set(name)
        await asyncio.sleep(0)
        seen.append(variable.get())
        await asyncio.sleep(0.001)
        seen.append(variable.get())
        loop.call_soon(lambda: seen.append(variable.get()))
        await asyncio.sleep(0)

    async def main():
        await asyncio.gather(*(story(name) for name in range(4)))
        seen.append(variable.get())

    run(main())
    assert sorted(seen, key=str) == sorted(["unset", 1, "unset", 3] * 3 + ["unset"], key=str)


def test_what_is_set_and_taken_back_is_as_never_set(loop, run):
    seen = []

    def callback():
        token = variable.set("for a moment")
        variable.reset(token)
        seen.append(variable.get())

    async def main():
        for _ in range(3):
            loop.call_soon(callback)
        await settle()

    run(main())
    assert seen == ["unset"] * 3


def test_a_token_that_outlives_its_callback_belongs_to_that_context_only(loop, run):
    tokens, errors = [], []

    def take():
        tokens.append(variable.set("mine"))

    def give_back():
        try:
            variable.reset(tokens[0])
        except ValueError as error:
            errors.append("different Context" in str(error))

    async def main():
        loop.call_soon(take)
        loop.call_soon(give_back)
        loop.call_soon(give_back)
        await settle()

    run(main())
    assert errors == [True, True]


def test_the_context_of_a_handle_is_the_one_it_runs_in(loop, run):
    seen = []

    def callback():
        context = handles[0]._context
        variable.set("by the callback")
        seen.append(context[variable])
        with pytest.raises(RuntimeError, match="already entered"):
            context.run(int)

    handles = []

    async def main():
        for arm in arms(loop):
            handles[:] = [arm(callback)]
            await settle()
            seen.append(handles[0]._context[variable])

    run(main())
    assert seen == ["by the callback"] * 6


def test_who_asks_a_handle_for_its_context_can_prepare_it(loop, run):
    seen = []

    async def main():
        for arm in arms(loop):
            variable.set("by the task")
            handles = [arm(lambda: seen.append(variable.get())) for _ in range(3)]
            contexts = [handle._context for handle in handles]
            assert len({id(context) for context in contexts}) == 3
            assert [handle._context is context for handle, context in zip(handles, contexts, strict=True)] == [True] * 3
            contexts[1].run(variable.set, "prepared")
            await settle()
            seen.append([context[variable] for context in contexts])

    run(main())
    assert seen == ["by the task", "prepared", "by the task", ["by the task", "prepared", "by the task"]] * 3


@since_3_12
def test_the_context_of_a_task_is_the_one_it_runs_in(loop, run):
    seen = []

    async def story(name):
        context = asyncio.current_task().get_context()
        variable.set(name)
        seen.append(context[variable])
        with pytest.raises(RuntimeError, match="already entered"):
            context.run(int)
        await asyncio.sleep(0)
        assert asyncio.current_task().get_context() is context
        seen.append(variable.get())

    async def main():
        tasks = [loop.create_task(story(name)) for name in range(3)]
        await settle()
        seen.append([task.get_context()[variable] for task in tasks])
        assert variable not in contextvars.copy_context()

    run(main())
    assert seen == [0, 1, 2, 0, 1, 2, [0, 1, 2]]


@since_3_12
def test_the_context_of_a_task_can_be_changed_from_outside_between_its_steps(loop, run):
    seen = []

    async def story():
        for _ in range(3):
            seen.append(variable.get())
            await asyncio.sleep(0)

    async def main():
        task, other = loop.create_task(story()), loop.create_task(story())
        task.get_context().run(variable.set, "before the first step")
        await asyncio.sleep(0)
        task.get_context().run(variable.set, "before the second step")
        await settle()
        assert variable not in other.get_context()

    run(main())
    assert seen == ["before the first step", "unset"] + ["before the second step", "unset"] * 2


def test_a_given_context_is_used_itself(loop, run):
    context = contextvars.copy_context()

    async def story():
        variable.set(f"{variable.get()} and by a task")

    async def main():
        loop.call_soon(variable.set, "by a callback", context=context)
        await settle()
        await loop.create_task(story(), context=context)

    run(main())
    assert context[variable] == "by a callback and by a task"


@since_3_12
def test_the_exception_handler_sees_what_the_callback_set(loop, run):
    seen = []
    loop.set_exception_handler(lambda loop, report: seen.append((report["message"][:9], variable.get())))

    def fails(value):
        if value:
            variable.set(value)
        raise ZeroDivisionError

    async def main():
        for value in ("a", None, "b", None):
            loop.call_soon(fails, value)
        await settle()

    run(main())
    assert seen == [("Exception", "a"), ("Exception", "unset"), ("Exception", "b"), ("Exception", "unset")]


def test_nothing_keeps_the_values_of_what_has_run(loop, run):
    references = []

    def callback():
        pass

    async def story():
        value = Value()
        references.append(weakref.ref(value))
        variable.set(value)
        for arm in arms(loop):
            for _ in range(3):
                arm(callback)
        for _ in range(3):
            await loop.create_task(asyncio.sleep(0))

    async def main():
        await loop.create_task(story())
        await settle()
        gc.collect()
        return [reference() for reference in references]

    assert run(main()) == [None]
    run(story())
    run(settle())
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_nothing_keeps_the_values_of_what_will_never_run(loop_factory):
    loop = loop_factory()
    references = []

    def schedule():
        value = Value()
        references.append(weakref.ref(value))
        variable.set(value)
        for arm in arms(loop):
            for _ in range(3):
                arm(int)

    contextvars.copy_context().run(schedule)
    loop.close()
    gc.collect()
    assert references[0]() is None


def test_loops_in_two_threads_do_not_share_contexts(loop_factory):
    results = {}

    def other(name):
        loop = loop_factory()

        async def story(number):
            for _ in range(50):
                await asyncio.sleep(0)
                if number:
                    assert variable.get() == (name, number), (variable.get(), name, number)
                else:
                    assert variable.get() == name

        async def starts(number):
            if number:
                variable.set((name, number))
            await story(number)

        async def main():
            variable.set(name)
            await asyncio.gather(*(starts(number) for number in range(20)))
            return variable.get()

        results[name] = loop.run_until_complete(main())
        loop.close()

    threads = [threading.Thread(target=other, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {"a": "a", "b": "b"}


@pytest.mark.parametrize("seed", range(40))
def test_whatever_a_program_sets_and_schedules_it_sees_the_same(same_as_asyncio, seed):
    def story(loop):
        chance = random.Random(seed)
        variables = [contextvars.ContextVar(f"v{number}", default=0) for number in range(3)]
        seen, handles = [], []
        left = 150

        def act():
            nonlocal left
            seen.append(tuple(each.get() for each in variables))
            for _ in range(chance.randrange(4)):
                if left <= 0:
                    return
                left -= 1
                what = chance.randrange(8)
                if what < 2:
                    handles.append(loop.call_soon(act))
                elif what == 2:
                    handles.append(loop.call_soon_threadsafe(act))
                elif what == 3:
                    loop.create_task(run_a_while())
                elif what == 4:
                    chance.choice(variables).set(left)
                elif what == 5:
                    token = variables[0].set(left)
                    loop.call_soon(act)
                    variables[0].reset(token)
                elif what == 6 and handles:
                    context = chance.choice(handles)._context
                    seen.append(sorted((each.name, context[each]) for each in variables if each in context))
                elif what == 7:
                    contextvars.copy_context().run(act)

        async def run_a_while():
            for _ in range(chance.randrange(1, 4)):
                act()
                await asyncio.sleep(0)

        async def main():
            while left > 0:
                act()
                await asyncio.sleep(0)
            await settle()
            await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))

        loop.run_until_complete(main())
        return seen

    assert len(same_as_asyncio(story).value) > 50


@pytest.mark.hayase_only("asyncio makes every copy at once")
def test_a_thousand_callbacks_and_tasks_share_a_context_while_nobody_looks(loop, run):
    def contexts():
        return sum(type(each) is contextvars.Context for each in gc.get_objects())

    async def main():
        before = contexts()
        handles = [loop.call_soon(int) for _ in range(1000)]
        handles += [loop.call_later(60, int) for _ in range(1000)]
        tasks = [loop.create_task(asyncio.sleep(0.001)) for _ in range(1000)]
        assert contexts() - before < 10
        await asyncio.sleep(0)
        assert contexts() - before < 10
        await asyncio.gather(*tasks)
        for handle in handles:
            handle.cancel()

    run(main())


def test_what_runs_between_callbacks_of_one_turn_is_in_the_context_of_the_loop(loop, run):
    """A reader is run by the loop, between callbacks that have other values."""
    seen = []
    ours, theirs = socket.socketpair()

    class Watcher(asyncio.Protocol):
        def data_received(self, data):
            seen.append(("protocol", variable.get()))

        def eof_received(self):
            seen.append(("eof", variable.get()))

    async def main():
        transport, _ = await loop.create_connection(Watcher, sock=ours)
        variable.set("later")
        theirs.send(b"x")
        # Scheduled when the data lies there: the callbacks before and after it belong to the same turns.
        for _ in range(5):
            for _ in range(3):
                loop.call_soon(variable.get)
            await asyncio.sleep(0.001)
        theirs.shutdown(socket.SHUT_WR)
        for _ in range(5):
            for _ in range(3):
                loop.call_soon(variable.get)
            await asyncio.sleep(0.001)
        transport.close()

    with theirs:
        variable.set("base")
        try:
            run(main())
        finally:
            variable.set("unset")
    assert [name for name, _ in seen] == ["protocol", "eof"]
    assert {value for _, value in seen} == {"base"}


def test_a_handle_that_is_run_by_hand_gives_the_context_back(loop, run):
    seen = []

    def by_hand(handle):
        variable.set("outer")
        handle._run()
        seen.append(variable.get())

    async def main():
        for _ in range(3):
            inner = loop.call_soon(lambda: seen.append(variable.get()))
            given = contextvars.copy_context()
            loop.call_soon(by_hand, inner)
            loop.call_soon(by_hand, inner, context=given)
            loop.call_soon(lambda: seen.append(("after", variable.get())))
        await settle()

    run(main())
    assert seen == ["unset", "unset", "outer", "unset", "outer", ("after", "unset")] * 3
