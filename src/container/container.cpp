// SPDX-License-Identifier: Apache-2.0
#include "reshard/container/container.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cctype>

#include "containers.h"
#include "hdf5_format.h"
#include "reshard/base/text.h"

namespace reshard::container {
namespace {

constexpr Index kFirstBytes = 512;

struct Magic {
  std::size_t at;
  std::string_view bytes;
  std::string_view is;
};

using namespace std::string_view_literals;

constexpr std::array kMagics = {
    Magic{0, "version https://git-lfs"sv,
          "a git-LFS pointer, not the file itself: run git lfs pull in its repository"sv},
    Magic{0, "PK\x03\x04"sv, "a zip archive (a torch checkpoint, perhaps)"sv},
    Magic{0, "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e"sv,
          "a torch checkpoint of the old kind (before 1.6)"sv},
    Magic{0, "\x1f\x8b"sv, "gzip-compressed: unpack it first"sv},
    Magic{0, "\x28\xb5\x2f\xfd"sv, "zstd-compressed: unpack it first"sv},
    Magic{0,
          "\xfd"
          "7zXZ\0"sv,
          "xz-compressed: unpack it first"sv},
    Magic{0, "BZh"sv, "bzip2-compressed: unpack it first"sv},
    Magic{0, "7z\xbc\xaf\x27\x1c"sv, "a 7z archive: unpack it first"sv},
    Magic{257, "ustar"sv, "a tar archive: unpack it first"sv},
    Magic{0, "GGUF"sv, "a GGUF file"sv},
    Magic{0, "\x93NUMPY"sv, "a NumPy array"sv},
    Magic{0, "<?xml"sv, "an XML text (an error message of a server, perhaps): download the file again"sv},
};

bool begins_ignoring_case(std::string_view text, std::string_view word) {
  return text.size() >= word.size() && std::equal(word.begin(), word.end(), text.begin(), [](char a, char b) {
           return a == static_cast<char>(std::tolower(static_cast<unsigned char>(b)));
         });
}

/// Well-formed as RFC 3629 has it: no overlong forms, no surrogates, nothing above U+10FFFF.
bool is_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const auto first = static_cast<unsigned char>(text[i++]);
    if (first < 0x80) continue;
    const int more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
    if (first < 0xc2 || first > 0xf4 || text.size() - i < static_cast<std::size_t>(more)) return false;
    // The second byte decides what the first leaves open.
    const auto second = static_cast<unsigned char>(text[i]);
    if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) || (first == 0xf0 && second < 0x90) ||
        (first == 0xf4 && second > 0x8f)) {
      return false;
    }
    for (int k = 0; k < more; ++k) {
      if ((static_cast<unsigned char>(text[i++]) & 0xc0) != 0x80) return false;
    }
  }
  return true;
}

bool is_framed_as_safetensors(std::string_view bytes) {
  constexpr std::size_t kLengthBytes = 8;
  if (bytes.size() <= kLengthBytes || bytes.substr(4, 4) != "\0\0\0\0"sv) return false;
  const auto first = bytes.find_first_not_of(" \t\r\n", kLengthBytes);
  return first != std::string_view::npos && bytes[first] == '{';
}

}  // namespace

const Container* find(std::string_view name) {
  for (const Container* container : {&safetensors_container(), &hdf5_container(), &torch_container()}) {
    if (container->name() == name) return container;
  }
  return nullptr;
}

std::string describe_foreign(std::span<const std::byte> first_bytes) {
  const std::string_view bytes(reinterpret_cast<const char*>(first_bytes.data()), first_bytes.size());
  if (bytes.empty()) return "an empty file";
  // Its first bytes are a number, which may look like anything.
  if (is_framed_as_safetensors(bytes)) return {};
  for (const Magic& magic : kMagics) {
    if (bytes.size() > magic.at && bytes.substr(magic.at).starts_with(magic.bytes)) return std::string(magic.is);
  }
  if (bytes.find_first_not_of('\0') == std::string_view::npos) return "a file of zeros: it was never written";
  if (bytes.size() > 2 && bytes[0] == '\x80' && bytes[1] >= 2 && bytes[1] <= 5) return "a Python pickle";
  const auto text = bytes.substr(std::min(bytes.size(), bytes.find_first_not_of(" \t\r\n")));
  if (begins_ignoring_case(text, "<!doctype html") || begins_ignoring_case(text, "<html")) {
    return "an HTML page (a login or error page, perhaps): download the file again";
  }
  if (text.starts_with("{\"") || text.starts_with("[{")) return "a JSON text";
  return {};
}

Error not_a(std::string_view container, io::Source& source, const std::string& path, const std::string& otherwise) {
  std::string first(static_cast<std::size_t>(std::min(kFirstBytes, source.size())), '\0');
  const Status read = source.read_at(std::as_writable_bytes(std::span(first)), 0);
  if (!read) return read.error();
  std::string foreign = describe_foreign(std::as_bytes(std::span(first)));
  if (first.starts_with(hdf5::kSignature)) foreign = "an HDF5 file";
  if (foreign.empty()) return input_error(fmt::format("{}: not a {} file: {}", path, container, otherwise));
  return input_error(fmt::format("{}: expected a {} file, found {}", path, container, foreign));
}

std::string check_name(std::string_view name) {
  if (name.size() > kMaxNameBytes)
    return fmt::format("a name of {} bytes, at most {} are allowed", name.size(), kMaxNameBytes);
  const bool has_control =
      std::any_of(name.begin(), name.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
  if (has_control) return "a control character in the name";
  return is_utf8(name) ? "" : "the name is not UTF-8";
}

std::string check_path(std::string_view name) {
  for (const std::string& part : split(name, '/')) {
    if (part.empty() || part == "." || part == "..") return "an empty part, '.' or '..' between slashes in the name";
  }
  return check_name(name);
}

std::optional<Index> array_bytes(DType dtype, const Shape& shape, std::string& why) {
  const auto elements = num_elements(shape);
  const auto bits = elements ? checked_mul(*elements, bits_of(dtype)) : std::nullopt;
  if (!bits) {
    why = fmt::format("shape {} overflows", to_string(shape));
    return std::nullopt;
  }
  if (*bits % 8 != 0) {
    why = fmt::format("shape {} of {} does not fill whole bytes", to_string(shape), reshard::to_string(dtype));
    return std::nullopt;
  }
  return *bits / 8;
}

Status Container::check_headers(io::Source&, const std::string&) const { return {}; }

std::string to_string(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

}  // namespace reshard::container
