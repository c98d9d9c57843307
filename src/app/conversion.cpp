// SPDX-License-Identifier: Apache-2.0
#include "conversion.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "reshard/app/convert.h"
#include "reshard/app/document.h"
#include "reshard/base/hash.h"
#include "reshard/base/text.h"
#include "reshard/io/file.h"
#include "reshard/io/json.h"
#include "selection.h"

namespace reshard::app {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

/// True if one path is the other, or lies inside it.
bool overlap(const fs::path& a, const fs::path& b) {
  const auto [at_a, at_b] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  return at_a == a.end() || at_b == b.end();
}

Status check_apart(const format::Checkpoint& checkpoint, const std::string& src, const std::string& dst) {
  if (checkpoint.synthetic || dst == kNullTarget) return {};
  std::error_code failed;
  const format::Directory& directory = checkpoint.probe.directory;
  const fs::path to = fs::weakly_canonical(dst, failed);
  const auto collides = [&](const fs::path& from) { return overlap(fs::weakly_canonical(from, failed), to); };
  // A source that is named as a file may stand in a folder with much else: then only its files count.
  bool found = fs::is_regular_file(src, failed) ? false : collides(directory.root);
  // Each folder of theirs is looked up once; a file that is a link counts where it leads.
  fs::path folder, known;
  std::error_code no_link;
  for (auto file = directory.files.begin(); !found && file != directory.files.end(); ++file) {
    const fs::path path = fs::path(directory.root) / *file;
    if (path.parent_path() != folder) {
      folder = path.parent_path();
      known = fs::weakly_canonical(folder, failed);
    }
    found = fs::is_symlink(path, no_link) ? collides(path) : overlap(known / path.filename(), to);
  }
  if (failed || !found) return {};
  return usage_error(
      fmt::format("{}: the output would lie in the source {} or the other way round; choose a path outside", dst, src));
}

const char* known_advice() { return "; `reshard list formats` prints the formats"; }

/// Digest lines of one array as a container stores them with it.
std::string item_digest(const Digests& digests, const layout::Layout& layout, std::uint32_t array) {
  std::string text;
  for (const Index line : format::lines_of(layout, array)) {
    if (!text.empty()) text += '\n';
    text += to_string(digests.lines[static_cast<std::size_t>(line)]);
  }
  return text;
}

Status describe(const Context& context, const Options& options, const format::Format& format, Conversion& conversion) {
  if (options.dst.starts_with(format::kSynthetic)) {
    return usage_error(fmt::format("{}: {} names sources only; DST is a path, or {} for nothing to be kept",
                                   options.dst, format::kSynthetic, kNullTarget));
  }
  conversion.dst = resolve_dst(options.dst, format);
  RESHARD_CHECK(check_apart(conversion.checkpoint, options.src, conversion.dst));
  format::TargetOptions& target = conversion.target_options;
  target.mesh = options.mesh;
  target.format_version = options.format_version;
  target.params_style = options.params_style;
  RESHARD_TRY(target.dtype, parse_target_dtype(options.dtype));
  target.keep_dtype = options.keep_dtype;
  target.max_shard_size = options.max_shard_size;
  target.vocab_multiple = options.vocab_multiple;
  target.final_path = conversion.dst;
  conversion.source = describe_source(conversion.checkpoint, options.src);
  target.provenance = {{"reshard_version", context.version}, {"reshard_source", conversion.source.dump()}};
  // Digests are known when all else is written, but the room that they take is the same for all values. Most targets
  // have none inside.
  std::optional<Digests> zeros;
  const auto zeros_of = [&](const layout::Layout& layout) -> const Digests& {
    const format::Checkpoint& from = conversion.checkpoint;
    if (!zeros) zeros = Digests{digest_lines(from, line_dtypes(layout), {}), from.ties, is_vocabulary_padded(from)};
    return *zeros;
  };
  target.digest_bytes = [&](const layout::Layout& layout, std::uint32_t array) {
    return static_cast<Index>(item_digest(zeros_of(layout), layout, array).size());
  };
  target.files_inside = [&](const layout::Layout& layout) -> std::map<std::string, std::string> {
    return {{kRecordName, record_text(record_head(context, conversion, options, 0), zeros_of(layout))}};
  };
  RESHARD_TRY(conversion.target, format::describe_target(conversion.checkpoint, options.to, target, context.library));
  target.digest_bytes = nullptr;
  target.files_inside = nullptr;
  return {};
}

}  // namespace

