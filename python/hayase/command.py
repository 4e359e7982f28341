"""`python -m hayase [script.py | directory | -m module | -c code | -] [args…]`: an unmodified program on hayase's loop.

What must stay true: to the program it looks as if plain `python` had started it. `__main__` is the interpreter's own main
module, with the names plain `python` puts there; `sys.argv` and `sys.path[0]` are the program's; an uncaught exception
is shown, and ends the process, as the interpreter does it, without our frames.
"""

import builtins
import importlib.machinery
import os
import pkgutil
import runpy
import sys
from types import CodeType, TracebackType
from typing import Any, NoReturn

import hayase

from . import _compat

USAGE = """\
usage: python -m hayase [-h | -V] [script | -m module | -c code | -] [argument ...]

Run a Python program, unmodified, on hayase's event loop: its asyncio.run(), asyncio.new_event_loop()
and asyncio.get_event_loop() are hayase's.

  script       a Python file, or a directory or zip file with a __main__.py
  -m module    a module or package, as with python -m
  -c code      a program given as text
  -            a program read from the standard input
  argument     the rest is the program's own, in sys.argv
  -V, --version
  -h, --help

Without a program, an interactive prompt with top-level await, on a running loop.
"""


def main() -> None:
    """Do what the command line says; the program's own end is ours."""
    arguments = sys.argv[1:]
    option = arguments[0] if arguments else ""
    match option:
        case "":
            from .repl import interact

            interact()
        case "-h" | "--help":
            print(USAGE, end="")
        case "-V" | "--version":
            print(f"hayase {hayase.__version__} (Python {sys.version.split()[0]})")
        case "-m" if len(arguments) > 1:
            run_module(arguments[1], arguments[1:])
        case "-c" if len(arguments) > 1:
            run_text(arguments[1], ["-c", *arguments[2:]])
        case "-":
            run_standard_input(arguments)
        case "-m" | "-c":
            usage_error(f"argument expected for the {option} option")
        case _ if option.startswith("-"):
            usage_error(f"unknown option {option}")
        case _:
            run_path(option, arguments)


def usage_error(message: str) -> NoReturn:
    print(f"{message}\n{USAGE.splitlines()[0]}", file=sys.stderr)
    sys.exit(2)  # as python's own mistaken options


def run_path(path: str, argv: list[str]) -> None:
    """A script; or what has a `__main__.py` in it: a directory or a zip file."""
    filename = os.path.join(os.getcwd(), path)  # not normalised: the interpreter does not do that either
    if pkgutil.get_importer(filename) is not None:
        # The program's modules are in there, so even a safe path begins with it.
        sys.path[0 : not sys.flags.safe_path] = [filename]
        become_program(argv)
        run_as_main("__main__", alter_argv=False)
        return
    loader: Any = importlib.machinery.SourceFileLoader("__main__", filename)
    try:
        # What ends in .pyc is compiled already. Everything else is source, whatever its name.
        if path.endswith(".pyc"):
            loader = importlib.machinery.SourcelessFileLoader("__main__", filename)
            code = loader.get_code("__main__")
        else:
            code = loader.get_data(filename)
    except OSError as error:
        reason = f"[Errno {error.errno}] {error.strerror}"
        print(f"{sys.executable}: can't open file {filename!r}: {reason}", file=sys.stderr)
        sys.exit(2)
    first_on_path(os.path.dirname(os.path.realpath(filename)))
    run_code(code, filename, become_program(argv, __file__=filename, __loader__=loader))


def run_standard_input(argv: list[str]) -> None:
    first_on_path("")
    names = {"__file__": "<stdin>", "__loader__": importlib.machinery.BuiltinImporter}
    run_code(sys.stdin.buffer.read(), "<stdin>", become_program(argv, **names))


def run_text(text: str, argv: list[str]) -> None:
    """A program given on the command line, which has no file."""
    first_on_path("")
    _compat.remember_lines("<string>", text)
    namespace = become_program(argv, __loader__=importlib.machinery.BuiltinImporter)
    namespace.pop("__cached__", None)
    run_code(text, "<string>", namespace)


def run_module(name: str, argv: list[str]) -> None:
    """A module or package, found on `sys.path`, whose first entry is the current directory already."""
    become_program(argv)
    run_as_main(name, alter_argv=True)


def first_on_path(folder: str) -> None:
    """Put the program's folder where `python -m` has put the current directory, if it was allowed to."""
    if not sys.flags.safe_path:
        sys.path[0] = folder


def become_program(argv: list[str], **names: Any) -> dict[str, Any]:
    """The process is the program's from here on: its loop, its arguments, and a `__main__` as plain `python` begins it."""
    hayase.install()
    sys.argv[:] = argv
    fresh = {
        "__annotations__": {},
        "__builtins__": builtins,
        "__cached__": None,
        "__doc__": None,
        "__name__": "__main__",
        "__package__": None,
        "__spec__": None,
    }
    namespace = sys.modules["__main__"].__dict__
    # Which of these names a main module has depends on the Python version. Ours is one, so it knows.
    begin = {name: fresh[name] for name in fresh if name in namespace} | names
    namespace.clear()
    namespace.update(begin)
    return namespace


def run_code(code: CodeType | str | bytes, filename: str, namespace: dict[str, Any]) -> None:
    try:
        if not isinstance(code, CodeType):
            code = compile(code, filename, "exec", dont_inherit=True)
        exec(code, namespace)
    except BaseException as error:
        hide_our_frames(error)
        raise


def run_as_main(module: str, alter_argv: bool) -> None:
    # What the interpreter itself calls for `python -m`, and whose frames its tracebacks show.
    try:
        runpy._run_module_as_main(module, alter_argv)  # type: ignore[attr-defined]
    except BaseException as error:
        hide_our_frames(error)
        raise


def hide_our_frames(error: BaseException) -> None:
    """Have `error` reported with the traceback it has now, less the calling frame, though it has our frames to pass yet.

    Showing it and ending the process stays the interpreter's business: it knows SystemExit, the program's excepthook,
    and that a KeyboardInterrupt means to die of SIGINT. It asks `sys.excepthook` last, which is where we correct it.
    """
    if isinstance(error, SystemExit):
        return  # not reported at all
    own_hook = sys.excepthook
    traceback = error.__traceback__.tb_next if error.__traceback__ is not None else None

    def excepthook(kind: type[BaseException], raised: BaseException, longer: TracebackType | None) -> None:
        sys.excepthook = own_hook
        sys.last_traceback = traceback
        own_hook(kind, raised.with_traceback(traceback), traceback)

    sys.excepthook = excepthook
