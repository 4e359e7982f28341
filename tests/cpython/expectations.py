"""Reads expectations.toml: which tests are not run, or may fail, on which Python versions, and why.

What must stay true: an entry that matches no test of a version it claims to cover is an error, so the file cannot
keep names that CPython has dropped, nor misspelt ones.
"""

from __future__ import annotations

import fnmatch
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

EXPECTATIONS = Path(__file__).with_name("expectations.toml")
"""On hayase's loop, with its futures and tasks."""

FULL = Path(__file__).with_name("expectations_full.toml")
"""What full mode adds."""

# The sections of the file. Tests under `excluded` are not run: they are about the stock loop's insides, not about
# behaviour. The other two run, and a test that passes there is reported, so that the entry is taken out.
EXCLUDED, NOT_YET, FAILS = "excluded", "not-yet", "fails"
SECTIONS = (EXCLUDED, NOT_YET, FAILS)

_COMPARISONS = {
    ">=": lambda running, bound: running >= bound,
    "<=": lambda running, bound: running <= bound,
    "==": lambda running, bound: running == bound,
    ">": lambda running, bound: running > bound,
    "<": lambda running, bound: running < bound,
}


@dataclass(frozen=True)
class Expectation:
    """One pattern of one entry: ``file.Class.method``, where ``*`` stands for anything."""

    section: str
    pattern: str
    reason: str
    versions: str
    # A test that would hang, crash or leave the loopback is listed with `run = false`.
    run: bool

    @property
    def file(self) -> str:
        return self.pattern.partition(".")[0]

    def matches(self, test: str) -> bool:
        return fnmatch.fnmatchcase(test, self.pattern)


def load(path: Path, version: tuple[int, int]) -> list[Expectation]:
    """The expectations that hold on ``version``, in the order of the file."""
    document = tomllib.loads(path.read_text())
    unknown = set(document) - set(SECTIONS)
    if unknown:
        raise ValueError(f"{path.name}: unknown sections {sorted(unknown)}")
    found: list[Expectation] = []
    for section in SECTIONS:
        for entry in document.get(section, ()):
            found += _read_entry(path.name, section, entry)
    return [expectation for expectation in found if _covers(expectation.versions, version)]


def first_match(expectations: list[Expectation], test: str) -> Expectation | None:
    return next((each for each in expectations if each.matches(test)), None)


def without_a_test(expectations: list[Expectation], tests: set[str]) -> list[Expectation]:
    return [each for each in expectations if not any(each.matches(test) for test in tests)]


def _read_entry(name: str, section: str, entry: dict) -> list[Expectation]:
    unknown = set(entry) - {"tests", "reason", "versions", "run"}
    if unknown or not entry.get("reason") or not entry.get("tests"):
        raise ValueError(f"{name}: an entry of [[{section}]] needs tests and a reason, and nothing unknown: {entry}")
    versions, run = entry.get("versions", ""), entry.get("run", section != EXCLUDED)
    return [Expectation(section, pattern, entry["reason"], versions, run) for pattern in entry["tests"]]


def _covers(versions: str, running: tuple[int, int]) -> bool:
    """Whether a range such as ``>=3.12, <3.14`` has ``running`` in it; an empty range has every version."""
    for part in filter(None, (part.strip() for part in versions.split(","))):
        found = re.fullmatch(r"(>=|<=|==|>|<)\s*3\.(\d+)", part)
        if not found:
            raise ValueError(f"not a version range: {versions!r}")
        if not _COMPARISONS[found[1]](running, (3, int(found[2]))):
            return False
    return True
