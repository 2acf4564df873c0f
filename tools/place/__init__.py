"""Where a block helps, if anywhere."""
