"""docs/compatibility.md, held against the running interpreter's asyncio and against hayase, so that it cannot rot.

Every public method and parameter of asyncio's loop is on the page; what the page says is there is there, and what it says
is not is not.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import hayase

PAGE = Path(__file__).parents[1] / "docs" / "compatibility.md"
STOCK = asyncio.SelectorEventLoop
VERSION = sys.version_info[:2]


@dataclass
class Line:
    name: str
    # Each with the version that added it, if the page gives one.
    parts: dict[str, tuple[int, int] | None]
    hayase: str

    def here(self) -> set[str]:
        """The parts that the running version has."""
        return {part for part, since in self.parts.items() if since is None or since <= VERSION}


def read_lines() -> dict[str, Line]:
    text = PAGE.read_text()
    text = text[text.index("## The interface, name by name") : text.index("<!-- end of the interface -->")]
    lines = {}
    for row in re.findall(r"^\| (`.*)\|$", text, re.MULTILINE):
        name, parts, said, *_ = (cell.strip() for cell in row.split(" |"))
        found = re.findall(r"`\*{0,2}(\w+)`(?: \(3\.(\d+)\))?", parts)
        name = name.strip("`")
        assert name not in lines, f"{name} is there twice"
        assert said in ("yes", "no"), row
        lines[name] = Line(name, {part: (3, int(minor)) if minor else None for part, minor in found}, said)
    return lines


LINES = read_lines()
OBJECTS = {name: line for name, line in LINES.items() if name[0].isupper()}
METHODS = {name: line for name, line in LINES.items() if name not in OBJECTS}


def public(thing: object) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


def parameters(loop: asyncio.AbstractEventLoop, name: str) -> set[str]:
    return set(inspect.signature(getattr(loop, name)).parameters)


@pytest.fixture
def stock():
    loop = STOCK()
    yield loop
    loop.close()


@pytest.fixture
def ours():
    loop = hayase.new_event_loop()
    yield loop
    loop.close()


def test_every_public_method_of_asyncios_loop_is_on_the_page_and_no_other():
    assert {name for name in public(STOCK) if callable(getattr(STOCK, name))} == set(METHODS)
    assert public(asyncio.AbstractEventLoop) <= set(METHODS)


@pytest.mark.parametrize("line", METHODS.values(), ids=METHODS)
def test_the_page_gives_the_parameters_of_the_running_version(stock, line):
    theirs = parameters(stock, line.name)
    if line.name == "create_task" and "kwargs" in theirs:  # what the Task takes
        theirs = theirs - {"kwargs"} | {"name", "context", "eager_start"}
    assert line.here() == theirs


@pytest.mark.parametrize("line", METHODS.values(), ids=METHODS)
def test_what_the_page_says_is_there_is_there_with_its_parameters(ours, line):
    method = getattr(hayase.EventLoop, line.name)
    is_there = method is not getattr(asyncio.AbstractEventLoop, line.name, None)
    assert is_there == (line.hayase == "yes")
    if (
        is_there and line.name != "create_task"
    ):  # passes keywords on; tests/test_interface.py and test_task_factories.py give each
        assert line.here() <= parameters(ours, line.name)


@pytest.mark.parametrize("line", OBJECTS.values(), ids=OBJECTS)
def test_the_page_gives_the_public_names_of_asyncios_classes(line):
    cls = getattr(asyncio, line.name, None) or getattr(asyncio.base_events, line.name)
    assert line.here() == public(cls)


async def everything() -> dict[str, object]:
    """One of each object of the page, as hayase makes it."""
    loop = asyncio.get_running_loop()
    made: dict[str, object] = {
        "Server": await loop.create_server(asyncio.Protocol, "127.0.0.1", 0),
        "Handle": loop.call_soon(int),
        "TimerHandle": loop.call_later(0, int),
        "Future": loop.create_future(),
        "Task": asyncio.current_task(),
    }
    address = made["Server"].sockets[0].getsockname()
    made["Transport"], _ = await loop.create_connection(asyncio.Protocol, *address)
    made["SubprocessTransport"], _ = await loop.subprocess_exec(asyncio.SubprocessProtocol, "true")
    if OBJECTS["DatagramTransport"].hayase == "yes":
        made["DatagramTransport"], _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        )
    return made


def test_objects_that_the_page_says_are_there_have_these_names(ours):
    async def main() -> None:
        made = await everything()
        assert set(made) == {name for name, line in OBJECTS.items() if line.hayase == "yes"}
        for name, thing in made.items():
            missing = OBJECTS[name].here() - public(thing)
            assert not missing, f"{name} lacks {missing}"
        await made["SubprocessTransport"]._wait()
        for name in ("Transport", "SubprocessTransport", "DatagramTransport", "Server"):
            if name in made:
                made[name].close()
        await made["Server"].wait_closed()
        await asyncio.sleep(0)

    ours.run_until_complete(main())


def test_every_public_name_of_asyncio_is_in_hayase():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # policies, from 3.14 on
        assert not [name for name in asyncio.__all__ if not hasattr(hayase, name)]


def test_the_tests_that_the_page_names_exist_and_every_marked_difference_is_in_a_file_it_names():
    text = PAGE.read_text()
    named = set(re.findall(r"`(tests/\w+\.py)`", text))
    root = PAGE.parents[1]
    assert not [name for name in named if not (root / name).exists()]
    marked = {
        f"tests/{path.name}"
        for path in (root / "tests").glob("test_*.py")
        if re.search(r"^@pytest.mark.oracle_differs\(", path.read_text(), re.MULTILINE)
    }
    assert marked <= named
