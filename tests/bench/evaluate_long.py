"""Perplexity of one window of 131,072 tokens under full attention, over 2 ranks: seconds, and what a rank holds.

    evaluate_long.py                          stories260k on a novel of ../shared/data
    evaluate_long.py --model DIR --text FILE --context 16384
"""

import re
import tempfile
from pathlib import Path

import measuring
import program
from measuring import MIB


def prepare(options, folder):
    output = Path(folder) / "tokens.h5"
    words = {"model.path": options.model, "prepare.input": options.text, "prepare.output": output}
    measuring.start([options.program[0], "prepare", *program.option_words(words)], 1, 1)
    return output


def evaluate(options, data, folder):
    words = {"model.path": options.model, "data.validation": data, "evaluate.contexts": options.context,
             "evaluate.tokens": options.context, "rope.scaling": "linear", "rope.factor": options.factor,
             "parallel.threads": options.threads, "run.directory": f"{folder}/none", "comm.timeout": 3600}
    return measuring.start([options.program[0], "evaluate", *program.option_words(words)], options.ranks, options.threads,
                           options.launcher)


def parse():
    options = measuring.parser(__doc__)
    options.add_argument("--model", type=Path, default=program.SHARED / "models" / "stories260k")
    options.add_argument("--text", type=Path, default=program.SHARED / "books" / "val" / "pg1400-great-expectations.txt")
    options.add_argument("--context", type=int, default=131072)
    options.add_argument("--factor", type=float, help="of position interpolation; default: context / 512")
    options.add_argument("--ranks", type=int, default=2)
    options.add_argument("--threads", type=int, default=1)
    found = measuring.parse(options)
    found.factor = found.factor or max(1.0, found.context / 512)
    for path in (found.model, found.text):
        if not path.exists():
            raise SystemExit(f"there is no {path}: name a model and a text by --model and --text")
    return found


def main():
    options = parse()
    measuring.announce()
    with tempfile.TemporaryDirectory(prefix="longlora-bench-") as folder:
        run = evaluate(options, prepare(options, folder), folder)
    scored, perplexity = re.search(rf"^\s*{options.context}\s+(\d+)\s+(\S+)\s*$", run.out, re.MULTILINE).groups()
    row = [options.context, f"{options.ranks} x {options.threads}", f"{run.seconds:.1f}", f"{run.peak_bytes / MIB:.1f}",
           scored, perplexity]
    measuring.table(["context", "ranks x threads", "seconds, start to end", "MiB resident a rank", "scored tokens",
                     "perplexity"], [row])


if __name__ == "__main__":
    main()
