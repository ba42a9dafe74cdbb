#include "scheduler/step_costs.h"

#include <gtest/gtest.h>

#include "scheduler/fake_engine.h"

namespace treeline {
namespace {

TEST(MeasureStepCosts, FindsWhatAStepTakesByItsRows) {
  FakeEngine engine({.vocab_size = 100, .max_context = 200, .num_slots = 2});
  FakeClock clock;
  engine.set_on_step([&](const Batch& batch) {
    clock.Advance(std::chrono::milliseconds(10 + 2 * batch.num_tokens()));
  });
  const auto costs = MeasureStepCosts(engine, clock, 64);
  ASSERT_TRUE(costs.ok()) << costs.status();
  for (const int32_t rows : {1, 2, 3, 16, 50, 64}) {
    EXPECT_NEAR(costs->Seconds(rows), 0.010 + 0.002 * rows, 1e-9);
  }
  EXPECT_EQ(engine.free_slots(), 2);
}

TEST(MeasureStepCosts, FindsWhatDraftingTakes) {
  FakeEngine engine({.vocab_size = 100, .max_context = 200, .num_slots = 2, .num_draft_heads = 3});
  engine.set_head_guess([](std::span<const int32_t>, int32_t) {
    return std::vector<std::pair<int32_t, float>>{{1, 0.0f}};
  });
  FakeClock clock;
  engine.set_on_draft([&](std::span<const int32_t> rows) {
    clock.Advance(std::chrono::milliseconds(5 + rows.size()));
  });
  const auto costs = MeasureStepCosts(engine, clock, 64);
  ASSERT_TRUE(costs.ok()) << costs.status();
  for (const int32_t rows : {1, 3, 64}) {
    EXPECT_NEAR(costs->DraftSeconds(rows), 0.005 + 0.001 * rows, 1e-9);
  }
}

TEST(MeasureStepCosts, KeepsWithinTheContext) {
  FakeEngine engine({.vocab_size = 100, .max_context = 5, .num_slots = 1});
  FakeClock clock;
  EXPECT_TRUE(MeasureStepCosts(engine, clock, 64).ok());
}

TEST(MeasureStepCosts, PassesErrorsOn) {
  FakeEngine engine({.vocab_size = 100, .max_context = 200, .num_slots = 1});
  engine.FailNextStep(MakeStatus(StatusCode::kInternal, "broken"));
  EXPECT_EQ(MeasureStepCosts(engine, FakeClock(), 64).status().code(), StatusCode::kInternal);
}

}  // namespace
}  // namespace treeline
