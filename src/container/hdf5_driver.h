// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <optional>
#include <string>

#include "hdf5_library.h"

namespace reshard::container::hdf5 {

/// What libhdf5 takes for a file. It never opens one itself: it reads through an io::Source and writes into memory.
class Medium {
 public:
  virtual ~Medium() = default;
  virtual Index size() const = 0;
  virtual bool resize(Index size) = 0;
  virtual bool read(std::span<std::byte> into, Index offset) = 0;
  virtual bool write(std::span<const std::byte> bytes, Index offset) = 0;
};

/// A source, read only. The first error is kept: libhdf5 knows only that there was one.
class SourceMedium final : public Medium {
 public:
  explicit SourceMedium(io::Source& source) : source_(source) {}
  Index size() const override { return source_.size(); }
  bool resize(Index size) override { return size == source_.size(); }
  bool read(std::span<std::byte> into, Index offset) override;
  bool write(std::span<const std::byte>, Index) override { return false; }
  const std::optional<Error>& error() const { return error_; }

 private:
  io::Source& source_;
  std::optional<Error> error_;
};

/// Memory for the pages that were written; the rest of the file, however long, is zeros.
class SparseMedium final : public Medium {
 public:
  Index size() const override { return size_; }
  bool resize(Index size) override;
  bool read(std::span<std::byte> into, Index offset) override;
  bool write(std::span<const std::byte> bytes, Index offset) override;
  /// Pages of io::kPage bytes by number.
  const std::map<Index, std::string>& pages() const { return pages_; }

 private:
  Index size_ = 0;
  std::map<Index, std::string> pages_;
};

/// A file access property list over `medium`, which must live until the file is closed.
Handle make_access(Medium& medium);

}  // namespace reshard::container::hdf5
