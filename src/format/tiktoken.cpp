// SPDX-License-Identifier: Apache-2.0
#include "tiktoken.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_map>

#include "reshard/base/text.h"
#include "side_files.h"

namespace reshard::format {

namespace {

using nlohmann::ordered_json;

constexpr const char* kBegin = "<|begin_of_text|>";
constexpr const char* kEnd = "<|end_of_text|>";
constexpr const char* kPattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::size_t kSpecialTokens = 256;
constexpr std::size_t kMostTokens = 1 << 22;
constexpr std::size_t kLongestToken = 512;  // finding merges takes the square of it

constexpr int kNoDigit = -1;

int base64_digit(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  return c == '+' ? 62 : c == '/' ? 63 : kNoDigit;
}

// The bytes of a padded base64 text; nothing if it is none.
std::optional<std::string> decode_base64(std::string_view text) {
  if (text.empty() || text.size() % 4 != 0) return std::nullopt;
  const std::size_t padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
  std::string bytes;
  unsigned bits = 0;
  int held = 0;
  for (const char c : text.substr(0, text.size() - padding)) {
    const int digit = base64_digit(c);
    if (digit == kNoDigit) return std::nullopt;
    bits = bits << 6 | static_cast<unsigned>(digit);
    held += 6;
    if (held >= 8) bytes += static_cast<char>(bits >> (held -= 8) & 0xff);
  }
  return bytes;
}

struct Line {
  std::string token;
  std::size_t rank;
};

// "aGVsbG8= 123"
std::optional<Line> parse_line(std::string_view line) {
  const std::size_t space = line.find(' ');
  if (space == std::string_view::npos) return std::nullopt;
  auto token = decode_base64(line.substr(0, space));
  const std::string_view number = line.substr(space + 1);
  std::size_t rank = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), rank);
  if (!token || error != std::errc() || end != number.data() + number.size()) return std::nullopt;
  return Line{*std::move(token), rank};
}

std::string_view take_line(std::string_view& text) {
  const std::size_t end = std::min(text.find('\n'), text.size());
  std::string_view line = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

// Byte-level vocabularies spell every byte as a printable character: itself where it is one, else the next one from
// U+0100 on.
std::array<std::string, 256> printable_bytes() {
  std::array<std::string, 256> spelled;
  unsigned next = 0x100;
  for (unsigned byte = 0; byte < spelled.size(); ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
    const unsigned code = printable ? byte : next++;
    if (code < 0x80) {
      spelled[byte] = static_cast<char>(code);
    } else {
      spelled[byte] = {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))};
    }
  }
  return spelled;
}

// A token as a JSON text.
std::string spell(std::string_view token) {
  static const std::array<std::string, 256> kSpelled = printable_bytes();
  std::string text = "\"";
  for (const char c : token) {
    if (c == '"' || c == '\\') text += '\\';
    text += kSpelled[static_cast<unsigned char>(c)];
  }
  return text + '"';
}

struct Merge {
  std::string_view left, right;
};

// All ways to put a token together from two others, for each token by the ranks of its parts.
std::vector<Merge> find_merges(const TokenRanks& tokens) {
  std::unordered_map<std::string_view, std::size_t> rank_of;
  for (std::size_t rank = 0; rank < tokens.size(); ++rank) rank_of.emplace(tokens[rank], rank);
  struct Split {
    std::size_t left_rank, right_rank;
    Merge merge;
  };
  std::vector<Merge> merges;
  std::vector<Split> splits;
  for (const std::string_view token : tokens) {
    splits.clear();
    for (std::size_t at = 1; at < token.size(); ++at) {
      const auto left = rank_of.find(token.substr(0, at)), right = rank_of.find(token.substr(at));
      if (left == rank_of.end() || right == rank_of.end()) continue;
      splits.push_back({left->second, right->second, {left->first, right->first}});
    }
    std::sort(splits.begin(), splits.end(), [](const Split& a, const Split& b) {
      return std::pair(a.left_rank, a.right_rank) < std::pair(b.left_rank, b.right_rank);
    });
    for (const Split& split : splits) merges.push_back(split.merge);
  }
  return merges;
}

