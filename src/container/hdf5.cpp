// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "containers.h"
#include "hdf5_archive.h"

namespace reshard::container {
namespace {

constexpr std::string_view kSignature = "\x89HDF\r\n\x1a\n";
constexpr std::size_t kSuperblockBytes = 48;  // of version 2 with 8-byte addresses

class Hdf5 final : public Container {
 public:
  std::string_view name() const override { return "hdf5"; }

  Expected<FileDirectory> read_directory(io::Source& source, const std::string& path) const override {
    std::array<char, kSignature.size()> first{};
    if (source.size() >= static_cast<Index>(first.size())) {
      RESHARD_CHECK(source.read_at(std::as_writable_bytes(std::span(first)), 0));
    }
    if (!std::equal(first.begin(), first.end(), kSignature.begin())) {
      return not_a("HDF5", source, path,
                   "byte 0: no HDF5 signature; the file was never finished, or is something else");
    }
    return hdf5::read_archive(source, path);
  }

  /// Only the side files are written with the data: until finish() there is no superblock, and nothing opens the file.
  Expected<FileImage> lay_out(const FileSpec& spec) const override {
    RESHARD_TRY(auto archive, hdf5::build_archive(spec, nullptr));
    std::sort(archive.files.begin(), archive.files.end(),
              [](const Segment& a, const Segment& b) { return a.offset < b.offset; });
    return FileImage{archive.size, std::move(archive.offsets), std::move(archive.files)};
  }

  Expected<std::vector<Segment>> finish(const FileSpec& spec, const FileImage& image,
                                        const std::map<std::string, std::string>& item_digests) const override {
    RESHARD_TRY(auto archive, hdf5::build_archive(spec, &item_digests));
    if (archive.size != image.size || archive.offsets != image.offsets || archive.metadata.empty() ||
        archive.metadata[0].offset != 0 || archive.metadata[0].bytes.size() < kSuperblockBytes) {
      return run_error("HDF5 laid the same archive out in two ways; please report this");
    }
    std::vector<Segment> segments = std::move(archive.metadata);
    const Segment superblock{0, segments[0].bytes.substr(0, kSuperblockBytes)};
    segments[0] = {static_cast<Index>(kSuperblockBytes), segments[0].bytes.substr(kSuperblockBytes)};
    segments.push_back(superblock);
    return segments;
  }
};

}  // namespace

const Container& hdf5_container() {
  static const Hdf5 container;
  return container;
}

}  // namespace reshard::container
