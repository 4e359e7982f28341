"""The test suites of libraries that live on asyncio, as judges of hayase: ``make test-libraries``.

Each suite runs twice in one environment, on stock asyncio and on hayase. What fails on hayase must fail on asyncio too;
else it is a bug of ours, or has its reason in ``expectations.toml``.

* ``__main__.py``         fetches the suites, runs them, compares
* ``suites.toml``         which libraries, at which versions, with what installed
* ``expectations.toml``   what fails on hayase alone, and why
* ``plugin/judge.py``     loaded by pytest inside a library's suite: puts the loop in, writes down each result

What must stay true: versions are exact, so a new failure is a change of ours.
"""
