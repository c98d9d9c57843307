// SPDX-License-Identifier: Apache-2.0
#include "reshard/app/diff.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <mutex>

#include "compare.h"
#include "reshard/app/digest.h"
#include "selection.h"

namespace reshard::app {
namespace {

using Json = nlohmann::ordered_json;

/// Compares the target files 0 and 1, which hold the same lines at the same places.
class CompareSink : public exec::Sink {
 public:
  struct Line {
    Index begin, end;  ///< bytes in either file
    DType dtype;
    PairSums sums;
  };
  /// `lines` lie one after the other.
  explicit CompareSink(std::vector<Line> lines) : lines_(std::move(lines)) {}

  Status consume(const plan::Round& round, std::size_t write, std::span<const std::byte> output,
                 std::span<const std::uint64_t>) override {
    const plan::Write& a = round.writes[write];
    if (a.file != 0) return {};
    for (const plan::Write& b : round.writes) {
      if (b.file != 1) continue;
      compare(std::max(a.offset, b.offset), std::min(a.offset + a.length, b.offset + b.length),
              output.data() + (a.slot_offset - a.offset), output.data() + (b.slot_offset - b.offset));
    }
    return {};
  }
  Status finish() override { return {}; }

  std::vector<Line>& lines() { return lines_; }

 private:
  /// `a` and `b` point at what would be byte 0 of the files.
  void compare(Index begin, Index end, const std::byte* a, const std::byte* b) {
    auto line = std::partition_point(lines_.begin(), lines_.end(), [&](const Line& l) { return l.end <= begin; });
    for (; line != lines_.end() && line->begin < end; ++line) {
      const Index from = std::max(begin, line->begin), to = std::min(end, line->end);
      if (from >= to) continue;
      const PairSums sums = compare_elements(line->dtype, a + from, b + from, (to - from) / bytes_of(line->dtype));
      const std::lock_guard lock(mutex_);
      line->sums.add(sums);
    }
  }

  std::vector<Line> lines_;
  std::mutex mutex_;
};

/// Adds up the lines of all ranks, in the order of the ranks. Collective.
void add_up(comm::Comm& comm, std::vector<CompareSink::Line>& lines) {
  struct Packed {
    std::size_t line;
    PairSums sums;
  };
  std::string bytes;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (lines[i].sums.elements == 0) continue;
    const Packed packed{i, lines[i].sums};
    bytes.append(reinterpret_cast<const char*>(&packed), sizeof(packed));
  }
  for (auto& line : lines) line.sums = {};
  for (const std::string& part : comm.all_gather(bytes)) {
    for (std::size_t at = 0; at < part.size(); at += sizeof(Packed)) {
      Packed packed;
      std::memcpy(&packed, part.data() + at, sizeof(packed));
      lines[packed.line].sums.add(packed.sums);
    }
  }
}

/// What the two checkpoints have in common, line by line.
struct Alignment {
  std::vector<Index> a, b;                ///< numbers of equal lines
  std::vector<DType> a_dtypes, b_dtypes;  ///< of all lines, equal for equal lines
  std::vector<Mismatch> mismatches;
};

Alignment align(const Pair& pair) {
  const layout::Canon &a = *pair.a.canon, &b = *pair.b.canon;
  Alignment result;
  result.a_dtypes = line_dtypes(*pair.a.layout);
  result.b_dtypes = line_dtypes(*pair.b.layout);
  std::map<std::string, Index> by_name;
  for (Index n = 0; n < b.num_lines(); ++n) by_name[b.line_name(n)] = n;
  for (Index n = 0; n < a.num_lines(); ++n) {
    const std::string name = a.line_name(n);
    const auto found = by_name.find(name);
    const bool wanted = pair.lines.count(name) != 0;
    if (found == by_name.end()) {
      if (wanted) result.mismatches.push_back({name, "only in the first"});
      continue;
    }
    const Index other = found->second;
    by_name.erase(found);
    if (!wanted) continue;
    const Shape a_shape = a.line_shape(a.line(n).tensor), b_shape = b.line_shape(b.line(other).tensor);
    DType &x = result.a_dtypes[static_cast<std::size_t>(n)], &y = result.b_dtypes[static_cast<std::size_t>(other)];
    if (a_shape != b_shape) {
      result.mismatches.push_back(
          {name, fmt::format("shape {} in the first, {} in the second", shape_text(a_shape), shape_text(b_shape))});
    } else if (x != y && !(is_castable(x) && is_castable(y))) {
      result.mismatches.push_back(
          {name, fmt::format("dtype {} in the first, {} in the second", to_string(x), to_string(y))});
    } else {
      if (x != y) x = y = DType::f32;
      result.a.push_back(n);
      result.b.push_back(other);
    }
  }
  for (const auto& [name, line] : by_name) {
    if (pair.lines.count(name) != 0) result.mismatches.push_back({name, "only in the second"});
  }
  return result;
}

LineDifference difference_of(const std::string& name, const Shape& shape, const PairSums& sums) {
  LineDifference line;
  line.name = name;
  line.shape = shape;
  line.elements = sums.elements;
  line.changed = sums.changed;
  line.max_abs = sums.max_abs;
  line.mean_abs = sums.elements > 0 ? sums.abs / static_cast<double>(sums.elements) : 0;
  if (sums.squares > 0) {
    line.relative_l2 =
        sums.a_squares > 0 ? std::sqrt(sums.squares / sums.a_squares) : std::numeric_limits<double>::infinity();
    const double norms = std::sqrt(sums.a_squares) * std::sqrt(sums.b_squares);
    line.cosine = norms > 0 ? sums.products / norms : 0;
  }
  return line;
}

/// JSON has no infinity.
Json number(double value) { return std::isfinite(value) ? Json(value) : Json(value > 0 ? "inf" : "nan"); }

}  // namespace

