"""Futures made by `loop.create_future()`: every state, every error, and life together with asyncio's own futures."""

from __future__ import annotations

import asyncio
import collections.abc
import concurrent.futures
import contextvars
import copy
import gc
import pickle
import re
import sys
import weakref

import pytest

# States --------------------------------------------------------------------------------------------------------------


def test_a_new_future_is_pending(loop):
    future = loop.create_future()
    assert not future.done()
    assert not future.cancelled()
    assert future.get_loop() is loop
    assert isinstance(future, asyncio.Future)
    assert asyncio.isfuture(future)
    with pytest.raises(asyncio.InvalidStateError, match=r"^Result is not (set|ready)\.$"):
        future.result()
    with pytest.raises(asyncio.InvalidStateError, match=r"^Exception is not set\.$"):
        future.exception()
    future.cancel()


def test_a_future_with_a_result_gives_it_again_and_again(loop):
    future = loop.create_future()
    value = object()
    assert future.set_result(value) is None
    assert future.done() and not future.cancelled()
    assert future.result() is value
    assert future.result() is value
    assert future.exception() is None
    assert future.cancel() is False


def test_a_future_with_an_exception_raises_it_again_and_again(loop):
    future = loop.create_future()
    error = ValueError("once")
    future.set_exception(error)
    assert future.done() and not future.cancelled()
    for _ in range(3):
        with pytest.raises(ValueError) as caught:
            future.result()
        assert caught.value is error
    assert future.exception() is error
    assert future.cancel() is False
    # The traceback does not grow with every call.
    depth, traceback = 0, error.__traceback__
    while traceback:
        depth, traceback = depth + 1, traceback.tb_next
    assert depth <= 2


def test_an_exception_class_is_called_to_make_the_exception(loop):
    future = loop.create_future()
    future.set_exception(KeyError)
    assert type(future.exception()) is KeyError


@pytest.mark.parametrize("wrong", [1, "text", object, type, None], ids=repr)
def test_only_exceptions_can_be_set_as_exceptions(same_as_asyncio, wrong):
    outcome = same_as_asyncio(lambda loop: loop.create_future().set_exception(wrong))
    assert outcome.error[0] is TypeError


def test_stop_iteration_cannot_be_set_as_an_exception(same_as_asyncio):
    def story(loop):
        future = loop.create_future()
        try:
            future.set_exception(StopIteration("value"))
        except TypeError as error:
            return repr(error)
        error = future.exception()
        return repr(error), repr(error.__cause__), repr(error.__context__)

    same_as_asyncio(story)
    same_as_asyncio(lambda loop: story_of_the_class(loop))


def story_of_the_class(loop):
    future = loop.create_future()
    try:
        future.set_exception(StopIteration)
    except TypeError as error:
        return repr(error)
    return repr(future.exception())


def test_a_future_can_be_finished_only_once(same_as_asyncio):
    def story(loop):
        texts = []
        for first in ("result", "exception", "cancel"):
            for second in ("result", "exception"):
                future = loop.create_future()
                getattr(future, "set_" + first, future.cancel)(*[] if first == "cancel" else [ValueError()])
                with pytest.raises(asyncio.InvalidStateError) as caught:
                    getattr(future, "set_" + second)(KeyError())
                texts.append(str(caught.value))
                future.cancelled() or future.exception()
        return "\n".join(texts)

    assert "invalid state" in same_as_asyncio(story).value


def test_a_cancelled_future_raises_cancelled_error(loop):
    future = loop.create_future()
    assert future.cancel() is True
    assert future.cancelled() and future.done()
    assert future.cancel() is False
    with pytest.raises(asyncio.CancelledError) as caught:
        future.result()
    assert caught.value.args == ()
    with pytest.raises(asyncio.CancelledError):
        future.exception()


