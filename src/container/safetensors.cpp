// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <tuple>
#include <utility>

#include "containers.h"
#include "reshard/io/json.h"

namespace reshard::container {
namespace {

constexpr std::string_view kMetadataKey = "__metadata__";
constexpr Index kLengthBytes = 8;
constexpr Index kMaxHeaderBytes = 100'000'000;
constexpr Index kHeaderAlignment = 8;
constexpr std::size_t kMaxRawString = 6 * kMaxMetadataBytes;  // a byte takes up to six when escaped

/// Reads the header's tokens: {"__metadata__": {text: text}, name: {"dtype": , "shape": [], "data_offsets": [,]}}.
/// Offsets of the entries are left relative to the data.
class HeaderVisitor : public io::JsonVisitor {
 public:
  explicit HeaderVisitor(FileDirectory& directory) : directory_(directory) {}

  bool begin_object() override {
    switch (place_) {
      case Place::start:
        place_ = Place::top;
        return true;
      case Place::after_metadata:
        place_ = Place::metadata;
        return true;
      case Place::after_name:
        place_ = Place::entry;
        return true;
      default:
        return reject_value();
    }
  }

  bool key(std::string& name) override {
    switch (place_) {
      case Place::top:
        if (name == kMetadataKey) {
          place_ = Place::after_metadata;
          return true;
        }
        return begin_entry(name);
      case Place::metadata:
        metadata_bytes_ += name.size();
        metadata_key_ = std::move(name);
        place_ = Place::metadata_value;
        return true;
      default:
        return begin_field(name);
    }
  }

  bool string(std::string& value) override {
    if (place_ == Place::metadata_value) {
      metadata_bytes_ += value.size();
      if (metadata_bytes_ > kMaxMetadataBytes)
        return reject(fmt::format("{} of more than {} bytes", kMetadataKey, kMaxMetadataBytes));
      directory_.metadata[std::move(metadata_key_)] = std::move(value);
      place_ = Place::metadata;
      return true;
    }
    if (place_ != Place::dtype) return reject_value();
    const auto dtype = parse_dtype(value);
    if (!dtype) return reject_entry("unknown dtype " + io::in_quotes(value));
    entry().dtype = *dtype;
    place_ = Place::entry;
    return true;
  }

  bool begin_array() override {
    if (place_ != Place::shape && place_ != Place::offsets) return reject_value();
    if (in_array_) return reject_value();
    in_array_ = true;
    return true;
  }

  bool number(std::uint64_t value) override {
    if (!in_array_) return reject_value();
    if (value > static_cast<std::uint64_t>(std::numeric_limits<Index>::max()))
      return reject_entry(fmt::format("number {} is too large", value));
    if (place_ == Place::shape) {
      if (entry().shape.size() == kMaxDims) return reject_entry(fmt::format("more than {} dimensions", kMaxDims));
      entry().shape.push_back(static_cast<Index>(value));
    } else {
      if (num_offsets_ == 2) return reject_entry("data_offsets of more than two numbers");
      (num_offsets_ == 0 ? entry().offset : end_) = static_cast<Index>(value);
      ++num_offsets_;
    }
    return true;
  }

  bool end_array() override {
    if (place_ == Place::offsets) {
      if (num_offsets_ != 2) return reject_entry("data_offsets of less than two numbers");
      if (end_ < entry().offset)
        return reject_entry(fmt::format("data_offsets [{}, {}] end before they begin", entry().offset, end_));
      entry().length = end_ - entry().offset;
    }
    in_array_ = false;
    place_ = Place::entry;
    return true;
  }

  bool end_object() override {
    if (place_ == Place::entry && fields_ != kAllFields) return reject_entry("lacks dtype, shape or data_offsets");
    place_ = place_ == Place::top ? Place::end : Place::top;
    return true;
  }

  bool other() override { return reject_value(); }

 private:
  enum class Place {
    start,
    top,
    after_metadata,
    metadata,
    metadata_value,
    after_name,
    entry,
    dtype,
    shape,
    offsets,
    end
  };
  static constexpr unsigned kDType = 1, kShape = 2, kOffsets = 4, kAllFields = 7;

  Entry& entry() { return directory_.entries.back(); }

  bool begin_entry(std::string& name) {
    if (const std::string why = check_name(name); !why.empty())
      return reject(fmt::format("tensor {}: {}", io::in_quotes(name), why));
    if (directory_.entries.size() == kMaxTensors) return reject(fmt::format("more than {} tensors", kMaxTensors));
    directory_.entries.emplace_back().name = std::move(name);
    fields_ = 0;
    num_offsets_ = 0;
    place_ = Place::after_name;
    return true;
  }

