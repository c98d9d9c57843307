#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""greedy.py REPOSITORY CONFIG A B: do two checkpoints make the book's model say the same?

REPOSITORY is a checkout of rasbt/LLMs-from-scratch, CONFIG the dictionary of the model's class as JSON. A and B are .pth
files, which the class of that name loads strictly, with weights_only=True and mmap=True; B may also be a Hugging Face
folder, which transformers loads. Compares 24 tokens, the likeliest one each time, of two prompts. All runs in f32, which
holds bf16 exactly. Run by hand, as logits.py is.
"""

import ast
import importlib
import json
import pathlib
import sys
import types
from unittest import mock

import torch

NEW_TOKENS = 24
LLAMA2 = "ch05/07_gpt_to_llama/converting-gpt-to-llama2.ipynb"


def module_of_package(repository, name):
    """A module of the book's package; what it only imports to download and to tokenize may be missing."""
    package = types.ModuleType("llms_from_scratch")
    package.__path__ = [str(repository / "pkg/llms_from_scratch")]
    sys.modules["llms_from_scratch"] = package
    for unused in ("requests", "tiktoken", "tiktoken.load", "tokenizers"):
        try:
            importlib.import_module(unused)
        except ImportError:
            sys.modules[unused] = mock.MagicMock()
    return importlib.import_module(f"llms_from_scratch.{name}")


def classes_of_notebook(path):
    """What the cells define that hold nothing but imports, classes and functions."""
    space = {}
    for cell in json.loads(path.read_text())["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] != "code" or text.startswith(("%", "!")):
            continue
        nodes = ast.parse(text).body
        if all(isinstance(node, (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef)) for node in nodes):
            exec(text, space)
        if "Llama2Model" in space:
            return space
    raise LookupError(f"{path}: defines no Llama2Model")


def class_of(repository, names):
    """The book's class for the names of a file; those of the notebook keep a mask and rotary tables."""
    if "pos_emb.weight" in names:
        fused = "trf_blocks.0.att.qkv.weight" in names
        return getattr(module_of_package(repository, "ch04"), "GPTModelFast" if fused else "GPTModel")
    if "trf_blocks.0.att.q_norm.scale" in names:
        return module_of_package(repository, "qwen3").Qwen3Model
    if "trf_blocks.0.att.cos" in names:
        return classes_of_notebook(repository / LLAMA2)["Llama2Model"]
    return module_of_package(repository, "llama3").Llama3Model


def load(repository, config, path):
    if path.is_dir():
        import logits  # transformers is needed here alone

        model = logits.load(path).float()
        return "transformers", lambda tokens: model(tokens).logits
    tensors = torch.load(path, weights_only=True, mmap=True)
    model = class_of(repository, tensors.keys())({**config, "dtype": torch.float32})
    model.load_state_dict(tensors)  # strict: every name, and no other
    return type(model).__name__, model.eval()


def say(model, vocab_size):
    """Tokens and logits."""
    tokens = torch.arange(12).reshape(2, 6) * 17 % vocab_size
    with torch.no_grad():
        for _ in range(NEW_TOKENS):
            last = model(tokens)
            tokens = torch.cat([tokens, last[:, -1].argmax(-1, keepdim=True)], 1)
    return tokens, last


def main():
    repository, config_path, *paths = map(pathlib.Path, sys.argv[1:])
    config = json.loads(config_path.read_text())
    loaded = [load(repository, config, path) for path in paths]
    (a, a_logits), (b, b_logits) = (say(model, config["vocab_size"]) for _, model in loaded)
    equal = torch.equal(a, b)
    print(
        f"{paths[0]} ({loaded[0][0]}) {paths[1]} ({loaded[1][0]}): {'equal' if equal else 'DIFFERENT'} tokens, "
        f"logits differ by {(a_logits - b_logits).abs().max():.1g}; {len(set(a[:, 6:].flatten().tolist()))} tokens said"
    )
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
