// SPDX-License-Identifier: Apache-2.0
#include "hdf5_driver.h"

#include <algorithm>
#include <cstring>

namespace reshard::container::hdf5 {
namespace {

/// libhdf5 knows the first member only.
struct File {
  H5FD_t shared;
  Medium* medium;
  haddr_t end_of_allocation;
};

File* self(H5FD_t* file) { return reinterpret_cast<File*>(file); }
const File* self(const H5FD_t* file) { return reinterpret_cast<const File*>(file); }
constexpr herr_t result(bool fine) { return fine ? 0 : -1; }

H5FD_t* open(const char* /*name*/, unsigned /*flags*/, hid_t access, haddr_t /*max_address*/) {
  const void* info = H5Pget_driver_info(access);
  if (!info) return nullptr;
  return &(new File{{}, *static_cast<Medium* const*>(info), 0})->shared;
}

herr_t close(H5FD_t* file) {
  delete self(file);
  return 0;
}

int compare(const H5FD_t* a, const H5FD_t* b) {
  const std::less<const Medium*> before;
  return static_cast<int>(before(self(b)->medium, self(a)->medium)) -
         static_cast<int>(before(self(a)->medium, self(b)->medium));
}

herr_t query(const H5FD_t* /*file*/, unsigned long* flags) {
  *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_AGGREGATE_SMALLDATA |
           H5FD_FEAT_DEFAULT_VFD_COMPATIBLE;
  return 0;
}

haddr_t end_of_allocation(const H5FD_t* file, H5FD_mem_t /*type*/) { return self(file)->end_of_allocation; }

herr_t set_end_of_allocation(H5FD_t* file, H5FD_mem_t /*type*/, haddr_t address) {
  self(file)->end_of_allocation = address;
  return 0;
}

haddr_t end_of_file(const H5FD_t* file, H5FD_mem_t /*type*/) {
  return static_cast<haddr_t>(self(file)->medium->size());
}

herr_t read(H5FD_t* file, H5FD_mem_t /*type*/, hid_t /*transfer*/, haddr_t address, size_t size, void* buffer) {
  return result(self(file)->medium->read({static_cast<std::byte*>(buffer), size}, static_cast<Index>(address)));
}

herr_t write(H5FD_t* file, H5FD_mem_t /*type*/, hid_t /*transfer*/, haddr_t address, size_t size, const void* buffer) {
  return result(self(file)->medium->write({static_cast<const std::byte*>(buffer), size}, static_cast<Index>(address)));
}

herr_t truncate(H5FD_t* file, hid_t /*transfer*/, hbool_t /*closing*/) {
  return result(self(file)->medium->resize(static_cast<Index>(self(file)->end_of_allocation)));
}

hid_t register_driver() {
  constexpr H5FD_mem_t kMap[H5FD_MEM_NTYPES] = H5FD_FLMAP_DICHOTOMY;
  H5FD_class_t driver{};
  driver.name = "reshard";
  driver.maxaddr = static_cast<haddr_t>(std::numeric_limits<Index>::max());
  driver.fc_degree = H5F_CLOSE_WEAK;
  driver.fapl_size = sizeof(Medium*);
  driver.open = open;
  driver.close = close;
  driver.cmp = compare;
  driver.query = query;
  driver.get_eoa = end_of_allocation;
  driver.set_eoa = set_end_of_allocation;
  driver.get_eof = end_of_file;
  driver.read = read;
  driver.write = write;
  driver.truncate = truncate;
  std::copy(std::begin(kMap), std::end(kMap), std::begin(driver.fl_map));
  return H5FDregister(&driver);
}

}  // namespace

bool SourceMedium::read(std::span<std::byte> into, Index offset) {
  if (error_) return false;
  // What lies behind the end reads as zeros, as the library expects of its files.
  const Index available = std::clamp<Index>(size() - offset, 0, static_cast<Index>(into.size()));
  const auto inside = static_cast<std::size_t>(available);
  std::fill(into.begin() + available, into.end(), std::byte{0});
  const Status status = inside > 0 ? source_.read_at(into.first(inside), offset) : Status();
  if (!status) error_ = status.error();
  return status.has_value();
}

bool SparseMedium::resize(Index size) {
  pages_.erase(pages_.lower_bound(ceil_div(size, io::kPage)), pages_.end());
  size_ = size;
  return true;
}

bool SparseMedium::read(std::span<std::byte> into, Index offset) {
  for (std::size_t done = 0; done < into.size();) {
    const Index at = offset + static_cast<Index>(done);
    const auto within = static_cast<std::size_t>(at % io::kPage);
    const auto length = std::min(into.size() - done, static_cast<std::size_t>(io::kPage) - within);
    const auto page = pages_.find(at / io::kPage);
    if (page == pages_.end()) {
      std::memset(into.data() + done, 0, length);
    } else {
      std::memcpy(into.data() + done, page->second.data() + within, length);
    }
    done += length;
  }
  return true;
}

bool SparseMedium::write(std::span<const std::byte> bytes, Index offset) {
  for (std::size_t done = 0; done < bytes.size();) {
    const Index at = offset + static_cast<Index>(done);
    const auto within = static_cast<std::size_t>(at % io::kPage);
    const auto length = std::min(bytes.size() - done, static_cast<std::size_t>(io::kPage) - within);
    std::string& page = pages_[at / io::kPage];
    page.resize(static_cast<std::size_t>(io::kPage), '\0');
    std::memcpy(page.data() + within, bytes.data() + done, length);
    done += length;
  }
  size_ = std::max(size_, offset + static_cast<Index>(bytes.size()));
  return true;
}

Handle make_access(Medium& medium) {
  static const hid_t driver = register_driver();
  Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  const Medium* const info = &medium;
  if (H5Pset_driver(access.get(), driver, &info) < 0) return {};
  return access;
}

}  // namespace reshard::container::hdf5
