"""A clock of the program's own: `time()` in a subclass of the loop, or put on the loop. Timers go by it, without any real waiting."""

from __future__ import annotations

import asyncio
from unittest import mock

import pytest
from conftest import wind_down


@pytest.fixture
def clocked(loop):
    """A loop with a clock that the test moves."""

    class Clocked(type(loop)):
        ahead = 0.0

        def time(self):
            return super().time() + self.ahead

    clocked = Clocked()
    clocked.set_debug(False)
    yield clocked
    wind_down(clocked)


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_timers_go_by_the_clock_of_a_subclass(clocked, busy):
    seen = []

    def pass_hours():
        seen.append("hours pass")
        clocked.ahead += 7200.0

    def go_on():
        clocked.call_soon(go_on)

    clocked.call_later(3600, seen.append, "later")
    clocked.call_at(clocked.time() + 1800, seen.append, "at")
    clocked.call_later(10_000, seen.append, "not yet")
    clocked.call_soon(pass_hours)
    if busy:
        clocked.call_soon(go_on)
    clocked.call_later(7000, clocked.stop)
    clocked.run_forever()
    assert seen == ["hours pass", "at", "later"]


def test_sleeping_and_timeouts_go_by_the_clock_of_a_subclass(clocked, aio):
    async def main():
        sleeping = asyncio.create_task(aio.sleep(3600, "slept"))
        waiting = asyncio.create_task(aio.wait_for(clocked.create_future(), 1800))
        await asyncio.sleep(0)
        clocked.ahead += 7200.0
        with pytest.raises(TimeoutError):
            await waiting
        return await sleeping

    assert clocked.run_until_complete(main()) == "slept"


@pytest.mark.parametrize("moved", ["before the timer", "to the timer"])
def test_timers_go_by_a_clock_that_is_put_on_the_loop(loop, turn, moved):
    seen = []
    now = loop.time()
    with mock.patch.object(loop, "time", return_value=now) as clock:
        timer = loop.call_later(1000.1, seen.append, "due")
        turn()
        assert timer.when() == now + 1000.1
        clock.return_value = timer.when() - (0.001 if moved == "before the timer" else 0)
        turn()
        assert seen == ([] if moved == "before the timer" else ["due"])


def test_a_clock_put_on_a_busy_loop_is_asked_in_the_next_turn(run, loop):
    async def main():
        seen = []
        loop.call_later(1000, seen.append, "due")
        for _ in range(100):  # so that turns are short
            await asyncio.sleep(0)
        with mock.patch.object(loop, "time", return_value=loop.time() + 2000):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert seen == ["due"]
        later = loop.call_later(1000, print)
        assert later.when() < loop.time() + 1001  # the loop's own clock again
        later.cancel()

    run(main())


def test_an_error_of_the_clock_leaves_the_loop_which_can_run_again(loop, turn):
    seen = []
    loop.call_later(0, seen.append, "timer")
    with mock.patch.object(loop, "time", side_effect=ZeroDivisionError), pytest.raises(ZeroDivisionError):
        turn()
    turn()
    assert seen == ["timer"]


def test_attributes_of_other_names_leave_the_clock_alone(loop, turn):
    loop.timer = lambda: 0.0
    seen = []
    loop.call_later(0, seen.append, "timer")
    turn(2)
    assert seen == ["timer"]
