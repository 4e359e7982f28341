"""Makes the loops, futures and tasks of a CPython test file ours.

The files make their loops in many ways: through the policy, ``asyncio.EventLoop``, ``asyncio.SelectorEventLoop()``,
``base_events.BaseEventLoop()``. All of them are led to the loop under test. The futures and tasks files test several
implementations through mixins; they get more classes, for ours, made the way the files make theirs.

What must stay true: with no loop to substitute, nothing at all is touched. And ``test_utils.TestLoop`` stays the
stock loop, because tests with simulated time need one whose clock they can replace.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import types
import unittest
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# The modules of asyncio whose `logger` the tests replace by a mock.
_LOGGING_MODULES = (
    "base_events",
    "selector_events",
    "unix_events",
    "events",
    "futures",
    "tasks",
    "streams",
    "sslproto",
)


@dataclass
class Subject:
    """What is under test: a loop class, a way to make one, and its own Future and Task if it has them."""

    loop_class: type[asyncio.AbstractEventLoop]
    new_event_loop: Callable[[], asyncio.AbstractEventLoop]
    future: type | None = None
    task: type | None = None


def load_subject(name: str) -> Subject | None:
    """``asyncio`` is the oracle and substitutes nothing; ``hayase``; or ``module:Class`` for another loop."""
    if name == "asyncio":
        return None
    if name == "hayase":
        import hayase
        from hayase import _core

        return Subject(
            hayase.EventLoop,
            hayase.new_event_loop,
            future=getattr(_core, "Future", None),
            task=getattr(_core, "Task", None),
        )
    module_name, _, class_name = name.partition(":")
    loop_class = getattr(importlib.import_module(module_name), class_name)
    return Subject(loop_class, loop_class)


class Contact:
    """Knows whether a test had to do with what is under test: it made a loop of it, or belongs to a class made for it.

    The suite has many tests that do not: of asyncio's own C and Python futures and tasks, of protocols fed by mocks.
    They pass on every loop, so they say nothing about this one.
    """

    def __init__(self) -> None:
        self._loops_made = 0
        self._before = 0

    def watch(self, subject: Subject) -> None:
        """Counts the loops from now on. A loop class that is not a Python class cannot be watched: TypeError."""
        loop_class = subject.loop_class
        make = loop_class.__new__

        def new(cls: type, *args: Any, **kwargs: Any) -> Any:
            self._loops_made += 1
            return make(cls, *args, **kwargs)

        loop_class.__new__ = staticmethod(new)  # type: ignore[method-assign]

    def test_starts(self) -> None:
        self._before = self._loops_made

    def had(self, test: unittest.TestCase) -> bool:
        return self._loops_made > self._before or getattr(test, "is_made_for_the_subject", False)


def redirect_logging() -> None:
    """Lets a mocked ``asyncio.<module>.logger`` be seen by a loop that looks its logger up by name.

    Must run before the loop under test is imported: it may keep `logging.getLogger` itself.
    """
    real_get_logger = logging.getLogger
    real_logger = real_get_logger("asyncio")
    modules = [importlib.import_module(f"asyncio.{name}") for name in _LOGGING_MODULES]

    def get_logger(name: str | None = None) -> Any:
        if name != "asyncio":
            return real_get_logger(name)
        replaced = [m.logger for m in modules if getattr(m, "logger", real_logger) is not real_logger]
        return replaced[0] if replaced else real_logger

    logging.getLogger = get_logger


def substitute_loops(subject: Subject) -> None:
    """Before the test module is imported: its classes name `asyncio.EventLoop` while they are being defined."""
    from test.test_asyncio import utils  # first, so that TestLoop finds the stock BaseEventLoop as its base

    utils.TestCase.close_loop = staticmethod(_close_loop(utils.TestCase.close_loop))
    loop_class = subject.loop_class
    asyncio.BaseEventLoop = loop_class
    asyncio.SelectorEventLoop = loop_class
    asyncio.selector_events.BaseSelectorEventLoop = loop_class
    asyncio.unix_events.SelectorEventLoop = loop_class
    if hasattr(asyncio, "EventLoop"):
        asyncio.EventLoop = loop_class
        asyncio.unix_events.EventLoop = loop_class
    unix_events = asyncio.unix_events
    policy = getattr(unix_events, "_DefaultEventLoopPolicy", None) or unix_events._UnixDefaultEventLoopPolicy
    policy._loop_factory = staticmethod(subject.new_event_loop)


def substitute_names() -> None:
    """Full mode, before the test module is imported: streams, locks, queues and the rest that `hayase.install()` replaces."""
    from hayase.replacements import replacements

    for module, name, ours in list(replacements()):
        setattr(module, name, ours)


def substitute_in(module: types.ModuleType, subject: Subject) -> None:
    """After the test module was imported: what it got hold of by itself, and classes for our futures and tasks."""
    base_events = getattr(module, "base_events", None)
    if base_events is asyncio.base_events:
        module.base_events = _BaseEvents(base_events, subject.loop_class)
    if getattr(module, "sslproto", None) is asyncio.sslproto and hasattr(subject.loop_class, "_make_tls_protocol"):
        module.sslproto = _SslProto(asyncio.sslproto)
    for case in list(vars(module).values()):
        if isinstance(case, type) and "create_event_loop" in vars(case):
            # test_events asks for the stock loop on each of the selectors.
            case.create_event_loop = lambda self: subject.new_event_loop()
    for name, case in _cases_for(module, subject):
        case.__module__ = module.__name__
        case.__qualname__ = name
        case.is_made_for_the_subject = True
        setattr(module, name, case)


def _close_loop(close_stock_loop: Callable[[Any], None]) -> Callable[[Any], None]:
    """The suite closes a loop by way of the stock loop's `_default_executor`; this does the same in public words."""

    def close_loop(loop: Any) -> None:
        if hasattr(loop, "_default_executor"):
            close_stock_loop(loop)
            return
        if not loop.is_closed():
            loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    return close_loop


