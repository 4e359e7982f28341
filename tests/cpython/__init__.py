"""CPython's own asyncio tests, as the judge of hayase.

``python -m tests.cpython`` runs the installed interpreter's ``test.test_asyncio`` against a loop; nothing is
copied from CPython, so the tests always are those of the interpreter in use.

* ``__main__.py``        what to run, the table, the verdict
* ``child.py``           runs one test file in a process of its own and writes down each result as it happens
* ``substitution.py``    makes the file's loops, futures and tasks ours
* ``expectations.toml``  every test that is excluded, or expected to fail, and why
* ``expectations.py``    reads that file

What must stay true: ``--loop asyncio`` substitutes nothing and expects everything to pass. If it does not, the
harness or the machine is at fault, not a loop.
"""
