"""What a loop reports: the exceptions of callbacks, and in debug mode what is slow or wrong."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import re
import sys
import threading

import pytest


def nothing():
    pass


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
        r"Executing <Handle nothing\(\) at .*test_loop_reports\.py:\d+ created at .*test_loop_reports\.py:\d+>"
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
