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
  const auto refuse = [&](const char* expected) {
    return usage_error(
        fmt::format("buffer {}: {} [{}], expected {}", name, to_string(dtype), fmt::join(shape, ", "), expected));
  };
  if (name != "rope_freqs") return usage_error("there is no buffer \"" + name + "\"; there is rope_freqs");
  if (shape.size() != 1) return refuse("one dimension");
  const std::vector<float> values = rope_frequencies(theta_of(spec), 2 * shape[0]);
  if (dtype == DType::f32) return bytes_of_elements(values);
  if (dtype != DType::bf16) return refuse("F32 or BF16");
  std::vector<std::uint16_t> narrow;
  for (const float value : values) narrow.push_back(to_bf16(value));
  return bytes_of_elements(narrow);
}

}  // namespace reshard::format
