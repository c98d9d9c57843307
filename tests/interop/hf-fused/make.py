# SPDX-License-Identifier: Apache-2.0
"""Writes the checkpoints of this folder with transformers 5: experts one by one, as it saves them by default, and fused,
as it holds them in memory and saves them on request."""

import sys
from pathlib import Path

import torch
from transformers import (
    MixtralConfig, MixtralForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM,
)  # fmt: skip

OUT = Path(sys.argv[1])
COMMON = {"vocab_size": 33, "hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2,
          "intermediate_size": 24, "num_experts_per_tok": 2, "max_position_embeddings": 64}  # fmt: skip
CASES = {
    "mixtral": (MixtralForCausalLM, MixtralConfig(**COMMON, num_local_experts=3)),
    "qwen2-moe": (
        Qwen2MoeForCausalLM,
        Qwen2MoeConfig(**COMMON, num_experts=3, moe_intermediate_size=12, shared_expert_intermediate_size=20, mlp_only_layers=[0]),
    ),
    "qwen3-moe": (Qwen3MoeForCausalLM, Qwen3MoeConfig(**COMMON, head_dim=8, num_experts=3, moe_intermediate_size=12)),
}

for name, (model_class, config) in CASES.items():
    torch.manual_seed(len(name))
    model = model_class(config).to(torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.05 + (1 if parameter.dim() == 1 else 0))
    model.save_pretrained(OUT / name)
    model.save_pretrained(OUT / f"{name}-fused", save_original_format=False)