@pytest.mark.parametrize("message", ["why", None, "", 7, ("a", "b")], ids=repr)
def test_the_message_of_a_cancellation_arrives(same_as_asyncio, message):
    def story(loop):
        future = loop.create_future()
        future.cancel(message) if message == "why" else future.cancel(msg=message)
        for ask in (future.result, future.exception):
            with pytest.raises(asyncio.CancelledError) as caught:
                ask()
            yielded = caught.value.args
        return repr(yielded)

    same_as_asyncio(story)


def test_the_cancelled_error_of_an_awaited_future_carries_its_message(loop, run):
    async def main():
        future = loop.create_future()
        loop.call_soon(future.cancel, "the message")
        with pytest.raises(asyncio.CancelledError) as caught:
            await future
        assert caught.value.args == ("the message",)

    run(main())


# Awaiting ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 1, (), (1, 2), StopIteration, ValueError("a value, not raised")], ids=repr)
def test_awaiting_gives_the_result_whatever_it_is(loop, run, value):
    async def main():
        done = loop.create_future()
        done.set_result(value)
        later = loop.create_future()
        loop.call_soon(later.set_result, value)
        return await done, await later

    first, second = run(main())
    assert first is value and second is value


def test_a_tuple_and_an_exception_travel_whole_through_a_by_hand_await(loop):
    for value in [(1, 2), ValueError("x"), None, (), 0]:
        future = loop.create_future()
        future.set_result(value)
        with pytest.raises(StopIteration) as caught:
            next(iter(future.__await__()))
        assert caught.value.value is value


def test_awaiting_an_exception_raises_that_very_object(loop, run):
    error = LookupError("this one")

    async def main():
        future = loop.create_future()
        loop.call_soon(future.set_exception, error)
        await future

    with pytest.raises(LookupError) as caught:
        run(main())
    assert caught.value is error


def test_a_pending_future_yields_itself_once(loop):
    future = loop.create_future()
    iterator = future.__await__()
    assert next(iterator) is future
    assert future._asyncio_future_blocking is True
    with pytest.raises(RuntimeError, match="await wasn't used with future"):
        next(iterator)
    future.cancel()


def test_yield_from_and_iter_work_as_await_does(loop):
    future = loop.create_future()

    def generator():
        return (yield from future)

    running = generator()
    assert next(running) is future
    future.set_result("done")
    with pytest.raises(StopIteration) as caught:
        next(running)
    assert caught.value.value == "done"


def test_a_coroutine_waiting_on_a_future_can_be_thrown_into_and_closed(loop):
    seen = []

    async def waits(future):
        try:
            await future
        except BaseException as error:
            seen.append(type(error))
            raise

    for throw, error in [
        (lambda coro: coro.throw(ValueError("x")), ValueError),
        (lambda coro: coro.throw(asyncio.CancelledError()), asyncio.CancelledError),
    ]:
        future = loop.create_future()
        coro = waits(future)
        assert coro.send(None) is future
        with pytest.raises(error):
            throw(coro)
        assert not future.done()
    future = loop.create_future()
    coro = waits(future)
    coro.send(None)
    coro.close()
    assert seen == [ValueError, asyncio.CancelledError, GeneratorExit]


def test_the_iterator_of_a_future_has_the_generator_methods(loop):
    future = loop.create_future()
    iterator = future.__await__()
    assert iterator.send(None) is future
    with pytest.raises(ValueError):
        iterator.throw(ValueError("thrown"))
    other = loop.create_future().__await__()
    next(other)
    other.close()
    third = loop.create_future().__await__()
    with pytest.raises(KeyError):
        third.throw(KeyError)


def test_a_future_is_awaitable_and_no_coroutine(loop):
    future = loop.create_future()
    assert isinstance(future, collections.abc.Awaitable)
    assert not asyncio.iscoroutine(future)
    future.cancel()


