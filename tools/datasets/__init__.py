"""Read, check, fetch and convert data sets."""
