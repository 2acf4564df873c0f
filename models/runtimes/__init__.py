"""Exported files as networks."""
