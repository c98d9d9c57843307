// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <tuple>
#include <type_traits>

#include "containers.h"
#include "hdf5_archive.h"
#include "hdf5_format.h"

namespace reshard::container {
namespace {

/// Where the data begin: behind the metadata, before the first array or side file that has bytes.
Index data_begin(const FileImage& image) {
  Index begin = image.segments.empty() ? image.size : image.segments.front().offset;
  for (const Index offset : image.offsets) {
    if (offset > 0) begin = std::min(begin, offset);
  }
  return begin;
}

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
    RESHARD_TRY(auto archive, hdf5::build_archive(spec, nullptr, 0));
    return FileImage{archive.size, std::move(archive.offsets), std::move(archive.files)};
  }

  /// Side files may have got other contents of the same length meanwhile (records that hold digests).
  Expected<std::vector<Segment>> finish(const FileSpec& spec, const FileImage& image,
                                        const DataSums& sums) const override {
    RESHARD_TRY(auto archive, hdf5::build_archive(spec, &sums.item_digests, data_begin(image)));
    if (archive.size != image.size || archive.offsets != image.offsets)
      return run_error("HDF5: finish() got another spec than lay_out()");
    std::vector<Segment> segments;
    for (Segment& file : archive.files) {
      const bool is_there = std::any_of(image.segments.begin(), image.segments.end(), [&](const Segment& s) {
        return s.offset == file.offset && s.bytes == file.bytes;
      });
      if (!is_there) segments.push_back(std::move(file));
    }
    std::string superblock = archive.metadata.substr(0, hdf5::kSuperblockBytes);
    archive.metadata.erase(0, hdf5::kSuperblockBytes);
    segments.push_back({static_cast<Index>(hdf5::kSuperblockBytes), std::move(archive.metadata)});
    segments.push_back({0, std::move(superblock)});
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

void sort_by_extent(FileDirectory& directory) {
  std::vector<Entry>& entries = directory.entries;
  std::vector<std::size_t> order(entries.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::tie(entries[a].offset, entries[a].length, entries[a].name) <
           std::tie(entries[b].offset, entries[b].length, entries[b].name);
  });
  const auto sorted = [&](auto& all) {
    std::remove_reference_t<decltype(all)> moved;
    moved.reserve(all.size());
    for (const std::size_t i : order) moved.push_back(std::move(all[i]));
    return moved;
  };
  directory.item_digests = sorted(directory.item_digests);
  entries = sorted(entries);
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
