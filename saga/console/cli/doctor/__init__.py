"""`doctor`: what is wrong with a deployment, where, and what to do about it.

It looks at settings, bus, store, effects store and outbox, changes nothing, and judges what it saw
in one pure function. What it cannot look at is itself a finding, and the rest goes on.
"""

__all__: list[str] = []
