"""Runs the test suites of libraries on asyncio and on hayase, and compares.

    python -m tests.libraries                    every suite of suites.toml, with this interpreter
    python -m tests.libraries anyio uvicorn      some
    python -m tests.libraries --source websockets=FOLDER websockets    its tests from a checkout

What must stay true: the verdict is a comparison. A test that fails on both loops says nothing about hayase; one that
fails on hayase alone fails the run unless expectations.toml has it, and so does an entry there that no longer fails.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TEST_SECONDS_MAX = 60
SUITE_SECONDS_MAX = 1200

# For every suite. A suite's own choices of plugins and workers are put aside (`-o addopts=`).
PYTEST = ("pytest==9.1.1", "pytest-timeout==2.4.0")


@dataclass
class Outcome:
    """What one run of a suite said."""

    results: dict[str, str] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)
    loops_made: int | None = None
    output: str = ""

    def failed(self) -> set[str]:
        return {test for test, outcome in self.results.items() if outcome == "failed"}


def main() -> int:
    suites = tomllib.loads((HERE / "suites.toml").read_text())
    expectations = tomllib.loads((HERE / "expectations.toml").read_text())
    parser = argparse.ArgumentParser(prog="python -m tests.libraries", description=__doc__.partition("\n")[0])
    parser.add_argument("suite", nargs="*", default=[], help=f"some of {', '.join(suites)}")
    parser.add_argument("--source", action="append", default=[], metavar="SUITE=FOLDER", help="tests from a checkout")
    parser.add_argument("--match", default="", help="pytest -k, in place of the suite's own")
    options = parser.parse_args()
    sources = dict(source.split("=", 1) for source in options.source)
    wrong = 0
    for name in options.suite or suites:
        if suites[name].get("needs_source") and name not in sources:
            print(f"\n{name}: not run; its tests are only in its repository (--source {name}=FOLDER)")
            wrong += name in options.suite
            continue
        wrong += not judge(name, suites[name], expectations.get(name, {}), sources.get(name), options.match)
    return 1 if wrong else 0


def judge(name: str, suite: dict, expected: dict[str, str], source: str | None, match: str) -> bool:
    python = environment(name, suite)
    folder = Path(source) if source else sources_of(python, suite["package"])
    arguments = ["-k", match, "tests"] if match else suite["arguments"]
    theirs = run(python, folder, arguments, "asyncio")
    ours = run(python, folder, arguments, "hayase")
    suspects = sorted(ours.failed() - theirs.failed())
    if suspects:
        # Some tests give a process three seconds. What fails on hayase because of hayase fails again.
        for test, outcome in run(python, folder, suspects, "hayase").results.items():
            ours.results[test] = outcome
    print(f"\n{name} ({suite['package']})")
    for loop, outcome in (("asyncio", theirs), ("hayase", ours)):
        counts = Counter(outcome.results.values())
        made = f", {outcome.loops_made} loops of hayase" if loop == "hayase" else ""
        print(f"  on {loop}: {counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped{made}")
    problems = compare(theirs, ours, expected)
    for problem in problems:
        print(problem)
    return not problems


def compare(theirs: Outcome, ours: Outcome, expected: dict[str, str]) -> list[str]:
    problems = []
    for loop, outcome in (("asyncio", theirs), ("hayase", ours)):
        if outcome.loops_made is None:
            problems.append(f"  the run on {loop} did not come to its end:\n{outcome.output[-4000:]}")
    if not ours.loops_made:
        problems.append("  the suite made no loop of hayase")
    alone = ours.failed() - theirs.failed()
    missing = set(theirs.results) - set(ours.results)
    for test in sorted(alone | missing):
        if not any(fnmatch.fnmatchcase(test, pattern) for pattern in expected):
            detail = ours.details.get(test, "did not run")
            problems.append(f"  fails on hayase alone: {test}\n{detail[-3000:]}")
    for pattern, reason in expected.items():
        if not fnmatch.filter(alone | missing, pattern):
            problems.append(
                f"  no longer fails on hayase alone: {pattern} ({reason}): take it out of expectations.toml"
            )
    return problems


def environment(name: str, suite: dict) -> Path:
    """An environment for the suite, in `.envs/`; made anew when what it needs has changed."""
    folder = ROOT / ".envs" / f"libraries-{name}-{sys.version_info[0]}.{sys.version_info[1]}"
    python, wanted = folder / "bin" / "python", [suite["package"], *suite["requires"], *PYTEST]
    stamp = folder / "installed"
    if not stamp.exists() or stamp.read_text() != json.dumps(wanted):
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip(python, "install", *wanted)
        stamp.write_text(json.dumps(wanted))
    return python


def sources_of(python: Path, package: str) -> Path:
    folder = ROOT / ".envs" / "libraries"
    unpacked = folder / package.replace("==", "-")
    if not unpacked.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as fetched:
            pip(python, "download", "--no-deps", "--no-binary", ":all:", "--dest", fetched, package)
            (archive,) = Path(fetched).iterdir()
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
    return unpacked


def pip(python: Path, *arguments: str) -> None:
    subprocess.run([python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], check=True)


def run(python: Path, folder: Path, arguments: list[str], loop: str) -> Outcome:
    outcome = Outcome()
    with tempfile.TemporaryDirectory() as scratch:
        results = Path(scratch, "results")
        results.touch()
        environ = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PYTEST"))},
            "PYTHONPATH": os.pathsep.join([str(HERE / "plugin"), str(ROOT / "python")]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "JUDGE_LOOP": loop,
            "JUDGE_RESULTS": str(results),
        }
        command = [str(python), "-m", "pytest", "-p", "judge", "-p", "no:cacheprovider", "-o", "addopts=", "-q"]
        command += [f"--timeout={TEST_SECONDS_MAX}", f"--basetemp={scratch}/tmp", *arguments]
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=SUITE_SECONDS_MAX,
            )
            outcome.output = done.stdout
        except subprocess.TimeoutExpired as late:
            outcome.output = f"{(late.stdout or b'').decode(errors='replace')}\nended after {SUITE_SECONDS_MAX} s"
        for line in results.read_text().splitlines():
            record = json.loads(line)
            if "loops_made" in record:
                outcome.loops_made = record["loops_made"]
            elif outcome.results.get(record["test"]) != "failed":
                outcome.results[record["test"]] = record["outcome"]
                outcome.details[record["test"]] = record["detail"]
    return outcome


if __name__ == "__main__":
    sys.exit(main())
