// SPDX-License-Identifier: Apache-2.0
// replay FILE|FOLDER ...: runs a fuzz target over inputs that are there, without a fuzzer.
#include <cstdio>
#include <filesystem>

#include "tests/fuzz/fuzz.h"

int main(int argc, char** argv) {
  namespace fs = std::filesystem;
  std::size_t inputs = 0;
  const auto run = [&](const fs::path& path) {
    const std::string bytes = reshard::test::file_bytes(path.string());
    LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    // Cut off in the middle, too: the most usual damage.
    LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size() / 2);
    ++inputs;
  };
  for (int i = 1; i < argc; ++i) {
    if (!fs::is_directory(argv[i])) {
      run(argv[i]);
      continue;
    }
    for (const auto& entry : fs::directory_iterator(argv[i])) run(entry.path());
  }
  std::printf("%zu inputs\n", inputs);
  return inputs == 0 ? 1 : 0;
}
