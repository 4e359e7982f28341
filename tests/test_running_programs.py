"""`python -m hayase program`: to the program it looks as if plain `python` had started it, but its loop is hayase's.

Most tests here run a program both ways and compare everything that comes out: status, output, and error output to the
letter. Where plain python itself is the oracle, nothing about Python's behaviour is written down here.
"""

from __future__ import annotations

import os
import py_compile
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import hayase

PACKAGE_HOME = str(Path(hayase.__file__).parent.parent)


class Folder:
    """A folder with a program in it, which can be run by python or by hayase."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, source: str) -> str:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(source))
        return name

    def start(self, *arguments: str, flags: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        search = os.pathsep.join(filter(None, [PACKAGE_HOME, os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": search, "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.Popen(
            [sys.executable, *flags, *arguments],
            cwd=self.path,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def python(self, *arguments: str, stdin: str = "", flags: tuple[str, ...] = ()) -> tuple[int, str, str]:
        with self.start(*arguments, flags=flags) as process:
            try:
                out, err = process.communicate(stdin, timeout=40)
            finally:
                process.kill()
        return process.returncode, out, err

    def hayase(self, *arguments: str, stdin: str = "", flags: tuple[str, ...] = ()) -> tuple[int, str, str]:
        return self.python("-m", "hayase", *arguments, stdin=stdin, flags=flags)

    def assert_same(self, *arguments: str, stdin: str = "", flags: tuple[str, ...] = ()) -> tuple[int, str, str]:
        plain = self.python(*arguments, stdin=stdin, flags=flags)
        ours = self.hayase(*arguments, stdin=stdin, flags=flags)
        assert ours == plain
        return ours


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


LOOK_AROUND = """
import sys
print(sys.argv)
print(sys.path)
print(__name__, __package__, __spec__ and __spec__.name, globals().get("__file__"), globals().get("__cached__"))
print(getattr(__loader__, "__name__", type(__loader__).__name__), getattr(__loader__, "name", None))
print(__builtins__, __doc__)
print(sorted(name for name in globals()))
print(sys.modules["__main__"].__dict__ is globals())
"""


# What the program sees ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["program.py", "./program.py", "deeper/../program.py", "no_suffix"])
def test_a_script_sees_what_plain_python_shows_it(folder: Folder, path: str) -> None:
    (folder.path / "deeper").mkdir()
    folder.write(path.rsplit("/", 1)[-1], LOOK_AROUND)
    status, out, _ = folder.assert_same(path, "-m", "--version", "an argument")
    assert status == 0 and "an argument" in out


def test_a_script_elsewhere_imports_from_its_own_folder(folder: Folder) -> None:
    folder.write("there/program.py", LOOK_AROUND + "import neighbour")
    folder.write("there/neighbour.py", "print('imported')")
    (folder.path / "link.py").symlink_to(folder.path / "there" / "program.py")
    folder.assert_same("there/program.py")
    assert "imported" in folder.assert_same("link.py")[1]
    assert "imported" in folder.assert_same(str(folder.path / "there" / "program.py"))[1]


def test_with_a_safe_path_nothing_is_put_in_front(folder: Folder) -> None:
    folder.write("program.py", LOOK_AROUND)
    folder.assert_same("program.py", flags=("-P",))


def test_a_module_sees_what_plain_python_shows_it(folder: Folder) -> None:
    folder.write("module.py", LOOK_AROUND)
    folder.write("package/__init__.py", "print('the package first')")
    folder.write("package/__main__.py", LOOK_AROUND + "from . import part")
    folder.write("package/part.py", "print('a part')")
    folder.assert_same("-m", "module", "-h", "x")
    assert "a part" in folder.assert_same("-m", "package", "x")[1]


def test_a_folder_and_a_zip_file_with_a_main_are_programs(folder: Folder) -> None:
    folder.write("application/__main__.py", LOOK_AROUND + "import part")
    folder.write("application/part.py", "print('a part')")
    with zipfile.ZipFile(folder.path / "application.zip", "w") as archive:
        for name in ("__main__.py", "part.py"):
            archive.write(folder.path / "application" / name, name)
    assert "a part" in folder.assert_same("application", "x")[1]
    assert "a part" in folder.assert_same("application.zip", "x")[1]


def test_a_compiled_script_is_a_program(folder: Folder) -> None:
    folder.write("program.py", LOOK_AROUND)
    py_compile.compile(str(folder.path / "program.py"), cfile=str(folder.path / "compiled.pyc"), doraise=True)
    folder.assert_same("compiled.pyc", "x")


def test_text_and_standard_input_are_programs(folder: Folder) -> None:
    folder.assert_same("-c", LOOK_AROUND, "x", "-y")
    folder.assert_same("-", "x", stdin=LOOK_AROUND)


def test_the_encoding_of_the_source_is_respected(folder: Folder) -> None:
    (folder.path / "latin.py").write_bytes("# coding: latin-1\nprint(ascii('gr\xfcn'))\n".encode("latin-1"))
    (folder.path / "marked.py").write_bytes(b"\xef\xbb\xbfprint('after a byte-order mark')\n")
    assert folder.assert_same("latin.py")[1] == "'gr\\xfcn'\n"
    folder.assert_same("marked.py")


def test_classes_of_the_program_can_be_pickled(folder: Folder) -> None:
    folder.write(
        "program.py",
        """
        import pickle
        class Thing:
            pass
        print(type(pickle.loads(pickle.dumps(Thing()))) is Thing, Thing.__module__)
        """,
    )
    assert folder.assert_same("program.py")[1] == "True __main__\n"


def test_our_future_imports_are_not_the_programs(folder: Folder) -> None:
    folder.write("program.py", "def f(x: print('evaluated') = 1): ...\nf.__annotations__")
    assert "evaluated" in folder.assert_same("program.py")[1]


# How it ends -------------------------------------------------------------------------------------------------------

ENDINGS = {
    "normally": "print('the end')",
    "with an exit status": "import sys; sys.exit(3)",
    "with no exit status": "raise SystemExit",
    "with a message": "import sys; sys.exit('this went wrong')",
    "with a status that is none": "raise SystemExit(2.5)",
    "interrupted": "raise KeyboardInterrupt",
    "by a signal": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "at once": "import os; os._exit(7)",
    "with an error": "def f():\n    return 1 / 0\n\n\nf()",
    "with a chain of errors": "try:\n    {}['x']\nexcept KeyError as e:\n    raise ValueError('chained') from e",
    "with a group of errors": "raise ExceptionGroup('several', [ValueError(1), TypeError(2)])",
    "with an error that has notes": "e = ValueError('x')\ne.add_note('a note')\nraise e",
    "with a syntax error": "print('never')\nx = = 1",
    "with a wrong indentation": "if True:\npass",
    "with its own report": "import sys; sys.excepthook = lambda *a: print('mine', a[0], a[2].tb_lineno); 1/0",
    "with its own report, which fails": "import sys\ndef hook(*a):\n    raise KeyError('hook')\nsys.excepthook = hook\n1/0",
    "with its own report, which exits": "import sys\ndef hook(*a):\n    sys.exit(9)\nsys.excepthook = hook\n1/0",
    "with something to do at exit": "import atexit; atexit.register(print, 'later'); 1/0",
    "with a thread at work": """
