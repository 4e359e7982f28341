"""`import hayase as asyncio`: every public name of the running version's asyncio, held against asyncio itself.

What the functions and classes do is told in the files of their subjects. Here is that nothing is missing, nothing is called
differently, and what is the very object that asyncio has.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from unittest import mock

import pytest

import hayase
from hayase.replacements import replacements

# Names that differ, and why. Everything else that is called the same is the same, or looks the same.
OTHER = {
    "EventLoop": "hayase's loop: takes no selector; its methods are in tests/test_interface.py",
    "SelectorEventLoop": "asyncio's own, for who asks for it",
}
# Asyncio has them where each instance has a method of its lock, so its class has not.
NEWER_METHODS = {"Condition": {"acquire", "release", "locked"}}
NEWER_PARAMETERS = {"run": {"loop_factory"}}  # 3.12
NEWER_THAN_THE_RUNNING_VERSION = {
    "Queue": {"shutdown"},  # 3.13
    "PriorityQueue": {"shutdown"},
    "LifoQueue": {"shutdown"},
}


def public(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 3.14 deprecates some by warning whoever looks
        return sorted({name for name in [*dir(module), *module.__all__] if not name.startswith("_")})


def get(module, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(module, name)


NAMES = public(asyncio)
OURS = [name for name in NAMES if get(asyncio, name) is not get(hayase, name) and name not in OTHER]
CLASSES = [name for name in OURS if inspect.isclass(get(asyncio, name))]
FUNCTIONS = [name for name in OURS if inspect.isroutine(get(asyncio, name))]


def parameters(callable_object):
    """Names, kinds and defaults; annotations aside."""
    signature = inspect.signature(callable_object)
    return [(p.name, p.kind, p.default) for p in signature.parameters.values()]


def without_self(method):
    """Whoever is `self` cannot be given by name to a method that is written in Rust, nor usefully to another."""
    return parameters(method)[1:]


def is_coroutine_function(function):
    """As `inspect` says, and asyncio, which `unittest.mock` asks."""
    answers = {inspect.iscoroutinefunction(function)}
    if sys.version_info < (3, 14):
        answers.add(asyncio.coroutines.iscoroutinefunction(function))
    (answer,) = answers
    return answer


def methods(cls):
    return [
        name for name in dir(cls) if not name.startswith("_") and inspect.isroutine(inspect.getattr_static(cls, name))
    ]


METHODS = [(cls, name) for cls in CLASSES for name in methods(get(asyncio, cls))]


# Names ---------------------------------------------------------------------------------------------------------------


def test_every_public_name_of_asyncio_is_there():
    assert [name for name in NAMES if not hasattr(hayase, name)] == []
    assert set(asyncio.__all__) <= set(hayase.__all__)


def test_a_star_import_brings_them_all():
    namespace = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec("from hayase import *", namespace)
    assert set(asyncio.__all__) <= set(namespace)


def test_what_is_not_asyncios_own_is_a_function_a_class_or_a_module_there_too():
    modules = {name for name in OURS if inspect.ismodule(get(asyncio, name))}
    assert set(OURS) == {*CLASSES, *FUNCTIONS, *modules}
    assert [name for name in CLASSES if not inspect.isclass(get(hayase, name))] == []
    assert [name for name in FUNCTIONS if not callable(get(hayase, name))] == []
    assert [name for name in modules if not inspect.ismodule(get(hayase, name))] == []


@pytest.mark.parametrize(
    "name",
    [
        *(
            name
            for name in NAMES
            if isinstance(get(asyncio, name), type) and issubclass(get(asyncio, name), BaseException)
        ),
        *(name for name in NAMES if isinstance(get(asyncio, name), str | int | float)),
        "Future",
        "Task",
        "Handle",
        "TimerHandle",
        "AbstractEventLoop",
        "AbstractServer",
        "Server",
        *(name for name in NAMES if name.endswith(("Transport", "Protocol")) and name != "StreamReaderProtocol"),
        "current_task",
        "all_tasks",
        "get_running_loop",
        "iscoroutine",
        "isfuture",
        "wrap_future",
    ],
)
def test_programs_tell_these_by_identity_so_they_are_asyncios(name):
    assert get(hayase, name) is get(asyncio, name)


@pytest.mark.parametrize("name", sorted({f"{module.__name__}" for module, _, _ in replacements()} - {"asyncio"}))
def test_submodules_have_the_public_names_of_asyncios(name):
    theirs = importlib.import_module(name)
    ours = get(hayase, name.removeprefix("asyncio."))
    assert [public_name for public_name in theirs.__all__ if not hasattr(ours, public_name)] == []
    for public_name in theirs.__all__:
        if hasattr(hayase, public_name):
            assert getattr(ours, public_name) is get(hayase, public_name)


def test_other_submodules_are_asyncios():
    for name in ("futures", "protocols", "transports", "base_events", "exceptions", "coroutines", "constants"):
        assert getattr(hayase, name) is getattr(asyncio, name)


def test_a_name_that_asyncio_has_not_either_is_missed_by_hayases_name():
    with pytest.raises(AttributeError, match="module 'hayase' has no attribute 'nonsense'"):
        hayase.nonsense  # noqa: B018


# Functions and classes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FUNCTIONS, *CLASSES])
def test_a_function_or_class_has_asyncios_parameters(name):
    theirs = parameters(get(asyncio, name))
    newer = NEWER_PARAMETERS.get(name, set()) - {parameter for parameter, _, _ in theirs}
    assert [parameter for parameter in parameters(get(hayase, name)) if parameter[0] not in newer] == theirs


@pytest.mark.parametrize("name", [*FUNCTIONS, *CLASSES])
def test_a_function_or_class_is_named_documented_and_pickled(name):
    ours = get(hayase, name)
    assert ours.__name__ == ours.__qualname__ == name
    assert ours.__doc__
    assert pickle.loads(pickle.dumps(ours)) is ours


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_a_coroutine_function_if_asyncios_is(name):
    assert is_coroutine_function(get(hayase, name)) == is_coroutine_function(get(asyncio, name))


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_can_be_subclassed_with_others_and_with_slots(name):
    """All of asyncio's can, also those that it calls final."""

    class Mixin:
        pass

    for module in (asyncio, hayase):
        base = get(module, name)
        assert issubclass(type("WithOthers", (Mixin, base), {}), base)
        assert type("WithSlots", (base,), {"__slots__": ("slot",)}).slot


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_has_asyncios_methods_and_attributes_and_no_others(name):
    ours, theirs = ({n for n in dir(get(module, name)) if not n.startswith("_")} for module in (hayase, asyncio))
    assert theirs <= ours
    assert ours - theirs <= NEWER_METHODS.get(name, set()) | NEWER_THAN_THE_RUNNING_VERSION.get(name, set())


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_has_the_protocols_of_asyncios(name):
    asked = ["__aenter__", "__aexit__", "__enter__", "__exit__", "__aiter__", "__anext__", "__await__", "__iter__"]
    asked += ["__class_getitem__", "__hash__", "__eq__", "__bool__", "__len__", "__call__", "__copy__", "__del__"]
    ours, theirs = get(hayase, name), get(asyncio, name)
    assert {n for n in asked if hasattr(theirs, n)} <= {n for n in asked if hasattr(ours, n)}
    for exit_method in ("__aexit__", "__exit__"):
        if hasattr(theirs, exit_method):
            assert without_self(getattr(ours, exit_method)) == without_self(getattr(theirs, exit_method))
    for awaited in ("__aenter__", "__aexit__"):
        if hasattr(theirs, awaited):
            assert is_coroutine_function(getattr(ours, awaited)) == is_coroutine_function(getattr(theirs, awaited))


