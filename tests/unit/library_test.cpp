// SPDX-License-Identifier: Apache-2.0
#include "reshard/model/library.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "reshard/layout/layout.h"
#include "reshard/model/spec.h"
#include "tests/support/files.h"
#include "tests/support/paths.h"
#include "tests/support/says.h"

namespace reshard::model {
namespace {

namespace fs = std::filesystem;

/// A --config-dir that lives as long as the test.
class ConfigDir {
 public:
  ConfigDir& add(const std::string& file, const std::string& text) {
    test::put_file(folder_.path(file), text);
    return *this;
  }
  Expected<Library> load() const { return Library::load(folder_.path()); }
  /// The message of the error that loading gives.
  std::string error() const {
    const auto library = load();
    return library ? "no error" : library.error().message;
  }

 private:
  test::TemporaryFolder folder_;
};

const Library& shipped() {
  static const Library library = Library::load("").value();
  return library;
}

TEST(Library, LoadsWhatIsShipped) {
  const auto library = Library::load("");
  ASSERT_TRUE(library) << library.error().message;
  EXPECT_EQ(library->families(), (std::vector<std::string>{"gpt2", "llama", "mistral", "mixtral", "qwen2", "qwen2_moe",
                                                           "qwen3", "qwen3_moe"}));
  EXPECT_EQ(library->formats(),
            (std::vector<std::string>{"fairseq2", "hdf5", "hf", "hf_bin", "llms_from_scratch", "meta", "nanotron"}));
  EXPECT_EQ(library->family_of_model_type("qwen3_moe"), "qwen3_moe");
  EXPECT_EQ(library->family_of_architecture("GPT2LMHeadModel"), "gpt2");
  EXPECT_EQ(library->family_of_model_type("t5"), "");
}

// Every family in every format: "" where it is held, else a part of the reason why not.
TEST(Library, KnowsEveryCell) {
  const std::vector<std::string> formats = {"fairseq2",          "hdf5", "hf",      "hf_bin",
                                            "llms_from_scratch", "meta", "nanotron"};
  const std::string any = "cannot hold arrays of any name", experts = "experts have no place";
  const std::string biases = "biases on q, k and v have no place", norms = "self_attn.q_norm, self_attn.k_norm";
  const std::map<std::string, std::vector<std::string>> cells = {
      {"gpt2", {"fairseq2 has no GPT-2", "", "", "", "", "(n_positions)", "(n_positions)"}},
      {"llama", {"", "", "", "", "", "", ""}},
      {"mistral", {"", "", "", "", "the book has no Mistral", "", ""}},
      {"mixtral", {"fairseq2 has no Mixtral", "", "", "", "the book has no Mixtral", experts, "moe_config"}},
      {"qwen2", {"", "", "", "", biases, biases, ""}},
      {"qwen2_moe", {experts, "", "", "", "a shared expert and " + biases, experts, ""}},
      {"qwen3", {"", "", "", "", "", norms, norms}},
      {"qwen3_moe", {experts, "", "", "", "", experts, norms}},
      {"generic", {any, "", "", "", any, any, any}}};
  EXPECT_EQ(shipped().formats(), formats);
  EXPECT_EQ(shipped().families().size() + 1, cells.size());
  for (const auto& [family, reasons] : cells) {
    for (std::size_t f = 0; f < formats.size(); ++f) {
      SCOPED_TRACE(family + " in " + formats[f]);
      const Library::Cell cell = shipped().cell(family, formats[f]);
      const auto table = shipped().table(family, formats[f]);
      EXPECT_EQ(cell.holds, reasons[f].empty());
      EXPECT_EQ(table.has_value(), cell.holds);
      EXPECT_EQ(cell.reason.empty(), cell.holds) << cell.reason;
      if (cell.holds || table) continue;
      EXPECT_SAYS(cell.reason, reasons[f]);
      EXPECT_EQ(table.error().message, formats[f] + " cannot hold a " + family + " model: " + cell.reason);
      EXPECT_EQ(table.error().code, Code::usage);
    }
  }
  EXPECT_SAYS(shipped().cell("llama", "megatron").reason, "nanotron");
  EXPECT_SAYS(shipped().cell("lama", "hf").reason, "llama");
  EXPECT_EQ(shipped().cell("gpt2", "hf").optional_prefix, "transformer.");
}

TEST(Library, DerivesFilesFromNames) {
  const layout::Table table = shipped().table("llama", "nanotron").value();
  const auto rule = std::find_if(table.rules.begin(), table.rules.end(), [](const layout::ArrayRule& r) {
    return r.array == "model.decoder.{layer}.pp_block.attn.qkv_proj.weight";
  });
  ASSERT_NE(rule, table.rules.end());
  EXPECT_EQ(rule->file,
            "model/model/decoder/{layer}/pp_block/attn/qkv_proj/"
            "model_weight_pp-rank-{pp}-of-{pp.size}_tp-rank-{tp}-of-{tp.size}.safetensors");
  EXPECT_EQ(rule->entry, "data");
  ASSERT_EQ(rule->shards.size(), 1u);
  EXPECT_EQ(rule->shards[0].axes, std::vector<std::string>{"group"});
  EXPECT_EQ(table.rules[1].file, "model/model/decoder/{layer}/pp_block/input_layernorm/model_weight.safetensors");
  EXPECT_EQ(table.mesh_dims, (std::vector<std::string>{"pp", "tp"}));
  EXPECT_EQ(table.placement, "nanotron_cost");
  EXPECT_EQ(shipped().options("nanotron").numbers.at("vocab_multiple"), 1);
}

TEST(Library, Hdf5IsHfInAnotherContainer) {
  const layout::Table hf = shipped().table("qwen2_moe", "hf").value();
  const layout::Table hdf5 = shipped().table("qwen2_moe", "hdf5").value();
  EXPECT_EQ(hdf5.container, "hdf5");
  EXPECT_TRUE(hdf5.passthrough);
  ASSERT_EQ(hf.rules.size(), hdf5.rules.size());
  for (std::size_t i = 0; i < hf.rules.size(); ++i) EXPECT_EQ(hf.rules[i].view_text, hdf5.rules[i].view_text);
}

// A family and a sharded format that nobody has, described in two files.
constexpr const char* kFamily = R"({
  "family": "toy", "model_types": ["toy"],
  "fields": {"width": {"type": "integer", "keys": ["d_model"]}, "depth": {"type": "integer", "default": 2},
             "words": {"type": "integer", "default": "2 * width"}},
  "axes": {"layer": "depth", "embed": "width", "vocab": "words", "side": 3},
  "sets": {"odd": "2 divides layer + 1"},
  "tensors": {"embed": {"axes": "vocab embed"}, "mix": {"axes": "layer side embed"},
              "extra": {"axes": "layer embed", "layers": "odd"}},
  "formats": {"hf": {"rules": [{"array": "table", "tensor": "embed", "view": "vocab embed"},
                               {"array": "b.{layer}.mix", "tensor": "mix", "view": "embed side"},
                               {"array": "b.{layer}.extra", "tensor": "extra", "view": "embed"}]}}
})";
constexpr const char* kFormat = R"({
  "format": "crates", "container": "safetensors", "mesh": ["tp"], "split": "ceil",
  "file": "part-{tp:02d}-of-{tp.size}.safetensors",
  "rules": {"all": [{"array": "E", "tensor": "embed", "view": "vocab embed", "shard": {"tp": 0}},
                    {"array": "M", "tensor": "mix", "view": "embed layer side", "shard": {"tp": "embed"}},
                    {"array": "X{layer}", "tensor": "extra", "view": "embed"}]},
  "families": {"toy": {"rules": ["all"]}}
})";

