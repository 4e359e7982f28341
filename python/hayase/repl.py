"""The interactive prompt of `python -m hayase`: Python statements, with `await` at top level, on a running loop.

The loop runs in the main thread, where signals arrive; the prompt reads in another one, so that tasks go on while somebody
types. Each statement runs on the loop and the prompt waits for it. An interrupt cancels the statement, not the loop.
"""

import ast
import asyncio
import builtins
import code
import concurrent.futures
import contextvars
import inspect
import sys
import threading
import types
from typing import Any

import hayase

BANNER = f"""\
hayase {hayase.__version__} on Python {sys.version.split()[0]}: use "await" directly instead of "hayase.run()".
Type "help", "copyright", "credits" or "license" for more information.
{getattr(sys, "ps1", ">>> ")}import asyncio, hayase"""


class Prompt(code.InteractiveConsole):
    """Reads and compiles in its own thread; has every statement run by the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        names = {
            "__name__": "__main__",
            "__doc__": None,
            "__builtins__": builtins,
            "asyncio": asyncio,
            "hayase": hayase,
        }
        super().__init__(names, filename="<stdin>")
        self.compile.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        self.loop = loop
        self.context = contextvars.copy_context()  # one for all statements: what one sets, the next one sees
        self.statement: asyncio.Task[Any] | None = None
        self.exit_code: Any = None

    def session(self) -> None:
        """The prompt's thread. Whatever ends it also stops the loop."""
        try:
            self.interact(banner=BANNER, exitmsg="")
        except SystemExit as exit:
            self.exit_code = exit.code
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)

    def runcode(self, code: types.CodeType) -> None:
        done: concurrent.futures.Future[BaseException | None] = concurrent.futures.Future()
        self.loop.call_soon_threadsafe(self.start, code, done, context=self.context)
        error = done.result()
        if isinstance(error, KeyboardInterrupt | asyncio.CancelledError):
            self.write(f"\n{type(error).__name__}\n")
        elif isinstance(error, SystemExit):
            raise error
        elif error is not None:
            try:
                raise error  # adds this frame, which showtraceback() takes for the console's and leaves out
            except BaseException:
                self.showtraceback()

    def start(self, code: types.CodeType, done: concurrent.futures.Future[BaseException | None]) -> None:
        """On the loop: run a statement; one that awaits becomes a task. `done` gets how it ended."""
        try:
            result = types.FunctionType(code, self.locals)()
        except BaseException as error:
            done.set_result(error.with_traceback(error.__traceback__ and error.__traceback__.tb_next))
            return
        if not inspect.iscoroutine(result):
            done.set_result(None)
            return

        def finished(task: asyncio.Task[Any]) -> None:
            self.statement = None
            done.set_result(asyncio.CancelledError() if task.cancelled() else task.exception())

        self.statement = self.loop.create_task(result, context=self.context)
        self.statement.add_done_callback(finished, context=self.context)

    def interrupt(self) -> None:
        if self.statement is not None:
            self.statement.cancel()


def interact() -> None:
    """Run the prompt until it is left, then close the loop in the orderly way."""
    hayase.install()
    with hayase.Runner() as runner:
        prompt = Prompt(runner.get_loop())
        complete_with_tab(prompt.locals)
        threading.Thread(target=prompt.session, name="hayase prompt", daemon=True).start()
        while True:
            try:
                prompt.loop.run_forever()
                break
            except KeyboardInterrupt:
                prompt.interrupt()
    sys.exit(prompt.exit_code)


def complete_with_tab(namespace: dict[str, Any]) -> None:
    try:
        import readline
        import rlcompleter
    except ImportError:
        return  # an interpreter built without it has no line editing either
    readline.set_completer(rlcompleter.Completer(namespace).complete)
    readline.parse_and_bind("tab: complete")
