// SPDX-License-Identifier: Apache-2.0
#include "reshard/format/synthetic.h"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace reshard::format {

namespace {

// One hash gives four neighbouring elements.
constexpr Index kPerHash = 4;

std::uint64_t seed_of(std::string_view line_name) {
  std::uint64_t seed = 0xCBF29CE484222325u;  // FNV-1a
  for (const char c : line_name) seed = (seed ^ static_cast<std::uint8_t>(c)) * 0x100000001B3u;
  return seed;
}

std::uint64_t hash(std::uint64_t seed, std::uint64_t block) {
  std::uint64_t x = seed + block * 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 32)) * 0xD6E8FEB86659FD93u;
  x = (x ^ (x >> 32)) * 0xD6E8FEB86659FD93u;
  return x ^ (x >> 32);
}

std::uint16_t lane(std::uint64_t seed, Index index) {
  return static_cast<std::uint16_t>(hash(seed, static_cast<std::uint64_t>(index / kPerHash)) >>
                                    16 * (index % kPerHash));
}

// Sign, three low exponent bits and mantissa from the hash; the other exponent bits fixed: magnitude in [2^-7, 2).
constexpr std::uint64_t kFree = 0x83FF'83FF'83FF'83FFu;
constexpr std::uint64_t kFixed = 0x3C00'3C00'3C00'3C00u;

std::uint16_t bf16_of(std::uint16_t bits) {
  return static_cast<std::uint16_t>((bits & (kFree & 0xFFFF)) | (kFixed & 0xFFFF));
}

void put(std::byte* into, auto value) { std::memcpy(into, &value, sizeof value); }

void put_f16(std::byte* into, std::uint16_t bf16) {
  const unsigned exponent = (bf16 >> 7 & 0xFFu) - 127 + 15;
  put(into, static_cast<std::uint16_t>((bf16 & 0x8000u) | exponent << 10 | (bf16 & 0x7Fu) << 3));
}

void put_f64(std::byte* into, std::uint16_t bf16) {
  const std::uint64_t exponent = (bf16 >> 7 & 0xFFu) - 127 + 1023;
  put(into, std::uint64_t{bf16 & 0x8000u} << 48 | exponent << 52 | std::uint64_t{bf16 & 0x7Fu} << 45);
}

// Bytes of one element, from its 16 bits of hash.
void put_element(std::byte* into, DType dtype, std::uint16_t bits) {
  const std::uint16_t bf16 = bf16_of(bits);
  switch (dtype) {
    case DType::bf16:
      return put(into, bf16);
    case DType::f16:
      return put_f16(into, bf16);
    case DType::f32:
      return put(into, std::uint32_t{bf16} << 16);
    case DType::f64:
      return put_f64(into, bf16);
    case DType::c64:
      put(into, std::uint32_t{bf16} << 16);
      return put(into + 4, std::uint32_t{0});
    case DType::boolean:
      return put(into, static_cast<std::uint8_t>(bits & 1));
    case DType::f8_e4m3:
    case DType::f8_e5m2:
    case DType::f8_e4m3fnuz:
    case DType::f8_e5m2fnuz:
    case DType::f8_e8m0:
      // Exponents below the largest, and not the fnuz NaN 0x80.
      return put(into, static_cast<std::uint8_t>((bits & 0x8Fu) | 0x20u));
    default:
      switch (is_sub_byte(dtype) ? 1 : bytes_of(dtype)) {
        case 1:
          return put(into, static_cast<std::uint8_t>(bits));
        case 2:
          return put(into, bits);
        case 4:
          return put(into, std::uint32_t{bits});
        default:
          return put(into, std::uint64_t{bits});
      }
  }
}

// Elements [index, index + count) of a line, densely, with the bits of a lane passed through `element`.
template <class Element>
void fill_run(std::byte* into, std::uint64_t seed, Index index, Index count, Index bytes, const Element& element) {
  for (Index i = 0; i < count;) {
    std::uint64_t bits = hash(seed, static_cast<std::uint64_t>((index + i) / kPerHash));
    const Index first = (index + i) % kPerHash, last = std::min(kPerHash, first + count - i);
    bits >>= 16 * first;
    for (Index k = first; k < last; ++k, ++i, bits >>= 16) element(into + i * bytes, static_cast<std::uint16_t>(bits));
  }
}

