// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "hdf5_archive.h"
#include "hdf5_driver.h"
#include "hdf5_library.h"
#include "reshard/io/json.h"

namespace reshard::container::hdf5 {
namespace {

constexpr hsize_t kAlignedFrom = 64 * kKiB;  // smaller arrays are packed: aligning them would waste more than it saves
constexpr hsize_t kMetadataBlock = 64 * kKiB;

struct Extent {
  Index offset, length;
};

/// Builds one archive. Every member function needs the library's lock.
class Builder {
 public:
  Builder(const FileSpec& spec, const std::map<std::string, std::string>* digests) : spec_(spec), digests_(digests) {}

  Status build() {
    RESHARD_CHECK(open());
    for (const auto& [name, text] : spec_.metadata) {
      if (name == kMarkerName || name == kCompleteName)
        return usage_error(fmt::format("attribute {} is the container's own", name));
      RESHARD_CHECK(put_attribute(file_.get(), name, text));
    }
    RESHARD_CHECK(put_attribute(file_.get(), kMarkerName, kMarkerText));
    RESHARD_CHECK(put_attribute(file_.get(), kCompleteName, std::to_string(spec_.items.size())));
    for (const auto& item : spec_.items) {
      if (auto put = put_item(item); !put) return std::move(put).error().at("tensor " + io::in_quotes(item.name));
    }
    for (const auto& [name, text] : spec_.files) {
      if (auto put = put_file(name, text); !put) return std::move(put).error().at("side file " + io::in_quotes(name));
    }
    // Closing writes the metadata out; everything opened in the file is closed by then.
    return file_.close() ? Status() : Status(failure("cannot write the archive's metadata"));
  }

  /// What libhdf5 wrote, after build().
  Archive take() {
    archive_.size = medium_.size();
    std::sort(data_.begin(), data_.end(), [](const Extent& a, const Extent& b) { return a.offset < b.offset; });
    for (const auto& [number, page] : medium_.pages()) take_metadata(page, number * io::kPage);
    return std::move(archive_);
  }

 private:
  static Error failure(const std::string& what) { return usage_error(with_reason(what)); }

