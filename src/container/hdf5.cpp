// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "containers.h"
#include "hdf5_archive.h"
#include "hdf5_format.h"

namespace reshard::container {
namespace {

class Hdf5 final : public Container {
 public:
  std::string_view name() const override { return "hdf5"; }

  Expected<FileDirectory> read_directory(io::Source& source, const std::string& path) const override {
    std::array<char, hdf5::kSignature.size()> first{};
    if (source.size() >= static_cast<Index>(first.size())) {
      RESHARD_CHECK(source.read_at(std::as_writable_bytes(std::span(first)), 0));
    }
    if (!std::equal(first.begin(), first.end(), hdf5::kSignature.begin())) {
      return not_a("HDF5", source, path,
                   "byte 0: no HDF5 signature; the file was never finished, or is something else");
    }
    RESHARD_TRY(auto ours, hdf5::decode_archive(source));
    if (ours) return *std::move(ours);
    return hdf5::read_with_library(source, path);
  }

  /// Only the side files are written with the data: until finish() there is no superblock, and nothing opens the file.
  Expected<FileImage> lay_out(const FileSpec& spec) const override {
    RESHARD_TRY(auto archive, hdf5::build_archive(spec, nullptr));
    return FileImage{archive.size, std::move(archive.offsets), std::move(archive.files)};
  }

  /// Side files may have got other contents of the same length meanwhile (records that hold digests).
  Expected<std::vector<Segment>> finish(const FileSpec& spec, const FileImage& image,
                                        const DataSums& sums) const override {
    RESHARD_TRY(auto archive, hdf5::build_archive(spec, &sums.item_digests));
    if (archive.size != image.size || archive.offsets != image.offsets)
      return run_error("HDF5: finish() got another spec than lay_out()");
    std::vector<Segment> segments;
    for (Segment& file : archive.files) {
      const bool is_there = std::any_of(image.segments.begin(), image.segments.end(), [&](const Segment& s) {
        return s.offset == file.offset && s.bytes == file.bytes;
      });
      if (!is_there) segments.push_back(std::move(file));
    }
    segments.push_back({static_cast<Index>(hdf5::kSuperblockBytes), archive.metadata.substr(hdf5::kSuperblockBytes)});
    segments.push_back({0, archive.metadata.substr(0, hdf5::kSuperblockBytes)});
    return segments;
  }
};

}  // namespace

namespace hdf5 {

constexpr Index kMaxSideFilesBytes = 1 * kGiB;

std::optional<Shape> stored_shape(DType dtype, Shape shape) {
  if (!is_sub_byte(dtype)) return shape;
  const auto bits = shape.empty() ? std::nullopt : checked_mul(shape.back(), bits_of(dtype));
  if (!bits || *bits % 8 != 0) return std::nullopt;
  shape.back() = *bits / 8;
  return shape;
}

std::optional<Shape> shape_of_stored(DType dtype, Shape stored) {
  if (!is_sub_byte(dtype)) return stored;
  const auto bits = stored.empty() ? std::nullopt : checked_mul(stored.back(), 8);
  if (!bits || *bits % bits_of(dtype) != 0) return std::nullopt;
  stored.back() = *bits / bits_of(dtype);
  return stored;
}

Status read_side_files(io::Source& source, const std::vector<Entry>& files, FileDirectory& directory) {
  Index left = kMaxSideFilesBytes;
  for (const Entry& file : files) {
    left -= file.length;
    if (left < 0) return input_error(fmt::format("side files of more than {} bytes", kMaxSideFilesBytes));
    std::string text(static_cast<std::size_t>(file.length), '\0');
    if (file.length > 0) RESHARD_CHECK(source.read_at(std::as_writable_bytes(std::span(text)), file.offset));
    directory.files[file.name] = std::move(text);
  }
  return {};
}

}  // namespace hdf5

const Container& hdf5_container() {
  static const Hdf5 container;
  return container;
}

}  // namespace reshard::container
