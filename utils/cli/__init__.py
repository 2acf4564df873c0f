"""Flags of the commands and their checks."""
