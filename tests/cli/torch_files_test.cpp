// SPDX-License-Identifier: Apache-2.0
// Torch files on disk, as the program reads them: damage that only CRCs tell, and numbers of the other byte order.
#include <gtest/gtest.h>

#include <algorithm>

#include "reshard/container/container.h"
#include "src/container/zip.h"
#include "tests/support/paths.h"
#include "tests/support/program.h"
#include "tests/support/says.h"
#include "tests/support/zip_files.h"

namespace reshard::test {
namespace {

const std::string kModel = source_dir() + "/tests/interop/hf/llama-gqa";

class TorchFiles : public ::testing::Test {
 protected:
  TorchFiles() {
    const ProgramRun run = run_program(program(), "convert " + kModel + " " + folder_.path("bin") + " --to hf_bin");
    EXPECT_EQ(run.status, 0) << run.err;
    file_ = folder_.path("bin/pytorch_model.bin");
    bytes_ = file_bytes(file_);
    MemorySource source(bytes_);
    auto records = container::zip::read_directory(source, file_);
    EXPECT_TRUE(records) << records.error().message;
    if (records) records_ = *std::move(records);
  }

  ProgramRun reshard(const std::string& arguments, int ranks = 1) const {
    return run_program(program(), arguments, ranks);
  }
  std::string content(const container::zip::Record& record) const {
    return bytes_.substr(static_cast<std::size_t>(record.offset), static_cast<std::size_t>(record.size));
  }
  /// The record again, as it stands in an archive.
  ZipEntry entry_of(const container::zip::Record& record) const {
    ZipEntry entry;
    entry.name = record.name;
    entry.bytes = content(record);
    entry.alignment = 64;
    return entry;
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

// What no stream of the weights reads, verify looks at.
TEST_F(TorchFiles, VerifyLooksAtWhatHoldsNoWeight) {
  const std::string weights = folder_.path("bin");
  EXPECT_SAYS(reshard("verify " + weights).out, "archives");
  // A storage that no tensor of the model lies in, as an optimizer's.
  std::vector<ZipEntry> entries;
  for (const auto& record : records_) {
    entries.push_back(entry_of(record));
  }
  ZipEntry more;
  more.name = records_.front().name.substr(0, records_.front().name.find('/')) + "/data/9999";
  more.bytes = std::string(5'000'000, 'x');
  more.alignment = 64;
  entries.push_back(more);
  put_file(file_, zip_file(entries));
  for (const int ranks : {1, 3}) {
    const ProgramRun whole = reshard("verify " + weights, ranks);
    EXPECT_EQ(whole.status, 0) << whole.err << whole.out;
    EXPECT_SAYS(whole.out, "CRC-32s of 1 storages without weights (5000000 bytes)");
  }
  std::string bytes = file_bytes(file_);
  bytes[bytes.rfind("xxxx") - 2'000'000] = 'y';
  put_file(file_, bytes);
  EXPECT_EQ(reshard("convert " + weights + " " + folder_.path("out") + " --to hf").status, 0);
  for (const int ranks : {1, 3}) {
    const ProgramRun damaged = reshard("verify " + weights, ranks);
    EXPECT_EQ(damaged.status, 1) << damaged.err;
    EXPECT_SAYS(damaged.out, "pytorch_model.bin: bytes ");
    EXPECT_SAYS(damaged.out, "the file says");
  }
}

TEST_F(TorchFiles, VerifyComparesLocalHeaders) {
  const auto storage = std::find_if(records_.begin(), records_.end(),
                                    [](const auto& record) { return record.name.find("/data/") != std::string::npos; });
  ASSERT_NE(storage, records_.end());
  const auto header = static_cast<std::size_t>(storage->header);
  for (const auto& [at, what] : {std::pair<std::size_t, const char*>{28, "its local header"},  // length of its extra
                                 {30, "has another name in its local header"},
                                 {8, "its local header and the directory disagree"},  // method
                                 {0, "has no local header there"}}) {
    std::string bytes = bytes_;
    bytes[header + at] ^= 1;
    put_file(file_, bytes);
    const ProgramRun run = reshard("verify " + folder_.path("bin"));
    EXPECT_EQ(run.status, 1) << at << run.err;
    EXPECT_SAYS(run.out, what);
    EXPECT_SAYS(run.out, storage->name);
  }
}

// A weight that is cut by columns over several spans is read in rounds that share rows.
TEST_F(TorchFiles, DamageIsFoundWhereReadsOverlap) {
  put_file(folder_.path("wide.json"),
           R"({"model_type": "llama", "hidden_size": 128, "intermediate_size": 81920, "num_hidden_layers": 1,
               "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 64, "rms_norm_eps": 1e-5,
               "max_position_embeddings": 2048, "torch_dtype": "bfloat16"})");
  const std::string wide = folder_.path("wide"), file = wide + "/pytorch_model.bin";
  ASSERT_EQ(reshard("convert synthetic:" + folder_.path("wide.json") + " " + wide + " --to hf_bin").status, 0);
  const auto source = io::open_source(file, "", io::Follow::all, {});
  ASSERT_TRUE(source);
  const auto directory = container::find("torch")->read_directory(**source, file);
  ASSERT_TRUE(directory) << directory.error().message;
  const auto down = std::find_if(directory->entries.begin(), directory->entries.end(),
                                 [](const auto& entry) { return entry.name.ends_with("down_proj.weight"); });
  ASSERT_NE(down, directory->entries.end());
  for (const int ranks : {1, 3}) {
    const std::string out = folder_.path("good-" + std::to_string(ranks));
    const ProgramRun run = reshard("convert " + wide + " " + out + " --to meta --tp 2 --route direct", ranks);
    EXPECT_EQ(run.status, 0) << run.err;
    EXPECT_EQ(run.err.find("in part only"), std::string::npos) << run.err;
  }
  std::fstream change(file, std::ios::in | std::ios::out | std::ios::binary);
  change.seekp(down->offset + down->length / 2);
  change.put('!');
  change.close();
  for (const int ranks : {1, 3}) {
    const ProgramRun run =
        reshard("convert " + wide + " " + folder_.path("out") + " --to meta --tp 2 --route direct", ranks);
    EXPECT_EQ(run.status, 3) << run.err;
    EXPECT_SAYS(run.err, "CRC-32");
  }
}

TEST_F(TorchFiles, NumbersOfTheOtherByteOrderAreTheSame) {
  const ProgramRun little = reshard("digest " + folder_.path("bin"));
  ASSERT_EQ(little.status, 0) << little.err;
  std::vector<ZipEntry> entries;
  for (const auto& record : records_) {
    ZipEntry entry = entry_of(record);
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
