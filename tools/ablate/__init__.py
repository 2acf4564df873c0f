"""Variants x seeds, statistics and a report."""