TEST(Library, TakesAFamilyAndAFormatFromAFolder) {
  ConfigDir folder;
  const auto library = folder.add("arch/toy.json", kFamily).add("format/crates.json", kFormat).load();
  ASSERT_TRUE(library) << library.error().message;
  EXPECT_TRUE(library->cell("toy", "crates").holds);
  EXPECT_TRUE(library->cell("toy", "hf").holds);
  EXPECT_FALSE(library->cell("toy", "nanotron").holds);

  const auto spec = parse_hf_config({{"model_type", "toy"}, {"d_model", 5}}, *library, "config.json");
  ASSERT_TRUE(spec) << spec.error().message;
  const auto canon = make_canon(*spec, *library);
  ASSERT_TRUE(canon) << canon.error().message;
  EXPECT_EQ((*canon)->tensors()[0].axes[0].size, 10);
  EXPECT_EQ((*canon)->tensors()[2].layers, std::vector<Index>{1});
  layout::Mesh mesh;
  mesh.tp = 2;
  const auto layout = layout::Layout::predict(*canon, library->table("toy", "crates").value(), mesh, {}, DType::bf16,
                                              library->options("crates"));
  ASSERT_TRUE(layout) << layout.error().message;
  std::vector<std::string> found;
  for (const layout::Array& array : layout->arrays()) {
    found.push_back(layout->file(array) + " " + layout->name(array));
    for (const Index extent : layout->shape(array)) found.back().append(" ").append(std::to_string(extent));
  }
  EXPECT_EQ(found, (std::vector<std::string>{"part-00-of-2.safetensors E 5 5", "part-01-of-2.safetensors E 5 5",
                                             "part-00-of-2.safetensors M 3 2 3", "part-01-of-2.safetensors M 2 2 3",
                                             "part-00-of-2.safetensors X1 5", "part-01-of-2.safetensors X1 5"}));
}

