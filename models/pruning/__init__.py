"""Take channels out of a network."""
