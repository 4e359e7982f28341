"""Every test here is run twice: on stock asyncio, which is the oracle, and on hayase.

What must stay true:
- A test says what asyncio does. If it does not pass on the `asyncio` side, the test is wrong, not asyncio.
- A deliberate difference carries `@pytest.mark.oracle_differs("reason")` and asserts both behaviours.
- If hayase cannot be imported, its side fails. It is never skipped.
- Every test has a time limit, and leaves behind no descriptor, thread, signal handler or unread error report.

Run one side alone with `pytest tests --side asyncio` (or `hayase`).
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

HARD_LIMIT_FACTOR = 2
"""pytest-timeout raises at the time limit. Code that does not even hear that is killed at this multiple of it."""


class LoopFactory:
    """Makes loops of one side. Debug mode is off whatever the environment says, so that both sides start equal."""

    def __init__(self, side: str) -> None:
        self.side = side

    @property
    def is_hayase(self) -> bool:
        return self.side == "hayase"

    @property
    def module(self) -> ModuleType:
        if self.is_hayase:
            import hayase

            return hayase
        return asyncio

    @property
    def loop_class(self) -> type[asyncio.AbstractEventLoop]:
        if self.is_hayase:
            import hayase

            return hayase.EventLoop
        return asyncio.SelectorEventLoop

    def __call__(self) -> asyncio.AbstractEventLoop:
        if self.is_hayase:
            import hayase

            loop = hayase.new_event_loop()
        else:
            loop = asyncio.SelectorEventLoop()
        loop.set_debug(False)
        return loop

    def __repr__(self) -> str:
        return self.side


STOCK = LoopFactory("asyncio")

TLS_ENGINES = ("direct", "memory-bio")


# Collecting --------------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--side", choices=["asyncio", "hayase", "both"], default="both", help="run one side alone")


def pytest_configure(config: pytest.Config) -> None:
    # Ignored if this is the background job of a shell without job control; the tests of KeyboardInterrupt send it, and
    # the programs that they start inherit it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for marker in (
        "oracle_differs(reason): hayase deliberately differs from asyncio here; the test asserts both behaviours",
        "hayase_only(reason): asyncio cannot be asked, for the reason given",
    ):
        config.addinivalue_line("markers", marker)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "loop_factory" not in metafunc.fixturenames:
        return
    only = metafunc.definition.get_closest_marker("hayase_only")
    differs = metafunc.definition.get_closest_marker("oracle_differs")
    for marker in (only, differs):
        if marker is not None and not (marker.args and isinstance(marker.args[0], str)):
            raise pytest.UsageError(f"{metafunc.definition.nodeid}: {marker.name} needs a reason")
    sides = ["hayase"] if only else ["asyncio", "hayase"]
    wanted = metafunc.config.getoption("--side")
    if wanted != "both":
        sides = [side for side in sides if side == wanted]
    metafunc.parametrize("loop_factory", [LoopFactory(side) for side in sides], ids=sides, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # A hayase-only test with `--side asyncio` has an empty parameter set, which pytest would report as a skip.
    if config.getoption("--side") == "asyncio":
        gone = [item for item in items if item.get_closest_marker("hayase_only")]
        config.hook.pytest_deselected(items=gone)
        items[:] = [item for item in items if item not in gone]

    # asyncio has no engines: its side of such a test is run once.
    twice = [item for item in items if is_told_twice(item)]
    config.hook.pytest_deselected(items=twice)
    items[:] = [item for item in items if item not in twice]


def is_told_twice(item: pytest.Item) -> bool:
    params = getattr(getattr(item, "callspec", None), "params", {})
    side = getattr(params.get("loop_factory"), "side", None)
    return side == "asyncio" and params.get("engine") == TLS_ENGINES[1]


@pytest.fixture(autouse=True, scope="module")
def _what_stays_is_frozen() -> None:
    """What pytest and the imports made stays to the end. Frozen, it is not gone through by each of a test's collections."""
    gc.collect()
    gc.freeze()


# Loops -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def loop_factory(request: pytest.FixtureRequest) -> LoopFactory:
    return request.param


