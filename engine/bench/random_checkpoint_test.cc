#include "engine/bench/random_checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <set>

#include "engine/model/tensor.h"

namespace treeline {
namespace {

constexpr char kFolder[] = "tests/testdata/checkpoints/";

// The checkpoints there were made by a tool that knows nothing of this code: for each of their
// configurations, the same tensors in the same shapes.
TEST(RandomCheckpointTest, HasTheTensorsOfARealOne) {
  for (const std::string name : {"softmax", "released_mha", "released_gqa", "window_equal",
                                 "window_wider", "window_narrower", "llama3_biases",
                                 "mistral_linear", "qwen2_window_dynamic", "qwen2_yarn"}) {
    const auto real = Checkpoint::Open(kFolder + name);
    const auto random = MakeRandomCheckpoint(kFolder + name + "/config.json");
    ASSERT_TRUE(real.ok() && random.ok()) << name;
    std::map<std::string, std::vector<int64_t>> expected, actual;
    for (const auto& [tensor, view] : (*real)->tensors()) {
      // A constant of the released code, which loading does not need.
      if (!tensor.ends_with("conv_mask")) expected[tensor] = view.shape;
    }
    for (const auto& [tensor, view] : (*random)->tensors()) actual[tensor] = view.shape;
    EXPECT_EQ(actual, expected) << name;
  }
}

TEST(RandomCheckpointTest, ValuesAreRandomFiniteAndTheSameEachTime) {
  const std::string config = std::string(kFolder) + "window_equal/config.json";
  const auto first = MakeRandomCheckpoint(config), second = MakeRandomCheckpoint(config);
  ASSERT_TRUE(first.ok() && second.ok());
  for (const auto& [name, view] : (*first)->tensors()) {
    std::vector<float> values(view.num_elements()), again(view.num_elements());
    CopyToFloat(view, values);
    CopyToFloat(*(*second)->Find(name), again);
    EXPECT_EQ(values, again) << name;
    EXPECT_GT(std::set<float>(values.begin(), values.end()).size(), values.size() / 100) << name;
    double sum = 0, squares = 0;
    for (const float value : values) {
      ASSERT_TRUE(std::isfinite(value) && value != 0) << name;
      sum += value;
      squares += double{value} * value;
    }
    if (values.size() < 1000) continue;
    const double size = static_cast<double>(values.size());
    EXPECT_NEAR(sum / size, 0, 0.02) << name;
    EXPECT_NEAR(squares / size * 48, 1, 0.1) << name;  // 1 / hidden_size.
  }
}

TEST(RandomCheckpointTest, ABadConfigurationIsNamed) {
  EXPECT_EQ(MakeRandomCheckpoint("/no/such/config.json").status().code(), StatusCode::kNotFound);
  const std::string path = ::testing::TempDir() + "/odd.json";
  std::ofstream(path) << "{}";
  const auto checkpoint = MakeRandomCheckpoint(path);
  EXPECT_THAT(Message(checkpoint.status()), testing::HasSubstr("odd.json"));
}

}  // namespace
}  // namespace treeline
