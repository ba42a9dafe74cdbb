#include "engine/state/prefix_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <optional>
#include <random>
#include <vector>

namespace treeline {
namespace {

using Tokens = std::vector<int32_t>;

// Snapshots of any length, from a pool whose states have no bytes that matter here.
class PrefixCacheTest : public testing::Test {
 protected:
  PrefixCacheTest() {
    AttentionLayer layer;
    layer.form.group_size = 4;
    layer.form.window_size = 4;
    layer.form.feature_map = FeatureMap::kRelu;
    layer.heads = layer.kv_heads = 1;
    layer.head_dim = 8;
    layer.k_ring_rows = layer.form.k_ring_rows(0);
    layer.v_ring_rows = layer.form.v_ring_rows(0);
    backend_ = CreateCpuBackend({.threads = 1}).value();
    pool_ = StatePool::Create(*backend_, StateLayout({layer}), 1).value();
  }

  StateSnapshot Snapshot(size_t length) {
    const StateSlot slot = pool_->Acquire().value();
    pool_->Advance(slot.index(), static_cast<int32_t>(length));
    return pool_->Snapshot(slot).value();
  }
  void Insert(PrefixCache& cache, const Tokens& tokens) {
    ASSERT_TRUE(cache.Insert(tokens, Snapshot(tokens.size())));
  }
  static int32_t FoundLength(PrefixCache& cache, const Tokens& tokens) {
    const PrefixCache::Match match = cache.Find(tokens);
    return match.snapshot == nullptr ? 0 : match.snapshot->length();
  }

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<StatePool> pool_;
};

TEST_F(PrefixCacheTest, AnEmptyCacheFindsNothing) {
  PrefixCache cache(1 << 20);
  const auto match = cache.Find(Tokens{1, 2, 3});
  EXPECT_EQ(match.snapshot, nullptr);
  EXPECT_EQ(match.shared, 0);
}

TEST_F(PrefixCacheTest, FindsTheLongestKeptPrefix) {
  PrefixCache cache(1 << 20);
  Insert(cache, {1, 2});
  Insert(cache, {1, 2, 3, 4, 5});
  EXPECT_EQ(FoundLength(cache, {1, 2, 3, 4, 5}), 5);
  EXPECT_EQ(FoundLength(cache, {1, 2, 3, 4, 5, 6}), 5);
  EXPECT_EQ(FoundLength(cache, {1, 2, 3, 4}), 2);
  EXPECT_EQ(FoundLength(cache, {1, 2}), 2);
  EXPECT_EQ(FoundLength(cache, {1}), 0);
  EXPECT_EQ(FoundLength(cache, {2, 1}), 0);
}

TEST_F(PrefixCacheTest, TellsWhereASnapshotWouldHaveServed) {
  PrefixCache cache(1 << 20);
  Insert(cache, {1, 2, 3, 4, 5, 6});
  EXPECT_EQ(cache.Find(Tokens{1, 2, 3, 9, 9}).shared, 3);
  Insert(cache, {1, 2, 3});
  const auto match = cache.Find(Tokens{1, 2, 3, 9, 9});
  EXPECT_EQ(match.shared, 3);
  EXPECT_EQ(match.snapshot->length(), 3);
}

TEST_F(PrefixCacheTest, TheLeastRecentlyUsedGoesFirst) {
  const size_t one = Snapshot(4).bytes() + 4 * sizeof(int32_t);
  PrefixCache cache(3 * one);
  const Tokens a = {1, 1, 1, 1}, b = {2, 2, 2, 2}, c = {3, 3, 3, 3}, d = {4, 4, 4, 4};
  Insert(cache, a);
  Insert(cache, b);
  Insert(cache, c);
  EXPECT_EQ(FoundLength(cache, a), 4);
  Insert(cache, d);
  EXPECT_EQ(FoundLength(cache, b), 0);
  EXPECT_EQ(FoundLength(cache, a), 4);
  EXPECT_EQ(FoundLength(cache, c), 4);
  EXPECT_EQ(cache.num_snapshots(), 3);
}

TEST_F(PrefixCacheTest, WhatIsTooLargeIsNotKeptAndEvictsNothing) {
  const size_t one = Snapshot(4).bytes() + 4 * sizeof(int32_t);
  PrefixCache cache(one);
  Insert(cache, {1, 1, 1, 1});
  EXPECT_FALSE(cache.Insert(Tokens(20, 7), Snapshot(20)));
  EXPECT_EQ(FoundLength(cache, {1, 1, 1, 1}), 4);
  PrefixCache off(0);
  EXPECT_FALSE(off.Insert(Tokens{1}, Snapshot(1)));
}

TEST_F(PrefixCacheTest, ASnapshotOutlivesItsEviction) {
  const size_t one = Snapshot(4).bytes() + 4 * sizeof(int32_t);
  PrefixCache cache(one);
  Insert(cache, {1, 1, 1, 1});
  const StateSnapshot held = *cache.Find(Tokens{1, 1, 1, 1}).snapshot;
  Insert(cache, {2, 2, 2, 2});
  EXPECT_EQ(FoundLength(cache, {1, 1, 1, 1}), 0);
  const StateSlot slot = pool_->Acquire().value();
  pool_->Restore(slot, held);
  EXPECT_EQ(pool_->length(slot.index()), 4);
}

// The same by definition: a list of what was inserted, in order of use.
class NaiveCache {
 public:
  explicit NaiveCache(size_t max_bytes) : max_bytes_(max_bytes) {}

