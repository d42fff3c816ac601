"""All decisions of the order workflow."""
