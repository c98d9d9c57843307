// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <filesystem>

#include "reshard/base/crc32.h"
#include "src/format/probing.h"
#include "tests/support/files.h"
#include "tests/support/naive_checkpoint.h"
#include "tests/support/says.h"

namespace reshard::format {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

Checkpoint open_well(const std::string& path, const SourceOptions& options = {}) {
  auto source = test::open(path, options);
  EXPECT_TRUE(source) << source.error().message;
  return *std::move(source);
}

std::string all_notes(const std::vector<std::string>& notes) {
  std::string text;
  for (const std::string& note : notes) text += note + "\n";
  return text;
}

std::string target_error(const Checkpoint& source, const std::string& format, const TargetOptions& options) {
  const auto target = describe_target(source, format, options, test::library());
  if (target) return "no error";
  EXPECT_EQ(target.error().code, Code::usage);
  return target.error().message;
}

TargetOptions cut(Index tp, const std::string& version = "") {
  TargetOptions options;
  options.mesh.tp = tp;
  options.format_version = version;
  return options;
}

// A torch file with arrays of these names, all zero.
void put_torch(const std::string& path, const std::vector<container::FileSpec::Item>& items) {
  container::FileSpec spec;
  spec.items = items;
  spec.root = fs::path(path).stem().string();
  const auto* torch = container::find("torch");
  const auto image = torch->lay_out(spec);
  ASSERT_TRUE(image) << image.error().message;
  std::string bytes(static_cast<std::size_t>(image->size), '\0');
  const auto put = [&](const std::vector<container::Segment>& segments) {
    for (const auto& segment : segments) {
      bytes.replace(static_cast<std::size_t>(segment.offset), segment.text().size(), segment.text());
    }
  };
  put(image->segments);
  container::DataSums sums;
  for (const container::Extent& extent : image->checked) {
    const std::string zeros(static_cast<std::size_t>(extent.length), '\0');
    sums.crcs.push_back(crc32(0, std::as_bytes(std::span(zeros))));
  }
  put(*torch->finish(spec, *image, sums));
  test::put_file(path, bytes);
}

std::string base_of(const std::string& meta_case) { return meta_case.substr(0, meta_case.rfind("-mp")); }

TEST(Meta, CasesHoldTheirBase) {
  int checked = 0;
  for (const auto& entry : fs::directory_iterator(test::fixture("meta"))) {
    if (!entry.is_directory()) continue;
    const std::string name = entry.path().filename().string();
    SCOPED_TRACE(name);
    const auto source = open_well(entry.path().string());
    EXPECT_EQ(source.format->name(), "meta");
    const auto base = open_well(test::fixture("hf/" + base_of(name)));
    EXPECT_EQ(test::line_values(source), test::line_values(base));
    for (const char* key :
         {"hidden_size", "intermediate_size", "num_key_value_heads", "vocab_size", "tie_word_embeddings", "head_dim"}) {
      EXPECT_EQ(source.probe.spec.fields[key], base.probe.spec.fields[key]) << key;
    }
    ++checked;
  }
  EXPECT_GE(checked, 2);
}

TEST(Meta, GivesEveryRankItsHeads) {
  const test::TemporaryFolder folder;
  json config = json::parse(test::file_bytes(test::fixture("hf/llama-gqa/config.json")));
  config["vocab_size"] = 256;
  test::put_file(folder.path("config.json"), config.dump());
  const auto source = open_well("synthetic:" + folder.path("config.json"));
  for (const Index tp : {1, 2, 4, 8}) {
    SCOPED_TRACE(tp);
    const std::string path = folder.path(std::to_string(tp));
    test::convert_naively(source, "meta", cut(tp), path);
    const json params = json::parse(test::file_bytes(path + "/params.json"));
    EXPECT_EQ(params.value("n_kv_heads", 8), std::max<Index>(4, tp));
    const auto there = open_well(path);
    EXPECT_EQ(there.probe.mesh.tp, tp);
    EXPECT_EQ(there.probe.spec.integer("num_key_value_heads"), 4);
    EXPECT_EQ(test::line_values(there), test::line_values(source));
    EXPECT_EQ(all_notes(there.probe.notes).find("same kv head") != std::string::npos, tp == 8);
    // The same where a config.json says so.
    SourceOptions options;
    options.config_from = folder.path();
    const auto told = open_well(path, options);
    EXPECT_EQ(test::line_values(told), test::line_values(source));
    EXPECT_EQ(all_notes(told.probe.config_notes), "");
  }
  EXPECT_SAYS(target_error(source, "meta", cut(16)), "num_attention_heads (8)");
  EXPECT_SAYS(target_error(source, "meta", cut(3)), "num_attention_heads (8)");
}

TEST(Meta, CutsTheEmbeddingAsTheGenerationDoes) {
  const auto columns = [](const Checkpoint& source, const TargetOptions& options) {
    const auto target = describe_target(source, "meta", options, test::library());
    EXPECT_TRUE(target) << target.error().message;
    for (const auto& item : target->files.front().spec.items) {
      if (item.name == "tok_embeddings.weight") return item.shape[1] < source.probe.spec.integer("hidden_size");
    }
    ADD_FAILURE() << "no embedding";
    return false;
  };
  const test::TemporaryFolder folder;
  const auto model = [&](const json& changes) {
    json config = json::parse(test::file_bytes(test::fixture("hf/llama-gqa/config.json")));
    config["vocab_size"] = 256;
    config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 10000.0}};
    config.update(changes);
    test::put_file(folder.path("config.json"), config.dump());
    return open_well("synthetic:" + folder.path("config.json"));
  };
  const auto theta = [](double value) { return json{{"rope_type", "default"}, {"rope_theta", value}}; };
  const json scaled = {{"rope_type", "llama3"},  {"rope_theta", 5e5},       {"factor", 8.0},
                       {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 8192}};
  EXPECT_TRUE(columns(model(json::object()), cut(2)));
  EXPECT_FALSE(columns(model(json::object()), cut(2, "3")));
  EXPECT_FALSE(columns(model(json::object()), cut(1)));
  EXPECT_TRUE(columns(model({{"rope_parameters", theta(1e6)}}), cut(2)));  // Code Llama
  EXPECT_FALSE(columns(model({{"rope_parameters", theta(5e5)}}), cut(2)));
  EXPECT_TRUE(columns(model({{"rope_parameters", theta(5e5)}, {"num_key_value_heads", 8}}), cut(2)));
  EXPECT_FALSE(columns(model({{"vocab_size", 128256}}), cut(2)));
  EXPECT_FALSE(columns(model({{"rope_parameters", scaled}}), cut(2)));
  EXPECT_TRUE(columns(model({{"rope_parameters", scaled}}), cut(2, "2")));
  EXPECT_FALSE(columns(model({{"tie_word_embeddings", true}}), cut(2)));
  EXPECT_SAYS(target_error(model({{"tie_word_embeddings", true}}), "meta", cut(2, "2")), "--format-version 3");
  EXPECT_SAYS(target_error(model(json::object()), "meta", cut(2, "1.5")), "--format-version 1.5");
}

