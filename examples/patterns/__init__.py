"""One file for each pattern; each runs by itself: `python examples/patterns/sequential.py`."""
