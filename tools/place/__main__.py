"""`python -m tools.place`: where a block helps, if anywhere."""

from tools.place.cli import main, parse_opt
from utils.general import run_script

if __name__ == "__main__":
    run_script(main, parse_opt())
