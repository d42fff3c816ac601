"""From a file to a plan that can be run: contracts, graph, types and expressions are checked."""

__all__: list[str] = []
