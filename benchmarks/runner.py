"""Who runs when, and the processes: contenders take turns within each case, each run in processes of its own.

Every wait is bounded (ANSWER_SECONDS_MAX), every child is killed when its run is over, and a run that fails is a result
too: it is shown as a failure, never left out silently.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

from benchmarks.case import Case, Client, Held, Idle, Served, SpokenTransport, Timed
from benchmarks.contenders import NATIVE
from benchmarks.generator import ROOT
from benchmarks.process_figures import cpu_seconds, resident_bytes, system_seconds

ANSWER_SECONDS_MAX = 60.0
PROBE_SECONDS_MAX = 20.0
ENDING_SECONDS_MAX = 5.0
SETTLING_CONNECTIONS = 1_024
"""Open before the idle ones are counted: what a server allocates once, and the holes in its heap, do not count."""

# glibc gives large freed blocks back to the kernel at once, until it has seen one freed and raises its threshold.
# Whether that has happened decides up to 30 µs per read (README.md); so it is decided here, equally for everybody.
WARM_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(64 << 20), "MALLOC_TRIM_THRESHOLD_": str(256 << 20)}

Sample: TypeAlias = dict[str, float]
"""`value` in the unit of the case, and what else is known about the run."""

Report: TypeAlias = Callable[[str], None]


class RunFailedError(Exception):
    """The run gave no figure; the text says why, in one line."""


class LackingError(Exception):
    """The loop does not have what the case needs, and said so."""


@dataclass(frozen=True)
class Settings:
    rounds: int
    seconds: float
    warmup_seconds: float
    cold_allocator: bool
    server_cpu: int | None
    load_cpu: int | None


@dataclass
class Result:
    """What one contender showed at one case."""

    samples: list[Sample]
    error: str | None = None
    lacking: str | None = None
    """Why there are no samples, if the loop says itself that it lacks something."""


@dataclass(frozen=True)
class Run:
    case: Case
    contender: str
    round: int


def choose_cpus() -> tuple[int | None, int | None]:
    """A CPU for the server and another for the load; no pinning on a machine that has only one."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[1]) if len(allowed) > 1 else (None, None)


def allow_many_files() -> None:
    """Ten thousand connections need as many file descriptors, here and in the children."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def probe(contender: str, settings: Settings) -> str:
    """The contender's version, from a process in which it ran something; RunFailedError if it cannot."""
    runner = Processes(settings, generator=None)
    with runner.worker(["probe", contender], memory=True) as worker:
        return str(worker.answer(PROBE_SECONDS_MAX)["version"])


def plan(cases: Sequence[Case], contenders: Sequence[str], rounds: int) -> list[Run]:
    """Case by case; within it the contenders take turns, and each round begins with another one."""
    runs: list[Run] = []
    for case in cases:
        racing = [*contenders, NATIVE] if isinstance(case, Served) and case.native else list(contenders)
        for number in range(rounds):
            first = number % len(racing)
            runs += [Run(case, name, number) for name in racing[first:] + racing[:first]]
    return runs


def execute(
    runs: Sequence[Run], settings: Settings, generator: Path | None, report: Report
) -> dict[str, dict[str, Result]]:
    """Results by name of case and of contender. A contender that failed at a case is not asked there again."""
    processes = Processes(settings, generator)
    clock = Remaining(runs, settings)
    results: dict[str, dict[str, Result]] = {}
    for number, run in enumerate(runs, 1):
        result = results.setdefault(run.case.name, {}).setdefault(run.contender, Result([]))
        head = f"[{number}/{len(runs)}] {run.case.name} · {run.contender} · round {run.round + 1}"
        if result.error is not None or result.lacking is not None:
            clock.skipped(run)
            continue
        try:
            sample = processes.measure(run)
        except RunFailedError as failure:
            result.error = str(failure)
            outcome = f"FAILED: {failure}"
        except LackingError as refusal:
            result.lacking = str(refusal)
            outcome = f"lacking: {refusal}"
        else:
            result.samples.append(sample)
            outcome = f"{sample['value']:,.4g} {run.case.unit}"
        clock.finished(run)
        report(f"{head}: {outcome} ({clock.left()} left)")
    return results


