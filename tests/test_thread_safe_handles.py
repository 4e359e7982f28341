"""The handle of `call_soon_threadsafe` since 3.14: cancelled from another thread, it says exactly what happened."""

import asyncio
import os
import signal
import sys
import threading
import time

import pytest

pytestmark = pytest.mark.skipif(sys.version_info < (3, 14), reason="thread-safe handles came with 3.14")


def nothing(*args):
    pass


def let_others_run():
    """Other threads get the interpreter many times: one that did not wait would be through."""
    for _ in range(50):
        time.sleep(0)


def in_thread(function, *args):
    thread = threading.Thread(target=function, args=args)
    thread.start()
    return thread


def test_it_is_asyncios_thread_safe_handle(loop):
    handle = loop.call_soon_threadsafe(nothing)
    assert isinstance(handle, asyncio.events._ThreadSafeHandle)
    assert handle.cancelled() is False
    assert handle.cancel() is None
    assert handle.cancelled() is True
    assert not isinstance(loop.call_soon(nothing), asyncio.events._ThreadSafeHandle)
    assert not isinstance(loop.call_later(1, nothing), asyncio.events._ThreadSafeHandle)


@pytest.mark.parametrize("ask", ["cancel", "cancelled"])
def test_who_asks_from_another_thread_waits_for_the_end_of_the_callback(loop, ask):
    started, about_to_ask = threading.Event(), threading.Event()
    order = []

    def callback():
        order.append("begin")
        started.set()
        about_to_ask.wait()
        let_others_run()
        order.append("end")

    def other():
        started.wait()
        about_to_ask.set()
        assert not getattr(handle, ask)()
        order.append("asked")
        loop.call_soon_threadsafe(loop.stop)

    handle = loop.call_soon_threadsafe(callback)
    thread = in_thread(other)
    loop.run_forever()
    thread.join()
    assert order == ["begin", "end", "asked"]
    assert handle.cancelled() is (ask == "cancel")


def test_a_crowd_that_waits_gets_through_one_after_the_other(loop):
    waiting = threading.Barrier(9)
    order = []

    def callback():
        waiting.wait()
        let_others_run()
        order.append("end")

    def other():
        waiting.wait()
        for _ in range(100):
            handle.cancelled()
            handle.cancel()
        order.append("asked")

    handle = loop.call_soon_threadsafe(callback)
    threads = [in_thread(other) for _ in range(8)]
    loop.call_soon(loop.stop)
    loop.run_forever()
    for thread in threads:
        thread.join()
    assert order == ["end"] + ["asked"] * 8


def test_a_cancel_before_its_turn_is_final(loop, turn):
    seen = []
    handle = loop.call_soon_threadsafe(seen.append, 1)
    thread = in_thread(handle.cancel)
    thread.join()
    turn(2)
    assert handle.cancelled() is True
    assert seen == []


def test_cancelled_or_run_but_never_both(loop, turn):
    ran, cancelled = [], []
    go = threading.Semaphore(0)
    rounds = 300

    def other():
        for number in range(rounds):
            go.acquire()
            handles[number].cancel()
            cancelled.append(number not in ran)

    handles = []
    thread = in_thread(other)
    for number in range(rounds):
        handles.append(loop.call_soon_threadsafe(ran.append, number))
        go.release()
        turn()
    thread.join()
    turn()
    assert len(cancelled) == rounds
    assert [number for number in range(rounds) if cancelled[number]] == sorted(set(range(rounds)) - set(ran))


def test_a_callback_may_cancel_its_own_handle(loop, turn):
    seen = []

    def callback():
        seen.append(handle.cancelled())
        handle.cancel()
        handle._run()
        seen.append(handle.cancelled())

    handle = loop.call_soon_threadsafe(callback)
    turn()
    assert seen == [False, True]
    thread = in_thread(lambda: seen.append(handle.cancelled()))
    thread.join()
    assert seen == [False, True, True]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_callback_that_raises_lets_nobody_wait_for_ever(loop, turn, asyncio_log, error):
    started, about_to_ask = threading.Event(), threading.Event()
    order = []

    def callback():
        started.set()
        about_to_ask.wait()
        let_others_run()
        order.append("end")
        raise error("from the callback")

    def other():
        started.wait()
        about_to_ask.set()
        handle.cancel()
        order.append("cancelled")

    handle = loop.call_soon_threadsafe(callback)
    thread = in_thread(other)
    if error is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt, match="from the callback"):
            turn()
    else:
        turn()
        assert [message.split("(")[0] for message in asyncio_log.messages()] == [
            "Exception in callback test_a_callback_that_raises_lets_nobody_wait_for_ever.<locals>.callback"
        ]
    thread.join()
    assert order == ["end", "cancelled"]


def test_the_lock_is_held_while_the_exception_is_reported(loop, turn):
    about_to_ask = threading.Event()
    order = []

    def report(loop, context):
        assert context["handle"] is handle
        about_to_ask.set()
        let_others_run()
        order.append("reported")

    def other():
        about_to_ask.wait()
        handle.cancel()
        order.append("cancelled")

    loop.set_exception_handler(report)
    handle = loop.call_soon_threadsafe(lambda: 1 / 0)
    thread = in_thread(other)
    turn()
    thread.join()
    assert order == ["reported", "cancelled"]


def test_who_waits_hears_an_interrupt(loop):
    started, about_to_wait, interrupted = threading.Event(), threading.Event(), threading.Event()
    order = []

    def callback():
        started.set()
        about_to_wait.wait()
        let_others_run()
        os.kill(os.getpid(), signal.SIGINT)
        interrupted.wait()
        order.append("end")

    handle = loop.call_soon_threadsafe(callback)
    loop.call_soon(loop.stop)
    thread = in_thread(loop.run_forever)
    with pytest.raises(KeyboardInterrupt):
        started.wait()
        about_to_wait.set()
        handle.cancel()
        order.append("cancelled")
    order.append("interrupted")
    interrupted.set()
    thread.join()
    assert order == ["interrupted", "end"]
    assert handle.cancelled() is False


def test_a_cancel_in_debug_mode_keeps_the_text(loop, turn):
    loop.set_debug(True)
    handle = loop.call_soon_threadsafe(nothing, 1)
    in_thread(handle.cancel).join()
    assert "nothing" in repr(handle)
    assert repr(handle).startswith("<_ThreadSafeHandle cancelled")
    turn()
