"""Sagas written as contract graphs: nodes in YAML, on the kernel that functions run on."""

__all__ = ()
