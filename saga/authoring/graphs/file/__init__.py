"""A contract file: its format, how it is read, and what is said of its mistakes."""

__all__: list[str] = []
