"""What the ports are made of; import from an adapter's own package, so that no other is loaded."""

__all__: list[str] = []
