"""Runs CPython's own asyncio tests against a loop and says what did not go as expected.

    python -m tests.cpython                               hayase, every file of the suite, this interpreter
    python -m tests.cpython --file test_tasks test_locks  some files
    python -m tests.cpython --full                        with hayase's streams, locks, queues, ... in asyncio's place
    python -m tests.cpython --loop asyncio                the oracle: nothing substituted, everything must pass
    python -m tests.cpython --python /usr/bin/python3.12  the tests of another interpreter

What must stay true: a test counts as passed only if its child process said so. A crash or a hang is the failure of
the test that was running; the tests after it still run, in a new child.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.cpython import expectations
from tests.cpython.expectations import EXCLUDED, FAILS, NOT_YET, SECTIONS, Expectation

COLUMNS = ("passed", "apart", "failed", "skipped", "excluded", "not yet", "fails", "seconds")

ROOT = Path(__file__).resolve().parents[2]

# What is about more than the loop: the files of full mode.
FULL_FILES = (
    "test_eager_task_factory",
    "test_free_threading",
    "test_futures",
    "test_futures2",
    "test_locks",
    "test_queues",
    "test_runners",
    "test_staggered",
    "test_streams",
    "test_subprocess",
    "test_taskgroups",
    "test_tasks",
    "test_threads",
    "test_timeouts",
    "test_waitfor",
)

# A child that dies is replaced to run the rest of its file. So many deaths in one file are a broken build rather than
# broken tests, and the remaining tests count as failed.
CHILD_DEATHS_MAX = 60


@dataclass
class FileReport:
    """What became of the tests of one file."""

    file: str
    # Why the file has no tests here, by its own word (it needs Windows) or because this version has no such file.
    absent: str = ""
    passed: int = 0
    # Those of `passed` that had nothing to do with the loop under test.
    apart: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    # Excluded and expected failures by section; the tests of a file are the sum of all of these numbers.
    expected: Counter[str] = field(default_factory=Counter)
    # What was not expected: test and traceback.
    failed: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0


def main() -> int:
    options = _parse_arguments()
    version = _version_of(options.python)
    files = options.file or [file for file in _files_of(options.python) if not options.full or file in FULL_FILES]
    expected = [] if options.loop == "asyncio" else expectations.load(options.expectations, version)
    if options.full:
        expected += expectations.load(expectations.FULL, version)
    print(f"CPython {version[0]}.{version[1]}'s test_asyncio on {options.loop} ({options.python})", flush=True)
    print("file".ljust(26), *(name.rjust(8) for name in COLUMNS))
    with ThreadPoolExecutor(options.jobs) as pool:
        reports = []
        for report in pool.map(lambda file: FileRun(file, options, expected).report(), files):
            reports.append(report)
            print(_row(report), flush=True)
    return _conclude(reports, options.loop, verbose=options.verbose)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.cpython", description=__doc__.partition("\n")[0])
    parser.add_argument("--loop", default="hayase", help="hayase (default), asyncio, or module:Class")
    parser.add_argument("--full", action="store_true", help="all that hayase.install() replaces, in the files about it")
    parser.add_argument("--file", nargs="+", metavar="test_x", help="files of test_asyncio (default: all)")
    parser.add_argument("--match", default="", help="only tests whose file.Class.method contains this text")
    parser.add_argument("--python", default=sys.executable, metavar="EXE", help="the interpreter, and its tests")
    parser.add_argument("-j", "--jobs", type=int, default=1, metavar="N", help="files at the same time")
    parser.add_argument("--expectations", type=Path, default=expectations.EXPECTATIONS)
    parser.add_argument("--test-limit", type=float, default=60.0, metavar="S", help="seconds for one test")
    parser.add_argument("--file-limit", type=float, default=600.0, metavar="S", help="seconds for one file")
    parser.add_argument("-v", "--verbose", action="store_true", help="also list skipped tests by reason")
    return parser.parse_args()


def _version_of(python: str) -> tuple[int, int]:
    code = "import sys; print(*sys.version_info[:2])"
    answer = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout
    major, minor = map(int, answer.split())
    return major, minor


def _files_of(python: str) -> list[str]:
    """Every file of the interpreter's suite, so that none is forgotten, and none that a later version adds."""
    code = "import json, pkgutil, test.test_asyncio as t; print(json.dumps([m.name for m in pkgutil.iter_modules(t.__path__)]))"
    answer = subprocess.run([python, "-c", code], capture_output=True, text=True)
    if answer.returncode != 0:
        raise SystemExit(f"{python} has no test.test_asyncio:\n{answer.stderr}")
    return sorted(name for name in json.loads(answer.stdout) if name.startswith("test_"))


