// SPDX-License-Identifier: Apache-2.0
#include "oracle.h"

#include <gtest/gtest.h>

#include <cstring>

#include "naive_copy.h"

namespace reshard::test {
namespace {

using layout::Factor;

using Local = Decoder::Local;

Index size_of(const Factor& factor, const Local& local);

Index size_of(const std::vector<Factor>& factors, const Local& local) {
  Index n = 1;
  for (const Factor& factor : factors) n *= size_of(factor, local);
  return n;
}

Index size_of(const Factor& factor, const Local& local) {
  if (!factor.axis.empty()) return local.size.at(factor.axis);
  Index n = 0;
  for (const auto& alternative : factor.alternatives) n += size_of(alternative.factors, local);
  return n;
}

void decode_factors(const std::vector<Factor>& factors, Index index, const Local& local, std::string& tensor,
                    std::map<std::string, Index>& coordinate) {
  for (auto factor = factors.rbegin(); factor != factors.rend(); ++factor) {
    const Index size = size_of(*factor, local);
    Index digit = index % size;
    index /= size;
    if (!factor->axis.empty()) {
      coordinate[factor->axis] = digit + local.begin.at(factor->axis);
      continue;
    }
    for (const auto& alternative : factor->alternatives) {
      const Index part = size_of(alternative.factors, local);
      if (digit < part) {
        if (!alternative.tensor.empty()) tensor = alternative.tensor;
        decode_factors(alternative.factors, digit, local, tensor, coordinate);
        break;
      }
      digit -= part;
    }
  }
}

/// Begin and size of part `part` of `parts`.
std::pair<Index, Index> split(Index extent, Index parts, Index part, layout::Split rule) {
  std::vector<Index> sizes;
  Index rest = extent;
  for (Index p = 0; p < parts; ++p) {
    Index size = extent / parts;
    if (rule == layout::Split::ceil) size = std::min(rest, (extent + parts - 1) / parts);
    if (rule == layout::Split::balanced && p < extent % parts) ++size;
    sizes.push_back(size);
    rest -= size;
  }
  Index begin = 0;
  for (Index p = 0; p < part; ++p) begin += sizes[static_cast<std::size_t>(p)];
  return {begin, sizes[static_cast<std::size_t>(part)]};
}

void collect_axes(const std::vector<Factor>& factors, std::vector<std::string>& axes) {
  for (const Factor& factor : factors) {
    if (!factor.axis.empty()) axes.push_back(factor.axis);
    for (const auto& alternative : factor.alternatives) collect_axes(alternative.factors, axes);
  }
}

Index mesh_size(const layout::Mesh& mesh, const std::string& dim) {
  return dim == "tp" ? mesh.tp : dim == "pp" ? mesh.pp : dim == "ep" ? mesh.ep : mesh.dp;
}

std::vector<Index> unravel(Index at, const Shape& of) {
  std::vector<Index> index(of.size());
  for (std::size_t d = of.size(); d-- > 0;) {
    index[d] = at % of[d];
    at /= of[d];
  }
  return index;
}

}  // namespace

Decoder::Decoder(const layout::Layout& layout, std::uint32_t number, const layout::Scope& options)
    : layout_(layout), array_(layout.arrays()[number]) {
  const layout::ArrayRule& rule = layout.rule(array_);
  const layout::Table& table = layout.table();
  const std::vector<Index>& coords = layout.cut(array_).coords;
  const auto coord = [&](const std::string& dim) {
    for (std::size_t m = 0; m < table.mesh_dims.size(); ++m) {
      if (table.mesh_dims[m] == dim) return coords[m];
    }
    return Index{0};
  };

  // The model's extents, then those of this coordinate.
  layout::Scope scope = layout.canon().scope();
  for (const auto& [name, value] : options.numbers) scope.numbers[name] = value;
  for (const char* dim : {"tp", "pp", "ep", "dp"}) scope.numbers[dim] = mesh_size(layout.mesh(), dim);
  for (const auto& [name, expression] : table.number_order) scope.numbers[name] = *layout::evaluate(expression, scope);
  std::vector<std::string> axes;
  for (const layout::Dim& dim : rule.view.dims) collect_axes(dim, axes);
  for (const std::string& axis : axes) {
    local_.size[axis] = scope.numbers.at(axis);
    local_.begin[axis] = 0;
  }
  for (const layout::ShardRule& shard : rule.shards) {
    if (shard.kind != layout::ShardRule::Kind::axis) continue;
    Index parts = mesh_size(layout.mesh(), shard.mesh_dim), part = coord(shard.mesh_dim);
    for (std::size_t i = 0; i < shard.axes.size(); ++i) {
      const Index extent = scope.numbers.at(shard.axes[i]);
      const Index here = i + 1 == shard.axes.size() ? parts : std::min(parts, extent);
      const auto [begin, size] = split(extent, here, part / (parts / here), table.split);
      local_.begin[shard.axes[i]] = begin;
      local_.size[shard.axes[i]] = size;
      part %= parts / here;
      parts /= here;
    }
  }

  for (const layout::Dim& dim : rule.view.dims) shape_.push_back(size_of(dim, local_));
  for (const bool flat : {false, true}) {
    for (const std::string& dim : table.mesh_dims) {
      for (const layout::ShardRule& shard : rule.shards) {
        const bool right_kind = shard.kind == (flat ? layout::ShardRule::Kind::flat : layout::ShardRule::Kind::dim);
        if (shard.mesh_dim != dim || !right_kind) continue;
        if (flat) {
          Index n = 1;
          for (const Index s : shape_) n *= s;
          const Shape before = shape_;
          const auto [begin, size] = split(n, mesh_size(layout.mesh(), dim), coord(dim), table.split);
          ranges_.push_back({true, 0, begin, before});
          shape_ = {size};
        } else {
          const auto d = static_cast<std::size_t>(shard.dim);
          const auto [begin, size] = split(shape_[d], mesh_size(layout.mesh(), dim), coord(dim), table.split);
          ranges_.push_back({false, d, begin, shape_});
          shape_[d] = size;
        }
      }
    }
  }
  EXPECT_EQ(shape_, layout.shape(array_));
}

Element Decoder::at(Index element) const {
  // Undo the range cuts from the last to the first: position in the cut array -> position in the uncut one.
  std::vector<Index> index = unravel(element, shape_);
  for (auto range = ranges_.rbegin(); range != ranges_.rend(); ++range) {
    if (range->flat) {
      index = unravel(index[0] + range->begin, range->before);
    } else {
      index[range->dim] += range->begin;
    }
  }

  const layout::ArrayRule& rule = layout_.rule(array_);
  std::string tensor = rule.tensor;
  std::map<std::string, Index> coordinate;
  if (array_.layer >= 0) coordinate["layer"] = array_.layer;
  if (array_.expert >= 0) coordinate["expert"] = array_.expert;
  for (std::size_t d = 0; d < rule.view.dims.size(); ++d)
    decode_factors(rule.view.dims[d], index[d], local_, tensor, coordinate);
  Element result;
  if (tensor == layout::kFill) return result;
  result.tensor = layout_.canon().find(tensor);
  for (const layout::Axis& axis : layout_.canon().tensors()[static_cast<std::size_t>(result.tensor)].axes) {
    result.position.push_back(coordinate.at(axis.name));
  }
  return result;
}

std::uint16_t oracle_value(const layout::Canon& canon, const Element& element) {
  if (element.tensor < 0) return 0;
  std::uint64_t h = std::hash<std::string>{}(canon.tensors()[static_cast<std::size_t>(element.tensor)].name);
  for (const Index at : element.position) {
    h = (h ^ static_cast<std::uint64_t>(at)) * 0xff51afd7ed558ccdu;
    h ^= h >> 32;
  }
  return static_cast<std::uint16_t>(h | 1);  // never zero, so that fill shows
}

std::vector<std::byte> oracle_array(const layout::Layout& layout, std::uint32_t array) {
  const Index n = *num_elements(layout.shape(layout.arrays()[array]));
  std::vector<std::byte> bytes(static_cast<std::size_t>(2 * n));
  const Decoder decoder(layout, array);
  for (Index i = 0; i < n; ++i) {
    const std::uint16_t value = oracle_value(layout.canon(), decoder.at(i));
    std::memcpy(bytes.data() + 2 * i, &value, 2);
  }
  return bytes;
}

std::vector<plan::Place> place_arrays(const layout::Layout& layout, std::size_t per_file, Index header,
                                      std::vector<Index>& file_sizes) {
  std::vector<plan::Place> places;
  const auto base = static_cast<std::uint32_t>(file_sizes.size());
  for (std::uint32_t a = 0; a < layout.arrays().size(); ++a) {
    const auto file = base + static_cast<std::uint32_t>(a / per_file);
    if (file == file_sizes.size()) file_sizes.push_back(header);
    places.push_back({file, file_sizes[file]});
    const layout::Array& array = layout.arrays()[a];
    file_sizes[file] += layout.reach(array) * bytes_of(array.dtype);
  }
  return places;
}

Files execute_naively(const plan::Plan& plan, const Files& sources, const std::vector<Index>& target_sizes,
                      std::vector<plan::Totals>& totals, std::vector<std::uint64_t>* digests) {
  if (digests != nullptr) digests->assign(static_cast<std::size_t>(plan.schedule(0)->num_lines()), 0);
  Files targets;
  for (const Index size : target_sizes) targets.emplace_back(static_cast<std::size_t>(size), std::byte{0xEE});
  const int ranks = plan.ranks();
  totals.assign(static_cast<std::size_t>(ranks), {});
  std::vector<std::unique_ptr<plan::Schedule>> schedules;
  Index rounds = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    schedules.push_back(plan.schedule(rank));
    rounds = std::max(rounds, schedules.back()->num_rounds());
  }
  for (Index number = 0; number < rounds; ++number) {
    using Buffer = std::vector<std::byte>;
    struct State {
      plan::Round round;
      Buffer slot[4];
    };
    std::vector<State> states(static_cast<std::size_t>(ranks));
    for (int rank = 0; rank < ranks; ++rank) {
      State& state = states[static_cast<std::size_t>(rank)];
      const plan::Schedule& schedule = *schedules[static_cast<std::size_t>(rank)];
      for (int s = 0; s < 4; ++s) {
        state.slot[s].assign(static_cast<std::size_t>(schedule.slot_bytes(static_cast<plan::Slot>(s))),
                             std::byte{0xDD});
      }
      if (number >= schedule.num_rounds()) continue;
      plan::Totals& count = totals[static_cast<std::size_t>(rank)];
      ++count.rounds;
      state.round = schedule.round(number);
      for (const plan::Read& read : state.round.reads) {
        count.bytes_read += read.length;
        EXPECT_LE(read.slot_offset + read.length, std::ssize(state.slot[0]));
        std::memcpy(state.slot[0].data() + read.slot_offset, sources[read.file].data() + read.offset,
                    static_cast<std::size_t>(read.length));
      }
      for (const plan::Copy& copy : state.round.pack) {
        naive_run(copy, state.slot[static_cast<int>(copy.src_slot)].data(),
                  state.slot[static_cast<int>(copy.dst_slot)].data());
      }
    }
    for (int rank = 0; rank < ranks; ++rank) {
      for (const plan::Message& send : states[static_cast<std::size_t>(rank)].round.sends) {
        State& peer = states[static_cast<std::size_t>(send.peer)];
        totals[static_cast<std::size_t>(rank)].bytes_sent += send.length;
        int matched = 0;
        for (const plan::Message& receive : peer.round.receives) {
          if (receive.peer != rank) continue;
          ++matched;
          EXPECT_EQ(receive.length, send.length);
          totals[static_cast<std::size_t>(send.peer)].bytes_received += receive.length;
          std::memcpy(peer.slot[static_cast<int>(plan::Slot::received)].data() + receive.slot_offset,
                      states[static_cast<std::size_t>(rank)].slot[static_cast<int>(plan::Slot::outgoing)].data() +
                          send.slot_offset,
                      static_cast<std::size_t>(send.length));
        }
        EXPECT_EQ(matched, 1) << "a send without its receive";
      }
    }
    for (int rank = 0; rank < ranks; ++rank) {
      State& state = states[static_cast<std::size_t>(rank)];
      Buffer& output = state.slot[static_cast<int>(plan::Slot::output)];
      for (const plan::Copy& copy : state.round.place) {
        const std::uint64_t digest = naive_run(copy, state.slot[static_cast<int>(copy.src_slot)].data(), output.data());
        if (digests != nullptr && copy.line != plan::kNoLine) (*digests)[static_cast<std::size_t>(copy.line)] += digest;
      }
      // Copies and constants may run in any order: last here, first in other places.
      for (const plan::Constant& constant : state.round.constants) {
        if (constant.bytes != nullptr) {
          std::memcpy(output.data() + constant.slot_offset, constant.bytes, static_cast<std::size_t>(constant.length));
        } else {
          std::memset(output.data() + constant.slot_offset, 0, static_cast<std::size_t>(constant.length));
        }
      }
      for (const plan::Write& write : state.round.writes) {
        totals[static_cast<std::size_t>(rank)].bytes_written += write.length;
        EXPECT_LE(write.slot_offset + write.length, std::ssize(output));
        std::memcpy(targets[write.file].data() + write.offset, output.data() + write.slot_offset,
                    static_cast<std::size_t>(write.length));
      }
    }
  }
  return targets;
}

}  // namespace reshard::test
