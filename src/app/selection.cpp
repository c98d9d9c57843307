// SPDX-License-Identifier: Apache-2.0
#include "selection.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "reshard/app/stream.h"
#include "reshard/base/text.h"

namespace reshard::app {
namespace {

bool matches_any(const std::vector<std::string>& globs, const std::string& name) {
  return std::any_of(globs.begin(), globs.end(), [&](const std::string& glob) { return matches_glob(glob, name); });
}

struct Verdict {
  bool included = false, excluded = false;
  bool chosen() const { return included && !excluded; }
};
using Verdicts = std::map<std::string, Verdict>;

void judge(const std::string& name, const Options& options, Verdict& verdict) {
  verdict.included |= options.include.empty() || matches_any(options.include, name);
  verdict.excluded |= matches_any(options.exclude, name);
}

void judge_lines(const format::Checkpoint& checkpoint, const Options& options, Verdicts& verdicts) {
  const layout::Layout& layout = *checkpoint.layout;
  for (Index n = 0; n < checkpoint.canon->num_lines(); ++n) {
    const std::string name = checkpoint.canon->line_name(n);
    judge(name, options, verdicts[name]);
  }
  for (std::uint32_t a = 0; a < layout.arrays().size(); ++a) {
    Verdict verdict;
    judge(layout.name(layout.arrays()[a]), options, verdict);
    for (const Index line : format::lines_of(layout, a)) {
      Verdict& all = verdicts[checkpoint.canon->line_name(line)];
      all.included |= verdict.included;
      all.excluded |= verdict.excluded;
    }
  }
}

std::vector<std::string> stored_names(const format::Checkpoint& checkpoint) {
  std::vector<std::string> names = format::array_names(checkpoint);
  names.insert(names.end(), checkpoint.dropped.begin(), checkpoint.dropped.end());
  return names;
}

void tell_unmatched(const Context& context, const Options& options, const std::vector<std::string>& names) {
  tell_unmatched(context, "--include", options.include, names);
  tell_unmatched(context, "--exclude", options.exclude, names);
  tell_unmatched(context, "--passthrough", options.passthrough, names);
}

/// Is a line that the array holds chosen, or, of an unknown array, the array itself?
bool needs(const std::string& array, const std::vector<std::string>& lines, const Options& options) {
  Verdict by_array;
  judge(array, options, by_array);
  return lines.empty() ? by_array.chosen() : std::any_of(lines.begin(), lines.end(), [&](const std::string& line) {
    Verdict verdict = by_array;
    judge(line, options, verdict);
    return verdict.chosen();
  });
}

/// Patterns for exactly the stored arrays that hold chosen lines; none if all do.
std::vector<std::string> arrays_with(const format::Checkpoint& checkpoint, const std::set<std::string>& lines) {
  const layout::Layout& layout = *checkpoint.layout;
  std::set<std::string> chosen;
  bool all = true;
  for (std::uint32_t a = 0; a < layout.arrays().size(); ++a) {
    const std::vector<Index> held = format::lines_of(layout, a);
    const bool wanted = std::any_of(held.begin(), held.end(),
                                    [&](Index line) { return lines.count(checkpoint.canon->line_name(line)) != 0; });
    all = all && wanted;
    if (!wanted) continue;
    std::string pattern = layout.name(layout.arrays()[a]);
    std::replace(pattern.begin(), pattern.end(), '[', '?');  // no set is meant
    chosen.insert(std::move(pattern));
  }
  if (all) return {};
  return {chosen.begin(), chosen.end()};
}

}  // namespace

bool chooses(const Options& options) { return !options.include.empty() || !options.exclude.empty(); }

bool is_chosen(const std::string& name, const Options& options) {
  Verdict verdict;
  judge(name, options, verdict);
  return verdict.chosen();
}

void tell_unmatched(const Context& context, const std::string& option, const std::vector<std::string>& globs,
                    const std::vector<std::string>& names) {
  if (context.comm.rank() != 0) return;
  for (const std::string& glob : globs) {
    if (std::any_of(names.begin(), names.end(), [&](const std::string& name) { return matches_glob(glob, name); })) {
      continue;
    }
    context.tell(context.warning, fmt::format("{} '{}' matches nothing", option, glob));
  }
}

void tell_unmatched(const Context& context, const Options& options, const format::Checkpoint& checkpoint) {
  if (!chooses(options) && options.passthrough.empty()) return;
  tell_unmatched(context, options, stored_names(checkpoint));
}

Expected<Pair> open_pair(Context& context, const std::string& other, const Options& options) {
  format::SourceOptions whole = source_options(options);
  whole.include.clear();
  whole.exclude.clear();
  if (chooses(options)) {
    whole.needs = [&](const std::string& array, const std::vector<std::string>& lines) {
      return needs(array, lines, options);
    };
  }
  format::SourceOptions other_whole = whole;
  other_whole.from = options.against_from;
  other_whole.from_option = "--against-from";
  other_whole.step = -1;
  other_whole.config_from.clear();
  other_whole.tokenizer_from.clear();
  RESHARD_TRY(format::Checkpoint a, open_source(context, options.src, whole));
  RESHARD_TRY(format::Checkpoint b, format::open_checkpoint(other, other_whole, context.library, context.comm));
  std::vector<std::string> more = b.probe.notes;  // what was not told of the first
  std::erase_if(
      more, [&](const std::string& note) { return std::count(a.probe.notes.begin(), a.probe.notes.end(), note) > 0; });
  context.tell_notes(more);
  Verdicts verdicts;
  judge_lines(a, options, verdicts);
  judge_lines(b, options, verdicts);
  std::vector<std::string> names = stored_names(a);
  const std::vector<std::string> b_names = stored_names(b);
  names.insert(names.end(), b_names.begin(), b_names.end());
  for (const auto& [name, verdict] : verdicts) names.push_back(name);
  tell_unmatched(context, options, names);
  std::set<std::string> lines;
  for (const auto& [name, verdict] : verdicts) {
    if (verdict.chosen()) lines.insert(name);
  }
  if (lines.empty()) return usage_error("--include and --exclude leave nothing to compare");
  if (lines.size() < verdicts.size()) {
    whole.needs = other_whole.needs = nullptr;
    whole.include = arrays_with(a, lines);
    other_whole.include = arrays_with(b, lines);
    if (!whole.include.empty()) {
      RESHARD_TRY(a, format::open_checkpoint(options.src, whole, context.library, context.comm));
    }
    if (!other_whole.include.empty()) {
      RESHARD_TRY(b, format::open_checkpoint(other, other_whole, context.library, context.comm));
    }
  }
  return Pair{std::move(a), std::move(b), std::move(lines)};
}

}  // namespace reshard::app