TEST(Meta, WritesRopeFreqsAsLlamaTwoHasThem) {
  const auto old = describe_target(open_well(test::fixture("hf/llama-mha")), "meta", {}, test::library());
  ASSERT_TRUE(old) << old.error().message;
  const container::FileSpec::Item& item = old->files.front().spec.items.back();
  EXPECT_EQ(item.name, "rope.freqs");
  EXPECT_EQ(item.dtype, DType::bf16);
  EXPECT_EQ(item.shape, Shape{4});
  EXPECT_EQ(*item.content, std::string("\x80\x3f\xcd\x3d\x24\x3c\x83\x3a", 8));  // 1, 0.1, 0.01, 0.001
  const auto current = describe_target(open_well(test::fixture("hf/llama-gqa")), "meta", {}, test::library());
  ASSERT_TRUE(current) << current.error().message;
  EXPECT_NE(current->files.front().spec.items.back().name, "rope.freqs");
}

// The published files hold 1137 tensors, with 16 kv heads on 16 ranks.
TEST(Meta, HasThePublishedSizes) {
  const auto source = open_well("synthetic:llama3-405b");
  for (const auto& [tp, expected] : {std::pair<Index, Index>{8, 101470601216}, {16, 51267928064}}) {
    const auto target = describe_target(source, "meta", cut(tp), test::library());
    ASSERT_TRUE(target) << target.error().message;
    ASSERT_EQ(std::ssize(target->files), tp);
    for (const TargetFile& file : target->files) {
      EXPECT_EQ(file.spec.items.size(), 1137U);
      Index bytes = 0;
      for (const auto& item : file.spec.items) bytes += *num_elements(item.shape) * bytes_of(item.dtype);
      EXPECT_EQ(bytes, expected);
    }
  }
}

