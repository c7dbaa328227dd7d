"""What `export` has written, loaded by transformers and PEFT themselves: their logits are ours.

Skipped (exit 77) where they are not installed; tests/README.md says how to have them.
"""

import json
import os
import sys

import numpy as np

os.environ["HF_HUB_OFFLINE"] = "1"  # all is here; without it PEFT asks a server about the base

try:
    import torch
    import transformers
    import peft
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

import program
from export_test import LENGTH, SEVEN, ExportTest

import cases  # of tests/oracle, which program puts on the path

LIMIT = 1e-5  # of the largest logit
STORIES = program.SHARED / "models" / "stories260k"
transformers.utils.logging.disable_progress_bar()


def logits_of(model, tokens):
    with torch.no_grad():
        return model.eval()(torch.from_numpy(np.int64(tokens[None, :LENGTH]))).logits[0].float().numpy()


def load(folder, **options):
    """A model as transformers loads it, in float32 whatever the file has; every weight must be found."""
    name = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True,
                                                                    **{name: torch.float32}, **options)
    faults = {key: value for key, value in info.items() if value}
    assert not faults, f"{folder}: {faults}"
    return model


def readme_config(base, readme):
    """The base's configuration after the lines of adapter/README.md, those for the other transformers too."""
    config = transformers.AutoConfig.from_pretrained(base)
    for line in map(str.strip, readme.read_text().splitlines()):
        if line.startswith("config."):
            exec(line, {"config": config})
    return config


class HuggingFace(ExportTest):
    def compare(self, base, **options):
        """Trains a few steps, exports, and compares what is loaded with the program's own logits of the run."""
        self.train(base, **options)
        self.export(2, export__shard_size=1e-4)
        ours = self.logits(run__directory=self.folder / "run")
        self.tokens = np.load(self.folder / "held_out.npy")
        errors = {"model": self.assert_same_logits(logits_of(load(self.exported("model")), self.tokens), ours, LIMIT)}
        if self.exported("adapter").exists():
            errors["adapter"] = self.compare_adapter(base, ours)
        for dtype in ("float16", "bfloat16"):
            errors[dtype] = self.compare_16_bits(dtype)
        print(self.id().split(".")[-1], {name: f"{error:.1e}" for name, error in errors.items()}, flush=True)

    def compare_adapter(self, base, ours):
        folder = self.exported("adapter")
        model = load(base, config=readme_config(base, folder / "README.md"))
        adapted = peft.PeftModel.from_pretrained(model, folder)
        self.check_saved_again(adapted, folder)
        error = self.assert_same_logits(logits_of(adapted, self.tokens), ours, LIMIT)
        merged = logits_of(adapted.merge_and_unload(), self.tokens)
        self.assert_same_logits(merged, ours, LIMIT)
        return error

    def check_saved_again(self, adapted, folder):
        """PEFT writes the very tensors, under the same names, that it was given."""
        adapted.save_pretrained(self.folder / "again")
        found = cases.read_safetensors(self.folder / "again" / "adapter_model.safetensors")
        given = cases.read_safetensors(folder / "adapter_model.safetensors")
        self.assertEqual(found.keys(), given.keys())
        for name, value in given.items():
            np.testing.assert_array_equal(found[name], value, name)
        for key, value in json.loads((folder / "adapter_config.json").read_text()).items():
            again = json.loads((self.folder / "again" / "adapter_config.json").read_text())[key]
            if isinstance(value, list):
                again, value = set(again), set(value)
            self.assertEqual(again, value, key)

    def compare_16_bits(self, dtype):
        place = self.folder / dtype
        self.export(export__dtype=dtype, export__directory=place)
        ours = self.logits(model__path=place / "model")
        return self.assert_same_logits(logits_of(load(place / "model"), self.tokens), ours, LIMIT)

    def test_tied_interpolated(self):
        base, _ = self.base(tied=True)
        self.compare(base, rope__scaling="linear", rope__factor=8)

    def test_grouped_queries_head_dim(self):
        base, _ = self.base(width=40, kv_heads=2, head_dim=12, rope_theta=50000.0)
        self.compare(base, tune__targets=",".join(SEVEN), tune__rank=4, tune__alpha=6)

    def test_scaling_of_the_base_in_transformers_5_spelling(self):
        base, _ = self.base(kv_heads=1, stored="BF16", config_rope="rope_parameters", config_factor=4.0)
        self.compare(base)

    def test_lora_alone(self):
        base, _ = self.base(tied=True)
        self.compare(base, tune__mode="lora", rope__scaling="linear", rope__factor=2)

    def test_all_weights(self):
        base, _ = self.base(kv_heads=2)
        self.compare(base, tune__mode="full", rope__scaling="linear", rope__factor=2)

    def test_random_start(self):
        sizes = {name.replace(".", "__"): value for name, value in program.TINY.items()}
        self.compare("", tune__mode="full", model__head_dim=6, **sizes)

    def test_pretrained(self):
        if not STORIES.is_dir():
            self.skipTest(f"no {STORIES}")
        self.compare(STORIES, rope__scaling="linear", rope__factor=8)


if __name__ == "__main__":
    print(f"transformers {transformers.__version__}, peft {peft.__version__}, torch {torch.__version__}")
    program.main()