  Status open() {
    const Handle access = make_access(medium_);
    const Handle create(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
    links_ = Handle(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
    groups_ = Handle(H5Pcreate(H5P_GROUP_CREATE), H5Pclose);
    datasets_ = Handle(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
    scalar_ = Handle(H5Screate(H5S_SCALAR), H5Sclose);
    // Formats since 1.8 carry checksums; without times equal calls give equal bytes.
    if (H5Pset_libver_bounds(access.get(), H5F_LIBVER_V18, H5F_LIBVER_V18) < 0 ||
        H5Pset_alignment(access.get(), kAlignedFrom, static_cast<hsize_t>(io::kPage)) < 0 ||
        H5Pset_meta_block_size(access.get(), kMetadataBlock) < 0 || H5Pset_obj_track_times(create.get(), false) < 0 ||
        H5Pset_char_encoding(links_.get(), H5T_CSET_UTF8) < 0 || H5Pset_obj_track_times(groups_.get(), false) < 0 ||
        H5Pset_obj_track_times(datasets_.get(), false) < 0 || H5Pset_layout(datasets_.get(), H5D_CONTIGUOUS) < 0 ||
        H5Pset_alloc_time(datasets_.get(), H5D_ALLOC_TIME_EARLY) < 0 ||
        H5Pset_fill_time(datasets_.get(), H5D_FILL_TIME_NEVER) < 0) {
      return failure("cannot set up an HDF5 archive");
    }
    file_ = Handle(H5Fcreate("archive", H5F_ACC_TRUNC, create.get(), access.get()), H5Fclose);
    return file_ ? Status() : Status(failure("cannot start an HDF5 archive"));
  }

  Status put_attribute(hid_t object, const std::string& name, std::string text) {
    if (name.empty() || name.find('\0') != std::string::npos || text.find('\0') != std::string::npos) {
      return usage_error(fmt::format("attribute {} cannot be stored: its name is empty or one of them has a NUL byte",
                                     io::in_quotes(name)));
    }
    const Handle& type = text_type(text.size());
    const Handle attribute(H5Acreate2(object, name.c_str(), type.get(), scalar_.get(), H5P_DEFAULT, H5P_DEFAULT),
                           H5Aclose);
    if (!attribute || H5Awrite(attribute.get(), type.get(), text.c_str()) < 0) {
      return failure(fmt::format("attribute {} of {} bytes cannot be stored", io::in_quotes(name), text.size()));
    }
    return {};
  }

  const Handle& text_type(std::size_t bytes) {
    Handle& type = text_types_[bytes];
    if (!type) type = make_text_type(bytes);
    return type;
  }

  const Handle& type_of(DType dtype) {
    Handle& type = types_[dtype];
    if (!type) type = make_type(dtype);
    return type;
  }

  /// The groups above `path`, one by one: HDF5 would stamp those that it makes by itself with the time.
  Status put_groups(const std::string& path) {
    for (auto slash = path.find('/'); slash != std::string::npos; slash = path.find('/', slash + 1)) {
      const std::string group = path.substr(0, slash);
      if (!known_groups_.insert(group).second) continue;
      const Handle handle(H5Gcreate2(file_.get(), group.c_str(), links_.get(), groups_.get(), H5P_DEFAULT), H5Gclose);
      if (!handle) return failure(fmt::format("group {} cannot be stored in HDF5", io::in_quotes(group)));
    }
    return {};
  }

  /// A dataset with its storage allocated; where it lies.
  Expected<Handle> put_dataset(const std::string& path, const Handle& type, const Shape& shape, Index bytes,
                               Index& offset) {
    RESHARD_CHECK(put_groups(path));
    const std::vector<hsize_t> dims(shape.begin(), shape.end());
    const Handle space(
        dims.empty() ? H5Screate(H5S_SCALAR) : H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr),
        H5Sclose);
    Handle dataset(
        H5Dcreate2(file_.get(), path.c_str(), type.get(), space.get(), links_.get(), datasets_.get(), H5P_DEFAULT),
        H5Dclose);
    if (!space || !dataset) return failure("cannot be stored in HDF5");
    offset = 0;
    if (bytes == 0) return dataset;
    const haddr_t address = H5Dget_offset(dataset.get());
    if (address == HADDR_UNDEF) return failure("has no place in the file");
    offset = static_cast<Index>(address);
    data_.push_back({offset, bytes});
    return dataset;
  }

  Status put_item(const FileSpec::Item& item) {
    if (const std::string why = check_path(item.name); !why.empty()) return usage_error(why);
    if (item.name == kFilesName || item.name.starts_with(std::string(kFilesName) + "/")) {
      return usage_error(fmt::format("the name {} is the container's own", kFilesName));
    }
    std::string why;
    const auto bytes = array_bytes(item.dtype, item.shape, why);
    if (!bytes) return usage_error(why);
    const auto stored = stored_shape(item.dtype, item.shape);
    if (!stored || stored->size() > kMaxDims) {
      return usage_error(
          fmt::format("HDF5 cannot hold {} of shape {}", reshard::to_string(item.dtype), to_string(item.shape)));
    }
    Index offset = 0;
    RESHARD_TRY(const Handle dataset, put_dataset(item.name, type_of(item.dtype), *stored, *bytes, offset));
    archive_.offsets.push_back(offset);
    RESHARD_CHECK(put_attribute(dataset.get(), kDTypeName, std::string(reshard::to_string(item.dtype))));
    if (item.digest_bytes == 0) return {};
    std::string digest(static_cast<std::size_t>(item.digest_bytes), ' ');
    if (digests_) {
      const auto found = digests_->find(item.name);
      if (found == digests_->end() || found->second.size() != digest.size()) {
        return usage_error(fmt::format("a digest of {} bytes was promised, {} came", digest.size(),
                                       found == digests_->end() ? "none" : std::to_string(found->second.size())));
      }
      digest = found->second;
    }
    return put_attribute(dataset.get(), kDigestName, std::move(digest));
  }

  Status put_file(const std::string& name, const std::string& text) {
    if (const std::string why = check_path(name); !why.empty()) return usage_error(why);
    const auto bytes = static_cast<Index>(text.size());
    if (bytes > kMaxSideFileBytes)
      return usage_error(fmt::format("{} bytes, at most {} are carried", bytes, kMaxSideFileBytes));
    Index offset = 0;
    RESHARD_CHECK(put_dataset(fmt::format("{}/{}", kFilesName, name), type_of(DType::u8), {bytes}, bytes, offset));
    if (bytes > 0) archive_.files.push_back({offset, text});
    return {};
  }

  /// Appends a page that begins at byte `begin`, without what belongs to data or lies behind the end of the file.
  void take_metadata(std::string_view page, Index begin) {
    const Index end = std::min(begin + static_cast<Index>(page.size()), archive_.size);
    auto data =
        std::partition_point(data_.begin(), data_.end(), [&](const Extent& e) { return e.offset + e.length <= begin; });
    for (Index at = begin; at < end;) {
      const Index until = data == data_.end() ? end : std::clamp(data->offset, at, end);
      if (at < until)
        append(page.substr(static_cast<std::size_t>(at - begin), static_cast<std::size_t>(until - at)), at);
      at = data == data_.end() ? end : std::max(until, data->offset + data->length);
      if (data != data_.end()) ++data;
    }
  }

  void append(std::string_view bytes, Index offset) {
    auto& segments = archive_.metadata;
    if (!segments.empty() && segments.back().offset + static_cast<Index>(segments.back().bytes.size()) == offset) {
      segments.back().bytes += bytes;
    } else {
      segments.push_back({offset, std::string(bytes)});
    }
  }

  const FileSpec& spec_;
  const std::map<std::string, std::string>* digests_;
  SparseMedium medium_;  // outlives file_
  Handle file_, links_, groups_, datasets_, scalar_;
  std::map<std::size_t, Handle> text_types_;
  std::map<DType, Handle> types_;
  std::set<std::string> known_groups_;
  std::vector<Extent> data_;
  Archive archive_;
};

}  // namespace

Expected<Archive> build_archive(const FileSpec& spec, const std::map<std::string, std::string>* digests) {
  const auto lock = lock_library();
  Builder builder(spec, digests);
  RESHARD_CHECK(builder.build());
  return builder.take();
}

}  // namespace reshard::container::hdf5
