"""Queue, PriorityQueue, LifoQueue: asyncio's classes on the oracle's side, hayase's on the other."""

from __future__ import annotations

import asyncio
import collections
import collections.abc
import copy
import gc
import sys
import types
import weakref

import pytest
from conftest import LoopFactory
from coroutines import settle
from hypothesis import given, settings
from hypothesis import strategies as st

since_3_13 = pytest.mark.skipif(sys.version_info < (3, 13), reason="asyncio's queues can be shut down since 3.13")


def test_items_come_out_in_the_order_of_the_class(run, aio):
    async def main(queue):
        for item in (3, 1, 2):
            await queue.put(item)
        assert queue.qsize() == 3 and not queue.empty() and not queue.full()
        return [await queue.get() for _ in range(3)]

    assert run(main(aio.Queue())) == [3, 1, 2]
    assert run(main(aio.PriorityQueue())) == [1, 2, 3]
    assert run(main(aio.LifoQueue())) == [2, 1, 3]


def test_what_can_be_done_at_once_takes_no_turn_of_the_loop(loop, run, aio):
    async def main():
        queue, order = aio.Queue(), []
        loop.call_soon(order.append, "turn")
        await queue.put(1)
        order.append(await queue.get())
        assert order == [1]
        coroutine = queue.get()
        assert isinstance(coroutine, collections.abc.Coroutine)
        queue.put_nowait("later")
        assert await asyncio.wait_for(coroutine, 10) == "later"
        assert await asyncio.gather(queue.put(2), queue.get()) == [None, 2]

    run(main())


def test_full_and_empty_have_their_errors(aio):
    queue = aio.Queue(maxsize=2)
    assert queue.maxsize == 2
    with pytest.raises(asyncio.QueueEmpty) as empty:
        queue.get_nowait()
    assert empty.value.args == ()
    queue.put_nowait(1)
    queue.put_nowait(item=2)
    assert queue.full()
    with pytest.raises(asyncio.QueueFull):
        queue.put_nowait(3)
    with pytest.raises(ValueError, match=r"^task_done\(\) called too many times$"):
        for _ in range(3):
            queue.task_done()
    with pytest.raises(TypeError, match=r"Queue\.put_nowait\(\) missing 1 required positional argument: 'item'"):
        queue.put_nowait()
    with pytest.raises(TypeError, match=r"Queue\.__init__\(\) got an unexpected keyword argument 'loop'"):
        aio.Queue(loop=None)


@pytest.mark.parametrize(("maxsize", "room"), [(-1, 100), (0, 100), (1.3, 2), (True, 1), (0.0, 100)])
def test_maxsize_may_be_any_number(aio, maxsize, room):
    queue = aio.Queue(maxsize)
    for item in range(room):
        assert not queue.full()
        queue.put_nowait(item)
    assert queue.full() == (room < 100)
    assert queue.maxsize is maxsize


def test_a_maxsize_that_is_no_number_fails_when_it_is_compared(aio):
    queue = aio.Queue("many")
    with pytest.raises(TypeError, match="not supported between instances of 'str' and 'int'"):
        queue.full()
    with pytest.raises(TypeError, match="not supported between instances of 'str' and 'int'"):
        queue.put_nowait(1)


# Waiting -------------------------------------------------------------------------------------------------------------


def test_who_waits_is_served_in_the_order_of_arrival(run, aio):
    async def main():
        queue, order = aio.Queue(1), []

        async def get(name):
            order.append((name, await queue.get()))

        async def put(item):
            await queue.put(item)
            order.append(("put", item))

        getters = [asyncio.create_task(get(name)) for name in "abc"]
        await settle()
        putters = [asyncio.create_task(put(item)) for item in range(5)]
        await asyncio.gather(*getters)
        assert [entry for entry in order if entry[0] != "put"] == [("a", 0), ("b", 1), ("c", 2)]
        assert await queue.get() == 3 and await queue.get() == 4
        await asyncio.gather(*putters)
        return order

    run(main())


