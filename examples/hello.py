"""Three coroutines at the same time. Run it with `python -m hayase examples/hello.py`, or with plain python."""

import asyncio
import sys


async def count(name: str, pause: float) -> int:
    for number in range(3):
        print(f"{name} {number}")
        await asyncio.sleep(pause)
    return 3


async def main() -> None:
    loop = asyncio.get_running_loop()
    print(f"on {type(loop).__module__}.{type(loop).__qualname__}, Python {sys.version.split()[0]}")
    counted = await asyncio.gather(count("slow", 0.2), count("quick", 0.05), count("quickest", 0))
    print(f"counted to {sum(counted)}")


asyncio.run(main())
