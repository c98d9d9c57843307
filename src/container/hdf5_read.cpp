// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <memory>
#include <tuple>

#include "child.h"
#include "hdf5_archive.h"
#include "hdf5_driver.h"
#include "hdf5_format.h"
#include "hdf5_library.h"
#include "reshard/io/json.h"

namespace reshard::container::hdf5 {
namespace {

constexpr std::size_t kMaxSideFiles = 100'000;

/// Reads one archive.
class Reader {
 public:
  Reader(io::Source& source, const std::string& path) : library_file_{source, {}}, path_(path) {}

  Expected<FileDirectory> read() {
    const Handle access = make_access(library_file_);
    if (!access) return failure("cannot set up HDF5");
    file_ = Handle(H5Fopen(path_.c_str(), H5F_ACC_RDONLY, access.get()), H5Fclose);
    if (!file_) return failure("not an HDF5 file, or damaged");
    RESHARD_CHECK(check_file());
    RESHARD_CHECK(read_root_attributes());
    for (int i = 0; i < kNumDTypes; ++i) types_[static_cast<std::size_t>(i)] = make_type(static_cast<DType>(i));
    const Handle root(H5Gopen2(file_.get(), "/", H5P_DEFAULT), H5Gclose);
    if (!root) return failure("has no root group");
    RESHARD_CHECK(read_group(root, "", 0));
    RESHARD_CHECK(check_complete());
    sort_by_extent(directory_);
    RESHARD_CHECK(check_extents());
    RESHARD_CHECK(read_side_files(library_file_.source, files_, directory_));
    return std::move(directory_);
  }

 private:
  struct Link {
    std::string name;
    H5L_type_t type;
  };

  Error failure(const std::string& what) const {
    if (library_file_.error) return *library_file_.error;
    return input_error(with_reason(path_ + ": " + what));
  }
  Error failure_at(const std::string& name, const std::string& what) const {
    return failure(fmt::format("object {}: {}", io::in_quotes("/" + name), what));
  }

  Status check_file() {
    const Handle create(H5Fget_create_plist(file_.get()), H5Pclose);
    hsize_t user_block = 0;
    if (!create || H5Pget_userblock(create.get(), &user_block) < 0) return failure("cannot read the superblock");
    if (user_block != 0) return failure(fmt::format("a user block of {} bytes, which is not supported", user_block));
    return {};
  }

  // Attributes.

  /// The text of a string attribute; nothing for other types.
  Expected<std::optional<std::string>> read_text(hid_t object, const std::string& name) {
    const auto error = [&](const std::string& what) {
      return failure(fmt::format("attribute {}: {}", io::in_quotes(name), what));
    };
    const Handle attribute(H5Aopen(object, name.c_str(), H5P_DEFAULT), H5Aclose);
    if (!attribute) return error("cannot be opened");
    const Handle type(H5Aget_type(attribute.get()), H5Tclose);
    const Handle space(H5Aget_space(attribute.get()), H5Sclose);
    if (!type || !space) return error("cannot be read");
    if (H5Tget_class(type.get()) != H5T_STRING || H5Sget_simple_extent_npoints(space.get()) != 1) {
      return std::optional<std::string>();
    }
    if (H5Tis_variable_str(type.get()) > 0) {
      char* text = nullptr;
      if (H5Aread(attribute.get(), type.get(), &text) < 0) return error("cannot be read");
      const std::unique_ptr<char, herr_t (*)(void*)> owned(text, H5free_memory);
      return std::optional(std::string(text ? text : ""));
    }
    const auto bytes = static_cast<Index>(H5Tget_size(type.get()));
    if (bytes <= 0 || bytes > kMaxAttributeBytes)
      return error(fmt::format("{} bytes, at most {} are read", bytes, kMaxAttributeBytes));
    std::string text(static_cast<std::size_t>(bytes), '\0');
    if (H5Aread(attribute.get(), type.get(), text.data()) < 0) return error("cannot be read");
    // Of all kinds of padding NUL is the only one that we write; a space may be part of the text.
    text.resize(std::min(text.size(), text.find('\0')));
    return std::optional(std::move(text));
  }

