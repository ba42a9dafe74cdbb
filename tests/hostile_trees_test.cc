// Draft trees that are none, by the engine's public API: refused with a Status, and
// nothing has changed.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "tests/engine_driver.h"

namespace treeline {
namespace {

constexpr int32_t kContext = 100;

class HostileTrees : public testing::Test {
 protected:
  HostileTrees() {
    ModelEngine::Options options;
    options.matmul_kernel = "fp32";
    options.max_slots = 3;
    options.max_context = kContext;
    engine_ = LoadEngine("tests/testdata/checkpoints/window_equal", options);
    expected_ = Probe();
  }

  // A slot that holds so many tokens.
  StateSlot SlotOf(int32_t length) {
    StateSlot slot = *engine_->AcquireSlot();
    std::vector<int32_t> tokens(length);
    for (int32_t i = 0; i < length; ++i) tokens[i] = 3 + i % 200;
    if (length > 0) ScoreRows(*engine_, slot, tokens, length, {0});
    return slot;
  }

  // A draft tree as it comes, checked by nobody.
  static Batch Draft(const StateSlot& slot, const std::vector<int32_t>& parents) {
    Batch batch;
    batch.token_ids.assign(parents.size(), 5);
    batch.parents = parents;
    batch.tree_offsets = {0, static_cast<int32_t>(parents.size())};
    batch.slots = {slot.index()};
    batch.acceptance = {Acceptance::kLater};
    return batch;
  }

  // What the engine says of a sequence of its own, to be asked again afterwards.
  std::vector<std::vector<float>> Probe() {
    const StateSlot slot = SlotOf(0);
    return ScoreRows(*engine_, slot, {4, 5, 6, 7, 8, 9, 10, 11, 12}, 4, {3, 17});
  }

  void ExpectRefused(const Batch& batch, const std::string& message) {
    const auto results = engine_->Step(batch);
    EXPECT_EQ(results.status().code(), StatusCode::kInvalidArgument) << message;
    EXPECT_THAT(Message(results.status()), testing::HasSubstr(message));
  }

  void TearDown() override {
    EXPECT_EQ(engine_->free_slots(), 3);
    EXPECT_EQ(Probe(), expected_);
  }

