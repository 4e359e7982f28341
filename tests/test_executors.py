"""Calls in threads: `run_in_executor` and `to_thread`, with the loop's own threads and with executors of all kinds."""

from __future__ import annotations

import asyncio
import concurrent.futures
import concurrent.futures.thread
import contextvars
import gc
import itertools
import queue
import sys
import threading
import weakref

import pytest


def busy(executor):
    """Occupies the only thread of `executor`; what is called lets it go again."""
    go, runs = threading.Event(), threading.Event()

    def occupy():
        runs.set()
        go.wait()

    executor.submit(occupy)
    runs.wait()
    return go.set


@pytest.fixture
def executor():
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        yield executor


# Results and errors --------------------------------------------------------------------------------------------------


def test_a_result_is_the_very_object(loop, run):
    thing = object()

    async def main():
        assert await loop.run_in_executor(None, lambda: thing) is thing
        assert await asyncio.to_thread(lambda: thing) is thing

    run(main())


def test_an_exception_is_the_very_object_with_the_traceback_of_the_function(loop, run):
    error = ValueError("mine")

    def fails():
        raise error

    async def main():
        with pytest.raises(ValueError) as caught:
            await loop.run_in_executor(None, fails)
        assert caught.value is error
        assert caught.traceback[-1].name == "fails"

    run(main())


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, BaseException])
def test_no_exception_of_a_call_ends_the_thread(loop, run, error):
    def fails():
        raise error("in a thread")

    async def main():
        future = loop.run_in_executor(None, fails)
        await asyncio.wait([future])
        assert type(future.exception()) is error
        assert await loop.run_in_executor(None, lambda: "the next call") == "the next call"

    run(main())


def test_errors_of_concurrent_futures_become_those_of_asyncio(loop, run):
    def fails(error):
        raise error("text")

    async def main():
        for theirs, ours in (
            (concurrent.futures.CancelledError, asyncio.CancelledError),
            (concurrent.futures.InvalidStateError, asyncio.InvalidStateError),
            (concurrent.futures.TimeoutError, asyncio.TimeoutError),
            (asyncio.CancelledError, asyncio.CancelledError),
        ):
            future = loop.run_in_executor(None, fails, theirs)
            await asyncio.wait([future])
            assert not future.cancelled()
            error = future.exception()
            assert (type(error), error.args) == (ours, ("text",))

    run(main())


@pytest.mark.skipif(
    sys.version_info < (3, 13), reason="before 3.13 such a future is never done, and asyncio reports it"
)
def test_stop_iteration_of_a_call_becomes_a_runtime_error(loop, run):
    async def main():
        with pytest.raises(RuntimeError, match="StopIteration interacts badly with generators") as caught:
            await loop.run_in_executor(None, next, iter(()))
        assert type(caught.value.__cause__) is StopIteration

    run(main())


def test_an_exception_that_nobody_retrieves_is_reported(loop, run):
    reports = []
    loop.set_exception_handler(lambda _loop, report: reports.append((report["message"], type(report["exception"]))))

    async def main():
        future = loop.run_in_executor(None, int, "no number")
        await asyncio.wait([future])

    run(main())
    gc.collect()
    assert reports == [("Future exception was never retrieved", ValueError)]


def test_a_result_that_somebody_else_has_set_is_an_error_for_the_exception_handler(loop, run, executor):
    reported = loop.create_future()
    loop.set_exception_handler(lambda _loop, report: reported.set_result(type(report["exception"])))
    go = busy(executor)

    async def main():
        future = loop.run_in_executor(executor, lambda: "late")
        future.set_result("early")
        go()
        assert await reported is AssertionError
        assert future.result() == "early"

    run(main())


