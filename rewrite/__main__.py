"""``python -m rewrite`` is the command line."""

from rewrite.cli import main

main()
