"""Every example runs, by itself and under `python -m hayase`, and is short enough to be read at a glance."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import hayase

EXAMPLES = Path(__file__).parent.parent / "examples"
PACKAGE_HOME = str(Path(hayase.__file__).parent.parent)

# What each one must print at the end; a new example without a line here fails.
LAST_LINES = {
    "echo.py": "hello from client 4",
    "hello.py": "counted to 9",
    "old_times.py": "is done",
    "protocol.py": "IS ANYBODY THERE?",
}


def test_every_example_is_tested() -> None:
    assert sorted(LAST_LINES) == sorted(path.name for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("command", [(), ("-m", "hayase")], ids=["python", "hayase"])
@pytest.mark.parametrize("name", LAST_LINES)
def test_example(name: str, command: tuple[str, ...]) -> None:
    search = os.pathsep.join(filter(None, [PACKAGE_HOME, os.environ.get("PYTHONPATH")]))
    outcome = subprocess.run(
        [sys.executable, *command, str(EXAMPLES / name)],
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        text=True,
        timeout=40,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.splitlines()[-1].endswith(LAST_LINES[name])
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize("name", LAST_LINES)
def test_an_example_is_under_sixty_lines(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) < 60
