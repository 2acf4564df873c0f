"""`python -m tools.gates`: what NAM's gates do and what the network looks at."""

from tools.gates.cli import main, parse_opt
from utils.general import run_script

if __name__ == "__main__":
    run_script(main, parse_opt())