class FileRun:
    """One file: as many children as it takes, and the comparison of their results with the expectations."""

    def __init__(self, file: str, options: argparse.Namespace, expected: list[Expectation]) -> None:
        self._file = file
        self._options = options
        self._expected = [each for each in expected if each.file == file]
        self._report = FileReport(file)
        self._tests: list[str] = []
        # Tests with a result, or that never get one.
        self._settled: set[str] = set()

    def report(self) -> FileReport:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="cpython-tests-") as folder:
            self._folder = Path(folder)
            if not self._exists():
                self._report.absent = "not in this version"
            elif self._list_tests():
                self._set_aside()
                self._run(deadline=started + self._options.file_limit)
        self._report.seconds = time.monotonic() - started
        return self._report

    def _exists(self) -> bool:
        code = f"import importlib.util as u, sys; sys.exit(u.find_spec('test.test_asyncio.{self._file}') is None)"
        answer = subprocess.run([self._options.python, "-c", code], cwd=self._folder, capture_output=True, text=True)
        if answer.returncode not in (0, 1) or "Error" in answer.stderr:
            raise SystemExit(f"{self._options.python} has no test.test_asyncio:\n{answer.stderr}")
        return answer.returncode == 0

    def _list_tests(self) -> bool:
        child = self._start_child(list_only=True, limit=60.0)
        self._tests = [test for record in child.records if record["event"] == "tests" for test in record["tests"]]
        self._report.absent = "".join(r["reason"] for r in child.records if r["event"] == "skipped file")
        if not self._tests and not self._report.absent:
            self._fail(f"{self._file} (loading)", f"{child.end}\n{child.log}")
        return bool(self._tests)

    def _set_aside(self) -> None:
        """Takes out the tests that are not to be run, and complains of entries that name no test."""
        for stale in expectations.without_a_test(self._expected, set(self._tests)):
            self._fail(stale.pattern, f"no such test, but expectations.toml has it under [[{stale.section}]]\n")
        for test in self._tests:
            if self._options.match not in test:
                self._settled.add(test)
                continue
            entry = expectations.first_match(self._expected, test)
            if entry is not None and not entry.run:
                self._settled.add(test)
                self._report.expected[entry.section] += 1

    def _run(self, deadline: float) -> None:
        for _ in range(CHILD_DEATHS_MAX):
            if len(self._settled) == len(self._tests):
                return
            child = self._start_child(list_only=False, limit=deadline - time.monotonic())
            running = None
            for record in child.records:
                if record["event"] == "start":
                    running = record["test"]
                elif record["event"] == "result":
                    running = None
                    self._settle(record["test"], record["outcome"], record["detail"], touched=record["touched"])
            if child.finished:
                self._fail_the_rest("the child ended without running it")
                if child.returncode != 0:
                    self._fail(f"{self._file} (exit)", f"after the last test: {child.end}\n{child.log}")
                return
            if running is None or child.killed:
                self._fail_the_rest(f"not run: {child.end}\n{child.log}")
                return
            self._settle(running, "failed", f"{child.end}\n{child.log}")
        self._fail_the_rest(f"not run: {CHILD_DEATHS_MAX} children died before it")

    def _settle(self, test: str, outcome: str, detail: str, *, touched: bool = True) -> None:
        self._settled.add(test)
        entry = expectations.first_match(self._expected, test)
        if outcome == "skipped":
            self._report.skipped[detail] += 1
        elif outcome == "passed" and entry is None:
            self._report.passed += 1
            self._report.apart += not touched
        elif outcome == "passed" and entry is not None:
            self._fail(test, f"passed, but expectations.toml has it under [[{entry.section}]]: {entry.reason}\n")
        elif entry is not None:
            self._report.expected[entry.section] += 1
        else:
            self._fail(test, detail)

    def _fail_the_rest(self, detail: str) -> None:
        for test in self._tests:
            if test not in self._settled:
                self._settle(test, "failed", detail)

    def _fail(self, test: str, detail: str) -> None:
        self._report.failed.append((test, detail))

    def _start_child(self, *, list_only: bool, limit: float) -> Child:
        return Child(
            self._folder,
            self._options.python,
            limit,
            {
                "file": self._file,
                "loop": self._options.loop,
                "full": self._options.full,
                "list": list_only,
                "skip": sorted(self._settled),
                "test_limit_seconds": self._options.test_limit,
                "path": _path_for(self._options.python),
            },
        )


