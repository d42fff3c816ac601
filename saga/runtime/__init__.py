"""The runtime: receive, decode, route, load, handle, append, relay, in batches; no business logic.

See ARCHITECTURE.md for the hops and what holds at each.
"""

__all__: list[str] = []
