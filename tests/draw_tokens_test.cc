// Drawing tokens by Backend::DrawTokens, on the CPU and on a GPU, against kernels/reference; and
// ModelEngine's answers by it against those of Sampler, which has the logits on the host.
//
// A backend may weigh with other last bits than the reference, so that a draw whose target lies
// that close to a bound falls on its other side. Such a draw must be what the reference draws with
// parameters changed by as little, and must be rare; all else is equal.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "engine/model/checkpoint.h"
#include "engine/model_engine.h"
#include "kernels/reference/vocabulary.h"
#include "tests/device_sequences.h"

namespace treeline {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

constexpr double kRounding = 3e-6;  // Of a weight or a sum, relative.
constexpr double kRare = 0.01;      // Of all draws.
constexpr double kLogprobTolerance = 2e-5;

// A row and how it is drawn from.
struct Case {
  std::vector<float> logits;
  TokenDraw draw;
  std::vector<LogitChange> changes;
};

DrawnToken ReferenceDraw(const Case& c, const TokenDraw& draw) {
  TokenDraw with_changes = draw;
  with_changes.changes = c.changes.data();
  with_changes.num_changes = static_cast<int32_t>(c.changes.size());
  DrawnToken drawn;
  reference::DrawTokens(
      {c.logits.data(), &with_changes, &drawn, 1, static_cast<int32_t>(c.logits.size())});
  return drawn;
}

// Whatever may be drawn where rounding is in the way.
std::set<int32_t> DrawsWithinRounding(const Case& c) {
  std::set<int32_t> ids;
  for (const double u : {-kRounding, 0.0, kRounding}) {
    for (const double p : {-kRounding, 0.0, kRounding}) {
      for (const double m : {-kRounding, 0.0, kRounding}) {
        TokenDraw draw = c.draw;
        draw.uniform = std::clamp(draw.uniform + u, 0x1p-53, 1 - 0x1p-53);
        if (draw.top_p < 1) draw.top_p = static_cast<float>(draw.top_p * (1 + p));
        draw.min_p = static_cast<float>(draw.min_p * (1 + m));
        ids.insert(ReferenceDraw(c, draw).id);
      }
    }
  }
  return ids;
}

class DrawTokens : public testing::TestWithParam<const char*> {
 protected:
  DrawTokens() : backend_(MakeBackend(GetParam())), rng_(23) {}
  void SetUp() override { ASSERT_NE(backend_, nullptr); }

  float Uniform(float low, float high) {
    return std::uniform_real_distribution<float>(low, high)(rng_);
  }
  int32_t Below(int32_t n) { return std::uniform_int_distribution<int32_t>(0, n - 1)(rng_); }

  // [n] of some spread.
  std::vector<float> Logits(int32_t n, float spread) {
    std::normal_distribution<float> normal(0, spread);
    std::vector<float> logits(n);
    for (float& logit : logits) logit = normal(rng_);
    return logits;
  }

  // All of one vocabulary, in one call.
  std::vector<DrawnToken> Draw(const std::vector<Case>& cases) {
    const int32_t n = static_cast<int32_t>(cases[0].logits.size());
    std::vector<float> logits;
    std::vector<TokenDraw> draws;
    for (const Case& c : cases) {
      logits.insert(logits.end(), c.logits.begin(), c.logits.end());
      draws.push_back(c.draw);
      draws.back().changes = c.changes.data();
      draws.back().num_changes = static_cast<int32_t>(c.changes.size());
    }
    const DeviceArray<float> device_logits(*backend_, logits);
    const DeviceArray<DrawnToken> tokens(*backend_, std::vector<DrawnToken>(cases.size(), {-7, 7}));
    backend_->DrawTokens(
        {device_logits.data(), draws.data(), tokens.data(), static_cast<int32_t>(cases.size()), n});
    std::vector<DrawnToken> drawn = tokens.Read();
    const Status status = backend_->Synchronize();
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_TRUE(SameBits(device_logits.Read(), logits)) << "the logits were changed";
    return drawn;
  }
  static bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
  }