  Status read_root_attributes() {
    std::vector<std::string> names;
    const auto collect = [](hid_t, const char* name, const H5A_info_t*, void* all) -> herr_t {
      static_cast<std::vector<std::string>*>(all)->emplace_back(name);
      return 0;
    };
    hsize_t next = 0;
    if (H5Aiterate2(file_.get(), H5_INDEX_NAME, H5_ITER_INC, &next, collect, &names) < 0)
      return failure("cannot read the root's attributes");
    for (const auto& name : names) {
      RESHARD_TRY(auto text, read_text(file_.get(), name));
      if (text) directory_.metadata[name] = *std::move(text);
    }
    return {};
  }

  /// An archive says how many arrays it has.
  Status check_complete() {
    const auto complete = directory_.metadata.find(kCompleteName);
    if (complete == directory_.metadata.end()) {
      return failure("no complete archive of this program: it has no root attribute \"complete\"");
    }
    const std::string found = std::to_string(directory_.entries.size());
    if (complete->second != found) {
      return failure(
          fmt::format("the archive is incomplete: {} arrays, expected {}", found, io::in_quotes(complete->second)));
    }
    directory_.metadata.erase(complete);
    return {};
  }

  // Objects.

  Status read_group(const Handle& group, const std::string& prefix, int depth) {
    if (depth > kMaxGroupDepth) return failure_at(prefix, fmt::format("groups nested deeper than {}", kMaxGroupDepth));
    std::vector<Link> links;
    const auto collect = [](hid_t, const char* name, const H5L_info_t* info, void* all) -> herr_t {
      static_cast<std::vector<Link>*>(all)->push_back({name, info->type});
      return 0;
    };
    hsize_t next = 0;
    if (H5Literate(group.get(), H5_INDEX_NAME, H5_ITER_INC, &next, collect, &links) < 0)
      return failure_at(prefix, "cannot list the group");
    for (const Link& link : links) {
      const std::string name = prefix.empty() ? link.name : prefix + "/" + link.name;
      if (const std::string why = check_path(name); !why.empty()) return failure_at(name, why);
      if (link.type != H5L_TYPE_HARD) return failure_at(name, "a soft or external link, which is not followed");
      const Handle object(H5Oopen(group.get(), link.name.c_str(), H5P_DEFAULT), H5Oclose);
      if (!object) return failure_at(name, "cannot be opened");
      RESHARD_CHECK(read_object(object, name, depth));
    }
    return {};
  }

  Status read_object(const Handle& object, const std::string& name, int depth) {
    H5O_info_t info;
    if (H5Oget_info2(object.get(), &info, H5O_INFO_BASIC) < 0) return failure_at(name, "cannot be read");
    // A second link makes a loop or the same array twice.
    if (info.rc != 1) return failure_at(name, fmt::format("{} hard links lead here, expected 1", info.rc));
    switch (info.type) {
      case H5O_TYPE_GROUP:
        return read_group(object, name, depth + 1);
      case H5O_TYPE_DATASET:
        return read_dataset(object, name);
      default:
        return failure_at(name, "neither a group nor a dataset");
    }
  }

  Status read_dataset(const Handle& dataset, const std::string& name) {
    const bool is_file = name.starts_with(kFilesPrefix);
    if (directory_.entries.size() == kMaxTensors || files_.size() == kMaxSideFiles) return failure("too many datasets");
    RESHARD_CHECK(check_storage(dataset, name));
    Entry entry;
    entry.name = is_file ? name.substr(kFilesPrefix.size()) : name;
    RESHARD_TRY(entry.dtype, is_file ? Expected(DType::u8) : read_dtype(dataset, name));
    RESHARD_CHECK(check_type(dataset, name, entry.dtype));
    RESHARD_TRY(const Shape stored, read_shape(dataset, name));
    const auto shape = shape_of_stored(entry.dtype, stored);
    std::string why = "shape overflows";
    const auto bytes = shape ? array_bytes(entry.dtype, *shape, why) : std::nullopt;
    if (!bytes) return failure_at(name, why);
    entry.shape = *shape;
    entry.length = *bytes;
    RESHARD_TRY(entry.offset, read_offset(dataset, name, *bytes));
    if (is_file) {
      if (entry.length > kMaxSideFileBytes)
        return failure_at(name, fmt::format("{} bytes, at most {} are read", entry.length, kMaxSideFileBytes));
      files_.push_back(std::move(entry));
      return {};
    }
    std::optional<std::string> digest;
    if (H5Aexists(dataset.get(), kDigestName) > 0) {
      RESHARD_TRY(digest, read_text(dataset.get(), kDigestName));
    }
    directory_.item_digests.push_back(std::move(digest).value_or(""));
    directory_.entries.push_back(std::move(entry));
    return {};
  }

