"""Programs beyond v6.1: `python -m tools.<name>`. Nothing imports them."""