def test_neither_the_function_nor_its_arguments_nor_its_result_are_kept(loop, run):
    class Thing:
        pass

    def call(thing):
        return thing

    async def main():
        thing = Thing()
        seen = weakref.ref(thing)
        future = loop.run_in_executor(None, call, thing)
        assert await future is thing
        del thing, future
        await loop.shutdown_default_executor()  # the thread has let go of everything, too
        gc.collect()
        assert seen() is None

    run(main())


# Contexts and threads ------------------------------------------------------------------------------------------------

variable = contextvars.ContextVar("variable", default="nothing")


def test_to_thread_runs_in_a_copy_of_the_context_and_run_in_executor_does_not(loop, run):
    def change():
        before = variable.get()
        variable.set("changed in the thread")
        return before

    async def main():
        variable.set("set by the task")
        assert await asyncio.to_thread(change) == "set by the task"
        assert variable.get() == "set by the task"
        assert await loop.run_in_executor(None, variable.get) == "nothing"

    run(main())


def test_to_thread_hands_over_all_arguments(loop, run):
    def call(*args, **kwargs):
        return args, kwargs

    async def main():
        assert await asyncio.to_thread(call, 1, 2, func=3, loop=4) == ((1, 2), {"func": 3, "loop": 4})

    run(main())


def test_to_thread_without_a_loop_is_refused_when_it_is_awaited(loop):
    coroutine = asyncio.to_thread(int)
    with pytest.raises(RuntimeError, match="no running event loop"):
        coroutine.send(None)


def test_the_threads_of_the_default_executor_are_named_and_used_again(loop, run):
    async def main():
        return {await loop.run_in_executor(None, lambda: threading.current_thread().name) for _ in range(20)}

    names = run(main())
    assert all(name.startswith("asyncio_") for name in names)
    assert "asyncio_0" in names


def test_calls_of_one_thread_run_in_the_order_they_were_given(loop, run, executor):
    order = []

    async def main():
        await asyncio.gather(*(loop.run_in_executor(executor, order.append, number) for number in range(50)))

    run(main())
    assert order == list(range(50))


def test_threads_that_finish_at_once_lose_no_result(loop, run):
    async def main():
        barrier = threading.Barrier(4)
        with concurrent.futures.ThreadPoolExecutor(4) as executor:
            for _ in range(50):
                calls = [loop.run_in_executor(executor, barrier.wait) for _ in range(4)]
                assert sorted(await asyncio.gather(*calls)) == [0, 1, 2, 3]

    run(main())


def test_an_outcome_does_not_wait_for_the_next_call_of_its_thread(loop, run):
    async def main():
        goes = [threading.Event() for _ in range(100)]  # more than there are threads
        calls = [loop.run_in_executor(None, go.wait) for go in goes]
        for go, call in zip(goes, calls, strict=True):
            go.set()
            assert await call is True

    run(main())


def test_calls_are_taken_whatever_the_loop_does_meanwhile(loop, run):
    async def main():
        done = threading.Event()
        future = loop.run_in_executor(None, done.set)
        done.wait()  # the loop is blocked, and the thread runs all the same
        await future

    run(main())


def test_what_is_submitted_to_the_default_executor_itself_runs_there(loop, run):
    async def main():
        await loop.run_in_executor(None, int)
        executor = loop._default_executor
        assert executor.submit(divmod, 7, 2).result() == (3, 1)
        assert list(executor.map(abs, range(-50, 0))) == list(range(50, 0, -1))

    run(main())


@pytest.mark.hayase_only("the queue of the default executor is hayase's")
def test_the_queue_of_the_default_executor_is_like_the_one_it_replaces(loop, run):
    run(loop.run_in_executor(None, int))
    make = type(loop._default_executor._work_queue)
    theirs = queue.SimpleQueue()
    assert {name for name in dir(theirs) if not name.startswith("_")} <= set(dir(make))
    run(loop.shutdown_default_executor())
    ours = loop._default_executor._work_queue
    assert ours.get_nowait() is None  # what ended the threads
    for each in (ours, theirs):
        assert each.empty() and each.qsize() == 0
        for method in (each.get_nowait, lambda: each.get(block=False), lambda: each.get(timeout=0.001)):  # noqa: B023
            with pytest.raises(queue.Empty):
                method()
        each.put(1)
        each.put_nowait(2)
        each.put(3, block=True, timeout=None)
        assert not each.empty() and each.qsize() == 3
        assert [each.get(), each.get(True, 10), each.get_nowait()] == [1, 2, 3]


