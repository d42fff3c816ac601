"""
Store and bus in memory, with the same meaning as the durable ones: for tests and simulated worlds.
"""