def test_a_getter_cancelled_after_it_was_woken_loses_no_item(run, aio):
    async def main():
        queue = aio.Queue()
        first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
        await settle()
        queue.put_nowait("item")
        first.cancel()
        await settle()
        assert first.cancelled() and second.result() == "item"
        third = asyncio.create_task(queue.get())
        await settle()
        queue.put_nowait("kept")
        third.cancel()
        await settle()
        assert third.cancelled() and queue.get_nowait() == "kept"

    run(main())


def test_a_putter_cancelled_after_it_was_woken_passes_the_room_on(run, aio):
    async def main():
        queue = aio.Queue(1)
        queue.put_nowait(0)
        first, second = asyncio.create_task(queue.put(1)), asyncio.create_task(queue.put(2))
        await settle()
        assert queue.get_nowait() == 0
        first.cancel()
        await settle()
        assert first.cancelled() and second.done()
        assert queue.get_nowait() == 2 and queue.empty()

    run(main())


def test_a_dropped_getter_leaves_the_line(run, aio):
    async def main():
        queue = aio.Queue()
        dropped = queue.get()
        dropped.send(None)
        assert len(queue._getters) == 1
        del dropped
        gc.collect()
        assert len(queue._getters) == 0

    run(main())


def test_join_waits_until_everything_is_dealt_with(run, aio):
    async def main():
        queue = aio.Queue()
        await queue.join()
        for item in range(3):
            queue.put_nowait(item)
        joining = asyncio.create_task(queue.join())
        for _ in range(3):
            await settle()
            assert not joining.done()
            queue.get_nowait()
            queue.task_done()
        await joining
        queue.put_nowait("more")
        joining = asyncio.create_task(queue.join())
        await settle()
        assert not joining.done() and queue._unfinished_tasks == 1 and not queue._finished.is_set()
        queue.task_done()
        assert await joining is None and queue._finished.is_set()

    run(main())


def test_a_queue_belongs_to_the_loop_it_was_first_waited_on(loop_factory, aio):
    async def get(queue):
        waiting = asyncio.create_task(queue.get())
        await settle()
        if not waiting.done():
            waiting.cancel()
            await settle()
        return waiting

    queue, first, second = aio.Queue(), loop_factory(), loop_factory()
    try:
        first.run_until_complete(get(queue))
        assert queue._loop is first
        with pytest.raises(RuntimeError, match="is bound to a different event loop"):
            second.run_until_complete(get(queue)).result()
    finally:
        first.close()
        second.close()


# Shutting down -------------------------------------------------------------------------------------------------------


@since_3_13
def test_a_queue_that_is_shut_down_gives_what_it_has_and_takes_no_more(run, aio):
    async def main():
        queue = aio.Queue(1)
        queue.put_nowait(1)
        putting = asyncio.create_task(queue.put(2))
        await settle()
        queue.shutdown()
        with pytest.raises(aio.QueueShutDown):
            await putting
        with pytest.raises(aio.QueueShutDown):
            queue.put_nowait(3)
        with pytest.raises(aio.QueueShutDown):
            await queue.put(3)
        assert repr(queue).endswith(" shutdown>")
        assert await queue.get() == 1
        with pytest.raises(aio.QueueShutDown):
            await queue.get()
        with pytest.raises(aio.QueueShutDown):
            queue.get_nowait()

    run(main())


@since_3_13
def test_an_immediate_shutdown_throws_away_and_ends_join(run, aio):
    async def main():
        queue = aio.Queue()
        for item in range(3):
            queue.put_nowait(item)
        joining = asyncio.create_task(queue.join())
        await settle()
        queue.get_nowait()
        queue.shutdown(immediate=True)
        assert queue.empty() and queue._unfinished_tasks == 1
        await settle()
        assert not joining.done()
        queue.task_done()
        await joining
        other = aio.Queue()
        getting = asyncio.create_task(other.get())
        await settle()
        other.shutdown(True)
        with pytest.raises(aio.QueueShutDown):
            await getting

    run(main())


@pytest.mark.hayase_only("asyncio's queues can be shut down since 3.13")
def test_queues_can_be_shut_down_on_every_version(run):
    import hayase

    queue = hayase.Queue()
    queue.shutdown()
    with pytest.raises(hayase.QueueShutDown):
        run(queue.get())


