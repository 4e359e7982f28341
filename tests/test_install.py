"""`install()` gives hayase to programs that say `import asyncio`; `uninstall()` gives asyncio back, exactly."""

from __future__ import annotations

import asyncio
import copy
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

import hayase
from hayase import _compat
from hayase.replacements import replacements


@pytest.fixture(autouse=True)
def asyncio_as_it_was() -> Iterator[None]:
    """Whatever a test does, the next one begins with stock asyncio that nobody has asked for a policy yet."""
    _compat.set_event_loop_policy(None)
    yield
    hayase.uninstall()
    policy = _compat.event_loop_policy_or_none()
    left = getattr(getattr(policy, "_local", None), "_loop", None)
    if left is not None:
        left.close()
    _compat.set_event_loop_policy(None)


def asyncio_state() -> dict[str, object]:
    """Every attribute of asyncio and its modules, and the policy."""
    state: dict[str, object] = {"policy": _compat.event_loop_policy_or_none()}
    for name, module in sorted(sys.modules.items()):
        if name == "asyncio" or name.startswith("asyncio."):
            state |= {f"{name}.{attribute}": value for attribute, value in vars(module).items()}
    return state


async def running_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def test_importing_hayase_changes_nothing() -> None:
    program = """
import asyncio, asyncio.tasks, asyncio.events, sys
def state():
    return {(n, a): v for n in list(sys.modules) if n.split(".")[0] in ("asyncio", "_asyncio", "ssl", "socket")
            for a, v in vars(sys.modules[n]).items() if not n.endswith("__main__")}
import ssl, socket
before = state()
import hayase
from hayase.replacements import replacements
after = state()
changed = sorted(k for k in before if before[k] is not after.get(k))
assert not changed, changed
print("unchanged")
"""
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (outcome.stdout, outcome.stderr) == ("unchanged\n", "")


def test_installed_asyncios_loops_are_hayases() -> None:
    hayase.install()
    assert type(asyncio.run(running_loop())) is hayase.EventLoop
    loop = asyncio.new_event_loop()
    assert type(loop) is hayase.EventLoop
    loop.close()
    with asyncio.Runner() as runner:
        assert type(runner.get_loop()) is hayase.EventLoop


def test_installed_get_event_loop_makes_the_current_loop_once() -> None:
    hayase.install()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loop = asyncio.get_event_loop()
    assert type(loop) is hayase.EventLoop
    assert asyncio.get_event_loop() is loop
    assert loop.run_until_complete(running_loop()) is loop


def test_installed_a_loop_that_was_set_is_the_current_one() -> None:
    hayase.install()
    loop = asyncio.SelectorEventLoop()
    try:
        asyncio.set_event_loop(loop)
        assert asyncio.get_event_loop() is loop
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def test_installed_no_loop_is_made_after_none_was_set() -> None:
    hayase.install()
    asyncio.set_event_loop(None)
    with pytest.raises(RuntimeError, match="There is no current event loop in thread 'MainThread'"):
        asyncio.get_event_loop()
    asyncio.run(running_loop())  # ends with set_event_loop(None), as asyncio's does
    with pytest.raises(RuntimeError, match="There is no current event loop"):
        asyncio.get_event_loop()


def test_installed_other_threads_still_have_no_loop_by_default() -> None:
    hayase.install()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            asyncio.get_event_loop()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="worker")
    thread.start()
    thread.join()
    assert [(type(e), str(e)) for e in errors] == [(RuntimeError, "There is no current event loop in thread 'worker'.")]


def test_only_a_loop_can_be_set() -> None:
    hayase.install()
    with pytest.raises(TypeError, match="loop must be an instance of AbstractEventLoop or None, not 'int'"):
        asyncio.set_event_loop(3)  # type: ignore[arg-type]


def test_install_and_uninstall_warn_about_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hayase.install()
        asyncio.run(running_loop())
        hayase.uninstall()


@pytest.mark.parametrize("asked_before", [False, True])
def test_uninstall_restores_asyncio_exactly(asked_before: bool) -> None:
    if asked_before:
        asyncio.run(running_loop())
    before = asyncio_state()
    hayase.install()
    hayase.install()
    assert asyncio_state() != before
    hayase.uninstall()
    after = asyncio_state()
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] is not after[name]] == []
    loop = asyncio.new_event_loop()
    assert not isinstance(loop, hayase.EventLoop)
    loop.close()


def test_uninstall_without_install_does_nothing() -> None:
    before = asyncio_state()
    hayase.uninstall()
    assert asyncio_state() == before


