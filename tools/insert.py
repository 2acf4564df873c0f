"""Puts a block into a model yaml: every `from` behind it follows, remarks and layout stay.

python -m tools.insert yolov5s.yaml --module NAMAttention --after 23 --out yolov5s-mine.yaml
python -m tools.insert yolov5s.yaml --module NAMAttention --after p3 p4 p5          # before each output; only shown
python -m tools.insert yolov5s.yaml --module NAMAttention --before detect           # the same, for Detect alone
python -m tools.insert yolov5s.yaml --module C3 --args c False --after backbone     # c: the channels of what it reads
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from models.edit.insertion import PLACES, Block, Insertion, difference, insert, parse_block
from models.edit.text import with_rows
from models.spec.rows import load_model_yaml
from utils.cli.arguments import tool_parser
from utils.files.yamls import YAML_SUFFIXES
from utils.general import LOGGER, atomic_write, find_file, run_script


@dataclass(frozen=True)
class Options:
    """The flags of `parse_opt`, which says what they mean."""

    cfg: str
    module: str
    args: list[str] | None
    after: list[str]
    before: list[str]
    out: str
    exist_ok: bool


def parse_opt(arguments: Sequence[str] | None = None) -> Options:
    """The options of the command line, or of `arguments`."""
    parser = tool_parser(
        "insert",
        f"Put a block into a model yaml, renumbering what follows. A place is {PLACES}.",
        "yolov5s.yaml --module NAMAttention --after p5 --out yolov5s-mine.yaml",
    )
    parser.add_argument("cfg", help="model yaml, e.g. yolov5s.yaml")
    parser.add_argument(
        "--module", required=True, help="the block: NAMAttention, C3, nn.Identity, or NAMAttention[...]"
    )
    parser.add_argument(
        "--args", nargs="+", help="its arguments, as a row has them; c is the channels of what it reads"
    )
    parser.add_argument(
        "--after", nargs="+", default=[], metavar="PLACE", help="rows to put one behind, for all readers"
    )
    parser.add_argument("--before", nargs="+", default=[], metavar="PLACE", help="rows to put one into each input of")
    parser.add_argument("--out", default="", help="the yaml to write; without it the change is only shown")
    parser.add_argument("--exist-ok", action="store_true", help="replace an existing --out")
    return Options(**vars(parser.parse_args(arguments)))


def main(opt: Options) -> str:
    """Writes the yaml that the options ask for, and logs what changed; its text."""
    block = parse_block(opt.module)
    if opt.args is not None:
        if block.args:
            raise ValueError(f"--module {opt.module} has arguments already; leave --args out")
        block = Block(block.module, tuple(read_arg(text) for text in opt.args))
    insertions = [Insertion(block, place) for place in opt.after]
    insertions += [Insertion(block, place, is_before=True) for place in opt.before]
    if not insertions:
        raise ValueError(f"--after or --before: where to put it is missing. A place is {PLACES}")
    check_out(opt.out, opt.exist_ok)
    path = find_file(opt.cfg, YAML_SUFFIXES)
    content, file = load_model_yaml(path)
    inserted = insert(content, insertions, file)
    text = with_rows(path.read_bytes().decode("utf-8-sig"), inserted.nodes, file)
    LOGGER.info(difference(content, inserted, file, opt.out or "the new yaml"))
    if opt.out:
        with atomic_write(opt.out) as temporary:
            temporary.write_bytes(text.encode("utf-8"))
        LOGGER.info(f"written: {opt.out}; train it with: python train.py --cfg {opt.out} --weights <checkpoint>")
    else:
        LOGGER.info("nothing is written; --out names the new yaml")
    return text


def read_arg(text: str) -> object:
    """A word of --args as YAML reads it in a row; ValueError where it is none."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError(f"--args {text}: is not a YAML value") from None


def check_out(out: str, exist_ok: bool) -> None:
    """ValueError or FileNotFoundError where --out is no place to write a yaml to."""
    if not out:
        return
    path = Path(out)
    if path.suffix.lower() not in YAML_SUFFIXES:
        raise ValueError(f"--out {out}: a file that ends with {' or '.join(YAML_SUFFIXES)} is wanted")
    if path.exists() and not exist_ok:
        raise ValueError(f"--out {out}: exists; name another, or add --exist-ok to replace it")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--out {out}: there is no folder {path.parent}")


if __name__ == "__main__":
    run_script(main, parse_opt())