  void ExpectTheReferences(const std::vector<Case>& cases) {
    const std::vector<DrawnToken> drawn = Draw(cases);
    for (size_t i = 0; i < cases.size(); ++i) {
      const Case& c = cases[i];
      SCOPED_TRACE(fmt::format(
          "row {} of {}: temperature {}, top_k {}, top_p {}, min_p {}, uniform {}, {} changes", i,
          c.logits.size(), c.draw.temperature, c.draw.top_k, c.draw.top_p, c.draw.min_p,
          c.draw.uniform, c.changes.size()));
      const DrawnToken expected = ReferenceDraw(c, c.draw);
      ++draws_;
      if (drawn[i].id != expected.id) {
        ++rounded_;
        EXPECT_TRUE(DrawsWithinRounding(c).contains(drawn[i].id))
            << drawn[i].id << " for " << expected.id;
      } else if (std::isfinite(expected.logprob)) {
        EXPECT_NEAR(drawn[i].logprob, expected.logprob,
                    kLogprobTolerance * std::max(1.0f, std::abs(expected.logprob)));
      } else {
        EXPECT_EQ(std::isnan(drawn[i].logprob), std::isnan(expected.logprob));
        EXPECT_EQ(drawn[i].logprob > 0, expected.logprob > 0);
        EXPECT_FALSE(std::isfinite(drawn[i].logprob));
      }
    }
  }
  void ExpectFewRounded() const { EXPECT_LE(rounded_, kRare * draws_) << "of " << draws_; }

  std::unique_ptr<Backend> backend_;
  std::mt19937 rng_;
  int draws_ = 0, rounded_ = 0;
};

// Every filter alone and with others, of flat rows and peaked ones, cold ones and hot ones.
TEST_P(DrawTokens, AreTheReferences) {
  for (const int32_t n : {1, 7, 33, 1000, 32000, 49152, 128256}) {
    std::vector<Case> cases;
    for (int i = 0; i < 64; ++i) {
      Case c;
      c.logits = Logits(n, std::vector<float>{0.2f, 1, 3, 8}[i % 4]);
      c.draw.temperature = std::vector<float>{1, 0.7f, 1.5f, 0.01f, 1e-30f, 100, 0}[Below(7)];
      if (i / 4 % 2 != 0) {
        c.draw.top_k = std::vector<int32_t>{1, 5, 50, 1 + Below(n), n, n + 1}[Below(6)];
      }
      if (i / 8 % 2 != 0) c.draw.top_p = std::vector<float>{0.95f, 0.5f, 0.01f, 0.999f}[Below(4)];
      if (i / 16 % 2 != 0) c.draw.min_p = std::vector<float>{0.05f, 0.5f, 1e-6f, 1}[Below(4)];
      c.draw.uniform = Uniform(1e-6f, 1 - 1e-6f);
      cases.push_back(std::move(c));
    }
    ExpectTheReferences(cases);
  }
  ExpectFewRounded();
}

// Many logits are the same, at the bounds too; zeros of both signs are.
TEST_P(DrawTokens, EqualsGoByTheLowerId) {
  for (const int32_t n : {7, 1000, 49152}) {
    std::vector<Case> cases;
    for (int i = 0; i < 48; ++i) {
      Case c;
      c.logits = Logits(n, 1);
      for (float& logit : c.logits) logit = std::round(logit * (i % 3)) / 2;
      for (int32_t id = 0; id < n; id += 2) {
        if (c.logits[id] == 0) c.logits[id] = -c.logits[id];
      }
      c.draw.temperature = i % 8 == 7 ? 0 : 0.8f;
      if (i / 3 % 2 != 0) c.draw.top_k = 1 + Below(n);
      // As exact shares of equals would be, and others.
      if (i / 6 % 2 != 0) c.draw.top_p = Uniform(0.01f, 0.99f);
      if (i / 12 % 2 != 0) c.draw.min_p = Uniform(0.01f, 0.99f);
      c.draw.uniform = Uniform(1e-6f, 1 - 1e-6f);
      cases.push_back(std::move(c));
    }
    ExpectTheReferences(cases);
  }
  ExpectFewRounded();
}

