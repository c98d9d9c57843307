// SPDX-License-Identifier: Apache-2.0
#include "tests/support/device_copies.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <stdexcept>

#include "reshard/app/convert.h"
#include "reshard/layout/strided.h"
#include "reshard/repack/repack.h"
#include "src/app/conversion.h"
#include "tests/support/files.h"
#include "tests/support/naive_checkpoint.h"
#include "tests/support/random_copies.h"

namespace reshard::test {
namespace {

using layout::Loop;
using plan::Copy;

constexpr DType kCastable[] = {DType::bf16, DType::f16, DType::f32};

// One past the last byte that a copy touches on one side.
Index end_of(const Copy& copy, bool src) {
  const layout::Reach reach = src ? layout::src_reach(copy.strided) : layout::dst_reach(copy.strided);
  return (src ? copy.src_byte : copy.dst_byte) +
         ceil_div(reach.end * bits_of(src ? copy.src_dtype : copy.dst_dtype), 8);
}

void add(DeviceCase& c, const Copy& copy) {
  c.copies.push_back(copy);
  for (bool src : {true, false}) {
    Index& bytes = c.slot_bytes[static_cast<int>(src ? copy.src_slot : copy.dst_slot)];
    bytes = std::max(bytes, end_of(copy, src));
  }
}

}  // namespace

DeviceCase one_copy(const std::string& name, const Copy& copy) {
  DeviceCase c;
  c.name = name;
  add(c, copy);
  return c;
}

std::vector<DeviceCase> every_type(std::mt19937_64& random) {
  const std::vector<std::pair<std::string, std::vector<Loop>>> forms = {
      {"element", {}},
      {"dense", {{4000, 1, 1, 1}}},
      {"rows", {{30, 128, 64, 128}, {64, 1, 1, 1}}},
      {"odd rows", {{20, 39, 31, 50}, {27, 1, 1, 1}}},
      {"short rows", {{10, 80, 160, 9}, {20, 4, 8, 7}, {4, 1, 1, 1}}},
      {"transpose", {{64, 96, 1, 96}, {96, 1, 64, 1}}},
      {"odd transpose", {{33, 41, 1, 41}, {35, 1, 37, 1}}},
      {"many transposes", {{9, 640, 640, 640}, {16, 40, 1, 40}, {40, 1, 16, 1}}},
      {"every second", {{2000, 2, 1, 1}}},
      {"spread", {{2000, 1, 2, 2}}},
  };
  std::vector<DeviceCase> cases;
  const auto add_all = [&](DType src, DType dst) {
    for (const auto& [form, loops] : forms) {
      for (std::int64_t line : {std::int64_t{3}, plan::kNoLine}) {
        // Whole bytes of sub-byte types, in one dense run each.
        if (is_sub_byte(src) && (form == "element" || form == "odd rows" || loops.empty())) continue;
        if (is_sub_byte(src) && (loops.back().src != 1 || loops.back().dst != 1)) continue;
        Copy copy = make_copy(src, dst, loops, line);
        copy.strided.canonical = 4 * static_cast<Index>(random() % 1000);
        const bool aligned = random() % 2 == 0;
        copy.src_byte = static_cast<Index>(random() % 32) & (aligned ? ~Index{7} : ~Index{0});
        copy.dst_byte = static_cast<Index>(random() % 32) & (aligned ? ~Index{7} : ~Index{0});
        const std::string types = std::string(to_string(src)) + " to " + std::string(to_string(dst));
        cases.push_back(one_copy(types + ", " + form, copy));
      }
    }
  };
  for (int t = 0; t < kNumDTypes; ++t) add_all(static_cast<DType>(t), static_cast<DType>(t));
  for (DType src : kCastable) {
    for (DType dst : kCastable) {
      if (src != dst) add_all(src, dst);
    }
  }
  return cases;
}

std::vector<DeviceCase> every_alignment() {
  std::vector<DeviceCase> cases;
  for (Index src = 0; src < 16; ++src) {
    for (Index dst = 0; dst < 16; ++dst) {
      for (Index length : {1, 7, 16, 100, 300}) {
        const std::string name = std::to_string(src) + " to " + std::to_string(dst) + ", " + std::to_string(length);
        Copy copy = make_copy(DType::u8, DType::u8, {{length, 1, 1, 1}}, plan::kNoLine);
        copy.src_byte = src;
        copy.dst_byte = dst;
        cases.push_back(one_copy("u8 " + name, copy));
        copy.src_dtype = copy.dst_dtype = DType::bf16;
        copy.line = 0;
        cases.push_back(one_copy("bf16 " + name, copy));
        copy.dst_dtype = DType::f32;
        cases.push_back(one_copy("bf16 to f32 " + name, copy));
      }
    }
  }
  return cases;
}

std::vector<DeviceCase> transposes(std::mt19937_64& random) {
  struct Sizes {
    Index matrices, rows, columns;
  };
  std::vector<DeviceCase> cases;
  for (DType dtype : {DType::u8, DType::bf16, DType::f32, DType::f64, DType::f8_e4m3}) {
    for (const Sizes& s : {Sizes{1, 128, 128},
                           {1, 200, 77},
                           {1, 65, 304},
                           {1, 17, 1000},
                           {1, 256, 8},
                           {3, 64, 40},
                           {50, 16, 16},
                           {2, 5, 300}}) {
      for (Index group : {1, 2, 4, 8, 16}) {  // elements that stay together
        if (group * bytes_of(dtype) > 16) continue;
        const Index matrix = s.rows * s.columns * group;
        std::vector<Loop> loops = {{s.matrices, matrix, matrix, matrix},
                                   {s.rows, s.columns * group, group, s.columns * group},
                                   {s.columns, group, s.rows * group, group},
                                   {group, 1, 1, 1}};
        for (std::int64_t line : {std::int64_t{0}, plan::kNoLine}) {
          Copy copy = make_copy(dtype, dtype, loops, line);
          // As files have it: at multiples of 8, or of an element.
          const Index unit = random() % 2 == 0 ? 8 : bytes_of(dtype);
          copy.src_byte = unit * static_cast<Index>(random() % 4);
          copy.dst_byte = unit * static_cast<Index>(random() % 4);
          cases.push_back(one_copy(std::string(to_string(dtype)) + " " + std::to_string(s.rows) + " x " +
                                       std::to_string(s.columns) + " x " + std::to_string(group),
                                   copy));
        }
      }
    }
  }
  return cases;
}

std::vector<DeviceCase> random_cases(std::mt19937_64& random, int count) {
  std::vector<DeviceCase> cases;
  for (int i = 0; i < count; ++i) cases.push_back(one_copy("random " + std::to_string(i), random_copy(random).copy));
  return cases;
}

DeviceCase crowd(std::mt19937_64& random) {
  DeviceCase c;
  c.name = "crowd";
  Index source = 0, output = 0;
  for (int i = 0; i < 60; ++i) {
    Copy copy = random_copy(random).copy;
    copy.src_slot = i % 3 == 0 ? plan::Slot::received : plan::Slot::source;
    copy.src_byte += source;
    copy.dst_byte += output;
    add(c, copy);
    source = end_of(copy, true);
    output = end_of(copy, false);
    const Index zeros = static_cast<Index>(random() % 100);
    c.zeros.push_back({output, zeros, nullptr});
    c.zeros.push_back({output + zeros, 3, "abc"});  // not the table's
    output += zeros + 3;
  }
  c.zeros.push_back({output, 100000, nullptr});
  c.slot_bytes[static_cast<int>(plan::Slot::output)] = output + 100000;
  return c;
}

std::vector<DeviceCase> conversions() {
  struct Way {
    const char *family, *to, *dtype;
    Index tp;
    plan::Route route;
  };
  constexpr Way kWays[] = {
      {"llama", "nanotron", "", 2, plan::Route::direct},
      {"llama", "nanotron", "float16", 2, plan::Route::exchange},
      {"llama", "meta", "", 2, plan::Route::exchange},
      {"llama", "llms_from_scratch", "float32", 1, plan::Route::direct},
      {"gpt2", "llms_from_scratch", "", 1, plan::Route::exchange},
      {"qwen3_moe", "llms_from_scratch", "", 1, plan::Route::direct},
  };
  std::vector<DeviceCase> cases;
  for (const Way& way : kWays) {
    nlohmann::json config;
    if (way.family == std::string("gpt2")) {
      config = {{"model_type", "gpt2"}, {"architectures", {"GPT2LMHeadModel"}},
                {"n_embd", 48},         {"n_head", 3},
                {"n_layer", 2},         {"n_positions", 20},
                {"vocab_size", 57},     {"torch_dtype", "float32"}};
    } else {
      config = {{"model_type", way.family},
                {"hidden_size", 64},
                {"intermediate_size", 96},
                {"num_hidden_layers", 2},
                {"num_attention_heads", 4},
                {"num_key_value_heads", 2},
                {"head_dim", 16},
                {"vocab_size", 66},
                {"max_position_embeddings", 64},
                {"rms_norm_eps", 1e-5},
                {"rope_theta", 10000.0},
                {"tie_word_embeddings", false},
                {"num_experts", 4},
                {"num_experts_per_tok", 2},
                {"moe_intermediate_size", 24},
                {"decoder_sparse_step", 1},
                {"mlp_only_layers", nlohmann::json::array()},
                {"torch_dtype", "bfloat16"}};
    }
    const TemporaryFolder folder;
    put_file(folder.path("config.json"), config.dump());
    const auto comm = comm::make_self_comm();
    app::Engines engines(app::DeviceWish::cpu, app::ExchangeWish::automatic);
    app::Context context{*comm, engines, library(), "test", "test", {}, {}, {}, {}, {}};
    app::Options options;
    options.src = "synthetic:" + folder.path("config.json");
    options.dst = app::kNullTarget;
    options.to = way.to;
    options.dtype = way.dtype;
    options.mesh.tp = way.tp;
    options.route = way.route;
    const auto conversion = app::describe_conversion(context, options);
    if (!conversion) throw std::runtime_error(conversion.error().message);
    plan::Options plan_options = (*conversion)->plan_options(options, 2);
    plan_options.sizes = {.span = 16 * kKiB, .round = 64 * kKiB, .smallest_round = 16 * kKiB, .finest = 4 * kKiB};
    const auto plan = plan::Plan::make((*conversion)->transfers(), (*conversion)->target_files(), plan_options);
    if (!plan) throw std::runtime_error(plan.error().message);
    for (int rank = 0; rank < 2; ++rank) {
      const auto schedule = plan->schedule(rank);
      for (Index number = 0; number < schedule->num_rounds(); ++number) {
        plan::Round round = schedule->round(number);
        for (auto* copies : {&round.pack, &round.place}) {
          DeviceCase c;
          c.name = std::string(way.family) + " to " + way.to + ", rank " + std::to_string(rank) + ", round " +
                   std::to_string(number) + (copies == &round.pack ? ", pack" : ", place");
          c.copies = std::move(*copies);
          if (copies == &round.place) c.zeros = round.constants;
          for (int slot = 0; slot < 4; ++slot) c.slot_bytes[slot] = schedule->slot_bytes(static_cast<plan::Slot>(slot));
          if (!c.copies.empty()) cases.push_back(std::move(c));
        }
      }
    }
  }
  return cases;
}

HostSlots::HostSlots(const DeviceCase& c, std::mt19937_64& random) {
  for (int slot = 0; slot < 4; ++slot) {
    sizes_[slot] = c.slot_bytes[slot];
    slots_[slot].resize(static_cast<std::size_t>(ceil_div(sizes_[slot], 16)));
    for (Unit& unit : slots_[slot]) {
      const std::uint64_t words[] = {random(), random()};
      std::memcpy(unit.bytes, words, 16);
    }
  }
}

repack::SlotBases HostSlots::bases() {
  repack::SlotBases bases;
  for (int slot = 0; slot < 4; ++slot) bases.at[slot] = reinterpret_cast<std::byte*>(slots_[slot].data());
  return bases;
}

bool HostSlots::operator==(const HostSlots& other) const { return std::equal(slots_, slots_ + 4, other.slots_); }

std::vector<std::uint64_t> run_on_cpu(const DeviceCase& c, HostSlots& slots) {
  const repack::SlotBases bases = slots.bases();
  std::vector<std::uint64_t> digests(c.copies.size());
  for (std::size_t i = 0; i < c.copies.size(); ++i) {
    const Copy& copy = c.copies[i];
    repack::run(copy, bases.at[static_cast<int>(copy.src_slot)], bases.at[static_cast<int>(copy.dst_slot)],
                &digests[i]);
  }
  for (const plan::Constant& fill : c.zeros) {
    if (fill.bytes) continue;
    std::memset(bases.at[static_cast<int>(plan::Slot::output)] + fill.slot_offset, 0,
                static_cast<std::size_t>(fill.length));
  }
  return digests;
}

repack::OpTable make_table(const DeviceCase& c) {
  std::vector<std::uint32_t> all(c.copies.size());
  std::iota(all.begin(), all.end(), 0u);
  return repack::OpTable::make(c.copies, all, c.zeros);
}

}  // namespace reshard::test
