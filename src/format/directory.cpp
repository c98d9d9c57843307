// SPDX-License-Identifier: Apache-2.0
#include "directory.h"

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <thread>

#include "wire.h"

namespace reshard::format {

namespace {

constexpr Index kMaxSideFile = 256 * kMiB;
constexpr std::size_t kMaxThreads = 8;  // a header is a few small reads: latency, not work

struct Header {
  container::FileDirectory directory;
  io::Fingerprint fingerprint;
};

Expected<Header> read_header(const container::Container& container, const std::string& root,
                             const std::string& relative, io::Follow follow) {
  const std::string path = path_of(root, relative);
  Header header;
  RESHARD_TRY(const auto source, io::open_source(root, relative, follow, {}));
  RESHARD_TRY(header.fingerprint, io::fingerprint(path));
  RESHARD_TRY(header.directory, container.read_directory(*source, path));
  return header;
}

void pack(const std::map<std::string, std::string>& texts, Packer& packer) {
  packer.number(static_cast<Index>(texts.size()));
  for (const auto& [key, value] : texts) {
    packer.text(key);
    packer.text(value);
  }
}

std::map<std::string, std::string> unpack_texts(Unpacker& unpacker) {
  std::map<std::string, std::string> texts;
  for (Index left = unpacker.number(); left > 0; --left) {
    std::string key = unpacker.text();
    texts[std::move(key)] = unpacker.text();
  }
  return texts;
}

void pack(const std::vector<Index>& numbers, Packer& packer) {
  packer.number(static_cast<Index>(numbers.size()));
  for (const Index number : numbers) packer.number(number);
}

std::vector<Index> unpack_numbers(Unpacker& unpacker) {
  std::vector<Index> numbers(static_cast<std::size_t>(unpacker.number()));
  for (Index& number : numbers) number = unpacker.number();
  return numbers;
}

void pack(std::uint32_t file, const Header& header, Packer& packer) {
  packer.number(file);
  packer.number(header.fingerprint.size);
  packer.number(header.fingerprint.mtime_ns);
  packer.number(static_cast<Index>(header.fingerprint.inode));
  pack(header.directory.metadata, packer);
  pack(header.directory.files, packer);
  pack(header.directory.item_digests, packer);
  packer.number(header.directory.big_endian ? 1 : 0);
  packer.number(static_cast<Index>(header.directory.checks.size()));
  for (const container::FileDirectory::Check& check : header.directory.checks) {
    packer.number(check.offset);
    packer.number(check.length);
    packer.number(static_cast<Index>(check.crc));
  }
  packer.number(static_cast<Index>(header.directory.entries.size()));
  for (const container::Entry& entry : header.directory.entries) {
    packer.text(entry.name);
    packer.number(static_cast<Index>(entry.dtype));
    pack(entry.shape, packer);
    packer.number(entry.offset);
    packer.number(entry.length);
    pack(entry.strides, packer);
  }
}

// One file's part of a rank's message.
void unpack(Unpacker& unpacker, Directory& directory, std::vector<std::vector<container::Entry>>& entries) {
  const auto file = static_cast<std::size_t>(unpacker.number());
  io::Fingerprint& fingerprint = directory.fingerprints[file];
  fingerprint.size = unpacker.number();
  fingerprint.mtime_ns = unpacker.number();
  fingerprint.inode = static_cast<std::uint64_t>(unpacker.number());
  directory.metadata[file] = unpack_texts(unpacker);
  directory.inside.merge(unpack_texts(unpacker));
  directory.item_digests.merge(unpack_texts(unpacker));
  directory.big_endian[file] = unpacker.number() != 0;
  directory.checks[file].resize(static_cast<std::size_t>(unpacker.number()));
  for (container::FileDirectory::Check& check : directory.checks[file]) {
    check.offset = unpacker.number();
    check.length = unpacker.number();
    check.crc = static_cast<std::uint32_t>(unpacker.number());
  }
  entries[file].resize(static_cast<std::size_t>(unpacker.number()));
  for (container::Entry& entry : entries[file]) {
    entry.name = unpacker.text();
    entry.dtype = static_cast<DType>(unpacker.number());
    entry.shape = unpack_numbers(unpacker);
    entry.offset = unpacker.number();
    entry.length = unpacker.number();
    entry.strides = unpack_numbers(unpacker);
  }
}

// Headers of this rank's share, packed; of several broken files the first is told.
Expected<std::string> read_share(const container::Container& container, const std::string& root,
                                 const std::vector<std::string>& files, io::Follow follow, std::size_t first,
                                 std::size_t step) {
  std::vector<std::uint32_t> share;
  for (std::size_t file = first; file < files.size(); file += step) share.push_back(static_cast<std::uint32_t>(file));
  std::vector<Expected<std::string>> packed(share.size(), std::string());
  std::atomic<std::size_t> next = 0;
  const auto work = [&] {
    for (std::size_t i = next++; i < share.size(); i = next++) {
      const auto header = read_header(container, root, files[share[i]], follow);
      if (!header) {
        packed[i] = header.error();
        continue;
      }
      Packer packer;
      pack(share[i], *header, packer);
      packed[i] = packer.take();
    }
  };
  std::vector<std::thread> threads;
  for (std::size_t t = 1; t < std::min(kMaxThreads, share.size() / 4); ++t) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  std::string all;
  for (Expected<std::string>& part : packed) {
    if (!part) return std::move(part).error();
    all += *part;
  }
  return all;
}

}  // namespace

bool exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

std::string path_of(const std::string& root, const std::string& relative) {
  return relative.empty() ? root : root + "/" + relative;
}

Expected<std::string> read_side_file(const std::string& root, const std::string& relative, io::Follow follow) {
  RESHARD_TRY(const auto source, io::open_source(root, relative, follow, {}));
  if (source->size() > kMaxSideFile) {
    return input_error(path_of(root, relative) + ": " + std::to_string(source->size()) +
                       " bytes are too much for a side file");
  }
  std::string text(static_cast<std::size_t>(source->size()), '\0');
  RESHARD_CHECK(source->read_at(std::as_writable_bytes(std::span(text)), 0));
  return text;
}

std::string first_bytes(const std::string& path, Index count) {
  const auto source = io::open_source(path, "", io::Follow::all, {});
  if (!source) return "";
  std::string bytes(static_cast<std::size_t>(std::min(count, (*source)->size())), '\0');
  if (!(*source)->read_at(std::as_writable_bytes(std::span(bytes)), 0)) return "";
  return bytes;
}

Expected<Directory> read_directory(const std::string& root, const std::vector<std::string>& files,
                                   const std::string& container, io::Follow follow, comm::Comm& comm) {
  const container::Container* reader = container::find(container);
  if (reader == nullptr) return usage_error("there is no container " + container);
  const int readers = std::min(comm.size(), kMaxReaders);
  Expected<std::string> share = std::string();
  if (comm.rank() < readers) {
    share = read_share(*reader, root, files, follow, static_cast<std::size_t>(comm.rank()),
                       static_cast<std::size_t>(readers));
  }
  RESHARD_CHECK(agree(comm, share ? Status() : Status(share.error())));

  Directory directory;
  directory.root = root;
  directory.files = files;
  directory.fingerprints.resize(files.size());
  directory.metadata.resize(files.size());
  directory.checks.resize(files.size());
  directory.big_endian.resize(files.size());
  std::vector<std::vector<container::Entry>> entries(files.size());
  for (const std::string& message : comm.all_gather(*share)) {
    Unpacker unpacker(message);
    while (!unpacker.done()) unpack(unpacker, directory, entries);
  }
  for (std::size_t file = 0; file < files.size(); ++file) {
    for (container::Entry& entry : entries[file]) {
      directory.entries.push_back({std::move(entry), static_cast<std::uint32_t>(file)});
    }
  }
  return directory;
}

}  // namespace reshard::format
