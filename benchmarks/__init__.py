"""Side-by-side measurements of event loops; `python -m benchmarks --help` is the way in."""
