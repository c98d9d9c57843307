// SPDX-License-Identifier: Apache-2.0
#include "swapped_source.h"

#include <algorithm>
#include <array>
#include <vector>

namespace reshard::app {
namespace {

// Bytes of whole numbers of one width.
struct Run {
  Index begin, end;
  Index width;
};

// Numbers that are swapped as such: a complex one is two.
Index width_of(DType dtype) { return dtype == DType::c64 ? 4 : bytes_of(dtype); }

class SwappedSource : public io::Source {
 public:
  SwappedSource(std::unique_ptr<io::Source> inner, std::vector<Run> runs)
      : inner_(std::move(inner)), runs_(std::move(runs)) {}

  Index size() const override { return inner_->size(); }

  Status read_at(std::span<std::byte> into, Index offset) override {
    RESHARD_CHECK(inner_->read_at(into, offset));
    const Index end = offset + static_cast<Index>(into.size());
    auto run = std::partition_point(runs_.begin(), runs_.end(), [&](const Run& r) { return r.end <= offset; });
    for (; run != runs_.end() && run->begin < end; ++run) {
      // From the number that holds the first byte to the one that holds the last.
      const Index first = run->begin + (std::max(offset, run->begin) - run->begin) / run->width * run->width;
      const Index last = std::min(end, run->end);
      for (Index at = first; at < last; at += run->width) RESHARD_CHECK(swap(at, run->width, into, offset));
    }
    return {};
  }

 private:
  Status swap(Index at, Index width, std::span<std::byte> into, Index offset) {
    const Index end = offset + static_cast<Index>(into.size());
    if (at >= offset && at + width <= end) {
      const auto number = into.subspan(static_cast<std::size_t>(at - offset), static_cast<std::size_t>(width));
      std::reverse(number.begin(), number.end());
      return {};
    }
    // A read that ends inside a number.
    std::array<std::byte, 8> whole;
    const std::span<std::byte> number = std::span(whole).first(static_cast<std::size_t>(width));
    RESHARD_CHECK(inner_->read_at(number, at));
    std::reverse(number.begin(), number.end());
    for (Index i = 0; i < width; ++i) {
      if (at + i >= offset && at + i < end)
        into[static_cast<std::size_t>(at + i - offset)] = number[static_cast<std::size_t>(i)];
    }
    return {};
  }

  std::unique_ptr<io::Source> inner_;
  std::vector<Run> runs_;  // rising, disjoint
};

}  // namespace

std::unique_ptr<io::Source> make_swapped_source(std::unique_ptr<io::Source> source, const format::Directory& directory,
                                                std::uint32_t file) {
  std::vector<Run> all;
  for (const format::Directory::Entry& entry : directory.entries) {
    if (entry.file != file || entry.entry.length == 0) continue;
    const Index width = width_of(entry.entry.dtype);
    if (width > 1) all.push_back({entry.entry.offset, entry.entry.offset + entry.entry.length, width});
  }
  std::sort(all.begin(), all.end(), [](const Run& a, const Run& b) { return a.begin < b.begin; });
  // Tensors may share bytes: each number is swapped once.
  std::vector<Run> runs;
  for (const Run& run : all) {
    if (!runs.empty() && run.begin < runs.back().end) {
      runs.back().end = std::max(runs.back().end, run.end);
    } else {
      runs.push_back(run);
    }
  }
  return std::make_unique<SwappedSource>(std::move(source), std::move(runs));
}

}  // namespace reshard::app