TEST(Library, AChildInheritsItsParentsCells) {
  ConfigDir folder;
  const auto library = folder
                           .add("arch/renamed.json", R"({"family": "renamed", "extends": "llama", "model_types": ["r"],
      "fields": {"hidden_size": {"type": "integer", "keys": ["width"]}, "mlp_bias": null}, "flags": {"mlp_bias": false}})")
                           .add("arch/wider.json", R"({"family": "wider", "extends": "llama",
      "tensors": {"attn.sink": {"axes": "layer group query"}}})")
                           .load();
  ASSERT_TRUE(library) << library.error().message;
  EXPECT_TRUE(library->cell("renamed", "nanotron").holds);
  EXPECT_SAYS(library->cell("wider", "hf").reason, "attn.sink");
}

TEST(Library, RefusesFilesThatAreWrong) {
  const auto arch = [](const std::string& text) { return ConfigDir().add("arch/toy.json", text).error(); };
  const auto format = [](const std::string& rule, const std::string& more = "") {
    return ConfigDir()
        .add("arch/toy.json", kFamily)
        .add("format/f.json", R"({"format": "f", "container": "safetensors", "mesh": ["tp"], )" + more +
                                  R"("families": {"toy": {"rules": [)" + rule + "]}}}")
        .error();
  };
  EXPECT_SAYS(arch("{"), "arch/toy.json");
  EXPECT_SAYS(arch("[]"), "expected a JSON object");
  EXPECT_SAYS(arch(R"({"family": "toy", "family": "toy"})"), "duplicate key");
  EXPECT_SAYS(arch(R"({"family": "toys"})"), "the file's name says \"toy\"");
  EXPECT_SAYS(arch(R"({"family": "toy", "tensor": {}})"), "tensor: unknown key; did you mean tensors?");
  EXPECT_SAYS(arch(R"({"family": "toy", "axes": {"a": true}})"), "axes.a: expected integer or string");
  EXPECT_SAYS(arch(R"({"family": "toy", "fields": {"a": {"type": "int"}}})"), "fields.a.type: expected \"integer\"");
  EXPECT_SAYS(arch(R"({"family": "toy", "fields": {"a": {}}})"), "fields.a: the key \"type\" is missing");
  EXPECT_SAYS(arch(R"({"family": "toy", "fields": {}, "axes": {}})"), "\"tensors\" is missing");
  EXPECT_SAYS(arch(R"({"family": "toy", "extends": "lama"})"), "there is no family \"lama\"");
  EXPECT_SAYS(arch(R"({"family": "toy", "extends": "toy"})"), "leads back");
  EXPECT_SAYS(arch(R"({"family": "toy", "extends": "llama", "model_types": ["qwen2"]})"),
              "belongs to the family qwen2");
  EXPECT_SAYS(arch(R"({"family": "toy", "fields": {}, "axes": {"a": "b + 1"}, "tensors": {}})"),
              "axes.a: expression 'b + 1': unknown name 'b'");
  EXPECT_SAYS(arch(R"({"family": "toy", "fields": {}, "axes": {"a": "1 +"}, "tensors": {}})"), "axes.a: ");
  EXPECT_SAYS(arch(R"({"family": "toy", "fields": {}, "axes": {"tp": 1}, "tensors": {}})"), "\"tp\" is taken");
  EXPECT_SAYS(arch(R"({"family": "toy", "fields": {}, "axes": {"a b": 1}, "tensors": {}})"), "is not a name");
  EXPECT_SAYS(arch(R"({"family": "toy", "fields": {}, "axes": {}, "tensors": {"t": {"axes": "a"}}})"),
              "tensors.t: unknown axis a");
  EXPECT_SAYS(arch(R"({"family": "toy", "fields": {}, "axes": {}, "tensors": {"t": {"axes": "", "if": "x"}}})"),
              "unknown name 'x'");

  const auto view = [&](const std::string& text, const std::string& more = "") {
    return format("{\"array\": \"E\", \"tensor\": \"embed\", \"view\": \"" + text + "\"" + more + "}");
  };
  EXPECT_SAYS(view("vocab"), "axis embed of tensor embed is covered 0 times");
  EXPECT_SAYS(view("vocab vocab embed"), "covered 2 times");
  EXPECT_SAYS(view("vocab (embed side)"), "does not have");
  EXPECT_SAYS(view("vocab embet"), "unknown axis embet");
  EXPECT_SAYS(view("(vocab embed"), "view '(vocab embed'");
  EXPECT_SAYS(view("[ember: vocab] embed"), "has no tensor ember");
  EXPECT_SAYS(format(R"({"array": "E", "view": "vocab embed"})"), "part without a tensor");
  EXPECT_SAYS(format(R"({"array": "E", "view": "[~: vocab]"})"), "of zeros alone");
  EXPECT_SAYS(format(R"({"array": "E{layr}", "tensor": "embed", "view": "vocab embed"})"), "unknown name 'layr'");
  EXPECT_SAYS(view("vocab embed", R"(, "where": "layer in odds")"), "unknown set 'odds'");
  EXPECT_SAYS(view("vocab embed", R"(, "shard": {"pp": 0})"), "shards by pp");
  EXPECT_SAYS(view("vocab embed", R"(, "shard": {"tp": 2})"), "shards dimension 2");
  EXPECT_SAYS(view("vocab embed", R"(, "shard": {"tp": -1})"), "at least 0");
  EXPECT_SAYS(view("vocab embed", R"(, "shard": {"tp": "heads"})"), "unknown axis heads");
  EXPECT_SAYS(view("vocab embed", R"(, "dtype": "bf16")"), "not a safetensors dtype");
  EXPECT_SAYS(format("\"all\""), "no rule set \"all\"");
  EXPECT_SAYS(format("", R"("numbers": {"pad": "tpp"}, )"), "pad: expression 'tpp': unknown name 'tpp'");
  EXPECT_SAYS(Library::load("/nowhere").error().message, "--config-dir");
  EXPECT_EQ(Library::load("/nowhere").error().code, Code::usage);
}

