"""Pure functions of boxes."""