def test_many_tasks_can_wait_for_one_future_and_wake_in_order(loop, run):
    woken = []

    async def waiter(number, future):
        woken.append((number, await future))

    async def main():
        future = loop.create_future()
        tasks = [asyncio.create_task(waiter(n, future)) for n in range(50)]
        await asyncio.sleep(0)
        future.set_result("go")
        await asyncio.gather(*tasks)

    run(main())
    assert woken == [(n, "go") for n in range(50)]


# Done callbacks ------------------------------------------------------------------------------------------------------


def test_done_callbacks_run_in_order_in_the_next_turn(loop, turn):
    seen = []
    future = loop.create_future()
    for number in range(10):
        future.add_done_callback(lambda got, number=number: seen.append((number, got)))
    future.set_result(None)
    assert seen == []
    turn()
    assert seen == [(number, future) for number in range(10)]


def test_a_callback_added_to_a_done_future_runs_in_the_next_turn(loop, turn):
    seen = []
    future = loop.create_future()
    future.set_result(None)
    future.add_done_callback(seen.append)
    assert seen == []
    turn()
    assert seen == [future]


def test_done_callbacks_run_after_a_cancellation_and_after_an_exception(loop, turn):
    seen = []
    cancelled, failed = loop.create_future(), loop.create_future()
    cancelled.add_done_callback(seen.append)
    failed.add_done_callback(seen.append)
    cancelled.cancel()
    failed.set_exception(ValueError())
    turn()
    assert seen == [cancelled, failed]
    failed.exception()


def test_done_callbacks_can_be_removed(loop, turn):
    seen = []
    future = loop.create_future()
    one, two = seen.append, lambda f: seen.append("two")
    assert future.remove_done_callback(one) == 0
    for callback in (one, two, one, two, one):
        future.add_done_callback(callback)
    assert future.remove_done_callback(one) == 3
    assert future.remove_done_callback(one) == 0
    future.set_result(None)
    turn()
    assert seen == ["two", "two"]
    assert future.remove_done_callback(two) == 0


def test_removing_compares_by_equality_and_survives_a_hostile_eq(loop, turn):
    future = loop.create_future()
    seen = []

    class Equal:
        def __init__(self, then=lambda: None):
            self.then = then

        def __eq__(self, other):
            self.then()
            return True

        __hash__ = None

        def __call__(self, future):
            seen.append(self)

    for _ in range(4):
        future.add_done_callback(Equal())
    assert future.remove_done_callback(Equal()) == 4
    rounds = []

    def interfere():
        if not rounds:
            rounds.append(1)
            future.remove_done_callback(marker)

    hostile = Equal(then=interfere)

    def marker(future):
        seen.append("marker")

    for callback in (marker, hostile, marker, hostile):
        future.add_done_callback(callback)
    future.remove_done_callback(hostile)

    class Broken:
        def __eq__(self, other):
            raise ZeroDivisionError

    future.add_done_callback(marker)
    future.add_done_callback(marker)
    with pytest.raises(ZeroDivisionError):
        future.remove_done_callback(Broken())
    future.cancel()
    turn()


def test_a_done_callback_runs_in_the_context_where_it_was_added_or_the_given_one(loop, turn):
    var = contextvars.ContextVar("var", default="default")
    seen = []
    given = contextvars.copy_context()
    given.run(var.set, "given")
    future = loop.create_future()
    var.set("adding")
    future.add_done_callback(lambda f: seen.append(var.get()))
    future.add_done_callback(lambda f: seen.append(var.get()), context=given)
    var.set("finishing")
    future.set_result(None)
    future.add_done_callback(lambda f: seen.append(var.get()))
    future.add_done_callback(lambda f: seen.append(var.get()), context=given)
    turn()
    assert seen == ["adding", "given", "finishing", "given"]


def test_the_exception_of_a_done_callback_is_reported_and_the_others_run(loop, turn):
    contexts, seen = [], []
    loop.set_exception_handler(lambda loop, context: contexts.append(context))
    future = loop.create_future()

    def breaks(future):
        raise ValueError("in callback")

    future.add_done_callback(breaks)
    future.add_done_callback(seen.append)
    future.set_result(None)
    turn()
    assert seen == [future]
    assert [str(context["exception"]) for context in contexts] == ["in callback"]


