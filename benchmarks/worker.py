"""The child process: one case on one loop. Only the runner starts it.

    python -m benchmarks.worker probe LOOP
    python -m benchmarks.worker case LOOP NAME SECONDS

It answers with one line of JSON. For a server that line comes when it listens; the runner measures it from outside and
kills it. Every worker ends by itself after LIFE_SECONDS_MAX: nothing outlives a runner that was killed.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import statistics
import sys
import time

from benchmarks import contenders
from benchmarks.case import Held, Idle, Serve, Served, Timed
from benchmarks.cases import CASES
from benchmarks.process_figures import resident_bytes

LIFE_SECONDS_MAX = 120


def main() -> None:
    # Without a Python handler: the kernel ends the process, however stuck its loop is, and serving costs nothing.
    signal.alarm(LIFE_SECONDS_MAX)
    match sys.argv[1:]:
        case ["probe", loop]:
            _probe(loop)
        case ["case", loop, name, seconds]:
            _run(loop, name, float(seconds))
        case words:
            sys.exit(f"benchmarks.worker: cannot read {words}")
    sys.stdout.flush()
    # Tearing down 100,000 pending tasks is not what is measured, and warns a hundred thousand times.
    os._exit(0)


def _say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def _probe(loop: str) -> None:
    with asyncio.Runner(loop_factory=contenders.loop_factory(loop)) as runner:
        runner.run(asyncio.sleep(0))
    _say(version=contenders.version(loop))


def _run(loop: str, name: str, seconds: float) -> None:
    case = next(case for case in CASES if case.name == name)
    runner = asyncio.Runner(loop_factory=contenders.loop_factory(loop))
    match case:
        case Timed():
            runner.run(_measure_time(case, seconds))
        case Held():
            runner.run(_measure_memory(case))
        case Served() | Idle():
            runner.run(_serve(case.serve))


async def _measure_time(case: Timed, seconds: float) -> None:
    await case.body(case.count)  # warm-up
    cpu: list[float] = []
    wall: list[float] = []
    deadline = time.monotonic() + seconds
    while not cpu or time.monotonic() < deadline:
        # The garbage of the previous repetition is not this one's; the collector stays on, as in programs.
        gc.collect()
        wall_before, cpu_before = time.perf_counter_ns(), time.process_time_ns()
        await case.body(case.count)
        cpu_after, wall_after = time.process_time_ns(), time.perf_counter_ns()
        cpu.append((cpu_after - cpu_before) / case.count)
        wall.append((wall_after - wall_before) / case.count)
    _say(value=statistics.median(cpu), wall_ns=statistics.median(wall), repetitions=len(cpu))


async def _measure_memory(case: Held) -> None:
    # What the loop allocates once, the holes in the heap, and the list that holds the things do not count.
    first = await case.hold(case.count // 10)
    held: list[object] = [None] * case.count
    gc.collect()
    before = resident_bytes(os.getpid())
    held[:] = await case.hold(case.count)
    gc.collect()
    after = resident_bytes(os.getpid())
    _say(value=(after - before) / case.count, held=len(held) + len(first))


async def _serve(serve: Serve) -> None:
    await serve(lambda port: _say(port=port))


if __name__ == "__main__":
    main()
