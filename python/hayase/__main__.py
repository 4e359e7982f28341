"""`python -m hayase`. The work is in `command.py`: this module's namespace becomes the program's."""

from hayase.command import main

main()
