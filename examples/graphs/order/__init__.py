"""An order as a contract graph."""