/// Names and shapes of a safetensors header.
std::map<std::string, Shape> read_header(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::uint64_t length = 0;
  file.read(reinterpret_cast<char*>(&length), sizeof length);
  std::string text(length, '\0');
  file.read(text.data(), static_cast<std::streamsize>(length));
  std::map<std::string, Shape> arrays;
  const nlohmann::json header = nlohmann::json::parse(text);
  for (const auto& [name, entry] : header.items()) {
    if (name != "__metadata__") arrays[name] = entry.at("shape").get<Shape>();
  }
  return arrays;
}

// The tables say what the reference tools wrote: every array of every checkpoint, by name and shape.
TEST(Library, PredictsTheReferenceCheckpoints) {
  const char* full = std::getenv("RESHARD_FIXTURES");
  const fs::path folder = (full != nullptr ? fs::path(full) : fs::path(test::source_dir()) / "tests/interop") / "hf";
  int checked = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    if (!entry.is_directory()) continue;
    if (entry.path().filename() == "llama-tied-no-head") continue;  // lacks its head, and must be refused
    std::map<std::string, Shape> expected;
    for (const fs::directory_entry& file : fs::directory_iterator(entry.path())) {
      if (file.path().extension() == ".safetensors") expected.merge(read_header(file.path()));
    }
    if (expected.empty()) continue;
    SCOPED_TRACE(entry.path().string());
    std::ifstream config(entry.path() / "config.json");
    const auto spec = parse_hf_config(nlohmann::json::parse(config), shipped(), "config.json");
    ASSERT_TRUE(spec) << spec.error().message;
    const auto canon = make_canon(*spec, shipped());
    ASSERT_TRUE(canon) << canon.error().message;
    const auto layout = layout::Layout::predict(*canon, shipped().table(spec->family, "hf").value(), {}, {},
                                                spec->dtype, shipped().options("hf"));
    ASSERT_TRUE(layout) << layout.error().message;
    std::map<std::string, Shape> predicted;
    for (const layout::Array& array : layout->arrays()) predicted[layout->name(array)] = layout->shape(array);
    EXPECT_EQ(predicted, expected);
    ++checked;
  }
  EXPECT_GE(checked, 9);
}