@pytest.mark.parametrize(
    "story",
    [
        pytest.param(lambda loop: loop.create_future().add_done_callback(), id="add_done_callback"),
        pytest.param(lambda loop: loop.create_future().add_done_callback(print, 1), id="add_done_callback-2"),
        pytest.param(lambda loop: loop.create_future().remove_done_callback(), id="remove_done_callback"),
        pytest.param(lambda loop: loop.create_future().set_result(), id="set_result"),
        pytest.param(lambda loop: loop.create_future().set_result(1, 2), id="set_result-2"),
        pytest.param(lambda loop: loop.create_future().set_exception(), id="set_exception"),
        pytest.param(lambda loop: loop.create_future().cancel(1, 2), id="cancel-2"),
        pytest.param(lambda loop: loop.create_future().cancel(wrong=2), id="cancel-keyword"),
        pytest.param(lambda loop: loop.create_future().result(1), id="result"),
        pytest.param(lambda loop: loop.create_future().done(1), id="done"),
    ],
)
def test_a_call_of_the_wrong_shape_is_a_type_error(same_as_asyncio, story):
    assert same_as_asyncio(story, text=False).error[0] is TypeError


# What it looks like --------------------------------------------------------------------------------------------------


def test_a_future_looks_as_asyncios(same_as_asyncio):
    def named(future):
        pass

    def story(loop):
        texts = []

        def show(future):
            texts.append(repr(future))
            return future

        pending = show(loop.create_future())
        for _ in range(4):
            pending.add_done_callback(named)
            show(pending)
        pending.set_result([1, "two"])
        show(pending)
        failed = loop.create_future()
        failed.set_exception(ValueError("broken"))
        show(failed).exception()
        cancelled = loop.create_future()
        cancelled.cancel("message")
        show(cancelled)
        long = loop.create_future()
        long.set_result("x" * 1000)
        show(long)
        itself = loop.create_future()
        itself.set_result([itself])
        show(itself)
        itself.result().clear()
        loop.set_debug(True)
        show(loop.create_future()).cancel()
        # Stock create_future() is Python, and names itself as the place.
        texts[-1] = re.sub(r"created at \S+:\d+", "created at …", texts[-1])
        return "\n".join(texts)

    text = same_as_asyncio(story).value
    assert text.startswith("<Future pending>")


def test_the_private_names_answer_as_asyncios(same_as_asyncio):
    def callback(future):
        pass

    def story(loop):
        rows = []
        pending = loop.create_future()
        with_callback = loop.create_future()
        with_callback.add_done_callback(callback)
        two = loop.create_future()
        two.add_done_callback(callback)
        two.add_done_callback(callback)
        done = loop.create_future()
        done.set_result(5)
        failed = loop.create_future()
        failed.set_exception(ValueError("x"))
        cancelled = loop.create_future()
        cancelled.cancel("why")
        for future in (pending, with_callback, two, done, failed, cancelled):
            for name in (
                "_state",
                "_result",
                "_exception",
                "_callbacks",
                "_log_traceback",
                "_cancel_message",
                "_asyncio_future_blocking",
                "_source_traceback",
            ):
                value = getattr(future, name)
                if name == "_callbacks" and value is not None:
                    value = [(c is callback, type(context).__name__) for c, context in value]
                rows.append((name, repr(value)))
        assert pending._loop is loop
        failed.exception()
        rows.append(failed._log_traceback)
        return rows

    same_as_asyncio(story)