Expected<const format::Format*> find_target_format(const Context& context, const std::string& name) {
  if (name.empty()) return usage_error(std::string("--to FORMAT is missing") + known_advice());
  if (const format::Format* found = format::find(name, context.library)) return found;
  const auto guess = did_you_mean(name, context.library.formats());
  return usage_error(
      fmt::format("--to {}: unknown format{}{}", name, guess ? "; did you mean " + *guess + "?" : "", known_advice()));
}

Expected<std::string> parse_target_dtype(const std::string& name) {
  if (name.empty()) return name;
  const std::optional<DType> dtype = parse_user_dtype(name);
  const std::vector<std::string> known = {"bf16", "fp16", "fp32"};
  if (!dtype) {
    const auto guess = did_you_mean(name, known);
    return usage_error(fmt::format("--dtype {}: unknown; {}it is one of {}", name,
                                   guess ? "did you mean " + *guess + "? " : "", join(known, ", ")));
  }
  if (!is_castable(*dtype)) {
    return usage_error(fmt::format("--dtype {}: weights are cast between {} only; others are copied as they are", name,
                                   join(known, ", ")));
  }
  return std::string(to_string(*dtype));
}

std::string resolve_dst(const std::string& dst, const format::Format& format) {
  if (dst == kNullTarget) return dst;
  std::error_code ignored;
  fs::path path = fs::absolute(dst, ignored).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  if (format.one_file() && fs::is_directory(path, ignored)) path /= format.file_name();
  return path.string();
}

std::string report_path(const std::string& dst) { return dst + ".report.json"; }

bool Conversion::writes() const { return dst != kNullTarget; }

Index Conversion::table_bytes() const { return app::table_bytes(checkpoint) + app::table_bytes(target); }

Digests Conversion::digests(const std::vector<std::uint64_t>& sums) const {
  return make_digests(checkpoint, line_dtypes(*target.layout), sums);
}

std::vector<plan::Transfer> Conversion::transfers() const {
  plan::Transfer transfer{checkpoint.layout.get(), places_of(checkpoint), target.layout.get(), {}, 0};
  transfer.dst_places.reserve(target.file_of_array.size());
  for (std::size_t a = 0; a < target.file_of_array.size(); ++a) {
    transfer.dst_places.push_back({target.file_of_array[a], target.offset_of_array[a]});
  }
  std::vector<plan::Transfer> all;
  all.push_back(std::move(transfer));
  return all;
}

std::vector<plan::TargetFile> Conversion::target_files() const {
  std::vector<plan::TargetFile> files;
  for (const container::FileImage& image : target.images) {
    plan::TargetFile file{image.size, {}};
    for (const container::Segment& segment : image.segments) file.constants.push_back({segment.offset, segment.text()});
    files.push_back(std::move(file));
  }
  return files;
}

plan::Options Conversion::plan_options(const Options& options, int ranks) const {
  plan::Options plan = app::plan_options(options, ranks);
  plan.table_bytes = table_bytes();
  plan.parts = options.parts;
  plan.part = options.part;
  return plan;
}

std::vector<std::string> Conversion::item_digests(std::size_t file, const Digests& digests) const {
  const format::TargetFile& target_file = target.files[file];
  std::vector<std::string> texts(target_file.arrays.size());
  for (std::size_t i = 0; i < target_file.arrays.size(); ++i) {
    if (target_file.arrays[i] == format::kExtra || target_file.spec.items[i].digest_bytes == 0) continue;
    texts[i] = item_digest(digests, *target.layout, target_file.arrays[i]);
  }
  return texts;
}

Expected<std::unique_ptr<Conversion>> describe_conversion(Context& context, const Options& options) {
  RESHARD_TRY(const format::Format* format, find_target_format(context, options.to));
  auto conversion = std::make_unique<Conversion>();
  RESHARD_TRY(conversion->checkpoint, open_source(context, options.src, source_options(options)));
  context.tell_notes(conversion->checkpoint.probe.config_notes);
  context.tell_notes(conversion->checkpoint.probe.conversion_notes);
  tell_unmatched(context, options, conversion->checkpoint);
  context.tell(context.stage, "planning");
  RESHARD_CHECK(comm::agree(context.comm, describe(context, options, *format, *conversion)));
  if (!options.keep_dtype.empty()) {
    const layout::Layout& layout = *conversion->target.layout;
    std::vector<std::string> names;
    for (const layout::Array& array : layout.arrays()) names.push_back(layout.name(array));
    tell_unmatched(context, "--keep-dtype", options.keep_dtype, names);
  }
  context.tell_notes(conversion->target.notes);
  return conversion;
}

