// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>
#include <unordered_map>

#include "containers.h"
#include "pickle.h"
#include "reshard/base/crc32.h"
#include "torch_state.h"
#include "zip.h"

namespace reshard::container {
namespace {

using namespace std::string_view_literals;

constexpr std::string_view kZip = "PK\x03\x04"sv;
// The magic number 0x1950a86a20f9469cfc6c as a pickle, protocol 2.
constexpr std::string_view kLegacy = "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e"sv;
constexpr Index kMagicBytes = 15;
constexpr Index kMaxSmallRecord = 64;
constexpr auto kMaxInteger = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());

// Members of an archive beside the storages, in the order in which torch writes them.
constexpr std::string_view kPickle = "data.pkl", kFormatVersion = ".format_version", kAlignment = ".storage_alignment",
                           kByteOrder = "byteorder", kVersion = "version", kSerialization = ".data/serialization_id";
constexpr std::size_t kFirstStorage = 4;  // records before the storages
constexpr Index kSerializationBytes = 40;

std::string_view text_of(std::string_view member) {
  if (member == kFormatVersion) return "1";
  if (member == kAlignment) return "64";
  if (member == kByteOrder) return "little";
  if (member == kVersion) return "3\n";
  return "";
}

Expected<std::string> read_text(io::Source& source, Index offset, Index size, const std::string& path) {
  std::string text(static_cast<std::size_t>(size), '\0');
  if (Status status = source.read_at(std::as_writable_bytes(std::span(text)), offset); !status)
    return std::move(status).error().at(path);
  return text;
}

Error fail(const std::string& path, const std::string& what) { return input_error(path + ": " + what); }

// Damage of the pickle itself would give tensors other storages.
Status check_crc(io::Source& source, const zip::Record& record, const std::string& path) {
  std::uint32_t crc = 0;
  for (Index at = 0; at < record.size; at += kMiB) {
    RESHARD_TRY(const std::string block, read_text(source, record.offset + at, std::min(kMiB, record.size - at), path));
    crc = crc32(crc, std::as_bytes(std::span(block)));
  }
  if (crc == record.crc) return {};
  return fail(path, fmt::format("{} at byte {} has CRC-32 {:08x}, the file says {:08x}: it is damaged; fetch it again",
                                record.name, record.offset, crc, record.crc));
}

// torch can be told to store no CRCs: then all of them are 0.
bool has_crcs(const std::vector<zip::Record>& records) {
  return std::any_of(records.begin(), records.end(), [](const zip::Record& record) { return record.crc != 0; });
}

bool holds_data(std::string_view member) { return member.starts_with("data/"); }

Expected<FileDirectory> read_zip(io::Source& source, const std::string& path) {
  RESHARD_TRY(const std::vector<zip::Record> records, zip::read_directory(source, path));
  if (records.empty()) return fail(path, "an empty zip archive, no torch checkpoint");
  const std::string root = records.front().name.substr(0, records.front().name.find('/') + 1);
  std::unordered_map<std::string_view, const zip::Record*> by_name;
  for (const zip::Record& record : records) {
    if (root.empty() || !record.name.starts_with(root)) {
      return fail(path, fmt::format("entry '{}' lies outside of the folder '{}', in which torch puts all: no torch "
                                    "checkpoint",
                                    record.name, root));
    }
    by_name.emplace(std::string_view(record.name).substr(root.size()), &record);
  }
  const auto find = [&](std::string_view member) -> const zip::Record* {
    const auto found = by_name.find(member);
    return found == by_name.end() ? nullptr : found->second;
  };
  if (find("constants.pkl") != nullptr) {
    return fail(path, "a TorchScript program, not a checkpoint of weights: save its state_dict()");
  }
  const zip::Record* data = find(kPickle);
  if (data == nullptr) return fail(path, fmt::format("a zip archive without {}{}: no torch checkpoint", root, kPickle));
  const auto small = [&](std::string_view member) -> Expected<std::string> {
    const zip::Record* record = find(member);
    if (record == nullptr) return std::string();
    if (record->size > kMaxSmallRecord) return fail(path, fmt::format("{} has {} bytes", member, record->size));
    return read_text(source, record->offset, record->size, path);
  };
  RESHARD_TRY(std::string version, small(kVersion));
  if (version.empty()) {
    RESHARD_TRY(version, small(".data/version"));
  }
  while (!version.empty() && version.back() == '\n') version.pop_back();
  if (version.empty() || version.size() > 2 || version.find_first_not_of("0123456789") != std::string::npos ||
      std::stoi(version) < 1 || std::stoi(version) > 10) {
    return fail(path, "has no version of torch's zip format, or an unknown one");
  }
  RESHARD_TRY(const std::string order, small(kByteOrder));
  if (find(kByteOrder) != nullptr && order != "little" && order != "big") {
    return fail(path, "has an unknown byte order");
  }

  FileDirectory directory;
  directory.big_endian = order == "big";
  const bool are_checked = has_crcs(records);
  if (are_checked) RESHARD_CHECK(check_crc(source, *data, path));
  RESHARD_TRY(const pickle::Pickle pickle,
              pickle::read(source, data->offset, data->offset + data->size, path, torch::is_allowed));
  if (pickle.end != data->offset + data->size) {
    return fail(path, fmt::format("byte {}: bytes follow the pickle", pickle.end));
  }
  RESHARD_TRY(const auto storages, torch::storages(pickle.values, path));
  std::string name;
  const auto record_of = [&](std::string_view key) {
    name.assign("data/").append(key);
    return find(name);
  };
  for (const auto& [key, storage] : storages) {
    const zip::Record* record = record_of(key);
    if (record == nullptr) return fail(path, fmt::format("storage '{}' is not in the archive", key));
    if (record->size != storage.bytes) {
      return fail(path,
                  fmt::format("storage '{}' has {} bytes, its tensors expect {}", key, record->size, storage.bytes));
    }
  }
  RESHARD_CHECK(torch::collect(
      pickle, [&](const torch::Storage& storage) -> Expected<Index> { return record_of(storage.key)->offset; }, path,
      directory));
  for (const zip::Record& record : records) {
    const std::string_view member = std::string_view(record.name).substr(root.size());
    if (are_checked && record.size > 0 && holds_data(member))
      directory.checks.push_back({record.offset, record.size, record.crc});
  }
  return directory;
}

// Before torch 1.6: pickles one after the other (magic number, protocol, system, object, keys), then the storages.
Expected<FileDirectory> read_legacy(io::Source& source, const std::string& path) {
  FileDirectory directory;
  Index at = kMagicBytes;
  const auto next = [&]() -> Expected<pickle::Pickle> {
    auto pickle = pickle::read(source, at, source.size(), path, torch::is_allowed);
    if (pickle) at = pickle->end;
    return pickle;
  };
  RESHARD_TRY(const pickle::Pickle protocol, next());
  if (protocol.values.kind(protocol.root) != pickle::Kind::integer || protocol.values.integer(protocol.root) != 1001) {
    return fail(path, "a torch checkpoint of the old kind with another protocol than 1001");
  }
  RESHARD_TRY(const pickle::Pickle system, next());
  if (system.values.kind(system.root) != pickle::Kind::dict) return fail(path, "has no description of its system");
  const std::span<const pickle::Id> items = system.values.items(system.root);
  for (std::size_t i = 0; i + 1 < items.size(); i += 2) {
    const bool is_order =
        system.values.kind(items[i]) == pickle::Kind::text && system.values.text(items[i]) == "little_endian";
    if (!is_order) continue;
    if (system.values.kind(items[i + 1]) != pickle::Kind::boolean) return fail(path, "has an unknown byte order");
    directory.big_endian = !system.values.is_true(items[i + 1]);
  }
  RESHARD_TRY(const pickle::Pickle object, next());
  RESHARD_TRY(const auto storages, torch::storages(object.values, path));
  RESHARD_TRY(const pickle::Pickle keys, next());
  if (keys.values.kind(keys.root) != pickle::Kind::list) return fail(path, "has no list of storages");
  std::map<std::string_view, Index> offsets;
  for (const pickle::Id id : keys.values.items(keys.root)) {
    if (keys.values.kind(id) != pickle::Kind::text) return fail(path, "the key of a storage is no text");
    const std::string_view key = keys.values.text(id);
    const auto storage = storages.find(key);
    if (storage == storages.end()) return fail(path, fmt::format("storage '{}' belongs to no tensor", key));
    if (offsets.contains(key)) return fail(path, fmt::format("storage '{}' is listed twice", key));
    if (source.size() - at < 8 || storage->second.bytes > source.size() - at - 8) {
      return fail(path, fmt::format("storage '{}' of {} bytes at byte {} reaches over the end of the file: it is "
                                    "truncated or damaged",
                                    key, storage->second.bytes, at));
    }
    RESHARD_TRY(const std::string bytes, read_text(source, at, 8, path));
    std::uint64_t numel = 0;
    for (std::size_t i = 0; i < 8; ++i) numel |= std::uint64_t{static_cast<unsigned char>(bytes[i])} << (8 * i);
    if (numel != static_cast<std::uint64_t>(storage->second.numel)) {
      return fail(path, fmt::format("byte {}: storage '{}' has {} elements, its tensors expect {}", at, key, numel,
                                    storage->second.numel));
    }
    offsets.emplace(key, at + 8);
    at += 8 + storage->second.bytes;
  }
  for (const auto& [key, storage] : storages) {
    if (!offsets.contains(key)) return fail(path, fmt::format("storage '{}' is not in the file", key));
  }
  if (at != source.size()) return fail(path, fmt::format("{} bytes follow the last storage", source.size() - at));
  RESHARD_CHECK(torch::collect(
      object, [&](const torch::Storage& storage) -> Expected<Index> { return offsets.at(storage.key); }, path,
      directory));
  return directory;
}

// The archive of a spec: which record each item lies in, and the bytes that are known beforehand.
struct Archive {
  std::vector<std::size_t> keys;    // of each item
  std::vector<std::size_t> owners;  // item of each storage
  std::string pickle;
  zip::Writer writer;
};

Archive make_archive(const FileSpec& spec) {
  std::vector<std::size_t> keys(spec.items.size()), owners;
  constexpr std::size_t kNone = ~std::size_t{0};
  std::vector<std::size_t> key_of_owner(spec.items.size(), kNone);
  for (std::size_t i = 0; i < spec.items.size(); ++i) {
    const std::size_t owner = spec.items[i].repeats >= 0 ? static_cast<std::size_t>(spec.items[i].repeats) : i;
    if (key_of_owner[owner] == kNone) {
      key_of_owner[owner] = owners.size();
      owners.push_back(owner);
    }
    keys[i] = key_of_owner[owner];
  }
  std::string pickle = torch::write(spec, keys);
  std::vector<std::string> names;
  std::vector<Index> sizes;
  const auto add = [&](std::string_view member, Index size) {
    names.push_back(fmt::format("{}/{}", spec.root, member));
    sizes.push_back(size);
  };
  add(kPickle, static_cast<Index>(pickle.size()));
  for (const std::string_view member : {kFormatVersion, kAlignment, kByteOrder})
    add(member, std::ssize(text_of(member)));
  for (std::size_t key = 0; key < owners.size(); ++key) {
    const FileSpec::Item& item = spec.items[owners[key]];
    add("data/" + std::to_string(key), *num_elements(item.shape) * bytes_of(item.dtype));
  }
  add(kVersion, std::ssize(text_of(kVersion)));
  add(kSerialization, kSerializationBytes);
  return {std::move(keys), std::move(owners), std::move(pickle), zip::Writer(std::move(names), sizes)};
}

// Values beside the dictionary: those of one number, text or flag.
Status check_metadata(const FileSpec& spec) {
  for (const auto& [key, text] : spec.metadata) {
    const auto value = nlohmann::json::parse(text, nullptr, false);
    const bool is_too_big = value.is_number_unsigned() && value.get<std::uint64_t>() > kMaxInteger;
    if (value.is_primitive() && !value.is_discarded() && !is_too_big) continue;
    return usage_error(fmt::format("value '{}': a torch file cannot hold {} there", key, text));
  }
  return {};
}

class Torch : public Container {
 public:
  std::string_view name() const override { return "torch"; }
  bool shares_extents() const override { return true; }