def test_uninstall_leaves_alone_what_somebody_else_has_put_there_since() -> None:
    hayase.install()
    theirs = _compat.DefaultEventLoopPolicy()
    _compat.set_event_loop_policy(theirs)
    hayase.uninstall()
    assert _compat.event_loop_policy_or_none() is theirs


def test_install_takes_over_again_from_another_policy() -> None:
    hayase.install()
    theirs = _compat.DefaultEventLoopPolicy()
    _compat.set_event_loop_policy(theirs)
    hayase.install()
    assert type(asyncio.run(running_loop())) is hayase.EventLoop
    hayase.uninstall()
    assert _compat.event_loop_policy_or_none() is theirs


def test_the_policy_can_be_used_by_itself() -> None:
    _compat.set_event_loop_policy(hayase.EventLoopPolicy())
    assert type(asyncio.run(running_loop())) is hayase.EventLoop


def test_other_loops_still_work_under_hayases_policy() -> None:
    async def child() -> bytes:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(6 * 7)", stdout=-1)
        return (await process.communicate())[0]

    hayase.install()
    loop = asyncio.SelectorEventLoop()
    asyncio.set_event_loop(loop)
    try:
        assert loop.run_until_complete(child()) == b"42\n"
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        asyncio.set_event_loop(None)
        loop.close()


# `import hayase as asyncio` ----------------------------------------------------------------------------------------


def test_every_public_name_of_asyncio_is_here() -> None:
    missing = [name for name in asyncio.__all__ if not hasattr(hayase, name)]
    assert missing == []
    assert set(asyncio.__all__) <= set(hayase.__all__)
    different = {name for name in asyncio.__all__ if getattr(hayase, name) is not getattr(asyncio, name)}
    ours = {name for _, name, _ in replacements()} | {
        "EventLoop",
        "Runner",
        "ensure_future",
        "gather",
        "get_event_loop",
        "new_event_loop",
        "run",
        "shield",
        "wait",
    }
    assert different <= ours


def test_futures_and_tasks_are_asyncios() -> None:
    assert hayase.Future is asyncio.Future
    assert hayase.Task is asyncio.Task


def test_submodules_and_semi_public_names_of_asyncio_are_reachable() -> None:
    assert hayase.locks.Barrier and hayase.transports is asyncio.transports  # type: ignore[attr-defined]
    assert hayase.subprocess.PIPE == -1  # type: ignore[attr-defined]
    assert hayase.events.get_running_loop is asyncio.get_running_loop
    assert hayase.tasks.current_task is asyncio.current_task
    with pytest.raises(AttributeError, match="module 'hayase' has no attribute 'no_such_name'"):
        hayase.no_such_name  # type: ignore[attr-defined]  # noqa: B018


def test_everything_can_be_imported_with_a_star() -> None:
    namespace: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec("from hayase import *", namespace)
    assert namespace["run"] is hayase.run and namespace["Queue"] is hayase.Queue


def test_not_installed_get_event_loop_makes_a_loop_that_asyncio_knows() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loop = hayase.get_event_loop()
        assert type(loop) is hayase.EventLoop
        assert asyncio.get_event_loop() is hayase.get_event_loop() is loop

    async def main() -> bool:
        return hayase.get_event_loop() is asyncio.get_running_loop() is loop

    assert loop.run_until_complete(main())


def test_not_installed_work_given_outside_a_loop_is_for_the_current_loop() -> None:
    async def value(number: int) -> int:
        return number

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = hayase.ensure_future(value(1))
        loop = hayase.get_event_loop()
        both = hayase.gather(value(2), value(3))
        four = hayase.shield(value(4))
    assert type(loop) is hayase.EventLoop
    assert loop.run_until_complete(one) == 1
    assert loop.run_until_complete(both) == [2, 3]
    assert loop.run_until_complete(four) == 4


def test_futures_bring_their_loop_so_none_is_made_for_them() -> None:
    loop = hayase.new_event_loop()
    try:
        future = loop.create_future()
        assert hayase.ensure_future(future) is future
        hayase.shield(future)
        hayase.gather(future)
        assert _compat.event_loop_policy_or_none() is None
    finally:
        loop.close()


def test_wait_takes_coroutines_and_futures_alike() -> None:
    async def value(number: int) -> int:
        return number

    async def main() -> set[int]:
        task = asyncio.ensure_future(value(1))
        twice = value(2)
        with pytest.warns(DeprecationWarning, match=r"wait\(\) was given coroutines") as caught:
            done, pending = await hayase.wait([task, twice, twice], timeout=10)
        assert caught[0].filename == __file__
        assert not pending and len(done) == 2
        return {future.result() for future in done}

    assert hayase.run(main()) == {1, 2}


