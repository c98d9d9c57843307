// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "src/format/directory.h"
#include "tests/support/files.h"
#include "tests/support/naive_checkpoint.h"
#include "tests/support/says.h"
#include "tests/support/zip_files.h"

namespace reshard::format {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

Checkpoint open_well(const std::string& path, const SourceOptions& options = {}) {
  auto source = test::open(path, options);
  EXPECT_TRUE(source) << source.error().message;
  return *std::move(source);
}

std::string target_error(const Checkpoint& source, const std::string& format, const TargetOptions& options = {}) {
  const auto target = describe_target(source, format, options, test::library());
  if (target) return "no error";
  EXPECT_EQ(target.error().code, Code::usage);
  return target.error().message;
}

std::string all_notes(const std::vector<std::string>& notes) {
  std::string text;
  for (const std::string& note : notes) text += note + "\n";
  return text;
}

// A copy of a committed model with some tensors added or replaced and keys of its config changed.
struct Edited {
  struct Tensor {
    std::string name, bytes;
    DType dtype;
    Shape shape;
  };

  explicit Edited(const std::string& fixture_case) {
    const std::string from = test::fixture("hf/" + fixture_case);
    config = json::parse(test::file_bytes(from + "/config.json"));
    const auto source = io::open_source(from, "model.safetensors", io::Follow::cache, {});
    const auto directory = container::find("safetensors")->read_directory(**source, from);
    for (const container::Entry& entry : directory->entries) {
      std::string bytes(static_cast<std::size_t>(entry.length), '\0');
      EXPECT_TRUE((*source)->read_at(std::as_writable_bytes(std::span(bytes)), entry.offset));
      tensors.push_back({entry.name, std::move(bytes), entry.dtype, entry.shape});
    }
  }

  Tensor& at(const std::string& name) {
    for (Tensor& tensor : tensors) {
      if (tensor.name == name) return tensor;
    }
    throw std::runtime_error("no tensor " + name);
  }

  std::string write() const {
    container::FileSpec spec;
    for (const Tensor& tensor : tensors) spec.items.push_back({tensor.name, tensor.dtype, tensor.shape});
    const auto image = container::find("safetensors")->lay_out(spec);
    std::string file(static_cast<std::size_t>(image->size), '\0');
    for (const auto& segment : image->segments)
      file.replace(static_cast<std::size_t>(segment.offset), segment.bytes.size(), segment.bytes);
    for (std::size_t i = 0; i < tensors.size(); ++i)
      file.replace(static_cast<std::size_t>(image->offsets[i]), tensors[i].bytes.size(), tensors[i].bytes);
    test::put_file(folder.path("model.safetensors"), file);
    test::put_file(folder.path("config.json"), config.dump());
    return folder.path();
  }