  std::unique_ptr<ModelEngine> engine_;
  std::vector<std::vector<float>> expected_;
};

std::vector<int32_t> Chain(int32_t size) {
  std::vector<int32_t> parents(size);
  std::iota(parents.begin(), parents.end(), -1);
  return parents;
}

TEST_F(HostileTrees, ImpossibleParents) {
  const StateSlot slot = SlotOf(6);
  const struct {
    std::vector<int32_t> parents;
    const char* message;
  } kCases[] = {
      {{0}, "node 0 has parent 0"},              // Its own parent.
      {{-1, 1}, "node 1 has parent 1"},          // The same, below a root.
      {{-1, 2, 1}, "node 1 has parent 2"},       // A cycle of two.
      {{-1, 3, 1, 2}, "node 1 has parent 3"},    // A cycle of three.
      {{1, -1}, "node 0 has parent 1"},          // The root after its child.
      {{-1, 0, 3, 0}, "node 2 has parent 3"},    // A parent after its child.
      {{-1, -1}, "node 1 has parent -1"},        // Two roots.
      {{-1, 0, -1, 2}, "node 2 has parent -1"},  // Two trees.
      {{-2}, "node 0 has parent -2"},
      {{-1, -2}, "node 1 has parent -2"},
      {{-1, 7}, "node 1 has parent 7"},  // Nobody.
      {{-1, std::numeric_limits<int32_t>::max()}, "node 1 has parent 2147483647"},
      {{-1, std::numeric_limits<int32_t>::min()}, "node 1 has parent -2147483648"},
  };
  for (const auto& c : kCases) {
    ExpectRefused(Draft(slot, c.parents), c.message);
    // Nothing of it can be committed.
    EXPECT_EQ(engine_->Commit({{{slot.index(), {0}}}}).code(), StatusCode::kInvalidArgument);
  }
}

TEST_F(HostileTrees, TooFewOrTooManyNodes) {
  const StateSlot slot = SlotOf(6);
  ExpectRefused(Draft(slot, {}), "a tree of 0 nodes");
  ExpectRefused(Draft(slot, Chain(65)), "a tree of 65 nodes");
  ExpectRefused(Draft(slot, std::vector<int32_t>(65, 0)), "a tree of 65 nodes");
  EXPECT_TRUE(engine_->Step(Draft(slot, Chain(64))).ok());
  EXPECT_TRUE(engine_->Commit({{{slot.index(), {0}}}}).ok());
  // An empty tree beside a good one.
  const StateSlot other = SlotOf(2);
  Batch batch = Draft(slot, Chain(2));
  batch.slots.push_back(other.index());
  batch.acceptance.push_back(Acceptance::kLater);
  batch.tree_offsets.push_back(2);
  ExpectRefused(batch, "a tree of 0 nodes");
}

TEST_F(HostileTrees, DeeperThanTheContext) {
  const StateSlot slot = SlotOf(kContext - 4);
  ExpectRefused(Draft(slot, Chain(5)), "a sequence of 101 tokens would exceed the context of 100");
  ExpectRefused(Draft(slot, Chain(64)), "would exceed the context");
  // By depth, not by size: many nodes in few levels have room.
  std::vector<int32_t> bushy = Chain(4);
  bushy.resize(64, 2);
  EXPECT_TRUE(engine_->Step(Draft(slot, bushy)).ok());
  EXPECT_TRUE(engine_->Commit({{{slot.index(), {0, 1, 2, 3}}}}).ok());
  ExpectRefused(Draft(slot, Chain(1)), "a sequence of 101 tokens would exceed the context of 100");
}

TEST_F(HostileTrees, ArraysThatDoNotFitTogether) {
  const StateSlot slot = SlotOf(6);
  const Batch good = Draft(slot, {-1, 0, 0});
  const auto broken = [&](const auto& change) {
    Batch batch = good;
    change(batch);
    EXPECT_EQ(engine_->Step(batch).status().code(), StatusCode::kInvalidArgument);
  };
  broken([](Batch& b) { b.parents.pop_back(); });
  broken([](Batch& b) { b.token_ids.push_back(3); });
  broken([](Batch& b) { b.tree_offsets = {0, 2}; });
  broken([](Batch& b) { b.tree_offsets = {1, 3}; });
  broken([](Batch& b) { b.tree_offsets = {0, 5, 3}; });
  broken([](Batch& b) { b.tree_offsets = {0}; });
  broken([](Batch& b) { b.tree_offsets.clear(); });
  broken([](Batch& b) { b.acceptance.clear(); });
  broken([](Batch& b) { b.slots.clear(); });
  broken([](Batch& b) { b.slots = {-1}; });
  broken([](Batch& b) { b.slots = {99}; });
  broken([](Batch& b) { b.token_ids[1] = -1; });
  broken([](Batch& b) { b.token_ids[1] = 1 << 30; });
  broken([](Batch& b) { b.acceptance = {Acceptance::kKnown}; });  // Branches are never known.
  // The same slot twice: its two trees would be of one state.
  Batch twice = good;
  twice.token_ids.push_back(5);
  twice.parents.push_back(-1);
  twice.tree_offsets.push_back(4);
  twice.slots.push_back(slot.index());
  twice.acceptance.push_back(Acceptance::kLater);
  ExpectRefused(twice, "named twice");
  EXPECT_TRUE(engine_->Step(good).ok());
}

TEST_F(HostileTrees, CommitsOfWhatIsNoPath) {
  const StateSlot slot = SlotOf(6), other = SlotOf(3);
  ASSERT_TRUE(engine_->Step(Draft(slot, {-1, 0, 0, 1, 2})).ok());
  const std::vector<std::vector<int32_t>> kBad = {
      {1},           // Not from the root.
      {0, 3},        // A node left out.
      {0, 1, 4},     // From one branch to another.
      {0, 0},        // In place.
      {0, 1, 0},     // A cycle.
      {0, 1, 3, 5},  // Past the end.
      {-1},         {std::numeric_limits<int32_t>::max()},
  };
  for (const auto& nodes : kBad) {
    EXPECT_EQ(engine_->Commit({{{slot.index(), nodes}}}).code(), StatusCode::kInvalidArgument)
        << testing::PrintToString(nodes);
  }
  for (const int32_t index : {-1, 3, other.index()}) {  // The last one drafted nothing.
    EXPECT_EQ(engine_->Commit({{{index, {0}}}}).code(), StatusCode::kInvalidArgument) << index;
  }
  EXPECT_EQ(engine_->Commit({{{slot.index(), {0}}, {slot.index(), {0, 1}}}}).code(),
            StatusCode::kInvalidArgument);
  // After all of these the tree stands as it did, until it is committed once.
  EXPECT_TRUE(engine_->Commit({{{slot.index(), {0, 2, 4}}}}).ok());
  EXPECT_EQ(engine_->pool().length(slot.index()), 9);
  EXPECT_EQ(engine_->Commit({{{slot.index(), {0}}}}).code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace treeline