bool DiffResult::equal() const {
  return mismatches.empty() &&
         std::all_of(lines.begin(), lines.end(), [this](const LineDifference& line) { return within(line); });
}

Expected<DiffResult> diff(Context& context, const Options& options) {
  RESHARD_TRY(const Pair pair, open_pair(context, options.dst, options));
  const Alignment aligned = align(pair);
  DiffResult result;
  result.a = options.src;
  result.b = options.dst;
  result.tolerance = options.tolerance;
  result.mismatches = aligned.mismatches;
  if (aligned.a.empty()) return result;

  Canonical a, b;
  RESHARD_CHECK(comm::agree(context.comm, [&]() -> Status {
    RESHARD_TRY(a, make_canonical(pair.a, aligned.a_dtypes, aligned.a));
    RESHARD_TRY(b, make_canonical(pair.b, aligned.b_dtypes, aligned.b));
    return {};
  }()));
  const auto b_files = static_cast<std::uint32_t>(pair.a.probe.directory.files.size());
  std::vector<plan::Transfer> transfers = {
      {pair.a.layout.get(), places_of(pair.a), a.layout.get(), {}, 0},
      {pair.b.layout.get(), places_of(pair.b, b_files), b.layout.get(), {}, pair.a.canon->num_lines()}};
  for (const Index offset : a.offsets) transfers[0].dst_places.push_back({0, offset});
  for (const Index offset : b.offsets) transfers[1].dst_places.push_back({1, offset});
  const Index size = std::max(a.size, b.size);
  plan::Options how = plan_options(options, context.comm.size());
  how.table_bytes = table_bytes(pair.a) + table_bytes(pair.b) + table_bytes(a) + table_bytes(b);
  // Both halves of a pair have to come to one rank.
  how.route = plan::Route::direct;
  how.twins = true;
  RESHARD_TRY(const plan::Plan plan, make_plan(context, std::move(transfers), {{size, {}}, {size, {}}}, how));

  std::map<Index, std::size_t> array_of;
  for (std::size_t array = 0; array < a.lines.size(); ++array) array_of[a.lines[array]] = array;
  std::vector<CompareSink::Line> lines;
  for (const Index line : aligned.a) {
    const std::size_t array = array_of[line];
    const DType dtype = aligned.a_dtypes[static_cast<std::size_t>(line)];
    const Index bytes = pair.a.canon->line_volume(pair.a.canon->line(line).tensor) * bytes_of(dtype);
    lines.push_back({a.offsets[array], a.offsets[array] + bytes, dtype, {}});
  }
  CompareSink sink(std::move(lines));
  RESHARD_TRY(Streamed streamed, run_stream(context, plan, {&pair.a, &pair.b}, sink));
  add_up(context.comm, sink.lines());
  for (std::size_t i = 0; i < aligned.a.size(); ++i) {
    const Index line = aligned.a[i];
    const std::uint32_t tensor = pair.a.canon->line(line).tensor;
    result.lines.push_back(
        difference_of(pair.a.canon->line_name(line), pair.a.canon->line_shape(tensor), sink.lines()[i].sums));
  }
  result.stream = std::move(streamed.report);
  return result;
}

Json to_json(const DiffResult& result) {
  Json lines = Json::array();
  for (const LineDifference& line : result.lines) {
    lines.push_back({{"name", line.name},
                     {"shape", line.shape},
                     {"equal", result.within(line)},
                     {"elements", line.elements},
                     {"changed", line.changed},
                     {"changed_share", line.changed_share()},
                     {"max_abs", number(line.max_abs)},
                     {"mean_abs", number(line.mean_abs)},
                     {"relative_l2", number(line.relative_l2)},
                     {"cosine", number(line.cosine)}});
  }
  Json mismatches = Json::array();
  for (const Mismatch& mismatch : result.mismatches) {
    mismatches.push_back({{"name", mismatch.name}, {"reason", mismatch.reason}});
  }
  return {{"command", "diff"},
          {"a", result.a},
          {"b", result.b},
          {"equal", result.equal()},
          {"tolerance", result.tolerance},
          {"lines", std::move(lines)},
          {"mismatches", std::move(mismatches)},
          {"stream", to_json(result.stream)}};
}

}  // namespace reshard::app