  Status check_storage(const Handle& dataset, const std::string& name) {
    const Handle create(H5Dget_create_plist(dataset.get()), H5Pclose);
    if (!create) return failure_at(name, "cannot be read");
    switch (H5Pget_layout(create.get())) {
      case H5D_CONTIGUOUS:
        break;
      case H5D_VIRTUAL:
        return failure_at(name, "a virtual dataset, only contiguous ones are read");
      default:
        return failure_at(
            name, "a chunked or compact dataset, only contiguous ones are read; repack it with h5repack -l CONTI");
    }
    if (H5Pget_external_count(create.get()) != 0)
      return failure_at(name, "its data lies in another file (external storage)");
    if (H5Pget_nfilters(create.get()) != 0)
      return failure_at(name, "its data passes a filter, only plain data is read");
    return {};
  }

  /// The attribute decides; a file without it (not ours) is taken by its type.
  Expected<DType> read_dtype(const Handle& dataset, const std::string& name) {
    if (H5Aexists(dataset.get(), kDTypeName) > 0) {
      RESHARD_TRY(const auto text, read_text(dataset.get(), kDTypeName));
      const auto dtype = text ? parse_dtype(*text) : std::nullopt;
      if (!dtype)
        return failure_at(name, "unknown dtype " + (text ? io::in_quotes(*text) : std::string("(not a text)")));
      return *dtype;
    }
    const Handle type(H5Dget_type(dataset.get()), H5Tclose);
    for (const DType dtype : {DType::bf16, DType::f16, DType::f32, DType::f64, DType::i8, DType::u8, DType::i16,
                              DType::u16, DType::i32, DType::u32, DType::i64, DType::u64, DType::c64}) {
      if (H5Tequal(type.get(), types_[static_cast<std::size_t>(dtype)].get()) > 0) return dtype;
    }
    return failure_at(name,
                      "its type is none that a tensor has (little-endian numbers), and it has no attribute \"dtype\"");
  }

  /// HDF5 converts silently, and wrongly for fp8 and NaN: only the very type will do.
  Status check_type(const Handle& dataset, const std::string& name, DType dtype) {
    const Handle type(H5Dget_type(dataset.get()), H5Tclose);
    if (H5Tequal(type.get(), types_[static_cast<std::size_t>(dtype)].get()) > 0) return {};
    return failure_at(name, fmt::format("its type in the file is not that of {}", reshard::to_string(dtype)));
  }

  Expected<Shape> read_shape(const Handle& dataset, const std::string& name) {
    const Handle space(H5Dget_space(dataset.get()), H5Sclose);
    const H5S_class_t kind = H5Sget_simple_extent_type(space.get());
    if (kind == H5S_SCALAR) return Shape();
    std::array<hsize_t, H5S_MAX_RANK> dims;
    const int rank = kind == H5S_SIMPLE ? H5Sget_simple_extent_dims(space.get(), dims.data(), nullptr) : -1;
    if (rank < 0) return failure_at(name, "has no shape");
    Shape shape;
    for (int i = 0; i < rank; ++i) {
      const hsize_t size = dims[static_cast<std::size_t>(i)];
      if (size > static_cast<hsize_t>(std::numeric_limits<Index>::max())) return failure_at(name, "shape overflows");
      shape.push_back(static_cast<Index>(size));
    }
    return shape;
  }

  Expected<Index> read_offset(const Handle& dataset, const std::string& name, Index bytes) {
    const auto stored = static_cast<Index>(H5Dget_storage_size(dataset.get()));
    if (stored != bytes)
      return failure_at(name, fmt::format("its shape takes {} bytes, but {} are stored", bytes, stored));
    if (bytes == 0) return Index{0};
    const haddr_t address = H5Dget_offset(dataset.get());
    if (address == HADDR_UNDEF) return failure_at(name, "its data was never written");
    const auto offset = static_cast<Index>(address);
    if (offset < 0 || bytes > library_file_.source.size() || offset > library_file_.source.size() - bytes) {
      return failure_at(name, fmt::format("its data at byte {}, {} bytes long, ends behind the file's {} bytes", offset,
                                          bytes, library_file_.source.size()));
    }
    return offset;
  }

