// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdlib.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "reshard/io/file.h"

namespace reshard::test {

/// A folder that goes away with its contents.
class TemporaryFolder {
 public:
  TemporaryFolder() : path_((std::filesystem::temp_directory_path() / "reshard-test-XXXXXX").string()) {
    if (!::mkdtemp(path_.data())) throw std::runtime_error("cannot make a temporary folder");
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string path(const std::string& relative) const { return path_ + "/" + relative; }

 private:
  std::string path_;
};

inline void put_file(const std::string& path, std::string_view bytes) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path, std::ios::binary) << bytes;
}

inline std::string file_bytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// A file that is only a string; `size` may claim more, which then reads as zeros.
class MemorySource : public io::Source {
 public:
  explicit MemorySource(std::string bytes) : bytes_(std::move(bytes)), size_(static_cast<Index>(bytes_.size())) {}
  MemorySource(std::string bytes, Index size) : bytes_(std::move(bytes)), size_(size) {}

  Index size() const override { return size_; }
  Status read_at(std::span<std::byte> into, Index offset) override {
    if (offset < 0 || offset > size_ || static_cast<Index>(into.size()) > size_ - offset)
      return input_error("read outside of the file");
    std::memset(into.data(), 0, into.size());
    const auto begin = std::min(static_cast<std::size_t>(offset), bytes_.size());
    std::memcpy(into.data(), bytes_.data() + begin, std::min(into.size(), bytes_.size() - begin));
    return {};
  }

 private:
  std::string bytes_;
  Index size_;
};

}  // namespace reshard::test