@pytest.fixture
def loop(loop_factory: LoopFactory) -> Iterator[asyncio.AbstractEventLoop]:
    """A fresh loop. Not the thread's current loop: nothing may depend on that."""
    loop = loop_factory()
    yield loop
    wind_down(loop)


@pytest.fixture
def run(loop: asyncio.AbstractEventLoop) -> Callable[[Any], Any]:
    """Run a coroutine on the test's loop and return its result."""
    return loop.run_until_complete


@pytest.fixture
def aio(loop_factory: LoopFactory) -> ModuleType:
    """The namespace under test."""
    return loop_factory.module


@pytest.fixture
def turn(loop: asyncio.AbstractEventLoop) -> Callable[..., None]:
    """Run exactly one turn of the loop (or `count` of them)."""

    def turn(count: int = 1) -> None:
        for _ in range(count):
            loop.stop()
            loop.run_forever()

    return turn


def wind_down(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what is left, give it the chance to end, and close."""
    if loop.is_closed():
        return
    for task in asyncio.all_tasks(loop):
        task.cancel()
        loop.run_until_complete(asyncio.wait([task]))
        task.cancelled() or task.exception()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


# Asking the oracle -------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What a story did: its result or its error, and what was logged meanwhile; addresses are blanked."""

    value: Any = None
    error: tuple[type[BaseException], str] | None = None
    log: list[tuple[str, str]] = field(default_factory=list)


def without_addresses(text: str) -> str:
    text = re.sub(r"0x[0-9a-fA-F]+", "0x…", text)
    # A callback of the loop's own is a Python function there, and a native one here.
    text = re.sub(r"(\w+\(\)) at \S+/asyncio/base_events\.py:\d+", r"\1", text)
    # The class of a transport has a name of the loop's own; descriptors are numbered by the system.
    return re.sub(r"<\w+Transport((?: \w+)?) fd=\d+", r"<Transport\1 fd=…", text)


def tell(factory: LoopFactory, story: Callable[[asyncio.AbstractEventLoop], Any], log: AsyncioLog) -> Outcome:
    outcome = Outcome()
    log.take()
    loop = factory()
    try:
        value = story(loop)
        outcome.value = without_addresses(value) if isinstance(value, str) else value
        del value
    except Exception as error:
        outcome.error = (type(error), without_addresses(str(error)))
    finally:
        wind_down(loop)
    gc.collect()  # reports from finalizers belong to the story
    outcome.log = [(r.levelname, without_addresses(r.getMessage())) for r in log.take()]
    return outcome


@pytest.fixture
def same_as_asyncio(loop_factory: LoopFactory, asyncio_log: AsyncioLog) -> Callable[..., Outcome]:
    """Run a story (a function of a loop) on this side and on stock asyncio, and compare result, error and log.

    With `text=False` only the type of an error is compared: for texts that the interpreter makes from a signature.
    """

    def same_as_asyncio(story: Callable[[asyncio.AbstractEventLoop], Any], *, text: bool = True) -> Outcome:
        ours = tell(loop_factory, story, asyncio_log)
        theirs = tell(STOCK, story, asyncio_log)
        if not text:
            assert (ours.error and ours.error[0]) == (theirs.error and theirs.error[0])
            assert ours.value == theirs.value
        else:
            assert ours == theirs
        return ours

    return same_as_asyncio


@pytest.fixture(params=TLS_ENGINES)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which of hayase's TLS engines is used: a test that asks for it is run with each."""
    monkeypatch.setenv("HAYASE_TLS", request.param)
    return request.param


# The log -----------------------------------------------------------------------------------------------------------


class AsyncioLog(logging.Handler):
    """What was written to the logger "asyncio". A test must take what it caused: an error nobody took fails it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def take(self) -> list[logging.LogRecord]:
        records, self.records = self.records, []
        return records

    def messages(self) -> list[str]:
        return [record.getMessage() for record in self.take()]


@pytest.fixture(autouse=True)
def asyncio_log(_limit: None) -> Iterator[AsyncioLog]:
    log = AsyncioLog()
    logger = logging.getLogger("asyncio")
    logger.addHandler(log)
    propagate, logger.propagate = logger.propagate, False
    yield log
    gc.collect()
    logger.removeHandler(log)
    logger.propagate = propagate
    untaken = [logging.Formatter().format(r) for r in log.records if r.levelno >= logging.ERROR]
    assert not untaken, "nobody expected this report:\n" + "\n".join(untaken)


# What a test may leave behind: nothing -----------------------------------------------------------------------------


def open_descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the descriptor of the listing itself
            continue
    return found


def kernel_threads() -> set[str]:
    return set(os.listdir("/proc/self/task"))


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(_limit: None, asyncio_log: AsyncioLog) -> Iterator[None]:
    descriptors, threads, tasks = open_descriptors(), set(threading.enumerate()), kernel_threads()
    handlers = {
        number: signal.getsignal(number) for number in signal.valid_signals() - {signal.SIGALRM}
    }  # pytest-timeout's
    yield
    # Put the interpreter's own state back before anything is asserted, so that one failure stays one failure.
    running, hooks, depth = (
        asyncio._get_running_loop(),
        sys.get_asyncgen_hooks(),
        sys.get_coroutine_origin_tracking_depth(),
    )
    asyncio._set_running_loop(None)
    sys.set_asyncgen_hooks(None, None)
    sys.set_coroutine_origin_tracking_depth(0)
    gc.collect()
    for thread in set(threading.enumerate()) - threads:
        thread.join(5)
    left = set(threading.enumerate()) - threads
    assert not left, f"threads left running: {left}"
    deadline = time.monotonic() + 5
    while kernel_threads() - tasks and time.monotonic() < deadline:
        time.sleep(0.001)  # a joined thread's kernel entry goes a moment later
    assert not kernel_threads() - tasks, "kernel threads left running"
    now = open_descriptors()
    leaked = {fd: what for fd, what in now.items() if descriptors.get(fd) != what}
    assert not leaked, f"descriptors left open: {leaked}"
    changed = {n for n, handler in handlers.items() if signal.getsignal(n) != handler}
    for number in changed:
        signal.signal(number, handlers[number])
    assert not changed, f"signal handlers left changed: {changed}"
    wakeup_fd = signal.set_wakeup_fd(-1)
    assert wakeup_fd == -1, "signal wake-up descriptor left set"
    assert (running, tuple(hooks), depth) == (None, (None, None), 0)


@pytest.fixture(autouse=True)
def _limit(request: pytest.FixtureRequest) -> Iterator[None]:
    marker = request.node.get_closest_marker("timeout")
    seconds = marker.args[0] if marker else float(request.config.getini("timeout") or 60)
    faulthandler.dump_traceback_later(seconds * HARD_LIMIT_FACTOR, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


# Programs in a process of their own --------------------------------------------------------------------------------


PRELUDE = """
import asyncio, gc, os, signal, socket, sys, threading, warnings, weakref
SIDE = {side!r}
if SIDE == "hayase":
    import hayase
    new_event_loop = hayase.new_event_loop
else:
    new_event_loop = asyncio.SelectorEventLoop
"""


@pytest.fixture
def program(loop_factory: LoopFactory, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program in its own interpreter, with `new_event_loop` of this side; a crash or a hang is then a result."""

    def program(source: str, *options: str, limit: float = 40, **env: str) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "program.py"
        path.write_text(PRELUDE.format(side=loop_factory.side) + textwrap.dedent(source))
        environment = {**os.environ, "PYTHONFAULTHANDLER": "1", "PYTHONASYNCIODEBUG": "", **env}
        if loop_factory.is_hayase:
            import hayase

            home = str(Path(hayase.__file__).parent.parent)
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, [home, environment.get("PYTHONPATH", "")]))
        return subprocess.run(
            [sys.executable, *options, str(path)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=limit,
            stdin=subprocess.DEVNULL,
        )

    return program


@pytest.fixture(autouse=True)
def _no_deprecated_policy_noise() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*(policy|set_event_loop_policy|get_event_loop_policy).*")
        yield