import threading
def work():
    go.wait()
    print('the thread', threading.main_thread().is_alive())
go = threading.Event()
threading.Thread(target=work).start()
import atexit
threading._register_atexit(go.set)
1/0
""",
    "and finalizers run": "class X:\n    def __del__(self):\n        print('finalized')\nx = X()",
    "and sys knows the last error": "import atexit, sys\natexit.register(lambda: print(sys.last_type, sys.last_traceback.tb_frame.f_code.co_name))\n1/0",
}


@pytest.mark.parametrize("how", ENDINGS)
def test_a_script_ends_as_under_plain_python(folder: Folder, how: str) -> None:
    folder.write("program.py", ENDINGS[how])
    status, out, err = folder.python("program.py")
    our_status, our_out, our_err = folder.hayase("program.py")
    if how == "with its own report, which fails":  # the interpreter shows the hook's frames; ours is one more
        err, our_err = (text.splitlines()[-1:] for text in (err, our_err))
    assert (our_status, our_out, our_err) == (status, out, err)
    assert "hayase" not in our_err


@pytest.mark.parametrize("how", ["with an error", "interrupted", "with a message", "with a syntax error"])
def test_a_module_ends_as_under_plain_python(folder: Folder, how: str) -> None:
    folder.write("program.py", ENDINGS[how])
    folder.assert_same("-m", "program")


@pytest.mark.parametrize("how", ["with an error", "interrupted", "with a message", "with a syntax error"])
def test_a_text_ends_as_under_plain_python(folder: Folder, how: str) -> None:
    folder.assert_same("-c", ENDINGS[how])
    folder.assert_same("-", stdin=ENDINGS[how])


def test_an_error_in_an_imported_module_shows_the_same_frames(folder: Folder) -> None:
    folder.write("program.py", "import broken")
    folder.write("broken.py", "def f():\n    raise OSError(2, 'no such thing', 'file')\n\n\nf()")
    folder.assert_same("program.py")


def test_what_does_not_exist_is_reported_as_by_plain_python(folder: Folder) -> None:
    (folder.path / "empty").mkdir()
    assert folder.assert_same("missing.py")[0] == 2
    folder.assert_same("-m", "missing_module")
    folder.assert_same("-m", "missing.module")
    folder.assert_same("empty")


# The command itself ------------------------------------------------------------------------------------------------


def test_help_and_version_are_printed(folder: Folder) -> None:
    for option in ("-h", "--help"):
        status, out, err = folder.hayase(option)
        assert (status, err) == (0, "") and out.startswith("usage: python -m hayase") and "-m module" in out
    for option in ("-V", "--version"):
        status, out, err = folder.hayase(option)
        assert (status, err) == (0, "") and out.startswith(
            f"hayase {hayase.__version__} (Python {sys.version_info[0]}."
        )


@pytest.mark.parametrize("arguments", [("--no-such-option",), ("-m",), ("-c",)])
def test_a_mistaken_command_line_is_refused_with_the_usage(folder: Folder, arguments: tuple[str, ...]) -> None:
    status, out, err = folder.hayase(*arguments)
    assert (status, out) == (2, "") and arguments[0] in err and "usage: python -m hayase" in err


# Its loop is hayase's ----------------------------------------------------------------------------------------------

WHOSE_LOOP = """
import asyncio
async def main():
    print("run", type(asyncio.get_running_loop()).__module__)
