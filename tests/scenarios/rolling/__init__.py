"""Two releases of one application: a function, a machine, a graph, and their contracts.

`python -m tests.scenarios.rolling RELEASE BUS STORE EFFECTS NAMESPACE` serves one of them until it
is killed. It imports public names only, so that older engines run it too.
"""