  bool Insert(const Tokens& tokens, size_t bytes) {
    if (bytes + tokens.size() * sizeof(int32_t) > max_bytes_) return false;
    std::erase_if(kept_, [&](const auto& entry) { return entry.first == tokens; });
    kept_.insert(kept_.begin(), {tokens, bytes});
    while (Bytes() > max_bytes_) kept_.pop_back();
    return true;
  }
  std::pair<int32_t, int32_t> Find(const Tokens& tokens) {  // Length and shared.
    auto best = kept_.end();
    size_t shared = 0;
    for (auto it = kept_.begin(); it != kept_.end(); ++it) {
      const size_t common = Common(it->first, tokens);
      shared = std::max(shared, common);
      if (common < it->first.size()) continue;
      if (best == kept_.end() || it->first.size() > best->first.size()) best = it;
    }
    if (best == kept_.end()) return {0, static_cast<int32_t>(shared)};
    const auto entry = *best;
    kept_.erase(best);
    kept_.insert(kept_.begin(), entry);
    return {static_cast<int32_t>(entry.first.size()), static_cast<int32_t>(shared)};
  }
  // Snapshots, and each distinct prefix's last token once.
  size_t Bytes() const {
    std::map<Tokens, bool> prefixes;
    size_t bytes = 0;
    for (const auto& [tokens, size] : kept_) {
      bytes += size;
      for (size_t n = 1; n <= tokens.size(); ++n) {
        prefixes[Tokens(tokens.begin(), tokens.begin() + n)] = true;
      }
    }
    return bytes + prefixes.size() * sizeof(int32_t);
  }
  size_t size() const { return kept_.size(); }

 private:
  static size_t Common(const Tokens& a, const Tokens& b) {
    const size_t limit = std::min(a.size(), b.size());
    return std::mismatch(a.begin(), a.begin() + limit, b.begin()).first - a.begin();
  }

  const size_t max_bytes_;
  std::vector<std::pair<Tokens, size_t>> kept_;
};

TEST_F(PrefixCacheTest, DoesWhatAListOfAllEntriesWould) {
  std::mt19937 rng(5);
  const auto random = [&](int32_t n) { return static_cast<int32_t>(rng() % n); };
  const size_t budget = 6 * Snapshot(8).bytes();
  PrefixCache cache(budget);
  NaiveCache naive(budget);
  for (int i = 0; i < 4000; ++i) {
    Tokens tokens;
    for (int32_t n = 1 + random(12); n > 0; --n) tokens.push_back(random(2));
    if (random(2) == 0) {
      StateSnapshot snapshot = Snapshot(tokens.size());
      const size_t bytes = snapshot.bytes();
      EXPECT_EQ(cache.Insert(tokens, std::move(snapshot)), naive.Insert(tokens, bytes));
    } else {
      const PrefixCache::Match match = cache.Find(tokens);
      const auto [length, shared] = naive.Find(tokens);
      EXPECT_EQ(match.snapshot == nullptr ? 0 : match.snapshot->length(), length);
      EXPECT_EQ(match.shared, shared);
    }
    ASSERT_EQ(cache.bytes(), naive.Bytes());
    ASSERT_EQ(static_cast<size_t>(cache.num_snapshots()), naive.size());
    ASSERT_LE(cache.bytes(), budget);
  }
}

}  // namespace
}  // namespace treeline