def test_log_traceback_can_only_be_set_to_false(same_as_asyncio):
    def story(loop):
        future = loop.create_future()
        future.set_exception(ValueError("not read, and silenced"))
        future._log_traceback = False
        texts = []
        for wrong in (True, 1, "x"):
            try:
                future._log_traceback = wrong
            except Exception as error:
                texts.append(repr(error))
        try:
            del future._log_traceback
        except Exception as error:
            texts.append(type(error).__name__)  # its text changes between bugfix releases of 3.14
        future._cancel_message = "set by hand"
        texts.append(future._cancel_message)
        future._asyncio_future_blocking = True
        texts.append(repr(future._asyncio_future_blocking))
        return "\n".join(texts)

    assert same_as_asyncio(story).log == []


def test_debug_mode_remembers_where_a_future_was_made(loop):
    loop.set_debug(True)
    future = loop.create_future()
    here = "test_debug_mode_remembers_where_a_future_was_made"
    assert here in [entry.name for entry in future._source_traceback[-2:]]
    assert "created at" in repr(future)
    future.cancel()


# Left unread ---------------------------------------------------------------------------------------------------------


def test_an_exception_that_nobody_read_is_reported(same_as_asyncio):
    def story(loop):
        future = loop.create_future()
        future.set_exception(ValueError("nobody asked"))
        del future
        gc.collect()

    [(_level, text)] = same_as_asyncio(story).log
    assert text.startswith("Future exception was never retrieved\nfuture: <Future finished exception=")


def test_an_exception_that_nobody_read_is_reported_in_debug_with_its_origin(loop, asyncio_log):
    loop.set_debug(True)
    future = loop.create_future()
    future.set_exception(ValueError("nobody asked"))
    del future
    gc.collect()
    [record] = asyncio_log.take()
    assert re.match(r"Future exception was never retrieved\nfuture: <Future.*created at.*", record.getMessage())
    assert "Object created at (most recent call last):" in record.getMessage()
    assert record.exc_info[0] is ValueError


@pytest.mark.parametrize("read", ["result", "exception", "await"])
def test_an_exception_that_was_read_is_not_reported(loop, run, read):
    async def main():
        future = loop.create_future()
        future.set_exception(ValueError("read"))
        try:
            if read == "await":
                await future
            else:
                getattr(future, read)()
        except ValueError:
            pass

    run(main())
    gc.collect()


def test_the_report_goes_to_the_exception_handler_with_everything_in_it(loop):
    contexts = []
    loop.set_exception_handler(lambda loop, context: contexts.append(context))
    future = loop.create_future()
    error = ValueError("unread")
    future.set_exception(error)
    del future
    gc.collect()
    [context] = contexts
    assert context["message"] == "Future exception was never retrieved"
    assert context["exception"] is error
    assert repr(context["future"]).startswith("<Future finished")
    assert set(context) == {"message", "exception", "future"}
    context.clear()


def test_a_future_brought_back_to_life_by_its_report_works(loop):
    saved = []
    loop.set_exception_handler(lambda loop, context: saved.append(context["future"]))
    for _ in range(3):
        future = loop.create_future()
        future.set_exception(ValueError("unread"))
        del future
        gc.collect()
    assert len(saved) == 3
    for future in saved:
        assert future.done()
        with pytest.raises(ValueError):
            future.result()
    # Made from what the free list may hold: each has a finalizer of its own.
    saved.clear()
    gc.collect()
    future = loop.create_future()
    future.set_exception(ValueError("unread again"))
    del future
    gc.collect()
    assert len(saved) == 1


def test_pending_futures_are_dropped_silently(loop):
    for _ in range(10):
        loop.create_future()
    gc.collect()


# References ----------------------------------------------------------------------------------------------------------


def test_futures_can_be_weakly_referenced(loop):
    future = loop.create_future()
    dead = []
    alive = weakref.ref(future, dead.append)
    assert alive() is future
    del future
    gc.collect()
    assert alive() is None
    assert dead == [alive]
    # The next future, perhaps in the same memory, is not reached by the old reference.
    other = loop.create_future()
    assert alive() is None
    assert weakref.getweakrefcount(other) == 0


