// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "tests/support/files.h"
#include "tests/support/naive_checkpoint.h"
#include "tests/support/says.h"

namespace reshard::format {
namespace {

Checkpoint open_fixture(const std::string& name) {
  auto source = test::open(test::fixture(name));
  EXPECT_TRUE(source) << source.error().message;
  return *std::move(source);
}

TEST(Hdf5Format, CarriesConfigSideFilesAndProvenance) {
  const test::TemporaryFolder folder;
  std::filesystem::copy(test::fixture("hf/qwen3"), folder.path("source"));
  test::put_file(folder.path("source/tokenizer.json"), R"({"a": 1})");
  test::put_file(folder.path("source/additional_chat_templates/tool.jinja"), "{{ x }}");
  test::put_file(folder.path("source/unrelated.txt"), "no");
  const auto source = test::open(folder.path("source"));
  ASSERT_TRUE(source) << source.error().message;
  TargetOptions options;
  options.provenance = {{"source", "hf"}};
  test::convert_naively(*source, "hdf5", options, folder.path("model.h5"));

  for (const std::string& path : {folder.path("model.h5"), folder.path()}) {  // the file, or the folder that holds it
    const auto archive = test::open(path);
    ASSERT_TRUE(archive) << archive.error().message;
    EXPECT_EQ(archive->format->name(), "hdf5");
    EXPECT_EQ(archive->probe.spec.family, "qwen3");
    EXPECT_EQ(archive->probe.spec.fields, source->probe.spec.fields);
    EXPECT_EQ(archive->probe.directory.metadata.front().at("source"), "hf");
    EXPECT_EQ(archive->probe.carried.size(), 3u);
  }
  const auto archive = test::open(folder.path("model.h5"));
  test::convert_naively(*archive, "hf", {}, folder.path("back"));
  EXPECT_EQ(test::file_bytes(folder.path("back/tokenizer.json")), R"({"a": 1})");
  EXPECT_EQ(test::file_bytes(folder.path("back/additional_chat_templates/tool.jinja")), "{{ x }}");
  EXPECT_FALSE(std::filesystem::exists(folder.path("back/unrelated.txt")));
}

TEST(Hdf5Format, ReservesRoomForDigestsAndFiles) {
  const Checkpoint source = open_fixture("hf/gpt2");
  TargetOptions options;
  std::set<Index> lines;
  options.digest_bytes = [&](const layout::Layout& layout, std::uint32_t array) {
    for (const Index line : lines_of(layout, array)) EXPECT_TRUE(lines.insert(line).second);
    return Index{20} * static_cast<Index>(lines_of(layout, array).size());
  };
  options.files_inside = [](const layout::Layout& layout) -> std::map<std::string, std::string> {
    return {{"record.json", fmt::format("[{}]", layout.arrays().size())}};
  };
  const auto target = describe_target(source, "hdf5", options, test::library());
  ASSERT_TRUE(target) << target.error().message;
  EXPECT_EQ(static_cast<Index>(lines.size()), source.canon->num_lines());
  for (const auto& item : target->files.front().spec.items)
    EXPECT_EQ(item.digest_bytes, item.name.find("c_attn") != std::string::npos ? 60 : 20);

  std::vector<std::string> digests;
  for (const auto& item : target->files.front().spec.items) {
    digests.emplace_back(static_cast<std::size_t>(item.digest_bytes), 'd');
  }
  const test::TemporaryFolder folder;
  test::write_checkpoint(*target, test::line_values(source), folder.path("model.h5"), digests);
  ASSERT_TRUE(test::open(folder.path()));
  const auto file = io::open_source(folder.path("model.h5"), "", io::Follow::all, {});
  ASSERT_TRUE(file);
  const auto directory = container::find("hdf5")->read_directory(**file, "model.h5");
  ASSERT_TRUE(directory) << directory.error().message;
  EXPECT_EQ(directory->item_digests, digests);
  EXPECT_EQ(directory->files.at("record.json"), fmt::format("[{}]", digests.size()));
}

TEST(Hdf5Format, RefusesForeignFiles) {
  const test::TemporaryFolder folder;
  const auto* container = container::find("hdf5");
  const Checkpoint source = open_fixture("hf/llama-tied");
  auto described = describe_target(source, "hdf5", {}, test::library());
  ASSERT_TRUE(described) << described.error().message;
  described->files.front().spec.metadata["format"] = "other";
  described->images = {*container->lay_out(described->files.front().spec)};
  for (std::size_t i = 0; i < described->files.front().arrays.size(); ++i) {
    described->offset_of_array[described->files.front().arrays[i]] = described->images.front().offsets[i];
  }
  test::write_checkpoint(*described, test::line_values(source), folder.path("other.h5"));
  EXPECT_SAYS(test::open_error(folder.path("other.h5")), "no archive of this program");
}

}  // namespace
}  // namespace reshard::format
