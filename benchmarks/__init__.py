"""What the engine does on this machine, beside what the machine could do without an engine."""
