"""Two result files side by side: `python -m benchmarks compare OLD.json NEW.json`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import MISSING, Document, to_text


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks compare", description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--loops", help="only these columns, separated by commas")
    parser.add_argument(
        "--relative-to",
        metavar="LOOP",
        help="compare ratios to this loop in the same file: what another machine or a noisy hour changes falls out",
    )
    options = parser.parse_args(arguments)
    old, new = (json.loads(file.read_text()) for file in (options.old, options.new))
    wanted = options.loops.split(",") if options.loops else None
    sys.stdout.write(to_markdown(old, new, wanted, options.relative_to))
    return 0


def to_markdown(old: Document, new: Document, wanted: list[str] | None, relative_to: str | None) -> str:
    before, after = (_medians(document, relative_to) for document in (old, new))
    columns = list(dict.fromkeys(name for cases in (before, after) for case in cases.values() for name in case))
    columns = [name for name in columns if (wanted is None or name in wanted) and name != relative_to]
    unit = f"relative to {relative_to}" if relative_to else "in the unit of the case"
    lines = [
        f"old: {old['date']}, CPython {old['python']['version']}",
        "",
        f"new: {new['date']}, CPython {new['python']['version']}",
        "",
        f"Medians, old → new, {unit}; in brackets new / old.",
        "",
        f"| case | {' | '.join(columns)} |",
        f"|---|{'---:|' * len(columns)}",
    ]
    for name in dict.fromkeys([*before, *after]):
        cells = [_cell(before.get(name, {}).get(column), after.get(name, {}).get(column)) for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _medians(document: Document, relative_to: str | None) -> dict[str, dict[str, float]]:
    by_case: dict[str, dict[str, float]] = {}
    for case in document["cases"]:
        medians = {name: result["median"] for name, result in case["results"].items() if "median" in result}
        if relative_to is not None:
            reference = medians.get(relative_to)
            medians = {name: value / reference for name, value in medians.items()} if reference else {}
        by_case[case["name"]] = medians
    return by_case


def _cell(old: float | None, new: float | None) -> str:
    if old is None and new is None:
        return MISSING
    texts = [MISSING if value is None else to_text(value) for value in (old, new)]
    ratio = f" ({new / old:.2f})" if old and new else ""
    return " → ".join(texts) + ratio
