"""Every public type is made and dropped while the collector runs all the time.

Before 3.12 a collection can begin with any allocation, also inside the making of an object; since then it runs between two
instructions. It calls finalizers, weak references and the callbacks of `gc`, which may do anything, collecting included.
What breaks here breaks by ending the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref

import pytest
from test_reference_counts import STORIES, contexts  # noqa: F401 - a fixture

LOCKS = [
    ("Lock", ()),
    ("Event", ()),
    ("Condition", ()),
    ("Semaphore", (1,)),
    ("BoundedSemaphore", (1,)),
    ("Barrier", (2,)),
]
QUEUES = [("Queue", (1,)), ("PriorityQueue", (1,)), ("LifoQueue", (1,))]


@pytest.fixture(params=[1, 2, 5])
def busy_collector(request):
    """Looks at every object that is young, as a debugger does."""

    def look(_phase, _info):
        for young in gc.get_objects(0):
            if "hayase" in str(type(young).__module__):
                gc.get_referents(young)
                # What is not complete yet: a transport without its attributes, a task (on 3.11) without its coroutine.
                with contextlib.suppress(AttributeError, AssertionError):
                    repr(young)

    before = gc.get_threshold()
    gc.callbacks.append(look)
    gc.set_threshold(request.param)
    yield
    gc.set_threshold(*before)
    gc.callbacks.remove(look)


class Collecting:
    def __del__(self):
        gc.collect(0)


def subclasses(cls):
    class Finalized(cls):
        def __del__(self):
            gc.collect(0)
            self.again = repr(self)

    class Slotted(cls):
        __slots__ = ("slot",)

    class Mixed(Collecting, cls):
        def __init__(self, *args, **kwargs):
            gc.collect(0)
            super().__init__(*args, **kwargs)
            self.kept = [self, Collecting()]

    return [cls, Finalized, Slotted, Mixed]


def decorated(made):
    """In a cycle, with an attribute that collects when it goes, and a weak reference that does."""
    with contextlib.suppress(AttributeError):
        made.myself = made
        made.collecting = Collecting()
    return made, weakref.ref(made, lambda _: gc.collect(0))


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_a_story_can_be_told_while_the_collector_runs(busy_collector, run, aio, contexts, story):  # noqa: F811
    run(story(aio, contexts))


@pytest.mark.parametrize(("name", "args"), LOCKS + QUEUES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_lock_or_queue_can_be_subclassed_awaited_and_dropped(busy_collector, run, aio, name, args):
    async def main():
        for cls in subclasses(getattr(aio, name)):
            for verb in ("acquire", "wait", "get", "put", "join"):
                if not hasattr(cls, verb):
                    continue
                made, _gone = decorated(cls(*args))
                arguments = ["item"] if verb == "put" else []
                never_begun = getattr(made, verb)(*arguments)
                begun = getattr(made, verb)(*arguments)
                with contextlib.suppress(StopIteration, RuntimeError):
                    begun.send(None)
                task = asyncio.ensure_future(getattr(made, verb)(*arguments))
                await asyncio.sleep(0)
                task.cancel()
                never_begun.close()
                begun.close()
                await asyncio.wait([task])
                task.cancelled() or task.exception()

    run(main())


def test_timeouts_and_groups_can_be_subclassed_and_dropped(busy_collector, loop, run, aio):
    async def fail():
        raise ValueError

    async def main():
        for cls in subclasses(aio.Timeout):
            with contextlib.suppress(TimeoutError):
                timeout, _gone = decorated(cls(loop.time() - 1))
                async with timeout:
                    await aio.sleep(1000)
            decorated(cls(None))[0].__aenter__().close()
        for cls in subclasses(aio.TaskGroup):
            group, _gone = decorated(cls())
            with contextlib.suppress(BaseExceptionGroup):
                async with group:
                    group.create_task(fail())
                    group.create_task(aio.sleep(1000))
            decorated(cls())

    run(main())


def test_futures_and_tasks_can_be_subclassed_and_dropped(busy_collector, loop, run, aio):
    async def forever(_collecting):
        try:
            await loop.create_future()
        finally:
            gc.collect(0)

    async def main():
        for make in [loop.create_future, *subclasses(aio.Future)]:
            decorated(make())[0].set_result(Collecting())
            failing, _gone = decorated(make())
            failing.set_exception(ValueError(failing, Collecting()))
            failing.exception()
        for make in [loop.create_task, *subclasses(aio.Task)]:
            task, _gone = decorated(make(forever(Collecting())))
            await aio.sleep(0)
            joined = decorated(aio.gather(task, loop.create_future()))[0]
            decorated(aio.shield(task))[0].cancel()
            joined.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await joined

    run(main())


def test_streams_can_be_subclassed_and_dropped(busy_collector, loop, run, aio):
    async def main():
        for cls in subclasses(aio.StreamReader):
            reader, _gone = decorated(cls())
            reader.feed_data(b"abc\ndef")
            assert await reader.readline() == b"abc\n"
            reading = reader.readexactly(100)
            reading.send(None)
            reading.close()
            reader.set_exception(ValueError(Collecting()))
        for cls in subclasses(aio.StreamReaderProtocol):
            decorated(cls(aio.StreamReader(), lambda reader, writer: None, loop=loop))[0].connection_lost(None)

    run(main())


def test_loops_and_runners_can_be_subclassed_and_dropped(busy_collector, loop_factory, aio):
    with contextlib.closing(loop_factory()) as plain:
        classes = subclasses(type(plain))
    for cls in classes:
        loop, _gone = decorated(cls())
        loop.future = loop.create_future()
        loop.future.loop = loop
        loop.call_soon(loop.stop)
        loop.call_later(1000, gc.collect, loop)
        loop.run_forever()
        loop.close()
    for cls in subclasses(aio.Runner):
        with decorated(cls(loop_factory=loop_factory))[0] as runner:
            runner.run(aio.sleep(0))
