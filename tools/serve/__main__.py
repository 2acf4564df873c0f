"""`python -m tools.serve`: an HTTP server and its page."""

from tools.serve.cli import main, parse_opt
from utils.general import run_script

if __name__ == "__main__":
    run_script(main, parse_opt())