@pytest.mark.hayase_only("the queue of the default executor is hayase's")
def test_nothing_is_lost_between_many_who_put_and_many_who_take(loop, run):
    run(loop.run_in_executor(None, int))
    run(loop.shutdown_default_executor())
    items = loop._default_executor._work_queue
    assert items.get_nowait() is None
    taken = [[] for _ in range(4)]

    def take(mine):
        while (item := items.get(block=True)) is not None:
            mine.append(item)

    def put(start):
        for number in range(start, start + 500):
            items.put(number)

    takers = [threading.Thread(target=take, args=[mine]) for mine in taken]
    putters = [threading.Thread(target=put, args=[start]) for start in (0, 500, 1000)]
    for thread in (*takers, *putters):
        thread.start()
    for thread in putters:
        thread.join()
    for _ in takers:
        items.put(None)
    for thread in takers:
        thread.join()
    assert sorted(itertools.chain(*taken)) == list(range(1500))


# Cancelling ----------------------------------------------------------------------------------------------------------


def test_a_call_that_was_cancelled_before_a_thread_took_it_never_runs(loop, run, executor):
    calls = []
    go = busy(executor)

    async def main():
        cancelled = loop.run_in_executor(executor, calls.append, "cancelled")
        kept = loop.run_in_executor(executor, calls.append, "kept")
        assert cancelled.cancel("why")
        with pytest.raises(asyncio.CancelledError, match="why"):
            await cancelled
        await asyncio.sleep(0)  # asyncio tells the executor's future a turn later
        go()
        await kept

    run(main())
    assert calls == ["kept"]


def test_the_outcome_of_a_call_that_was_cancelled_while_it_ran_is_dropped(loop, run, executor):
    go, runs = threading.Event(), threading.Event()

    def fails():
        runs.set()
        go.wait()
        raise ValueError("nobody is told")

    async def main():
        future = loop.run_in_executor(executor, fails)
        runs.wait()
        future.cancel()
        go.set()
        await loop.run_in_executor(executor, int)
        await asyncio.sleep(0)
        assert future.cancelled()

    run(main())


def test_cancelling_a_task_in_to_thread_leaves_the_thread_alone(loop, run):
    go, ended, runs = threading.Event(), threading.Event(), threading.Event()

    def call():
        runs.set()
        go.wait()
        ended.set()

    async def main():
        task = loop.create_task(asyncio.to_thread(call))
        await asyncio.sleep(0)
        runs.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not ended.is_set()
        go.set()
        await loop.shutdown_default_executor()
        assert ended.is_set()

    run(main())


def test_shutdown_with_cancel_futures_cancels_what_waits(loop, run):
    executor = concurrent.futures.ThreadPoolExecutor(1)
    go = busy(executor)
    calls = []

    async def main():
        waiting = [loop.run_in_executor(executor, calls.append, number) for number in range(3)]
        executor.shutdown(wait=False, cancel_futures=True)
        go()
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(error) for error in ended] == [asyncio.CancelledError] * 3
        assert all(future.cancelled() for future in waiting)

    run(main())
    assert calls == []


# Executors that refuse -----------------------------------------------------------------------------------------------


def test_an_executor_that_was_shut_down_takes_no_calls(same_as_asyncio):
    def story(loop):
        executor = concurrent.futures.ThreadPoolExecutor(1)
        executor.shutdown()
        loop.run_in_executor(executor, int)

    assert same_as_asyncio(story).error == (RuntimeError, "cannot schedule new futures after shutdown")