ordered_json added_tokens(std::size_t first_id, const std::vector<std::string>& special) {
  ordered_json added = ordered_json::array();
  for (const std::string& token : special) {
    added.push_back({{"id", first_id + added.size()},
                     {"content", token},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  return added;
}

ordered_json byte_level(bool add_prefix_space, bool trim_offsets, bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", add_prefix_space},
          {"trim_offsets", trim_offsets},
          {"use_regex", use_regex}};
}

// Every text begins with the token kBegin.
ordered_json begin_template(std::size_t begin_id) {
  const auto begin = [](int type) { return ordered_json{{"SpecialToken", {{"id", kBegin}, {"type_id", type}}}}; };
  const auto text = [](const char* id, int type) {
    return ordered_json{{"Sequence", {{"id", id}, {"type_id", type}}}};
  };
  ordered_json special = ordered_json::object();
  special[kBegin] = {
      {"id", kBegin}, {"ids", ordered_json::array({begin_id})}, {"tokens", ordered_json::array({kBegin})}};
  return {{"type", "TemplateProcessing"},
          {"single", ordered_json::array({begin(0), text("A", 0)})},
          {"pair", ordered_json::array({begin(0), text("A", 0), begin(1), text("B", 1)})},
          {"special_tokens", special}};
}

}  // namespace

bool is_tiktoken(std::string_view text) { return parse_line(take_line(text)).has_value(); }

Expected<TokenRanks> parse_tiktoken(std::string_view text, const std::string& path) {
  const auto fault = [&](std::size_t line, const std::string& what) {
    return input_error(fmt::format("{}: line {}: {}", path, line, what));
  };
  const auto lines = static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n')) + 1;
  if (lines > kMostTokens) return input_error(fmt::format("{}: more than {} tokens", path, kMostTokens));
  std::vector<bool> known;
  TokenRanks tokens;
  std::size_t found = 0;
  for (std::size_t number = 1; !text.empty(); ++number) {
    const std::string_view line = take_line(text);
    if (line.empty()) continue;
    auto parsed = parse_line(line);
    if (!parsed) return fault(number, "expected a token in base64, a space and its rank");
    if (parsed->token.size() > kLongestToken) {
      return fault(number, fmt::format("a token of more than {} bytes", kLongestToken));
    }
    if (parsed->rank >= lines) return fault(number, fmt::format("rank {} leaves out lower ones", parsed->rank));
    if (parsed->rank >= tokens.size()) {
      tokens.resize(parsed->rank + 1);
      known.resize(parsed->rank + 1);
    }
    if (known[parsed->rank]) return fault(number, fmt::format("rank {} for a second time", parsed->rank));
    known[parsed->rank] = true;
    tokens[parsed->rank] = std::move(parsed->token);
    ++found;
  }
  if (found != tokens.size()) {
    const auto missing = std::find(known.begin(), known.end(), false) - known.begin();
    return input_error(fmt::format("{}: no token has rank {}", path, missing));
  }
  std::unordered_map<std::string_view, std::size_t> rank_of;
  for (std::size_t rank = 0; rank < tokens.size(); ++rank) {
    const auto [other, fresh] = rank_of.emplace(tokens[rank], rank);
    if (!fresh) return input_error(fmt::format("{}: ranks {} and {} are the same token", path, other->second, rank));
  }
  return tokens;
}

std::vector<std::string> llama3_special_tokens(bool since_3_1) {
  std::vector<std::string> tokens = {kBegin, kEnd};
  int reserved = 0;
  const auto reserve = [&](int count) {
    for (int i = 0; i < count; ++i) tokens.push_back(fmt::format("<|reserved_special_token_{}|>", reserved++));
  };
  const auto add = [&](std::initializer_list<std::string> names) { tokens.insert(tokens.end(), names); };
  reserve(2);
  if (since_3_1) add({"<|finetune_right_pad_id|>"});
  reserve(since_3_1 ? 1 : 2);
  add({"<|start_header_id|>", "<|end_header_id|>"});
  if (since_3_1) {
    add({"<|eom_id|>", "<|eot_id|>", "<|python_tag|>"});
  } else {
    reserve(1);
    add({"<|eot_id|>"});
  }
  reserve(static_cast<int>(kSpecialTokens - tokens.size()));
  return tokens;
}

std::string llama3_tokenizer_json(const TokenRanks& tokens, const std::vector<std::string>& special) {
  const auto begin = static_cast<std::size_t>(std::find(special.begin(), special.end(), kBegin) - special.begin());
  const ordered_json split = {
      {"type", "Split"}, {"pattern", {{"Regex", kPattern}}}, {"behavior", "Isolated"}, {"invert", false}};
  const ordered_json tokenizer = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", added_tokens(tokens.size(), special)},
      {"normalizer", nullptr},
      {"pre_tokenizer",
       {{"type", "Sequence"}, {"pretokenizers", ordered_json::array({split, byte_level(false, true, false)})}}},
      {"post_processor",
       {{"type", "Sequence"},
        {"processors", ordered_json::array({byte_level(true, false, true), begin_template(tokens.size() + begin)})}}},
      {"decoder", byte_level(true, true, true)},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", nullptr},
        {"continuing_subword_prefix", nullptr},
        {"end_of_word_suffix", nullptr},
        {"fuse_unk", false},
        {"byte_fallback", false},
        {"ignore_merges", true}}}};
  // The two long parts are spelled out here: an ordered object of so many keys would be slow.
  std::string text = tokenizer.dump(2);
  text.resize(text.rfind("\n  }"));
  const auto add = [&](const char* key, char open, char close, std::size_t count, const auto& item) {
    text += fmt::format(",\n    \"{}\": {}", key, open);
    for (std::size_t i = 0; i < count; ++i) text += (i == 0 ? "\n      " : ",\n      ") + item(i);
    if (count > 0) text += "\n    ";
    text += close;
  };
  const std::vector<Merge> merges = find_merges(tokens);
  add("vocab", '{', '}', tokens.size(),
      [&](std::size_t rank) { return spell(tokens[rank]) + ": " + std::to_string(rank); });
  add("merges", '[', ']', merges.size(), [&](std::size_t i) {
    return "[\n        " + spell(merges[i].left) + ",\n        " + spell(merges[i].right) + "\n      ]";
  });
  return text + "\n  }\n}";
}