# As objects ----------------------------------------------------------------------------------------------------------


def test_repr_says_what_asyncios_says(run, aio):
    async def texts(namespace):
        queue = namespace.Queue(2)
        said = [str(queue)]
        queue.put_nowait(1)
        queue.put_nowait("two")
        said.append(str(queue))
        putting = asyncio.create_task(queue.put(3))
        await settle()
        said.append(str(queue))
        for _ in range(3):
            await queue.get()
        await putting
        getting = asyncio.create_task(queue.get())
        await settle()
        said.append(str(queue))
        getting.cancel()
        await settle()
        assert repr(queue) == f"<Queue at {id(queue):#x} maxsize=2 tasks=3>"
        return said

    assert run(texts(aio)) == run(texts(asyncio))


def test_the_container_can_be_looked_into_and_changed(run, aio):
    async def main():
        queue = aio.Queue()
        queue.put_nowait(1)
        queue.put_nowait(2)
        assert isinstance(queue._queue, collections.deque) and list(queue._queue) == [1, 2]
        queue._queue.appendleft(0)
        queue.put_nowait(3)
        assert queue.qsize() == 4 and await queue.get() == 0
        queue._queue.clear()
        assert queue.empty()
        with pytest.raises(asyncio.QueueEmpty):
            queue.get_nowait()
        lifo = aio.LifoQueue()
        lifo.put_nowait(1)
        assert lifo._queue == [1]
        lifo._queue.append(2)
        assert lifo.get_nowait() == 2
        heap = aio.PriorityQueue()
        heap.put_nowait(2)
        heap.put_nowait(1)
        assert heap._queue == [1, 2]

    run(main())


def test_waiters_put_in_by_others_are_woken(run, aio):
    async def main():
        queue = aio.Queue()
        waiter = asyncio.get_running_loop().create_future()
        queue._getters.append(waiter)
        queue.put_nowait(1)
        assert waiter.done() and len(queue._getters) == 0

    run(main())


def test_a_subclass_keeps_its_own_container(run, aio):
    class Reversed(aio.Queue):
        def _init(self, maxsize):
            self._queue = []
            self.made_for = maxsize

        def _put(self, item):
            self._queue.insert(0, item)

        def _get(self):
            return self._queue.pop(0)

    async def main():
        queue = Reversed(3)
        assert queue.made_for == 3
        for item in range(3):
            await queue.put(item)
        assert queue.full() and queue.qsize() == 3
        putting = asyncio.create_task(queue.put(9))
        await settle()
        assert not putting.done()
        assert [await queue.get() for _ in range(3)] == [2, 1, 0]
        await putting
        assert await queue.get() == 9
        getting = asyncio.create_task(queue.get())
        await settle()
        queue.put_nowait("late")
        assert await getting == "late"

    run(main())


def test_a_subclass_that_overrides_only_one_method_keeps_the_rest(run, aio):
    class Doubling(aio.PriorityQueue):
        def _put(self, item):
            super()._put(item * 2)

    class Counting(aio.Queue):
        puts = 0

        def put_nowait(self, item):
            self.puts += 1
            return super().put_nowait(item)

    class Wide(aio.Queue):
        def full(self):
            return False

    async def main():
        doubling = Doubling()
        for item in (3, 1):
            await doubling.put(item)
        assert [doubling.get_nowait(), doubling.get_nowait()] == [2, 6]
        counting = Counting()
        await counting.put(1)
        assert counting.puts == 1 and await counting.get() == 1
        wide = Wide(1)
        for item in range(5):
            await wide.put(item)
        assert wide.qsize() == 5

    run(main())


def test_queues_are_ordinary_objects(aio):
    class Mine(aio.Queue):
        pass

    queue = aio.Queue()
    queue.colour = "red"
    assert vars(queue)["colour"] == "red"
    mine = Mine()
    mine.put_nowait(mine)
    reference = weakref.ref(mine)
    del mine
    gc.collect()
    assert reference() is None
    alias = aio.Queue[int]
    assert isinstance(alias, types.GenericAlias) and alias.__args__ == (int,) and alias.__origin__ is aio.Queue
    assert issubclass(aio.PriorityQueue, aio.Queue) and issubclass(aio.LifoQueue, aio.Queue)
    assert repr(aio.PriorityQueue()).startswith("<PriorityQueue at 0x")


