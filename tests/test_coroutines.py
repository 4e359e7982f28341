"""Coroutine methods that are written in Rust are coroutines to Python: driven by hand, they answer as an `async def`'s.

One of each kind: a method that moves data, one that sets something up, one of a lock or event. What they do is told in the
files of their subjects.
"""

from __future__ import annotations

import asyncio
import collections.abc
import gc
import inspect
import socket
import warnings
import weakref

import pytest


@pytest.fixture(params=["sock_recv", "sock_accept", "wait"])
def make(request, loop, aio):
    """Makes a coroutine that will wait for ever; the part of its name behind the class."""
    if request.param == "wait":
        event = aio.Event()
        yield event.wait, "wait"
        return
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        for sock in (listener, client):
            sock.setblocking(False)
        if request.param == "sock_recv":
            yield lambda: loop.sock_recv(client, 1), "sock_recv"
        else:
            accepted, _ = listener.accept()
            with accepted:
                yield lambda: loop.sock_accept(listener), "sock_accept"


@pytest.fixture
def inside(loop, run):
    """Runs a function while the loop runs."""

    def runs(function):
        async def main():
            return function()

        return run(main())

    return runs


def forget(loop, future):
    """Where asyncio waits with a reader, it stays until its future is done."""
    if not future.done():
        future.cancel()


def test_it_is_a_coroutine_with_a_name(make):
    method, name = make
    coroutine = method()
    assert isinstance(coroutine, collections.abc.Coroutine)
    assert inspect.isawaitable(coroutine)
    assert asyncio.iscoroutine(coroutine)
    assert coroutine.__name__ == name
    assert coroutine.__qualname__.endswith(f".{name}")
    assert repr(coroutine).startswith(f"<coroutine object {coroutine.__qualname__} at 0x")
    assert not coroutine.cr_running
    assert coroutine.cr_await is None
    coroutine.close()


def test_it_can_be_referenced_weakly(make):
    coroutine = make[0]()
    reference = weakref.ref(coroutine)
    assert reference() is coroutine
    coroutine.close()
    del coroutine
    gc.collect()
    assert reference() is None


def test_what_it_waits_for_is_seen_and_raising_there_ends_it(loop, inside, make):
    def drive():
        coroutine = make[0]()
        future = coroutine.send(None)
        assert coroutine.cr_await is not None
        error = ValueError("by hand")
        with pytest.raises(ValueError, match="by hand") as caught:
            coroutine.throw(error)
        assert caught.value is error
        assert coroutine.cr_await is None
        with pytest.raises(RuntimeError, match=r"^cannot reuse already awaited coroutine$"):
            coroutine.send(None)
        with pytest.raises(RuntimeError, match=r"^cannot reuse already awaited coroutine$"):
            coroutine.throw(error)
        coroutine.close()
        forget(loop, future)

    inside(drive)


def test_nothing_can_be_sent_before_it_begins(loop, inside, make):
    def drive():
        coroutine = make[0]()
        with pytest.raises(TypeError, match=r"^can't send non-None value to a just-started coroutine$"):
            coroutine.send(1)
        future = coroutine.send(None)
        coroutine.close()
        forget(loop, future)

    inside(drive)


def test_raising_before_it_begins_ends_it(make):
    coroutine = make[0]()
    with pytest.raises(KeyError):
        coroutine.throw(KeyError("early"))
    with pytest.raises(RuntimeError, match=r"^cannot reuse already awaited coroutine$"):
        coroutine.send(None)


def test_one_that_is_dropped_while_it_waits_is_closed_in_silence(loop, inside, make):
    def drive():
        coroutine = make[0]()
        future = coroutine.send(None)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            del coroutine
            gc.collect()
        forget(loop, future)

    inside(drive)


def test_one_that_is_never_awaited_is_warned_of_by_name(make):
    method, name = make
    with pytest.warns(RuntimeWarning, match=rf"^coroutine '\w+\.{name}' was never awaited$"):
        method()
