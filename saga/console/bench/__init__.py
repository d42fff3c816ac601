"""`bench`: what the engine does on this machine, beside what the machine could do without one."""

from saga.console.bench.command import bench

__all__ = ["bench"]
