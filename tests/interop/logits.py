#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""logits.py A B: do two Hugging Face folders hold the same model, as transformers runs them?

Loads both with transformers (which must not warn of missing or new weights) and compares the logits of one batch bit for
bit. Run by hand: torch and transformers are too large for the tests' environment.
"""

import sys

import torch
from transformers import AutoModelForCausalLM


def load(folder):
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), f"{folder}: {report}"
    return model.eval()


def logits(folder):
    model = load(folder)
    tokens = torch.arange(96).reshape(2, 48) % model.config.vocab_size
    with torch.no_grad():
        return model(tokens).logits


if __name__ == "__main__":
    a, b = map(logits, sys.argv[1:3])
    equal = a.shape == b.shape and torch.equal(a, b)
    print(f"{sys.argv[1]} {sys.argv[2]}: {'equal' if equal else 'DIFFERENT'} logits, shape {list(a.shape)}, {a.dtype}")
    sys.exit(0 if equal else 1)
