#include "engine/state/state_pool.h"

#include <gtest/gtest.h>

#include <cstring>

namespace treeline {
namespace {

AttentionLayer Layer(int32_t group_size, int32_t window, int32_t sinks, int32_t conv_kernel) {
  AttentionLayer layer;
  layer.form.group_size = group_size;
  layer.form.window = Window::kSliding;
  layer.form.window_size = window;
  layer.form.sinks = sinks;
  layer.form.feature_map = FeatureMap::kHedgehog;
  layer.form.denominator = Denominator::kJoint;
  layer.form.conv_kernel = conv_kernel;
  layer.heads = 9;
  layer.kv_heads = 3;
  layer.head_dim = 64;
  layer.k_ring_rows = layer.form.k_ring_rows(0);
  layer.v_ring_rows = layer.form.v_ring_rows(0);
  return layer;
}

size_t Sum(const std::vector<ByteRange>& ranges) {
  size_t sum = 0;
  for (const ByteRange& range : ranges) sum += range.size;
  return sum;
}

// The sizes that the design promises for SmolLM2-135M with bf16 rings, in MiB.
TEST(StateLayout, TakesTheBytesTheFormNeeds) {
  const struct {
    int32_t window, group;
    double mib;
  } cases[] = {
      {128, 128, 8.6}, {128, 64, 7.2}, {256, 256, 14.2}, {256, 128, 11.4}, {256, 64, 10.0}};
  for (const auto& c : cases) {
    AttentionLayer layer = Layer(c.group, c.window, 4, 63);
    layer.state_type = StateType::kBF16;
    const StateLayout layout(std::vector<AttentionLayer>(30, layer));
    EXPECT_NEAR(layout.bytes() / double(1 << 20), c.mib, 0.06)
        << "window " << c.window << ", group " << c.group;
  }
}

TEST(StateLayout, LiveBytesAreWhatTheLengthNeeds) {
  const StateLayout layout({Layer(8, 8, 2, 7)});
  const size_t row = 3 * 64 * sizeof(float), s = 3 * (128 * 64 + 128) * sizeof(float);
  EXPECT_EQ(Sum(layout.LiveRanges(0)), 0u);
  EXPECT_EQ(Sum(layout.LiveRanges(1)), 2 * row);  // One sink.
  EXPECT_EQ(Sum(layout.LiveRanges(5)), 2 * 2 * row + 2 * 3 * row);
  // At 24 tokens group 1 is the newest folded one (lag 2): S, z, sinks, and group 2's rows.
  EXPECT_EQ(Sum(layout.LiveRanges(24)), s + 2 * 2 * row + 2 * 8 * row);
}

TEST(StatePool, HandsOutEachSlotOnceAndTakesItBack) {
  const auto backend = CreateCpuBackend({.threads = 1}).value();
  auto pool = StatePool::Create(*backend, StateLayout({Layer(8, 8, 2, 7)}), 2);
  ASSERT_TRUE(pool.ok());
  {
    const auto a = (*pool)->Acquire(), b = (*pool)->Acquire();
    ASSERT_TRUE(a.ok() && b.ok());
    EXPECT_NE(a->index(), b->index());
    EXPECT_EQ((*pool)->free_slots(), 0);
    EXPECT_EQ((*pool)->Acquire().status().code(), StatusCode::kResourceExhausted);
    (*pool)->Advance(a->index(), 5);
    EXPECT_EQ((*pool)->length(a->index()), 5);
  }
  EXPECT_EQ((*pool)->free_slots(), 2);
  const auto again = (*pool)->Acquire();
  EXPECT_EQ((*pool)->length(again->index()), 0);
}

TEST(StatePool, ASnapshotOutlivesItsSlot) {
  const auto backend = CreateCpuBackend({.threads = 1}).value();
  auto pool = StatePool::Create(*backend, StateLayout({Layer(8, 8, 2, 7)}), 2);
  ASSERT_TRUE(pool.ok());
  const StateLayout& layout = (*pool)->layout();
  StateSnapshot snapshot;
  {
    const auto slot = (*pool)->Acquire();
    (*pool)->Advance(slot->index(), 24);
    std::memset((*pool)->data(slot->index()), 0x5a, layout.bytes());
    auto taken = (*pool)->Snapshot(*slot);
    ASSERT_TRUE(taken.ok());
    snapshot = *taken;
    std::memset((*pool)->data(slot->index()), 0, layout.bytes());
  }
  const auto slot = (*pool)->Acquire();
  (*pool)->Restore(*slot, snapshot);
  EXPECT_EQ((*pool)->length(slot->index()), 24);
  EXPECT_EQ(snapshot.bytes(), Sum(layout.LiveRanges(24)));
  const auto* bytes = static_cast<const unsigned char*>((*pool)->data(slot->index()));
  for (const ByteRange& range : layout.LiveRanges(24)) {
    for (size_t i = 0; i < range.size; ++i) ASSERT_EQ(bytes[range.offset + i], 0x5a);
  }
}

}  // namespace
}  // namespace treeline
