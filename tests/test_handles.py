"""The handles of callbacks and timers: what they say about themselves, cancelling, and what they keep alive."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import weakref

import pytest


def nothing():
    pass


def test_handles_are_asyncios_handles(loop, turn):
    context = contextvars.copy_context()
    soon = loop.call_soon(nothing, context=context)
    timer = loop.call_later(10, nothing, context=context)
    safe = loop.call_soon_threadsafe(nothing)
    for handle in (soon, timer, safe):
        assert isinstance(handle, asyncio.Handle)
        assert handle.cancelled() is False
    assert isinstance(timer, asyncio.TimerHandle)
    assert not isinstance(soon, asyncio.TimerHandle)
    if sys.version_info >= (3, 12):
        assert soon.get_context() is context
        assert timer.get_context() is context
    timer.cancel()
    assert timer.cancelled() is True
    timer.cancel()
    assert timer.when() == pytest.approx(loop.time() + 10, abs=5)


def test_a_cancelled_handle_forgets_callback_and_arguments(loop):
    class Big:
        def method(self, other):
            raise AssertionError("was cancelled")

    for arm in (loop.call_soon, lambda *args: loop.call_later(1000, *args), loop.call_soon_threadsafe):
        big, argument = Big(), Big()
        refs = [weakref.ref(big), weakref.ref(argument)]
        handle = arm(big.method, argument)
        del big, argument
        handle.cancel()
        gc.collect()
        assert [ref() for ref in refs] == [None, None]


def test_a_handle_that_ran_can_still_be_cancelled(loop, turn):
    seen = []
    handle = loop.call_soon(seen.append, 1)
    turn()
    assert handle.cancelled() is False
    handle.cancel()
    assert handle.cancelled() is True
    assert seen == [1]


def test_handles_look_as_asyncios(same_as_asyncio):
    class Thing:
        def __repr__(self):
            return "<Thing>"

        def __call__(self):
            pass

    def story(loop):
        import functools

        texts = []
        for arm in (loop.call_soon, loop.call_soon_threadsafe, functools.partial(loop.call_at, 123.5)):
            for callback, args in [
                (nothing, ()),
                (nothing, (1, "two")),
                (Thing(), ()),
                (functools.partial(nothing, 1), (2,)),
                (print, (1,)),
                ([].append, (1,)),
            ]:
                handle = arm(callback, *args)
                texts.append(repr(handle))
                handle.cancel()
                texts.append(repr(handle))
        return "\n".join(texts)

    assert "nothing" in same_as_asyncio(story).value


def test_a_deadline_given_as_an_integer_is_answered_as_an_integer(loop):
    handle = loop.call_at(10**6, nothing)
    assert handle.when() == 10**6
    assert type(handle.when()) is int


def test_handles_in_debug_mode_say_where_they_were_made(same_as_asyncio):
    def story(loop):
        loop.set_debug(True)
        handle = loop.call_soon(nothing)
        timer = loop.call_at(5, nothing)
        texts = [repr(handle), repr(timer)]
        handle.cancel()
        timer.cancel()
        return "\n".join([*texts, repr(handle), repr(timer)])

    assert "created at" in same_as_asyncio(story).value


def test_timer_handles_compare_by_deadline_and_hash_by_it(loop):
    early, late = loop.call_at(1000, nothing), loop.call_at(2000, nothing)
    same = loop.call_at(1000, nothing)
    assert early < late and early <= late and late > early and late >= early
    assert early <= same and early >= same
    assert early == same
    assert early != late
    assert hash(early) == hash(same)
    assert not early < same
    same.cancel()
    assert early != same
    assert early != 1000
    assert (early == object()) is False
    with pytest.raises(TypeError):
        early < 1000  # noqa: B015
    by_hand = asyncio.TimerHandle(1000, nothing, (), loop)
    assert (early <= by_hand) and (early >= by_hand)
    assert by_hand <= late


def test_handles_made_by_hand_run(loop, turn):
    seen = []
    handle = asyncio.Handle(seen.append, ("by hand",), loop)
    handle._run()
    assert seen == ["by hand"]


def test_a_handle_can_be_run_by_hand_as_selector_loops_of_libraries_do(loop):
    seen = []
    handle = loop.call_soon(seen.append, 1)
    handle._run()
    assert seen == [1]
    assert handle._cancelled is False
    handle.cancel()
    assert handle._cancelled is True


def test_handles_have_the_private_names_that_asyncio_has(loop):
    handle = loop.call_soon(nothing)
    assert handle._callback is nothing
    assert handle._args == ()
    assert handle._loop is loop
    timer = loop.call_at(12.5, nothing, 1)
    assert timer._when == 12.5
    assert timer._args == (1,)
    assert timer._scheduled is True
    timer.cancel()


def test_handles_can_be_weakly_referenced(loop, turn):
    handle = loop.call_soon(nothing)
    alive = weakref.ref(handle)
    assert alive() is handle
    del handle
    turn()
    gc.collect()
    assert alive() is None
