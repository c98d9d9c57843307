// SPDX-License-Identifier: Apache-2.0
#include "version.h"

#include <H5public.h>
#include <fmt/format.h>
#include <isa-l.h>
#define OMPI_SKIP_MPICXX 1  // the C interface only
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>
#include <zlib.h>

#include <boost/version.hpp>
#include <nlohmann/json.hpp>
#include <string_view>

#include "commit.h"
#include "reshard/base/text.h"
#include "reshard/device/device.h"
#include "reshard/device/nccl.h"

namespace reshard::cli {

std::string program_version() { return RESHARD_VERSION; }

std::string version_text() {
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  char mpi[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(mpi, &length);
  const std::string_view commit = RESHARD_COMMIT;
  std::string out = fmt::format("reshard {}{}{}\n", RESHARD_VERSION, commit.empty() ? "" : ", commit ", commit);
  const auto append = [&](std::string_view name, std::string_view version) {
    out += fmt::format("  {:<14} {}\n", name, version);
  };
  append("compiler", fmt::format("{} (C++ {})", __VERSION__, __cplusplus));
  append("MPI", split(std::string_view(mpi, static_cast<std::size_t>(length)), '\n').front());
  append("HDF5", fmt::format("{}.{}.{}", major, minor, release));
  append("nlohmann/json", fmt::format("{}.{}.{}", NLOHMANN_JSON_VERSION_MAJOR, NLOHMANN_JSON_VERSION_MINOR,
                                      NLOHMANN_JSON_VERSION_PATCH));
  append("Boost", fmt::format("{}.{}.{}", BOOST_VERSION / 100000, BOOST_VERSION / 100 % 1000, BOOST_VERSION % 100));
  append("fmt", fmt::format("{}.{}.{}", FMT_VERSION / 10000, FMT_VERSION / 100 % 100, FMT_VERSION % 100));
  append("yaml-cpp", RESHARD_YAML_VERSION);
  append("zlib", zlibVersion());
  append("ISA-L", fmt::format("{}.{}.{}", ISAL_MAJOR_VERSION, ISAL_MINOR_VERSION, ISAL_PATCH_VERSION));
  append("CUDA", device::describe_cuda());
  const auto nccl = device::load_nccl();
  append("NCCL", nccl ? device::version_text((*nccl)->version()) : nccl.error().message);
  return out;
}

}  // namespace reshard::cli
