"""Results as JSON and as Markdown tables."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.case import Case
from benchmarks.contenders import NATIVE, OURS, REFERENCE
from benchmarks.goals import ABSOLUTE_GOALS, RATIO_GOALS
from benchmarks.runner import Result, Settings

Document: TypeAlias = dict[str, Any]
"""What is written to a file as JSON. SCHEMA grows when a reader of older files would go wrong."""

SCHEMA = 1
MISSING = "-"
UNIT_NOTES = {
    "ns": "CPU time per operation, ns",
    "µs": "CPU time of the server per operation, µs",
    "B": "resident memory, bytes each",
}


def to_document(
    cases: Sequence[Case],
    results: Mapping[str, Mapping[str, Result]],
    versions: Mapping[str, str],
    left_out: Mapping[str, str],
    settings: Settings,
) -> Document:
    return {
        "schema": SCHEMA,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": _cpu_model(), "cpus": os.cpu_count(), "kernel": platform.release()},
        "python": {"version": platform.python_version(), "build": sys.version.partition("(")[2]},
        "contenders": dict(versions),
        "left_out": dict(left_out),
        "settings": {
            "rounds": settings.rounds,
            "seconds": settings.seconds,
            "warmup_seconds": settings.warmup_seconds,
            "allocator": "cold" if settings.cold_allocator else "warm",
            "server_cpu": settings.server_cpu,
            "load_cpu": settings.load_cpu,
        },
        "cases": [
            {
                "name": case.name,
                "subject": case.subject,
                "unit": case.unit,
                "results": {name: _summary(result) for name, result in results[case.name].items()},
            }
            for case in cases
            if case.name in results
        ],
    }


def _summary(result: Result) -> dict[str, Any]:
    if result.lacking is not None:
        return {"lacking": result.lacking}
    if result.error is not None:
        return {"error": result.error, "samples": result.samples}
    values = [sample["value"] for sample in result.samples]
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "samples": result.samples,
    }


def to_markdown(document: Document) -> str:
    lines = [_heading(document), ""]
    subjects = dict.fromkeys(case["subject"] for case in document["cases"])
    for subject in subjects:
        cases = [case for case in document["cases"] if case["subject"] == subject]
        lines += [f"## {subject} ({UNIT_NOTES[cases[0]['unit']]})", "", *_table(document, cases), ""]
    lines += [*_goals(document), *_failures(document), *_lacking(document)]
    return "\n".join(lines).rstrip() + "\n"


def _heading(document: Document) -> str:
    machine, python, settings = document["machine"], document["python"], document["settings"]
    contenders = ", ".join(f"{name} {number}" for name, number in document["contenders"].items() if name != "asyncio")
    pinned = "pinned" if settings["server_cpu"] is not None else "not pinned"
    rounds = "one round" if settings["rounds"] == 1 else f"{settings['rounds']} rounds"
    text = [
        f"CPython {python['version']}; {contenders}",
        f"{machine['cpus']} x {machine['cpu']}, Linux {machine['kernel']}; {document['date']}",
        f"Medians of {rounds} of {settings['seconds']:g} s, {pinned}, allocator {settings['allocator']}."
        f" In brackets the ratio to {REFERENCE}; **bold**: the best but for {OURS}; spread: the farthest that a round"
        " was from the median of its contender.",
    ]
    text += [f"Left out: {name}: {reason}" for name, reason in document["left_out"].items()]
    return "\n\n".join(text)


def _table(document: Document, cases: Sequence[Document]) -> list[str]:
    columns = list(document["contenders"])
    if any(NATIVE in case["results"] for case in cases):
        columns.append(NATIVE)
    lines = [
        f"| case | {' | '.join(columns)} | spread |",
        f"|---|{'---:|' * len(columns)}---:|",
    ]
    for case in cases:
        medians = {name: result["median"] for name, result in case["results"].items() if "median" in result}
        peers = {name: value for name, value in medians.items() if name not in (OURS, NATIVE)}
        best = min(peers, key=lambda name: peers[name]) if len(peers) > 1 else None
        cells = [_cell(name, case["results"], medians, best) for name in columns]
        lines.append(f"| {case['name']} | {' | '.join(cells)} | {_spread(case)} |")
    return lines


def _cell(name: str, results: Document, medians: Mapping[str, float], best: str | None) -> str:
    if name not in medians:
        return "failed" if "error" in results.get(name, {}) else MISSING
    text = to_text(medians[name])
    if name != REFERENCE and medians.get(REFERENCE):
        text += f" ({medians[name] / medians[REFERENCE]:.2f})"
    return f"**{text}**" if name == best else text


def to_text(value: float) -> str:
    """Three figures, which is more than the spread justifies."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _spread(case: Document) -> str:
    farthest = [
        max(result["high"] - result["median"], result["median"] - result["low"]) / result["median"]
        for result in case["results"].values()
        if "median" in result and len(result["samples"]) > 1 and result["median"] > 0
    ]
    return f"±{max(farthest) * 100:.0f}%" if farthest else MISSING


def _goals(document: Document) -> list[str]:
    rows: list[str] = []
    for case in document["cases"]:
        ours = case["results"].get(OURS, {}).get("median")
        reference = case["results"].get(REFERENCE, {}).get("median")
        if ours is None:
            continue
        if (goal := ABSOLUTE_GOALS.get(case["name"])) is not None:
            rows.append(_goal(case["name"], f"{goal:.0f} {case['unit']}", to_text(ours), MISSING, ours <= goal))
        elif (goal := RATIO_GOALS.get(case["name"])) is not None and reference:
            ratio = ours / reference
            native = case["results"].get(NATIVE, {}).get("median")
            limit = MISSING if native is None else f"{native / reference:.2f}"
            rows.append(_goal(case["name"], f"{goal:.2f} of {REFERENCE}", f"{ratio:.2f}", limit, ratio <= goal))
    if not rows:
        return []
    head = [f"| case | at most | {OURS} | {NATIVE} | |", "|---|---:|---:|---:|---|"]
    return ["## Goals", "", *head, *rows, ""]


def _goal(name: str, goal: str, reached: str, limit: str, is_met: bool) -> str:
    """A row. `limit` is what the native server reached in the same run."""
    return f"| {name} | {goal} | {reached} | {limit} | {'met' if is_met else '**not met**'} |"


def _failures(document: Document) -> list[str]:
    failures = [
        f"- {case['name']}, {name}: {result['error']}"
        for case in document["cases"]
        for name, result in case["results"].items()
        if "error" in result
    ]
    return ["## Failures", "", *failures, ""] if failures else []


def _lacking(document: Document) -> list[str]:
    cases_of: dict[tuple[str, str], list[str]] = {}
    for case in document["cases"]:
        for name, result in case["results"].items():
            if "lacking" in result:
                cases_of.setdefault((name, result["lacking"]), []).append(case["name"])
    lines = [f"- {name}: {reason} ({', '.join(cases)})" for (name, reason), cases in sorted(cases_of.items())]
    return [f"## Lacking ({MISSING} in the tables)", "", *lines] if lines else []


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