void fill_run(std::byte* into, DType dtype, Index bytes, std::uint64_t seed, Index index, Index count) {
  if (dtype == DType::bf16 || dtype == DType::f32) {
    // The two that large models are made of: whole hashes at a time.
    const Index head = std::min(count, (kPerHash - index % kPerHash) % kPerHash);
    const Index blocks = (count - head) / kPerHash;
    const auto plain = [&](std::byte* at, Index from, Index length) {
      fill_run(at, seed, from, length, bytes, [&](std::byte* e, std::uint16_t b) { put_element(e, dtype, b); });
    };
    plain(into, index, head);
    into += head * bytes;
    index += head;
    for (Index b = 0; b < blocks; ++b, into += kPerHash * bytes) {
      const std::uint64_t four = (hash(seed, static_cast<std::uint64_t>(index / kPerHash + b)) & kFree) | kFixed;
      if (dtype == DType::bf16) {
        put(into, four);
      } else {
        put(into, (four & 0xFFFF) << 16 | (four & 0xFFFF'0000u) << 32);
        put(into + 8, (four >> 32 & 0xFFFF) << 16 | (four >> 48) << 48);
      }
    }
    return plain(into, index + blocks * kPerHash, count - head - blocks * kPerHash);
  }
  fill_run(into, seed, index, count, bytes, [&](std::byte* e, std::uint16_t b) { put_element(e, dtype, b); });
}

// Spells `copy` out, element by element but for its innermost loop; `into` holds elements [begin, ...) of the array.
void fill_copy(const layout::StridedCopy& copy, int loop, std::byte* into, DType dtype, Index bytes,
               std::uint64_t seed) {
  if (loop == copy.rank) return fill_run(into, dtype, bytes, seed, copy.canonical, 1);
  const layout::Loop& here = copy.loops[loop];
  if (loop + 1 == copy.rank && here.dst == 1 && here.canonical == 1) {
    return fill_run(into, dtype, bytes, seed, copy.canonical, here.size);
  }
  layout::StridedCopy inner = copy;
  for (Index i = 0; i < here.size; ++i, inner.canonical += here.canonical, into += here.dst * bytes) {
    fill_copy(inner, loop + 1, into, dtype, bytes, seed);
  }
}

Index element_bytes(DType dtype) { return is_sub_byte(dtype) ? 1 : bytes_of(dtype); }

class SyntheticSource : public io::Source {
 public:
  SyntheticSource(std::shared_ptr<const Generator> generator, std::vector<SyntheticExtent> extents, Index size)
      : generator_(std::move(generator)), extents_(std::move(extents)), size_(size) {
    std::sort(extents_.begin(), extents_.end(), [](const auto& a, const auto& b) { return a.offset < b.offset; });
  }

  Index size() const override { return size_; }

  Status read_at(std::span<std::byte> into, Index offset) override {
    const auto length = static_cast<Index>(into.size());
    if (offset < 0 || length > size_ - offset) return input_error("synthetic file: read beyond its end");
    Index at = offset;
    const auto zero_to = [&](Index end) {
      if (end > at) std::memset(into.data() + (at - offset), 0, static_cast<std::size_t>(end - at));
      at = std::max(at, end);
    };
    auto extent = std::upper_bound(extents_.begin(), extents_.end(), offset,
                                   [](Index value, const SyntheticExtent& e) { return value < e.offset + e.length; });
    for (; extent != extents_.end() && extent->offset < offset + length; ++extent) {
      zero_to(extent->offset);
      const Index end = std::min(offset + length, extent->offset + extent->length);
      read_extent(*extent, at - extent->offset,
                  into.subspan(static_cast<std::size_t>(at - offset), static_cast<std::size_t>(end - at)));
      at = end;
    }
    zero_to(offset + length);
    return {};
  }

 private:
  // Bytes of the array from `byte` on; the first and last element may be wanted in part.
  void read_extent(const SyntheticExtent& extent, Index byte, std::span<std::byte> into) const {
    const Index bytes = element_bytes(generator_->layout().arrays()[extent.array].dtype);
    const auto partial = [&](Index element, Index skip, std::span<std::byte> out) {
      std::byte whole[16];
      generator_->fill(extent.array, element, element + 1, std::span(whole, static_cast<std::size_t>(bytes)));
      std::memcpy(out.data(), whole + skip, out.size());
    };
    if (const Index skip = byte % bytes; skip != 0) {
      const auto take = std::min(into.size(), static_cast<std::size_t>(bytes - skip));
      partial(byte / bytes, skip, into.first(take));
      into = into.subspan(take);
      byte += static_cast<Index>(take);
    }
    const Index first = byte / bytes, count = static_cast<Index>(into.size()) / bytes;
    generator_->fill(extent.array, first, first + count, into.first(static_cast<std::size_t>(count * bytes)));
    into = into.subspan(static_cast<std::size_t>(count * bytes));
    if (!into.empty()) partial(first + count, 0, into);
  }

  std::shared_ptr<const Generator> generator_;
  std::vector<SyntheticExtent> extents_;
  Index size_;
};

}  // namespace

std::uint16_t synthetic_bf16(std::string_view line_name, Index index) {
  return bf16_of(lane(seed_of(line_name), index));
}

Generator::Generator(std::shared_ptr<const layout::Layout> layout)
    : layout_(std::move(layout)), parts_(layout_->arrays().size()) {
  const layout::Canon& canon = layout_->canon();
  for (std::uint32_t tensor = 0; tensor < canon.tensors().size(); ++tensor) {
    const std::vector<layout::Axis>& axes = canon.tensors()[tensor].axes;
    const std::vector<bool> fusable = layout_->fusable(tensor);
    layout::Fusion fusion;
    for (std::size_t axis = 0; axis < axes.size(); ++axis) {
      if (axis == 0 || !fusable[axis - 1]) fusion.first.push_back(static_cast<int>(axis));
    }
    const auto is_axis = [&](int fused, std::string_view name) {
      return axes[static_cast<std::size_t>(fusion.first[static_cast<std::size_t>(fused)])].name == name;
    };
    std::vector<layout::Piece> pieces;
    layout_->pieces(tensor, fusion, pieces);
    for (const layout::Piece& piece : pieces) {
      // A part for each value of the instance axes, which have loops of their own.
      int layer_axis = -1, expert_axis = -1;
      layout::StridedCopy place;
      place.dst = piece.offset;
      for (int k = 0; k < piece.rank; ++k) {
        if (is_axis(k, "layer")) {
          layer_axis = k;
        } else if (is_axis(k, "expert")) {
          expert_axis = k;
        } else {
          const auto next = static_cast<std::size_t>(k) + 1;
          const int last = next < fusion.first.size() ? fusion.first[next] - 1 : static_cast<int>(axes.size()) - 1;
          const Index step = canon.line_stride(tensor, last);
          place.canonical += piece.begin[k] * step;
          place.loops[place.rank++] = {piece.size[k], 0, piece.stride[k], step};
        }
      }
      order_by_dst(place);
      coalesce(place);
      const Index layers = layer_axis < 0 ? 1 : piece.size[layer_axis];
      const Index experts = expert_axis < 0 ? 1 : piece.size[expert_axis];
      for (Index l = 0; l < layers; ++l) {
        for (Index e = 0; e < experts; ++e) {
          const Index layer = layer_axis < 0 ? -1 : piece.begin[layer_axis] + l;
          const Index expert = expert_axis < 0 ? -1 : piece.begin[expert_axis] + e;
          Part part{0, place};
          if (layer_axis >= 0) part.place.dst += l * piece.stride[layer_axis];
          if (expert_axis >= 0) part.place.dst += e * piece.stride[expert_axis];
          part.seed = seed_of(canon.line_name(canon.line_number(tensor, layer, expert)));
          parts_[piece.array].push_back(part);
        }
      }
    }
  }
}

void Generator::fill(std::uint32_t array, Index begin, Index end, std::span<std::byte> into) const {
  const DType dtype = layout_->arrays()[array].dtype;
  const Index bytes = element_bytes(dtype);
  assert(static_cast<Index>(into.size()) == (end - begin) * bytes);
  if (begin == end) return;
  // Only padding needs the zeros: parts that are one run and cover the range leave none.
  const std::vector<Part>& parts = parts_[array];
  const auto is_whole = [&](const Part& part) {
    return part.place.dst <= begin && part.place.rank == 1 && part.place.loops[0].dst == 1 &&
           part.place.dst + part.place.loops[0].size >= end;
  };
  if (std::none_of(parts.begin(), parts.end(), is_whole)) std::memset(into.data(), 0, into.size());
  std::vector<layout::StridedCopy> cuts;
  for (const Part& part : parts) {
    cuts.clear();
    cut_by_dst(part.place, begin, end, cuts);
    for (const layout::StridedCopy& cut : cuts) {
      fill_copy(cut, 0, into.data() + (cut.dst - begin) * bytes, dtype, bytes, part.seed);
    }
  }
}

std::unique_ptr<io::Source> make_synthetic_source(std::shared_ptr<const Generator> generator,
                                                  std::vector<SyntheticExtent> extents, Index size) {
  return std::make_unique<SyntheticSource>(std::move(generator), std::move(extents), size);
}

}  // namespace reshard::format
