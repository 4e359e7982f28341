"""The prompt of `python -m hayase`: statements with await at top level, on a loop that runs while somebody types."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import hayase

PACKAGE_HOME = str(Path(hayase.__file__).parent.parent)
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(filter(None, [PACKAGE_HOME, os.environ.get("PYTHONPATH")])),
    "TERM": "dumb",
}


@pytest.fixture
def prompt() -> Callable[[str], tuple[int, list[str], str]]:
    """Type a session; gives the status, what was printed after the prompts, and the error output."""

    def prompt(session: str) -> tuple[int, list[str], str]:
        outcome = subprocess.run(
            [sys.executable, "-m", "hayase"],
            input=textwrap.dedent(session),
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=40,
        )
        printed = outcome.stdout.replace(">>> ", "").replace("... ", "").split("\n")
        return outcome.returncode, [line for line in printed if line], outcome.stderr

    return prompt


Session = Callable[[str], tuple[int, list[str], str]]


def test_statements_and_expressions_work_as_at_pythons_prompt(prompt: Session) -> None:
    status, printed, _ = prompt(
        """
        x = 6
        def f(y):
            return x * y

        f(7)
        _ + 1
        """
    )
    assert (status, printed) == (0, ["42", "43"])


def test_await_works_at_top_level_on_hayases_loop(prompt: Session) -> None:
    status, printed, _ = prompt(
        """
        await asyncio.sleep(0, "slept")
        type(asyncio.get_running_loop()).__module__
        async with asyncio.timeout(1):
            print(await asyncio.sleep(0, "in a block"))

        asyncio.current_task() is None
        """
    )
    assert (status, printed) == (0, ["'slept'", "'hayase.events'", "in a block", "True"])


def test_tasks_go_on_between_statements(prompt: Session) -> None:
    status, printed, _ = prompt(
        """
        import threading
        done = threading.Event()
        async def background():
            await asyncio.sleep(0)
            done.set()

        task = asyncio.create_task(background())
        await task
        done.is_set()
        """
    )
    assert (status, printed) == (0, ["True"])


def test_context_variables_are_kept_from_one_statement_to_the_next(prompt: Session) -> None:
    status, printed, _ = prompt(
        """
        import contextvars
        v = contextvars.ContextVar("v")
        token = v.set(1)
        async def change():
            v.set(v.get() + 1)

        await change()
        v.get()
        """
    )
    assert (status, printed) == (0, ["2"])


def test_an_error_is_shown_from_the_statement_on_and_the_session_goes_on(prompt: Session) -> None:
    status, printed, errors = prompt(
        """
        async def f():
            1 / 0

        await f()
        1 / 0
        x = = 1
        "still here"
        """
    )
    assert (status, printed) == (0, ["'still here'"])
    assert errors.count("ZeroDivisionError: division by zero") == 2
    assert errors.count("SyntaxError: invalid syntax") == 1
    assert PACKAGE_HOME not in errors and "concurrent" not in errors


def test_a_cancelled_statement_is_reported(prompt: Session) -> None:
    status, printed, errors = prompt(
        """
        future = asyncio.get_running_loop().create_future()
        _ = future.cancel()
        await future
        "still here"
        """
    )
    assert (status, printed) == (0, ["'still here'"])
    assert "CancelledError" in errors


@pytest.mark.parametrize(
    ("statement", "status"),
    [
        ("raise SystemExit(3)", 3),
        ("exit(4)", 4),
        ("async def f():\n    raise SystemExit(5)\n\nawait f()", 5),
        ("exit()", 0),
    ],
    ids=["raised", "called", "awaited", "plainly"],
)
def test_leaving_gives_the_exit_status(prompt: Session, statement: str, status: int) -> None:
    assert prompt(statement + "\nprint('not reached')\n")[:2] == (status, [])


def test_what_is_left_unfinished_is_cancelled_at_the_end(prompt: Session) -> None:
    status, printed, errors = prompt(
        """
        async def forever():
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                print("cancelled")
                raise

        task = asyncio.create_task(forever())
        await asyncio.sleep(0)
        """
    )
    assert (status, printed) == (0, ["cancelled"])
    assert "destroyed" not in errors


@pytest.fixture
def terminal() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The prompt in a terminal of its own."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "hayase"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    os.close(theirs)
    yield process, ours
    process.kill()
    process.wait()
    os.close(ours)


def read_until(terminal: int, text: bytes) -> bytes:
    read = b""
    while text not in read:
        read += os.read(terminal, 4096)
    return read


def test_an_interrupt_cancels_the_statement_and_the_session_goes_on(
    terminal: tuple[subprocess.Popen[bytes], int],
) -> None:
    process, screen = terminal
    read_until(screen, b"import asyncio, hayase")
    # Printed when the statement waits already: the interrupt is to find it waiting, not running.
    begin = b"asyncio.get_running_loop().call_soon(print, 'begin', 'ning')"
    os.write(screen, begin + b"; await asyncio.sleep(1000)\n")
    read_until(screen, b"begin ning")
    process.send_signal(signal.SIGINT)
    read_until(screen, b"CancelledError")
    os.write(screen, b"print('still', 'here')\n")
    read_until(screen, b"still here")
    os.write(screen, b"exit(6)\n")
    try:
        read_until(screen, b"never printed")
    except OSError:  # how Linux says that the other end of a terminal is closed
        pass
    assert process.wait(20) == 6
