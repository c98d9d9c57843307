// SPDX-License-Identifier: Apache-2.0
#include "source_files.h"

#include <algorithm>

#include "swapped_source.h"

namespace reshard::app {
namespace {

constexpr std::size_t kMaxOpenFiles = 128;

std::string path_in(const format::Directory& directory, std::uint32_t file) {
  const std::string& relative = directory.files[file];
  return relative.empty() ? directory.root : directory.root + "/" + relative;
}

/// A source file whose bytes are compared with the CRCs that it states.
class WatchedSource : public io::Source {
 public:
  WatchedSource(std::unique_ptr<io::Source> inner, SourceCrcs& crcs, std::uint32_t file)
      : inner_(std::move(inner)), crcs_(crcs), file_(file) {}

  Index size() const override { return inner_->size(); }
  Status read_at(std::span<std::byte> into, Index offset) override {
    RESHARD_CHECK(inner_->read_at(into, offset));
    crcs_.add(file_, offset, into);
    return {};
  }

 private:
  std::unique_ptr<io::Source> inner_;
  SourceCrcs& crcs_;
  std::uint32_t file_;
};

/// A source file whose errors name the tensors that were being read.
class NamingSource : public io::Source {
 public:
  NamingSource(std::unique_ptr<io::Source> inner, const format::Directory& directory, std::uint32_t file)
      : inner_(std::move(inner)), directory_(directory), file_(file) {}

  Index size() const override { return inner_->size(); }
  Status read_at(std::span<std::byte> into, Index offset) override {
    Status status = inner_->read_at(into, offset);
    if (status) return status;
    const Index end = offset + static_cast<Index>(into.size());
    const std::string *first = nullptr, *last = nullptr;
    for (const format::Directory::Entry& entry : directory_.entries) {
      const Index begin = entry.entry.offset;
      if (entry.file != file_ || begin >= end || begin + entry.entry.length <= offset) continue;
      if (first == nullptr) first = &entry.entry.name;
      last = &entry.entry.name;
    }
    if (first == nullptr) return status;
    return std::move(status).error().at(first == last ? "tensor " + *first : "tensors " + *first + " to " + *last);
  }

 private:
  std::unique_ptr<io::Source> inner_;
  const format::Directory& directory_;
  std::uint32_t file_;
};

}  // namespace

CheckpointFiles::CheckpointFiles(std::vector<const format::Checkpoint*> checkpoints)
    : checkpoints_(std::move(checkpoints)), first_file_{0}, modes_(checkpoints_.size()), crcs_(checkpoints_) {
  for (const format::Checkpoint* checkpoint : checkpoints_) {
    first_file_.push_back(first_file_.back() + static_cast<std::uint32_t>(checkpoint->probe.directory.files.size()));
  }
}

Status CheckpointFiles::probe() {
  for (std::size_t c = 0; c < checkpoints_.size(); ++c) {
    const format::Checkpoint& checkpoint = *checkpoints_[c];
    if (checkpoint.synthetic || checkpoint.probe.directory.files.empty()) continue;
    RESHARD_TRY(modes_[c], io::probe_source(path_in(checkpoint.probe.directory, 0)));
  }
  return {};
}

CheckpointFiles::Place CheckpointFiles::place_of(std::uint32_t file) const {
  const auto next = std::upper_bound(first_file_.begin(), first_file_.end(), file);
  const auto c = static_cast<std::size_t>(next - first_file_.begin()) - 1;
  return {c, file - first_file_[c]};
}

Expected<std::shared_ptr<io::Source>> CheckpointFiles::open(std::uint32_t file) {
  const std::lock_guard lock(mutex_);
  if (const auto found = by_file_.find(file); found != by_file_.end()) {
    recent_.splice(recent_.begin(), recent_, found->second);
    return recent_.front().second;
  }
  const Place place = place_of(file);
  RESHARD_TRY(std::unique_ptr<io::Source> source,
              format::open_source_file(*checkpoints_[place.checkpoint], place.file, modes_[place.checkpoint]));
  const format::Directory& directory = checkpoints_[place.checkpoint]->probe.directory;
  if (crcs_.watches(file)) source = std::make_unique<WatchedSource>(std::move(source), crcs_, file);
  if (place.file < directory.big_endian.size() && directory.big_endian[place.file]) {
    source = make_swapped_source(std::move(source), directory, place.file);
  }
  recent_.emplace_front(file, std::make_shared<NamingSource>(std::move(source), directory, place.file));
  by_file_[file] = recent_.begin();
  if (recent_.size() > kMaxOpenFiles) {
    by_file_.erase(recent_.back().first);
    recent_.pop_back();
  }
  return recent_.front().second;
}

std::string CheckpointFiles::path(std::uint32_t file) const {
  const Place place = place_of(file);
  return path_in(checkpoints_[place.checkpoint]->probe.directory, place.file);
}

}  // namespace reshard::app
