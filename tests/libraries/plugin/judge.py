"""Loaded by pytest inside a library's own suite (`-p judge`): puts the loop under test in, and writes down each result.

The loop is named by JUDGE_LOOP, the file for the results by JUDGE_RESULTS: a line of JSON for each test, and one at the end
with the number of loops that were made, which shows that the suite did run on the loop it was to run on.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

_results = open(os.environ["JUDGE_RESULTS"], "w")  # noqa: SIM115 - open as long as the process runs
_loops_made = 0


def _put_hayase_in() -> None:
    import hayase

    make = hayase.EventLoop.__new__

    def new(cls: type, *args: Any, **kwargs: Any) -> Any:
        global _loops_made
        _loops_made += 1
        return make(cls, *args, **kwargs)

    hayase.EventLoop.__new__ = staticmethod(new)  # type: ignore[method-assign]
    hayase.install()
    # Some name the class instead of asking for a loop.
    asyncio.SelectorEventLoop = hayase.EventLoop  # type: ignore[misc]
    if hasattr(asyncio, "EventLoop"):
        asyncio.EventLoop = hayase.EventLoop  # type: ignore[misc]


if os.environ["JUDGE_LOOP"] == "hayase":
    _put_hayase_in()


def pytest_runtest_logreport(report: Any) -> None:
    # Of a test that passes there is one report that counts, of its call; what fails or is skipped may be so before or after.
    if report.when == "call" or report.outcome != "passed":
        outcome = "skipped" if hasattr(report, "wasxfail") and report.outcome != "passed" else report.outcome
        _write({"test": report.nodeid, "outcome": outcome, "detail": str(report.longrepr or "")})


def pytest_sessionfinish(exitstatus: int) -> None:
    if exitstatus in (0, 1):  # the tests ran; all else is an error of the run itself
        _write({"loops_made": _loops_made})


def _write(record: dict[str, Any]) -> None:
    _results.write(json.dumps(record) + "\n")
    _results.flush()
