#include "kernels/cpu/weight_arena.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>
#include <vector>

namespace treeline::cpu {
namespace {

TEST(WeightArena, PiecesAreZeroAlignedAndApart) {
  std::vector<std::pair<std::shared_ptr<std::byte>, size_t>> pieces;
  {
    WeightArena arena;
    for (const size_t bytes : {size_t{1}, size_t{100}, size_t{40} << 20, size_t{40} << 20,
                               size_t{100} << 20, size_t{64}}) {
      pieces.emplace_back(arena.Allocate(bytes), bytes);
    }
  }
  // The arena is gone, the memory is not.
  for (size_t i = 0; i < pieces.size(); ++i) {
    std::byte* begin = pieces[i].first.get();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(begin) % 64, 0u);
    EXPECT_EQ(begin[0], std::byte{0});
    EXPECT_EQ(begin[pieces[i].second - 1], std::byte{0});
    std::fill_n(begin, pieces[i].second, static_cast<std::byte>(i + 1));
  }
  for (size_t i = 0; i < pieces.size(); ++i) {
    const std::byte* begin = pieces[i].first.get();
    EXPECT_TRUE(std::all_of(begin, begin + pieces[i].second,
                            [i](std::byte b) { return b == static_cast<std::byte>(i + 1); }));
  }
}

TEST(WeightArena, ThrowsWhereTheSystemHasNoMemory) {
  WeightArena arena;
  EXPECT_THROW(arena.Allocate(size_t{1} << 60), std::bad_alloc);
  EXPECT_NE(arena.Allocate(64), nullptr);  // And is none the worse.
}

}  // namespace
}  // namespace treeline::cpu