void tell_casts(Context& context, const Conversion& conversion, const plan::Plan& plan) {
  if (context.comm.rank() != 0) return;
  constexpr std::size_t kNamed = 3;
  for (const LossyCast& cast : lossy_casts(plan, *conversion.checkpoint.layout, *conversion.target.layout)) {
    std::vector<std::string> named(
        cast.arrays.begin(), cast.arrays.begin() + static_cast<std::ptrdiff_t>(std::min(kNamed, cast.arrays.size())));
    if (cast.arrays.size() > kNamed) named.push_back(fmt::format("and {} more", cast.arrays.size() - kNamed));
    context.tell(
        context.warning,
        fmt::format("{} arrays lose precision, {} -> {}: {}; --keep-dtype GLOB keeps the dtype of those it names",
                    cast.arrays.size(), to_string(cast.src), to_string(cast.dst), join(named, ", ")));
  }
}

Json describe_source(const format::Checkpoint& checkpoint, const std::string& path) {
  const format::Directory& directory = checkpoint.probe.directory;
  Hasher hasher;
  Index bytes = 0;
  for (const format::Directory::Entry& entry : directory.entries) {
    hasher.text(directory.files[entry.file]);
    hasher.text(entry.entry.name);
    hasher.text(to_string(entry.entry.dtype));
    hasher.text(fmt::format("{} {} {}", fmt::join(entry.entry.shape, ","), entry.entry.offset, entry.entry.length));
    if (!entry.entry.strides.empty()) hasher.text(fmt::format("strides {}", fmt::join(entry.entry.strides, ",")));
    bytes += entry.entry.length;
  }
  const fs::path plain = fs::path(path).lexically_normal();
  const layout::Mesh& mesh = checkpoint.probe.mesh;
  return {{"name", (plain.has_filename() ? plain : plain.parent_path()).filename().string()},
          {"format", checkpoint.format->name()},
          {"family", checkpoint.probe.spec.family},
          {"tp", mesh.tp},
          {"pp", mesh.pp},
          {"ep", mesh.ep},
          {"dp", mesh.dp},
          {"files", directory.files.size()},
          {"arrays", directory.entries.size()},
          {"bytes", bytes},
          {"hash", hash_text(hasher.value())}};
}

nlohmann::ordered_json chosen_options(const Options& options, const std::string& dtype) {
  return {{"to", options.to},
          {"tp", options.mesh.tp},
          {"pp", options.mesh.pp},
          {"ep", options.mesh.ep},
          {"dp", options.mesh.dp},
          {"dtype", dtype},
          {"keep_dtype", options.keep_dtype},
          {"max_shard_size", options.max_shard_size ? Json(*options.max_shard_size) : Json(nullptr)},
          {"vocab_size", options.vocab_size},
          {"vocab_multiple", options.vocab_multiple},
          {"format_version", options.format_version},
          {"params_style", options.params_style},
          {"passthrough", options.passthrough},
          {"include", options.include},
          {"exclude", options.exclude}};
}

std::optional<nlohmann::json> read_record(const std::string& dst) {
  std::string text;
  std::error_code ignored;
  if (fs::is_directory(dst, ignored)) {
    auto read = io::read_text(dst + "/" + kRecordName);
    if (!read) return std::nullopt;
    text = *std::move(read);
  } else {
    const auto source = io::open_source(dst, "", io::Follow::all, {});
    if (!source) return std::nullopt;
    auto directory = container::find("hdf5")->read_directory(**source, dst);
    if (directory && directory->files.contains(kRecordName)) text = std::move(directory->files[kRecordName]);
  }
  auto record = io::parse_strict_json(text, kRecordName);
  if (!record || !record->is_object()) return std::nullopt;
  return *std::move(record);
}

Json record_head(const Context& context, const Conversion& conversion, const Options& options,
                 std::uint64_t plan_hash) {
  return {{"reshard_version", context.version},
          {"source", conversion.source},
          {"options", chosen_options(options, conversion.target_options.dtype)},
          {"plan_hash", hash_text(plan_hash)},
          {kRecordVocabulary, conversion.checkpoint.probe.spec.integer("vocab_size")}};
}

std::string record_text(Json head, const Digests& digests) {
  head["digests"] = to_json(digests);
  return document_text(head);
}

}  // namespace reshard::app
