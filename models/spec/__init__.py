"""Parse and check model yamls."""
