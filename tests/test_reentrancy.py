"""Every operation from every place that the loop calls: anything from anywhere, never a deadlock or a panic."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import weakref

import pytest
from recording import BufferedRecording, Record, Recording


def turn_quietly(loop, count=1):
    for _ in range(count):
        loop.stop()
        loop.run_forever()


class Scene:
    """A loop with a live connection on it, and everything an operation may want to touch."""

    def __init__(self, loop):
        self.loop = loop
        self.pair = socket.socketpair()
        self.results = []
        self.future = loop.create_future()
        self.handle = loop.call_later(1000, print)
        self.task = None
        self.near = self.far = None
        self.server = None
        self.leftovers = []

    def perform(self, operation):
        try:
            OPERATIONS[operation](self)
        except Exception as error:
            self.results.append(type(error).__name__)
        else:
            self.results.append("done")


async def _idle():
    await asyncio.sleep(0)


def _create_and_cancel(scene):
    task = scene.loop.create_task(_idle())
    task.cancel()
    scene.leftovers.append(task)


def _nested_run(scene):
    coro = _idle()
    try:
        scene.loop.run_until_complete(coro)
    finally:
        coro.close()


OPERATIONS = {
    "stop": lambda s: s.loop.stop(),
    "close": lambda s: s.loop.close(),
    "run_until_complete": _nested_run,
    "call_soon": lambda s: s.loop.call_soon(int),
    "call_soon_threadsafe": lambda s: s.loop.call_soon_threadsafe(int),
    "call_later": lambda s: s.loop.call_later(0, int),
    "cancel handle": lambda s: s.handle.cancel(),
    "set future": lambda s: s.future.done() or s.future.set_result(None),
    "cancel future": lambda s: s.future.cancel(),
    "create task": _create_and_cancel,
    "debug on and off": lambda s: (s.loop.set_debug(True), s.loop.set_debug(False)),
    "set handler": lambda s: s.loop.set_exception_handler(s.loop.get_exception_handler()),
    "call handler": lambda s: s.loop.call_exception_handler({"message": "on purpose"}),
    "reader": lambda s: (s.loop.add_reader(s.pair[0], int), s.loop.remove_reader(s.pair[0])),
    "writer": lambda s: (s.loop.add_writer(s.pair[0], int), s.loop.remove_writer(s.pair[0])),
    "write": lambda s: s.near.transport.write(b"x" * 10),
    "write much": lambda s: s.near.transport.write(b"x" * 1_000_000),
    "writelines": lambda s: s.near.transport.writelines([b"a", b"b"]),
    "write_eof": lambda s: s.near.transport.write_eof(),
    "close transport": lambda s: s.near.transport.close(),
    "abort transport": lambda s: s.near.transport.abort(),
    "pause and resume": lambda s: (s.near.transport.pause_reading(), s.near.transport.resume_reading()),
    "set_protocol": lambda s: s.near.transport.set_protocol(s.near.transport.get_protocol()),
    "limits": lambda s: s.near.transport.set_write_buffer_limits(high=100),
    "ask transport": lambda s: None,
    "close server": lambda s: s.server.close(),
    "ask loop": lambda s: None,
    "collect": lambda s: gc.collect() and None,
    "new loop": lambda s: type(s.loop)().close(),
}


class Provoking(Recording):
    """Performs the operation of the scene in the callback that was asked for."""

    def __init__(self, scene, callback, operation):
        super().__init__(keep_open=True)
        self.scene, self.callback, self.operation = scene, callback, operation

    def _in(self, callback):
        if callback == self.callback and not self.scene.results:
            self.scene.near = self if self.transport is not None else self.scene.near
            self.scene.perform(self.operation)

    def connection_made(self, transport):
        super().connection_made(transport)
        self._in("connection_made")

    def data_received(self, data):
        super().data_received(data)
        self._in("data_received")

    def eof_received(self):
        super().eof_received()
        self._in("eof_received")
        return True

    def connection_lost(self, error):
        super().connection_lost(error)
        self._in("connection_lost")

    def pause_writing(self):
        super().pause_writing()
        self._in("pause_writing")

    def resume_writing(self):
        super().resume_writing()
        self._in("resume_writing")


class ProvokingBuffered(BufferedRecording, Provoking):
    data_received = property()

    def __init__(self, scene, callback, operation):
        Provoking.__init__(self, scene, callback, operation)
        self.buffer = bytearray(100)
        self.hints = []

    def get_buffer(self, sizehint):
        self._in("get_buffer")
        return super().get_buffer(sizehint)

    def buffer_updated(self, nbytes):
        super().buffer_updated(nbytes)
        self._in("buffer_updated")


class Mortal:
    def __init__(self, scene, operation):
        self.arguments = scene, operation

    def __del__(self):
        scene, operation = self.arguments
        scene.perform(operation)


class Referent:
    pass


def _by_protocol(callback):
    def provoke(scene):
        if callback in ("data_received", "get_buffer", "buffer_updated"):
            scene.far.transport.write(b"x")
        elif callback == "eof_received":
            scene.far.transport.write_eof()
        elif callback == "connection_lost":
            scene.near.transport.abort()
        elif callback in ("pause_writing", "resume_writing"):
            scene.loop.call_soon(scene.near.transport.write, b"x" * 8_000_000)

    return provoke


def _reader(scene, operation):
    def readable():
        scene.loop.remove_reader(scene.pair[0])
        scene.perform(operation)

    scene.loop.add_reader(scene.pair[0], readable)
    scene.pair[1].send(b"x")


def _task(scene, operation):
    async def main():
        scene.perform(operation)

    scene.leftovers.append(scene.loop.create_task(main()))


def _done_callback(scene, operation):
    future = scene.loop.create_future()
    future.add_done_callback(lambda f: scene.perform(operation))
    future.set_result(None)


def _handler(scene, operation):
    def handler(loop, context):
        loop.set_exception_handler(None)
        loop.set_exception_handler(lambda loop, context: None)
        scene.perform(operation)

    scene.loop.set_exception_handler(handler)
    scene.loop.call_soon(scene.loop.call_exception_handler, {"message": "provoked"})


def _factory(scene, operation):
    def factory(loop, coro, **kwargs):
        loop.set_task_factory(None)
        scene.perform(operation)
        return asyncio.Task(coro, loop=loop, **kwargs)

    scene.loop.set_task_factory(factory)
    scene.loop.call_soon(lambda: scene.leftovers.append(scene.loop.create_task(_idle())))


def _finalizer_of_a_dropped_argument(scene, operation):
    scene.loop.call_soon(lambda mortal: None, Mortal(scene, operation))


def _finalizer_of_a_cancelled_argument(scene, operation):
    handle = scene.loop.call_later(1000, print, Mortal(scene, operation))
    scene.loop.call_soon(handle.cancel)


def _finalizer_of_a_result(scene, operation):
    async def main():
        return Mortal(scene, operation)

    scene.loop.create_task(main())


def _weakref_callback(scene, operation):
    thing = Referent()
    scene.leftovers.append(weakref.ref(thing, lambda ref: scene.perform(operation)))
    scene.loop.call_soon(lambda thing: None, thing)


def _signal_handler(scene, operation):
    def handler():
        scene.loop.remove_signal_handler(signal.SIGUSR1)
        scene.perform(operation)

    scene.loop.add_signal_handler(signal.SIGUSR1, handler)
    os.kill(os.getpid(), signal.SIGUSR1)


PLACES = {
    "callback": lambda scene, operation: scene.loop.call_soon(scene.perform, operation),
    "timer": lambda scene, operation: scene.loop.call_later(0, scene.perform, operation),
    "threadsafe callback": lambda scene, operation: scene.loop.call_soon_threadsafe(scene.perform, operation),
    "reader": _reader,
    "task": _task,
    "done callback": _done_callback,
    "exception handler": _handler,
    "task factory": _factory,
    "finalizer of an argument": _finalizer_of_a_dropped_argument,
    "finalizer of a cancelled argument": _finalizer_of_a_cancelled_argument,
    "finalizer of a result": _finalizer_of_a_result,
    "weak reference": _weakref_callback,
    "signal handler": _signal_handler,
}
PROTOCOL_PLACES = [
    "connection_made",
    "data_received",
    "eof_received",
    "connection_lost",
    "pause_writing",
    "resume_writing",
    "get_buffer",
    "buffer_updated",
]


async def _stage(scene, place, operation):
    loop = scene.loop
    accepted = loop.create_future()

    def accept():
        accepted.set_result(Recording(keep_open=True))
        return accepted.result()

    def make():
        kind = ProvokingBuffered if place in ("get_buffer", "buffer_updated") else Provoking
        protocol = kind(scene, place, operation)
        scene.near = protocol
        return protocol

    scene.server = await loop.create_server(accept, "127.0.0.1", 0)
    await loop.create_connection(make, *scene.server.sockets[0].getsockname())
    scene.far = await accepted
    await scene.far.connected


def perform_everywhere(loop, place, operation):
    """Set the scene, provoke the place, let it all end. Returns what the operation said there."""
    scene = Scene(loop)
    loop.set_exception_handler(lambda loop, context: None)
    staging = loop.create_task(_stage(scene, place, operation))
    for _ in range(5):  # `stop` may be the operation of connection_made
        try:
            loop.run_until_complete(staging)
            break
        except RuntimeError:
            continue
    if place in PLACES:
        PLACES[place](scene, operation)
    else:
        _by_protocol(place)(scene)
    for _ in range(1000):
        if scene.results:
            break
        turn_quietly(loop)
        gc.collect(0) if place.startswith(("finalizer", "weak")) else None
    if isinstance(scene.near, Record):
        for protocol in (scene.near, scene.far):
            protocol.transport.abort()
    scene.server.close()
    scene.handle.cancel()
    turn_quietly(loop, 5)
    ran = []
    loop.call_soon(ran.append, "the loop lives")
    turn_quietly(loop)
    for sock in scene.pair:
        sock.close()
    scene.near = scene.far = scene.leftovers = None
    return scene.results[:1], ran


@pytest.mark.parametrize("place", [*PLACES, *PROTOCOL_PLACES])
def test_every_operation_can_be_performed_from_every_kind_of_callback(same_as_asyncio, loop_factory, place, recwarn):
    def story_of(operation):
        return lambda loop: perform_everywhere(loop, place, operation)

    for operation in OPERATIONS:
        outcome = same_as_asyncio(story_of(operation))
        assert outcome.error is None, (operation, outcome)
        results, ran = outcome.value
        assert len(results) == 1, operation
        assert ran == ["the loop lives"], operation