@pytest.mark.parametrize(("cls", "name"), METHODS, ids=lambda value: value)
def test_a_method_has_asyncios_parameters_and_a_docstring(cls, name):
    ours, theirs = getattr(get(hayase, cls), name), getattr(get(asyncio, cls), name)
    assert without_self(ours) == without_self(theirs)
    assert ours.__doc__ or not theirs.__doc__
    assert ours.__name__ == name


@pytest.mark.parametrize(("cls", "name"), METHODS, ids=lambda value: value)
def test_a_method_is_a_coroutine_function_if_asyncios_is(cls, name):
    ours, theirs = getattr(get(hayase, cls), name), getattr(get(asyncio, cls), name)
    assert is_coroutine_function(ours) == is_coroutine_function(theirs)


def test_methods_of_the_loop_are_coroutine_functions_if_asyncios_are():
    theirs = asyncio.SelectorEventLoop
    ours = {name for name in methods(theirs) if is_coroutine_function(getattr(hayase.EventLoop, name))}
    assert ours == {name for name in methods(theirs) if is_coroutine_function(getattr(theirs, name))}


# Coroutine methods of the extension ----------------------------------------------------------------------------------


def test_a_mock_of_a_reader_has_coroutine_functions_where_the_reader_has():
    imitation = mock.MagicMock(spec=hayase.StreamReader)
    assert isinstance(imitation.readline, mock.AsyncMock)
    assert not isinstance(imitation.at_eof, mock.AsyncMock)


