// SPDX-License-Identifier: Apache-2.0
#include "reshard/repack/repack.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <set>

#include "reshard/repack/digest.h"
#include "reshard/repack/element.h"
#include "src/repack/kernels.h"
#include "tests/support/naive_copy.h"
#include "tests/support/random_copies.h"
#include "tests/support/seed.h"

namespace reshard {
namespace {

using plan::Copy;
using test::make_copy;
using test::random_bytes;

std::vector<repack::Level> levels() {
  std::vector<repack::Level> here;
  for (repack::Level level : {repack::Level::baseline, repack::Level::avx2, repack::Level::avx512}) {
    if (repack::kernels(level)) here.push_back(level);
  }
  return here;
}

// --- casts and widening ---------------------------------------------------------------------------------------------

TEST(Cast, AllSixteenBitCodesAtEveryLevel) {
  std::vector<std::uint16_t> codes(65536);
  std::iota(codes.begin(), codes.end(), std::uint16_t{0});
  for (repack::Level level : levels()) {
    for (DType src : {DType::bf16, DType::f16}) {
      for (DType dst : {DType::bf16, DType::f16, DType::f32}) {
        if (src == dst) continue;
        std::vector<std::byte> out(65536 * static_cast<std::size_t>(bytes_of(dst)));
        repack::kernels(level)->convert(src, dst)(reinterpret_cast<const std::byte*>(codes.data()), out.data(), 65536);
        for (std::uint32_t code = 0; code < 65536; ++code) {
          std::uint32_t got = 0;
          std::memcpy(&got, out.data() + code * static_cast<std::size_t>(bytes_of(dst)),
                      static_cast<std::size_t>(bytes_of(dst)));
          ASSERT_EQ(got, test::naive_cast(src, dst, code)) << to_string(src) << " " << code << " to " << to_string(dst);
        }
      }
    }
  }
}

TEST(Cast, BinaryThirtyTwoAtEveryLevel) {
  std::mt19937_64 random(7);
  std::vector<std::uint32_t> codes;
  // All exponents and signs with mantissas around every rounding boundary of both targets, and random ones.
  for (std::uint32_t top = 0; top < 512; ++top) {
    for (std::uint32_t mantissa :
         {0u,        1u,        0x0FFFu,   0x1000u,   0x1001u,   0x2FFFu,   0x3000u,   0x3001u,   0x7FFFu,
          0x8000u,   0x8001u,   0x17FFFu,  0x18000u,  0x18001u,  0x3FFFFFu, 0x400000u, 0x400001u, 0x7FE000u,
          0x7FEFFFu, 0x7FF000u, 0x7FF001u, 0x7F7FFFu, 0x7F8000u, 0x7F8001u, 0x7FFFFFu}) {
      codes.push_back(top << 23 | mantissa);
    }
    for (int i = 0; i < 200; ++i) codes.push_back(top << 23 | static_cast<std::uint32_t>(random() & 0x7FFFFF));
  }
  const auto n = static_cast<Index>(codes.size());
  for (repack::Level level : levels()) {
    for (DType dst : {DType::bf16, DType::f16}) {
      std::vector<std::uint16_t> out(codes.size());
      repack::kernels(level)->convert(DType::f32, dst)(reinterpret_cast<const std::byte*>(codes.data()),
                                                       reinterpret_cast<std::byte*>(out.data()), n);
      for (std::size_t i = 0; i < codes.size(); ++i) {
        ASSERT_EQ(out[i], test::naive_cast(DType::f32, dst, codes[i]))
            << std::hex << codes[i] << " to " << to_string(dst);
      }
    }
  }
}

TEST(Cast, NamedCases) {
  using repack::cast;
  EXPECT_EQ((cast<DType::f32, DType::f16>(0x477FEFFFu)), 0x7BFFu);  // just below 65520: largest finite
  EXPECT_EQ((cast<DType::f32, DType::f16>(0x477FF000u)), 0x7C00u);  // 65520: infinity
  EXPECT_EQ((cast<DType::f32, DType::f16>(0xFF800000u)), 0xFC00u);
  EXPECT_EQ((cast<DType::f32, DType::f16>(0x33000000u)), 0x0000u);  // 2^-25: tie to zero
  EXPECT_EQ((cast<DType::f32, DType::f16>(0x33000001u)), 0x0001u);
  EXPECT_EQ((cast<DType::f32, DType::bf16>(0x7F7FFFFFu)), 0x7F80u);
  EXPECT_EQ((cast<DType::f32, DType::bf16>(0xFF800001u)), 0xFFC0u);  // signalling NaN: sign kept, quiet
  EXPECT_EQ((cast<DType::f32, DType::f16>(0x7FA02000u)), 0x7F01u);
  EXPECT_EQ((cast<DType::bf16, DType::f32>(0x7F81u)), 0x7FC10000u);
  EXPECT_EQ((cast<DType::f16, DType::f32>(0x0001u)), 0x33800000u);
}

TEST(Widen, EveryCodeOfEverySmallType) {
  for (DType dtype : {DType::bf16, DType::f16, DType::f8_e4m3, DType::f8_e5m2, DType::f8_e4m3fnuz, DType::f8_e5m2fnuz,
                      DType::f8_e8m0, DType::u8, DType::i8, DType::boolean, DType::i16, DType::u16, DType::f4}) {
    const bool two_bytes = bits_of(dtype) == 16;
    for (std::uint32_t code = 0; code < (two_bytes ? 65536u : 256u); ++code) {
      const std::uint64_t expected = repack::mix(41, test::naive_digest_bits(dtype, code));
      for (repack::Level level : levels()) {
        const std::uint64_t got = repack::kernels(level)->digest(dtype)(reinterpret_cast<const std::byte*>(&code), 1,
                                                                        42 * repack::kDigestStep, 5);
        ASSERT_EQ(got, expected) << to_string(dtype) << " code " << code;
      }
    }
  }
}

TEST(Digest, LevelsAgreeOnAnyLength) {
  std::mt19937_64 random(11);
  const std::vector<std::byte> bytes = random_bytes(random, 4096);
  for (int t = 0; t < kNumDTypes; ++t) {
    const auto dtype = static_cast<DType>(t);
    const Index size = is_sub_byte(dtype) ? 1 : bytes_of(dtype);
    for (Index n : {0, 1, 2, 3, 7, 8, 9, 31, 64, 100, 255, 500}) {
      std::set<std::uint64_t> sums;
      for (repack::Level level : levels()) {
        sums.insert(
            repack::kernels(level)->digest(dtype)(bytes.data() + 3, std::min<Index>(n, 4000 / size), 99, 12345677));
      }
      ASSERT_EQ(sums.size(), 1u) << to_string(dtype) << " n " << n;
    }
  }
}

// --- copies ---------------------------------------------------------------------------------------------------------

TEST(Repack, RandomCopiesEqualTheNaiveOnes) {
  const std::uint64_t start = test::seed();
  SCOPED_TRACE("RESHARD_SEED=" + std::to_string(start));
  std::mt19937_64 random(start);
  for (int round = 0; round < 3000; ++round) {
    const test::CopyCase c = test::random_copy(random);
    const std::vector<std::byte> src = random_bytes(random, c.src_size);
    std::vector<std::byte> dst = random_bytes(random, c.dst_size);
    std::vector<std::byte> expected = dst, parts_dst = dst;
    const std::uint64_t expected_digest = test::naive_run(c.copy, src.data(), expected.data());
    std::uint64_t digest = 0;
    repack::run(c.copy, src.data(), dst.data(), &digest);
    ASSERT_EQ(dst, expected) << "round " << round << " " << to_string(c.copy.src_dtype) << " rank "
                             << c.copy.strided.rank;
    ASSERT_EQ(digest, expected_digest) << "round " << round;
    std::uint64_t parts_digest = 0;
    for (const Copy& part : repack::split(c.copy, 1 + round % 5))
      repack::run(part, src.data(), parts_dst.data(), &parts_digest);
    ASSERT_EQ(parts_dst, expected) << "round " << round;
    ASSERT_EQ(parts_digest, expected_digest) << "round " << round;
  }
}

TEST(Repack, LargeTransposesOfEverySize) {
  std::mt19937_64 random(3);
  for (DType dtype : {DType::u8, DType::bf16, DType::f32, DType::f64}) {
    for (const auto& [rows, columns] : {std::pair<Index, Index>{128, 128}, {200, 77}, {65, 300}, {17, 1000}}) {
      const Copy copy = make_copy(dtype, dtype, {{rows, columns, 1, columns}, {columns, 1, rows, 1}});
      const std::vector<std::byte> src = random_bytes(random, rows * columns * bytes_of(dtype));
      std::vector<std::byte> dst(src.size()), expected(src.size());
      std::uint64_t digest = 0;
      repack::run(copy, src.data(), dst.data(), &digest);
      EXPECT_EQ(digest, test::naive_run(copy, src.data(), expected.data()));
      EXPECT_EQ(dst, expected) << to_string(dtype) << " " << rows << " x " << columns;
    }
  }
}

TEST(Repack, SplitsIntoNearlyEqualParts) {
  const Copy copy = make_copy(DType::bf16, DType::bf16, {{10, 1000, 500, 500}, {500, 1, 1, 1}});
  const std::vector<Copy> parts = repack::split(copy, 4);
  ASSERT_EQ(parts.size(), 4u);
  Index volume = 0;
  for (const Copy& part : parts) {
    EXPECT_EQ(part.strided.loops[1].size, 500);  // runs stay whole
    volume += part.strided.volume();
  }
  EXPECT_EQ(volume, copy.strided.volume());
  EXPECT_EQ(repack::moved_bytes(copy), 10000);
  EXPECT_EQ(repack::split(make_copy(DType::u8, DType::u8, {}), 4).size(), 1u);
}

// --- digest ---------------------------------------------------------------------------------------------------------

// Frozen: a change here is a new digest version. The sums were computed by an independent program as well.
TEST(Digest, GoldenValues) {
  EXPECT_EQ(repack::kDigestVersion, "rd1");
  EXPECT_EQ(repack::mix(0, 0), 0x4EAB8E1BCFFC982Du);
  const std::pair<DType, std::uint64_t> golden[] = {
      {DType::boolean, 0xC1804F9EA98A007Au},     {DType::u8, 0xC1804F9EA98A007Au},
      {DType::i8, 0xC1804F9EA98A007Au},          {DType::f8_e5m2, 0x2C758B41EDFE0690u},
      {DType::f8_e4m3, 0x4E9C88DB3829B940u},     {DType::f8_e4m3fnuz, 0x4C7FC1DC1EF82840u},
      {DType::f8_e5m2fnuz, 0xD32788AE6790EBD0u}, {DType::i16, 0xE0E8F9A380DCC037u},
      {DType::f16, 0x96B58ACBB3FCFF0Au},         {DType::bf16, 0x1CD7707A32FE2B24u},
      {DType::f32, 0x19C3EE4B8A990730u},         {DType::i32, 0x19C3EE4B8A990730u},
      {DType::f64, 0x6B66F638D31D2E00u},         {DType::i64, 0x6B66F638D31D2E00u},
      {DType::c64, 0x6B66F638D31D2E00u},
  };
  for (const auto& [dtype, expected] : golden) {
    const Index n = 1000, size = bytes_of(dtype);
    std::vector<std::byte> values(static_cast<std::size_t>(n * size)), out(values.size());
    for (Index i = 0; i < n; ++i) {
      const std::uint64_t raw = (static_cast<std::uint64_t>(i) + 1) * 0xD1342543DE82EF95u >> (64 - 8 * size);
      std::memcpy(values.data() + i * size, &raw, static_cast<std::size_t>(size));
    }
    std::uint64_t digest = 0;
    repack::run(make_copy(dtype, dtype, {{n, 1, 1, 1}}), values.data(), out.data(), &digest);
    EXPECT_EQ(digest, expected) << to_string(dtype);
  }
}

std::uint64_t digest_of(const std::vector<std::uint16_t>& values, DType dtype = DType::bf16) {
  Copy copy = make_copy(dtype, dtype, {{static_cast<Index>(values.size()), 1, 1, 1}});
  std::vector<std::uint16_t> out(values.size());
  std::uint64_t digest = 0;
  repack::run(copy, reinterpret_cast<const std::byte*>(values.data()), reinterpret_cast<std::byte*>(out.data()),
              &digest);
  return digest;
}

TEST(Digest, IsTheSameInEveryLayoutAndLosslessType) {
  std::mt19937_64 random(5);
  const Index a = 24, b = 20, c = 16;
  std::vector<std::uint16_t> values(static_cast<std::size_t>(a * b * c));
  for (auto& v : values) v = static_cast<std::uint16_t>(random());  // NaN and infinities too
  const std::uint64_t expected = digest_of(values);
  const std::vector<std::vector<layout::Loop>> layouts = {
      {{a, b * c, 1, b * c}, {b, c, a, c}, {c, 1, a * b, 1}},
      {{a, b * c, c, b * c}, {b, c, a * c, c}, {c, 1, 1, 1}},
      {{c, 1, a * b, 1}, {a, b * c, b, b * c}, {b, c, 1, c}},
      {{b, c, c * a * 2, c}, {a, b * c, c * 2, b * c}, {c, 1, 2, 1}},
  };
  for (DType dst : {DType::bf16, DType::f32}) {
    for (const auto& loops : layouts) {
      const Copy copy = make_copy(DType::bf16, dst, loops);
      std::vector<std::byte> out(values.size() * 8);
      std::uint64_t digest = 0;
      repack::run(copy, reinterpret_cast<const std::byte*>(values.data()), out.data(), &digest);
      EXPECT_EQ(digest, expected);
    }
  }
}

// Each wrong placement changes the digest in all of many trials, on values with few distinct bits as weights have them.
TEST(Digest, NoticesWrongPlacements) {
  const std::uint64_t start = test::seed();
  SCOPED_TRACE("RESHARD_SEED=" + std::to_string(start));
  std::mt19937_64 random(start);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  for (int trial = 0; trial < 200; ++trial) {
    const std::size_t rows = 16, columns = 64;
    std::vector<std::uint16_t> values(rows * columns);
    for (auto& v : values) v = repack::narrow_bf16(std::bit_cast<std::uint32_t>(normal(random)));
    const std::uint64_t expected = digest_of(values);

    std::vector<std::uint16_t> wrong = values;
    std::size_t i = random() % wrong.size(), j = random() % wrong.size();
    if (wrong[i] != wrong[j]) {
      std::swap(wrong[i], wrong[j]);
      EXPECT_NE(digest_of(wrong), expected) << "swap";
    }
    wrong = values;
    std::rotate(wrong.begin(), wrong.begin() + 1, wrong.end());
    EXPECT_NE(digest_of(wrong), expected) << "shift";
    wrong = values;
    const std::size_t r = random() % (rows - 1);
    for (std::size_t k = 0; k < columns; ++k) std::swap(wrong[r * columns + k], wrong[(r + 1) * columns + k]);
    EXPECT_NE(digest_of(wrong), expected) << "rows swapped";
    for (std::size_t row = 0; row < rows; ++row) {  // half pair -> pair half over the rows
      const std::size_t from = row / 2 + (row % 2) * (rows / 2);
      std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(from * columns), columns,
                  wrong.begin() + static_cast<std::ptrdiff_t>(row * columns));
    }
    EXPECT_NE(digest_of(wrong), expected) << "rotary order";
    wrong = values;
    wrong[i] ^= static_cast<std::uint16_t>(1u << (random() % 15));
    EXPECT_NE(digest_of(wrong), expected) << "one bit";
    for (std::size_t row = 0; row < rows; ++row) {
      for (std::size_t k = 0; k < columns; ++k) wrong[k * rows + row] = values[row * columns + k];
    }
    EXPECT_NE(digest_of(wrong), expected) << "transposed";
  }
}

}  // namespace
}  // namespace reshard
