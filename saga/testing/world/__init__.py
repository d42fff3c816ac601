"""Simulated worlds: real orchestrators and effect services, a simulated bus, store and clock, and
crashes by seed.

    verdict = World(seed).run()
    assert not verdict.violations, verdict.report()
"""

from saga.testing.world.world import Verdict, World

__all__ = ["Verdict", "World"]
