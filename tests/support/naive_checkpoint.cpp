// SPDX-License-Identifier: Apache-2.0
#include "tests/support/naive_checkpoint.h"

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <stdexcept>

#include "reshard/base/crc32.h"
#include "tests/support/files.h"
#include "tests/support/paths.h"

namespace reshard::test {

namespace {

template <class T>
T value_of(Expected<T> expected) {
  if (!expected) throw std::runtime_error(expected.error().message);
  return *std::move(expected);
}

void check(const Status& status) {
  if (!status) throw std::runtime_error(status.error().message);
}

// Calls `visit` with the array, its element, the line and its element, of every canonical element that the layout
// holds.
void visit_elements(const layout::Layout& layout,
                    const std::function<void(std::uint32_t array, Index at, Index line, Index index)>& visit) {
  const layout::Canon& canon = layout.canon();
  for (std::uint32_t t = 0; t < canon.tensors().size(); ++t) {
    const layout::Tensor& tensor = canon.tensors()[t];
    layout::Fusion none;
    for (std::size_t axis = 0; axis < tensor.axes.size(); ++axis) none.first.push_back(static_cast<int>(axis));
    std::vector<layout::Piece> pieces;
    layout.pieces(t, none, pieces);
    for (const layout::Piece& piece : pieces) {
      std::vector<Index> position(static_cast<std::size_t>(piece.rank), 0);
      while (true) {
        Index at = piece.offset, index = 0, layer = -1, expert = -1;
        for (int k = 0; k < piece.rank; ++k) {
          const Index here = piece.begin[k] + position[static_cast<std::size_t>(k)];
          at += position[static_cast<std::size_t>(k)] * piece.stride[k];
          index += here * canon.line_stride(t, k);
          if (tensor.axes[static_cast<std::size_t>(k)].name == "layer") layer = here;
          if (tensor.axes[static_cast<std::size_t>(k)].name == "expert") expert = here;
        }
        visit(piece.array, at, canon.line_number(t, layer, expert), index);
        int k = piece.rank - 1;
        while (k >= 0 && ++position[static_cast<std::size_t>(k)] == piece.size[k])
          position[static_cast<std::size_t>(k--)] = 0;
        if (k < 0) break;
      }
    }
  }
}

}  // namespace

std::string fixture(const std::string& relative) {
  const char* folder = std::getenv("RESHARD_FIXTURES");
  const auto committed = std::filesystem::path(source_dir()) / "tests/interop";
  return (folder != nullptr ? std::filesystem::path(folder) : committed) / relative;
}

const model::Library& library() {
  static const model::Library loaded = value_of(model::Library::load(""));
  return loaded;
}

Expected<format::Checkpoint> open(const std::string& path, const format::SourceOptions& options) {
  const auto comm = comm::make_self_comm();
  return format::open_checkpoint(path, options, library(), *comm);
}

std::string open_error(const std::string& path, const format::SourceOptions& options, Code code) {
  const auto opened = open(path, options);
  if (opened) return "no error";
  if (opened.error().code != code) return "wrong code: " + opened.error().message;
  return opened.error().message;
}

std::vector<std::string> line_values(const format::Checkpoint& checkpoint) {
  const layout::Layout& layout = *checkpoint.layout;
  std::vector<std::string> arrays;
  for (std::uint32_t a = 0; a < layout.arrays().size(); ++a) {
    const auto& entry = checkpoint.probe.directory.entries[checkpoint.locations[a]];
    const auto source = value_of(format::open_source_file(checkpoint, entry.file, {}));
    arrays.emplace_back(static_cast<std::size_t>(entry.entry.length), '\0');
    check(source->read_at(std::as_writable_bytes(std::span(arrays.back())), entry.entry.offset));
  }
  std::vector<std::string> lines(static_cast<std::size_t>(layout.canon().num_lines()));
  visit_elements(layout, [&](std::uint32_t a, Index at, Index line, Index index) {
    const auto bytes = static_cast<std::size_t>(bytes_of(layout.arrays()[a].dtype));
    std::string& values = lines[static_cast<std::size_t>(line)];
    if (values.empty()) {
      values.resize(static_cast<std::size_t>(layout.canon().line_volume(layout.canon().line(line).tensor)) * bytes);
    }
    std::memcpy(values.data() + static_cast<std::size_t>(index) * bytes,
                arrays[a].data() + static_cast<std::size_t>(at) * bytes, bytes);
  });
  return lines;
}

void write_checkpoint(const format::Target& target, const std::vector<std::string>& lines, const std::string& path,
                      const std::vector<std::string>& item_digests) {
  const layout::Layout& layout = *target.layout;
  std::vector<std::string> files;
  for (const container::FileImage& image : target.images) {
    files.emplace_back(static_cast<std::size_t>(image.size), '\0');
    for (const auto& segment : image.segments) {
      files.back().replace(static_cast<std::size_t>(segment.offset), segment.text().size(), segment.text());
    }
  }
  visit_elements(layout, [&](std::uint32_t a, Index at, Index line, Index index) {
    const Index bytes = bytes_of(layout.arrays()[a].dtype);
    const std::string& values = lines[static_cast<std::size_t>(line)];
    if (static_cast<Index>(values.size()) < (index + 1) * bytes) throw std::runtime_error("dtype was not kept");
    std::memcpy(files[target.file_of_array[a]].data() + target.offset_of_array[a] + at * bytes,
                values.data() + index * bytes, static_cast<std::size_t>(bytes));
  });
  for (std::size_t f = 0; f < files.size(); ++f) {
    const auto* container = container::find(layout.table().container);
    container::DataSums sums{item_digests, {}};
    for (const container::Extent& extent : target.images[f].checked) {
      const auto run = std::string_view(files[f]).substr(static_cast<std::size_t>(extent.offset),
                                                         static_cast<std::size_t>(extent.length));
      sums.crcs.push_back(crc32(0, std::as_bytes(std::span(run))));
    }
    for (const auto& segment : value_of(container->finish(target.files[f].spec, target.images[f], sums))) {
      files[f].replace(static_cast<std::size_t>(segment.offset), segment.text().size(), segment.text());
    }
    put_file(target.files[f].path.empty() ? path : path + "/" + target.files[f].path, files[f]);
  }
  for (const format::Sidecar& sidecar : target.sidecars) {
    put_file(path + "/" + sidecar.path, sidecar.copy_from.empty() ? sidecar.text : file_bytes(sidecar.copy_from));
  }
}

void convert_naively(const format::Checkpoint& source, const std::string& format, const format::TargetOptions& options,
                     const std::string& path) {
  write_checkpoint(value_of(format::describe_target(source, format, options, library())), line_values(source), path);
}

}  // namespace reshard::test
