// SPDX-License-Identifier: Apache-2.0
#include "tests/support/hdf5_files.h"

#include <stdexcept>

namespace reshard::test {
namespace {

template <class T>
T must(Expected<T> value) {
  if (!value) throw std::runtime_error(value.error().message);
  return *std::move(value);
}

void must(const Status& status) {
  if (!status) throw std::runtime_error(status.error().message);
}

}  // namespace

container::FileImage write_archive(const container::FileSpec& spec, const std::vector<std::string>& digests,
                                   const std::string& path, bool with_finish) {
  const container::Container& hdf5 = *container::find("hdf5");
  container::FileImage image = must(hdf5.lay_out(spec));
  const auto target = must(io::open_target(path, image.size, {}));
  const auto write = [&](std::string_view bytes, Index offset) {
    must(target->write_at(std::as_bytes(std::span(bytes)), offset));
  };
  for (const auto& segment : image.segments) write(segment.text(), segment.offset);
  for (std::size_t i = 0; i < spec.items.size(); ++i) {
    std::string data(static_cast<std::size_t>(*num_elements(spec.items[i].shape) * bits_of(spec.items[i].dtype) / 8),
                     '\0');
    for (std::size_t byte = 0; byte < data.size(); ++byte) data[byte] = data_byte(i, static_cast<Index>(byte));
    write(data, image.offsets[i]);
  }
  if (with_finish) {
    for (const auto& segment : must(hdf5.finish(spec, image, {digests, {}}))) write(segment.text(), segment.offset);
  }
  return image;
}

}  // namespace reshard::test