  Expected<FileDirectory> read_directory(io::Source& source, const std::string& path) const override {
    std::string first(static_cast<std::size_t>(std::min(kMagicBytes, source.size())), '\0');
    RESHARD_CHECK(source.read_at(std::as_writable_bytes(std::span(first)), 0));
    if (first.starts_with(kZip)) return read_zip(source, path);
    if (first == kLegacy) return read_legacy(source, path);
    return not_a(name(), source, path, "it begins neither as a zip archive nor as a pickle of torch");
  }

  Status check_headers(io::Source& source, const std::string& path) const override {
    RESHARD_TRY(const std::string first, read_text(source, 0, std::min(std::ssize(kZip), source.size()), path));
    if (first != kZip) return {};
    RESHARD_TRY(const auto records, zip::read_directory(source, path, zip::Headers::all));
    if (!has_crcs(records)) return {};
    for (const zip::Record& record : records) {
      const std::string_view member = std::string_view(record.name).substr(record.name.find('/') + 1);
      if (!holds_data(member)) RESHARD_CHECK(check_crc(source, record, path));
    }
    return {};
  }

  Expected<FileImage> lay_out(const FileSpec& spec) const override {
    if (spec.root.empty() || spec.root.find('/') != std::string::npos || !check_path(spec.root).empty()) {
      return usage_error(fmt::format("'{}' cannot be the folder inside a torch file", spec.root));
    }
    for (const FileSpec::Item& item : spec.items) {
      if (const std::string fault = check_name(item.name); !fault.empty()) {
        return usage_error(fmt::format("tensor {}: {}", item.name, fault));
      }
      if (!torch::has_dtype(item.dtype)) {
        return usage_error(
            fmt::format("tensor {}: a torch file cannot hold {}", item.name, reshard::to_string(item.dtype)));
      }
      std::string why;
      if (!array_bytes(item.dtype, item.shape, why)) return usage_error(fmt::format("tensor {}: {}", item.name, why));
    }
    if (!spec.under.empty()) RESHARD_CHECK(check_metadata(spec));
    const Archive archive = make_archive(spec);
    const auto& records = archive.writer.records();
    FileImage image;
    image.size = archive.writer.size();
    for (const std::size_t key : archive.keys) image.offsets.push_back(records[kFirstStorage + key].offset);
    for (std::size_t r = 0; r < records.size(); ++r) {
      image.segments.push_back({records[r].header, archive.writer.local_header(r), nullptr});
      Segment content{records[r].offset, "", nullptr};
      if (r == 0) {
        content.bytes = archive.pickle;
      } else if (is_storage(archive, r)) {
        const FileSpec::Item& item = spec.items[archive.owners[r - kFirstStorage]];
        content.shared = item.content;
        if (records[r].size > 0 && !item.content) image.checked.push_back({records[r].offset, records[r].size});
      } else {
        content.bytes = text_of(std::string_view(records[r].name).substr(spec.root.size() + 1));
      }
      if (!content.text().empty()) image.segments.push_back(std::move(content));
    }
    return image;
  }