TEST(Library, PredictsTheFilesOfNanotron) {
  const fs::path folder = fs::path(test::source_dir()) / "tests/interop";
  struct Case {
    std::string name, base;
    Index tp;
    bool interleaved;
  };
  for (const Case& c :
       {Case{"llama-gqa-tp1", "llama-gqa", 1, false}, Case{"llama-gqa-tp4", "llama-gqa", 4, false},
        Case{"llama-gqa-tp2-interleaved", "llama-gqa", 2, true}, Case{"qwen2-tp2", "qwen2", 2, false}}) {
    SCOPED_TRACE(c.name);
    std::map<std::string, Shape> expected;
    for (const auto& file : fs::recursive_directory_iterator(folder / "nanotron" / c.name)) {
      if (file.path().extension() != ".safetensors") continue;
      expected[fs::relative(file.path(), folder / "nanotron" / c.name)] = read_header(file.path()).at("data");
    }
    std::ifstream config(folder / "hf" / c.base / "config.json");
    const auto spec = parse_hf_config(nlohmann::json::parse(config), shipped(), "config.json");
    ASSERT_TRUE(spec) << spec.error().message;
    layout::Scope options = shipped().options("nanotron");
    options.numbers["rope_interleaved"] = c.interleaved ? 1 : 0;
    layout::Mesh mesh;
    mesh.tp = c.tp;
    const auto layout = layout::Layout::predict(
        make_canon(*spec, shipped()).value(), shipped().table(spec->family, "nanotron").value(), mesh,
        layout::place_evenly(spec->integer("num_hidden_layers"), 1), spec->dtype, options);
    ASSERT_TRUE(layout) << layout.error().message;
    std::map<std::string, Shape> predicted;
    for (const layout::Array& array : layout->arrays()) predicted[layout->file(array)] = layout->shape(array);
    EXPECT_EQ(predicted, expected);
  }
}

// Order of the arrays of a Llama: it decides which tensor goes into which file.
TEST(Library, WritesInTheOrderOfTheModules) {
  const auto spec = parse_hf_config({{"model_type", "qwen3_moe"},
                                     {"num_hidden_layers", 2},
                                     {"mlp_only_layers", {0}},
                                     {"num_experts", 2},
                                     {"attention_bias", true}},
                                    shipped(), "config.json");
  ASSERT_TRUE(spec) << spec.error().message;
  const auto layout =
      layout::Layout::predict(make_canon(*spec, shipped()).value(), shipped().table("qwen3_moe", "hf").value(), {}, {},
                              DType::bf16, shipped().options("hf"));
  ASSERT_TRUE(layout) << layout.error().message;
  std::vector<std::string> names;
  for (const layout::Array& array : layout->arrays()) names.push_back(layout->name(array));
  std::vector<std::string> expected = {"model.embed_tokens.weight"};
  for (const char* layer : {"0", "1"}) {
    const std::string prefix = std::string("model.layers.") + layer + ".";
    for (const char* name : {"q_proj.weight", "q_proj.bias", "k_proj.weight", "k_proj.bias", "v_proj.weight",
                             "v_proj.bias", "o_proj.weight", "o_proj.bias", "q_norm.weight", "k_norm.weight"}) {
      expected.push_back(prefix + "self_attn." + name);
    }
    if (std::strcmp(layer, "0") == 0) {
      for (const char* name : {"gate_proj", "up_proj", "down_proj"})
        expected.push_back(prefix + "mlp." + name + ".weight");
    } else {
      expected.push_back(prefix + "mlp.gate.weight");
      for (const char* expert : {"0", "1"}) {
        for (const char* name : {"gate_proj", "up_proj", "down_proj"}) {
          expected.push_back(prefix + "mlp.experts." + expert + "." + name + ".weight");
        }
      }
    }
    expected.push_back(prefix + "input_layernorm.weight");
    expected.push_back(prefix + "post_attention_layernorm.weight");
  }
  expected.insert(expected.end(), {"model.norm.weight", "lm_head.weight"});
  EXPECT_EQ(names, expected);
}

}  // namespace
}  // namespace reshard::model
