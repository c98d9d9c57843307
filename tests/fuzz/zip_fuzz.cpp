// SPDX-License-Identifier: Apache-2.0
// Torch files: the archive, its pickle and its storages.
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace reshard;
  test::MemorySource source = test::source_of(data, size);
  const auto directory = container::find("torch")->read_directory(source, "input");
  if (directory) test::require_inside(*directory, source.size());
  return 0;
}
