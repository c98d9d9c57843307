// SPDX-License-Identifier: Apache-2.0
#include "placement.h"

#include "nanotron_files.h"

namespace reshard::format {

Expected<layout::Placement> place(const std::string& name, const model::Spec& spec, const layout::Canon& canon,
                                  const layout::Mesh& mesh, const layout::Scope& options) {
  const auto axis = canon.scope().numbers.find("layer");
  const Index layers = axis == canon.scope().numbers.end() ? 0 : axis->second;
  if (name.empty()) return layout::place_evenly(layers, mesh.pp);
  if (name != "nanotron_cost") return usage_error("there is no placement \"" + name + "\"; there is nanotron_cost");

  const Index hidden = spec.integer("hidden_size");
  const Index heads = spec.integer("num_attention_heads") * spec.integer("head_dim");
  std::vector<Index> costs = {0};
  costs.insert(costs.end(), static_cast<std::size_t>(layers),
               4 * heads * hidden + 3 * spec.integer("intermediate_size") * hidden);
  costs.push_back(0);
  const auto multiple = options.numbers.find("vocab_multiple");
  const Index rows =
      round_up(spec.integer("vocab_size"), mesh.tp * (multiple == options.numbers.end() ? 1 : multiple->second));
  costs.push_back(rows * hidden);
  const std::vector<Index> stage_of = place_by_cost(costs, mesh.pp);
  layout::Placement placement;
  placement.layer_stage.assign(stage_of.begin() + 1, stage_of.end() - 2);
  placement.slot_stage = {{"embed", stage_of.front()}, {"norm", stage_of.end()[-2]}, {"head", stage_of.back()}};
  return placement;
}

}  // namespace reshard::format
