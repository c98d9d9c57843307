// SPDX-License-Identifier: Apache-2.0
#include "src/format/tiktoken.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tests/support/files.h"
#include "tests/support/paths.h"
#include "tests/support/says.h"

namespace reshard::format {
namespace {

using nlohmann::json;

std::string data(const std::string& file) {
  return test::file_bytes(test::source_dir() + "/tests/data/tiktoken/" + file);
}

std::string parse_error(std::string_view text) {
  const auto tokens = parse_tiktoken(text, "tokenizer.model");
  return tokens ? "no error" : tokens.error().message;
}

TEST(Tiktoken, IsToldFromOtherTokenizers) {
  EXPECT_TRUE(is_tiktoken("IQ== 0\nIg== 1\n"));
  EXPECT_TRUE(is_tiktoken("IQ== 0\r\n"));
  for (const char* other :
       {"", "\n", "IQ==", "IQ== x", "IQ= 0", "I!== 0", "\x0a\x0e\x0a\x05<unk>", "{\"version\": 1}"}) {
    EXPECT_FALSE(is_tiktoken(other)) << other;
  }
}

TEST(Tiktoken, IsParsed) {
  const auto tokens = parse_tiktoken("YWI= 2\nYQ== 0\n\nYg== 1", "");
  ASSERT_TRUE(tokens) << tokens.error().message;
  EXPECT_EQ(*tokens, (TokenRanks{"a", "b", "ab"}));
  EXPECT_EQ(parse_tiktoken("YWJj 0\n", "")->front(), "abc");
}

TEST(Tiktoken, BrokenOnesAreRefused) {
  EXPECT_SAYS(parse_error("YQ== 0\nb 1\n"), "tokenizer.model: line 2: expected a token in base64");
  EXPECT_SAYS(parse_error("YQ== 0\nYg== 0\n"), "line 2: rank 0 for a second time");
  EXPECT_SAYS(parse_error("YQ== 0\nYg== 900000000000\n"), "line 2: rank 900000000000 leaves out lower ones");
  EXPECT_SAYS(parse_error("YQ== 0\nYg== 2\n"), "no token has rank 1");
  EXPECT_SAYS(parse_error("YQ== 0\nYQ== 1\n"), "ranks 0 and 1 are the same token");
  EXPECT_SAYS(parse_error("YQ== -1\n"), "line 1");
  std::string long_token;
  for (int i = 0; i < 200; ++i) long_token += "YWJj";
  EXPECT_SAYS(parse_error(long_token + " 0\n"), "line 1: a token of more than 512 bytes");
}

// tests/data/tiktoken holds what transformers' converter makes of a small vocabulary.
TEST(Tiktoken, BecomesWhatTransformersMakesOfIt) {
  const auto tokens = parse_tiktoken(data("tokenizer.model"), "tokenizer.model");
  ASSERT_TRUE(tokens) << tokens.error().message;
  EXPECT_EQ(tokens->size(), 300U);
  const std::string ours = llama3_tokenizer_json(*tokens, llama3_special_tokens(true));
  EXPECT_EQ(json::parse(ours), json::parse(data("tokenizer.json")));
  EXPECT_TRUE(ours == data("tokenizer.json"));
  json config = json::parse(llama3_tokenizer_config(131072)), expected = json::parse(data("tokenizer_config.json"));
  // Its version 5 renamed the class, which it still knows under the name that version 4 knows.
  EXPECT_EQ(config["tokenizer_class"], "PreTrainedTokenizerFast");
  for (const char* key : {"tokenizer_class", "backend"}) {
    config.erase(key);
    expected.erase(key);
  }
  EXPECT_EQ(config, expected);
}

TEST(Tiktoken, SpecialTokensAreThoseOfTheRelease) {
  const auto old = llama3_special_tokens(false), current = llama3_special_tokens(true);
  const auto id = [](const std::vector<std::string>& tokens, const std::string& name) {
    return 128000 + (std::find(tokens.begin(), tokens.end(), name) - tokens.begin());
  };
  EXPECT_EQ(old.size(), 256U);
  EXPECT_EQ(id(old, "<|reserved_special_token_3|>"), 128005);
  EXPECT_EQ(id(old, "<|start_header_id|>"), 128006);
  EXPECT_EQ(id(old, "<|end_header_id|>"), 128007);
  EXPECT_EQ(id(old, "<|reserved_special_token_4|>"), 128008);
  EXPECT_EQ(id(old, "<|eot_id|>"), 128009);
  EXPECT_EQ(old.back(), "<|reserved_special_token_250|>");
  EXPECT_EQ(current.size(), 256U);
  EXPECT_EQ(id(current, "<|finetune_right_pad_id|>"), 128004);
  EXPECT_EQ(id(current, "<|reserved_special_token_2|>"), 128005);
  EXPECT_EQ(id(current, "<|eom_id|>"), 128008);
  EXPECT_EQ(id(current, "<|eot_id|>"), 128009);
  EXPECT_EQ(id(current, "<|python_tag|>"), 128010);
  EXPECT_EQ(current.back(), "<|reserved_special_token_247|>");
}

TEST(Tiktoken, IsConvertedOnlyWhereItFits) {
  const std::string model = data("tokenizer.model");
  model::Spec spec;
  spec.fields = {{"vocab_size", 556}, {"max_position_embeddings", 8192}, {"rope", {{"type", "default"}}}};
  const auto converted = [&](std::vector<Sidecar> sidecars, std::string* told = nullptr) {
    std::vector<std::string> notes;
    EXPECT_TRUE(convert_tiktoken(spec, sidecars, notes));
    if (told != nullptr) *told = notes.empty() ? "" : notes.front();
    std::vector<std::string> paths;
    for (const Sidecar& sidecar : sidecars) paths.push_back(sidecar.path);
    return paths;
  };
  using Paths = std::vector<std::string>;
  std::string told;
  EXPECT_EQ(converted({{"LICENSE", "", "x"}, {"tokenizer.model", "", model}}, &told),
            (Paths{"LICENSE", "tokenizer.json", "tokenizer_config.json"}));
  EXPECT_SAYS(told, "Llama 3.0");
  EXPECT_EQ(converted({{"tokenizer.json", "", "{}"}, {"tokenizer.model", "", model}}),
            (Paths{"tokenizer.json", "tokenizer.model"}));
  EXPECT_EQ(converted({{"tokenizer.model", "", "\x0a\x0e"}}), (Paths{"tokenizer.model"}));
  spec.fields["vocab_size"] = 555;
  EXPECT_EQ(converted({{"tokenizer.model", "", model}}, &told), (Paths{"tokenizer.model"}));
  EXPECT_SAYS(told, "--tokenizer-from");
}

}  // namespace
}  // namespace reshard::format
