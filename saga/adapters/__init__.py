"""What the ports are made of: SQLite and a local bus by default, memory for tests, clocks.

Import from the adapter's own package (`saga.adapters.sqlite`, `saga.adapters.memory`): nothing is
loaded that is not asked for.
"""

__all__: list[str] = []