  // Descriptors behind the records, and the directory at the end: CRCs are in both. Without the directory nobody can
  // read the file, so that it comes last.
  Expected<std::vector<Segment>> finish(const FileSpec& spec, const FileImage&, const DataSums& sums) const override {
    Archive archive = make_archive(spec);
    zip::Writer& writer = archive.writer;
    std::size_t next = 0;
    std::uint32_t names = 0, all = 0;
    std::string serialization;
    std::vector<Segment> segments;
    for (std::size_t r = 0; r < writer.records().size(); ++r) {
      const zip::Record& record = writer.records()[r];
      const std::string_view member = std::string_view(record.name).substr(spec.root.size() + 1);
      std::string_view text = text_of(member);
      if (r == 0) text = archive.pickle;
      if (member == kSerialization) {
        serialization = fmt::format("{:020}{:020}", names, all);
        text = serialization;
        segments.push_back({record.offset, serialization, nullptr});
      }
      std::uint32_t crc = crc32(0, std::as_bytes(std::span(text)));
      if (is_storage(archive, r) && record.size > 0) {
        const auto& content = spec.items[archive.owners[r - kFirstStorage]].content;
        crc = content ? crc32(0, std::as_bytes(std::span(*content))) : sums.crcs[next++];
      }
      names = crc32(names, std::as_bytes(std::span(record.name)));
      all = crc32_join(all, crc, record.size);
      writer.set_crc(r, crc);
      if (writer.descriptor_length(r) > 0)
        segments.push_back({writer.descriptor_offset(r), writer.descriptor(r), nullptr});
    }
    segments.push_back({writer.end_offset(), writer.end(), nullptr});
    return segments;
  }

 private:
  static bool is_storage(const Archive& archive, std::size_t record) {
    return record >= kFirstStorage && record < kFirstStorage + archive.owners.size();
  }
};

}  // namespace

const Container& torch_container() {
  static const Torch torch;
  return torch;
}

}  // namespace reshard::container
