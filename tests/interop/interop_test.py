#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Converts the reference tools' checkpoints with the program, and checks its output with readers of its own.

interop_test.py [Class[.test] ...]: RESHARD_PROGRAM names the program; RESHARD_FIXTURES a folder with hf/CASE and
nanotron/CASE (by default the one of this file). Exit status 77, with the reason, where a Python package is missing.
"""

import json
import math
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

try:
    import numpy as np
    import safetensors
    from read_hdf5 import read_files
except ImportError as error:
    print(f"skipped: {error}; tests/install/deps.sh --tests installs it, -DRESHARD_PYTHON names the interpreter")
    sys.exit(77)

from compare import VOCABULARY, differences, first_rows, read
from read_hf import read_safetensors
from read_torch import load as load_torch
from read_torch import read as read_torch

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FIXTURES = pathlib.Path(os.environ.get("RESHARD_FIXTURES") or HERE)
PROGRAM = os.environ.get("RESHARD_PROGRAM", "reshard")
for variable in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "OMPI_MCA_rmaps_base_oversubscribe", "OMPI_MCA_mpi_yield_when_idle"):
    os.environ.setdefault(variable, "1")
BROKEN = {"llama-tied-no-head"}  # refused: neither tied nor with a head
HF = sorted(p.name for p in (FIXTURES / "hf").iterdir() if list(p.glob("*.safetensors")) and p.name not in BROKEN)
HF_BIN = sorted(p.name for p in (FIXTURES / "hf").iterdir() if list(p.glob("*.bin")))
META = sorted(p.name for p in (FIXTURES / "meta").iterdir() if p.is_dir())
NANOTRON = sorted(p.name for p in (FIXTURES / "nanotron").iterdir() if p.is_dir())
IN_NANOTRON = ("llama", "qwen2")  # model types of the cases that Nanotron can hold (mistral has a head_dim of its own)


def hf(case):
    return FIXTURES / "hf" / case


def nanotron(case):
    """The checkpoint itself: a training run's folder holds one numbered folder."""
    folder = FIXTURES / "nanotron" / case
    latest = folder / "latest.txt"
    return folder / latest.read_text() if latest.exists() else folder


def meta(case):
    return FIXTURES / "meta" / case


def base_of_meta(case):
    return hf(case.split("-mp")[0])


def base_of_bin(case):
    return hf(case.split("-bin")[0])


def base_of(case):
    return next(base for base in ("llama-gqa", "llama-mha", "llama-tied", "qwen2") if case.removeprefix("train-").startswith(base))


def load(path):
    return json.loads(path.read_text())


def shape_of(case):
    """(tp, pp, vocabulary, file version) as the files of a Nanotron case say."""
    names = [path.name for path in nanotron(case).glob("model/**/*.safetensors")]
    pp, tp = map(int, next(filter(None, (re.search(r"pp-rank-\d+-of-(\d+)_tp-rank-\d+-of-(\d+)", n) for n in names))).groups())
    embedding = next(path for path in nanotron(case).glob("model/**/token_embedding/*.safetensors"))
    return tp, pp, load(nanotron(case) / "model_config.json")["vocab_size"], read_safetensors(embedding)[1]["version"]


def files_below(folder):
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


def widened(tensors):
    """The same tensors with bf16 values as f32."""
    out = {}
    for name, (dtype, shape, data) in tensors.items():
        if dtype == "BF16":
            dtype, data = "F32", (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).tobytes()
        out[name] = (dtype, shape, data)
    return out


def rope(config):
    """Rotary parameters of a config.json in either spelling, as one dictionary."""
    found = config.get("rope_parameters") or {"rope_theta": config.get("rope_theta", 10000.0), **(config.get("rope_scaling") or {})}
    return {**found, "rope_type": found.get("rope_type", found.get("type", "default"))}