std::string llama3_tokenizer_config(Index model_max_length) {
  const nlohmann::json config = {{"bos_token", kBegin},
                                 {"clean_up_tokenization_spaces", true},
                                 {"eos_token", kEnd},
                                 {"model_input_names", nlohmann::json::array({"input_ids", "attention_mask"})},
                                 {"model_max_length", model_max_length},
                                 {"tokenizer_class", "PreTrainedTokenizerFast"}};
  return config.dump(2) + "\n";
}

Status convert_tiktoken(const model::Spec& spec, std::vector<Sidecar>& sidecars, std::vector<std::string>& notes) {
  const auto find = [&](std::string_view path) {
    return std::find_if(sidecars.begin(), sidecars.end(), [&](const Sidecar& sidecar) { return sidecar.path == path; });
  };
  const auto stored = find("tokenizer.model");
  if (stored == sidecars.end() || find("tokenizer.json") != sidecars.end()) return {};
  RESHARD_TRY(const std::string text, content_of(*stored));
  if (!is_tiktoken(text)) return {};
  const std::string path = stored->copy_from.empty() ? stored->path : stored->copy_from;
  RESHARD_TRY(const TokenRanks tokens, parse_tiktoken(text, path));
  const Index vocabulary = spec.integer("vocab_size");
  if (static_cast<Index>(tokens.size() + kSpecialTokens) > vocabulary) {
    notes.push_back(
        fmt::format("warning: {}: carried as it is, not made a tokenizer.json: {} tokens and the {} special ones of "
                    "Llama 3 are more "
                    "than the vocabulary of {}; --tokenizer-from names a folder with a tokenizer.json",
                    path, tokens.size(), kSpecialTokens, vocabulary));
    return {};
  }
  const auto rope = spec.fields.find("rope");
  const bool since_3_1 = rope != spec.fields.end() && rope->value("type", "") == "llama3";
  sidecars.erase(stored);
  sidecars.push_back({"tokenizer.json", "", llama3_tokenizer_json(tokens, llama3_special_tokens(since_3_1))});
  if (find("tokenizer_config.json") == sidecars.end()) {
    sidecars.push_back({"tokenizer_config.json", "", llama3_tokenizer_config(spec.integer("max_position_embeddings"))});
  }
  notes.push_back(fmt::format("{}: made a tokenizer.json, with the special tokens of Llama {}", path,
                              since_3_1 ? "3.1 and later" : "3.0"));
  return {};
}

}  // namespace reshard::format