TEST(Meta, ResizingKeepsWhatTheSourceSays) {
  const test::TemporaryFolder folder;
  const auto source = open_well(test::fixture("hf/llama-mha-v256"));
  test::convert_naively(source, "meta", cut(8, "3"), folder.path("8"));
  json params = json::parse(test::file_bytes(folder.path("8/params.json")));
  params["multiple_of"] = 8;
  params["ffn_dim_multiplier"] = 1.03;
  test::put_file(folder.path("8/params.json"), params.dump());
  const auto eight = open_well(folder.path("8"));
  test::convert_naively(eight, "meta", cut(2), folder.path("2"));
  EXPECT_EQ(json::parse(test::file_bytes(folder.path("2/params.json"))), params);
  const auto two = open_well(folder.path("2"));
  EXPECT_EQ(two.probe.spec.facts["meta_embedding_by_rows"], true);
  EXPECT_EQ(test::line_values(two), test::line_values(source));
}

// llama-cookbook cuts with torch.chunk, whatever the number of rows.
TEST(Meta, ReadsUnevenShards) {
  const auto source = open_well(test::fixture("hf/llama-mha"));
  EXPECT_SAYS(target_error(source, "meta", cut(2)), "vocab_size (259)");
  const test::TemporaryFolder folder;
  for (const Index columns : {0, 1}) {
    SCOPED_TRACE(columns);
    layout::Scope scope = test::library().options("meta");
    scope.numbers["chunked"] = 1;
    scope.numbers["embed_columns"] = columns;
    auto layout = layout::Layout::predict(source.canon, *test::library().table("llama", "meta"), {2, 1, 1, 1},
                                          layout::place_evenly(2, 1), DType::bf16, scope);
    ASSERT_TRUE(layout) << layout.error().message;
    Target target;
    target.format = find("meta", test::library());
    target.layout = std::make_shared<const layout::Layout>(*std::move(layout));
    target.files = group_by_file(*target.layout);
    target.file_of_array.resize(target.layout->arrays().size());
    target.offset_of_array.resize(target.layout->arrays().size());
    for (std::uint32_t f = 0; f < target.files.size(); ++f) {
      target.images.push_back(*container::find("torch")->lay_out(target.files[f].spec));
      for (std::size_t i = 0; i < target.files[f].arrays.size(); ++i) {
        target.file_of_array[target.files[f].arrays[i]] = f;
        target.offset_of_array[target.files[f].arrays[i]] = target.images[f].offsets[i];
      }
    }
    target.sidecars = {{"params.json", "", R"({"dim": 64, "n_layers": 2, "n_heads": 8, "multiple_of": 16,
                        "norm_eps": 1e-06, "vocab_size": -1})"}};
    const std::string path = folder.path(std::to_string(columns));
    test::write_checkpoint(target, test::line_values(source), path);
    const auto there = open_well(path);
    EXPECT_EQ(there.probe.spec.integer("vocab_size"), 259);
    std::vector<Index> rows;
    for (const auto& entry : there.probe.directory.entries) {
      if (entry.entry.name == "output.weight") rows.push_back(entry.entry.shape[0]);
    }
    EXPECT_EQ(rows, (std::vector<Index>{130, 129}));
    EXPECT_EQ(test::line_values(there), test::line_values(source));
  }
}

