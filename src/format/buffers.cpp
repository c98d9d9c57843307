// SPDX-License-Identifier: Apache-2.0
#include "buffers.h"

#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace reshard::format {

namespace {

constexpr Index kMostBytes = 256 * kMiB;  // held in memory by every rank

double theta_of(const model::Spec& spec) {
  const auto rope = spec.fields.find("rope");
  return rope == spec.fields.end() ? 10000.0 : rope->value("theta", 10000.0);
}

// Rotary frequencies of a head, rounded where torch rounds.
std::vector<float> rope_frequencies(double theta, Index head_dim) {
  std::vector<float> frequencies;
  for (Index pair = 0; pair < head_dim / 2; ++pair) {
    const float exponent = static_cast<float>(2 * pair) / static_cast<float>(head_dim);
    frequencies.push_back(1.0F / static_cast<float>(std::pow(theta, static_cast<double>(exponent))));
  }
  return frequencies;
}

std::vector<float> causal_mask(const Shape& shape) {
  std::vector<float> values;
  for (Index row = 0; row < shape[0]; ++row) {
    for (Index column = 0; column < shape[1]; ++column) values.push_back(column > row ? 1.0F : 0.0F);
  }
  return values;
}

std::vector<float> rope_table(const Shape& shape, double theta, double (*function)(double)) {
  const std::vector<float> frequencies = rope_frequencies(theta, shape[1]);
  std::vector<float> values;
  for (Index position = 0; position < shape[0]; ++position) {
    for (Index column = 0; column < shape[1]; ++column) {
      const float angle =
          static_cast<float>(position) * frequencies[static_cast<std::size_t>(column) % frequencies.size()];
      values.push_back(static_cast<float>(function(angle)));
    }
  }
  return values;
}

// Of a finite number.
std::uint16_t to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return static_cast<std::uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

template <class Element>
std::shared_ptr<const std::string> bytes_of_elements(const std::vector<Element>& values) {
  std::string bytes(values.size() * sizeof(Element), '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return std::make_shared<const std::string>(std::move(bytes));
}

}  // namespace

Expected<std::shared_ptr<const std::string>> make_buffer(const std::string& name, const model::Spec& spec,
                                                         const Shape& shape, DType dtype) {
  const std::optional<Index> elements = num_elements(shape);
  if (!elements || *elements > kMostBytes / 4) {
    return usage_error(fmt::format("buffer {}: [{}] elements are more than {} MiB, which every rank would hold", name,
                                   fmt::join(shape, ", "), kMostBytes / kMiB));
  }
  const auto refuse = [&](const char* expected) {
    return usage_error(
        fmt::format("buffer {}: {} [{}], expected {}", name, to_string(dtype), fmt::join(shape, ", "), expected));
  };
  std::vector<float> values;
  if (name == "causal_mask") {
    if (shape.size() != 2 || shape[0] != shape[1]) return refuse("a square");
    values = causal_mask(shape);
  } else if (name == "rope_cos" || name == "rope_sin") {
    if (shape.size() != 2 || shape[1] < 2 || shape[1] % 2 != 0) return refuse("positions and an even head_dim");
    values = rope_table(
        shape, theta_of(spec),
        name == "rope_cos" ? +[](double x) { return std::cos(x); } : +[](double x) { return std::sin(x); });
  } else if (name == "rope_freqs") {
    if (shape.size() != 1) return refuse("one dimension");
    values = rope_frequencies(theta_of(spec), 2 * shape[0]);
    if (dtype == DType::bf16) {
      std::vector<std::uint16_t> narrow;
      for (const float value : values) narrow.push_back(to_bf16(value));
      return bytes_of_elements(narrow);
    }
  } else {
    return usage_error("there is no buffer \"" + name + "\"; there are causal_mask, rope_cos, rope_sin and rope_freqs");
  }
  if (dtype != DType::f32) return refuse("F32");
  return bytes_of_elements(values);
}

}  // namespace reshard::format
