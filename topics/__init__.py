"""What the services say to each other: one folder a team, which owns its topics and their versions.

A published contract is never changed in a way that its readers cannot follow; a new major version
gets a module of its own beside the old one, and an upcast joins the two.
"""

__all__: list[str] = []
