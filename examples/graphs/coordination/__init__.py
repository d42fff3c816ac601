"""Four ways to coordinate."""
