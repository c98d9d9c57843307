#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""make_tokenizer.py: writes tokenizer.model, a small vocabulary of the kind that Llama 3 has, and what transformers makes of it.

Run by hand with transformers 5.23.0 and tokenizers 0.23.3, not by the tests. The vocabulary is that of a byte-pair encoding
of TEXT: the bytes in the order of tiktoken's published vocabularies, then the merges.
"""

import base64
import collections
import json
import pathlib

import regex
from tokenizers import processors
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter

HERE = pathlib.Path(__file__).resolve().parent
TEXT = "low lower lowest newer newest wide widest naïve 数据 数字 don't 12345 \t\n  tabs\r\nEND " * 3
BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
SPECIAL = [BOS, EOS, *(f"<|reserved_special_token_{i}|>" for i in range(2)), "<|finetune_right_pad_id|>", "<|reserved_special_token_2|>",
           "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"]  # fmt: skip
SPECIAL += [f"<|reserved_special_token_{i}|>" for i in range(3, 256 - 8)]


def train(merges):
    """Byte-pair encoding of TEXT: token -> rank."""
    printable = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
    ranks = {bytes([b]): rank for rank, b in enumerate(printable + [b for b in range(256) if b not in printable])}
    words = [[bytes([b]) for b in word.encode()] for word in regex.findall(TikTokenConverter().pattern, TEXT)]
    for _ in range(merges):
        pairs = collections.Counter(pair for word in words for pair in zip(word, word[1:]))
        (left, right), _ = min(pairs.items(), key=lambda item: (-item[1], item[0]))
        ranks[left + right] = len(ranks)
        for word in words:
            i = 0
            while i + 1 < len(word):
                if word[i] == left and word[i + 1] == right:
                    word[i : i + 2] = [left + right]
                i += 1
    return ranks


def main():
    ranks = train(44)
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()]
    (HERE / "tokenizer.model").write_text("".join(lines))
    # The converter would read the file with the package tiktoken, which asks for nothing else.
    TikTokenConverter.load_tiktoken_bpe = staticmethod(lambda path: ranks)
    tokenizer = TikTokenConverter(str(HERE / "tokenizer.model"), extra_special_tokens=SPECIAL).converted()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, model_input_names=["input_ids", "attention_mask"],
                                   model_max_length=131072, clean_up_tokenization_spaces=True)  # fmt: skip
    bos = (BOS, fast.convert_tokens_to_ids(BOS))
    template = processors.TemplateProcessing(single=f"{BOS} $A", pair=f"{BOS}:0 $A:0 {BOS}:1 $B:1", special_tokens=[bos])
    fast._tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    fast.save_pretrained(HERE)
    print(json.dumps({"encoded": fast.encode(TEXT)[:8], "size": len(fast)}))


if __name__ == "__main__":
    main()
