"""`hayase.run` and `hayase.Runner`: asyncio's, with hayase's loop. Each story is told by asyncio's too, as the oracle."""

from __future__ import annotations

import asyncio
import contextvars
import signal
import threading
from types import ModuleType

import pytest

import hayase


@pytest.fixture(params=[asyncio, hayase], ids=["asyncio", "hayase"])
def runners(request: pytest.FixtureRequest) -> ModuleType:
    """Where `run` and `Runner` come from."""
    return request.param


def test_the_loop_is_hayases() -> None:
    async def main() -> type:
        return type(asyncio.get_running_loop())

    assert hayase.run(main()) is hayase.EventLoop
    with hayase.Runner() as runner:
        assert runner.run(main()) is hayase.EventLoop


def test_another_loop_can_be_asked_for() -> None:
    async def main() -> type:
        return type(asyncio.get_running_loop())

    assert hayase.run(main(), loop_factory=asyncio.SelectorEventLoop) is asyncio.SelectorEventLoop
    with hayase.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        assert runner.run(main()) is asyncio.SelectorEventLoop


@pytest.mark.parametrize("factory", [hayase.EventLoop, hayase.new_event_loop], ids=["class", "function"])
def test_asyncios_own_runner_takes_hayase_as_its_factory(factory: type[hayase.EventLoop]) -> None:
    async def main() -> type:
        return type(asyncio.get_running_loop())

    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(main()) is hayase.EventLoop


@pytest.mark.parametrize("debug", [True, False])
def test_debug_is_passed_on(runners: ModuleType, debug: bool) -> None:
    async def main() -> bool:
        return asyncio.get_running_loop().get_debug()

    assert runners.run(main(), debug=debug) is debug


def test_run_returns_the_result_and_closes_the_loop(runners: ModuleType) -> None:
    async def main() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    loop = runners.run(main())
    assert loop.is_closed() and not loop.is_running()


def test_an_error_of_the_main_coroutine_arrives_at_the_caller(runners: ModuleType) -> None:
    async def main() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        runners.run(main())


def test_run_inside_a_running_loop_is_refused(runners: ModuleType) -> None:
    async def main() -> None:
        inner = asyncio.sleep(0)
        with pytest.raises(RuntimeError, match=r"^asyncio\.run\(\) cannot be called from a running event loop$"):
            runners.run(inner)
        inner.close()

    runners.run(main())


def test_what_is_not_a_coroutine_is_refused(runners: ModuleType) -> None:
    with pytest.raises((TypeError, ValueError)):  # ValueError up to 3.13
        runners.run(3)


def test_tasks_left_over_are_cancelled_and_waited_for(runners: ModuleType) -> None:
    told: list[str] = []

    async def background() -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            told.append("cancelled")
            raise

    async def main() -> asyncio.Task[None]:
        task = asyncio.ensure_future(background())
        await asyncio.sleep(0)
        return task

    assert runners.run(main()).cancelled()
    assert told == ["cancelled"]


def test_asynchronous_generators_are_closed(runners: ModuleType) -> None:
    told: list[str] = []

    async def numbers():  # type: ignore[no-untyped-def]
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            told.append("closed")

    async def main() -> object:
        generator = numbers()
        await anext(generator)
        return generator

    runners.run(main())
    assert told == ["closed"]


def test_the_executor_is_shut_down(runners: ModuleType) -> None:
    async def main() -> threading.Thread:
        return await asyncio.to_thread(threading.current_thread)

    assert not runners.run(main()).is_alive()


def test_a_runner_runs_several_coroutines_on_one_loop_in_one_context(runners: ModuleType) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    async def count() -> tuple[asyncio.AbstractEventLoop, int]:
        variable.set(variable.get() + 1)
        return asyncio.get_running_loop(), variable.get()

    with runners.Runner() as runner:
        first, second = runner.run(count()), runner.run(count())
        elsewhere = runner.run(count(), context=contextvars.copy_context())
        assert first[0] is second[0] is elsewhere[0] is runner.get_loop()
    assert [first[1], second[1], elsewhere[1]] == [1, 2, 1]
    assert variable.get() == 0


def test_a_closed_runner_refuses(runners: ModuleType) -> None:
    runner = runners.Runner()
    with runner:
        pass
    with pytest.raises(RuntimeError, match="Runner is closed"):
        runner.get_loop()


def test_an_interrupt_cancels_the_main_coroutine_and_arrives(runners: ModuleType) -> None:
    told: list[str] = []

    async def main() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            told.append("cancelled")
            raise

    with pytest.raises(KeyboardInterrupt):
        runners.run(main())
    assert told == ["cancelled"]


def test_an_interrupt_from_outside_wakes_an_idle_loop(runners: ModuleType) -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(threading.Thread(target=interrupt).start)
        await asyncio.sleep(1000)

    def interrupt() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        runners.run(main())


def test_a_second_interrupt_is_not_swallowed_by_a_coroutine_that_ignores_the_first(runners: ModuleType) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(signal.raise_signal, signal.SIGINT)
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        runners.run(main())


def test_system_exit_passes_through(runners: ModuleType) -> None:
    async def main() -> None:
        raise SystemExit(5)

    with pytest.raises(SystemExit) as exit:
        runners.run(main())
    assert exit.value.code == 5