  test::TemporaryFolder folder;
  json config;
  std::vector<Tensor> tensors;
};

TEST(FormatOptions, EqualHeadOfATiedModelIsDropped) {
  Edited model("llama-tied");
  Edited::Tensor head = model.at("model.embed_tokens.weight");
  head.name = "lm_head.weight";
  model.tensors.push_back(head);
  const Checkpoint equal = open_well(model.write());
  EXPECT_TRUE(equal.probe.spec.flag("tie_word_embeddings"));
  EXPECT_EQ(equal.dropped, std::vector<std::string>{"lm_head.weight"});
  EXPECT_EQ(equal.probe.bytes_read, 2 * static_cast<Index>(head.bytes.size()));
  EXPECT_SAYS(all_notes(equal.probe.notes), "lm_head.weight equals");

  model.tensors.back().bytes.back() ^= 1;
  const Checkpoint different = open_well(model.write());
  EXPECT_FALSE(different.probe.spec.flag("tie_word_embeddings"));
  EXPECT_TRUE(different.dropped.empty());
  EXPECT_SAYS(all_notes(different.probe.notes), "taken as untied");
}

TEST(FormatOptions, TiesAreSettledByAllRanksTogether) {
  Edited model("llama-tied");
  Edited::Tensor head = model.at("model.embed_tokens.weight");
  head.name = "lm_head.weight";
  head.bytes.front() ^= 1;
  model.tensors.push_back(head);
  const std::string path = model.write();
  comm::run_virtual_ranks(3, [&](comm::Comm& comm) {
    const auto source = open_checkpoint(path, {}, test::library(), comm);
    ASSERT_TRUE(source) << source.error().message;
    EXPECT_FALSE(source->probe.spec.flag("tie_word_embeddings"));
  });
}

void expect_equal(const Directory& together, const Directory& alone) {
  EXPECT_EQ(together.root, alone.root);
  EXPECT_EQ(together.files, alone.files);
  EXPECT_EQ(together.fingerprints, alone.fingerprints);
  EXPECT_EQ(together.metadata, alone.metadata);
  EXPECT_EQ(together.checks, alone.checks);
  EXPECT_EQ(together.big_endian, alone.big_endian);
  EXPECT_EQ(together.inside, alone.inside);
  ASSERT_EQ(together.entries.size(), alone.entries.size());
  for (std::size_t i = 0; i < alone.entries.size(); ++i) {
    EXPECT_EQ(together.entries[i].file, alone.entries[i].file) << i;
    const container::Entry &entry = together.entries[i].entry, &expected = alone.entries[i].entry;
    EXPECT_EQ(entry.name, expected.name) << i;
    EXPECT_EQ(entry.dtype, expected.dtype) << expected.name;
    EXPECT_EQ(entry.shape, expected.shape) << expected.name;
    EXPECT_EQ(entry.offset, expected.offset) << expected.name;
    EXPECT_EQ(entry.length, expected.length) << expected.name;
    EXPECT_EQ(entry.strides, expected.strides) << expected.name;
  }
}

// The table that ranks build together is that of one rank alone, also if there are fewer files than ranks.
TEST(FormatOptions, RanksShareTheHeaders) {
  const test::TemporaryFolder folder;
  const std::string archive = folder.path("model.h5");
  test::convert_naively(open_well(test::fixture("hf/llama-tied")), "hdf5", {}, archive);
  for (const std::string& path : {test::fixture("nanotron/llama-gqa-tp4"), archive}) {
    const Checkpoint alone = open_well(path);
    EXPECT_FALSE(alone.probe.directory.metadata.front().empty()) << path;
    EXPECT_EQ(alone.probe.directory.inside.empty(), path != archive);
    comm::run_virtual_ranks(3, [&](comm::Comm& comm) {
      const auto source = open_checkpoint(path, {}, test::library(), comm);
      ASSERT_TRUE(source) << source.error().message;
      EXPECT_EQ(source->locations, alone.locations);
      expect_equal(source->probe.directory, alone.probe.directory);
      EXPECT_TRUE(check_unchanged(*source));
    });
  }
}

// Torch files say the most: CRCs, byte order, strides.
TEST(FormatOptions, RanksShareWhatTorchFilesSay) {
  const test::TemporaryFolder folder;
  auto entries =
      test::torch_entries("\x80\x02}(" + test::pickled("w") + test::pickled_tensor("0", 6, 0, {2, 3}, {3, 1}) +
                              test::pickled("turned") + test::pickled_tensor("1", 8, 2, {3, 2}, {1, 3}) + "u.",
                          {std::string(24, 'a'), std::string(32, 'b')});
  test::put_file(folder.path("little.pth"), test::zip_file(entries));
  entries[1].bytes = "big";
  test::put_file(folder.path("big.pth"), test::zip_file(entries));
  const auto read = [&](comm::Comm& comm) {
    auto directory = read_directory(folder.path(), {"little.pth", "big.pth"}, "torch", io::Follow::cache, comm);
    EXPECT_TRUE(directory) << directory.error().message;
    return directory ? *std::move(directory) : Directory();
  };
  const Directory alone = read(*comm::make_self_comm());
  ASSERT_EQ(alone.entries.size(), 4u);
  EXPECT_EQ(alone.big_endian, (std::vector<bool>{false, true}));
  for (const auto& checks : alone.checks) EXPECT_EQ(checks.size(), 2u);
  EXPECT_EQ(alone.entries.back().entry.strides, (std::vector<Index>{1, 3}));
  comm::run_virtual_ranks(3, [&](comm::Comm& comm) { expect_equal(read(comm), alone); });
}

TEST(FormatOptions, PassthroughCarriesUnknownTensors) {
  Edited model("llama-tied");
  model.tensors.push_back({"vision.patch.weight", std::string(24, 'v'), DType::f32, {2, 3}});
  const std::string path = model.write();
  EXPECT_SAYS(test::open_error(path), "vision.patch.weight [2, 3] is not known to the model; --passthrough");
  SourceOptions options;
  options.passthrough = {"vision.*"};
  const Checkpoint source = open_well(path, options);
  TargetOptions target;
  target.max_shard_size = 50'000;
  test::convert_naively(source, "hf", target, model.folder.path("out"));
  EXPECT_EQ(test::line_values(open_well(model.folder.path("out"), options)), test::line_values(source));
  target = {};
  target.dtype = "fp16";  // not for what is carried
  const auto cast = describe_target(source, "hdf5", target, test::library());
  ASSERT_TRUE(cast) << cast.error().message;
  for (const layout::Array& array : cast->layout->arrays()) {
    EXPECT_EQ(array.dtype, cast->layout->name(array) == "vision.patch.weight" ? DType::f32 : DType::f16);
  }
  EXPECT_SAYS(target_error(source, "nanotron"), "vision.patch.weight");
}

// Older writers leave "transformer." out, and store buffers.
TEST(FormatOptions, Gpt2GoesWithoutItsPrefix) {
  Edited model("gpt2");
  const auto expected = test::line_values(open_well(model.write()));
  for (Edited::Tensor& tensor : model.tensors) tensor.name.erase(0, std::string("transformer.").size());
  model.tensors.push_back({"h.0.attn.bias", std::string(4, '\1'), DType::boolean, {1, 1, 2, 2}});
  const Checkpoint source = open_well(model.write());
  EXPECT_EQ(test::line_values(source), expected);
  EXPECT_EQ(source.dropped, std::vector<std::string>{"h.0.attn.bias"});
}

TEST(FormatOptions, UnknownModelsGoAsTheyAre) {
  Edited model("llama-tied");
  model.config["model_type"] = "frobnicator";
  model.tensors.push_back({"extra", std::string(16, 'e'), DType::i64, {2}});
  const Checkpoint source = open_well(model.write());
  EXPECT_EQ(source.probe.spec.family, "generic");
  EXPECT_SAYS(all_notes(source.probe.notes), "frobnicator");
  test::convert_naively(source, "hdf5", {}, model.folder.path("out/model.h5"));
  const Checkpoint archive = open_well(model.folder.path("out/model.h5"));
  test::convert_naively(archive, "hf", {}, model.folder.path("back"));
  const Checkpoint back = open_well(model.folder.path("back"));
  EXPECT_EQ(test::line_values(back).size(), model.tensors.size());
  EXPECT_EQ(back.probe.spec.fields, source.probe.spec.fields);
  EXPECT_SAYS(target_error(source, "nanotron"), "generic");
}

TEST(FormatOptions, SelectionLeavesTensorsOut) {
  SourceOptions options;
  options.exclude = {"model.layers.1.*", "lm_head.weight"};
  const Checkpoint source = open_well(test::fixture("hf/llama-mha"), options);
  EXPECT_EQ(source.canon->find("head"), -1);
  EXPECT_EQ(source.canon->tensors()[static_cast<std::size_t>(source.canon->find("mlp.up"))].layers,
            std::vector<Index>{0});
  EXPECT_EQ(source.layout->arrays().size(), 11u);
  EXPECT_EQ(source.dropped.size(), 10u);
  const auto target = describe_target(source, "nanotron", {}, test::library());
  ASSERT_TRUE(target) << target.error().message;
  EXPECT_EQ(target->layout->arrays().size(), 8u);

  options.exclude = {"*.q_proj.weight"};
  EXPECT_SAYS(target_error(open_well(test::fixture("hf/llama-mha"), options), "nanotron"), "attn.q");
  options.exclude = {"model.layers.1.self_attn.q_proj.weight"};
  EXPECT_SAYS(target_error(open_well(test::fixture("hf/llama-mha"), options), "nanotron"),
              "without the tensors it is stored with");
  options.exclude = {"*"};
  EXPECT_SAYS(test::open_error(test::fixture("hf/llama-mha"), options, Code::usage), "nothing");
  options.exclude = {"*.experts.0.*"};
  EXPECT_SAYS(test::open_error(test::fixture("hf/mixtral"), options, Code::usage), "experts");
  options = {};
  options.include = {"*norm*"};
  EXPECT_EQ(open_well(test::fixture("hf/llama-mha"), options).layout->arrays().size(), 5u);
}

TEST(FormatOptions, MixedDtypesAreKept) {
  Edited model("llama-mha");
  const auto widen = [](Edited::Tensor& tensor) {
    std::string wide;
    for (std::size_t i = 0; i < tensor.bytes.size(); i += 2) wide += std::string(2, '\0') + tensor.bytes.substr(i, 2);
    tensor.bytes = wide;
    tensor.dtype = DType::f32;
  };
  widen(model.at("model.norm.weight"));
  widen(model.at("model.layers.0.self_attn.k_proj.weight"));
  const Checkpoint source = open_well(model.write());
  EXPECT_EQ(source.probe.spec.dtype, DType::bf16);
  const auto dtype_of = [](const Target& target, const std::string& name) {
    for (const layout::Array& array : target.layout->arrays()) {
      if (target.layout->name(array) == name) return array.dtype;
    }
    ADD_FAILURE() << name;
    return DType::u8;
  };
  const auto hf = describe_target(source, "hf", {}, test::library());
  ASSERT_TRUE(hf) << hf.error().message;
  EXPECT_EQ(dtype_of(*hf, "model.norm.weight"), DType::f32);
  EXPECT_EQ(dtype_of(*hf, "lm_head.weight"), DType::bf16);
  const auto nanotron = describe_target(source, "nanotron", {}, test::library());
  ASSERT_TRUE(nanotron) << nanotron.error().message;
  EXPECT_EQ(dtype_of(*nanotron, "model.decoder.0.pp_block.attn.qkv_proj.weight"),
            DType::f32);  // k is stored with q and v
  EXPECT_EQ(dtype_of(*nanotron, "model.decoder.1.pp_block.attn.qkv_proj.weight"), DType::bf16);

  TargetOptions options;
  options.dtype = "bf16";
  options.keep_dtype = {"*norm*"};
  const auto cast = describe_target(source, "hf", options, test::library());
  ASSERT_TRUE(cast) << cast.error().message;
  EXPECT_EQ(dtype_of(*cast, "model.norm.weight"), DType::f32);
  EXPECT_EQ(dtype_of(*cast, "model.layers.0.self_attn.k_proj.weight"), DType::bf16);
  options.dtype = "int8";
  EXPECT_SAYS(target_error(source, "hf", options), "--dtype int8");
}

TEST(FormatOptions, WrongOptionsAreRefused) {
  const Checkpoint source = open_well(test::fixture("hf/llama-mha"));
  TargetOptions options;
  options.mesh.tp = 2;
  EXPECT_SAYS(target_error(source, "hf", options), "tp");
  options = {};
  options.vocab_multiple = 64;
  EXPECT_SAYS(target_error(source, "hdf5", options), "--vocab-multiple");
  options = {};
  options.format_version = "1.5";
  EXPECT_SAYS(target_error(source, "hf", options), "--format-version");
  EXPECT_SAYS(target_error(source, "nanotorn"), "did you mean nanotron?");
  EXPECT_SAYS(target_error(open_well(test::fixture("hf/mixtral")), "nanotron"), "moe_config");
  EXPECT_SAYS(target_error(open_well(test::fixture("hf/mistral")), "nanotron"), "head_dim");
  SourceOptions known;
  known.vocab_size = 17;
  EXPECT_SAYS(test::open_error(test::fixture("hf/llama-mha"), known, Code::usage), "--vocab-size 17");
  known.vocab_size = 100'000;
  EXPECT_SAYS(test::open_error(test::fixture("nanotron/llama-mha-pp2"), known, Code::usage), "--vocab-size");
  known = {};
  known.from = "nanotorn";
  EXPECT_SAYS(test::open_error(test::fixture("hf/llama-mha"), known, Code::usage), "did you mean nanotron?");
}

TEST(FormatOptions, SideFilesComeFromElsewhere) {
  const test::TemporaryFolder folder;
  fs::copy(test::fixture("hf/llama-tied"), folder.path("source"));
  fs::remove(folder.path("source/config.json"));
  EXPECT_SAYS(test::open_error(folder.path("source")), "--config-from");
  test::put_file(folder.path("tokenizer/tokenizer.json"), "{}");
  test::put_file(folder.path("source/tokenizer.json"), "old");
  SourceOptions options;
  options.config_from = test::fixture("hf/llama-tied");
  options.tokenizer_from = folder.path("tokenizer");
  const Checkpoint source = open_well(folder.path("source"), options);
  test::convert_naively(source, "nanotron", {}, folder.path("out"));
  EXPECT_EQ(test::file_bytes(folder.path("out/tokenizer.json")), "{}");
  options.tokenizer_from = test::fixture("hf/llama-tied");
  EXPECT_SAYS(test::open_error(folder.path("source"), options), "holds no tokenizer");
}

TEST(FormatOptions, AConfigFromMayBeAFile) {
  const test::TemporaryFolder folder;
  const std::string config = test::file_bytes(test::fixture("hf/llama-tied/config.json"));
  test::put_file(folder.path("base.json"), config);
  SourceOptions options;
  options.config_from = folder.path("base.json");
  for (const char* path :
       {"hf/llama-tied", "hf/llama-tied-bin-sharded", "meta/llama-tied-mp1", "fairseq2/llama-tied-tp1"}) {
    const Checkpoint source = open_well(test::fixture(path), options);
    EXPECT_EQ(source.probe.config_path, folder.path("base.json")) << path;
  }
  const std::string nanotron = test::fixture("nanotron/llama-mha-pp2");
  options.config_from = nanotron + "/model_config.json";
  EXPECT_EQ(open_well(nanotron, options).probe.config_path, nanotron + "/model_config.json");
}

TEST(FormatOptions, AReplacedConfigIsCompared) {
  const test::TemporaryFolder folder;
  nlohmann::json config = nlohmann::json::parse(test::file_bytes(test::fixture("hf/llama-tied/config.json")));
  config["rms_norm_eps"] = 0.25;
  config["rope_parameters"]["rope_theta"] = 77.0;
  test::put_file(folder.path("config.json"), config.dump());
  SourceOptions options;
  options.config_from = folder.path();
  const Checkpoint source = open_well(test::fixture("hf/llama-tied"), options);
  ASSERT_EQ(source.probe.config_notes.size(), 1u);
  EXPECT_SAYS(source.probe.config_notes.front(), "warning: ");
  EXPECT_SAYS(source.probe.config_notes.front(), "becomes 0.25");
  EXPECT_SAYS(source.probe.config_notes.front(), "becomes 77.0");
}

// A family and a sharded format that exist only as tables.
TEST(FormatOptions, TablesAloneMakeAFormat) {
  const test::TemporaryFolder folder;
  test::put_file(folder.path("configs/arch/tiny.json"),
                 R"({"family": "tiny", "model_types": ["tiny"], "architectures": ["TinyModel"],
    "fields": {"width": {"type": "integer"}, "depth": {"type": "integer"}, "words": {"type": "integer"}, "num_hidden_layers": {"type": "integer", "default": "depth"}},
    "axes": {"layer": "depth", "embed": "width", "vocab": "words", "ffn": "4 * width"},
    "tensors": {"embed": {"axes": "vocab embed"}, "up": {"axes": "layer ffn embed"}, "down": {"axes": "layer embed ffn"}},
    "formats": {"hf": {"rules": ["tiny"]}}})");
  test::put_file(folder.path("configs/format/hf.json"),
                 R"({"format": "hf", "container": "safetensors", "rules": {"tiny": [
      {"array": "words.weight", "tensor": "embed", "view": "vocab embed"},
      {"array": "block.{layer}.up", "tensor": "up", "view": "ffn embed"},
      {"array": "block.{layer}.down", "tensor": "down", "view": "embed ffn"}]}})");
  test::put_file(folder.path("configs/format/slices.json"),
                 R"({"format": "slices", "container": "safetensors", "mesh": ["tp"], "split": "ceil",
    "file": "slice_{tp:03d}.safetensors", "rules": {"tiny": [
      {"array": "E", "tensor": "embed", "view": "embed vocab", "shard": {"tp": 0}},
      {"array": "L.{layer}", "view": "([up: ffn | down: ffn]) embed", "shard": {"tp": "ffn"}}]},
    "families": {"tiny": {"rules": ["tiny"]}}})");
  test::put_file(folder.path("config.json"),
                 R"({"model_type": "tiny", "width": 6, "depth": 2, "words": 5, "dtype": "float32"})");
  const auto library = model::Library::load(folder.path("configs"));
  ASSERT_TRUE(library) << library.error().message;
  const auto comm = comm::make_self_comm();
  const auto source = open_checkpoint("synthetic:" + folder.path("config.json"), {}, *library, *comm);
  ASSERT_TRUE(source) << source.error().message;
  TargetOptions options;
  options.mesh.tp = 4;
  const auto target = describe_target(*source, "slices", options, *library);
  ASSERT_TRUE(target) << target.error().message;
  ASSERT_EQ(target->files.size(), 4u);
  EXPECT_EQ(target->files[3].path, "slice_003.safetensors");
  test::write_checkpoint(*target, test::line_values(*source), folder.path("out"));
  SourceOptions from;
  from.from = "slices";
  const auto back = open_checkpoint(folder.path("out"), from, *library, *comm);
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(back->probe.mesh.tp, 4);
  EXPECT_EQ(test::line_values(*back), test::line_values(*source));
}

}  // namespace
}  // namespace reshard::format
