// SPDX-License-Identifier: Apache-2.0
#include "random_layouts.h"

#include <gtest/gtest.h>

#include <map>
#include <stdexcept>

namespace reshard::test {
namespace {

using layout::ArrayRule;
using layout::ShardRule;
using layout::Table;

Index draw(std::mt19937_64& random, Index low, Index high) {
  return std::uniform_int_distribution<Index>(low, high)(random);
}

ArrayRule rule(const std::string& array, const std::string& tensor, const std::string& view,
               const std::string& shards = "") {
  ArrayRule r;
  r.array = array;
  r.tensor = tensor;
  r.view_text = view;
  r.view = *layout::parse_view(view);
  // "tp=group,query dp=flat ep=#0"
  std::size_t at = 0;
  while (at < shards.size()) {
    const std::size_t end = std::min(shards.find(' ', at), shards.size());
    const std::string one = shards.substr(at, end - at);
    ShardRule shard;
    shard.mesh_dim = one.substr(0, 2);
    std::string what = one.substr(3);
    if (what == "flat") {
      shard.kind = ShardRule::Kind::flat;
    } else if (what[0] == '#') {
      shard.kind = ShardRule::Kind::dim;
      shard.dim = what[1] - '0';
    } else {
      while (!what.empty()) {
        const std::size_t comma = std::min(what.find(','), what.size());
        shard.axes.push_back(what.substr(0, comma));
        what = comma < what.size() ? what.substr(comma + 1) : "";
      }
    }
    r.shards.push_back(shard);
    at = end + 1;
  }
  return r;
}

/// The formats in shared notation: separate and fused, sharded by axis, by dimension, flat and twice, stacked,
/// transposed, padded, with replicas.
std::map<std::string, Table> make_tables() {
  std::map<std::string, Table> tables;
  const auto add = [&](const std::string& name, std::vector<std::string> mesh, std::vector<ArrayRule> rules) {
    Table table;
    table.format = name;
    table.mesh_dims = std::move(mesh);
    table.rules = std::move(rules);
    table.split = layout::Split::balanced;
    tables[name] = table;
  };
  const std::string l = "layer.{layer}.", e = "layer.{layer}.expert.{expert}.";
  add("plain", {},
      {rule("embed", "embed", "vocab embed"), rule(l + "q", "q", "(group query half pair) embed"),
       rule(l + "k", "k", "(group half pair) embed"), rule(l + "v", "v", "(group half pair) embed"),
       rule(l + "o", "o", "embed (group query half pair)"), rule(l + "norm", "norm", "embed"),
       rule(l + "gate", "gate", "ffn embed"), rule(l + "up", "up", "ffn embed"), rule(l + "down", "down", "embed ffn"),
       rule(e + "w1", "moe.gate", "moe_ffn embed"), rule(e + "w3", "moe.up", "moe_ffn embed"),
       rule(e + "w2", "moe.down", "embed moe_ffn")});
  add("chunked", {"tp"},
      {rule("embed", "embed", "([embed: vocab | ~: pad]) embed", "tp=#0"),
       rule(l + "qkv", "", "([q: group query | k: group | v: group] half pair) embed", "tp=group,query"),
       rule(l + "o", "o", "embed (group query half pair)", "tp=group,query"), rule(l + "norm", "norm", "embed"),
       rule(l + "gate_up", "", "([gate: ffn | up: ffn]) embed", "tp=ffn"),
       rule(l + "down", "down", "embed ffn", "tp=ffn"),
       rule(l + "experts.gate_up", "", "expert embed ([moe.gate: moe_ffn | moe.up: moe_ffn])"),
       rule(l + "experts.down", "moe.down", "expert moe_ffn embed")});
  tables["chunked"].number_order = {{"pad", "round_up(vocab, 5 * tp) - vocab"}};
  add("grouped", {"tp", "ep"},
      {rule("embed", "embed", "([embed: vocab | ~: pad]) embed", "tp=#0"),
       rule(l + "qkv", "", "(group [q: query | k: | v:] half pair) embed", "tp=#0"),
       rule(l + "o", "o", "embed (group query half pair)", "tp=#1"), rule(l + "norm", "norm", "embed"),
       rule(l + "fc1", "", "([gate: ffn | up: ffn]) embed", "tp=ffn"), rule(l + "fc2", "down", "embed ffn", "tp=#1"),
       rule(l + "experts.fc1", "", "expert ([moe.up: moe_ffn | moe.gate: moe_ffn]) embed", "ep=expert tp=moe_ffn"),
       rule(l + "experts.fc2", "moe.down", "expert embed moe_ffn", "ep=expert tp=moe_ffn")});
  tables["grouped"].number_order = {{"pad", "3"}};
  add("stacked", {"tp", "dp"},
      {rule("embed", "embed", "embed vocab", "tp=embed"),
       rule("q", "q", "layer (group query pair half) embed", "dp=#0 tp=#1"),
       rule("kv", "", "layer ([k: group | v: group] pair half) embed", "dp=#2"),
       rule("o", "o", "layer (group query pair half) embed", "tp=#2"), rule("norm", "norm", "layer embed", "tp=#1"),
       rule("gate_up", "", "layer embed (ffn [gate: | up:])", "tp=#2 dp=#1"), rule("down", "down", "layer ffn embed"),
       rule("moe1", "", "expert layer ([moe.gate: moe_ffn | moe.up: moe_ffn]) embed", "tp=#0"),
       rule("moe2", "moe.down", "layer expert embed moe_ffn", "dp=flat")});
  add("flat", {"tp", "dp"},
      {rule("embed", "embed", "vocab embed", "dp=flat"),
       rule(l + "qkv", "", "([q: group query pair half | k: group pair half | v: group half pair]) embed",
            "tp=group dp=flat"),
       rule(l + "o", "o", "embed (group query half pair)", "dp=flat"), rule(l + "norm", "norm", "embed", "dp=flat"),
       rule(l + "mlp", "", "([gate: ffn | up: ffn]) embed", "tp=ffn dp=flat"),
       rule(l + "down", "down", "embed ffn", "tp=ffn dp=flat"),
       rule(l + "moe", "", "(expert embed [moe.gate: moe_ffn | moe.up: moe_ffn])", "dp=flat"),
       rule(e + "down", "moe.down", "embed moe_ffn", "tp=#1 dp=flat")});
  return tables;
}

const std::map<std::string, Table>& tables() {
  static const std::map<std::string, Table> all = make_tables();
  return all;
}

}  // namespace

std::shared_ptr<const layout::Canon> random_model(std::mt19937_64& random) {
  layout::Scope scope;
  const std::map<std::string, std::pair<Index, Index>> extents = {
      {"layer", {1, 3}}, {"group", {1, 4}}, {"query", {1, 3}},  {"half", {2, 2}},   {"pair", {1, 3}},
      {"embed", {3, 9}}, {"ffn", {3, 10}},  {"vocab", {3, 17}}, {"expert", {1, 4}}, {"moe_ffn", {2, 5}}};
  for (const auto& [axis, range] : extents) scope.numbers[axis] = draw(random, range.first, range.second);
  const std::vector<std::pair<std::string, std::string>> names = {{"embed", "vocab embed"},
                                                                  {"q", "layer group query half pair embed"},
                                                                  {"k", "layer group half pair embed"},
                                                                  {"v", "layer group half pair embed"},
                                                                  {"o", "layer embed group query half pair"},
                                                                  {"norm", "layer embed"},
                                                                  {"gate", "layer ffn embed"},
                                                                  {"up", "layer ffn embed"},
                                                                  {"down", "layer embed ffn"},
                                                                  {"moe.gate", "layer expert moe_ffn embed"},
                                                                  {"moe.up", "layer expert moe_ffn embed"},
                                                                  {"moe.down", "layer expert embed moe_ffn"}};
  std::vector<layout::Tensor> tensors;
  for (const auto& [name, axes] : names) {
    layout::Tensor tensor;
    tensor.name = name;
    std::size_t at = 0;
    while (at < axes.size()) {
      const std::size_t end = std::min(axes.find(' ', at), axes.size());
      const std::string axis = axes.substr(at, end - at);
      tensor.axes.push_back({axis, scope.numbers.at(axis)});
      at = end + 1;
    }
    tensors.push_back(tensor);
  }
  return std::make_shared<layout::Canon>(std::move(tensors), std::move(scope));
}

const std::vector<std::string>& made_up_formats() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const auto& [name, table] : tables()) all.push_back(name);
    return all;
  }();
  return names;
}

layout::Layout random_layout(std::mt19937_64& random, const std::shared_ptr<const layout::Canon>& canon,
                             const std::string& format) {
  const std::vector<std::string>& names = made_up_formats();
  const std::string name =
      format.empty() ? names[static_cast<std::size_t>(draw(random, 0, std::ssize(names) - 1))] : format;
  layout::Table table = tables().at(name);
  if (draw(random, 0, 1) == 1) table.split = layout::Split::ceil;
  for (int attempt = 0; attempt < 50; ++attempt) {
    layout::Mesh mesh;
    for (const std::string& dim : table.mesh_dims)
      (dim == "tp" ? mesh.tp : dim == "ep" ? mesh.ep : mesh.dp) = draw(random, 1, 4);
    // Some meshes do not fit (tp no multiple of the groups): draw again.
    auto layout = layout::Layout::predict(canon, table, mesh,
                                          layout::place_evenly(canon->scope().numbers.at("layer"), 1), DType::bf16, {});
    if (layout) return *std::move(layout);
  }
  throw std::runtime_error("no mesh fits format " + name);
}

}  // namespace reshard::test