def test_a_patched_method_of_a_loop_can_be_awaited(loop, run):
    async def main():
        with mock.patch.object(loop, "create_connection", return_value=("transport", "protocol")) as patched:
            assert await loop.create_connection(object, "host", port=1) == ("transport", "protocol")
        patched.assert_awaited_once_with(object, "host", port=1)

    run(main())


def test_a_method_can_be_called_through_its_class_and_kept(run):
    async def main():
        queue = hayase.Queue()
        put = queue.put
        await put(1)
        await hayase.Queue.put(queue, item=2)
        assert await hayase.Queue.get(queue) == 1
        assert await queue.get() == 2
        with pytest.raises(TypeError):
            hayase.Queue.get()
        with pytest.raises(TypeError):
            hayase.Queue.get(object())

    run(main())


def test_a_method_that_is_marked_looks_like_the_method_it_is():
    queue = hayase.Queue()
    assert queue.get == queue.get
    assert queue.get.__self__ is queue
    assert hayase.Queue.get.__qualname__ == "Queue.get"
    assert repr(hayase.Queue.get) == "<method 'get' of 'Queue' objects>"
    assert pickle.loads(pickle.dumps(hayase.Queue.get)) is hayase.Queue.get
    assert inspect.ismethod(queue.get) and inspect.ismethoddescriptor(hayase.Queue.get)


def test_a_subclass_calls_the_method_of_its_base(run):
    class Counting(hayase.Queue):
        count = 0

        async def get(self):
            self.count += 1
            return await super().get()

    async def main():
        queue = Counting()
        queue.put_nowait("item")
        assert (await queue.get(), queue.count) == ("item", 1)

    run(main())


def test_the_package_can_be_imported_anew_and_what_was_made_before_works():
    program = """
import sys, hayase
loop, queue = hayase.new_event_loop(), hayase.Queue()
for name in [name for name in sys.modules if name.startswith("hayase")]:
    del sys.modules[name]
import hayase as again
assert again is not hayase and again.Queue is hayase.Queue
async def main():
    return await again.wait_for(again.gather(queue.put("item"), queue.get(), again.sleep(0.001)), 10)
print(loop.run_until_complete(main()))
loop.close()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[None, 'item', None]\n", "")


# What a type checker sees --------------------------------------------------------------------------------------------


def test_the_program_that_the_type_checker_passes_runs():
    program = Path(__file__).with_name("typed_program.py")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[0, 1, 4, 1]\n", "")
