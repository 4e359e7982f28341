"""The structure that ARCHITECTURE.md promises: which way imports point, and what stays behind which fence.

It reads the sources as text and checks structure only, nothing about style.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXTENSION = ROOT / "crates" / "hayase" / "src"
DRIVER = ROOT / "crates" / "driver" / "src"
PACKAGE = ROOT / "python" / "hayase"

# From low to high; a module may use those on lower levels, and itself. Several names on one level do not know each other.
EXTENSION_LEVELS = [
    {"raw"},
    {"interop"},
    {"tasks"},
    {"runtime"},
    {"transports", "sync", "waiting", "files", "green"},
    {"streams"},
    {"event_loop"},
]
# In the driver the leaves know nobody; whoever is missing here is one.
DRIVER_MAY_USE = {
    "driver": {"backend", "buffers", "events", "sys", "time", "timers", "waker"},
    "backend": {"buffers", "events", "sys", "time", "waker"},
    "events": {"sys"},
    "net": {"sys"},
    "pipes": {"sys"},
    "children": {"sys"},
    "waker": {"sys"},
    "blocking": {"sys", "waker"},
    "timers": {"time"},
    "sys": {"time"},
}


def sources(folder: Path, suffix: str) -> Iterator[tuple[Path, str]]:
    for path in sorted(folder.rglob(f"*{suffix}")):
        text = path.read_text()
        # Comments may name what code may not.
        yield path.relative_to(folder), re.sub(r"//.*", "", text) if suffix == ".rs" else text


def module_of(path: Path) -> str:
    return path.parts[0].removesuffix(".rs")


def used_modules(text: str) -> set[str]:
    """The top-level modules of this crate that a file names: `crate::x` and `use crate::{x, y::z}`."""
    used = set(re.findall(r"\bcrate::(\w+)", text))
    for group in re.findall(r"\buse crate::\{(.*?)\};", text, re.DOTALL):
        while "{" in group:
            group = re.sub(r"\{[^{}]*\}", "", group)
        used |= {name.strip().split("::")[0].split(" ")[0] for name in group.split(",") if name.strip()}
    return used


def test_imports_of_the_extension_point_from_higher_to_lower_levels() -> None:
    level_of = {name: level for level, names in enumerate(EXTENSION_LEVELS) for name in names}
    wrong = []
    for path, text in sources(EXTENSION, ".rs"):
        module = module_of(path)
        if module == "lib":
            continue
        assert module in level_of, f"{path} is on no level: say on which in ARCHITECTURE.md and here"
        for used in used_modules(text) - {module}:
            if used in level_of and level_of[used] >= level_of[module]:
                wrong.append(f"{path} uses crate::{used}")
    assert wrong == []


def test_imports_of_the_driver_point_from_driver_to_backend_to_sys() -> None:
    modules = {module_of(path) for path, _ in sources(DRIVER, ".rs")}
    wrong = []
    for path, text in sources(DRIVER, ".rs"):
        module = module_of(path)
        if module == "lib":
            continue
        for used in (used_modules(text) & modules) - {module}:
            if used not in DRIVER_MAY_USE.get(module, set()):
                wrong.append(f"{path} uses crate::{used}")
    assert wrong == []


def test_the_driver_knows_no_python() -> None:
    assert [path for path, text in sources(DRIVER, ".rs") if "pyo3" in text] == []
    assert "pyo3" not in (ROOT / "crates" / "driver" / "Cargo.toml").read_text()


@pytest.mark.parametrize(("crate", "fence"), [(EXTENSION, "raw"), (DRIVER, "sys")], ids=["extension", "driver"])
def test_unsafe_stays_behind_its_fence(crate: Path, fence: str) -> None:
    outside = [
        path
        for path, text in sources(crate, ".rs")
        if module_of(path) != fence and re.search(r"\bunsafe\s*[{(]|\bunsafe (fn|impl|trait|extern)", text)
    ]
    assert outside == []
    # One place opens each fence: its declaration, or the head of the folder.
    opened = [path for path, text in sources(crate, ".rs") if "allow(unsafe_code)" in text]
    assert [path for path in opened if module_of(path) not in (fence, "lib")] == []


def test_only_dispatch_knows_every_receiver() -> None:
    # An arm of a `match` on the kind of a slot; everybody else may name its own kind, and does so outside of patterns.
    arm = r"\bSlotKind::\w+\s*(?:=>|\|(?!\|)|if\b)|\b(?:if|while) let SlotKind::|\buse [\w:]*SlotKind::"
    knowing = [path for path, text in sources(EXTENSION, ".rs") if re.search(arm, text)]
    assert knowing == [Path("event_loop/dispatch.rs")]


def test_rust_asks_for_the_python_version_in_one_file() -> None:
    asking = [path for path, text in sources(EXTENSION, ".rs") if re.search(r"cfg!?\(.*\bPy_3_\d", text)]
    assert [path for path in asking if path != Path("raw/compat.rs")] == []


def test_python_asks_for_its_version_in_one_file() -> None:
    pattern = r"version_info|hexversion|python_version\(\) *[<>=]"
    asking = [path for path, text in sources(PACKAGE, ".py") if re.search(pattern, text)]
    assert [path for path in asking if path != Path("_compat.py")] == []


@pytest.mark.parametrize("name", ["utils", "common", "helpers", "misc"])
def test_nothing_is_called(name: str) -> None:
    folders = ("crates", "python", "tests", "benchmarks", "examples")
    found = [
        path for folder in folders for path in (ROOT / folder).rglob(f"{name}*") if path.suffix in ("", ".py", ".rs")
    ]
    assert found == []


def test_every_file_begins_by_saying_what_it_is_for() -> None:
    silent = [
        path
        for folder in (EXTENSION, DRIVER)
        for path in sorted(folder.rglob("*.rs"))
        if not path.read_text().startswith("//!")
    ]
    silent += [
        path
        for path in sorted(PACKAGE.rglob("*.py*"))
        if path.suffix in (".py", ".pyi") and not path.read_text().startswith('"""')
    ]
    assert silent == []


@pytest.mark.parametrize(
    "page", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/compatibility.md"]
)
def test_links_and_file_names_in_the_documents_are_true(page: str) -> None:
    text = (ROOT / page).read_text()
    folder = (ROOT / page).parent
    links = [target for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) if "://" not in target]
    assert [target for target in links if not (folder / target).exists()] == []
    # `crates/…` and the like in code spans are paths from the root.
    named = re.findall(r"`((?:crates|python|tests|examples|benchmarks|docs|scripts)/[\w./-]+)`", text)
    assert [name for name in named if not (ROOT / name).exists()] == []