  Status check_extents() {
    std::vector<const Entry*> all;
    for (const Entry& entry : directory_.entries) all.push_back(&entry);
    for (const Entry& entry : files_) all.push_back(&entry);
    std::sort(all.begin(), all.end(), [](const Entry* a, const Entry* b) {
      return std::tie(a->offset, a->length, a->name) < std::tie(b->offset, b->length, b->name);
    });
    for (std::size_t i = 1; i < all.size(); ++i) {
      if (all[i]->offset < all[i - 1]->offset + all[i - 1]->length) {
        return failure_at(all[i]->name, fmt::format("its data at byte {} overlaps that of {}", all[i]->offset,
                                                    io::in_quotes(all[i - 1]->name)));
      }
    }
    return {};
  }

  LibraryFile library_file_;  // outlives file_
  const std::string& path_;
  Handle file_;
  std::array<Handle, kNumDTypes> types_;
  FileDirectory directory_;
  std::vector<Entry> files_;
};

// What the child process sends: numbers of 8 bytes, texts behind their lengths.

void put(std::string& packed, std::uint64_t number) { append_number(packed, number, 8); }
void put(std::string& packed, const std::string& text) {
  put(packed, std::uint64_t{text.size()});
  packed += text;
}
void put(std::string& packed, const std::map<std::string, std::string>& texts) {
  put(packed, std::uint64_t{texts.size()});
  for (const auto& [key, value] : texts) {
    put(packed, key);
    put(packed, value);
  }
}

std::string pack(const Expected<FileDirectory>& result) {
  std::string packed;
  put(packed, std::uint64_t{result.has_value()});
  if (!result) {
    put(packed, result.error().message);
    return packed;
  }
  put(packed, std::uint64_t{result->entries.size()});
  for (const Entry& entry : result->entries) {
    put(packed, entry.name);
    put(packed, static_cast<std::uint64_t>(entry.dtype));
    put(packed, static_cast<std::uint64_t>(entry.offset));
    put(packed, static_cast<std::uint64_t>(entry.length));
    put(packed, std::uint64_t{entry.shape.size()});
    for (const Index size : entry.shape) put(packed, static_cast<std::uint64_t>(size));
  }
  for (const std::string& digest : result->item_digests) put(packed, digest);
  for (const auto* texts : {&result->metadata, &result->files}) put(packed, *texts);
  return packed;
}

std::string take_text(Cursor& packed) { return std::string(packed.take(packed.number(8))); }

Expected<FileDirectory> unpack(std::string_view bytes, const std::string& path) {
  Cursor packed(bytes);
  if (packed.number(8) != 1) {
    std::string message = take_text(packed);
    return input_error(message.empty() ? path + ": libhdf5 gave no answer" : std::move(message));
  }
  FileDirectory directory;
  for (std::uint64_t left = packed.number(8); left > 0 && !packed.ran_out(); --left) {
    Entry& entry = directory.entries.emplace_back();
    entry.name = take_text(packed);
    entry.dtype = static_cast<DType>(packed.number(8) % kNumDTypes);
    entry.offset = static_cast<Index>(packed.number(8));
    entry.length = static_cast<Index>(packed.number(8));
    for (std::uint64_t rank = packed.number(8); rank > 0 && !packed.ran_out(); --rank) {
      entry.shape.push_back(static_cast<Index>(packed.number(8)));
    }
  }
  for (std::size_t i = 0; i < directory.entries.size(); ++i) directory.item_digests.push_back(take_text(packed));
  for (auto* texts : {&directory.metadata, &directory.files}) {
    for (std::uint64_t left = packed.number(8); left > 0 && !packed.ran_out(); --left) {
      std::string key = take_text(packed);
      (*texts)[std::move(key)] = take_text(packed);
    }
  }
  if (packed.ran_out() || !packed.is_at_end()) return input_error(path + ": libhdf5 gave no answer");
  return directory;
}

}  // namespace

/// libhdf5 crashes on some damaged files, so it works in a process of its own, which starts with a fresh library.
Expected<FileDirectory> read_with_library(io::Source& source, const std::string& path) {
  auto packed = run_in_child([&] {
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);  // else it prints its errors
    return pack(Reader(source, path).read());
  });
  if (!packed) return std::move(packed).error().at(path + ": damaged, or not made for libhdf5");
  return unpack(*packed, path);
}

}  // namespace reshard::container::hdf5