def test_a_future_in_a_cycle_is_collected(loop):
    future = loop.create_future()
    future.set_result([future])
    second = loop.create_future()
    second.add_done_callback(lambda f, second=second: None)
    third = loop.create_future()
    error = ValueError()
    error.future = third
    third.set_exception(error)
    third.exception()
    refs = [weakref.ref(future), weakref.ref(second), weakref.ref(third)]
    del future, second, third, error
    gc.collect()
    assert [ref() for ref in refs] == [None] * 3


def test_results_exceptions_and_callbacks_are_released(loop, turn):
    value, error = object(), ValueError()
    counts = sys.getrefcount(value), sys.getrefcount(error)

    def callback(future):
        pass

    callback_count = sys.getrefcount(callback)
    for _ in range(1000):
        future = loop.create_future()
        future.add_done_callback(callback)
        future.set_result(value)
        assert future.result() is value
        failed = loop.create_future()
        failed.set_exception(error)
        failed.exception()
        unfinished = loop.create_future()
        unfinished.add_done_callback(callback)
        removed = loop.create_future()
        removed.add_done_callback(callback)
        removed.remove_done_callback(callback)
    turn()
    del future, failed, unfinished, removed
    gc.collect()
    assert (sys.getrefcount(value), sys.getrefcount(error)) == counts
    assert sys.getrefcount(callback) == callback_count


def test_ten_thousand_awaited_futures_leave_nothing_behind(loop, run):
    async def main(rounds):
        for _ in range(rounds):
            future = loop.create_future()
            loop.call_soon(future.set_result, None)
            await future
            with_value = loop.create_future()
            loop.call_soon(with_value.set_result, [])
            await with_value
            cancelled = loop.create_future()
            loop.call_soon(cancelled.cancel)
            try:
                await cancelled
            except asyncio.CancelledError:
                pass

    run(main(100))
    gc.collect()
    before = len(gc.get_objects())
    blocks = sys.getallocatedblocks()
    run(main(3400))
    gc.collect()
    assert len(gc.get_objects()) - before < 50
    assert sys.getallocatedblocks() - blocks < 500


def test_futures_cannot_be_pickled_or_copied(loop):
    future = loop.create_future()
    with pytest.raises(TypeError):
        pickle.dumps(future)
    with pytest.raises(TypeError):
        copy.copy(future)
    future.cancel()


def test_futures_are_equal_only_to_themselves_and_can_be_keys(loop):
    one, two = loop.create_future(), loop.create_future()
    assert one == one and one != two
    assert {one: 1, two: 2}[one] == 1
    with pytest.raises(TypeError):
        one < two  # noqa: B015


def test_the_future_class_can_be_subscripted(loop):
    assert asyncio.Future[int].__origin__ is asyncio.Future
    assert type(loop.create_future())[int] is not None


# Together with asyncio's own -----------------------------------------------------------------------------------------


def test_a_future_made_by_hand_can_be_awaited_on_the_loop(loop, run):
    async def main():
        by_hand = asyncio.Future(loop=loop)
        loop.call_soon(by_hand.set_result, "by hand")
        assert await by_hand == "by hand"
        failed = asyncio.Future()
        loop.call_soon(failed.set_exception, ValueError("by hand"))
        with pytest.raises(ValueError, match="by hand"):
            await failed
        cancelled = asyncio.Future(loop=loop)
        loop.call_soon(cancelled.cancel, "message")
        with pytest.raises(asyncio.CancelledError) as caught:
            await cancelled
        assert caught.value.args == ("message",)

    run(main())


def test_a_python_future_can_be_awaited_on_the_loop(loop, run):
    from asyncio.futures import _PyFuture

    async def main():
        by_hand = _PyFuture(loop=loop)
        loop.call_soon(by_hand.set_result, "python")
        return await by_hand

    assert run(main()) == "python"


