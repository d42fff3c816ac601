"""Two applications on one bus, in all three ways to write a saga, and releases of one of them.

`office` has a function, a machine and a graph, which have children in `depot`, and `depot` has some
in `office`. What happens to a step is written into the trigger, as in the other applications here.
"""
