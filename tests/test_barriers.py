"""Barrier: asyncio's on the oracle's side, hayase's on the other; and random schedules on both, which must go the same way."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import sys
import weakref

import pytest
from conftest import LoopFactory
from coroutines import settle
from hypothesis import given, settings
from hypothesis import strategies as st


def state(barrier):
    """What its repr says, without the class and the address."""
    return repr(barrier).partition(" [")[2]


def test_a_barrier_of_one_lets_everybody_pass_at_once(loop, run, aio):
    async def main():
        ran = []
        loop.call_soon(ran.append, "callback")
        barrier = aio.Barrier(parties=1)
        assert [await barrier.wait() for _ in range(3)] == [0, 0, 0]
        async with barrier as place:
            assert place == 0
        assert ran == []

    run(main())


def test_rounds_follow_each_other_and_each_counts_anew(run, aio):
    async def main():
        barrier, places = aio.Barrier(2), []

        async def party():
            for _ in range(3):
                places.append(await barrier.wait())

        await asyncio.gather(party(), party())
        assert sorted(places) == [0, 0, 0, 1, 1, 1]
        assert (barrier.parties, barrier.n_waiting, barrier.broken) == (2, 0, False)
        assert state(barrier) == "filling, waiters:0/2]>"

    run(main())


def test_a_barrier_says_who_waits(run, aio):
    async def main():
        barrier = aio.Barrier(3)
        assert state(barrier) == "filling, waiters:0/3]>"
        waiting = [asyncio.create_task(barrier.wait()) for _ in range(2)]
        await settle()
        assert barrier.n_waiting == 2 and state(barrier) == "filling, waiters:2/3]>"
        assert (barrier._count, barrier._state.value) == (2, "filling")
        await barrier.abort()
        assert state(barrier) == "broken]>" and barrier.broken
        with pytest.raises(asyncio.BrokenBarrierError, match=r"^Barrier aborted$"):
            await barrier.wait()
        for task in waiting:
            with pytest.raises(asyncio.BrokenBarrierError, match=r"^Abort or reset of barrier$"):
                await task
        await barrier.reset()
        assert state(barrier) == "filling, waiters:0/3]>" and not barrier.broken

    run(main())


def test_a_reset_sends_those_who_wait_away_and_the_next_round_begins(run, aio):
    async def main():
        barrier = aio.Barrier(2)
        waiting = asyncio.create_task(barrier.wait())
        await settle()
        await barrier.reset()
        with pytest.raises(asyncio.BrokenBarrierError):
            await waiting
        assert sorted(await asyncio.gather(barrier.wait(), barrier.wait())) == [0, 1]

    run(main())


def test_who_is_cancelled_leaves_its_place(run, aio):
    async def main():
        barrier = aio.Barrier(2)
        waiting = asyncio.create_task(barrier.wait())
        await settle()
        waiting.cancel("why")
        await asyncio.wait([waiting])
        assert waiting.cancelled() and barrier.n_waiting == 0
        assert not barrier._cond.locked()
        assert sorted(await asyncio.gather(barrier.wait(), barrier.wait())) == [0, 1]

    run(main())


def test_parties_must_be_a_number_from_one_on(aio):
    text = "^parties must be >= 1$" if sys.version_info >= (3, 14) else "^parties must be > 0$"
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=text):
            aio.Barrier(wrong)
    with pytest.raises(TypeError, match="'<' not supported between instances of 'str' and 'int'"):
        aio.Barrier("two")
    with pytest.raises(TypeError, match=r"__init__\(\) missing 1 required positional argument: 'parties'$"):
        aio.Barrier()
    with pytest.raises(TypeError, match=r"__init__\(\) takes 2 positional arguments but 3 were given$"):
        aio.Barrier(1, 2)
    with pytest.raises(TypeError, match=r"__init__\(\) got an unexpected keyword argument 'action'$"):
        aio.Barrier(1, action=None)


def test_a_barrier_belongs_to_the_loop_that_waited_first(loop_factory, loop, run, aio):
    barrier = aio.Barrier(2)

    async def wait_and_give_up():
        task = asyncio.create_task(barrier.wait())
        await settle()
        task.cancel()
        await asyncio.wait([task])

    run(wait_and_give_up())
    other = loop_factory()
    try:
        with pytest.raises(RuntimeError, match=r"is bound to a different event loop$"):
            other.run_until_complete(barrier.wait())
    finally:
        other.close()


def test_a_subclass_may_wait_in_its_own_way(run, aio):
    class Counting(aio.Barrier):
        def __init__(self, parties):
            super().__init__(parties)
            self.waits = 0

        async def wait(self):
            self.waits += 1
            return await super().wait()

    async def main():
        barrier = Counting(1)
        async with barrier as place:
            assert place == 0
        assert barrier.waits == 1

    run(main())


def test_an_unused_barrier_can_be_copied_and_pickled(run, aio):
    barrier = aio.Barrier(2)
    for copied in (copy.copy(barrier), copy.deepcopy(barrier), pickle.loads(pickle.dumps(barrier))):
        assert copied.parties == 2 and state(copied) == "filling, waiters:0/2]>"

        async def main(copied=copied):
            return sorted(await asyncio.gather(copied.wait(), copied.wait()))

        assert run(main()) == [0, 1]


def test_a_barrier_in_a_cycle_is_collected(aio):
    barrier = aio.Barrier(1)
    barrier.itself = barrier
    reference = weakref.ref(barrier)
    del barrier
    gc.collect()
    assert reference() is None


# Random schedules ----------------------------------------------------------------------------------------------------

steps = st.lists(
    st.tuples(st.sampled_from(["come", "come", "come", "cancel", "reset", "abort", "turn", "turn"]), st.integers(0, 5)),
    max_size=25,
)


async def play(barrier, steps):
    """What each task saw and in which order, and the barrier after each step."""
    seen, tasks = [], []

    async def come(number, what):
        try:
            seen.append((number, await what()))
        except (asyncio.CancelledError, asyncio.BrokenBarrierError) as error:
            seen.append((number, type(error).__name__, error.args))
            raise

    for action, index in steps:
        if action == "turn":
            await asyncio.sleep(0)
        elif action == "cancel":
            if tasks:
                seen.append(tasks[index % len(tasks)].cancel())
        else:
            what = {"come": barrier.wait, "reset": barrier.reset, "abort": barrier.abort}[action]
            tasks.append(asyncio.create_task(come(len(tasks), what)))
        seen.append((state(barrier), barrier._count, barrier._state.value, barrier._cond.locked()))
    await settle()
    await settle()
    seen.append((state(barrier), barrier._count, barrier._cond.locked()))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    seen.append((state(barrier), barrier._count, barrier._cond.locked()))
    return seen


class HandingOn(asyncio.Condition):
    """As of 3.13: a waiter that is cancelled hands its notification on. So do hayase's, on every version."""

    async def wait(self):
        try:
            return await super().wait()
        except BaseException:
            self.notify()
            raise


def stock_barrier(parties):
    barrier = asyncio.Barrier(parties)
    if sys.version_info < (3, 13):
        barrier._cond = HandingOn()
    return barrier


@settings(max_examples=300, deadline=None)
@given(parties=st.integers(1, 3), steps=steps)
def test_any_schedule_goes_as_with_asyncio(parties, steps):
    import hayase

    def outcome(make, side):
        loop = LoopFactory(side)()
        try:
            return loop.run_until_complete(play(make(parties), steps))
        finally:
            loop.close()

    expected = outcome(stock_barrier, "asyncio")
    assert outcome(hayase.Barrier, "hayase") == expected
    assert outcome(hayase.Barrier, "asyncio") == expected
