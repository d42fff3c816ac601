"""
Simulated worlds: real orchestrators and effect services, a simulated bus, store and clock, crashes by seed.
"""

from saga.testing.world.world import Verdict, World

__all__ = ["Verdict", "World"]
