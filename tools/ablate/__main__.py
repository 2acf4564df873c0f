"""`python -m tools.ablate`: variants x seeds, statistics and a report."""

from tools.ablate.cli import main, parse_opt
from utils.general import run_script

if __name__ == "__main__":
    run_script(main, parse_opt())