class Case(unittest.TestCase):
    def setUp(self):
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="reshard-interop-"))
        self.addCleanup(shutil.rmtree, self.work)

    def run_program(self, command, status=0, **environment):
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False,
                              env={**os.environ, **environment})  # fmt: skip
        self.assertEqual(done.returncode, status, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
        return done

    def convert(self, src, name, *options, ranks=1):
        """Converts into a new path of the test's folder, and returns it."""
        launcher = ["mpirun", "-n", ranks] if ranks > 1 else []
        self.run_program([*launcher, PROGRAM, "convert", src, self.work / name, *options])
        return self.work / name

    def assert_same(self, a, b):
        self.assertEqual(differences(a, b), [])

    def assert_loads(self, folder):
        """The safetensors package reads each file, and finds what our own reader finds."""
        for path in folder.rglob("*.safetensors"):
            found = {name: (t["dtype"], tuple(t["shape"]), bytes(t["data"])) for name, t in safetensors.deserialize(path.read_bytes())}
            self.assert_same(found, read_safetensors(path)[0])


class Readers(Case):
    """The readers, on the reference files alone."""

    def test_nanotron_cases_hold_their_base(self):
        for case in NANOTRON:
            with self.subTest(case):
                base = read(hf(base_of(case)))
                self.assert_same(first_rows(read(FIXTURES / "nanotron" / case), base[VOCABULARY[0]][1][0]), base)

    def test_meta_cases_hold_their_base(self):
        for case in META:
            with self.subTest(case):
                self.assert_same(read(meta(case)), read(base_of_meta(case)))

    def test_bin_cases_hold_their_base(self):
        for case in HF_BIN:
            with self.subTest(case):
                self.assert_same(read(hf(case)), read(base_of_bin(case)))

    def test_sharded_holds_its_base(self):
        self.assert_same(read(hf("llama-gqa-sharded")), read(hf("llama-gqa")))

    def test_a_difference_is_found(self):
        base = read(hf("llama-gqa"))
        name = "model.layers.1.self_attn.q_proj.weight"
        dtype, shape, data = base[name]
        self.assertEqual(differences(base, {**base, name: (dtype, shape, data[2:] + data[:2])}), [f"{name}: values differ"])


class HfToNanotron(Case):
    def assert_same_file(self, path, reference, rows):
        (ours, about), (theirs, expected) = read_safetensors(path), read_safetensors(reference)
        normalised = {key: re.sub(r"np\.int64\((\d+)\)", r"\1", text) for key, text in expected.items()}
        self.assertEqual(about, normalised, path)
        ((dtype, shape, data),), ((want_dtype, want_shape, want),) = ours.values(), theirs.values()
        self.assertEqual((list(ours), dtype, shape), (["data"], want_dtype, want_shape), path)
        if "token_embedding" in str(path) or "lm_head" in str(path):
            begin = re.search(r"#(\d+),", about["local_global_slices_pairs"])
            real = max(0, min(shape[0], rows - (int(begin[1]) if begin else 0))) * len(data) // shape[0]
            data, want = data[:real], want[:real]
        self.assertEqual(data, want, path)

    def test_equals_what_nanotron_wrote(self):
        for number, case in enumerate(case for case in NANOTRON if shape_of(case)[3] == "1.5"):
            with self.subTest(case):
                tp, pp, vocabulary, version = shape_of(case)
                rows = load(hf(base_of(case)) / "config.json")["vocab_size"]
                multiple = next(m for m in range(1, vocabulary + 1) if math.ceil(rows / (m * tp)) * m * tp == vocabulary)
                out = self.convert(hf(base_of(case)), case, "--to", "nanotron", "--tp", tp, "--pp", pp, "--vocab-multiple", multiple,
                                   "--format-version", version, ranks=1 + number % 3)  # fmt: skip
                ours, theirs = files_below(out / "model"), files_below(nanotron(case) / "model")
                self.assertEqual(sorted(ours), sorted(theirs))
                for name in ours:
                    self.assert_same_file(ours[name], theirs[name], rows)
                config, expected = load(out / "model_config.json"), load(nanotron(case) / "model_config.json")
                shared = {key for key in config.keys() & expected.keys() if not key.startswith("is_")}
                self.assertEqual({key: config[key] for key in shared}, {key: expected[key] for key in shared})
                self.assertGreater(len(shared), 15)
                self.assert_loads(out)

    def test_reader_rebuilds_the_source(self):
        for case in HF:
            if load(hf(case) / "config.json")["model_type"] in IN_NANOTRON:
                with self.subTest(case):
                    source = read(hf(case))
                    out = self.convert(hf(case), case, "--to", "nanotron", "--tp", 2, "--pp", 2, ranks=2)
                    self.assert_same(first_rows(read(out), source[VOCABULARY[0]][1][0]), source)

    def test_mixture_of_experts(self):
        config = {
            "model_type": "qwen2_moe", "architectures": ["Qwen2MoeForCausalLM"], "dtype": "bfloat16", "hidden_size": 32,
            "intermediate_size": 48, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 40, "num_experts": 4,
            "num_experts_per_tok": 2, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "vocab_size": 66, "tie_word_embeddings": False, "mlp_only_layers": [], "decoder_sparse_step": 1,
        }  # fmt: skip
        (self.work / "config.json").write_text(json.dumps(config))
        source = self.convert(f"synthetic:{self.work / 'config.json'}", "hf", "--to", "hf")
        out = self.convert(source, "nanotron", "--to", "nanotron", "--tp", 2, ranks=2)
        tensors = read(out)
        self.assertEqual({dtype for name, (dtype, _, _) in tensors.items() if name.endswith("mlp.gate.weight")}, {"F32"})
        self.assert_same(widened(tensors), widened(read(source)))
        self.assert_same(widened(read(self.convert(out, "back", "--to", "hf"))), widened(read(source)))

    def test_families_that_nanotron_cannot_hold(self):
        for case in HF:
            if load(hf(case) / "config.json")["model_type"] not in IN_NANOTRON:
                with self.subTest(case):
                    self.run_program([PROGRAM, "convert", hf(case), self.work / case, "--to", "nanotron"], status=2)
                    self.assertFalse((self.work / case).exists())


class NanotronToHf(Case):
    def assert_equals_base(self, out, base):
        self.assert_same(read(out), read(base))
        ours, expected = load(out / "config.json"), load(base / "config.json")
        keys = (
            "model_type", "hidden_act", "hidden_size", "initializer_range", "intermediate_size", "max_position_embeddings",
            "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "rms_norm_eps", "tie_word_embeddings", "vocab_size",
        )  # fmt: skip
        self.assertEqual({key: ours.get(key) for key in keys}, {key: expected[key] for key in keys})
        self.assertEqual(rope(ours), rope(expected))
        self.assertEqual(ours["torch_dtype"], expected["dtype"])

    def test_equals_the_base(self):
        for number, case in enumerate(NANOTRON):
            with self.subTest(case):
                base = hf(base_of(case))
                options = ["--vocab-size", load(base / "config.json")["vocab_size"]] if shape_of(case)[2] != 259 else []
                out = self.convert(FIXTURES / "nanotron" / case, case, "--to", "hf", *options, ranks=1 + number % 3)
                self.assert_equals_base(out, base)
                self.assert_loads(out)

    def test_run_folder(self):
        run = self.work / "run"
        for step, case in (("900", "llama-mha-pp2"), ("1000", "llama-tied-tp2-pp2")):
            shutil.copytree(nanotron(case), run / step)
        (run / "latest.txt").write_text("1000")
        self.assert_equals_base(self.convert(run, "latest", "--to", "hf", "--vocab-size", 259), hf("llama-tied"))
        self.assert_equals_base(self.convert(run, "earlier", "--to", "hf", "--step", 900), hf("llama-mha"))

    def assert_equals_direct(self, out, base, rows, *mesh):
        """The tensors of the base, in the very files that the base itself becomes."""
        self.assert_same(first_rows(read(out), rows), read(base))
        direct = self.convert(base, f"{out.name}-direct", "--to", "nanotron", *mesh)
        ours, theirs = ({name: path.read_bytes() for name, path in files_below(folder / "model").items()} for folder in (out, direct))
        self.assertEqual(sorted(ours), sorted(theirs))
        self.assertEqual([name for name in ours if ours[name] != theirs[name]], [])

    def test_to_another_topology(self):
        """Stages that do not nest, both rotary orders, old versions: no Hugging Face files between."""
        for number, (case, tp, pp) in enumerate((
            ("llama-gqa-tp4", 1, 3), ("llama-gqa-tp2-pp2", 4, 3), ("llama-gqa-tp2-interleaved", 4, 2), ("llama-tied-pp2-v1.2", 4, 1),
            ("llama-mha-tp2-badnames", 8, 1), ("llama-mha-tp2-numpy2", 1, 2),
        )):  # fmt: skip
            with self.subTest(case, tp=tp, pp=pp):
                mesh = ["--tp", tp, "--pp", pp]
                out = self.convert(nanotron(case), case, "--to", "nanotron", "--vocab-size", 259, *mesh, ranks=1 + number % 2)
                self.assert_equals_direct(out, hf(base_of(case)), 259, *mesh)
        done = self.run_program([PROGRAM, "convert", nanotron("llama-gqa-tp4"), self.work / "none", "--to", "nanotron", "--tp", 3], status=2)
        self.assertIn("num_key_value_heads", done.stderr)

    def test_sizes_that_do_not_divide_each_other(self):
        """12 heads are cut by 4, 3 and 6; the vocabulary is padded anew each time."""
        (self.work / "config.json").write_text(json.dumps({
            **load(hf("llama-mha") / "config.json"), "hidden_size": 96, "intermediate_size": 60, "num_attention_heads": 12,
            "num_key_value_heads": 12, "num_hidden_layers": 3, "head_dim": 8,
        }))  # fmt: skip
        base = self.convert(f"synthetic:{self.work / 'config.json'}", "hf", "--to", "hf")
        source = base
        for tp, pp in ((4, 2), (3, 3), (4, 1), (6, 2), (1, 3)):
            with self.subTest(tp=tp, pp=pp):
                mesh = ["--tp", tp, "--pp", pp]
                source = self.convert(source, f"{tp}-{pp}", "--to", "nanotron", "--vocab-size", 259, *mesh)
                self.assert_equals_direct(source, base, 259, *mesh)


class HfToHf(Case):
    def test_one_file_is_the_very_file(self):
        for case in HF:
            if (hf(case) / "model.safetensors").exists():
                with self.subTest(case):
                    out = self.convert(hf(case), case, "--to", "hf", ranks=2)
                    self.assert_same(read(out), read(hf(case)))
                    self.assertEqual((out / "model.safetensors").read_bytes(), (hf(case) / "model.safetensors").read_bytes())
                    carried = "generation_config.json"
                    self.assertEqual((out / carried).read_bytes(), (hf(case) / carried).read_bytes())
                    self.assert_loads(out)

    def test_shards_are_those_of_transformers(self):
        for case in ("llama-gqa", "llama-gqa-sharded"):
            with self.subTest(case):
                out = self.convert(hf(case), case, "--to", "hf", "--max-shard-size", "100KB", ranks=2)
                expected = hf("llama-gqa-sharded")
                self.assertEqual(sorted(p.name for p in out.glob("model*")), sorted(p.name for p in expected.glob("model*")))
                for path in expected.glob("model*"):
                    self.assertEqual((out / path.name).read_bytes(), path.read_bytes(), path.name)

    def test_shards_into_one(self):
        out = self.convert(hf("llama-gqa-sharded"), "one", "--to", "hf")
        self.assertEqual((out / "model.safetensors").read_bytes(), (hf("llama-gqa") / "model.safetensors").read_bytes())

    def test_other_shard_sizes(self):
        for case in HF:
            with self.subTest(case):
                out = self.convert(hf(case), case, "--to", "hf", "--max-shard-size", "150KB", ranks=3)
                self.assert_same(read(out), read(hf(case)))
                self.assert_loads(out)

    def test_config_says_all_that_the_source_said(self):
        for case in HF:
            with self.subTest(case):
                ours, source = load(self.convert(hf(case), case, "--to", "hf") / "config.json"), load(hf(case) / "config.json")
                changed = {"transformers_version", "rope_parameters"}
                self.assertEqual({k: v for k, v in source.items() if k not in changed and ours.get(k) != v}, {})
                if source["model_type"] != "gpt2":
                    self.assertEqual(rope(ours), rope(source))
                    self.assertEqual(rope({k: v for k, v in ours.items() if k != "rope_parameters"}), rope(source))

    def test_fp8_is_copied(self):
        """Bytes are never cast, also by --dtype; scales of unknown names are carried."""
        base, header, data = read(hf("llama-mha")), {}, b""
        expected = dict(base)
        for name, (_, shape, _) in base.items():
            if name.endswith("_proj.weight"):
                expected[name] = ("F8_E4M3", shape, (bytes(range(256)) * math.prod(shape))[: math.prod(shape)])
                expected[f"{name}_scale_inv"] = ("F32", (1, 1), struct.pack("<f", 1 + len(expected) / 3))
            elif name.endswith("norm.weight"):
                expected.update(widened({name: base[name]}))
        for name, (dtype, shape, content) in expected.items():
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
            data += content
        text = json.dumps(header).encode()
        source = self.work / "fp8"
        source.mkdir()
        (source / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
        about = {"quant_method": "fp8", "weight_block_size": [128, 128]}
        (source / "config.json").write_text(json.dumps({**load(hf("llama-mha") / "config.json"), "quantization_config": about}))
        cast = {name: base[name] if name.endswith("norm.weight") else tensor for name, tensor in expected.items()}
        carried = ["--passthrough", "*_scale_inv"]
        for to in ("hdf5", "hf_bin"):
            for number, (dtype, wanted) in enumerate((([], expected), (["--dtype", "bf16"], cast))):
                with self.subTest(to, dtype=dtype):
                    out = self.convert(source, f"{to}-{number}", "--to", to, *carried, *dtype, ranks=1 + number)
                    self.assert_same(read(out), wanted)
                    back = self.convert(out, f"{to}-{number}-back", "--to", "hf", *carried, *dtype, ranks=2 - number)
                    self.assert_same(read(back), wanted)
                    self.assertEqual(load(back / "config.json")["quantization_config"], about)
        done = self.run_program([PROGRAM, "convert", source, self.work / "none", "--to", "hdf5"], status=3)
        self.assertIn("--passthrough", done.stderr)

    def test_a_missing_head_is_refused(self):
        done = self.run_program([PROGRAM, "convert", hf("llama-tied-no-head"), self.work / "out", "--to", "hf"], status=3)
        self.assertIn("lm_head", done.stderr)
        self.assertFalse((self.work / "out").exists())


class Hdf5(Case):
    def test_there_and_back(self):
        for number, case in enumerate(HF):
            with self.subTest(case):
                ranks = 1 + number % 3
                archive = self.convert(hf(case), f"{case}.h5", "--to", "hdf5", ranks=ranks)
                self.assert_same(read(archive), read(hf(case)))
                inside = read_files(archive)
                self.assertEqual(inside["generation_config.json"], (hf(case) / "generation_config.json").read_bytes())
                back = self.convert(archive, f"{case}-back", "--to", "hf", ranks=ranks)
                direct = self.convert(hf(case), f"{case}-direct", "--to", "hf")
                self.assert_same(read(back), read(hf(case)))
                self.assertEqual(load(back / "config.json"), load(direct / "config.json"))
                names = {path.name for path in direct.iterdir()} - {"reshard.json"}
                for name in names:
                    self.assertEqual((back / name).read_bytes(), (direct / name).read_bytes(), name)

    def test_tools_read_it(self):
        archive = self.convert(hf("llama-gqa"), "model.h5", "--to", "hdf5")
        listing = self.run_program(["h5dump", "-H", archive]).stdout
        self.assertIn("model.embed_tokens.weight", listing)

    def test_nanotron_there_and_back(self):
        archive = self.convert(nanotron("llama-tied-tp2-pp2"), "model.h5", "--to", "hdf5", "--vocab-size", 259, ranks=2)
        self.assert_same(read(archive), read(hf("llama-tied")))
        back = self.convert(archive, "back", "--to", "nanotron", "--tp", 4, ranks=2)
        self.assert_same(first_rows(read(back), 259), read(hf("llama-tied")))


def stored(path):
    """What a torch file says: its tensors in order, and those that share bytes."""
    tensors, _ = load_torch(path)
    shared = {}
    for name, tensor in tensors.items():
        shared.setdefault((tensor.storage[1], tensor.offset), []).append(name)
    return list(tensors), sorted(names for names in shared.values() if len(names) > 1)


class Meta(Case):
    """Meta's own checkpoints, as llama-cookbook and llama-models wrote them."""

    TYPES = ("llama", "mistral")

    def assert_same_files(self, out, reference):
        """Tensor for tensor, rank by rank; buffers that follow from the configuration may be left out."""
        self.assertEqual([p.name for p in sorted(out.glob("*.pth"))], [p.name for p in sorted(reference.glob("*.pth"))])
        for path in sorted(reference.glob("*.pth")):
            ours, theirs = read_torch(out / path.name), read_torch(path)
            self.assert_same(ours, {name: tensor for name, tensor in theirs.items() if name in ours or not name.endswith("rope.freqs")})
            self.assertEqual("output.weight" in ours, "output.weight" in theirs)

    def test_equals_what_the_reference_tools_wrote(self):
        for number, case in enumerate(META):
            with self.subTest(case):
                tp = len(list(meta(case).glob("*.pth")))
                out = self.convert(base_of_meta(case), case, "--to", "meta", "--tp", tp, ranks=1 + number % 3)
                self.assertEqual(load(out / "params.json"), load(meta(case) / "params.json"))
                if "-flat" in case:  # written by a script, with the buffers of Llama 1
                    self.assert_same(read(out), read(meta(case)))
                else:
                    self.assert_same_files(out, meta(case))

    def test_equals_the_base(self):
        for number, case in enumerate(META):
            with self.subTest(case):
                base = base_of_meta(case)
                out = self.convert(meta(case), case, "--to", "hf", ranks=1 + number % 3)
                self.assert_same(read(out), read(base))
                ours, expected = load(out / "config.json"), load(base / "config.json")
                keys = (
                    "model_type", "hidden_act", "hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers",
                    "num_key_value_heads", "rms_norm_eps", "tie_word_embeddings", "vocab_size", "head_dim", "bos_token_id",
                )  # fmt: skip
                self.assertEqual({key: ours.get(key) for key in keys}, {key: expected[key] for key in keys})
                unsaid = {"original_max_position_embeddings"}
                self.assertEqual({k: v for k, v in rope(ours).items() if k not in unsaid}, {k: v for k, v in rope(expected).items() if k not in unsaid})
                self.assertEqual(ours["torch_dtype"], expected["dtype"])

    def test_config_from_says_the_rest(self):
        for case in META:
            with self.subTest(case):
                base = base_of_meta(case)
                out = self.convert(meta(case), case, "--to", "hf", "--config-from", base)
                ours, expected = load(out / "config.json"), load(base / "config.json")
                self.assertEqual({key: value for key, value in expected.items() if ours.get(key) != value}, {})

    def test_any_size_there_and_back(self):
        for number, case in enumerate(case for case in HF if load(hf(case) / "config.json")["model_type"] in self.TYPES):
            config = load(hf(case) / "config.json")
            if config.get("head_dim") not in (None, config["hidden_size"] // config["num_attention_heads"]):
                continue
            for tp in (1, 2, 4, 8):
                if config["vocab_size"] % tp:
                    continue
                with self.subTest(case, tp=tp):
                    ranks = 1 + (number + tp) % 3
                    out = self.convert(hf(case), f"{case}-{tp}", "--to", "meta", "--tp", tp, ranks=ranks)
                    if tp <= config["num_key_value_heads"]:
                        self.assert_same(read(out), read(hf(case)))
                    back = self.convert(out, f"{case}-{tp}-back", "--to", "hf", ranks=ranks)
                    self.assert_same(read(back), read(hf(case)))
                    self.run_program([PROGRAM, "verify", out])

    def test_straight_from_size_to_size(self):
        for case in META:
            base = base_of_meta(case)
            rows = load(base / "config.json")["vocab_size"]
            sizes = [tp for tp in (1, 2, 4, 8) if rows % tp == 0]
            for tp in sizes:
                with self.subTest(case, tp=tp):
                    out = self.convert(meta(case), f"{case}-{tp}", "--to", "meta", "--tp", tp, ranks=2)
                    direct = self.convert(base, f"{case}-{tp}-direct", "--to", "meta", "--tp", tp)
                    self.assert_same_files(out, direct)
                    again = self.convert(out, f"{case}-{tp}-again", "--to", "meta", "--tp", sizes[-1] // tp, ranks=3)
                    self.assert_same(read(self.convert(again, f"{case}-{tp}-hf", "--to", "hf")), read(base))

    def test_repeated_kv_heads(self):
        """Each of 4 kv heads twice, head by head, as the query heads of the ranks need them."""
        case = next(case for case in HF if load(hf(case) / "config.json").get("num_key_value_heads") == 4 and load(hf(case) / "config.json")["vocab_size"] % 2)
        config = load(hf(case) / "config.json")
        source = f"synthetic:{self.work / 'config.json'}"
        (self.work / "config.json").write_text(json.dumps({**config, "vocab_size": 264}))
        base = self.convert(source, "base", "--to", "hf")
        out = self.convert(base, "out", "--to", "meta", "--tp", 8, ranks=2)
        self.assertEqual(load(out / "params.json").get("n_kv_heads", 8), 8)
        twice, once = read(out), read(base)
        self.assertEqual(once.keys(), twice.keys())
        for name, (dtype, shape, data) in once.items():
            if re.search(r"[kv]_proj\.weight", name):
                heads = np.frombuffer(data, np.uint16).reshape(4, -1)
                dtype, shape, data = dtype, (2 * shape[0], *shape[1:]), np.repeat(heads, 2, axis=0).tobytes()
            self.assertEqual(twice[name], (dtype, shape, data), name)
        self.run_program([PROGRAM, "verify", out])
        self.assert_same(read(self.convert(out, "back", "--to", "hf", ranks=3)), once)

    def test_tied_names_share_a_storage(self):
        out = self.convert(hf("llama-tied"), "tied", "--to", "meta")
        self.assertEqual(stored(out / "consolidated.00.pth")[1], [["tok_embeddings.weight", "output.weight"]])
        self.assertEqual(load(self.convert(out, "back", "--to", "hf") / "config.json")["tie_word_embeddings"], True)

    def test_params_of_fairseq2(self):
        out = self.convert(hf("llama-gqa"), "out", "--to", "meta", "--params-style", "fairseq2")
        self.assertEqual(
            load(out / "params.json"),
            {"model": {"dim": 64, "n_layers": 4, "n_heads": 8, "multiple_of": 16, "rope_theta": 500000.0, "norm_eps": 1e-06, "n_kv_heads": 4}},
        )
        self.assert_same(read(self.convert(out, "back", "--to", "hf")), read(hf("llama-gqa")))

    def test_tokenizer(self):
        """A tiktoken vocabulary becomes what transformers makes of it; other targets get it as it is."""
        data = ROOT / "tests" / "data" / "tiktoken"
        (self.work / "config.json").write_text(json.dumps({
            **load(hf("llama-gqa") / "config.json"), "vocab_size": 556, "max_position_embeddings": 131072,
        }))  # fmt: skip
        tokenizer = self.work / "tokenizer"
        tokenizer.mkdir()
        shutil.copy(data / "tokenizer.model", tokenizer)
        model = self.convert(f"synthetic:{self.work / 'config.json'}", "hf", "--to", "hf")
        out = self.convert(model, "meta", "--to", "meta", "--tokenizer-from", tokenizer)
        self.assertEqual((out / "tokenizer.model").read_bytes(), (data / "tokenizer.model").read_bytes())
        back = self.convert(out, "back", "--to", "hf")
        self.assertEqual((back / "tokenizer.json").read_bytes(), (data / "tokenizer.json").read_bytes())
        self.assertEqual(load(back / "tokenizer_config.json")["model_max_length"], 131072)
        self.assertFalse((back / "tokenizer.model").exists())
        bin_ = self.convert(out, "bin", "--to", "hf_bin")
        self.assertTrue((bin_ / "tokenizer.json").exists())
        nanotron_ = self.convert(out, "nanotron", "--to", "nanotron")
        self.assertEqual((nanotron_ / "tokenizer.model").read_bytes(), (data / "tokenizer.model").read_bytes())
        self.assertIn(f"tokenizer_name_or_path: {nanotron_}\n", (nanotron_ / "config.yaml").read_text())
        # Llama 1 and 2 keep one tokenizer in the folder of all models.
        (out / "tokenizer.model").rename(self.work / "tokenizer.model")
        (self.work / "tokenizer_checklist.chk").write_text("")
        self.assertTrue((self.convert(out, "parent", "--to", "hf") / "tokenizer.json").exists())
        (self.work / "tokenizer_checklist.chk").unlink()
        self.assertFalse((self.convert(out, "none", "--to", "hf") / "tokenizer.json").exists())

    def test_what_is_refused(self):
        for tp, needle in ((2, "259"), (3, "num_attention_heads")):
            done = self.run_program([PROGRAM, "convert", hf("llama-mha"), self.work / "out", "--to", "meta", "--tp", tp], status=2)
            self.assertIn(needle, done.stderr)
        for case, needle in (("mistral", "head_dim"), ("qwen2", "biases"), ("qwen3", "norms"), ("mixtral", "experts"), ("gpt2", "positions")):
            done = self.run_program([PROGRAM, "convert", hf(case), self.work / "out", "--to", "meta"], status=2)
            self.assertIn(needle, done.stderr)
        self.assertFalse((self.work / "out").exists())


class HfBin(Case):
    """pytorch_model.bin and its sharded form, as transformers 4 wrote them."""

    def test_equals_what_transformers_wrote(self):
        for number, case in enumerate(HF_BIN):
            with self.subTest(case):
                limit = ["--max-shard-size", "100KB"] if "sharded" in case else []
                out = self.convert(base_of_bin(case), case, "--to", "hf_bin", *limit, ranks=1 + number % 3)
                theirs = sorted(hf(case).glob("*.bin"))
                self.assertEqual([p.name for p in sorted(out.glob("*.bin"))], [p.name for p in theirs])
                for path in theirs:
                    # Of transformers 4.31; later ones no longer save these buffers.
                    expected = {name: t for name, t in read_torch(path).items() if not name.endswith("inv_freq")}
                    self.assertEqual(list(read_torch(out / path.name)), list(expected))
                    self.assert_same(read_torch(out / path.name), expected)
                    self.assertEqual(stored(out / path.name)[1], stored(path)[1])
                index = "pytorch_model.bin.index.json"
                if (hf(case) / index).exists():
                    expected = {k: v for k, v in load(hf(case) / index)["weight_map"].items() if not k.endswith("inv_freq")}
                    self.assertEqual(load(out / index)["weight_map"], expected)
                    size = sum(len(data) for _, _, data in read(out).values())
                    self.assertEqual(load(out / index)["metadata"]["total_size"], size)

    def test_equals_the_base(self):
        for number, case in enumerate(HF_BIN):
            with self.subTest(case):
                base = base_of_bin(case)
                out = self.convert(hf(case), case, "--to", "hf", ranks=1 + number % 3)
                self.assertEqual((out / "model.safetensors").read_bytes(), (base / "model.safetensors").read_bytes())

    def test_there_and_back(self):
        for number, case in enumerate(HF):
            with self.subTest(case):
                limit = ["--max-shard-size", ("60KB", "5GB")[number % 2]]
                out = self.convert(hf(case), case, "--to", "hf_bin", *limit, ranks=1 + number % 3)
                self.assert_same(read(out), read(hf(case)))
                self.assert_same(read(self.convert(out, f"{case}-back", "--to", "hf")), read(hf(case)))

    def test_safetensors_are_preferred(self):
        both = self.work / "both"
        shutil.copytree(hf("llama-mha"), both)
        self.convert(hf("llama-tied"), "other", "--to", "hf_bin")
        shutil.copy(self.work / "other" / "pytorch_model.bin", both)
        done = self.run_program([PROGRAM, "convert", both, self.work / "out", "--to", "hf"])
        self.assertIn("pytorch_model.bin: not read", done.stderr)
        self.assert_same(read_safetensors(self.work / "out" / "model.safetensors")[0], read(hf("llama-mha")))


class SameBytes(Case):
    """The output is the same, byte for byte, for any number of ranks, route and memory budget."""

    def smallest_budget(self, source, target, options, ranks):
        """The one that the refusal of a smaller one names."""
        done = self.run_program(["mpirun", "-n", ranks, PROGRAM, "convert", source, self.work / "none", "--to", *target, *options,
                                 "--memory-budget", "1KiB"], status=2)  # fmt: skip
        return re.search(r"smallest that works is (\w+)", done.stderr)[1]

    def test_any_job(self):
        cases = [(hf("llama-gqa-sharded"), ["nanotron", "--tp", "2", "--pp", "2"]), (hf("llama-gqa-sharded"), ["hf", "--max-shard-size", "100KB"]),
                 (hf("llama-gqa-sharded"), ["hdf5"]), (hf("llama-tied"), ["hf_bin", "--max-shard-size", "100KB"]),
                 (meta("llama-mha-v256-mp2-flat"), ["meta", "--tp", "8"]), (hf("gpt2"), ["llms_from_scratch"]),
                 (hf("llama-tied"), ["fairseq2", "--dp", "3"])]  # fmt: skip
        for source, target in cases:
            routes = (["--route", "direct"], ["--route", "exchange"])
            jobs = [(ranks, route) for ranks in (1, 2, 3, 4, 5, 8) for route in routes]
            jobs += [(3, [*route, "--memory-budget", self.smallest_budget(source, target, route, 3)]) for route in routes]
            expected = None
            for ranks, options in jobs:
                with self.subTest(target=target, ranks=ranks, options=options):
                    # One name for all: side files may say where the checkpoint stands.
                    out = self.convert(source, "out", "--overwrite", "--to", *target, *options, ranks=ranks)
                    found = {name: path.read_bytes() for name, path in files_below(out).items()} if out.is_dir() else {"": out.read_bytes()}
                    expected = expected or found
                    self.assertEqual(sorted(found), sorted(expected))
                    self.assertEqual([name for name in found if found[name] != expected[name]], [])
            shutil.rmtree(out) if out.is_dir() else out.unlink()


class Compat(Case):
    """The commands of launch/compat, and the example jobs."""

    def test_nanotron_commands(self):
        scripts = ROOT / "launch" / "compat"
        snapshot = self.work / "hub" / "models--org--name" / "snapshots" / "1"
        snapshot.mkdir(parents=True)
        (snapshot / "tokenizer.json").write_text("{}")
        (self.work / "hub" / "models--org--name" / "refs").mkdir()
        (self.work / "hub" / "models--org--name" / "refs" / "main").write_text("1")
        run = {"RESHARD": f"mpirun -n 2 {PROGRAM}", "HF_HUB_CACHE": str(self.work / "hub")}
        self.run_program([sys.executable, scripts / "convert_hf_to_nanotron.py", f"--checkpoint_path={hf('llama-mha')}", "--save_path",
                          self.work / "nt", "--tp", "2"], **run)  # fmt: skip
        done = self.run_program([sys.executable, scripts / "convert_nanotron_to_hf.py", "--checkpoint_path", self.work / "nt", "--save_path",
                                 self.work / "hf", "--config_cls", "LlamaConfig", "--tokenizer_name", "org/name", "--vocab_size", "259"], **run)  # fmt: skip
        self.assertTrue(done.stderr.startswith(f"+ {run['RESHARD']} convert "), done.stderr)
        self.assert_same(read(self.work / "hf"), read(hf("llama-mha")))
        self.assertEqual((self.work / "hf" / "tokenizer.json").read_text(), "{}")

    def test_llama_commands(self):
        scripts, run = ROOT / "launch" / "compat", {"RESHARD": PROGRAM}
        base = hf("llama-mha-v256")
        self.run_program([sys.executable, scripts / "convert_hf_weights_to_llama.py", "--model-path", base, "--model-size=13B",
                          "--output-dir", self.work / "meta"], **run)  # fmt: skip
        self.assertEqual(len(list((self.work / "meta").glob("consolidated.*.pth"))), 2)
        for flags, name in ((["--num_shards", "2"], "hf"), (["--model_size", "13B", "--safe_serialization", "False"], "bin")):
            self.run_program([sys.executable, scripts / "convert_llama_weights_to_hf.py", "--input_dir", self.work / "meta", *flags,
                              "--output_dir", self.work / name, "--llama_version", "2"], **run)  # fmt: skip
            self.assert_same(read(self.work / name), read(base))
        self.assertTrue((self.work / "bin" / "pytorch_model.bin").exists())

    def test_fairseq2_commands_to_meta(self):
        command, run = [sys.executable, ROOT / "launch" / "compat" / "fairseq2", "llama"], {"RESHARD": PROGRAM}
        source = FIXTURES / "fairseq2" / "llama-gqa-v046"
        for out, model in ((self.work / "0.3", ["--model", "llama3_8b"]), (self.work / "0.4", ["llama3_8b"])):
            self.run_program([*command, "write_hf_config", "--model", "llama3_8b", out], status=2, **run)
            self.run_program([*command, "convert_checkpoint", *model, source / "step_100", out], **run)
            self.run_program([*command, "write_hf_config", "--model", "llama3_8b", out], **run)
            self.assertEqual((out / "config.json").read_bytes(), (source / "cc" / "config.json").read_bytes())
            self.assertEqual(list(load(out / "params.json")), ["model"])
            self.assert_same(read(out), read(source))
        # Without a model.yaml the name counts, which these tensors contradict; each file there is becomes one.
        shutil.copytree(source / "step_100", self.work / "bare")
        done = self.run_program([*command, "convert_checkpoint", "llama3_8b", self.work / "bare", self.work / "none"], status=3, **run)
        self.assertIn("does not hold what --model llama3_8b says", done.stderr)
        (self.work / "bare" / "model.pt").rename(self.work / "bare" / "model.0.pt")
        (self.work / "bare" / "model.1.pt").touch()
        line = [*command, "convert_checkpoint", "7b", self.work / "bare", "out", "--overwrite"]
        for options, expected in (([], "--tp 2 --model 7b --overwrite"), (["--tp", "4", "--config-from=x"], "--overwrite --tp 4 --config-from=x")):
            done = self.run_program([*line, *options], RESHARD="true")
            self.assertEqual(done.stderr, f"+ true convert {self.work / 'bare'} out --to meta --params-style fairseq2 {expected}\n")
        self.run_program([*command, "convert_checkpoint", self.work / "bare", "out"], status=2, RESHARD="true")

    def test_fairseq2_export(self):
        source, script = FIXTURES / "fairseq2" / "llama-tied-tp1" / "checkpoints", ROOT / "launch" / "compat" / "hg_export.py"
        command = [sys.executable, script, "--no-rich", "--checkpoint-dir"]
        self.run_program([*command, source, "checkpoint_step_100", self.work / "hf"], RESHARD=PROGRAM)
        self.assert_same(read(self.work / "hf"), widened(read(source)))
        scores = self.work / "scores"
        scores.mkdir()
        for step, score in ((100, "-2.5"), (200, "-0.5\n"), (300, "-0.5"), (400, "9")):  # step 400 is gone
            (scores / f"step_{step}.txt").write_text(score)
            if step < 400:
                (self.work / f"step_{step}").mkdir()
        for name, chosen in (("last_checkpoint", ""), ("checkpoint_step_7", " --step 7"), ("best_checkpoint", " --step 300"),
                             ("best_checkpoint_1", " --step 200"), ("best_checkpoint_2", " --step 100")):  # fmt: skip
            done = self.run_program([*command, self.work, name, "out", "--overwrite"], RESHARD="true")
            self.assertEqual(done.stderr, f"+ true convert {self.work} out --to hf --dtype fp32{chosen} --overwrite\n")
        for name in ("best_checkpoint_3", "llama3_8b"):
            self.assertIn(name, self.run_program([*command, self.work, name, "out"], status=2, RESHARD="true").stderr)

    def test_example_jobs(self):
        for path in sorted((ROOT / "configs" / "jobs").glob("*.json")):
            with self.subTest(path.name):
                job = {**load(path), "src": str(hf("llama-mha-v256")), "dst": str(self.work / path.stem)}
                (self.work / path.name).write_text(json.dumps(job))
                self.run_program([PROGRAM, "convert", "--config", self.work / path.name])
                self.assert_same(first_rows(read(self.work / path.stem), 256), read(hf("llama-mha-v256")))


if __name__ == "__main__":
    unittest.main(verbosity=2)
