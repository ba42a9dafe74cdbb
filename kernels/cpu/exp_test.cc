#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/exp_test.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h:
#include <hwy/highway.h>

#include <vector>

#include "kernels/cpu/exp-inl.h"

HWY_BEFORE_NAMESPACE();
namespace treeline::cpu::HWY_NAMESPACE {

void ExpOfEach(std::vector<float>& values) {
  const hn::CappedTag<float, 16> d;
  for (size_t i = 0; i < values.size(); i += hn::Lanes(d)) {
    hn::StoreU(ExpOfNonPositive(d, hn::LoadU(d, values.data() + i)), d, values.data() + i);
  }
}

}  // namespace treeline::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace treeline::cpu {
namespace {

HWY_EXPORT(ExpOfEach);

std::vector<float> Exp(std::vector<float> x) {
  x.resize((x.size() + 15) / 16 * 16);
  HWY_DYNAMIC_DISPATCH(ExpOfEach)(x);
  return x;
}

TEST(Exp, IsWithinItsErrorAllTheWayDown) {
  std::vector<float> x;
  for (float v = 0; v >= -87; v -= 1.0f / 4096) x.push_back(v);
  const std::vector<float> y = Exp(x);
  double largest = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    largest = std::max(largest, std::abs(y[i] / std::exp(double{x[i]}) - 1));
  }
  // Where the multiply-adds round twice (the portable path) it is 1.2e-7.
  EXPECT_LE(largest, 1.5e-7);
  EXPECT_EQ(y[0], 1.0f);
}

TEST(Exp, VanishesFarDownAndKeepsNaN) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> y = Exp({-87.5f, -1e9f, -infinity, std::nanf("")});
  EXPECT_EQ(y[0], 0.0f);
  EXPECT_EQ(y[1], 0.0f);
  EXPECT_EQ(y[2], 0.0f);
  EXPECT_TRUE(std::isnan(y[3]));
}

}  // namespace
}  // namespace treeline::cpu
#endif  // HWY_ONCE
