"""The native load generator: built on first use, found in Cargo's target directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "hayase-loadgen"
SOURCES = ROOT / "crates" / "loadgen"


class GeneratorMissingError(Exception):
    """It is not there and cannot be built; the text says what helps."""


def built_generator() -> Path:
    """The program, up to date with its sources."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    program = ROOT / target / "release" / PACKAGE
    if program.exists() and program.stat().st_mtime >= _newest_source():
        return program
    command = ["cargo", "build", "--release", "--package", PACKAGE]
    print(f"benchmarks: building the load generator: {' '.join(command)}", file=sys.stderr, flush=True)
    if shutil.which("cargo") is None:
        raise GeneratorMissingError("the load generator needs Rust: install it from https://rustup.rs")
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        raise GeneratorMissingError("the load generator did not build; see the messages above")
    # Cargo leaves the file alone if nothing that matters changed; then it would be "old" at every start.
    program.touch()
    return program


def _newest_source() -> float:
    files = [SOURCES / "Cargo.toml", *(SOURCES / "src").rglob("*.rs")]
    return max(file.stat().st_mtime for file in files)
