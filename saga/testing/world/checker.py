from __future__ import annotations
def check(durable, log, surroundings):
    return []