class Remaining:
    """How long the rest will take: nominal durations, corrected by what the finished runs took."""

    def __init__(self, runs: Sequence[Run], settings: Settings) -> None:
        self._settings = settings
        self._nominal_left = sum(self._nominal(run) for run in runs)
        self._nominal_done = 0.0
        self._done = 0.0
        self._last = time.monotonic()

    def _nominal(self, run: Run) -> float:
        match run.case:
            case Timed() | Client():
                return 0.4 + self._settings.seconds
            case Served():
                return 0.4 + self._settings.warmup_seconds + self._settings.seconds
            case Held() | Idle():
                return 1.2

    def skipped(self, run: Run) -> None:
        self._nominal_left -= self._nominal(run)

    def finished(self, run: Run) -> None:
        now = time.monotonic()
        self._done += now - self._last
        self._last = now
        self._nominal_done += self._nominal(run)
        self._nominal_left -= self._nominal(run)

    def left(self) -> str:
        seconds = max(self._nominal_left, 0) * self._done / self._nominal_done
        return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


class Child:
    """A child process that talks in lines, with a bound on every wait."""

    def __init__(self, process: subprocess.Popen[bytes], errors: IO[bytes], role: str) -> None:
        self._process = process
        self._errors = errors
        self._role = role
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin = process.stdin
        self._stdout = process.stdout
        self.pid = process.pid

    def line(self, seconds_max: float) -> str:
        received = b""
        deadline = time.monotonic() + seconds_max
        while not received.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._stdout], [], [], left)[0]:
                raise RunFailedError(f"{self._role}: no answer within {seconds_max:.0f} s")
            if not (chunk := os.read(self._stdout.fileno(), 65536)):
                raise RunFailedError(self._epitaph())
            received += chunk
        return received.decode().strip()

    def answer(self, seconds_max: float = ANSWER_SECONDS_MAX) -> dict[str, Any]:
        line = self.line(seconds_max)
        try:
            answer: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            raise RunFailedError(f"{self._role}: expected JSON, got {line!r}") from None
        if "lacking" in answer:
            raise LackingError(answer["lacking"])
        return answer

    def tell(self, line: str) -> None:
        try:
            self._stdin.write(f"{line}\n".encode())
        except BrokenPipeError:
            raise RunFailedError(self._epitaph()) from None

    def last_words(self) -> str | None:
        """The end of what it complained about; None if it is alive and content."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        # How to get a backtrace is the last line of a panic, and never the reason.
        lines = [line for line in lines if not line.startswith("note: ")]
        if (status := self._process.poll()) is None:
            return lines[-1] if lines else None
        if status >= 0:
            return lines[-1] if lines else f"ended with status {status}"
        killed = f"killed by {signal.Signals(-status).name}"
        return f"{lines[-1]} ({killed})" if lines else killed

    def _epitaph(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(ENDING_SECONDS_MAX)
        return f"{self._role}: {self.last_words() or 'closed its output'}"


class Processes:
    """Starts the children of one run, asks them, and sees to their end."""

    def __init__(self, settings: Settings, generator: Path | None) -> None:
        self._settings = settings
        self._generator = generator

    def measure(self, run: Run) -> Sample:
        match run.case:
            case Timed():
                return self._measure_alone(run, memory=False)
            case Client():
                return self._measure_client(run)
            case Held():
                return self._measure_alone(run, memory=True)
            case Served():
                return self._measure_served(run, run.case)
            case Idle():
                return self._measure_idle(run, run.case)

    def _measure_alone(self, run: Run, *, memory: bool) -> Sample:
        with self._case(run, memory=memory) as worker:
            return worker.answer()

    def _measure_client(self, run: Run) -> Sample:
        with self._echo_server("tcp", self._settings.load_cpu) as server:
            port = str(server.answer()["address"]).rpartition(":")[2]
            with self._case(run, memory=False, words=(port,)) as worker:
                return worker.answer()

    def _measure_served(self, run: Run, case: Served) -> Sample:
        with self._server(run, memory=False) as (server, address):
            options = {
                "address": address,
                "connections": case.connections,
                "size": case.size_bytes,
                "warmup-seconds": self._settings.warmup_seconds,
                "seconds": self._settings.seconds,
            }
            with self._load(case.mode, options) as load:
                if (line := load.line(ANSWER_SECONDS_MAX)) != "ready":
                    raise RunFailedError(f"load: expected ready, got {line!r}")
                # The generator has nothing in flight before `go` and after its answer, so all of the CPU time in
                # between belongs to the operations that it counted, and to no other.
                cpu_before, system_before = cpu_seconds(server.pid), system_seconds(server.pid)
                load.tell("go")
                answer = load.answer()
                cpu, system = cpu_seconds(server.pid) - cpu_before, system_seconds(server.pid) - system_before
        operations = answer["ops"]
        if not operations:
            raise RunFailedError("no operation was completed")
        return {
            "value": cpu / operations * 1e6,
            "system_share": min(system / cpu, 1.0),
            "ops_per_second": operations / answer["seconds"],
            "p50_us": answer["p50_us"],
            "p99_us": answer["p99_us"],
            "resent": answer["resent"],
        }

    def _measure_idle(self, run: Run, case: Idle) -> Sample:
        with self._server(run, memory=True) as (server, address):
            with self._load("idle", {"address": address, "connections": SETTLING_CONNECTIONS}) as settling:
                settling.answer()
                before = resident_bytes(server.pid)
                with self._load("idle", {"address": address, "connections": case.connections}) as load:
                    load.answer()
                    after = resident_bytes(server.pid)
        return {"value": (after - before) / case.connections}

    @contextlib.contextmanager
    def _server(self, run: Run, *, memory: bool) -> Iterator[tuple[Child, str]]:
        """A server that listens. If the load fails, what the server has to say about it is part of the reason."""
        with self._case(run, memory=memory) as server:
            address = str(server.answer()["address"])
            try:
                yield server, address
            except RunFailedError as failure:
                if (complaint := server.last_words()) is None:
                    raise
                raise RunFailedError(f"{failure}; server: {complaint}") from None

    def _case(self, run: Run, *, memory: bool, words: Sequence[str] = ()) -> contextlib.AbstractContextManager[Child]:
        if run.contender == NATIVE:
            transport = run.case.transport if isinstance(run.case, Served) else "tcp"
            return self._echo_server(transport, self._settings.server_cpu)
        words = ["case", run.contender, run.case.name, str(self._settings.seconds), *words]
        return self.worker(words, memory=memory)

    def _echo_server(self, transport: SpokenTransport, cpu: int | None) -> contextlib.AbstractContextManager[Child]:
        # The place is its own choice; the address only says what it speaks.
        address = "unix:@" if transport == "unix" else f"{transport}:127.0.0.1:0"
        return self._child([str(self._program()), "echo-server", "--address", address], "echo-server", cpu)

    def worker(self, words: list[str], *, memory: bool) -> contextlib.AbstractContextManager[Child]:
        # Memory is measured as users see it, with the allocator's own thresholds.
        environment = {} if memory or self._settings.cold_allocator else WARM_ALLOCATOR
        command = [sys.executable, "-m", "benchmarks.worker", *words]
        return self._child(command, "worker", self._settings.server_cpu, environment)

    def _load(self, mode: str, options: dict[str, object]) -> contextlib.AbstractContextManager[Child]:
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        return self._child([str(self._program()), mode, *words], "load", self._settings.load_cpu)

    def _program(self) -> Path:
        assert self._generator is not None, "the caller builds the generator if a case needs it"
        return self._generator

    @contextlib.contextmanager
    def _child(
        self, command: list[str], role: str, cpu: int | None, environment: dict[str, str] | None = None
    ) -> Iterator[Child]:
        with (
            tempfile.TemporaryFile() as errors,
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                cwd=ROOT,
                env=os.environ | (environment or {}),
            ) as process,
        ):
            try:
                if cpu is not None:
                    with contextlib.suppress(ProcessLookupError):
                        os.sched_setaffinity(process.pid, {cpu})
                yield Child(process, errors, role)
            finally:
                process.kill()
