"""What the order workflow says and is told."""
