// SPDX-License-Identifier: Apache-2.0
#include "hdf5_driver.h"

#include <algorithm>
#include <limits>

namespace reshard::container::hdf5 {
namespace {

/// libhdf5 knows the first member only.
struct Opened {
  H5FD_t shared;
  LibraryFile* file;
  haddr_t end_of_allocation;
};

Opened* self(H5FD_t* file) { return reinterpret_cast<Opened*>(file); }
const Opened* self(const H5FD_t* file) { return reinterpret_cast<const Opened*>(file); }

H5FD_t* open(const char* /*name*/, unsigned /*flags*/, hid_t access, haddr_t /*max_address*/) {
  const void* info = H5Pget_driver_info(access);
  if (!info) return nullptr;
  return &(new Opened{{}, *static_cast<LibraryFile* const*>(info), 0})->shared;
}

herr_t close(H5FD_t* file) {
  delete self(file);
  return 0;
}

/// The library shares what it knows of a file between openings of the same one.
int compare(const H5FD_t* a, const H5FD_t* b) {
  const std::less<const LibraryFile*> before;
  return static_cast<int>(before(self(b)->file, self(a)->file)) -
         static_cast<int>(before(self(a)->file, self(b)->file));
}

herr_t query(const H5FD_t* /*file*/, unsigned long* flags) {
  *flags = H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DEFAULT_VFD_COMPATIBLE;
  return 0;
}

haddr_t end_of_allocation(const H5FD_t* file, H5FD_mem_t /*type*/) { return self(file)->end_of_allocation; }

herr_t set_end_of_allocation(H5FD_t* file, H5FD_mem_t /*type*/, haddr_t address) {
  self(file)->end_of_allocation = address;
  return 0;
}

haddr_t end_of_file(const H5FD_t* file, H5FD_mem_t /*type*/) {
  return static_cast<haddr_t>(self(file)->file->source.size());
}

herr_t read(H5FD_t* opened, H5FD_mem_t /*type*/, hid_t /*transfer*/, haddr_t address, size_t size, void* buffer) {
  LibraryFile& file = *self(opened)->file;
  if (file.error) return -1;
  // What lies behind the end reads as zeros, as the library expects of its files.
  const std::span<std::byte> into(static_cast<std::byte*>(buffer), size);
  const auto available = static_cast<haddr_t>(file.source.size());
  const std::size_t inside =
      address < available ? static_cast<std::size_t>(std::min<haddr_t>(size, available - address)) : 0;
  std::fill(into.begin() + static_cast<std::ptrdiff_t>(inside), into.end(), std::byte{0});
  if (inside == 0) return 0;
  const Status status = file.source.read_at(into.first(inside), static_cast<Index>(address));
  if (!status) file.error = status.error();
  return status ? 0 : -1;
}

herr_t write(H5FD_t*, H5FD_mem_t, hid_t, haddr_t, size_t, const void*) { return -1; }

hid_t register_driver() {
  constexpr H5FD_mem_t kMap[H5FD_MEM_NTYPES] = H5FD_FLMAP_DICHOTOMY;
  H5FD_class_t driver{};
  driver.name = "reshard";
  driver.maxaddr = static_cast<haddr_t>(std::numeric_limits<Index>::max());
  driver.fc_degree = H5F_CLOSE_WEAK;
  driver.fapl_size = sizeof(LibraryFile*);
  driver.open = open;
  driver.close = close;
  driver.cmp = compare;
  driver.query = query;
  driver.get_eoa = end_of_allocation;
  driver.set_eoa = set_end_of_allocation;
  driver.get_eof = end_of_file;
  driver.read = read;
  driver.write = write;
  std::copy(std::begin(kMap), std::end(kMap), std::begin(driver.fl_map));
  return H5FDregister(&driver);
}

}  // namespace

Handle make_access(LibraryFile& file) {
  static const hid_t driver = register_driver();
  Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  const LibraryFile* const info = &file;
  if (H5Pset_driver(access.get(), driver, &info) < 0) return {};
  return access;
}

}  // namespace reshard::container::hdf5
