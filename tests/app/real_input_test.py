"""The real thing in small: a pretrained LLaMA, text of books, prepare, train, evaluate, report."""

import sys

import h5py

import program
from program import ProgramTest

MODEL = program.SHARED / "models" / "stories260k"
BOOKS = program.SHARED / "books"
TRAINING = BOOKS / "train" / "pg120-treasure-island.txt"
VALIDATION = BOOKS / "val" / "pg1232-the-prince.txt"


def missing():
    return next((path for path in (MODEL / "model.safetensors", TRAINING, VALIDATION) if not path.is_file()), None)


class RealInput(ProgramTest):
    def prepare(self, book, characters):
        text = self.folder / book.name
        text.write_text(book.read_text()[:characters])
        tokens = self.folder / f"{book.stem}.h5"
        result = program.run(["prepare"], {"prepare.input": text, "prepare.output": tokens, "model.path": MODEL}, 2)
        self.assert_code(result, 0)
        with h5py.File(tokens, "r") as file:
            self.assertGreater(len(file["tokens"]), characters // 4)
            self.assertLess(file["tokens"][:].max(), 512)
            self.assertEqual((file["tokens"][0], file["tokens"][-1]), (1, 2))  # BOS ... EOS
        return tokens

    def test_prepare_train_evaluate_report(self):
        folder = self.folder / "run"
        options = {"model.path": MODEL, "data.train": self.prepare(TRAINING, 100_000),
                   "data.validation": self.prepare(VALIDATION, 20_000), "rope.scaling": "linear", "rope.factor": 8,
                   "sequence.length": 1024, "train.batch": 3, "train.steps": 2, "train.learning_rate": 1e-3,
                   "train.warmup_steps": 1, "evaluate.contexts": "512,1024", "evaluate.tokens": 2048,
                   "parallel.sequence": 2, "run.directory": folder}
        result = program.train(options, 4)
        self.assertIn("2 data x 2 sequence", result.out)
        self.check_evaluations(program.read_evaluations(folder / "log.h5"))
        self.check_evaluate(folder, options["data.validation"])
        report = program.run(["report"], {"run.directory": folder}, 2)
        self.assert_code(report, 0)
        for words in ("2 data x 2 sequence", "interpolated", "trained", "perplexity", "halo_bytes"):
            self.assertIn(words, report.out)

    def count_evaluations(self, folder):
        with h5py.File(folder / "log.h5", "r") as file:
            return len(file["evaluations/step"])

    def check_evaluations(self, found):
        """A model made for stories, on a book: some tens of perplexity. Positions it has never seen cost, and two
        steps mend a part of it."""
        self.assertTrue(20 < found[("base", 512)] < 120, found)
        for context in (512, 1024):
            self.assertGreater(found[("interpolated", context)], found[("base", 512)])
            self.assertLess(found[("trained", context)], found[("interpolated", context)])

    def check_evaluate(self, folder, validation):
        """The command finds base, physics and options in the checkpoint, and agrees on another number of ranks."""
        found = program.read_evaluations(folder / "log.h5")
        rows = self.count_evaluations(folder)
        self.assert_code(program.run(["evaluate"], {"run.directory": folder}, 3), 0)
        self.assertEqual(self.count_evaluations(folder), rows + 2)
        for key, value in program.read_evaluations(folder / "log.h5").items():
            self.assert_close(value, found[key], 1e-5, f"perplexity of {key}")
        base = program.run(["evaluate"], {"model.path": MODEL, "data.validation": validation, "evaluate.contexts": 512,
                                          "evaluate.tokens": 2048, "run.directory": self.folder / "none"}, 2)
        self.assert_code(base, 0)
        self.assertIn(f"{found[('base', 512)]:.6g}", base.out)


if __name__ == "__main__":
    if missing():
        print(f"skipped: no {missing()}")
        sys.exit(77)
    program.main()
