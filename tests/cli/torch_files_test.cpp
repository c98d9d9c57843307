// SPDX-License-Identifier: Apache-2.0
// Torch files on disk, as the program reads them: damage that only CRCs tell, and numbers of the other byte order.
#include <gtest/gtest.h>

#include <algorithm>

#include "src/container/zip.h"
#include "tests/support/program.h"
#include "tests/support/says.h"
#include "tests/support/zip_files.h"

namespace reshard::test {
namespace {

const std::string kModel = RESHARD_SOURCE_DIR "/tests/interop/hf/llama-gqa";

class TorchFiles : public ::testing::Test {
 protected:
  TorchFiles() {
    const ProgramRun run =
        run_program(RESHARD_PROGRAM, "convert " + kModel + " " + folder_.path("bin") + " --to hf_bin");
    EXPECT_EQ(run.status, 0) << run.err;
    file_ = folder_.path("bin/pytorch_model.bin");
    bytes_ = file_bytes(file_);
    MemorySource source(bytes_);
    auto records = container::zip::read_directory(source, file_);
    EXPECT_TRUE(records) << records.error().message;
    if (records) records_ = *std::move(records);
  }

  ProgramRun reshard(const std::string& arguments, int ranks = 1) const {
    return run_program(RESHARD_PROGRAM, arguments, ranks);
  }
  std::string content(const container::zip::Record& record) const {
    return bytes_.substr(static_cast<std::size_t>(record.offset), static_cast<std::size_t>(record.size));
  }
  bool is_there(const std::string& name) const { return std::filesystem::exists(folder_.path(name)); }

  TemporaryFolder folder_;
  std::string file_, bytes_;
  std::vector<container::zip::Record> records_;
};

TEST_F(TorchFiles, DamageIsFoundWhileStreaming) {
  const auto storage = std::find_if(records_.begin(), records_.end(), [](const auto& record) {
    return record.name.find("/data/") != std::string::npos && record.size > 1000;
  });
  ASSERT_NE(storage, records_.end());
  bytes_[static_cast<std::size_t>(storage->offset + storage->size / 2)] ^= 1;
  put_file(file_, bytes_);
  for (const int ranks : {1, 3}) {
    for (const std::string route : {"direct", "exchange"}) {
      const ProgramRun run =
          reshard("convert " + folder_.path("bin") + " " + folder_.path("out") + " --to hf --route " + route, ranks);
      EXPECT_EQ(run.status, 3) << run.err;
      EXPECT_SAYS(run.err, "pytorch_model.bin: bytes " + std::to_string(storage->offset));
      EXPECT_SAYS(run.err, "CRC-32");
      EXPECT_EQ(run.num_errors(), 1) << run.err;
      EXPECT_FALSE(is_there("out"));
      EXPECT_FALSE(is_there("out.partial"));
    }
  }
  EXPECT_EQ(reshard("verify " + folder_.path("bin")).status, 3);
}

TEST_F(TorchFiles, NumbersOfTheOtherByteOrderAreTheSame) {
  const ProgramRun little = reshard("digest " + folder_.path("bin"));
  ASSERT_EQ(little.status, 0) << little.err;
  std::vector<ZipEntry> entries;
  for (const auto& record : records_) {
    ZipEntry entry;
    entry.name = record.name;
    entry.bytes = content(record);
    entry.alignment = 64;
    if (record.name.ends_with("/byteorder")) entry.bytes = "big";
    if (record.name.find("/data/") != std::string::npos) {  // bf16 throughout
      for (std::size_t i = 0; i + 1 < entry.bytes.size(); i += 2) std::swap(entry.bytes[i], entry.bytes[i + 1]);
    }
    entries.push_back(std::move(entry));
  }
  put_file(file_, zip_file(entries));
  for (const int ranks : {1, 2}) {
    const ProgramRun big = reshard("digest " + folder_.path("bin"), ranks);
    ASSERT_EQ(big.status, 0) << big.err;
    EXPECT_EQ(big.out, little.out);
  }
}

}  // namespace
}  // namespace reshard::test
