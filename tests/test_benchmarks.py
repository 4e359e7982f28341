"""The benchmarks measure what they say. Their figures are nobody's test; nothing here looks at a time."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import chart, compare, report
from benchmarks.case import Client, Held, Served, Timed
from benchmarks.cases import CASES
from benchmarks.goals import ABSOLUTE_GOALS, RATIO_GOALS
from benchmarks.process_figures import cpu_seconds, resident_bytes
from benchmarks.runner import Processes, Result, RunFailedError, Settings, plan, probe

SETTINGS = Settings(rounds=2, seconds=0.01, warmup_seconds=0.0, cold_allocator=False, server_cpu=None, load_cpu=None)
NAMES = [case.name for case in CASES]
TIMED = [case for case in CASES if isinstance(case, Timed)]
CLIENTS = [case for case in CASES if isinstance(case, Client)]
HELD = [case for case in CASES if isinstance(case, Held)]
SMALL = 1_000


def document(*, results: dict[str, Result], left_out: dict[str, str] | None = None) -> report.Document:
    case = next(case for case in CASES if case.name == "connect")
    versions = {name: "1.0" for name in results if name != "epoll"}
    return report.to_document([case], {case.name: results}, versions, left_out or {}, SETTINGS)


def shown(*values: float) -> Result:
    return Result([{"value": value} for value in values])


@pytest.mark.parametrize("case", TIMED, ids=lambda case: case.name)
def test_a_timed_program_ends(case: Timed, loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_until_complete(case.body(min(case.count, SMALL)))
    except NotImplementedError as lacking:
        pytest.skip(str(lacking))


@pytest.mark.parametrize("case", CLIENTS, ids=lambda case: case.name)
def test_a_client_connects_as_often_as_it_was_asked_to(case: Client, loop: asyncio.AbstractEventLoop) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=10) as listener:
        loop.run_until_complete(case.body(listener.getsockname()[1], 3))
        for _ in range(3):
            listener.accept()[0].close()
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize("case", HELD, ids=lambda case: case.name)
def test_what_is_held_is_as_much_as_was_asked_for(case: Held, loop: asyncio.AbstractEventLoop) -> None:
    async def hold() -> int:
        held = await case.hold(10)
        for thing in held:
            if isinstance(thing, asyncio.Future | asyncio.TimerHandle):
                thing.cancel()
        await asyncio.sleep(0)
        assert len({type(thing) for thing in held}) == 1
        return len({id(thing) for thing in held})

    assert loop.run_until_complete(hold()) == 10


def test_a_name_belongs_to_one_case() -> None:
    assert len(NAMES) == len(set(NAMES))


def test_every_goal_has_its_case() -> None:
    assert not {*RATIO_GOALS, *ABSOLUTE_GOALS} - set(NAMES)


def test_contenders_take_turns_within_a_case_and_each_round_begins_with_another() -> None:
    case = next(case for case in CASES if isinstance(case, Served) and case.native)
    turns = [(run.round, run.contender) for run in plan([case], ["asyncio", "uvloop"], 2)]
    assert turns == [
        (0, "asyncio"),
        (0, "uvloop"),
        (0, "epoll"),
        (1, "uvloop"),
        (1, "epoll"),
        (1, "asyncio"),
    ]


def test_a_loop_that_is_not_installed_says_so() -> None:
    with pytest.raises(RunFailedError, match="No module named 'no_such_loop'"):
        probe("no_such_loop", SETTINGS)


def test_a_loop_that_is_installed_says_its_version() -> None:
    assert probe("asyncio", SETTINGS)[0] == "3"


def test_a_worker_that_dies_leaves_its_last_words() -> None:
    with (
        Processes(SETTINGS, generator=None).worker(["a riddle"], memory=False) as worker,
        pytest.raises(RunFailedError, match="cannot read"),
    ):
        worker.answer()


def test_what_was_left_out_is_in_the_report_with_its_reason() -> None:
    text = report.to_markdown(document(results={"uvloop": shown(1)}, left_out={"rloop": "not installed"}))
    assert "Left out: rloop: not installed" in text


def test_a_failure_is_in_its_cell_and_below_the_tables() -> None:
    text = report.to_markdown(document(results={"uvloop": shown(1), "rloop": Result([], "it hung")}))
    assert "| connect | 1 | failed |" in text
    assert "- connect, rloop: it hung" in text


def test_what_a_loop_lacks_is_a_dash_with_its_reason_below() -> None:
    results = {"uvloop": shown(1), "rloop": Result([], lacking="NotImplementedError in create_server")}
    text = report.to_markdown(document(results=results))
    assert "| connect | 1 | - |" in text
    assert "- rloop: NotImplementedError in create_server (connect)" in text


def test_the_best_peer_is_bold_and_neither_hayase_nor_the_limit_is_a_peer() -> None:
    results = {"uvloop": shown(20, 30, 40), "rloop": shown(24), "hayase": shown(15), "epoll": shown(12)}
    row = "| connect | 30 | **24 (0.80)** | 15 (0.50) | 12 (0.40) | ±33% |"
    assert row in report.to_markdown(document(results=results))


def test_a_goal_is_compared_with_the_reference_of_the_same_run() -> None:
    text = report.to_markdown(document(results={"uvloop": shown(20), "hayase": shown(21)}))
    assert "| connect | 1.00 of uvloop | 1.05 | - | **not met** |" in text


def test_a_goal_stands_beside_what_the_native_server_reached() -> None:
    text = report.to_markdown(document(results={"uvloop": shown(20), "hayase": shown(21), "epoll": shown(22)}))
    assert "| connect | 1.00 of uvloop | 1.05 | 1.10 | **not met** |" in text


def test_two_files_are_compared_case_by_case() -> None:
    old = document(results={"uvloop": shown(20), "hayase": shown(20)})
    new = document(results={"uvloop": shown(40), "hayase": shown(20)})
    assert "| connect | 20 → 40 (2.00) | 20 → 20 (1.00) |" in compare.to_markdown(old, new, None, None)
    assert "| connect | 1 → 0.5 (0.50) |" in compare.to_markdown(old, new, None, "uvloop")


def test_a_chart_has_the_ratios_to_the_reference() -> None:
    shows = document(results={"uvloop": shown(20), "hayase": shown(5), "rloop": Result([], "it hung")})
    assert chart.ratios(shows) == {"connect": {"uvloop": 1, "hayase": 0.25}}
    assert chart.ratios(shows, re.compile("tls")) == {}


def test_without_the_reference_there_is_nothing_to_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = tmp_path / "result.json"
    result.write_text(json.dumps(document(results={"hayase": shown(5), "asyncio": shown(9)})))
    assert chart.main([str(result), "--output", str(tmp_path / "chart.svg")]) == 2
    assert "no case of" in capsys.readouterr().err


@pytest.mark.skipif(sys.version_info >= (3, 15), reason="matplotlib has no wheels for it yet")
def test_the_same_figures_make_the_same_chart(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    result.write_text(json.dumps(document(results={"uvloop": shown(20), "hayase": shown(5), "epoll": shown(4)})))
    pictures = [tmp_path / "one.svg", tmp_path / "two.svg"]
    for picture in pictures:
        # In a process of its own: numpy starts threads when it is imported.
        subprocess.run([sys.executable, "-m", "benchmarks", "chart", str(result), "--output", str(picture)], check=True)
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert ">connect<" in pictures[0].read_text()
    assert ">0.25<" in pictures[0].read_text()


def test_the_cpu_clock_of_a_process_read_from_outside_is_its_own() -> None:
    before = time.process_time()
    from_outside = cpu_seconds(os.getpid())
    assert before <= from_outside <= time.process_time()


def test_resident_memory_grows_with_what_is_held() -> None:
    before = resident_bytes(os.getpid())
    held = bytearray(64 << 20)
    held[::4096] = b"x" * (len(held) // 4096)
    assert resident_bytes(os.getpid()) - before > len(held) // 2
