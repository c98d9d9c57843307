#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""fairseq2, LLMs-from-scratch, all pairs of formats: converts the reference tools' checkpoints, and compares tensor by tensor.

Run as interop_test.py is, whose fixtures, readers and skips it shares (fairseq2/CASE, llms_from_scratch/NAME.pth).
"""

import json
import math
import re
import shutil
import sys
import unittest

import numpy as np
from compare import differences, read
from interop_test import FIXTURES, PROGRAM, Case, hf, load, rope, widened
from read_book import read as read_book
from read_fairseq2 import card_of, files_of, value
from read_fairseq2 import read as read_fairseq2
from read_hf import read as read_hf
from read_torch import load as load_torch
from read_torch import read as read_torch

EXPORTED = ("-to-meta", "-export")  # what fairseq2's own converters made of other cases
FAIRSEQ2 = sorted(p.name for p in (FIXTURES / "fairseq2").iterdir() if p.is_dir() and not p.name.endswith(EXPORTED))
BOOK = sorted(p.stem for p in (FIXTURES / "llms_from_scratch").glob("*.pth"))
BASES = {path.name for path in (FIXTURES / "hf").iterdir()}
EMBEDDINGS = ("model.embed_tokens.weight", "transformer.wte.weight")


def base_of(case):
    """The base that a case converts: the longest beginning of its name that is one."""
    return hf(max((base for base in BASES if case == base or case.startswith(base + "-")), key=len))


def fairseq2(case):
    return FIXTURES / "fairseq2" / case


def book(case):
    return FIXTURES / "llms_from_scratch" / f"{case}.pth"


def untied(tensors):
    """The same tensors without a head that repeats the embedding."""
    embedding = next(tensors[name] for name in EMBEDDINGS if name in tensors)
    return {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight" or tensor != embedding}


def sharing(path):
    """Names in order, each with the first one that has its bytes."""
    tensors, _ = load_torch(path)
    first = {}
    return [(name, first.setdefault((t.storage[1], t.offset), name)) for name, t in tensors.items()]


def rows_divide(case, tp):
    config = load(hf(case) / "config.json")
    return config["vocab_size"] % tp == 0 and config["num_key_value_heads"] % tp == 0


class Fairseq2(Case):
    def assert_same_files(self, out, reference):
        ours, theirs = files_of(out), files_of(reference)
        self.assertEqual(sorted(ours), sorted(theirs))
        for cell, path in theirs.items():
            self.assertEqual(ours[cell].name, path.name)
            self.assertEqual(sharing(ours[cell]), sharing(path), cell)
            self.assertEqual(differences(read_torch(ours[cell]), read_torch(path)), [], cell)

    def topology(self, case):
        """Options that make the case of its base."""
        cells = files_of(fairseq2(case))
        options = ["--tp", 1 + max(tp for tp, _ in cells), "--dp", 1 + max(dp for _, dp in cells)]
        return options + (["--format-version", "0.4"] if "v046" in case else []) + (["--dtype", "fp32"] if "f32" in case else [])

    def test_readers_find_the_base(self):
        for case in FAIRSEQ2:
            with self.subTest(case):
                self.assert_same(widened(untied(read_fairseq2(fairseq2(case)))), widened(untied(read_hf(base_of(case)))))

    def test_equals_what_fairseq2_wrote(self):
        for number, case in enumerate(FAIRSEQ2):
            with self.subTest(case):
                out = self.convert(base_of(case), case, "--to", "fairseq2", *self.topology(case), ranks=1 + number % 3)
                self.assert_same_files(out, fairseq2(case))
                ours, theirs = ((card_of(p)).read_text().split() for p in (out, fairseq2(case)))
                if value(card_of(out).read_text(), "model_family") == "llama":
                    # The size of the layers is the same by other factors.
                    factors = re.compile(r"ffn_inner_dim\w*:")
                    ours, theirs = ([w for w, before in zip(words, ["", *words]) if not factors.match(before)] for words in (ours, theirs))
                self.assertEqual(ours, theirs)
                if (fairseq2(case) / "cc").exists():
                    self.assertEqual((out / "cc/config.json").read_bytes(), (fairseq2(case) / "cc/config.json").read_bytes())
                self.run_program([PROGRAM, "verify", out, "--against", base_of(case)])

    def test_equals_the_base(self):
        for number, case in enumerate(FAIRSEQ2):
            with self.subTest(case):
                out = self.convert(fairseq2(case), case, "--to", "hf", "--dtype", "bf16", ranks=1 + number % 3)
                self.assert_same(untied(read_hf(out)), untied(read_hf(base_of(case))))
                ours, expected = load(out / "config.json"), load(base_of(case) / "config.json")
                self.assertEqual(rope(ours), rope(expected))
                keys = ["model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"]
                keys += ["head_dim"] if "head_dim" in expected else []
                keys += ["max_position_embeddings", "tie_word_embeddings", "vocab_size", "hidden_act"]
                self.assertEqual({key: ours.get(key) for key in keys}, {key: expected.get(key) for key in keys})
                self.assertEqual(ours["rms_norm_eps"], 1e-6 if ours["model_type"].startswith("qwen") else 1e-5)

    def test_exports_of_fairseq2_itself(self):
        """What its hg_export writes, in one step; weights as they are, not widened."""
        case = fairseq2("llama-gqa-tp1-export")
        if not case.exists():
            self.skipTest("only with all fixtures")
        out = self.convert(fairseq2("llama-gqa-tp1"), "out", "--to", "hf", "--dtype", "fp32")
        self.assert_same(read_hf(out), read_hf(case))
        ours, theirs = load(out / "config.json"), load(case / "config.json")
        # Its special tokens lie beyond the vocabulary of this model.
        same = set(theirs) - {"bos_token_id", "eos_token_id"} - {
            "transformers_version", "attention_bias", "attention_dropout", "initializer_range", "mlp_bias", "pretraining_tp", "use_cache",
        }  # fmt: skip
        self.assertEqual({key: ours.get(key) for key in same}, {key: theirs[key] for key in same})

    def test_to_meta_as_fairseq2_does(self):
        """What `llama convert_checkpoint` and `write_hf_config` of 0.4.6 write, keeping the cut of the embedding (by columns)."""
        for reference in sorted((FIXTURES / "fairseq2").glob("*-to-meta")):
            with self.subTest(reference.name):
                source = reference.name.removesuffix("-to-meta")
                options = ["--tp", len(files_of(fairseq2(source))), "--params-style", "fairseq2", "--format-version", "2"]
                out = self.convert(fairseq2(source), source, "--to", "meta", *options, ranks=2)
                for side_file in ("params.json", "config.json"):
                    self.assertEqual((out / side_file).read_bytes(), (reference / side_file).read_bytes(), side_file)
                for path in sorted(reference.glob("*.pth")):
                    ours = {name: tensor for name, tensor in read_torch(out / path.name).items() if name != "rope.freqs"}
                    self.assert_same(ours, read_torch(path))
                back = self.convert(reference, f"{source}-back", "--to", "fairseq2", "--config-from", base_of(source))
                self.assert_same(read_fairseq2(back), read_fairseq2(fairseq2(source)))

    def test_from_topology_to_topology(self):
        for case in FAIRSEQ2:
            for tp, dp in ((1, 1), (2, 1), (2, 3), (4, 2), (1, 5), (1, 70)):
                if tp > 1 and ("tied" in case or "qwen2" in case or not rows_divide(base_of(case).name, tp)):
                    continue
                with self.subTest(case, tp=tp, dp=dp):
                    options = ["--to", "fairseq2", "--tp", tp, "--dp", dp]
                    out = self.convert(fairseq2(case), f"{case}-{tp}-{dp}", *options, ranks=1 + (tp + dp) % 3)
                    self.assert_same(read_fairseq2(out), read_fairseq2(fairseq2(case)))
                    one = self.convert(fairseq2(case), f"{case}-{tp}-{dp}-one", *options)
                    for cell, path in files_of(one).items():
                        self.assertEqual(path.read_bytes(), files_of(out)[cell].read_bytes())
                    if "v046" not in case:
                        self.assertEqual(card_of(out).read_text().split(), card_of(fairseq2(case)).read_text().split())
                    rows = read_torch(files_of(out)[0, 0])["decoder.layer_norm.weight"][1][0]
                    self.assertEqual(rows, math.ceil(load(base_of(case) / "config.json")["hidden_size"] / dp))

    def test_model_by_name(self):
        done = self.run_program([PROGRAM, "list", "models", "--json"])
        names = {re.sub("[-.]", "", model["name"]) for model in json.loads(done.stdout)["models"]}
        for arch in ("llama2_7b", "llama3_2_1b", "qwen25_1_5b", "qwen3_0.6b", "mistral_7b"):
            self.assertIn(re.sub("[_.]", "", arch), names)
        case = FAIRSEQ2[0]
        copy = self.work / "copy"
        shutil.copytree(fairseq2(case), copy)
        card_of(copy).unlink()
        done = self.run_program([PROGRAM, "convert", copy, self.work / "out", "--to", "hf"], status=3)
        self.assertIn("--model", done.stderr)
        done = self.run_program([PROGRAM, "convert", copy, self.work / "out", "--to", "hf", "--model", "llama2_7b"], status=3)
        self.assertIn("does not hold what --model llama2_7b says", done.stderr)
        out = self.convert(copy, "out", "--to", "hf", "--config-from", base_of(case), "--dtype", "bf16")
        self.assert_same(untied(read_hf(out)), untied(read_hf(base_of(case))))


class LlmsFromScratch(Case):
    CLASSES = {"llama-mha-llama2nb": "llama2"}

    def options(self, case):
        version = ["--format-version", self.CLASSES[case]] if case in self.CLASSES else []
        return version + (["--dtype", "fp32"] if case == "gpt2" else [])

    def test_readers_find_the_base(self):
        for case in BOOK:
            with self.subTest(case):
                self.assert_same(widened(untied(read_book(book(case)))), widened(untied(read_hf(base_of(case)))))

    def test_equals_what_the_book_wrote(self):
        for number, case in enumerate(BOOK):
            with self.subTest(case):
                out = self.convert(base_of(case), case, "--to", "llms_from_scratch", *self.options(case), ranks=1 + number % 3)
                self.assertEqual(sharing(out / "model.pth"), sharing(book(case)))
                ours, theirs = read_torch(out / "model.pth"), read_torch(book(case))
                for name in [name for name in theirs if name.endswith((".cos", ".sin"))]:
                    # torch's own cosine is not rounded correctly; which way depends on its vector code.
                    a, b = (np.frombuffer(t.pop(name)[2], np.int32).astype(np.int64) for t in (ours, theirs))
                    self.assertLessEqual(np.abs(a - b).max(), 1, name)
                self.assert_same(ours, theirs)
                expected = {**load(book(case).with_suffix(".json")), **({"drop_rate": 0.1} if case == "gpt2" else {})}
                self.assertEqual(load(out / "model.json"), expected)
                self.run_program([PROGRAM, "verify", out, "--against", base_of(case)])

    def test_equals_the_base(self):
        for number, case in enumerate(BOOK):
            with self.subTest(case):
                out = self.convert(book(case), case, "--to", "hf", "--dtype", "bf16", ranks=1 + number % 3)
                self.assert_same(read_hf(out), read_hf(base_of(case)))
                ours, expected = load(out / "config.json"), load(base_of(case) / "config.json")
                lost = {"rms_norm_eps", "bos_token_id", "eos_token_id", "norm_topk_prob"}  # and what the book never says
                shared = ours.keys() & expected.keys() - lost
                self.assertEqual({key: ours[key] for key in shared}, {**{key: expected[key] for key in shared}, **self.dropout(ours)})
                self.assertGreater(len(shared), 8)

    @staticmethod
    def dropout(config):
        return {key: value for key, value in config.items() if key.endswith("_pdrop")}

    def test_fused_attention(self):
        out = self.convert(hf("gpt2"), "fast", "--to", "llms_from_scratch", "--format-version", "gpt2-fast")
        names = [name for name, _ in sharing(out / "model.pth")]
        self.assertEqual(names[:4], ["tok_emb.weight", "pos_emb.weight", "trf_blocks.0.att.qkv.weight", "trf_blocks.0.att.qkv.bias"])
        self.assert_same(untied(read_book(out / "model.pth")), untied(read_hf(hf("gpt2"))))
        self.assert_same(untied(read_hf(self.convert(out, "back", "--to", "hf"))), untied(read_hf(hf("gpt2"))))

    def test_no_biases_of_q_k_and_v(self):
        """As in the book's own GPT_CONFIG_124M. Hugging Face's class has them in any case: zeros."""
        (self.work / "config.json").write_text(json.dumps({**load(hf("gpt2") / "config.json"), "qkv_bias": False}))
        for version in ("gpt2", "gpt2-fast"):
            with self.subTest(version):
                options = ["--to", "llms_from_scratch", "--format-version", version]
                out = self.convert(f"synthetic:{self.work / 'config.json'}", version, *options)
                names = [name for name, _ in sharing(out / "model.pth")]
                self.assertEqual([name for name in names if re.search(r"att\.(W_\w+|qkv)\.bias", name)], [])
                archive = self.convert(out, f"{version}.h5", "--to", "hdf5", ranks=2)
                again = self.convert(archive, f"{version}-again", *options)
                for name in ("model.pth", "model.json"):
                    self.assertEqual((again / name).read_bytes(), (out / name).read_bytes())
                back = self.convert(archive, f"{version}-hf", "--to", "hf", ranks=3)
                tensors = untied(read_hf(back))
                biases = [tensors.pop(f"transformer.h.{layer}.attn.c_attn.bias") for layer in range(2)]
                self.assertEqual(biases, [("BF16", (144,), bytes(2 * 144))] * 2)
                self.assert_same(tensors, untied(read_book(out / "model.pth")))
                self.run_program([PROGRAM, "verify", back, "--against", out])

    def test_another_architecture_is_refused(self):
        for base, version, reason in (("gpt2", "llama3", "gpt2 and gpt2-fast"), ("llama-gqa", "gpt2", "llama3 and llama2")):
            done = self.run_program(
                [PROGRAM, "convert", hf(base), self.work / "out", "--to", "llms_from_scratch", "--format-version", version], status=2
            )
            self.assertIn(reason, done.stderr)
            self.assertIn("architecture", done.stderr)
        self.assertFalse((self.work / "out").exists())

    def test_between_both(self):
        """fairseq2 keeps pairs where the book keeps halves."""
        for case in [case for case in FAIRSEQ2 if "llama" in case][:3]:
            with self.subTest(case):
                out = self.convert(fairseq2(case), case, "--to", "llms_from_scratch", ranks=2)
                back = self.convert(out, f"{case}-back", "--to", "fairseq2", ranks=3)
                self.assert_same(read_fairseq2(back), read_fairseq2(fairseq2(case)))


class Pairs(Case):
    """From each format to each, at topologies of their own: the tensors that the base has."""

    TARGETS = {
        "hf": ["--max-shard-size", "100KB"], "hf_bin": [], "hdf5": [], "meta": ["--tp", 2], "nanotron": ["--tp", 2, "--pp", 2],
        "fairseq2": ["--tp", 2, "--dp", 3], "llms_from_scratch": [],
    }  # fmt: skip

    # Models of the other families.
    SIZES = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 16, "vocab_size": 66, "tie_word_embeddings": False, "dtype": "bfloat16",
    }  # fmt: skip
    EXPERTS = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
    FAMILIES = {
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16, "vocab_size": 66, "dtype": "bfloat16"},
        "mistral": SIZES,
        "mixtral": {**SIZES, "num_local_experts": 3},
        "qwen2": SIZES,
        "qwen2_moe": {**SIZES, **EXPERTS, "shared_expert_intermediate_size": 20, "mlp_only_layers": [0]},
        "qwen3": {**SIZES, "head_dim": 16},
        "qwen3_moe": {**SIZES, **EXPERTS, "head_dim": 16},
    }
    NO_TENSOR_PARALLELISM = {("mistral", "fairseq2")}

    def target(self, src, name, to, ranks=1, family="llama"):
        options = ["--dp", 3] if (family, to) in self.NO_TENSOR_PARALLELISM else self.TARGETS[to]
        return self.convert(src, f"{name}.h5" if to == "hdf5" else name, "--to", to, *options, ranks=ranks)

    def test_every_pair(self):
        base = hf("llama-mha-v256")
        expected, number = read(base), 0
        for first in self.TARGETS:
            source = self.target(base, first, first, 2)
            for second in self.TARGETS:
                with self.subTest(f"{first} -> {second}"):
                    number += 1
                    out = self.target(source, f"{first}-{second}", second, 1 + number % 3)
                    self.assert_same(read(out), expected)
                    self.run_program([PROGRAM, "diff", out, base])

    def as_held(self, tensors, *formats):
        """Nanotron has its routers in fp32, the book's Qwen3Model its norms."""
        wide = [("nanotron", "mlp.gate.weight"), ("llms_from_scratch", "norm.weight")]
        endings = tuple(ending for name, ending in wide if name in formats)
        return {**tensors, **widened({name: tensor for name, tensor in tensors.items() if name.endswith(endings)})}

    def test_every_pair_of_the_other_families(self):
        """As `list formats` says: what a format holds comes from every other one, what it does not hold is refused."""
        formats = json.loads(self.run_program([PROGRAM, "list", "formats", "--json"]).stdout)["formats"]
        cells = {(cell["family"], form["name"]): cell for form in formats for cell in form["families"]}
        self.assertEqual({name for _, name in cells}, set(self.TARGETS))
        self.assertEqual({family for family, _ in cells}, {*self.FAMILIES, "llama", "generic"})
        for family, config in self.FAMILIES.items():
            (self.work / f"{family}.json").write_text(json.dumps({"model_type": family, **config}))
            base = self.convert(f"synthetic:{self.work / family}.json", family, "--to", "hf")
            expected, sources = read(base), {}
            for first in sorted(self.TARGETS.keys() - {"hf"}):
                with self.subTest(family, target=first):
                    if cells[family, first]["holds"]:
                        sources[first] = self.target(base, f"{family}-{first}", first, family=family)
                        self.assert_same(read(sources[first]), self.as_held(expected, first))
                    else:
                        done = self.run_program([PROGRAM, "convert", base, self.work / "none", "--to", first], status=2)
                        self.assertIn(cells[family, first]["reason"], done.stderr)
                        self.assertFalse((self.work / "none").exists())
            for first, source in sources.items():
                for second in sources.keys() - {first}:
                    with self.subTest(f"{family}: {first} -> {second}"):
                        out = self.target(source, f"{family}-{first}-{second}", second, family=family)
                        self.assert_same(read(out), self.as_held(expected, first, second))


if __name__ == "__main__":
    sys.exit(not unittest.main(exit=False, verbosity=1).result.wasSuccessful())
