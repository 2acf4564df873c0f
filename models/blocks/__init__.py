"""Further blocks that a model yaml may name."""
