"""The orchestrators: one folder each."""
