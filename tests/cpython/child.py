"""Runs one file of `test.test_asyncio` and writes down each result as it happens. Started by `__main__.py`.

The job comes as JSON in the file named by the first argument. Results go, a line of JSON each, to the file that the
job names, and are flushed at once: when this process crashes or a test hangs, the parent still knows which test it
was, and starts another child for what comes after.

What must stay true: nothing of ours is imported before the job is read, and a hanging test ends the process.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import signal
import sys
import traceback
import unittest
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from tests.cpython.substitution import Contact


def main() -> None:
    # Ignored if this is the background job of a shell; the tests of KeyboardInterrupt send it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(sys.argv[1]) as file:
        job = json.load(file)
    sys.path[:1] = job["path"]  # in place of the folder of this script, whose modules have plain names
    # The files leave out by themselves what needs a resource that was not granted; none of them may leave the host.
    from test import support

    support.use_resources = {"cpu": None, "walltime": None}
    try:
        module, contact = _load(job["file"], job["loop"], full=job["full"])
    except unittest.SkipTest as skip:
        with open(job["results"], "a") as results:
            _write(results, {"event": "skipped file", "reason": str(skip)})
        return
    tests = {_name_of(test): test for test in _flatten(unittest.defaultTestLoader.loadTestsFromModule(module))}
    with open(job["results"], "a") as results:
        _write(results, {"event": "tests", "tests": list(tests)})
        if job["list"]:
            return
        skip = set(job["skip"])
        suite = unittest.TestSuite(test for name, test in tests.items() if name not in skip)
        suite.run(_Recorder(results, job["test_limit_seconds"], contact))
        faulthandler.cancel_dump_traceback_later()
        _write(results, {"event": "end"})


def _load(file: str, loop: str, *, full: bool) -> tuple[Any, Contact]:
    from tests.cpython import substitution

    contact = substitution.Contact()
    if loop != "asyncio":
        substitution.redirect_logging()
    subject = substitution.load_subject(loop)
    if subject is not None:
        contact.watch(subject)
        substitution.substitute_loops(subject)
    if full:
        substitution.substitute_names()
    module = importlib.import_module(f"test.test_asyncio.{file}")
    if subject is not None:
        substitution.substitute_in(module, subject)
    return module, contact


def _flatten(suite: Any) -> Iterator[unittest.TestCase]:
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from _flatten(item)
        else:
            yield item


def _name_of(test: Any) -> str:
    """``file.Class.method``; of a class or module fixture that failed, whatever unittest calls it."""
    return test.id().replace("test.test_asyncio.", "")


class _Recorder(unittest.TestResult):
    """Writes each result to a file, and ends the process if one test takes too long."""

    def __init__(self, results: TextIO, test_limit_seconds: float, contact: Contact) -> None:
        super().__init__()
        self._contact = contact
        self._results = results
        self._limit = test_limit_seconds
        self._problems: list[str] = []
        self._outcome = ""
        self._reason = ""

    def startTest(self, test: Any) -> None:
        super().startTest(test)
        self._problems, self._outcome, self._reason = [], "passed", ""
        self._contact.test_starts()
        _write(self._results, {"event": "start", "test": _name_of(test)})
        faulthandler.dump_traceback_later(self._limit, exit=True)

    def stopTest(self, test: Any) -> None:
        faulthandler.cancel_dump_traceback_later()
        if self._outcome == "failed":
            # What it left half open would warn in the middle of a later test, and that one would be blamed.
            gc.collect()
        self._finish(test)
        super().stopTest(test)

    def addError(self, test: Any, err: Any) -> None:
        self._problem(err)
        if not isinstance(test, unittest.TestCase):  # setUpClass, setUpModule and the like: no start, no stop
            self._finish(test)

    def addFailure(self, test: Any, err: Any) -> None:
        self._problem(err)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            self._problem(err, f"{subtest}\n")

    def addSkip(self, test: Any, reason: str) -> None:
        if self._outcome != "failed":
            self._outcome, self._reason = "skipped", reason
        if not isinstance(test, unittest.TestCase):
            self._finish(test)

    def addUnexpectedSuccess(self, test: Any) -> None:
        self._outcome = "failed"
        self._problems.append("passed, though CPython expects it to fail\n")

    def _problem(self, err: Any, head: str = "") -> None:
        self._outcome = "failed"
        self._problems.append(head + "".join(traceback.format_exception(*err)))

    def _finish(self, test: Any) -> None:
        _write(
            self._results,
            {
                "event": "result",
                "test": _name_of(test),
                "outcome": self._outcome,
                "touched": self._contact.had(test),
                "detail": self._reason or "\n".join(self._problems),
            },
        )
        self._problems, self._outcome, self._reason = [], "passed", ""


def _write(file: TextIO, record: dict[str, Any]) -> None:
    file.write(json.dumps(record) + "\n")
    file.flush()


if __name__ == "__main__":
    main()