loop = asyncio.get_event_loop()
print("get", type(loop).__module__)
loop.close()
loop = asyncio.new_event_loop()
print("new", type(loop).__module__)
loop.close()
asyncio.run(main())
with asyncio.Runner() as runner:
    runner.run(main())
"""


def test_every_loop_the_program_makes_is_hayases(folder: Folder) -> None:
    folder.write("program.py", WHOSE_LOOP)
    expected = "get hayase.events\nnew hayase.events\nrun hayase.events\nrun hayase.events\n"
    for arguments in (("program.py",), ("-m", "program"), ("-c", WHOSE_LOOP)):
        assert folder.hayase(*arguments) == (0, expected, "")


def test_nobody_is_warned_about_what_hayase_does_for_him(folder: Folder) -> None:
    folder.write("program.py", WHOSE_LOOP)
    status, _, err = folder.hayase("program.py", flags=("-W", "error", "-X", "dev"))
    assert (status, err) == (0, "")


ONE_TASK = """
import random
import asyncio

async def heavy_thing():
    \"\"\" takes a while \"\"\"

    print('start')
    await asyncio.sleep(random.random()*0.1)
    print('done!')


if __name__ == '__main__':
    loop = asyncio.get_event_loop()
    loop.run_until_complete(heavy_thing())
"""

FIVE_TASKS = """
import random
import asyncio

async def heavy_thing(id_):
    print('task {0} start'.format(id_))
    await asyncio.sleep(0.05 + random.random()*0.1)
    print('task {0} done!'.format(id_))


if __name__ == '__main__':
    loop = asyncio.get_event_loop()
    tasks = asyncio.wait([heavy_thing(i) for i in range(5)])
    loop.run_until_complete(tasks)
"""

ECHO_CLIENT_AND_CLOCK = """
import datetime
import sys
import asyncio

async def echo():
    print('connect...', end='')
    reader, writer = await asyncio.open_connection('localhost', int(sys.argv[1]))
    print('done')

    while not reader.at_eof():
        print('read... ', end='')
        recv = await reader.readline()
        print(recv)

        print('send...', end='')
        writer.write(recv)
        await writer.drain()
        print('done')

async def clock():
    while True:
        print(datetime.datetime.now().isoformat())
        await asyncio.sleep(0.01)


if __name__ == '__main__':
    loop = asyncio.get_event_loop()
    asyncio.ensure_future(clock())
    loop.run_until_complete(echo())