def _in_single_turns(loop_class: type) -> type:
    """The loop class with `_run_once`, by which test_base_events asks for one turn, said in public words."""

    def run_once(self: Any) -> None:
        self.stop()
        self.run_forever()

    return type(loop_class.__name__, (loop_class,), {"_run_once": run_once})


class _BaseEvents(types.ModuleType):
    """`asyncio.base_events` as a test file sees it: everything the module's, but the loop class ours.

    The module itself keeps its class, because the stock loops that remain still are made from it.
    """

    def __init__(self, module: types.ModuleType, loop_class: type) -> None:
        super().__init__(module.__name__)
        self.__dict__["_module"] = module
        self.__dict__["BaseEventLoop"] = _in_single_turns(loop_class)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._module, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._module, name)


class _SslProto(types.ModuleType):
    """`asyncio.sslproto` as test_sslproto sees it, with the TLS layer of our loop for its class."""

    def __init__(self, module: types.ModuleType) -> None:
        super().__init__(module.__name__)
        self._module = module

    @staticmethod
    def SSLProtocol(loop: Any, *args: Any, **keywords: Any) -> Any:
        return loop._make_tls_protocol(*args, **keywords)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _cases_for(module: types.ModuleType, subject: Subject) -> list[tuple[str, type[unittest.TestCase]]]:
    name = module.__name__.rpartition(".")[2]
    make = {
        "test_futures": _futures_cases,
        "test_futures2": _futures2_cases,
        "test_tasks": _tasks_cases,
        "test_eager_task_factory": _eager_cases,
    }.get(name)
    if make is None or subject.future is None or subject.task is None:
        return []
    return [(case.__name__, case) for case in make(module, subject)]


def _futures_cases(module: Any, subject: Subject) -> list[type]:
    from test.test_asyncio import utils

    def new_future(self: Any) -> Any:
        return subject.future(loop=self.loop)

    return [
        type("HayaseFutureTests", (module.BaseFutureTests, utils.TestCase), {"cls": subject.future}),
        type(
            "HayaseFutureDoneCallbackTests",
            (module.BaseFutureDoneCallbackTests, utils.TestCase),
            {"_new_future": new_future},
        ),
    ]


def _futures2_cases(module: Any, subject: Subject) -> list[type]:
    return [type("HayaseFutureTests", (module.FutureTests, unittest.IsolatedAsyncioTestCase), {"cls": subject.task})]


def _tasks_cases(module: Any, subject: Subject) -> list[type]:
    """Ours with ours, and both kinds of mixture, as the file does for its C and Python ones."""
    from test.test_asyncio import utils

    tasks, futures = asyncio.tasks, asyncio.futures
    ours_alone = (module.BaseTaskTests, module.SetMethodsTest, utils.TestCase)
    mixed = (module.BaseTaskTests, utils.TestCase)
    return [
        _task_case("HayaseTask_HayaseFuture_Tests", ours_alone, subject.task, subject.future),
        _task_case("HayaseTask_CFuture_Tests", mixed, subject.task, futures._CFuture),
        _task_case("HayaseTask_PyFuture_Tests", mixed, subject.task, futures._PyFuture),
        _task_case("CTask_HayaseFuture_Tests", mixed, tasks._CTask, subject.future),
        _task_case("PyTask_HayaseFuture_Tests", mixed, tasks._PyTask, subject.future),
    ]


def _task_case(name: str, bases: tuple[type, ...], task: type, future: type) -> type:
    body: dict[str, Any] = {"Task": task, "Future": future}
    # From 3.14 on the tests ask the implementation that belongs to the task. Ours registers with the C one.
    which = "_py" if task is asyncio.tasks._PyTask else "_c"
    for function in ("all_tasks", "current_task"):
        if hasattr(asyncio.tasks, f"{which}_{function}"):
            body[function] = staticmethod(getattr(asyncio.tasks, f"{which}_{function}"))
    return type(name, bases, body)


def _eager_cases(module: Any, subject: Subject) -> list[type]:
    from test.test_asyncio import utils

    body: dict[str, Any] = {"Task": subject.task}
    for function in ("all_tasks", "current_task"):
        if hasattr(asyncio.tasks, f"_c_{function}"):
            body[function] = staticmethod(getattr(asyncio.tasks, f"_c_{function}"))
    made = []
    for name, mixin in (
        ("HayaseEagerTaskFactoryLoopTests", module.EagerTaskFactoryLoopTests),
        ("NonEagerHayaseTaskTests", module.BaseNonEagerTaskFactoryTests),
        ("EagerHayaseTaskTests", module.BaseEagerTaskFactoryTests),
    ):
        made.append(type(name, (mixin, utils.TestCase), dict(body)))
    return made
