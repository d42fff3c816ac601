"""The audit: replay of stored histories, and timelines."""

__all__: list[str] = []