def test_wait_refuses_what_asyncio_refuses() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        for wrong in (future, []):
            with pytest.raises((TypeError, ValueError)) as theirs:
                await asyncio.wait(wrong)  # type: ignore[type-var, arg-type]
            with pytest.raises(type(theirs.value)) as ours:
                await hayase.wait(wrong)  # type: ignore[type-var, arg-type]
            assert str(ours.value) == str(theirs.value)
        future.cancel()

    hayase.run(main())


def test_build_info_says_what_a_bug_report_needs() -> None:
    info = hayase.build_info()
    assert info["hayase"] == hayase.__version__
    assert info["python"].startswith("CPython 3.")
    assert all(isinstance(value, str) for value in info.values())


# Installed: `import asyncio` ---------------------------------------------------------------------------------------


def test_installed_no_module_of_asyncio_knows_what_was_replaced() -> None:
    replaced = {
        id(getattr(module, name)): name for module, name, ours in replacements() if getattr(module, name) is not ours
    }
    kept = [getattr(module, name) for module, name, _ in replacements()]  # so that the numbers stay theirs
    hayase.install()
    left = [name for name, value in asyncio_state().items() if id(value) in replaced]
    assert left == []
    assert kept


def test_installed_every_way_of_naming_leads_to_hayases() -> None:
    hayase.install()
    namespace: dict[str, object] = {}
    exec("from asyncio import Queue, Lock, sleep, StreamReader, timeout, open_connection", namespace)
    exec("from asyncio.queues import Queue as SameQueue; from asyncio.tasks import sleep as same_sleep", namespace)
    assert namespace["Queue"] is namespace["SameQueue"] is hayase.Queue is asyncio.queues.Queue
    assert namespace["sleep"] is namespace["same_sleep"] is hayase.sleep is asyncio.tasks.sleep
    assert namespace["Lock"] is hayase.Lock is asyncio.locks.Lock
    assert namespace["StreamReader"] is hayase.StreamReader is asyncio.streams.StreamReader
    assert namespace["timeout"] is hayase.timeout is asyncio.timeouts.timeout
    assert namespace["open_connection"] is hayase.open_connection is asyncio.streams.open_connection
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec("from asyncio import *", star := {})
    assert star["Queue"] is hayase.Queue


def test_installed_a_name_that_was_imported_before_stays_asyncios() -> None:
    before = asyncio.Queue
    hayase.install()
    assert before is not asyncio.Queue
    assert asyncio.run(_put_and_get(before())) == "item"


async def _put_and_get(queue: asyncio.Queue[str]) -> str:
    getter = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    await queue.put("item")
    return await getter


def test_what_was_made_before_and_after_works_together() -> None:
    def make() -> list[Any]:
        """As many as there are stories below: each is used on one loop."""
        return [
            (asyncio.Lock(), asyncio.Event(), asyncio.Semaphore(1), asyncio.Condition(), asyncio.Queue[str]())
            for _ in range(4)
        ]

    def functions() -> tuple[Any, ...]:
        return asyncio.TaskGroup, asyncio.timeout, asyncio.gather, asyncio.wait_for, asyncio.sleep

    made_before, before = make(), functions()
    hayase.install()
    made_after, after = make(), functions()

    async def contend(lock: Any, order: list[int], number: int) -> None:
        async with lock:
            order.append(number)
            await before[-1](0)
            await after[-1](0)
            order.append(number)

    async def story(things: tuple[Any, ...], functions: tuple[Any, ...]) -> None:
        task_group, timeout, gather, wait_for, sleep = functions
        lock, event, semaphore, condition, queue = things
        for contended in (lock, semaphore, condition):
            order: list[int] = []
            async with task_group() as group:
                for number in range(3):
                    group.create_task(contend(contended, order, number))
            assert order == [0, 0, 1, 1, 2, 2]
        waiting = asyncio.ensure_future(event.wait())
        await sleep(0)
        event.set()
        assert await wait_for(waiting, 10) is True
        with pytest.raises(TimeoutError):
            async with timeout(0):
                await queue.get()
        assert await gather(queue.put("item"), queue.get()) == [None, "item"]

    for make_loop in (hayase.EventLoop, asyncio.SelectorEventLoop):
        for functions_used in (before, after):
            for made in (made_before, made_after):
                with asyncio.Runner(loop_factory=make_loop) as runner:
                    runner.run(story(made.pop(), functions_used))