  bool begin_field(const std::string& name) {
    unsigned field = 0;
    if (name == "dtype") {
      place_ = Place::dtype;
      field = kDType;
    } else if (name == "shape") {
      place_ = Place::shape;
      field = kShape;
    } else if (name == "data_offsets") {
      place_ = Place::offsets;
      field = kOffsets;
    } else {
      return reject_entry("unknown key " + io::in_quotes(name));
    }
    if ((fields_ & field) != 0) return reject_entry("duplicate key " + io::in_quotes(name));
    fields_ |= field;
    return true;
  }

  bool reject_entry(const std::string& why) {
    return reject(fmt::format("tensor {}: {}", io::in_quotes(entry().name), why));
  }

  bool reject_value() {
    switch (place_) {
      case Place::start:
        return reject("the header is not an object");
      case Place::after_metadata:
        return reject(fmt::format("{} is not an object", kMetadataKey));
      case Place::metadata_value:
        return reject(fmt::format("{}: the value of {} is not a string", kMetadataKey, io::in_quotes(metadata_key_)));
      case Place::after_name:
        return reject_entry("is not an object");
      case Place::dtype:
        return reject_entry("dtype is not a string");
      case Place::shape:
        return reject_entry("shape is not an array of non-negative integers");
      default:
        return reject_entry("data_offsets is not an array of two non-negative integers");
    }
  }

  FileDirectory& directory_;
  Place place_ = Place::start;
  std::string metadata_key_;
  std::size_t metadata_bytes_ = 0;
  bool in_array_ = false;
  unsigned fields_ = 0;
  int num_offsets_ = 0;
  Index end_ = 0;
};

/// The extents must fill the data from its first to its last byte, each as long as dtype and shape say.
Status check_extents(std::vector<Entry>& entries, Index data_begin, Index file_size, const std::string& path) {
  const auto before = [](const Entry& a, const Entry& b) {
    return std::tie(a.offset, a.length, a.name) < std::tie(b.offset, b.length, b.name);
  };
  if (!std::is_sorted(entries.begin(), entries.end(), before)) std::sort(entries.begin(), entries.end(), before);
  const Index data_bytes = file_size - data_begin;
  Index expected = 0;
  for (Entry& entry : entries) {
    const auto failure = [&](const std::string& what) {
      return input_error(fmt::format("{}: tensor {}: {}", path, io::in_quotes(entry.name), what));
    };
    if (entry.offset != expected) {
      return failure(fmt::format("its data begins at byte {} of the data, expected {}: {}", entry.offset, expected,
                                 entry.offset > expected ? "a hole" : "it overlaps another tensor"));
    }
    std::string why;
    const auto bytes = array_bytes(entry.dtype, entry.shape, why);
    if (!bytes) return failure(why);
    if (entry.length != *bytes) {
      return failure(fmt::format("{} of shape {} takes {} bytes, but data_offsets hold {}",
                                 reshard::to_string(entry.dtype), to_string(entry.shape), *bytes, entry.length));
    }
    if (entry.length > data_bytes - entry.offset) {
      return failure(fmt::format(
          "its data ends at byte {} of the data, but the file holds {}: {} bytes or more are missing; the file is "
          "truncated",
          entry.offset + entry.length, data_bytes, entry.offset + entry.length - data_bytes));
    }
    expected += entry.length;
    entry.offset += data_begin;
  }
  if (expected != data_bytes) {
    return input_error(fmt::format("{}: byte {}: {} bytes behind the last tensor, expected the end of the file", path,
                                   data_begin + expected, data_bytes - expected));
  }
  return {};
}

Expected<FileDirectory> parse_header(std::string_view header, Index file_size, const std::string& path) {
  FileDirectory directory;
  HeaderVisitor visitor(directory);
  io::JsonLimits limits;
  limits.max_string_bytes = kMaxRawString;
  limits.first_byte = kLengthBytes;
  RESHARD_CHECK(io::visit_json(header, path, limits, visitor));
  RESHARD_CHECK(check_extents(directory.entries, kLengthBytes + static_cast<Index>(header.size()), file_size, path));
  return directory;
}

/// As serde_json does: what must be escaped is, and nothing else.
void append_string(std::string& json, std::string_view text) {
  json += '"';
  for (const char c : text) {
    constexpr std::string_view kEscaped = "\"\\\b\f\n\r\t", kLetters = "\"\\bfnrt";
    const auto at = kEscaped.find(c);
    if (at != std::string_view::npos) {
      json += '\\';
      json += kLetters[at];
    } else if (static_cast<unsigned char>(c) < 0x20) {
      fmt::format_to(std::back_inserter(json), "\\u{:04x}", static_cast<unsigned>(c));
    } else {
      json += c;
    }
  }
  json += '"';
}

void append_metadata(std::string& json, const std::map<std::string, std::string>& metadata) {
  append_string(json, kMetadataKey);
  json += ":{";
  for (bool first = true; const auto& [key, value] : metadata) {
    if (!std::exchange(first, false)) json += ',';
    append_string(json, key);
    json += ':';
    append_string(json, value);
  }
  json += '}';
}

std::string encode_length(Index length) {
  std::string bytes;
  for (int i = 0; i < kLengthBytes; ++i) bytes += static_cast<char>(length >> (8 * i) & 0xff);
  return bytes;
}

class Safetensors final : public Container {
 public:
  std::string_view name() const override { return "safetensors"; }

