// SPDX-License-Identifier: Apache-2.0
#include "src/format/hf_shards.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>

#include "src/format/hf_cache.h"
#include "tests/support/files.h"
#include "tests/support/naive_checkpoint.h"
#include "tests/support/says.h"

namespace reshard::format {
namespace {

using Shards = std::vector<std::vector<std::size_t>>;

TEST(HfShards, FillsFilesInOrder) {
  EXPECT_EQ(deal_to_shards({40, 60, 1, 99, 50, 50}, 100), (Shards{{0, 1}, {2, 3}, {4, 5}}));
  EXPECT_EQ(deal_to_shards({100}, 100), (Shards{{0}}));
  EXPECT_EQ(deal_to_shards({60, 60, 60}, 100), (Shards{{0}, {1}, {2}}));
  EXPECT_EQ(deal_to_shards({}, 100), Shards{});
}

// The open file stays open beside a large array, and is numbered when it is closed.
TEST(HfShards, GivesLargeArraysFilesOfTheirOwn) {
  EXPECT_EQ(deal_to_shards({40, 500, 60, 10}, 100), (Shards{{1}, {0, 2}, {3}}));
  EXPECT_EQ(deal_to_shards({500, 600}, 100), (Shards{{0}, {1}}));
}

TEST(HfShards, NamesFiles) {
  const ShardNames& names = *shard_names("safetensors");
  EXPECT_EQ(names.shard(0, 1), "model.safetensors");
  EXPECT_EQ(names.shard(1, 12), "model-00002-of-00012.safetensors");
  EXPECT_EQ(names.index(), "model.safetensors.index.json");
  EXPECT_TRUE(names.is_shard("model-00002-of-00012.safetensors"));
  EXPECT_FALSE(names.is_shard("model-2-of-12.safetensors"));
  EXPECT_FALSE(names.is_shard("pytorch_model-00002-of-00012.bin"));
  const ShardNames& torch = *shard_names("torch");
  EXPECT_EQ(torch.shard(0, 1), "pytorch_model.bin");
  EXPECT_EQ(torch.shard(0, 3), "pytorch_model-00001-of-00003.bin");
  EXPECT_EQ(torch.index(), "pytorch_model.bin.index.json");
  EXPECT_EQ(shard_names("hdf5"), nullptr);
}

TEST(HfShards, WritesTheIndexAsTransformersDoes) {
  const auto source = test::open(test::fixture("hf/llama-gqa-sharded"));
  ASSERT_TRUE(source) << source.error().message;
  TargetOptions options;
  options.max_shard_size = 100'000;
  const auto target = describe_target(*source, "hf", options, test::library());
  ASSERT_TRUE(target) << target.error().message;
  ASSERT_EQ(target->sidecars.at(1).path, "model.safetensors.index.json");
  EXPECT_EQ(target->sidecars.at(1).text,
            test::file_bytes(test::fixture("hf/llama-gqa-sharded/model.safetensors.index.json")));
}

std::vector<Index> planned_sizes(const std::string& model) {
  const auto source = test::open("synthetic:" + model);
  EXPECT_TRUE(source) << source.error().message;
  const auto target = describe_target(*source, "hf", {}, test::library());
  EXPECT_TRUE(target) << target.error().message;
  std::vector<Index> sizes;
  for (const container::FileImage& image : target->images) sizes.push_back(image.size);
  return sizes;
}

// The published files of Meta-Llama-3-8B.
TEST(HfShards, HaveThePublishedSizes) {
  EXPECT_EQ(planned_sizes("llama3-8b"), (std::vector<Index>{4976698672, 4999802720, 4915916176, 1168138808}));
  EXPECT_EQ(planned_sizes("llama3-70b").size(), 30u);
  EXPECT_EQ(planned_sizes("llama3-405b").size(), 191u);
}

TEST(HfCache, ReadsHubNames) {
  const auto name = parse_hub_name("meta-llama/Llama-3.2-1B@refs/pr/3");
  ASSERT_TRUE(name);
  EXPECT_EQ(name->repo, "meta-llama/Llama-3.2-1B");
  EXPECT_EQ(name->revision, "refs/pr/3");
  EXPECT_EQ(parse_hub_name("a/b")->revision, "main");
  for (const char* other : {"", "a", "a/b/c", "/a/b", "../b", "a/..", "a/b@", "a/b@../x", "a/b@x/", "a b/c"}) {
    EXPECT_FALSE(parse_hub_name(other)) << other;
  }
}

TEST(HfCache, FindsSnapshots) {
  namespace fs = std::filesystem;
  const test::TemporaryFolder cache;
  const std::string repo = cache.path("models--org--name");
  fs::create_directories(repo + "/snapshots/0123abcd");
  test::put_file(repo + "/refs/main", "0123abcd");
  test::put_file(repo + "/refs/evil", "../../..");
  EXPECT_EQ(*find_snapshot({"org/name", "main"}, cache.path()), repo + "/snapshots/0123abcd");
  EXPECT_EQ(*find_snapshot({"org/name", "0123abcd"}, cache.path()), repo + "/snapshots/0123abcd");
  for (const HubName& absent : {HubName{"org/other", "main"}, HubName{"org/name", "evil"}, HubName{"org/name", "v2"}}) {
    const auto found = find_snapshot(absent, cache.path());
    ASSERT_FALSE(found);
    EXPECT_EQ(found.error().code, Code::input);
    EXPECT_SAYS(found.error().message, "hf download " + absent.repo);
  }
}

// A snapshot consists of links into the blobs beside it.
TEST(HfCache, OpensSnapshots) {
  namespace fs = std::filesystem;
  const test::TemporaryFolder cache;
  const std::string repo = cache.path("models--org--name");
  fs::create_directories(repo + "/blobs");
  fs::create_directories(repo + "/snapshots/0123abcd");
  test::put_file(repo + "/refs/main", "0123abcd");
  int blob = 0;
  for (const auto& file : fs::directory_iterator(test::fixture("hf/llama-tied"))) {
    const std::string name = std::to_string(blob++);
    fs::copy_file(file.path(), repo + "/blobs/" + name);
    fs::create_symlink("../../blobs/" + name, repo + "/snapshots/0123abcd/" + file.path().filename().string());
  }
  ::setenv("HF_HUB_CACHE", cache.path().c_str(), 1);
  const auto opened = test::open("org/name");
  const std::string absent = test::open_error("org/absent");
  ::unsetenv("HF_HUB_CACHE");
  ASSERT_TRUE(opened) << opened.error().message;
  const auto plain = test::open(test::fixture("hf/llama-tied"));
  EXPECT_EQ(test::line_values(*opened), test::line_values(*plain));
  EXPECT_EQ(opened->probe.carried.size(), 1u);
  EXPECT_SAYS(absent, "hf download org/absent");
}

// Whatever else is wrong with a snapshot that was fetched in part, the command that fetches the rest is named.
TEST(HfCache, NamesTheCommandThatFetchesTheRest) {
  namespace fs = std::filesystem;
  const test::TemporaryFolder cache;
  const std::string snapshot = cache.path("models--org--name/snapshots/0123abcd");
  test::put_file(cache.path("models--org--name/refs/main"), "0123abcd");
  ::setenv("HF_HUB_CACHE", cache.path().c_str(), 1);
  const auto error_of = [&](const std::function<void()>& change, const std::string& name = "org/name") {
    fs::remove_all(snapshot);
    fs::create_directories(snapshot);
    fs::copy(test::fixture("hf/llama-gqa-sharded"), snapshot);
    change();
    return test::open_error(name);
  };
  const auto leave = [&](const std::string& only) {
    for (const auto& file : fs::directory_iterator(snapshot)) {
      if (file.path().filename() != only) fs::remove(file.path());
    }
  };
  const std::string shard = snapshot + "/model-00002-of-00005.safetensors",
                    advice = "; to fetch what is missing: hf download org/name";
  EXPECT_SAYS(error_of([&] { leave("config.json"); }), advice);  // as AutoConfig leaves it
  EXPECT_SAYS(error_of([&] { leave("model-00001-of-00005.safetensors"); }), advice);
  EXPECT_SAYS(error_of([&] { leave(""); }), advice);
  EXPECT_SAYS(error_of([&] {
                leave("config.json");
                test::put_file(snapshot + "/original/consolidated.00.pth", "");
              }),
              advice);
  EXPECT_SAYS(error_of([&] { fs::remove(shard); }), "which is not there" + advice);
  EXPECT_SAYS(error_of([&] { fs::remove(shard); }, "org/name@0123abcd"), advice + " --revision 0123abcd");
  const auto dangle = [&](const std::string& file) {
    fs::remove(file);
    fs::create_symlink("../../blobs/gone", file);
  };
  EXPECT_SAYS(error_of([&] { dangle(shard); }), advice);
  EXPECT_SAYS(error_of([&] { dangle(snapshot + "/config.json"); }), advice);
  EXPECT_SAYS(error_of([&] { dangle(snapshot + "/model.safetensors.index.json"); }), advice);
  // Nothing is missing of these.
  EXPECT_EQ(error_of([&] { test::put_file(snapshot + "/config.json", "{}"); }).find("hf download"), std::string::npos);
  EXPECT_EQ(error_of([&] { fs::resize_file(shard, 9); }).find("hf download"), std::string::npos);
  EXPECT_EQ(error_of([&] {
              test::put_file(
                  snapshot + "/pytorch_model.bin.index.json",
                  R"({"metadata": {}, "weight_map": {"lm_head.weight": "pytorch_model-00001-of-00002.bin"}})");
              fs::resize_file(shard, 9);
            }).find("hf download"),
            std::string::npos);
  const auto other_format = [&](const std::string& config, const std::string& weights) {
    return error_of([&] {
      leave("");
      test::put_file(snapshot + "/" + config, "{}");
      test::put_file(snapshot + "/" + weights, "");
    });
  };
  EXPECT_EQ(other_format("params.json", "consolidated.00.pth").find("hf download"), std::string::npos);
  EXPECT_EQ(other_format("model_config.json", "model/lm_head/weight.safetensors").find("hf download"),
            std::string::npos);
  EXPECT_EQ(other_format("README.md", "llama3.pth").find("hf download"), std::string::npos);
  ::unsetenv("HF_HUB_CACHE");
}

}  // namespace
}  // namespace reshard::format