TEST(Meta, IsDetected) {
  const test::TemporaryFolder folder;
  const std::string meta = test::fixture("meta/llama-tied-mp1");
  EXPECT_EQ(open_well(meta).format->name(), "meta");
  EXPECT_EQ(open_well(meta + "/consolidated.00.pth").format->name(), "meta");
  EXPECT_EQ(open_well(meta + "/consolidated.00.pth").probe.directory.root, meta);
  fs::copy(meta, folder.path("renamed"));
  fs::rename(folder.path("renamed/consolidated.00.pth"), folder.path("renamed/consolidated.pth"));
  EXPECT_EQ(test::line_values(open_well(folder.path("renamed"))), test::line_values(open_well(meta)));
  // Its folder in a repository of Hugging Face's does not hide what lies beside it.
  fs::copy(test::fixture("hf/llama-tied"), folder.path("hf"));
  fs::copy(meta, folder.path("hf/original"));
  EXPECT_EQ(open_well(folder.path("hf")).format->name(), "hf");
}

TEST(Meta, IncompleteOnesAreRefused) {
  const test::TemporaryFolder folder;
  int copies = 0;
  const auto copy = [&] {
    const std::string path = folder.path(std::to_string(copies++));
    fs::copy(test::fixture("meta/llama-mha-v256-mp2-flat"), path);
    return path;
  };
  std::string path = copy();
  EXPECT_SAYS(test::open_error(path + "/consolidated.01.pth"), "is one of 2 files");
  fs::remove(path + "/consolidated.00.pth");
  EXPECT_SAYS(test::open_error(path), "consolidated.00.pth is missing, but there is consolidated.01.pth");
  path = copy();
  fs::remove(path + "/consolidated.01.pth");
  EXPECT_SAYS(test::open_error(path), path + "/consolidated.01.pth is missing: ");
  EXPECT_SAYS(test::open_error(path), "of 2 ranks");
  SourceOptions config;
  config.config_from = test::fixture("meta/llama-mha-v256-mp2-flat");
  EXPECT_SAYS(test::open_error(path, config), "/consolidated.01.pth is missing: ");
  path = copy();
  test::put_file(path + "/params.json", R"({"dim": 128, "n_layers": 2, "n_heads": 8, "multiple_of": 16})");
  EXPECT_SAYS(test::open_error(path), "has shape");  // a config of another model: all files are there
  path = copy();
  fs::remove(path + "/params.json");
  EXPECT_SAYS(test::open_error(path), "has no params.json");
  EXPECT_SAYS(test::open_error(path), "--config-from");
  path = copy();
  fs::copy(path + "/consolidated.00.pth", path + "/consolidated.pth");
  EXPECT_SAYS(test::open_error(path), "two checkpoints");
  path = copy();
  test::put_file(path + "/fp8_scales_0.pt", "");
  EXPECT_SAYS(test::open_error(path), "fp8");
  path = copy();
  test::put_file(path + "/params.json", R"({"dim": 64, "n_layers": 2, "n_heads": 8, "multiple_of": 32})");
  EXPECT_SAYS(test::open_error(path), "feed_forward.w1.weight has shape");
  SourceOptions step;
  step.step = 3;
  EXPECT_SAYS(test::open_error(copy(), step, Code::usage), "--step 3");
  SourceOptions vocabulary;
  vocabulary.vocab_size = 200;
  EXPECT_SAYS(test::open_error(copy(), vocabulary, Code::usage), "--vocab-size 200");
}

