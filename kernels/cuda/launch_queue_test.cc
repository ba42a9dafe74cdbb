// Runs where a GPU is (tag "gpu").
#include "kernels/cuda/launch_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/stream.h"

namespace treeline::cuda {
namespace {

using testing::FloatNear;
using testing::Pointwise;

constexpr int32_t kDim = 64;

// A chain of launches whose order matters: a bias is added, the sum is normalised, and so on.
class LaunchQueueTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string error;
    stream_ = Stream::Open(0, error);
    ASSERT_NE(stream_, nullptr) << error;
    for (int b = 0; b < kBiases; ++b) {
      std::vector<float> bias(kDim);
      for (int32_t i = 0; i < kDim; ++i) bias[i] = std::sin(0.1f * i + b);
      device_biases_[b] = Upload(bias);
      biases_.push_back(std::move(bias));
    }
    weight_ = Upload(std::vector<float>(kDim, 1.5f));
    x_ = Upload(std::vector<float>(kDim));
    y_ = Upload(std::vector<float>(kDim));
  }
  void TearDown() override {
    for (float* data : {x_, y_, weight_, device_biases_[0], device_biases_[1]}) stream_->Free(data);
  }

  float* Upload(const std::vector<float>& values) {
    auto* data = static_cast<float*>(stream_->Allocate(values.size() * sizeof(float)));
    stream_->CopyToDevice(data, values.data(), values.size() * sizeof(float));
    return data;
  }

  // The chain from zeros on: which bias each of its links adds.
  std::vector<float> Run(const std::vector<int>& chain) {
    const std::vector<float> zeros(kDim);
    stream_->CopyToDevice(x_, zeros.data(), kDim * sizeof(float));
    for (const int bias : chain) {
      AddBias({x_, device_biases_[bias], 1, kDim}, *stream_);
      RmsNorm({x_, weight_, y_, 1, kDim, 1e-5f}, *stream_);
      std::swap(x_, y_);
    }
    std::vector<float> result(kDim, std::nanf(""));
    stream_->CopyToHost(result.data(), x_, kDim * sizeof(float));
    if (chain.size() % 2 == 1) std::swap(x_, y_);  // So that the next one's arguments are the same.
    return result;
  }

  std::vector<float> Expected(const std::vector<int>& chain) const {
    std::vector<double> x(kDim);
    for (const int bias : chain) {
      double squares = 0;
      for (int32_t i = 0; i < kDim; ++i) {
        x[i] += biases_[bias][i];
        squares += x[i] * x[i];
      }
      for (double& value : x) value *= 1.5 / std::sqrt(squares / kDim + 1e-5);
    }
    return {x.begin(), x.end()};
  }

  void Check(const std::vector<int>& chain) {
    EXPECT_THAT(Run(chain), Pointwise(FloatNear(1e-4f), Expected(chain)));
  }

  static constexpr int kBiases = 2;
  std::shared_ptr<Stream> stream_;
  std::vector<std::vector<float>> biases_;
  float* device_biases_[kBiases];
  float* weight_ = nullptr;
  float* x_ = nullptr;
  float* y_ = nullptr;
};

// The third time at the latest it is a graph.
TEST_F(LaunchQueueTest, SequencesThatRecurDoTheSame) {
  for (const int links : {1, 5, 31, 32, 33, 150}) {
    std::vector<int> chain(links);
    for (int i = 0; i < links; ++i) chain[i] = i % 3 == 0;
    for (int repeat = 0; repeat < 4; ++repeat) Check(chain);
  }
  EXPECT_EQ(stream_->Synchronize(), "");
}

TEST_F(LaunchQueueTest, OneArgumentMakesAnotherSequence) {
  std::vector<int> chain(20), other(20);
  other[7] = 1;
  ASSERT_NE(Expected(chain), Expected(other));
  for (int repeat = 0; repeat < 4; ++repeat) {
    Check(chain);
    Check(other);
  }
}

// More than are kept: those that come back were forgotten.
TEST_F(LaunchQueueTest, ManySequencesTakeTurns) {
  for (int repeat = 0; repeat < 3; ++repeat) {
    for (int i = 0; i < 700; ++i) {
      std::vector<int> chain(10);
      for (int bit = 0; bit < 10; ++bit) chain[bit] = i >> bit & 1;
      for (int twice = 0; twice < 2; ++twice) Check(chain);
    }
  }
  EXPECT_EQ(stream_->Synchronize(), "");
}

TEST_F(LaunchQueueTest, AfterAFailureNothingIsLaunchedUntilItWasTold) {
  const std::vector<int> chain(20);
  for (int repeat = 0; repeat < 3; ++repeat) Check(chain);
  stream_->Fail("out of memory");
  AddBias({x_, device_biases_[0], 1, kDim}, *stream_);
  EXPECT_EQ(stream_->Synchronize(), "out of memory");
  Check(chain);
}

}  // namespace
}  // namespace treeline::cuda
