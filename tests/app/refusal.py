"""What the tests of wrong input share: a command must be refused in time, with one sentence that says what to do, alone and
on four ranks, and what lay there before must lie there as it was."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import program
from program import ProgramTest

SECONDS = 5 if not program.IS_SANITIZED else 20
STARTS = 8  # or as long as it takes to start so often without doing anything: other work may keep the machine busy
ALONE_AND_ON_FOUR = (0, 4)
LENGTH = 64
# A run that would work.
GOOD = {**program.TINY, "sequence.length": LENGTH, "attention.group": 16, "train.steps": 1, "train.batch": 1}
# What to do is the last part of a sentence, or follows from what must be.
REMEDY = re.compile(r"; |: (give|set|copy|wait) |must |needs |did you mean")


def snapshot(folder):
    """Path -> content, or None for a folder."""
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


class RefusalTest(ProgramTest):
    def setUp(self):
        super().setUp()
        self.tokens = program.write_tokens(self.folder / "tokens.npy", 4, LENGTH)

    def assert_refused(self, sentence, options, command=("train",), ranks=ALONE_AND_ON_FOUR, code=2, untouched=None, **process):
        """`sentence` is a regular expression for what must be said; below `untouched`, the test's folder, nothing may change."""
        untouched = untouched or self.folder
        before = snapshot(untouched)
        # At once, since most of the time goes into mpirun's waiting for the end; but not two in the folder of a run.
        holds_run = Path(options.get("run.directory", "none")).exists()
        with ThreadPoolExecutor(1 if holds_run else None) as pool:
            results = list(pool.map(lambda count: program.run(command, options, count, cwd=self.folder, **process), ranks))
        after = snapshot(untouched)
        print(results[0].code, results[0].complaints, flush=True)
        for result, count in zip(results, ranks):
            with self.subTest(sentence, ranks=count):
                self.assert_told(result, sentence, code)
                changed = [path for path in before.keys() | after.keys()
                           if path not in before or path not in after or before[path] != after[path]]
                self.assertEqual(changed, [], f"changed by\n{result}")

    def assert_told(self, result, sentence, code=2, seconds=SECONDS):
        self.assert_code(result, code)
        self.assertEqual(len(result.complaints), 1, str(result))
        self.assertRegex(result.complaints[0], sentence)
        self.assertRegex(result.complaints[0], REMEDY)
        # Nothing of a library's own, no second line.
        self.assertEqual(result.said, result.warnings + result.complaints, str(result))
        if result.seconds >= seconds:
            ranks = result.command[2] if result.command[0] == "mpirun" else 0
            self.assertLess(result.seconds, STARTS * program.run(["--version"], {}, ranks).seconds, str(result))

    def good_run(self, **changes):
        """GOOD with changes; two underscores stand for the dot of an option's name, None leaves it out."""
        options = {**GOOD, "data.train": self.tokens, "run.directory": self.folder / "run"}
        options.update({name.replace("__", "."): value for name, value in changes.items()})
        return {name: value for name, value in options.items() if value is not None}

    def refuse(self, sentence, command=("train",), ranks=ALONE_AND_ON_FOUR, code=2, **changes):
        self.assert_refused(sentence, self.good_run(**changes), command, ranks, code)