TEST(Meta, OtherModelsAreRefused) {
  const test::TemporaryFolder folder;
  const auto error = [&](const std::string& tensor, DType dtype = DType::bf16) {
    put_torch(folder.path("m/consolidated.00.pth"), {{tensor, dtype, {4, 4}}});
    test::put_file(folder.path("m/params.json"), R"({"dim": 4, "n_layers": 1, "n_heads": 2, "vocab_size": 4})");
    return test::open_error(folder.path("m"));
  };
  EXPECT_SAYS(error("layers.0.attention.wqkv.weight"), "Llama 4");
  EXPECT_SAYS(error("layers.0.feed_forward.experts.moe_w_in_eD_F"), "Llama 4");
  EXPECT_SAYS(error("vision_model.x"), "vision");
  EXPECT_SAYS(error("text_model.layers.0.attention.wq.weight"), "vision");
  EXPECT_SAYS(error("layers.0.feed_forward.w1.weight", DType::f8_e4m3), "fp8");
  EXPECT_SAYS(error("layers.0.attention.wq.weight"), "tensor output.weight is missing");
  put_torch(folder.path("m/consolidated.00.pth"), {{"norm.weight", DType::bf16, {4}}});
  test::put_file(folder.path("m/params.json"), R"({"dim": 4, "n_layers": 1, "n_heads": 2})");
  EXPECT_SAYS(test::open_error(folder.path("m")), "vocab_size");
}

TEST(Meta, SaysWhatItAssumes) {
  const auto source = open_well(test::fixture("meta/llama-tied-mp1"));
  EXPECT_SAYS(all_notes(source.probe.config_notes), "max_position_embeddings 4096");
  EXPECT_SAYS(all_notes(source.probe.config_notes), "--config-from");
  SourceOptions options;
  options.config_from = test::fixture("hf/llama-tied");
  const auto told = open_well(test::fixture("meta/llama-tied-mp1"), options);
  EXPECT_EQ(all_notes(told.probe.config_notes).find("max_position"), std::string::npos);
  EXPECT_EQ(told.probe.spec.integer("max_position_embeddings"), 512);
  EXPECT_TRUE(told.probe.spec.flag("tie_word_embeddings"));
}

TEST(Meta, WarnsOfAMissingTokenizer) {
  const test::TemporaryFolder folder;
  const auto notes = [](const std::string& path, const std::string& format, const SourceOptions& options = {}) {
    const auto target = describe_target(open_well(path, options), format, {}, test::library());
    EXPECT_TRUE(target) << target.error().message;
    return all_notes(target->notes);
  };
  const std::string meta = test::fixture("meta/llama-tied-mp1"), hf = test::fixture("hf/llama-tied");
  const std::string none = "the source has no tokenizer to carry along; --tokenizer-from";
  for (const char* format : {"hf", "hf_bin"}) EXPECT_SAYS(notes(meta, format), "warning: " + none);
  EXPECT_SAYS(notes(hf, "meta"), "warning: " + none);
  // Nothing is lost, or nobody looks for one there.
  for (const std::string& told : {notes(meta, "meta"), notes(hf, "hf"), notes(meta, "hdf5"), notes(hf, "fairseq2")}) {
    EXPECT_SAYS(told, none);
    EXPECT_EQ(told.find("warning: the source"), std::string::npos) << told;
  }
  SourceOptions options;
  options.tokenizer_from = folder.path();
  test::put_file(folder.path("tokenizer.json"), "{}");
  EXPECT_EQ(notes(meta, "hf", options).find("no tokenizer"), std::string::npos);
  EXPECT_SAYS(notes(hf, "meta", options), "warning: meta: there is no tokenizer.model");
  test::put_file(folder.path("tokenizer.model"), "");
  EXPECT_EQ(notes(hf, "meta", options).find("no tokenizer"), std::string::npos);
}

TEST(Meta, ParamsOfFairseq2HaveAConfigBesideThem) {
  const auto source = open_well(test::fixture("hf/llama-tied"));
  TargetOptions options;
  const auto config = [&]() -> json {
    const auto target = describe_target(source, "meta", options, test::library());
    EXPECT_TRUE(target) << target.error().message;
    for (const Sidecar& file : target->sidecars) {
      if (file.path == "config.json") return json::parse(file.text);
    }
    return nullptr;
  };
  EXPECT_TRUE(config().is_null());
  options.params_style = "fairseq2";
  const json written = config(), base = json::parse(test::file_bytes(test::fixture("hf/llama-tied/config.json")));
  EXPECT_EQ(written.at("architectures"), json::array({"Fairseq2LlamaForCausalLM"}));
  for (const char* key : {"model_type", "hidden_size", "vocab_size", "tie_word_embeddings", "max_position_embeddings",
                          "rms_norm_eps"}) {  // not fairseq2's own 1e-5
    EXPECT_EQ(written.at(key), base.at(key)) << key;
  }
}

