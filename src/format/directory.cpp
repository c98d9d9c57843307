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

void pack(const Header& header, Packer& packer) {
  packer.number(header.fingerprint.size);
  packer.number(header.fingerprint.mtime_ns);
  packer.number(static_cast<Index>(header.fingerprint.inode));
  pack(header.directory.metadata, packer);
  pack(header.directory.files, packer);
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

Header unpack(Unpacker& unpacker) {
  Header header;
  header.fingerprint.size = unpacker.number();
  header.fingerprint.mtime_ns = unpacker.number();
  header.fingerprint.inode = static_cast<std::uint64_t>(unpacker.number());
  header.directory.metadata = unpack_texts(unpacker);
  header.directory.files = unpack_texts(unpacker);
  header.directory.big_endian = unpacker.number() != 0;
  header.directory.checks.resize(static_cast<std::size_t>(unpacker.number()));
  for (container::FileDirectory::Check& check : header.directory.checks) {
    check.offset = unpacker.number();
    check.length = unpacker.number();
    check.crc = static_cast<std::uint32_t>(unpacker.number());
  }
  header.directory.entries.resize(static_cast<std::size_t>(unpacker.number()));
  for (container::Entry& entry : header.directory.entries) {
    entry.name = unpacker.text();
    entry.dtype = static_cast<DType>(unpacker.number());
    entry.shape = unpack_numbers(unpacker);
    entry.offset = unpacker.number();
    entry.length = unpacker.number();
    entry.strides = unpack_numbers(unpacker);
  }
  return header;
}

// Headers of this rank's share of the files; of several broken files the first is told.
Status read_share(const container::Container& container, const std::string& root, const std::vector<std::string>& files,
                  io::Follow follow, const std::vector<std::size_t>& share, std::vector<Header>& headers) {
  std::vector<Status> read(share.size());
  std::atomic<std::size_t> next = 0;
  const auto work = [&] {
    for (std::size_t i = next++; i < share.size(); i = next++) {
      auto header = read_header(container, root, files[share[i]], follow);
      if (header) {
        headers[share[i]] = *std::move(header);
      } else {
        read[i] = header.error();
      }
    }
  };
  std::vector<std::thread> threads;
  for (std::size_t t = 1; t < std::min(kMaxThreads, share.size() / 4); ++t) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  for (Status& status : read) RESHARD_CHECK(std::move(status));
  return {};
}

// Gives every rank the headers of all shares.
void exchange(comm::Comm& comm, const std::vector<std::size_t>& share, std::vector<Header>& headers) {
  if (comm.size() == 1) return;
  Packer packer;
  for (const std::size_t file : share) {
    packer.number(static_cast<Index>(file));
    pack(headers[file], packer);
  }
  for (const std::string& message : comm.all_gather(packer.take())) {
    Unpacker unpacker(message);
    while (!unpacker.done()) {
      const auto file = static_cast<std::size_t>(unpacker.number());
      headers[file] = unpack(unpacker);
    }
  }
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
  std::vector<std::size_t> share;
  if (comm.rank() < readers) {
    const auto step = static_cast<std::size_t>(readers);
    for (auto file = static_cast<std::size_t>(comm.rank()); file < files.size(); file += step) share.push_back(file);
  }
  std::vector<Header> headers(files.size());
  RESHARD_CHECK(agree(comm, read_share(*reader, root, files, follow, share, headers)));
  exchange(comm, share, headers);

  Directory directory;
  directory.root = root;
  directory.files = files;
  std::size_t num_entries = 0;
  for (const Header& header : headers) num_entries += header.directory.entries.size();
  directory.entries.reserve(num_entries);
  for (std::size_t file = 0; file < files.size(); ++file) {
    container::FileDirectory& header = headers[file].directory;
    directory.fingerprints.push_back(headers[file].fingerprint);
    directory.metadata.push_back(std::move(header.metadata));
    directory.checks.push_back(std::move(header.checks));
    directory.big_endian.push_back(header.big_endian);
    directory.inside.merge(header.files);
    for (container::Entry& entry : header.entries) {
      directory.entries.push_back({std::move(entry), static_cast<std::uint32_t>(file)});
    }
  }
  return directory;
}

}  // namespace reshard::format