"""

# The same program, on hayase by its own wish: no command, nothing installed.
BOTH_WAYS: dict[str, Callable[[Folder, str], tuple[str, ...]]] = {
    "under the command": lambda folder, source: ("-m", "hayase", folder.write("program.py", source)),
    "importing hayase as asyncio": lambda folder, source: (
        folder.write("program.py", source.replace("import asyncio", "import hayase as asyncio")),
    ),
}


@pytest.fixture(params=BOTH_WAYS)
def run_old_program(request: pytest.FixtureRequest, folder: Folder) -> Callable[..., tuple[int, str, str]]:
    def run_old_program(source: str, *arguments: str, flags: tuple[str, ...] = ()) -> tuple[int, str, str]:
        return folder.python(*BOTH_WAYS[request.param](folder, source), *arguments, flags=flags)

    return run_old_program


Runs = Callable[..., tuple[int, str, str]]


def test_a_program_of_2015_with_one_task_runs(run_old_program: Runs) -> None:
    assert run_old_program(ONE_TASK, flags=("-W", "error")) == (0, "start\ndone!\n", "")


def test_a_program_of_2015_that_waits_for_bare_coroutines_runs(run_old_program: Runs) -> None:
    status, out, err = run_old_program(FIVE_TASKS)
    lines = out.splitlines()
    assert status == 0, err
    assert sorted(lines[:5]) == [f"task {i} start" for i in range(5)]
    assert sorted(lines[5:]) == [f"task {i} done!" for i in range(5)]
    warning, *source_line = err.splitlines()
    assert "program.py:" in warning and "DeprecationWarning: wait() was given coroutines" in warning
    assert source_line == ["  loop.run_until_complete(tasks)"]


@pytest.fixture
def line_server() -> Iterator[tuple[int, list[bytes]]]:
    """Sends three lines one after the other's echo, then closes. Gives its port and what came back."""
    server = socket.create_server(("localhost", 0))
    echoes: list[bytes] = []

    def serve() -> None:
        peer, _ = server.accept()
        with peer, peer.makefile("rb") as lines:
            for line in (b"one\n", b"two\n", b"three\n"):
                peer.sendall(line)
                echoes.append(lines.readline())

    thread = threading.Thread(target=serve)
    with server:
        thread.start()
        yield server.getsockname()[1], echoes
        thread.join(10)


def test_a_program_of_2015_with_an_echo_client_and_a_clock_runs(
    run_old_program: Runs, line_server: tuple[int, list[bytes]]
) -> None:
    port, echoes = line_server
    status, out, err = run_old_program(ECHO_CLIENT_AND_CLOCK, str(port))
    assert status == 0, err
    assert echoes == [b"one\n", b"two\n", b"three\n"]
    for line in ("one", "two", "three"):
        assert f"b'{line}\\n'" in out
    assert sum(line.startswith(("20", "21")) for line in out.splitlines()) >= 1  # the clock went, beside it


def test_an_interrupt_ends_the_program_as_under_plain_python(folder: Folder) -> None:
    folder.write(
        "program.py",
        """
        import asyncio
        async def main():
            print("running", flush=True)
            try:
                await asyncio.sleep(1000)
            finally:
                print("cleaned up", flush=True)
        asyncio.run(main())
        """,
    )
    outcomes = []
    for command in (("program.py",), ("-m", "hayase", "program.py")):
        with folder.start(*command) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "running\n"
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        outcomes.append((process.returncode, out, err.splitlines()[-1]))
    assert outcomes[1] == outcomes[0] == (-signal.SIGINT, "cleaned up\n", "KeyboardInterrupt")


EVERYTHING_WAITS = """
if SIDE == "hayase":
    hayase.install()

async def wait(what):
    await what()

async def reading(path):
    reader, writer = await asyncio.open_connection(*path)
    await reader.readline()

async def main():
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    near, far = socket.socketpair()
    near.setblocking(False)
    loop = asyncio.get_running_loop()
    lock = asyncio.Lock()
    await lock.acquire()
    condition = asyncio.Condition()
    async def conditional():
        async with condition:
            await condition.wait()
    async def timed():
        async with asyncio.timeout(99):
            await asyncio.Event().wait()
    kept = [near, far, server, lock]
    kept += [asyncio.ensure_future(wait(what)) for what in (
        lambda: asyncio.sleep(99), lock.acquire, asyncio.Queue().get, asyncio.Event().wait, conditional, timed,
        lambda: reading(address), lambda: loop.sock_recv(near, 1), lambda: asyncio.wait_for(asyncio.Event().wait(), 99),
        lambda: asyncio.gather(asyncio.sleep(98), asyncio.sleep(97)), lambda: asyncio.shield(asyncio.sleep(96)),
        server.serve_forever,
    )]
    for _ in range(9):
        await asyncio.sleep(0.001)
    sys.kept = kept

loop = new_event_loop()
loop.run_until_complete(main())
print("over")
"""


def test_a_program_may_end_while_everything_waits(program: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    # Coroutines that are suspended are closed while the interpreter ends, when little of it still works.
    ended = program(EVERYTHING_WAITS)
    assert (ended.returncode, ended.stdout) == (0, "over\n"), ended.stderr
    assert "panicked" not in ended.stderr and "SystemError" not in ended.stderr, ended.stderr
