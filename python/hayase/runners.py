"""`run` and `Runner`: asyncio's, on hayase's loop. Like `asyncio.runners`, whose names these are.

What happens around the main coroutine (SIGINT becomes its cancellation, the rest is cancelled and reported, async
generators and the executor are shut down) is asyncio's own Runner, so it is what the running Python version does.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from ._compat import MainAwaitable
from .events import new_event_loop

_T = TypeVar("_T")


class Runner(asyncio.Runner):  # type: ignore[misc]  # typeshed says final; nothing at run time does
    """`asyncio.Runner` whose loops are hayase's, unless `loop_factory` says otherwise."""

    def __init__(
        self, *, debug: bool | None = None, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    ) -> None:
        super().__init__(debug=debug, loop_factory=new_event_loop if loop_factory is None else loop_factory)


def run(
    main: MainAwaitable[_T],
    *,
    debug: bool | None = None,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> _T:
    """Run a coroutine to its end on a new loop and return its result. Call it once, at the program's entrance.

    As `asyncio.run`; `loop_factory` is here on every version, asyncio has it from 3.12 on.
    """
    if asyncio._get_running_loop() is not None:
        # Before a loop is made; the text is the one that programs and tests look for.
        raise RuntimeError("asyncio.run() cannot be called from a running event loop")
    with Runner(debug=debug, loop_factory=loop_factory) as runner:
        return runner.run(main)