class Child:
    """One child process, run to its end: its records, its output, and how it ended."""

    def __init__(self, folder: Path, python: str, limit: float, job: dict) -> None:
        self._results, self._output, job_file = folder / "results", folder / "output", folder / "job"
        self._results.write_text("")
        job_file.write_text(json.dumps({**job, "results": str(self._results)}))
        self.killed = False
        with self._output.open("wb") as output, tempfile.TemporaryDirectory(dir=folder) as cwd:
            process = subprocess.Popen(
                [python, "-X", "faulthandler", str(Path(__file__).with_name("child.py")), str(job_file)],
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_child_environment(),
                start_new_session=True,
            )
            try:
                process.wait(max(limit, 1.0))
            except subprocess.TimeoutExpired:
                self.killed = True
                process.kill()
                process.wait()
        self.returncode: int = process.returncode
        self.records = [json.loads(line) for line in self._results.read_text().splitlines() if line.endswith("}")]
        self.finished = bool(self.records) and self.records[-1]["event"] == "end"
        self.log = self._output.read_text(errors="replace")[-6000:]
        if self.killed:
            self.end = "killed: the file took too long"
        elif self.returncode < 0:
            self.end = f"crashed: signal {-self.returncode}"
        elif "Timeout (" in self.log:
            self.end = "hung: the test took too long"
        else:
            self.end = f"ended with status {self.returncode}"


def _child_environment() -> dict[str, str]:
    """The suite's tests of debug mode and of warnings assume that nothing of the kind is set from outside."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONASYNCIODEBUG", "PYTHONDEVMODE", "PYTHONWARNINGS")}


def _path_for(python: str) -> list[str]:
    """The project's root, for `tests.cpython`; and its `python/` if an extension for this interpreter is in there."""
    code = "import sysconfig; print(sysconfig.get_config_var('EXT_SUFFIX'))"
    suffix = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    built_here = (ROOT / "python" / "hayase" / f"_core{suffix}").exists()
    return [str(ROOT / "python"), str(ROOT)] if built_here else [str(ROOT)]


def _row(report: FileReport) -> str:
    if report.absent:
        return f"{report.file.ljust(26)}  {report.absent}"
    expected = report.expected
    counts = (
        report.passed,
        report.apart,
        len(report.failed),
        report.skipped.total(),
        *(expected[section] for section in SECTIONS),
    )
    return " ".join([report.file.ljust(26), *(str(count).rjust(8) for count in counts), f"{report.seconds:8.1f}"])


def _conclude(reports: list[FileReport], loop: str, *, verbose: bool) -> int:
    failed = [failure for report in reports for failure in report.failed]
    for test, detail in failed:
        print(f"\n=== {test}\n{detail.rstrip()}")
    if verbose:
        reasons = sum((report.skipped for report in reports), Counter())
        for reason, count in reasons.most_common():
            print(f"skipped {count:4}: {reason}")
    passed = sum(report.passed for report in reports)
    skipped = sum(report.skipped.total() for report in reports)
    expected = sum((report.expected for report in reports), Counter())
    if loop != "asyncio":
        apart = sum(report.apart for report in reports)
        print(f"\npassed on {loop}'s loop or with its futures and tasks: {passed - apart}")
        print(f"passed apart from it (asyncio's own futures and tasks, mocks, other programs): {apart}")
    print(f"\nexcluded: {expected[EXCLUDED]}, not yet: {expected[NOT_YET]}, known to fail: {expected[FAILS]}")
    print(f"{passed} passed, {len(failed)} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
