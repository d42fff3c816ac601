"""Simulated worlds: an application on a simulated bus, store and clock, with crashes by seed.

verdict = World(app, seed, triggers=[OrderPlaced(order_id="o-1", amount=3)]).run()
assert verdict.ok, verdict.report()
"""

from saga.testing.world.state import WorldSaga, WorldState
from saga.testing.world.world import Verdict, World

__all__ = ["Verdict", "World", "WorldSaga", "WorldState"]
