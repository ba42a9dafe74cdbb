// The same keys and values fed to the CPU and to a GPU for 32K tokens: S and z stay the same to
// fp32 rounding, and equal the definition's sums in double.
#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/reference/attention.h"
#include "tests/device_sequences.h"

namespace treeline {
namespace {

constexpr int32_t kTokens = 32768;
// Relative to the largest value of S, over 256 or 512 folds.
constexpr double kTolerance = 4e-6;

// The state's sums after all rows, `chunk` at a time.
std::vector<float> SumsAfter(const std::string& name, const RandomLayer& random, const Rows& rows,
                             int32_t chunk) {
  const auto backend = MakeBackend(name);
  if (backend == nullptr) return {};
  const AttentionLayer& layer = random.layer;
  DeviceSequences sequences(*backend, random, 1);
  for (int32_t first = 0; first < kTokens; first += chunk) {
    TreeRows tree;
    for (int32_t row = first; row < std::min(first + chunk, kTokens); ++row) {
      tree.rows.Append(layer, rows, row);
    }
    sequences.Step({tree});
  }
  return sequences.Sums(0);
}

void Check(const AttentionForm& form, StateType state_type) {
  std::mt19937 rng(23);
  RandomLayer random(form, 0, rng, 64);
  random.layer.state_type = state_type;
  Rows rows(random.layer, kTokens, rng);
  const std::vector<float> cpu = SumsAfter("cpu", random, rows, 512);
  const std::vector<float> gpu = SumsAfter("cuda", random, rows, 1000);
  const auto folded = reference::Fold(random.layer, kTokens, rows.k.data(), rows.v.data());
  std::vector<double> expected = folded.s;
  if (form.has_normaliser()) expected.insert(expected.end(), folded.z.begin(), folded.z.end());
  EXPECT_LE(Error(gpu, expected), kTolerance);
  EXPECT_LE(Error(gpu, cpu), kTolerance);
  std::printf("after %d tokens: GPU from the definition %.1e, from the CPU %.1e\n", kTokens,
              Error(gpu, expected), Error(gpu, cpu));

  // One element of the newest folded group.
  const int32_t token = kTokens - form.lag() * form.group_size + form.group_size / 2;
  rows.v[int64_t{token} * random.layer.kv_heads * random.layer.head_dim] += 0.5f;
  EXPECT_GE(Error(SumsAfter("cuda", random, rows, 1000), expected), 10 * kTolerance);
}

TEST(StateEquivalence, ShippedForm) { Check(ShippedForm(128), StateType::kF32); }
TEST(StateEquivalence, ShippedFormWithBf16Rings) { Check(ShippedForm(128), StateType::kBF16); }
TEST(StateEquivalence, ReleasedForm) { Check(ReleasedForm(64), StateType::kF32); }

}  // namespace
}  // namespace treeline
