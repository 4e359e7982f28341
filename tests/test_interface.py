"""The interface of the loop, held against that of the running interpreter's own loop: every method, every parameter.

What a method does is told in the file of its subject. Here is that nothing is missing, nothing is called differently, and
that every parameter can be given by place and by name, as there.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from asyncio import base_events, unix_events

import pytest

import hayase

STOCK = unix_events._UnixSelectorEventLoop

# Parameters that came with a newer version of Python than the running one, and are taken on every version.
NEWER = {
    "create_connection": {"all_errors"},  # 3.12
    "create_server": {"keep_alive"},  # 3.13
    "create_unix_server": {"cleanup_socket"},  # 3.13
    "shutdown_default_executor": {"timeout"},  # 3.12
}

# Parameters whose default is told from the value that asyncio has for it.
NOT_GIVEN = {"create_unix_server": [(None, True)], "create_datagram_endpoint": [(None, 0)]}


def public(cls):
    return sorted(name for name in dir(cls) if not name.startswith("_"))


METHODS = [name for name in public(STOCK) if callable(getattr(STOCK, name))]


@pytest.fixture(scope="module")
def loops():
    ours, theirs = hayase.new_event_loop(), asyncio.SelectorEventLoop()
    yield ours, theirs
    ours.close()
    theirs.close()


def parameters(loop, name):
    return inspect.signature(getattr(loop, name)).parameters


def test_the_loop_has_the_public_names_of_asyncios_and_no_others():
    stock = set(public(STOCK)) | set(public(asyncio.SelectorEventLoop()))
    assert set(public(hayase.EventLoop)) == stock | {"slow_callback_duration"}


@pytest.mark.parametrize("name", METHODS)
def test_no_method_is_inherited_from_the_abstract_class_unless_asyncios_is(name):
    def is_abstract(loop_class):
        return getattr(loop_class, name) is getattr(asyncio.AbstractEventLoop, name, None)

    assert is_abstract(hayase.EventLoop) == is_abstract(STOCK)


@pytest.mark.parametrize("name", METHODS)
def test_parameters_have_asyncios_names_order_kinds_and_defaults(loops, name):
    ours, theirs = (parameters(loop, name) for loop in loops)
    ours = {key: value for key, value in ours.items() if key in theirs or key not in NEWER.get(name, ())}
    if "kwargs" in ours and "kwargs" not in theirs:  # create_task says its keywords here, and passes them on there
        assert set(theirs) - set(ours) <= {"name", "context", "eager_start"}
        return
    assert [(p.name, p.kind) for p in ours.values()] == [(p.name, p.kind) for p in theirs.values()]
    # An int where asyncio has an enumeration is equal to it. `None` is "not given".
    defaults = zip([p.default for p in ours.values()], [p.default for p in theirs.values()], strict=True)
    assert all(mine == stock or (mine, stock) in NOT_GIVEN.get(name, ()) for mine, stock in defaults)


@pytest.mark.parametrize(
    "call",
    [
        lambda loop, done: loop.call_soon(callback=done),
        lambda loop, done: loop.call_soon(callback=done, context=None),
        lambda loop, done: loop.call_soon(context=None, callback=done),
        lambda loop, done: loop.call_soon_threadsafe(callback=done),
        lambda loop, done: loop.call_later(delay=0, callback=done),
        lambda loop, done: loop.call_later(0, callback=done),
        lambda loop, done: loop.call_later(callback=done, delay=0),
        lambda loop, done: loop.call_at(when=loop.time(), callback=done, context=None),
        lambda loop, done: loop.call_at(loop.time(), callback=done),
    ],
)
def test_callbacks_may_be_given_by_name(loop, call):
    ran = loop.create_future()
    call(loop, lambda: ran.set_result("ran"))
    assert loop.run_until_complete(ran) == "ran"


def test_a_coroutine_may_be_given_to_create_task_by_name(loop):
    async def work():
        return asyncio.current_task().get_name()

    assert loop.run_until_complete(loop.create_task(coro=work(), name="named")) == "named"
    assert loop.run_until_complete(loop.create_task(name="named", coro=work())) == "named"


@pytest.mark.parametrize(
    "call",
    [
        lambda loop: loop.call_soon(),
        lambda loop: loop.call_soon(print, callback=print),
        lambda loop: loop.call_soon(print, delay=1),
        lambda loop: loop.call_later(callback=print),
        lambda loop: loop.call_later(1),
        lambda loop: loop.call_later(1, delay=1),
        lambda loop: loop.call_at(callback=print),
        lambda loop: loop.call_at(1, print, when=1),
        lambda loop: loop.create_task(),
        lambda loop: loop.create_task(coroutine=None),
        lambda loop: loop.create_future(None),
        lambda loop: loop.stop(1),
        lambda loop: loop.run_until_complete(),
        lambda loop: loop.create_connection(),
        lambda loop: loop.create_server(no_such=1),
        lambda loop: loop.getaddrinfo("host"),
        lambda loop: loop.set_debug(),
    ],
)
def test_wrong_calls_are_type_errors_when_they_are_made(loop, call):
    with pytest.raises(TypeError):
        call(loop)


def test_servers_and_transports_have_the_methods_of_asyncios(run):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        transport, _ = await loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname()[:2])
        try:
            for object_, cls in ((server, base_events.Server), (transport, asyncio.Transport)):
                assert isinstance(object_, cls)
                missing = set(public(cls)) - set(public(object_))
                assert not missing
                for name in public(cls):
                    # A bound method and a function of the class differ by `self`.
                    if callable(getattr(cls, name)):
                        theirs = list(inspect.signature(getattr(cls, name)).parameters)[1:]
                        assert list(inspect.signature(getattr(object_, name)).parameters) == theirs, name
        finally:
            transport.abort()
            server.close()
            await server.wait_closed()

    run(main())


def test_what_a_transport_cannot_do_it_says_when_it_is_called(run):
    """asyncio's transports of all kinds have the names of a stream's."""

    async def main():
        loop = asyncio.get_running_loop()
        reading, writing = os.pipe()
        pipe, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(writing, "wb", 0))
        datagrams, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0))
        try:
            for transport in (pipe, datagrams):
                assert not set(public(asyncio.Transport)) - set(public(transport))
            for method in (pipe.pause_reading, pipe.resume_reading, pipe.is_reading, datagrams.write_eof):
                with pytest.raises(NotImplementedError):
                    method()
            for method in (datagrams.write, lambda data: datagrams.writelines([data])):
                with pytest.raises(NotImplementedError):
                    method(b"data")
            with pytest.raises(NotImplementedError):
                datagrams.can_write_eof()
        finally:
            pipe.abort()
            datagrams.abort()
            os.close(reading)
            await asyncio.sleep(0)

    run(main())


# Debug mode ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "environment", "debug"),
    [
        ([], {}, False),
        ([], {"PYTHONASYNCIODEBUG": "1"}, True),
        (["-X", "dev"], {}, True),
        (["-E"], {"PYTHONASYNCIODEBUG": "1"}, False),
    ],
    ids=["plain", "PYTHONASYNCIODEBUG", "-X dev", "-E"],
)
def test_debug_mode_is_chosen_by_the_environment(program, options, environment, debug, loop_factory):
    if "-E" in options and loop_factory.is_hayase:
        pytest.skip("-E also hides PYTHONPATH, by which the tests find hayase")
    done = program("loop = new_event_loop(); print(loop.get_debug()); loop.close()", *options, **environment)
    assert (done.stdout, done.returncode) == (f"{debug}\n", 0), done.stderr


def test_a_runner_makes_its_loop_with_the_factory_it_is_given(loop_factory):
    async def main():
        return asyncio.get_running_loop()

    with asyncio.Runner(loop_factory=loop_factory.loop_class, debug=True) as runner:
        loop = runner.run(main())
        assert type(loop) is loop_factory.loop_class
        assert loop.get_debug()
        assert runner.get_loop() is loop
    assert loop.is_closed()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio.run takes a loop_factory from 3.12 on")
def test_asyncio_run_takes_the_loop_class_as_a_factory(loop_factory):
    async def main():
        return type(asyncio.get_running_loop())

    assert asyncio.run(main(), loop_factory=loop_factory.loop_class) is loop_factory.loop_class
