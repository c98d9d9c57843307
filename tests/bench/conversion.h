// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "reshard/app/stream.h"
#include "reshard/format/format.h"
#include "reshard/model/library.h"
#include "reshard/plan/plan.h"

namespace reshard::bench {

/// The value, or an exception with the error's text.
template <class T>
T require(Expected<T> value) {
  if (!value) throw std::runtime_error(value.error().message);
  return *std::move(value);
}

/// Both sides of a conversion, as the planner takes them. Plans refer to it.
struct Conversion {
  format::Checkpoint source;
  format::Target target;

  std::vector<plan::Transfer> transfers() const {
    std::vector<plan::Transfer> transfers(1);
    transfers[0].src = source.layout.get();
    transfers[0].src_places = app::places_of(source);
    transfers[0].dst = target.layout.get();
    for (std::size_t a = 0; a < target.file_of_array.size(); ++a) {
      transfers[0].dst_places.push_back({target.file_of_array[a], target.offset_of_array[a]});
    }
    return transfers;
  }

  std::vector<plan::TargetFile> target_files() const {
    std::vector<plan::TargetFile> files;
    for (const container::FileImage& image : target.images) {
      plan::TargetFile file{image.size, {}};
      for (const container::Segment& segment : image.segments) {
        file.constants.push_back({segment.offset, segment.text()});
      }
      files.push_back(std::move(file));
    }
    return files;
  }

  Index table_bytes() const { return app::table_bytes(source) + app::table_bytes(target); }
};

}  // namespace reshard::bench