// The last of 10 kept equals, and the first, wherever they lie among the others.
TEST_P(DrawTokens, ABoundAmongEqualsIsExact) {
  for (const int32_t n : {1000, 49152}) {
    std::vector<Case> cases;
    std::vector<int32_t> expected;
    for (int i = 0; i < 16; ++i) {
      Case c;
      c.logits.assign(n, -5.0f);
      std::set<int32_t> equals;
      while (equals.size() < 20) equals.insert(Below(n));
      for (const int32_t id : equals) c.logits[id] = 1.0f;
      c.draw.top_k = 10;
      c.draw.uniform = i % 2 == 0 ? 0x1p-53 : 1 - 0x1p-53;
      cases.push_back(std::move(c));
      expected.push_back(*std::next(equals.begin(), i % 2 == 0 ? 0 : 9));
    }
    const std::vector<DrawnToken> drawn = Draw(cases);
    for (size_t i = 0; i < cases.size(); ++i) EXPECT_EQ(drawn[i].id, expected[i]) << i;
  }
}

TEST_P(DrawTokens, EndsOfTheUnitIntervalDrawTheFirstTokenAndTheLast) {
  for (const int32_t n : {1, 7, 1000, 49152}) {
    std::vector<Case> cases;
    for (const double uniform : {0x1p-53, 1 - 0x1p-53}) {
      for (const float top_p : {1.0f, 0.9f}) {
        Case c;
        c.logits = Logits(n, 1);
        c.draw.top_p = top_p;
        c.draw.uniform = uniform;
        cases.push_back(std::move(c));
      }
    }
    ExpectTheReferences(cases);
  }
  EXPECT_EQ(rounded_, 0);
}

TEST_P(DrawTokens, MinusInfinityIsNeverDrawn) {
  for (const int32_t n : {7, 1000, 49152}) {
    std::vector<Case> cases;
    for (int i = 0; i < 16; ++i) {
      Case c;
      c.logits = Logits(n, 2);
      for (float& logit : c.logits) logit = Uniform(0, 1) < 0.9f ? -kInfinity : logit;
      c.logits[Below(n)] = 1;
      if (i % 2 != 0) c.draw.top_k = n - 1;
      if (i / 2 % 2 != 0) c.draw.top_p = 0.99f;
      c.draw.uniform = i / 4 % 2 != 0 ? 0x1p-53 : Uniform(1e-6f, 1 - 1e-6f);
      cases.push_back(std::move(c));
    }
    ExpectTheReferences(cases);
    for (const DrawnToken& drawn : Draw(cases)) EXPECT_TRUE(std::isfinite(drawn.logprob));
  }
}

TEST_P(DrawTokens, DamagedRowsShowAmongGoodOnes) {
  for (const int32_t n : {1, 7, 49152}) {
    std::vector<Case> cases;
    for (const float damage : {0.0f, kNan, 0.0f, -kNan, kInfinity, 0.0f}) {
      for (const int32_t at : {0, n / 2, n - 1}) {
        Case c;
        c.logits = Logits(n, 1);
        c.logits[at] += damage;
        c.draw.top_p = 0.9f;
        cases.push_back(std::move(c));
      }
    }
    cases.push_back({std::vector<float>(n, -kInfinity), {}, {}});
    ExpectTheReferences(cases);
    const std::vector<DrawnToken> drawn = Draw(cases);
    EXPECT_TRUE(std::isnan(drawn.back().logprob));
    EXPECT_EQ(drawn.back().id, -1);
  }
}