@pytest.mark.parametrize("kind", ["Queue", "PriorityQueue", "LifoQueue"])
def test_a_queue_can_be_copied_while_nobody_waits(run, aio, kind):
    queue = getattr(aio, kind)(4)
    for item in (2, 3, 1):
        queue.put_nowait(item)
    twin = copy.deepcopy(queue)
    assert type(twin) is type(queue) and twin.maxsize == 4 and twin._unfinished_tasks == 3
    twin.put_nowait(0)
    assert twin.full() and queue.qsize() == 3
    expected = {"Queue": [2, 3, 1, 0], "PriorityQueue": [0, 1, 2, 3], "LifoQueue": [0, 1, 3, 2]}
    assert [twin.get_nowait() for _ in range(4)] == expected[kind]


def test_items_that_cannot_be_compared_fail_as_in_heapq(aio):
    queue = aio.PriorityQueue()
    queue.put_nowait(1)
    with pytest.raises(TypeError, match="not supported between instances"):
        queue.put_nowait("a")


def test_a_comparison_may_use_the_queue(aio):
    queue = aio.PriorityQueue()

    class Nosy:
        def __lt__(self, other):
            sizes.append(queue.qsize())
            return False

    sizes = []
    for _ in range(3):
        queue.put_nowait(Nosy())
    assert sizes and queue.qsize() == 3


# Any schedule --------------------------------------------------------------------------------------------------------

steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["put", "get", "put", "get", "cancel", "put_nowait", "get_nowait", "turn", "turn", "done", "join"]
        ),
        st.integers(0, 7),
    ),
    max_size=50,
)


async def play(queue, steps, end):
    """What happens, in order, when the steps are taken."""
    log, tasks = [], []

    async def follow(number, what, *args):
        try:
            log.append((number, what, await getattr(queue, what)(*args)))
        except (asyncio.CancelledError, ValueError) as error:
            log.append((number, what, type(error).__name__))
        except Exception as error:
            log.append((number, what, type(error).__name__))

    for number, (step, choice) in enumerate(steps):
        try:
            if step == "put":
                tasks.append(asyncio.create_task(follow(number, step, number)))
            elif step in ("get", "join"):
                tasks.append(asyncio.create_task(follow(number, step)))
            elif step == "cancel" and tasks:
                tasks[choice % len(tasks)].cancel()
            elif step == "put_nowait":
                queue.put_nowait(number)
            elif step == "get_nowait":
                log.append((number, step, queue.get_nowait()))
            elif step == "done":
                queue.task_done()
            else:
                await asyncio.sleep(0)
        except (asyncio.QueueEmpty, asyncio.QueueFull, ValueError) as error:
            log.append((number, step, type(error).__name__))
        log.append((queue.qsize(), queue.full(), len(queue._getters), len(queue._putters), queue._unfinished_tasks))
    if end != "leave":
        queue.shutdown(immediate=end == "immediately")
        await settle()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return log, str(queue)


@settings(max_examples=200, deadline=None)
@given(
    steps=steps,
    maxsize=st.integers(0, 3),
    kind=st.sampled_from(["Queue", "PriorityQueue", "LifoQueue"]),
    end=st.sampled_from(["leave", "shutdown", "immediately"] if sys.version_info >= (3, 13) else ["leave"]),
)
def test_any_schedule_goes_as_with_asyncio(steps, maxsize, kind, end):
    import hayase

    def outcome(namespace, loop_factory):
        loop = loop_factory()
        try:
            return loop.run_until_complete(play(getattr(namespace, kind)(maxsize), steps, end))
        finally:
            loop.close()

    stock, ours = LoopFactory("asyncio"), LoopFactory("hayase")
    expected = outcome(asyncio, stock)
    assert outcome(hayase, ours) == expected
    assert outcome(hayase, stock) == expected