def test_a_subclass_of_future_works_and_is_finished_by_ours(loop, run):
    class Own(asyncio.Future):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.callbacks_seen = 0

        def add_done_callback(self, *args, **kwargs):
            self.callbacks_seen += 1
            return super().add_done_callback(*args, **kwargs)

    async def main():
        own = Own(loop=loop)
        inner = loop.create_future()
        inner.add_done_callback(lambda f: own.set_result(f.result()))
        loop.call_soon(inner.set_result, 5)
        return await own, own.callbacks_seen

    assert run(main()) == (5, 1)


def test_a_task_made_by_hand_can_await_a_future_of_the_loop(loop, run):
    async def child(future):
        return await future

    async def main():
        future = loop.create_future()
        task = asyncio.Task(child(future), loop=loop)
        loop.call_soon(future.set_result, "to a foreign task")
        return await task

    assert run(main()) == "to a foreign task"


def test_a_python_task_can_await_a_future_of_the_loop(loop, run):
    from asyncio.tasks import _PyTask

    async def child(future):
        return await future

    async def main():
        future = loop.create_future()
        task = _PyTask(child(future), loop=loop)
        loop.call_soon(future.set_result, "to a python task")
        cancelled = _PyTask(child(loop.create_future()), loop=loop)
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        return await task

    if sys.version_info >= (3, 12):
        assert run(main()) == "to a python task"
    else:
        assert run(main()) == "to a python task"


def test_an_object_that_only_behaves_like_a_future_can_be_awaited(loop, run):
    class Duck:
        """Not a Future: has the protocol of one."""

        _asyncio_future_blocking = False

        def __init__(self):
            self._inner = loop.create_future()

        def get_loop(self):
            return loop

        def __getattr__(self, name):
            return getattr(self._inner, name)

        def __await__(self):
            if not self._inner.done():
                self._asyncio_future_blocking = True
                yield self
            return self._inner.result()

    async def main():
        duck = Duck()
        loop.call_soon(duck._inner.set_result, "quack")
        return await duck

    assert run(main()) == "quack"


def test_a_concurrent_future_can_be_wrapped(loop, run):
    async def main():
        theirs = concurrent.futures.Future()
        ours = asyncio.wrap_future(theirs, loop=loop)
        loop.call_soon(theirs.set_result, "from a thread")
        assert await ours == "from a thread"
        theirs = concurrent.futures.Future()
        ours = asyncio.wrap_future(theirs)
        ours.cancel()
        await asyncio.sleep(0)
        assert theirs.cancelled()
        assert asyncio.wrap_future(ours) is ours

    run(main())


def test_shield_gather_and_wait_work_on_futures(loop, run):
    async def main():
        inner = loop.create_future()
        outer = asyncio.shield(inner)
        outer.cancel()
        assert not inner.cancelled()
        futures = [loop.create_future() for _ in range(3)]
        for number, future in enumerate(futures):
            loop.call_soon(future.set_result, number)
        assert await asyncio.gather(*futures, return_exceptions=True) == [0, 1, 2]
        done, pending = await asyncio.wait([inner, *futures], return_when=asyncio.FIRST_COMPLETED)
        assert done == set(futures) and pending == {inner}
        inner.set_result(None)
        async with asyncio.timeout(10):
            await inner

    run(main())


def test_a_future_of_another_loop_is_refused_when_awaited(loop, loop_factory):
    other = loop_factory()

    async def main():
        with pytest.raises(RuntimeError, match="attached to a different loop"):
            await other.create_future()

    loop.run_until_complete(main())
    other.close()


def test_futures_can_be_finished_after_the_loop_has_closed_but_callbacks_cannot_run(same_as_asyncio):
    def story(loop):
        quiet, waited = loop.create_future(), loop.create_future()
        waited.add_done_callback(print)
        loop.close()
        quiet.set_result(1)
        waited.set_result(1)

    assert same_as_asyncio(story).error == (RuntimeError, "Event loop is closed")
