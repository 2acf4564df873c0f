"""From disk to records."""