// Log-probabilities stay those of the model.
TEST_P(DrawTokens, ChangesAreMadeForTheDrawAlone) {
  for (const int32_t n : {7, 1000, 49152}) {
    std::vector<Case> cases;
    for (int i = 0; i < 48; ++i) {
      Case c;
      c.logits = Logits(n, 3);
      // Rows without changes are among them.
      std::set<int32_t> ids;
      for (int k = std::vector<int>{0, 1, 5, 2000}[i % 4]; k > 0; --k) ids.insert(Below(n));
      for (const int32_t id : ids) {
        LogitChange change{.id = id};
        if (i / 4 % 2 != 0) change.bias = Uniform(-10, 10);
        if (i / 8 % 2 != 0) change.penalty = Uniform(0.5f, 2);
        if (i / 16 % 2 != 0) change.decrease = Uniform(-3, 3);
        if (Below(3) == 0) change.bias = -kInfinity;
        c.changes.push_back(change);
      }
      if (i % 4 == 1) c.changes[0] = {.id = Below(n), .bias = 60};  // It is drawn.
      std::shuffle(c.changes.begin(), c.changes.end(), rng_);
      c.draw.temperature = std::vector<float>{0, 1, 0.6f}[i % 3];
      if (i % 5 == 0) c.draw.top_p = 0.9f;
      if (i % 7 == 0) c.draw.top_k = 5;
      c.draw.uniform = Uniform(1e-6f, 1 - 1e-6f);
      cases.push_back(std::move(c));
    }
    ExpectTheReferences(cases);
  }
  ExpectFewRounded();
}

// What becomes equal here would not, were a product and a difference rounded at once.
TEST_P(DrawTokens, EachStepOfAChangeIsRounded) {
  Case c;
  c.logits = Logits(4096, 1);
  c.draw.temperature = 0;
  int32_t first = -1;
  for (int32_t id = 0; id < 4096; ++id) {
    float& logit = c.logits[id];
    logit = -std::abs(logit);
    const float product = logit * 1.1f, decrease = product + 1.5f;
    const bool is_equal = product - decrease == -1.5f;
    if (is_equal && first < 0) first = id;
    c.changes.push_back(
        {.id = id, .bias = is_equal ? 0 : -kInfinity, .penalty = 1.1f, .decrease = decrease});
  }
  EXPECT_EQ(Draw({c})[0].id, first);
}

TEST_P(DrawTokens, ChangesThatLeaveNothingShow) {
  for (const int32_t n : {1, 7, 1000}) {
    Case c;
    c.logits = Logits(n, 1);
    for (int32_t id = 0; id < n; ++id) c.changes.push_back({.id = id, .bias = -kInfinity});
    Case huge = c;
    huge.logits.assign(n, 3e38f);
    huge.changes.assign(1, {.id = n - 1, .penalty = 0.01f});  // Beyond fp32.
    Case good = c;
    good.changes.clear();
    const std::vector<DrawnToken> drawn = Draw({c, good, huge});
    for (const int32_t i : {0, 2}) {
      EXPECT_EQ(drawn[i].id, -1);
      EXPECT_EQ(drawn[i].logprob, -kInfinity);
    }
    EXPECT_GE(drawn[1].id, 0);
    ExpectTheReferences({c, good, huge});
  }
}

// Nor on what was drawn before.
// Of which there may be so many that a GPU gives fewer multiprocessors to each.
TEST_P(DrawTokens, DoNotDependOnTheRowsBeside) {
  std::vector<Case> cases;
  for (int i = 0; i < 90; ++i) {
    Case c;
    c.logits = Logits(32000, 3);
    if (i % 2 != 0) c.draw.top_p = 0.9f;
    if (i % 3 != 0) c.changes.push_back({.id = i, .bias = 3});
    c.draw.uniform = Uniform(1e-6f, 1 - 1e-6f);
    cases.push_back(std::move(c));
  }
  const std::vector<DrawnToken> all = Draw(cases);
  const std::vector<DrawnToken> some = Draw({cases.begin(), cases.begin() + 40});
  for (int i = 0; i < 40; ++i) {
    const DrawnToken alone = Draw({cases[i]})[0];
    EXPECT_EQ(alone.id, all[i].id) << i;
    EXPECT_EQ(alone.logprob, all[i].logprob) << i;
    EXPECT_EQ(alone.id, some[i].id) << i;
    EXPECT_EQ(alone.logprob, some[i].logprob) << i;
  }
}

