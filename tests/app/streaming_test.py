"""Streaming: memory that does not grow with the context, traffic as the formula says (mathematics.md, section 4)."""

import program
from program import ProgramTest

FLOAT = 4

# Chunks of 4,096 tokens, whatever N is: activations outweigh all else.
WIDE = {"model.width": 128, "model.layers": 4, "model.heads": 4, "model.kv_heads": 4, "model.mlp_width": 344,
        "model.vocabulary": 256, "train.activations": "keep", "train.batch": 1}
CHUNK = 4096
GROUP = 1024


def travelling_heads(heads, kv_heads):
    """K/V heads that shifted query heads use: those that straddle a border at a multiple of G."""
    return kv_heads - (heads // 2) // (heads // kv_heads)


def border_bytes(options):
    """K and V of the last half-group before a border of two shards, in one layer."""
    heads, kv_heads = options["model.heads"], options["model.kv_heads"]
    head_dim = options.get("model.head_dim", options["model.width"] // heads)
    return 2 * (options["attention.group"] // 2) * travelling_heads(heads, kv_heads) * head_dim * FLOAT


def halo_bytes(options):
    """2 h Hkv_travelling D (P-1) [2 C L + (C-1)(L-1)] elements a sequence; T must be a multiple of G."""
    layers, chunks, ranks = options["model.layers"], options["sequence.chunks"], options["parallel.sequence"]
    exchanges = 2 * chunks * layers + (chunks - 1) * (layers - 1)
    return border_bytes(options) * (ranks - 1) * exchanges * options["train.batch"]


class Traffic(ProgramTest):
    def test_formula(self):
        for heads, kv_heads, ranks, chunks, batch in ((4, 4, 2, 1, 1), (4, 2, 4, 1, 3), (9, 3, 2, 3, 2), (3, 1, 4, 2, 1),
                                                      (6, 3, 3, 4, 2)):
            with self.subTest(heads=heads, kv_heads=kv_heads, ranks=ranks, chunks=chunks):
                length = 32 * ranks * chunks  # T = 2 G
                folder = self.folder / f"{heads}-{kv_heads}-{ranks}-{chunks}"
                options = {**program.TINY, "model.heads": heads, "model.kv_heads": kv_heads, "model.head_dim": 8,
                           "model.layers": 3, "sequence.length": length, "sequence.chunks": chunks,
                           "attention.group": 16, "parallel.sequence": ranks, "train.batch": batch, "train.steps": 2,
                           "data.train": program.write_tokens(self.folder / f"{folder.name}.npy", 4, length),
                           "run.directory": folder}
                program.train(options, ranks)
                sent = program.read_steps(folder / "log.h5")["halo_bytes"].tolist()
                self.assertEqual(sent, 2 * [halo_bytes(options)])


@program.unittest.skipIf(program.IS_SANITIZED, "a sanitizer has memory of its own")
class Memory(ProgramTest):
    def peak(self, ranks, chunks):
        length = CHUNK * chunks
        folder = self.folder / f"{ranks}-{chunks}"
        options = {**WIDE, "sequence.length": length, "sequence.chunks": chunks, "attention.group": GROUP,
                   "parallel.sequence": ranks, "train.steps": 1, "run.directory": folder,
                   "data.train": program.write_tokens(self.folder / f"{length}.npy", 1, length, WIDE["model.vocabulary"])}
        program.train(options, ranks)
        return program.read_steps(folder / "log.h5")["peak_bytes_host"].max()

    def kept_bytes(self, ranks, chunks):
        """K and V of a rank's chunk borders in every layer, and one border's dK and dV."""
        borders = -(-(chunks - 1) // ranks)
        return (borders + 1) * WIDE["model.layers"] * border_bytes({**WIDE, "attention.group": GROUP})

    def test_sixteen_chunks_cost_kept_keys_and_values_only(self):
        for ranks in (1, 2):
            with self.subTest(ranks=ranks):
                one, sixteen, kept = self.peak(ranks, 1), self.peak(ranks, 16), self.kept_bytes(ranks, 16)
                print(f"{ranks} ranks: C = 1 {one / 2**20:.1f} MiB, C = 16 {sixteen / 2**20:.1f} MiB, "
                      f"kept K/V {kept / 2**20:.1f} MiB", flush=True)
                self.assertLess(abs(sixteen - (one + kept)) / sixteen, 0.1)


if __name__ == "__main__":
    program.main()