  Expected<FileDirectory> read_directory(io::Source& source, const std::string& path) const override {
    const Index size = source.size();
    if (size < kLengthBytes)
      return not_a(name(), source, path, fmt::format("{} bytes, at least {} are needed", size, kLengthBytes));
    std::array<unsigned char, kLengthBytes> prefix;
    RESHARD_CHECK(source.read_at(std::as_writable_bytes(std::span(prefix)), 0));
    std::uint64_t length = 0;
    for (std::size_t i = 0; i < prefix.size(); ++i) length |= std::uint64_t{prefix[i]} << (8 * i);
    if (length > kMaxHeaderBytes) {
      return not_a(name(), source, path,
                   fmt::format("byte 0: a header of {} bytes, at most {} are allowed", length, kMaxHeaderBytes));
    }
    const auto header_bytes = static_cast<Index>(length);
    if (header_bytes > size - kLengthBytes) {
      return not_a(name(), source, path,
                   fmt::format("byte 0: a header of {} bytes, but the file ends after {}; it is truncated",
                               header_bytes, size - kLengthBytes));
    }
    std::string header(length, '\0');
    RESHARD_CHECK(source.read_at(std::as_writable_bytes(std::span(header)), kLengthBytes));
    const auto first = header.find_first_not_of(" \t\r\n");
    if (first == std::string::npos || header[first] != '{') {
      return not_a(name(), source, path,
                   fmt::format("byte {}: invalid JSON: the header does not begin with '{{'", kLengthBytes));
    }
    return parse_header(header, size, path);
  }

  Expected<FileImage> lay_out(const FileSpec& spec) const override {
    if (!spec.files.empty()) return usage_error("a safetensors file has no place for side files");
    std::vector<std::size_t> order(spec.items.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      const auto& x = spec.items[a];
      const auto& y = spec.items[b];
      return std::tie(y.dtype, x.name) < std::tie(x.dtype, y.name);
    });

    std::string json = "{";
    if (!spec.metadata.empty() || spec.write_empty_metadata) append_metadata(json, spec.metadata);
    FileImage image;
    image.offsets.resize(spec.items.size());
    Index end = 0;
    for (const std::size_t i : order) {
      const auto& item = spec.items[i];
      const auto failure = [&](const std::string& why) {
        return usage_error(fmt::format("tensor {}: {}", io::in_quotes(item.name), why));
      };
      std::string why;
      const auto bytes = array_bytes(item.dtype, item.shape, why);
      if (!bytes) return failure(why);
      const auto next = checked_add(end, *bytes);
      if (!next || *next > std::numeric_limits<Index>::max() - 2 * kMaxHeaderBytes)
        return failure("the file would be too large");
      if (json.size() > 1) json += ',';
      append_string(json, item.name);
      fmt::format_to(std::back_inserter(json), R"(:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                     reshard::to_string(item.dtype), fmt::join(item.shape, ","), end, *next);
      image.offsets[i] = end;
      end = *next;
    }
    json += '}';
    json.resize(static_cast<std::size_t>(round_up(static_cast<Index>(json.size()), kHeaderAlignment)), ' ');
    const auto header_bytes = static_cast<Index>(json.size());
    if (header_bytes > kMaxHeaderBytes) {
      return usage_error(
          fmt::format("a safetensors header of {} bytes, at most {} are allowed: write more and smaller files",
                      header_bytes, kMaxHeaderBytes));
    }
    const Index data_begin = kLengthBytes + header_bytes;
    for (Index& offset : image.offsets) offset += data_begin;
    image.size = data_begin + end;
    // Whatever our reader would refuse (two arrays of one name, bad UTF-8, too many dimensions) is not written.
    if (auto parsed = parse_header(json, image.size, "a safetensors file cannot hold this"); !parsed) {
      return usage_error(std::move(parsed).error().message);
    }
    image.segments.push_back({0, encode_length(header_bytes) + json, nullptr});
    return image;
  }

  Expected<std::vector<Segment>> finish(const FileSpec& /*spec*/, const FileImage& /*image*/,
                                        const DataSums& /*sums*/) const override {
    return std::vector<Segment>();
  }
};

}  // namespace

const Container& safetensors_container() {
  static const Safetensors container;
  return container;
}

}  // namespace reshard::container
