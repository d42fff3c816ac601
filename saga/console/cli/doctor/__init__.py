"""`doctor`: what is wrong with a deployment, where, and what to do about it.

It changes nothing. What it cannot look at is itself a finding, and the rest goes on.
"""

__all__: list[str] = []
