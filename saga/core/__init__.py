"""The pure core: deciders, events, intents, histories, rollback, retries and identity.

It imports the standard library and itself. Time and ids come in as arguments; nothing here waits,
writes, reads a clock or rolls a die.
"""

__all__: list[str] = []
