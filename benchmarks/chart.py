"""A picture of result files: `python -m benchmarks chart RESULT.json --output FILE.svg`.

One row a case, one mark a loop, on a logarithmic scale where the reference is 1 and less is better: half as much and twice as
much are equally far from it. Cases without a figure of the reference are left out, since nothing could be said about them.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contenders import NATIVE, OURS, REFERENCE
from benchmarks.report import Document

MARKS = {
    "asyncio": ("s", "#8c8c8c"),
    "rloop": ("^", "#3d85c6"),
    "rsloop": ("v", "#6aa84f"),
    "zuvloop": ("D", "#a64d79"),
    OURS: ("o", "#e8590c"),
    NATIVE: ("|", "#000000"),
}
"""Shape and colour: either is enough to tell two loops apart. The reference is the line at 1."""

TICKS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10)
ROW_INCHES = 0.24
WIDTH_INCHES = 8.5
FRAME_INCHES = 1.6
"""Title, scale and legend."""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks chart", description=__doc__.partition("\n")[0])
    parser.add_argument("result", type=Path, help="what --json has written")
    parser.add_argument("--output", metavar="FILE", type=Path, required=True, help="ends in .svg, .png or .pdf")
    parser.add_argument("--only", metavar="REGEX", type=re.compile, help="the cases whose name it is found in")
    options = parser.parse_args(arguments)
    document = json.loads(options.result.read_text())
    rows = ratios(document, options.only)
    if not rows:
        print(f"benchmarks: no case of {options.result} has figures of {REFERENCE} and another loop", file=sys.stderr)
        return 2
    try:
        draw(document, rows, options.output)
    except ModuleNotFoundError as missing:
        print(f"benchmarks: {missing}: pip install -r benchmarks/requirements.txt", file=sys.stderr)
        return 2
    return 0


def ratios(document: Document, only: re.Pattern[str] | None = None) -> dict[str, dict[str, float]]:
    """By case, what each loop takes, divided by what the reference takes."""
    rows = {}
    for case in document["cases"]:
        medians = {name: result["median"] for name, result in case["results"].items() if result.get("median")}
        reference = medians.get(REFERENCE)
        if reference and len(medians) > 1 and (only is None or only.search(case["name"])):
            rows[case["name"]] = {name: value / reference for name, value in medians.items()}
    return rows


def draw(document: Document, rows: dict[str, dict[str, float]], output: Path) -> None:
    """The same figures make the same file. What the file is, is said by the end of its name."""
    # Only who draws needs it.
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    python, machine = document["python"]["version"], document["machine"]["cpu"]
    names = list(rows)
    with rc_context({"svg.hashsalt": "hayase", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(WIDTH_INCHES, FRAME_INCHES + ROW_INCHES * len(names)), facecolor="white")
        axes = figure.subplots()
        beside_row = axes.get_yaxis_transform()
        for loop in [*(name for name in MARKS if name != OURS), OURS]:
            points = [(row[loop], y) for y, row in enumerate(rows.values()) if loop in row]
            if points:
                shape, colour = MARKS[loop]
                label = "bare epoll" if loop == NATIVE else loop
                size, order = (46, 3) if loop == OURS else (26, 2)
                xs, ys = zip(*points, strict=True)
                axes.scatter(xs, ys, marker=shape, color=colour, s=size, zorder=order, label=label)
        for y, row in enumerate(rows.values()):
            if OURS in row:
                axes.text(1.01, y, f"{row[OURS]:.2f}", color=MARKS[OURS][1], va="center", transform=beside_row)
        low = min(value for row in rows.values() for value in row.values())
        high = max(value for row in rows.values() for value in row.values())
        axes.set_xscale("log")
        axes.set_xlim(low / 1.2, high * 1.3)
        ticks = [tick for tick in TICKS if low / 1.2 <= tick <= high * 1.3]
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(axis="both", color="#e0e0e0", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.axvline(1, color="#4d4d4d", linewidth=0.8, label=REFERENCE)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xlabel(f"CPU time or memory per operation, as a multiple of {REFERENCE}'s: left is better")
        axes.set_title(f"CPython {python}, {machine}, {document['date'][:10]}", fontsize=8, loc="left")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.02 + 0.3 / len(names)), ncols=len(MARKS), frameon=False)
        figure.savefig(output, bbox_inches="tight", metadata={"Date": None} if output.suffix == ".svg" else None)