def test_conditions_and_locks_of_both_kinds_go_together() -> None:
    lock_before, condition_before = asyncio.Lock(), asyncio.Condition
    hayase.install()

    async def main() -> None:
        for condition in (asyncio.Condition(lock_before), condition_before(asyncio.Lock())):
            served = []

            async def wait(number: int, condition: asyncio.Condition = condition, served: list[int] = served) -> None:
                async with condition:
                    await condition.wait()
                    served.append(number)

            async with asyncio.TaskGroup() as group:
                for number in range(3):
                    group.create_task(wait(number))
                await asyncio.sleep(0)
                async with condition:
                    condition.notify(1)
                    condition.notify_all()
            assert served == [0, 1, 2]

    asyncio.run(main())


def test_streams_made_before_and_after_talk_to_each_other() -> None:
    start_before, open_before = asyncio.start_server, asyncio.open_connection
    hayase.install()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        for start in (start_before, asyncio.start_server):
            for connect in (open_before, asyncio.open_connection):
                server = await start(echo, "127.0.0.1", 0)
                reader, writer = await connect(*server.sockets[0].getsockname()[:2])
                writer.write(b"line\n")
                assert await reader.readline() == b"line\n"
                writer.close()
                await writer.wait_closed()
                server.close()
                await server.wait_closed()

    asyncio.run(main())


@pytest.mark.hayase_only("that hayase's own are taken for coroutine functions, as asyncio's are")
def test_a_test_case_leaves_what_it_entered_and_awaits_what_it_cleans_up(program):
    """It asks `inspect` what has to be awaited, which before 3.12 believes only what looks like a function."""
    done = program(
        """
        import unittest
        import hayase

        class Case(unittest.IsolatedAsyncioTestCase):
            async def test(self):
                for module in (asyncio, hayase):
                    lock, server = module.Lock(), await module.start_server(print, "127.0.0.1", 0)
                    self.addCleanup(lambda lock=lock, server=server: left.append((lock.locked(), server.is_serving())))
                    self.addAsyncCleanup(module.sleep, 0)
                    await self.enterAsyncContext(lock)
                    await self.enterAsyncContext(server)
                    await self.enterAsyncContext(module.timeout(1000))
                    await self.enterAsyncContext(module.TaskGroup())

        left = []
        result = unittest.TestResult()
        hayase.install()
        unittest.defaultTestLoader.loadTestsFromTestCase(Case).run(result)
        print(result.errors, result.failures, left)
        """
    )
    assert done.stdout == "[] [] [(False, False), (False, False)]\n", done.stdout + done.stderr
    assert "never awaited" not in done.stderr


# What isinstance says ------------------------------------------------------------------------------------------------


def one_of_each(module: Any) -> list[object]:
    async def make() -> list[object]:
        return [
            module.Lock(),
            module.Event(),
            module.Condition(),
            module.Semaphore(),
            module.BoundedSemaphore(),
            module.Barrier(2),
            module.Queue(),
            module.PriorityQueue(),
            module.LifoQueue(),
            module.TaskGroup(),
            module.timeout(None),
        ]

    with hayase.Runner() as runner:
        return runner.run(make())


def test_what_hayase_makes_is_an_instance_of_asyncios_classes_installed_or_not() -> None:
    stock = {type(one).__name__: type(one) for one in one_of_each(asyncio)}
    ours = one_of_each(hayase)
    for one in ours:
        name = type(one).__name__
        assert isinstance(one, getattr(hayase, name)) and isinstance(one, getattr(asyncio, name))
        assert isinstance(one, stock[name])
    assert isinstance(ours[4], asyncio.Semaphore) and not isinstance(ours[3], asyncio.BoundedSemaphore)
    assert not isinstance(ours[0], asyncio.Queue)
    hayase.install()
    for one in ours:
        name = type(one).__name__
        assert isinstance(one, getattr(asyncio, name))
        assert one.__class__ is type(one) is getattr(asyncio, name)


def test_a_subclass_is_itself_and_can_be_copied() -> None:
    class Mine(hayase.Queue):  # type: ignore[type-arg]
        pass

    for mine in (Mine(), copy.copy(Mine())):
        assert mine.__class__ is Mine and isinstance(mine, hayase.Queue)
    for one in (hayase.Lock(), hayase.Event(), hayase.BoundedSemaphore(2), hayase.PriorityQueue()):
        for twin in (copy.copy(one), copy.deepcopy(one), *(pickle.loads(pickle.dumps(one, n)) for n in range(6))):
            assert type(twin) is type(one)
