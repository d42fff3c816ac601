"""`python -m saga`: the command line."""

from saga.console.cli import main

if __name__ == "__main__":
    main()
