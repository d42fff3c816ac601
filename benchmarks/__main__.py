"""`python -m benchmarks`."""

from benchmarks.command import program

if __name__ == "__main__":
    program()(prog_name="python -m benchmarks")
