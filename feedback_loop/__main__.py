"""`python -m feedback_loop`: the command line."""

from feedback_loop.cli import main

main()
