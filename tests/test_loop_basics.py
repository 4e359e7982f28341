"""The loop itself: what is refused, how it starts, stops and closes.

What runs when: test_loop_order.py. Handles, reports, executors, transports, readers, signals, futures and tasks have
files of their own.
"""

from __future__ import annotations

import asyncio
import gc
import re
import socket
import sys
import threading
import weakref

import pytest

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


@pytest.mark.oracle_differs("a loop of asyncio refers to itself, so that only the collector frees it")
def test_a_loop_dropped_without_closing_is_freed_and_warns_at_once(loop_factory):
    loop = loop_factory()
    gone = weakref.ref(loop)
    gc.disable()
    try:
        if loop_factory.is_hayase:
            with pytest.warns(ResourceWarning, match="unclosed event loop"):
                del loop
        else:
            del loop
            assert gone() is not None
            with pytest.warns(ResourceWarning, match="unclosed event loop"):
                gc.collect()
        assert gone() is None
    finally:
        gc.enable()


def test_the_loop_says_what_it_is(loop, turn):
    seen = []
    assert re.search(r"running=False closed=False debug=False", repr(loop))
    loop.call_soon(lambda: seen.append(repr(loop)))
    turn()
    assert "running=True closed=False debug=False" in seen[0]


def test_methods_patched_in_the_loops_class_are_the_ones_that_are_called(loop, monkeypatch):
    asked = []

    async def getaddrinfo(_self, host, port, **_keywords):
        asked.append((host, port))
        raise OSError("no such name")

    monkeypatch.setattr(type(loop), "getaddrinfo", getaddrinfo)
    with pytest.raises(OSError, match="no such name"):
        loop.run_until_complete(loop.create_connection(asyncio.Protocol, "a.test", 7))
    assert asked == [("a.test", 7)]

    async def create_connection(_self, *arguments):
        return arguments

    monkeypatch.setattr(type(loop), "create_connection", create_connection)
    assert loop.run_until_complete(loop.create_connection("factory", "a.test", 7)) == ("factory", "a.test", 7)


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