// -- ModelEngine.

constexpr char kModel[] = "tests/testdata/checkpoints/hybrid";

TEST_P(DrawTokens, AnswersOfAnEngineAreTheSamplers) {
  const auto checkpoint = Checkpoint::Open(kModel).value();
  ModelEngine::Options options;
  options.max_slots = 2;
  const auto engine = ModelEngine::Load(*checkpoint, options, std::move(backend_)).value();
  const int32_t vocab = engine->limits().vocab_size;
  std::vector<int32_t> prompt;
  for (int i = 0; i < 150; ++i) prompt.push_back(Below(vocab));
  const std::vector<int32_t> generated = {5, 9, 9, 7}, drafted = {9}, banned = {3, 4, 17};
  const std::vector<SamplingParams> kinds = {
      {.temperature = 0},
      {},
      {.temperature = 0.7f, .top_p = 0.9f},
      {.top_k = 20},
      {.temperature = 1.5f, .min_p = 0.1f},
      {.top_p = 0.95f, .top_k = 50, .min_p = 0.01f},
      {.presence_penalty = 1, .frequency_penalty = 0.5f, .repetition_penalty = 1.3f},
      {.temperature = 0, .repetition_penalty = 5, .logit_bias = {{11, 2.0f}, {12, -100.0f}}},
  };
  // Logits are wanted for scores alone: those rows go through the sampler.
  const std::vector<int32_t> score = {1};
  std::vector<RowResult> answers[2];
  std::vector<StateSlot> slots;
  for (const bool on_host : {false, true}) {
    slots.push_back(engine->AcquireSlot().value());
    Batch batch;
    const int32_t first = batch.AddChain(slots.back().index(), prompt);
    for (size_t i = 0; i < prompt.size(); ++i) {
      RowRequest request;
      request.row = first + static_cast<int32_t>(i);
      request.sampling = i % 11 == 10 ? nullptr : &kinds[i % kinds.size()];
      request.random = {.seed = 7, .choice = 1, .position = static_cast<uint32_t>(i)};
      request.prompt = prompt;
      request.generated = generated;
      request.drafted = drafted;
      if (i % 3 == 0) request.banned = banned;
      request.top_logprobs = static_cast<int32_t>(i % 4);
      if (on_host) request.score = score;
      batch.requests.push_back(request);
    }
    answers[on_host] = engine->Step(batch).value();
  }
  for (size_t i = 0; i < prompt.size(); ++i) {
    const RowResult &device = answers[0][i], &host = answers[1][i];
    EXPECT_TRUE(device.status.ok()) << device.status;
    EXPECT_EQ(device.token, host.token) << i;
    EXPECT_NEAR(device.logprob, host.logprob, kLogprobTolerance) << i;
    ASSERT_EQ(device.top_logprobs.size(), host.top_logprobs.size()) << i;
    for (const auto& [id, logprob] : device.top_logprobs) {
      if (id != device.token) continue;
      EXPECT_EQ(device.logprob, logprob) << i;
    }
    for (size_t k = 0; k < host.top_logprobs.size(); ++k) {
      EXPECT_EQ(device.top_logprobs[k].first, host.top_logprobs[k].first) << i;
      EXPECT_NEAR(device.top_logprobs[k].second, host.top_logprobs[k].second, kLogprobTolerance);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, DrawTokens, testing::Values("cpu", "cuda"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace treeline
