"""A program as they were written when asyncio was new: a loop before it runs, and coroutines given to wait().

Python 3.11 stopped to accept the second and 3.14 the first. With this one import changed, or unchanged under
`python -m hayase`, such programs run on every version.
"""

import random

import hayase as asyncio


async def task(number):
    print(f"task {number} starts")
    await asyncio.sleep(random.random() / 10)
    print(f"task {number} is done")


loop = asyncio.get_event_loop()
loop.run_until_complete(asyncio.wait([task(number) for number in range(5)]))