def test_an_interpreter_that_ends_takes_no_calls(same_as_asyncio, monkeypatch):
    def story(loop):
        with monkeypatch.context() as patch:
            patch.setattr(concurrent.futures.thread, "_shutdown", True)
            loop.run_in_executor(None, int)

    assert same_as_asyncio(story).error == (RuntimeError, "cannot schedule new futures after interpreter shutdown")


def test_a_thread_that_cannot_begin_breaks_the_executor_and_all_calls(loop, run, caplog):
    go = threading.Event()

    def fails():
        go.wait()
        raise ValueError("no thread for you")

    executor = concurrent.futures.ThreadPoolExecutor(1, initializer=fails)

    async def main():
        waiting = [loop.run_in_executor(executor, int) for _ in range(2)]
        go.set()
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(error) for error in ended] == [concurrent.futures.thread.BrokenThreadPool] * 2
        with pytest.raises(concurrent.futures.thread.BrokenThreadPool):
            loop.run_in_executor(executor, int)

    run(main())
    executor.shutdown()
    assert [record.getMessage() for record in caplog.records] == ["Exception in initializer:"]
    caplog.clear()


def test_what_is_no_executor_gets_the_error_of_python(same_as_asyncio):
    def story(loop):
        loop.run_in_executor("no executor", int)

    assert same_as_asyncio(story).error[0] is AttributeError


def test_a_submit_that_returns_no_future_is_refused(same_as_asyncio):
    class Strange:
        def submit(self, function, *args):
            return "no future"

    def story(loop):
        loop.run_in_executor(Strange(), int)

    error = same_as_asyncio(story).error
    assert error == (AssertionError, "concurrent.futures.Future is expected, got 'no future'")


# Executors of the program --------------------------------------------------------------------------------------------


class Inline(concurrent.futures.Executor):
    """Calls at once, in the caller's thread."""

    def submit(self, function, /, *args, **kwargs):
        future = concurrent.futures.Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


