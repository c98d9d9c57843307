// SPDX-License-Identifier: Apache-2.0
// A pickle alone: checksums and offsets of an archive would keep most inputs from it.
#include "src/container/pickle.h"
#include "src/container/torch_state.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace reshard;
  test::MemorySource source = test::source_of(data, size);
  const auto pickle = container::pickle::read(source, 0, source.size(), "input", container::torch::is_allowed);
  if (!pickle) return 0;
  const auto storages = container::torch::storages(pickle->values, "input");
  container::FileDirectory directory;
  constexpr Index kAnywhere = Index{1} << 40;
  const auto find = [](const container::torch::Storage&) -> Expected<Index> { return kAnywhere; };
  const Status collected = container::torch::collect(*pickle, find, "input", directory);
  if (storages && collected) test::require_inside(directory, std::numeric_limits<Index>::max());
  return 0;
}
