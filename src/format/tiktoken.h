// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "reshard/format/format.h"

namespace reshard::format {

/// The vocabulary of a byte-level encoding: token (bytes) by rank.
using TokenRanks = std::vector<std::string>;

/// Is this the text of a vocabulary as the package tiktoken stores it: lines of a token in base64 and its rank? Looks
/// at the first line alone.
bool is_tiktoken(std::string_view text);
/// Errors (input), naming `path` and line: no base64, ranks that are not 0, 1, ... in some order, a token twice. Pure.
Expected<TokenRanks> parse_tiktoken(std::string_view text, const std::string& path);

/// The special tokens of Llama 3 in the order of their ids, which follow the ranks. `since_3_1`: as renamed in 3.1.
std::vector<std::string> llama3_special_tokens(bool since_3_1);

/// tokenizer.json of a Llama 3 tokenizer: the text that transformers' converter writes. Pure.
std::string llama3_tokenizer_json(const TokenRanks& tokens, const std::vector<std::string>& special);
/// tokenizer_config.json beside it, in the spelling that transformers 4 and 5 both read. Pure.
std::string llama3_tokenizer_config(Index model_max_length);

/// Puts tokenizer.json and tokenizer_config.json in place of a tokenizer.model that is a tiktoken vocabulary, unless
/// there is a tokenizer.json: for targets that Hugging Face's loaders read. Notes why not, where its tokens are not
/// those of a Llama 3. Errors (input): as parse_tiktoken. Local.
Status convert_tiktoken(const model::Spec& spec, std::vector<Sidecar>& sidecars, std::vector<std::string>& notes);

}  // namespace reshard::format
