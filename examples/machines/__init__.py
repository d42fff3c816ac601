"""Sagas as state machines, a folder each."""
