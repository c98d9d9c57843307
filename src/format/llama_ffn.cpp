// SPDX-License-Identifier: Apache-2.0
#include "llama_ffn.h"

#include <cmath>
#include <limits>
#include <vector>

namespace reshard::format {

namespace {

constexpr const char* kFact = "ffn_rule";
constexpr double kMost = 1e15;  // doubles hold integers up to here

// Python's int(): cuts off.
std::optional<Index> whole(double value) {
  if (!(value >= 1 && value <= kMost)) return std::nullopt;
  return static_cast<Index>(value);
}

std::optional<Index> rounded(std::optional<Index> size, Index multiple_of) {
  if (!size || multiple_of < 1 || static_cast<double>(multiple_of) > kMost) return std::nullopt;
  return round_up(*size, multiple_of);
}

}  // namespace

std::optional<Index> meta_ffn_size(Index dim, const FfnRule& rule) {
  if (dim < 1 || static_cast<double>(dim) > kMost / 8) return std::nullopt;
  const std::optional<Index> base = whole(static_cast<double>(2 * (4 * dim)) / 3);
  if (!base) return std::nullopt;
  return rounded(whole(rule.multiplier * static_cast<double>(*base)), rule.multiple_of);
}

std::optional<Index> fairseq2_ffn_size(Index inner, double scale, const FfnRule& rule) {
  const std::optional<Index> multiplied = whole(static_cast<double>(inner) * rule.multiplier);
  if (!multiplied) return std::nullopt;
  return rounded(whole(static_cast<double>(*multiplied) * scale), rule.multiple_of);
}

std::optional<FfnRule> find_ffn_rule(Index dim, Index size,
                                     const std::function<std::optional<Index>(const FfnRule&)>& size_of) {
  // Those of the released models, in an order in which each of them finds its own.
  std::vector<FfnRule> rules = {{1, 256}, {1.5, 256}, {1.3, 4096}, {1.3, 1024}, {1.2, 4096}};
  for (Index multiple = 4096; multiple >= 1; multiple /= 2) rules.push_back({1, multiple});
  if (const std::optional<Index> base = meta_ffn_size(dim, {1, 1}); base && size >= 1) {
    const double multiplier = static_cast<double>(size) / static_cast<double>(*base);
    rules.push_back({multiplier, size & -size});
    // An odd size must come out exactly: the next multiplier, where this one is cut off to one less.
    rules.push_back({std::nextafter(multiplier, std::numeric_limits<double>::max()), 1});
  }
  for (const FfnRule& rule : rules) {
    if (size_of(rule) == size) return rule;
  }
  return std::nullopt;
}

std::optional<FfnRule> find_ffn_rule(const model::Spec& spec,
                                     const std::function<std::optional<Index>(const FfnRule&)>& size_of) {
  const Index size = spec.integer("intermediate_size");
  if (const auto kept = spec.facts.find(kFact); kept != spec.facts.end()) {
    const FfnRule rule{kept->at("multiplier").get<double>(), kept->at("multiple_of").get<Index>()};
    if (size_of(rule) == size) return rule;
  }
  return find_ffn_rule(spec.integer("hidden_size"), size, size_of);
}

void keep_ffn_rule(const FfnRule& rule, model::Spec& spec) {
  spec.facts[kFact] = {{"multiplier", rule.multiplier}, {"multiple_of", rule.multiple_of}};
}

}  // namespace reshard::format
