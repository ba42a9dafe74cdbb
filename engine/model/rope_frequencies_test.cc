#include "engine/model/rope_frequencies.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "kernels/cpu/ops.h"

namespace treeline {
namespace {

StatusOr<RopeConfig> Read(const Json& json) {
  return RopeConfig::FromJson(json, json.at("max_position_embeddings").get<int32_t>());
}

// tests/testdata/rope/README.md
class Golden : public testing::Test {
 protected:
  void SetUp() override {
    auto golden = ParseJsonFile("tests/testdata/rope/transformers_golden.json");
    ASSERT_TRUE(golden.ok()) << golden.status();
    golden_ = *std::move(golden);
    ASSERT_GE(golden_["cases"].size(), 10u);
  }
  RopeFrequencies Compute(const Json& config) const {
    const auto rope = Read(config);
    EXPECT_TRUE(rope.ok()) << rope.status();
    return ComputeRopeFrequencies(*rope, HeadDim(config), golden_["max_context"].get<int32_t>());
  }
  static int32_t HeadDim(const Json& config) {
    const int32_t heads = config["num_attention_heads"].get<int32_t>();
    return config.value("head_dim", config["hidden_size"].get<int32_t>() / heads);
  }
  Json golden_;
};

TEST_F(Golden, FrequenciesAreThoseOfTransformers) {
  for (const Json& c : golden_["cases"]) {
    const RopeFrequencies rope = Compute(c["config"]);
    const auto expected = c["inverse_frequencies"].get<std::vector<double>>();
    ASSERT_EQ(rope.inverse.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      // transformers computes them in float32: a power, and for yarn a difference of near values.
      EXPECT_NEAR(rope.inverse[i] / expected[i], 1.0, 1e-6) << c["name"] << " " << i;
    }
    EXPECT_NEAR(rope.scale, c["scale"].get<double>(), 1e-7) << c["name"];
  }
}

TEST_F(Golden, RotationsAreThoseOfTransformersUpToPosition100000) {
  const auto positions = golden_["positions"].get<std::vector<int32_t>>();
  ASSERT_EQ(positions.back(), 100000);
  ThreadPool pool(1);
  for (const Json& c : golden_["cases"]) {
    const RopeFrequencies rope = Compute(c["config"]);
    const int32_t dim = HeadDim(c["config"]), half = dim / 2;
    const int32_t rows = static_cast<int32_t>(positions.size());
    std::vector<float> angles(positions.size() * dim);
    cpu::RopeAngles({positions.data(), rope.inverse.data(), angles.data(), rows, dim, rope.scale},
                    pool);
    for (int32_t row = 0; row < rows; ++row) {
      for (int32_t i = 0; i < half; ++i) {
        // An angle is a float32 product on both sides: 100,000 radians have steps of 0.008, and a
        // frequency that differs in its last bit moves the product by one of them.
        const double angle = double{rope.inverse[i]} * positions[row];
        const double tolerance = 2e-6 + std::min(1e-6 * angle, 5e-3);
        EXPECT_NEAR(angles[row * dim + i], c["cos"][row][i].get<double>(), tolerance)
            << c["name"] << " position " << positions[row] << " dimension " << i;
        EXPECT_NEAR(angles[row * dim + half + i], c["sin"][row][i].get<double>(), tolerance)
            << c["name"] << " position " << positions[row] << " dimension " << i;
      }
    }
  }
}

constexpr char kShape[] = R"({"max_position_embeddings": 4096, "rope_theta": 10000.0})";

Json WithScaling(const char* scaling) {
  Json json = Json::parse(kShape);
  json["rope_scaling"] = Json::parse(scaling);
  return json;
}

// What a sequence sees must not depend on how long it is by now, nor on how it came in pieces.
TEST(RopeFrequencies, DynamicScalingFollowsFromTheConfiguredContextAlone) {
  const auto dynamic = Read(WithScaling(R"({"rope_type": "dynamic", "factor": 4.0})"));
  ASSERT_TRUE(dynamic.ok());
  const auto plain = Read(Json::parse(kShape));
  for (const int32_t within : {1, 100, 4096}) {
    EXPECT_EQ(ComputeRopeFrequencies(*dynamic, 64, within).inverse,
              ComputeRopeFrequencies(*plain, 64, within).inverse);
  }
  const auto longer = ComputeRopeFrequencies(*dynamic, 64, 16384).inverse;
  EXPECT_EQ(longer[0], 1.0f);  // The highest frequency is never stretched.
  EXPECT_LT(longer[31], ComputeRopeFrequencies(*plain, 64, 16384).inverse[31] / 4);
}

TEST(RopeFrequencies, DivisorsDivide) {
  auto rope = Read(Json::parse(kShape));
  ASSERT_TRUE(rope.ok());
  const auto plain = ComputeRopeFrequencies(*rope, 8, 4096).inverse;
  rope->frequency_divisors = {1, 2, 4, 8};
  const auto divided = ComputeRopeFrequencies(*rope, 8, 4096).inverse;
  for (int i = 0; i < 4; ++i) EXPECT_EQ(divided[i], plain[i] / (1 << i));
}

TEST(RopeConfig, KnowsTheLongestContext) {
  const auto longest = [](const char* scaling) {
    const auto rope = Read(WithScaling(scaling));
    EXPECT_TRUE(rope.ok()) << rope.status();
    return rope->LongestContext(4096);
  };
  EXPECT_EQ(longest("null"), 4096);
  EXPECT_EQ(longest(R"({"rope_type": "linear", "factor": 2.5})"), 10240);
  EXPECT_EQ(longest(R"({"rope_type": "dynamic", "factor": 2.0})"), 8192);
  EXPECT_EQ(longest(R"({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                        "high_freq_factor": 4.0, "original_max_position_embeddings": 512})"),
            4096);
  EXPECT_EQ(longest(R"({"rope_type": "yarn", "factor": 4.0,
                        "original_max_position_embeddings": 512})"),
            4096);
  EXPECT_EQ(longest(R"({"rope_type": "yarn", "factor": 4.0,
                        "original_max_position_embeddings": 2048})"),
            8192);
  EXPECT_EQ(longest(R"({"rope_type": "linear", "factor": 1000000.0})"), 1 << 24);
}

}  // namespace
}  // namespace treeline
