"""`python -m unlearn` is the command line."""

from unlearn.cli import main

main()
