"""Runs tools/convert.py."""

import runpy

if __name__ == "__main__":
    runpy.run_module("tools.convert", run_name="__main__", alter_sys=True)
