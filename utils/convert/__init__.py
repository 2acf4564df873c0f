"""The door to tools/convert.py for `python -m utils.convert`, its name before the rooms."""