TEST(Meta, WarnsWhereAnotherConfigSaysOtherwise) {
  const test::TemporaryFolder folder;
  const std::string meta = test::fixture("meta/llama-mha-v256-mp2-flat"), base = test::fixture("hf/llama-mha-v256");
  json config = json::parse(test::file_bytes(base + "/config.json"));
  const auto warnings = [&](const json& changes) {
    json changed = config;
    changed.update(changes);
    test::put_file(folder.path("config.json"), changed.dump());
    SourceOptions options;
    options.config_from = folder.path("config.json");
    return all_notes(open_well(meta, options).probe.config_notes);
  };
  const double eps = json::parse(test::file_bytes(meta + "/params.json")).at("norm_eps");
  EXPECT_EQ(warnings({{"rms_norm_eps", eps}}).find("warning: "), std::string::npos) << warnings({});
  const std::string warning = warnings({{"rms_norm_eps", 0.5}, {"max_position_embeddings", 77}});
  EXPECT_SAYS(warning, "warning: " + folder.path("config.json") + " replaces " + meta + "/params.json");
  EXPECT_SAYS(warning, "rms_norm_eps 1e-06 becomes 0.5");
  EXPECT_EQ(warning.find("max_position"), std::string::npos);  // params.json says nothing about it
  // What the tensors contradict is an error, as before.
  test::put_file(folder.path("params.json"), R"({"dim": 64, "n_layers": 3, "n_heads": 8, "multiple_of": 16})");
  SourceOptions options;
  options.config_from = folder.path("params.json");
  EXPECT_SAYS(test::open_error(meta, options), "is missing, expected");
}

TEST(HfBin, CasesHoldTheirBase) {
  int checked = 0;
  for (const auto& entry : fs::directory_iterator(test::fixture("hf"))) {
    const std::string name = entry.path().filename().string();
    if (name.find("-bin") == std::string::npos) continue;
    SCOPED_TRACE(name);
    const auto source = open_well(entry.path().string());
    EXPECT_EQ(source.format->name(), "hf_bin");
    const auto base = open_well(test::fixture("hf/" + name.substr(0, name.find("-bin"))));
    EXPECT_EQ(test::line_values(source), test::line_values(base));
    EXPECT_EQ(all_notes(source.probe.notes).find("total_size"), std::string::npos);
    ++checked;
  }
  EXPECT_GE(checked, 1);
}

TEST(HfBin, FilesThatDoNotFitTogetherAreRefused) {
  const test::TemporaryFolder folder;
  fs::copy(test::fixture("hf/llama-tied-bin-sharded"), folder.path("m"));
  const std::string shard = folder.path("m/pytorch_model-00002-of-00003.bin");
  fs::rename(shard, folder.path("elsewhere.bin"));
  EXPECT_SAYS(test::open_error(folder.path("m")), "names pytorch_model-00002-of-00003.bin, which is not there");
  fs::rename(folder.path("elsewhere.bin"), shard);
  fs::remove(folder.path("m/pytorch_model.bin.index.json"));
  SourceOptions options;
  options.from = "hf_bin";
  const std::string orphan = "pytorch_model-00001-of-00003.bin has no index beside it: pytorch_model.bin.index.json";
  EXPECT_SAYS(test::open_error(folder.path("m"), options), orphan);
  EXPECT_SAYS(test::open_error(folder.path("m")), orphan);
  options.from = "hf";
  EXPECT_SAYS(test::open_error(folder.path("m"), options), "leave --from away");
}

}  // namespace
}  // namespace reshard::format
