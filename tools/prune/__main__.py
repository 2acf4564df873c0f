"""`python -m tools.prune`: channels taken out, fine-tuned, measured."""

from tools.prune.cli import main, parse_opt
from utils.general import run_script

if __name__ == "__main__":
    run_script(main, parse_opt())
