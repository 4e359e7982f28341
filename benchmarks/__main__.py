"""The command line: `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import chart, compare
from benchmarks.case import Case, Client, Idle, Served
from benchmarks.cases import CASES
from benchmarks.contenders import CONTENDERS, OURS
from benchmarks.generator import GeneratorMissingError, built_generator
from benchmarks.report import Document, to_document, to_markdown
from benchmarks.runner import RunFailedError, Settings, allow_many_files, choose_cpus, execute, plan, probe

ROUNDS = 3
SECONDS = 0.5
SECONDS_MAX = 30
"""Below what a worker may live (worker.py) and what a wait may take (runner.py)."""
WARMUP_SECONDS = 0.2
QUICK_ROUNDS = 1
QUICK_SECONDS = 0.15
QUICK_WARMUP_SECONDS = 0.05


def main(arguments: Sequence[str]) -> int:
    for name, command in (("compare", compare.main), ("chart", chart.main)):
        if arguments and arguments[0] == name:
            return command(arguments[1:])
    options = _parse(arguments)
    cases = [case for case in CASES if options.only is None or options.only.search(case.name)]
    if options.list:
        print("\n".join(case.name for case in cases))
        return 0
    if not cases:
        print("benchmarks: no case has such a name; --list shows them", file=sys.stderr)
        return 2
    if sys.platform != "linux":
        print("benchmarks: CPU time and memory of the servers are read from Linux's /proc", file=sys.stderr)
        return 2
    try:
        document = measure(cases, options.loops, _settings(options))
    except GeneratorMissingError as missing:
        print(f"benchmarks: {missing}", file=sys.stderr)
        return 2
    if not document["contenders"]:
        print("benchmarks: none of these loops is installed", file=sys.stderr)
        return 2
    sys.stdout.write(to_markdown(document))
    if options.json is not None:
        options.json.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    # A peer may fail or be absent; that is a finding. We may not.
    failed = any({"error", "lacking"} & case["results"].get(OURS, {}).keys() for case in document["cases"])
    return 1 if failed or OURS in document["left_out"] else 0


def measure(cases: Sequence[Case], loops: Sequence[str], settings: Settings) -> Document:
    allow_many_files()
    needs_load = any(isinstance(case, Client | Served | Idle) for case in cases)
    generator = built_generator() if needs_load else None
    versions: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for name in loops:
        try:
            versions[name] = probe(name, settings)
            _progress(f"{name} {versions[name]}")
        except RunFailedError as failure:
            left_out[name] = str(failure)
            _progress(f"LEFT OUT: {name}: {failure}")
    runs = plan(cases, list(versions), settings.rounds) if versions else []
    if runs:
        _progress(f"{len(cases)} cases, {', '.join(versions)}: {len(runs)} runs")
    results = execute(runs, settings, generator, _progress)
    return to_document(cases, results, versions, left_out, settings)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Event loops side by side, CPU time per operation first. benchmarks/README.md says how to read it.",
        epilog="python -m benchmarks compare OLD.json NEW.json shows two result files side by side;"
        " python -m benchmarks chart RESULT.json --output FILE.svg draws one.",
    )
    parser.add_argument("--only", metavar="REGEX", type=_pattern, help="the cases whose name it is found in")
    parser.add_argument("--loops", metavar="A,B,C", type=_loops, default=CONTENDERS, help=",".join(CONTENDERS))
    parser.add_argument("--rounds", metavar="N", type=_count, help=f"turns per contender and case ({ROUNDS})")
    parser.add_argument("--seconds", metavar="T", type=_seconds, help=f"length of a measurement ({SECONDS})")
    parser.add_argument("--quick", action="store_true", help="everything in one short round, roughly right")
    parser.add_argument("--cold-allocator", action="store_true", help="leave glibc's malloc thresholds alone")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all samples there")
    parser.add_argument("--list", action="store_true", help="print the names of the cases and stop")
    return parser.parse_args(arguments)


def _settings(options: argparse.Namespace) -> Settings:
    server_cpu, load_cpu = choose_cpus()
    return Settings(
        rounds=options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS),
        seconds=options.seconds or (QUICK_SECONDS if options.quick else SECONDS),
        warmup_seconds=QUICK_WARMUP_SECONDS if options.quick else WARMUP_SECONDS,
        cold_allocator=options.cold_allocator,
        server_cpu=server_cpu,
        load_cpu=load_cpu,
    )


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"not a regular expression: {error}") from None


def _loops(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    if unknown := [name for name in names if name not in CONTENDERS]:
        raise argparse.ArgumentTypeError(f"no such loop: {', '.join(unknown)}; there are {', '.join(CONTENDERS)}")
    return names


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1 on, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= SECONDS_MAX:
        raise argparse.ArgumentTypeError(f"expected up to {SECONDS_MAX} seconds, not {text!r}")
    return number


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