def test_any_executor_may_be_given(loop, run):
    async def main():
        assert await loop.run_in_executor(Inline(), divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(Inline(), divmod, 7, 0)

    run(main())


def test_the_future_of_an_executor_that_was_never_begun_is_cancelled_with_the_loops(loop, run):
    class Lazy(concurrent.futures.Executor):
        def submit(self, function, /, *args, **kwargs):
            self.future = concurrent.futures.Future()
            return self.future

    async def main():
        executor = Lazy()
        loop.run_in_executor(executor, int).cancel()
        await asyncio.sleep(0)
        assert executor.future.cancelled()
        future = loop.run_in_executor(executor, int)
        executor.future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future

    run(main())


def test_a_subclass_with_a_submit_of_its_own_is_asked(loop, run):
    class Counting(concurrent.futures.ThreadPoolExecutor):
        submitted = 0

        def submit(self, function, /, *args, **kwargs):
            self.submitted += 1
            return super().submit(function, *args, **kwargs)

    async def main():
        with Counting(1) as executor:
            loop.set_default_executor(executor)
            assert await loop.run_in_executor(None, int) == 0
            assert await asyncio.to_thread(int) == 0
            assert executor.submitted == 2

    run(main())


@pytest.mark.parametrize("whose", ["the class", "the instance"])
def test_a_submit_that_was_patched_is_asked(loop, run, monkeypatch, executor, whose):
    calls = []
    original = concurrent.futures.ThreadPoolExecutor.submit

    def traced(self, function, /, *args, **kwargs):
        calls.append(function)
        return original(self, function, *args, **kwargs)

    if whose == "the class":
        monkeypatch.setattr(concurrent.futures.ThreadPoolExecutor, "submit", traced)
    else:
        monkeypatch.setattr(executor, "submit", traced.__get__(executor))

    async def main():
        assert await loop.run_in_executor(executor, int) == 0

    run(main())
    assert calls == [int]


def test_methods_that_a_loop_brings_itself_are_called(loop_factory):
    asked = []

    class Mine(loop_factory.loop_class):
        def create_future(self):
            asked.append("create_future")
            return super().create_future()

        def call_soon_threadsafe(self, *args, **kwargs):
            asked.append("call_soon_threadsafe")
            return super().call_soon_threadsafe(*args, **kwargs)

    loop = Mine()
    try:
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            assert loop.run_until_complete(loop.run_in_executor(executor, int)) == 0
    finally:
        loop.close()
    assert asked == ["create_future", "call_soon_threadsafe"]


# Loops that end ------------------------------------------------------------------------------------------------------


def test_a_call_may_end_after_its_loop_was_closed(loop_factory, executor, caplog):
    loop = loop_factory()
    go = busy(executor)
    futures = [loop.run_in_executor(executor, int), loop.run_in_executor(executor, int, "no number")]
    loop.close()
    go()
    assert executor.submit(int).result() == 0  # the calls before it are over
    assert [future.done() for future in futures] == [False, False]
    assert caplog.records == []


def test_a_call_may_end_while_its_loop_does_not_run(loop, run, executor):
    future = loop.run_in_executor(executor, divmod, 7, 2)
    assert executor.submit(int).result() == 0
    assert not future.done()

    async def main():
        return await future

    assert run(main()) == (3, 1)


def test_a_loop_is_freed_with_its_threads(loop_factory):
    loop = loop_factory()
    loop.run_until_complete(loop.run_in_executor(None, int))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    seen = weakref.ref(loop)
    del loop
    gc.collect()
    assert seen() is None


def test_loops_in_several_threads_share_an_executor(loop_factory):
    results = {}

    def run_loop(number, executor):
        loop = loop_factory()

        async def main():
            calls = [loop.run_in_executor(executor, divmod, number * 100 + n, 7) for n in range(100)]
            results[number] = await asyncio.gather(*calls)

        try:
            loop.run_until_complete(main())
        finally:
            loop.close()

    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        threads = [threading.Thread(target=run_loop, args=(number, executor)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == {number: [divmod(number * 100 + n, 7) for n in range(100)] for number in range(4)}


def test_the_interpreter_ends_well_with_calls_that_wait_and_run(program):
    done = program("""
        loop = new_event_loop()
        go = threading.Event()
        futures = [loop.run_in_executor(None, go.wait) for _ in range(100)]
        loop.run_until_complete(asyncio.sleep(0))
        threading.Timer(0.05, go.set).start()
        print("main ends")
    """)
    assert (done.returncode, done.stdout) == (0, "main ends\n"), done.stderr
    assert "Fatal" not in done.stderr and "panicked" not in done.stderr


def test_the_interpreter_ends_well_with_threads_that_have_nothing_to_do(program):
    done = program("""
        loop = new_event_loop()
        loop.run_until_complete(asyncio.gather(*(loop.run_in_executor(None, int) for _ in range(10))))
        print("main ends")
    """)
    assert (done.returncode, done.stdout) == (0, "main ends\n"), done.stderr
    assert "Fatal" not in done.stderr and "panicked" not in done.stderr


def test_a_forked_child_has_calls_of_its_own(program):
    done = program(
        """
        loop = new_event_loop()
        loop.run_until_complete(asyncio.gather(*(loop.run_in_executor(None, int) for _ in range(10))))
        if os.fork():
            _, status = os.wait()
            assert loop.run_until_complete(loop.run_in_executor(None, int, "7")) == 7
            print("status", os.waitstatus_to_exitcode(status))
        else:
            own = new_event_loop()
            assert own.run_until_complete(own.run_in_executor(None, int, "8")) == 8
            own.close()
            os._exit(0)  # concurrent.futures would wait for threads that the child has not
        """,
        "-W",
        "ignore",
    )
    assert (done.returncode, done.stdout) == (0, "status 0\n"), done.stderr
