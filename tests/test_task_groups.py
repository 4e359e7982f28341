"""TaskGroup: asyncio's on the oracle's side, hayase's on the other; and random schedules on both, which must go the same way."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import sys
import warnings
import weakref

import pytest
from coroutines import forever, settle
from hypothesis import given, settings
from hypothesis import strategies as st

since_3_12 = pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
since_3_13 = pytest.mark.skipif(sys.version_info < (3, 13), reason="the rules of 3.13")
since_3_14 = pytest.mark.skipif(sys.version_info < (3, 14), reason="the rules of 3.14")
since_3_15 = pytest.mark.skipif(sys.version_info < (3, 15), reason="cancel() came with 3.15")


async def answer(value=42):
    await asyncio.sleep(0)
    return value


async def fail(error):
    await asyncio.sleep(0)
    raise error


def closed(coroutine):
    """Whether the coroutine can no longer run."""
    return inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


# The usual way -------------------------------------------------------------------------------------------------------


def test_the_block_ends_when_all_tasks_are_done(run, aio):
    async def main():
        async with aio.TaskGroup() as group:
            first = group.create_task(answer(1))
            second = group.create_task(answer(2))
            assert not first.done()
        assert (first.result(), second.result()) == (1, 2)

    run(main())


def test_a_block_without_tasks_does_not_wait(loop, run, aio):
    async def main():
        ran = []
        loop.call_soon(ran.append, "callback")
        async with aio.TaskGroup():
            pass
        assert ran == []

    run(main())


def test_tasks_may_start_others_while_the_block_ends(run, aio):
    async def main():
        done = []

        async def work(depth):
            await asyncio.sleep(0)
            if depth:
                group.create_task(work(depth - 1))
            done.append(depth)

        async with aio.TaskGroup() as group:
            group.create_task(work(3))
        assert done == [3, 2, 1, 0]

    run(main())


def test_a_task_gets_its_name_and_its_context(run, aio):
    variable = contextvars.ContextVar("variable", default="outside")

    async def look():
        return asyncio.current_task().get_name(), variable.get()

    async def main():
        context = contextvars.copy_context()
        context.run(variable.set, "inside")
        async with aio.TaskGroup() as group:
            named = group.create_task(look(), name="named", context=context)
            plain = group.create_task(look(), name=None, context=None)
            by_name = group.create_task(coro=look(), name="by name")
        assert named.result() == ("named", "inside")
        assert plain.result()[0].startswith("Task-") and plain.result()[1] == "outside"
        assert by_name.result() == ("by name", "outside")

    run(main())


# Errors --------------------------------------------------------------------------------------------------------------


def test_the_first_error_cancels_the_others_and_the_block(run, aio):
    async def main():
        problem = ValueError("first")
        with pytest.raises(BaseExceptionGroup) as caught:
            async with aio.TaskGroup() as group:
                waits = group.create_task(forever())
                group.create_task(fail(problem))
                await forever()
        assert caught.value.message == "unhandled errors in a TaskGroup"
        assert type(caught.value) is ExceptionGroup
        assert caught.value.exceptions == (problem,)
        assert caught.value.__cause__ is None and caught.value.__suppress_context__
        assert waits.cancelled()
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(0)

    run(main())


def test_errors_of_the_block_and_of_tasks_come_together(run, aio):
    async def main():
        async def cannot_be_cancelled():
            try:
                await forever()
            finally:
                raise KeyError("on the way out")

        with pytest.raises(ExceptionGroup) as caught:
            async with aio.TaskGroup() as group:
                group.create_task(cannot_be_cancelled())
                await asyncio.sleep(0)
                raise ValueError("block")
        assert [type(error) for error in caught.value.exceptions] == [KeyError, ValueError]
        assert isinstance(caught.value.__context__, ValueError)

    run(main())


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_of_a_task_leaves_as_it_is(loop, aio, interrupt):
    async def main():
        async with aio.TaskGroup() as group:
            group.create_task(fail(interrupt("now")))
            await forever()

    task = loop.create_task(main())
    # It leaves the loop at once, and then the block.
    for _ in range(2):
        assert not task.done()
        with pytest.raises(interrupt, match="now"):
            loop.run_until_complete(task)
    assert task.done()


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_of_the_block_leaves_as_it_is(loop, aio, interrupt):
    left = []

    async def main():
        try:
            async with aio.TaskGroup() as group:
                waits = group.create_task(forever())
                await asyncio.sleep(0)
                raise interrupt("now")
        except interrupt as error:
            left.append((error.args, waits.cancelled()))

    loop.run_until_complete(main())
    assert left == [(("now",), True)]


def test_a_base_exception_makes_a_base_exception_group(run, aio):
    class Stop(BaseException):
        pass

    async def main():
        with pytest.raises(BaseExceptionGroup) as caught:
            async with aio.TaskGroup() as group:
                group.create_task(fail(Stop()))
        assert type(caught.value) is BaseExceptionGroup

    run(main())


def test_an_error_that_comes_while_the_block_waits_leaves_no_cancellation_from_3_13_on(run, aio):
    async def main():
        with pytest.raises(ExceptionGroup):
            async with aio.TaskGroup() as group:
                group.create_task(fail(ValueError()))
        return asyncio.current_task().cancelling()

    assert run(main()) == (0 if sys.version_info >= (3, 13) else 1)


@since_3_15
def test_a_generator_exit_of_the_block_alone_leaves_as_it_is(run, aio):
    async def generate():
        async with aio.TaskGroup() as group:
            group.create_task(forever())
            yield 1

    async def main():
        generator = generate()
        assert await anext(generator) == 1
        await generator.aclose()

    run(main())


# Cancelling the parent -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["in the block", "while it waits"])
def test_cancelling_the_parent_cancels_the_tasks(run, aio, where):
    async def main():
        tasks = []

        async def parent():
            async with aio.TaskGroup() as group:
                tasks.append(group.create_task(forever()))
                if where == "in the block":
                    await forever()

        task = asyncio.create_task(parent())
        await settle()
        task.cancel("why")
        await asyncio.wait([task])
        assert task.cancelled() and tasks[0].cancelled()
        assert task.cancelling() == 1

    run(main())


def test_a_parent_that_is_cancelled_again_and_again_still_waits_for_its_tasks(run, aio):
    async def main():
        release = asyncio.Event()

        async def stubborn():
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    pass

        async def parent():
            async with aio.TaskGroup() as group:
                group.create_task(stubborn())

        task = asyncio.create_task(parent())
        for _ in range(4):
            await settle()
            assert not task.done()
            task.cancel()
        await settle()
        release.set()
        await asyncio.wait([task])
        assert task.cancelled()

    run(main())


@since_3_13
def test_a_cancellation_from_outside_survives_an_error_of_a_task(run, aio):
    async def main():
        async def parent():
            try:
                async with aio.TaskGroup() as group:
                    group.create_task(fail_when_cancelled())
                    await forever()
            except* ValueError:
                pass
            assert asyncio.current_task().cancelling() == 1
            await forever()

        async def fail_when_cancelled():
            try:
                await forever()
            finally:
                raise ValueError

        task = asyncio.create_task(parent())
        await settle()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    run(main())


def test_nested_groups_end_from_the_inside_out(run, aio):
    async def main():
        order = []

        async def note(what):
            try:
                await forever()
            except asyncio.CancelledError:
                order.append(what)
                raise

        with pytest.raises(ExceptionGroup) as caught:
            async with aio.TaskGroup() as outer:
                outer.create_task(note("outer"))
                async with aio.TaskGroup() as inner:
                    inner.create_task(note("inner"))
                    inner.create_task(fail(ValueError("inner")))
        assert order == ["inner", "outer"]
        [nested] = caught.value.exceptions
        assert isinstance(nested, ExceptionGroup) and isinstance(nested.exceptions[0], ValueError)
        assert asyncio.current_task().cancelling() == 0 or sys.version_info < (3, 13)

    run(main())


# Refusals ------------------------------------------------------------------------------------------------------------


def test_a_group_is_entered_once(run, aio):
    async def main():
        group = aio.TaskGroup()
        async with group:
            with pytest.raises(RuntimeError, match=r"^TaskGroup <TaskGroup entered> has already been entered$"):
                await group.__aenter__()
        with pytest.raises(RuntimeError, match=r"^TaskGroup <TaskGroup entered> has already been entered$"):
            async with group:
                pass

    run(main())


def test_tasks_are_refused_before_and_after_the_block(run, aio):
    async def main():
        group = aio.TaskGroup()
        coroutine = answer()
        with pytest.raises(RuntimeError, match=r"^TaskGroup <TaskGroup> has not been entered$"):
            group.create_task(coroutine)
        assert closed(coroutine) == (sys.version_info >= (3, 13))
        coroutine.close()
        async with group:
            pass
        coroutine = answer()
        with pytest.raises(RuntimeError, match=r"^TaskGroup <TaskGroup entered> is finished$"):
            group.create_task(coroutine)
        coroutine.close()

    run(main())


def test_tasks_are_refused_while_the_group_shuts_down(run, aio):
    async def main():
        async def late():
            try:
                await forever()
            finally:
                coroutine = answer()
                with pytest.raises(
                    RuntimeError, match=r"^TaskGroup <TaskGroup tasks=1 errors=1 cancelling> is shutting"
                ):
                    group.create_task(coroutine)
                coroutine.close()

        with pytest.raises(ExceptionGroup):
            async with aio.TaskGroup() as group:
                group.create_task(late())
                group.create_task(fail(ValueError()))

    run(main())


def test_a_group_outside_of_a_task_is_refused(loop, aio):
    refused = []

    def callback():
        try:
            aio.TaskGroup().__aenter__().send(None)
        except RuntimeError as error:
            refused.append(str(error))

    loop.call_soon(callback)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert refused == ["TaskGroup <TaskGroup> cannot determine the parent task"]


def test_arguments_are_checked_as_asyncios_are(run, aio):
    async def main():
        with pytest.raises(TypeError, match=r"TaskGroup\.__init__\(\) takes 1 positional argument but 2 were given$"):
            aio.TaskGroup(1)
        async with aio.TaskGroup() as group:
            with pytest.raises(TypeError, match=r"create_task\(\) missing 1 required positional argument: 'coro'$"):
                group.create_task()
            coroutine = answer()
            with pytest.raises(TypeError, match="unexpected keyword argument 'nme'"):
                group.create_task(coroutine, nme="x")
            with pytest.raises(TypeError, match=r"takes 2 positional arguments but 3 "):
                group.create_task(coroutine, "x")
            coroutine.close()
            with pytest.raises((TypeError, AttributeError)):
                group.create_task(42)

    run(main())


def test_it_looks_as_asyncios_does(aio):
    for name in ("create_task", *(["cancel"] if hasattr(asyncio.TaskGroup, "cancel") else [])):
        ours, theirs = getattr(aio.TaskGroup, name), getattr(asyncio.TaskGroup, name)
        assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)
        assert ours.__doc__
    public = [name for name in dir(asyncio.TaskGroup) if not name.startswith("_")]
    assert [name for name in dir(aio.TaskGroup) if not name.startswith("_")] == public


# Insides and subclasses ----------------------------------------------------------------------------------------------


def test_the_private_attributes_answer(loop, run, aio):
    async def main():
        group = aio.TaskGroup()
        assert (group._entered, group._exiting, group._aborting, group._parent_task) == (False, False, False, None)
        async with group:
            task = group.create_task(answer())
            assert group._entered and group._tasks == {task} and group._errors == []
            assert group._parent_task is asyncio.current_task() and group._loop is loop
            assert repr(group) == "<TaskGroup tasks=1 entered>"
        assert group._exiting and group._tasks == set()

    run(main())


def test_a_subclass_hears_of_its_tasks(run, aio):
    class Listening(aio.TaskGroup):
        def __init__(self, limit):
            super().__init__()
            self.limit, self.heard = limit, []

        def create_task(self, coro, **kwargs):
            return super().create_task(coro, name=f"number {self.limit}", **kwargs)

        def _on_task_done(self, task):
            self.heard.append(task)
            super()._on_task_done(task)

        def _abort(self):
            self.heard.append("abort")
            super()._abort()

    async def main():
        with pytest.raises(ExceptionGroup):
            async with Listening(7) as group:
                task = group.create_task(fail(ValueError()))
                assert task.get_name() == "number 7"
        assert group.heard == [task, "abort"]

    run(main())


def test_the_loop_may_make_the_tasks_its_own_way(loop, run, aio):
    made = []

    def factory(loop, coro, **kwargs):
        made.append(coro)
        return asyncio.Task(coro, loop=loop, **kwargs)

    async def main():
        loop.set_task_factory(factory)
        async with aio.TaskGroup() as group:
            task = group.create_task(answer())
        assert type(task) is asyncio.Task and task.result() == 42 and len(made) == 1
        with pytest.raises(ExceptionGroup):
            async with aio.TaskGroup() as group:
                group.create_task(fail(ValueError()))
                await forever()

    run(main())


@since_3_12
def test_eager_tasks_are_taken_like_any_other(loop, run, aio):
    async def at_once(error=None):
        if error is not None:
            raise error
        return 42

    async def main():
        loop.set_task_factory(asyncio.eager_task_factory)
        async with aio.TaskGroup() as group:
            assert group.create_task(at_once()).result() == 42
            group.create_task(answer())
        async with aio.TaskGroup() as group:
            assert group.create_task(at_once(asyncio.CancelledError())).cancelled()
            slow = group.create_task(asyncio.sleep(0, "slow"))
            assert not slow.done()
        assert slow.result() == "slow"
        with pytest.raises(ExceptionGroup) as caught:
            async with aio.TaskGroup() as group:
                group.create_task(at_once(ValueError("eager")))
                await forever()
        assert caught.value.exceptions[0].args == ("eager",)
        assert asyncio.current_task().cancelling() == 0

    run(main())


def test_a_group_that_is_over_keeps_nothing(run, aio):
    class Marker(Exception):
        pass

    async def main():
        gc.collect()
        gc.disable()
        try:
            group = aio.TaskGroup()
            marker = Marker()
            reference = weakref.ref(marker)
            try:
                async with group:
                    group.create_task(fail(marker))
            except* Marker:
                pass
            del marker
            await settle()
            gc.collect()
            assert reference() is None
        finally:
            gc.enable()

    run(main())


def test_a_group_in_a_cycle_is_collected(run, aio):
    async def main():
        group = aio.TaskGroup()
        group.itself = group
        async with group:
            group.create_task(answer())
        reference = weakref.ref(group)
        del group
        gc.collect()
        assert reference() is None

    run(main())


def test_coroutines_that_are_never_awaited_are_told(aio):
    group = aio.TaskGroup()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        group.__aenter__()
        gc.collect()
    assert [str(w.message) for w in caught] == ["coroutine 'TaskGroup.__aenter__' was never awaited"]


@since_3_14
def test_the_parent_is_seen_as_who_awaits_the_tasks(run, aio):
    async def main():
        async with aio.TaskGroup() as group:
            task = group.create_task(answer())
            graph = asyncio.capture_call_graph(task)
            assert [awaiting.future for awaiting in graph.awaited_by] == [asyncio.current_task()]
        assert asyncio.capture_call_graph(task).awaited_by == ()

    run(main())


# cancel() ------------------------------------------------------------------------------------------------------------


@since_3_15
def test_cancel_ends_the_tasks_and_the_block_without_an_exception(run, aio):
    async def main():
        async with aio.TaskGroup() as group:
            task = group.create_task(forever())
            asyncio.get_running_loop().call_soon(group.cancel)
            await forever()
        assert task.cancelled()
        assert asyncio.current_task().cancelling() == 0
        group.cancel()

    run(main())


@since_3_15
def test_cancel_before_the_block_cancels_it_when_it_begins(run, aio):
    async def main():
        group = aio.TaskGroup()
        group.cancel()
        ran = []
        async with group:
            ran.append("until the first wait")
            await asyncio.sleep(0)
            ran.append("further")
        assert ran == ["until the first wait"]

    run(main())


@since_3_15
def test_cancel_does_not_hide_a_cancellation_from_outside(run, aio):
    async def main():
        async def parent():
            async with aio.TaskGroup() as group:
                groups.append(group)
                group.create_task(forever())

        groups = []
        task = asyncio.create_task(parent())
        await settle()
        groups[0].cancel()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    run(main())


# Random schedules ----------------------------------------------------------------------------------------------------

turns = st.integers(0, 3)
leaves = st.one_of(
    st.tuples(st.just("return"), turns),
    st.tuples(st.just("fail"), turns),
    st.tuples(st.just("cancelled"), turns),
    st.tuples(st.just("hang"), st.just(0)),
    st.tuples(st.just("slow to cancel"), turns),
    st.tuples(st.just("fails when cancelled"), turns),
    st.tuples(st.just("survives one cancellation"), turns),
    st.tuples(st.just("cancels itself"), turns),
    st.tuples(st.just("cancels the parent"), turns),
)
ends = st.sampled_from(["wait", "return", "return", "fail", "raise cancelled", "cancel itself"])
groups = st.recursive(
    st.tuples(st.lists(leaves, max_size=3), turns, ends),
    lambda inner: st.tuples(st.lists(st.one_of(leaves, inner), max_size=3), turns, ends),
    max_leaves=4,
)


class Play:
    """One run of a schedule: what each coroutine saw, and in which turn."""

    def __init__(self, namespace):
        self.namespace = namespace
        self.turn = 0
        self.seen = {}
        self.over = False

    def tick(self):
        self.turn += 1
        if not self.over:
            asyncio.get_running_loop().call_soon(self.tick)

    def note(self, name, what):
        self.seen.setdefault(name, []).append((self.turn, what))

    async def wait(self, count):
        for _ in range(count):
            await asyncio.sleep(0)

    async def leaf(self, name, kind, count, parent):
        self.note(name, "starts")
        try:
            await self.wait(count)
            if kind == "fail":
                raise ValueError(name)
            if kind == "cancelled":
                raise asyncio.CancelledError(name)
            if kind == "cancels itself":
                asyncio.current_task().cancel(name)
            elif kind == "cancels the parent":
                parent.cancel(name)
            elif kind != "return":
                await forever()
        except asyncio.CancelledError:
            self.note(name, "cancelled")
            if kind == "slow to cancel":
                await self.wait(count)
            elif kind == "fails when cancelled":
                raise KeyError(name) from None
            elif kind == "survives one cancellation":
                await forever()
            raise
        finally:
            self.note(name, "ends")

    async def group(self, name, children, count, end):
        me = asyncio.current_task()
        try:
            async with self.namespace.TaskGroup() as group:
                for number, child in enumerate(children):
                    its_name = f"{name}.{number}"
                    if len(child) == 2:
                        group.create_task(self.leaf(its_name, *child, me))
                    else:
                        group.create_task(self.group(its_name, *child))
                await self.wait(count)
                if end == "wait":
                    await forever()
                elif end == "fail":
                    raise LookupError(name)
                elif end == "raise cancelled":
                    raise asyncio.CancelledError(name)
                elif end == "cancel itself":
                    me.cancel(name)
        except BaseException as error:
            self.note(name, shape(error))
            raise
        finally:
            self.note(name, (me.cancelling(), repr(group)))

    async def main(self, schedule, cancel_at):
        self.tick()
        task = asyncio.create_task(self.group("g", *schedule))
        for count in cancel_at:
            await self.wait(count)
            self.note("main", task.cancel())
        # What would hang for ever is cancelled until it ends.
        for _ in range(20):
            await self.wait(12)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            if not left:
                break
            for one in sorted(left, key=lambda task: int(task.get_name().removeprefix("Task-"))):
                one.cancel("enough")
        else:
            raise AssertionError("it does not end")
        assert task.done()
        self.note("main", "cancelled" if task.cancelled() else shape(task.exception()))
        self.over = True
        return self.seen


def shape(error):
    if isinstance(error, BaseExceptionGroup):
        # The order of tasks in a set is anybody's.
        return type(error).__name__, error.message, sorted(map(repr, map(shape, error.exceptions)))
    return None if error is None else (type(error).__name__, error.args)


@settings(max_examples=300, deadline=None)
@given(schedule=groups, cancel_at=st.lists(st.integers(0, 5), max_size=3), eager=st.booleans())
def test_any_schedule_goes_as_with_asyncio(schedule, cancel_at, eager):
    import hayase

    # A task that was done at once is noticed in its turn, as newer releases do.
    eager = eager and sys.version_info >= (3, 14)

    def outcome(namespace, new_loop):
        loop = new_loop()
        loop.set_exception_handler(lambda loop, context: None)
        if eager:
            loop.set_task_factory(asyncio.eager_task_factory)
        try:
            return loop.run_until_complete(Play(namespace).main(schedule, cancel_at))
        finally:
            loop.close()

    expected = outcome(asyncio, asyncio.SelectorEventLoop)
    assert outcome(hayase, hayase.new_event_loop) == expected
    assert outcome(hayase, asyncio.SelectorEventLoop) == expected
    assert outcome(asyncio, hayase.new_event_loop) == expected
