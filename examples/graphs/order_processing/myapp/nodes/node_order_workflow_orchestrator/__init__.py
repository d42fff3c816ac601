"""The order workflow: its contract is all that it is."""
