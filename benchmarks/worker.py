"""The child process: one case on one loop. Only the runner starts it.

    python -m benchmarks.worker probe LOOP
    python -m benchmarks.worker case LOOP NAME SECONDS [PORT]

It answers with one line of JSON. For a server that line comes when it listens; the runner measures it from outside and
kills it. A loop that lacks what the case needs, and says so with NotImplementedError, is answered as `lacking`. Every worker ends by itself after LIFE_SECONDS_MAX: nothing outlives a runner that was killed.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import os
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Awaitable, Callable

from benchmarks import contenders
from benchmarks.case import Client, Held, Idle, Serve, Served, SpokenTransport, Timed
from benchmarks.cases import CASES
from benchmarks.process_figures import resident_bytes

LIFE_SECONDS_MAX = 120


def main() -> None:
    # Without a Python handler: the kernel ends the process, however stuck its loop is, and serving costs nothing.
    signal.alarm(LIFE_SECONDS_MAX)
    match sys.argv[1:]:
        case ["probe", loop]:
            _probe(loop)
        case ["case", loop, name, seconds, *port]:
            _run(loop, name, float(seconds), *map(int, port))
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


def _run(loop: str, name: str, seconds: float, port: int | None = None) -> None:
    case = next(case for case in CASES if case.name == name)
    runner = asyncio.Runner(loop_factory=contenders.loop_factory(loop))
    try:
        match case:
            case Timed():
                runner.run(_measure_time(case.body, case.count, seconds))
            case Client():
                assert port is not None, "the runner starts the server of such a case"
                runner.run(_measure_time(functools.partial(case.body, port), case.count, seconds))
            case Held():
                runner.run(_measure_memory(case))
            case Served():
                runner.run(_serve(case.serve, case.transport))
            case Idle():
                runner.run(_serve(case.serve, case.transport))
    except NotImplementedError as refusal:
        _say(lacking=str(refusal) or _refused(refusal))


def _refused(refusal: NotImplementedError) -> str:
    """Where it was raised, for those who give no reason."""
    last = traceback.extract_tb(refusal.__traceback__)[-1]
    return f"NotImplementedError in {last.name}"


async def _measure_time(body: Callable[[int], Awaitable[None]], count: int, seconds: float) -> None:
    await body(count)  # warm-up
    cpu: list[float] = []
    wall: list[float] = []
    deadline = time.monotonic() + seconds
    while not cpu or time.monotonic() < deadline:
        # The garbage of the previous repetition is not this one's; the collector stays on, as in programs.
        gc.collect()
        wall_before, cpu_before = time.perf_counter_ns(), time.process_time_ns()
        await body(count)
        cpu_after, wall_after = time.process_time_ns(), time.perf_counter_ns()
        cpu.append((cpu_after - cpu_before) / count)
        wall.append((wall_after - wall_before) / count)
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


async def _serve(serve: Serve, transport: SpokenTransport) -> None:
    def announce(place: int | str) -> None:
        _say(address=f"{transport}:@{place}" if isinstance(place, str) else f"{transport}:127.0.0.1:{place}")

    await serve(announce)


if __name__ == "__main__":
    main()
