// Random attention layers, rows and trees: what tests of attention share.
#ifndef TREELINE_TESTS_ATTENTION_CASES_H_
#define TREELINE_TESTS_ATTENTION_CASES_H_

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/float_types.h"
#include "kernels/params.h"

namespace treeline {

// A layer with random parameters, and the memory behind them.
struct RandomLayer {
  AttentionLayer layer;
  std::vector<float> linear_factor, decay, map_q, map_k, taps;

  RandomLayer(const AttentionForm& form, int32_t max_context, std::mt19937& rng,
              int32_t head_dim = 8) {
    std::normal_distribution<float> normal;
    std::uniform_real_distribution<float> uniform;
    layer.form = form;
    layer.kv_heads = std::uniform_int_distribution<int32_t>(1, 2)(rng);
    layer.heads = layer.kv_heads * std::uniform_int_distribution<int32_t>(1, 3)(rng);
    layer.head_dim = head_dim;
    layer.k_ring_rows = form.k_ring_rows(max_context);
    layer.v_ring_rows = form.v_ring_rows(max_context);
    layer.alpha = 0.7f;
    const auto fill = [&](std::vector<float>& values, size_t n, float scale) {
      values.resize(n);
      for (float& value : values) value = scale * normal(rng);
      return values.data();
    };
    if (form.feature_map == FeatureMap::kHedgehog) {
      // So that x W has the same spread for any head_dim.
      const float scale = std::sqrt(2.0f / layer.head_dim);
      const size_t map_size = size_t(layer.head_dim) * layer.feature_dim() / 2;
      layer.feature_map_q = fill(map_q, layer.heads * map_size, scale);
      layer.feature_map_k = fill(map_k, layer.kv_heads * map_size, scale);
    }
    if (form.denominator == Denominator::kJoint) {
      layer.linear_factor = fill(linear_factor, layer.heads, 1.0f);
      for (float& f : linear_factor) f = std::exp(f);
    }
    if (form.decay) {
      layer.decay = fill(decay, layer.kv_heads, 0.0f);
      for (float& x : decay) x = 0.5f + 0.5f * uniform(rng);
    }
    if (form.conv_taps() > 0) {
      layer.conv_taps = fill(taps, layer.heads * form.conv_taps(), 0.3f);
    }
  }
};

inline std::string Describe(const AttentionForm& f) {
  return fmt::format(
      "group {} window {}:{} sinks {} decay {} local {} features {}:{} norm {} denominator {} conv "
      "{}",
      f.group_size, f.window == Window::kSliding ? "sliding" : "group", f.window_size, f.sinks,
      f.decay, int(f.local), int(f.feature_map), f.feature_size, int(f.qk_norm), int(f.denominator),
      f.conv_kernel);
}

template <class T>
T Pick(std::mt19937& rng, std::initializer_list<T> values) {
  return values.begin()[std::uniform_int_distribution<size_t>(0, values.size() - 1)(rng)];
}

// A legal form with these group and window sizes (docs/attention.md, "Legal forms").
inline AttentionForm RandomForm(int32_t group_size, int32_t window_size, std::mt19937& rng) {
  AttentionForm form;
  form.group_size = group_size;
  form.window = Pick(rng, {Window::kGroup, Window::kSliding, Window::kSliding});
  form.window_size =
      form.window == Window::kGroup ? Pick(rng, {1, 1, 2, 3}) * group_size : window_size;
  form.sinks = Pick(rng, {0, 1, 4});
  form.denominator = Pick(rng, {Denominator::kNone, Denominator::kSum, Denominator::kJoint});
  form.local = form.denominator == Denominator::kJoint
                   ? Local::kSoftmax
                   : Pick(rng, {Local::kNone, Local::kSoftmax, Local::kRelu2, Local::kLaplace});
  form.feature_map = form.denominator == Denominator::kNone
                         ? Pick(rng, {FeatureMap::kNone, FeatureMap::kIdentity, FeatureMap::kRelu,
                                      FeatureMap::kElu1, FeatureMap::kHedgehog})
                         : Pick(rng, {FeatureMap::kRelu, FeatureMap::kElu1, FeatureMap::kHedgehog});
  form.qk_norm = Pick(rng, {QkNorm::kNone, QkNorm::kL2});
  form.decay = form.has_linear() && Pick(rng, {true, false});
  form.conv_kernel = Pick(rng, {0, 1, 7, 63});
  // With nothing else there would be nothing to compare.
  if (form.local == Local::kNone && !form.has_linear()) form.conv_kernel = 7;
  return form;
}

// The form that ships: hedgehog features, joint with a window, sinks and decay.
inline AttentionForm ShippedForm(int32_t group_size) {
  AttentionForm form;
  form.group_size = form.window_size = group_size;
  form.window = Window::kSliding;
  form.sinks = 4;
  form.decay = true;
  form.feature_map = FeatureMap::kHedgehog;
  form.denominator = Denominator::kJoint;
  form.conv_kernel = 63;
  return form;
}

// The same with a window of two groups, where every committed token is local or in S.
inline AttentionForm GroupWindowForm(int32_t group_size) {
  AttentionForm form = ShippedForm(group_size);
  form.window = Window::kGroup;
  form.window_size = 2 * group_size;
  return form;
}

// The form of the released linearized models.
inline AttentionForm ReleasedForm(int32_t group_size) {
  AttentionForm form;
  form.group_size = form.window_size = group_size;
  form.local = Local::kRelu2;
  form.feature_map = FeatureMap::kIdentity;
  form.qk_norm = QkNorm::kL2;
  form.conv_kernel = 63;
  return form;
}

// Rows of q, k, v for a sequence or a tree.
struct Rows {
  std::vector<float> q, k, v;  // [n, heads, d], [n, kv_heads, d] twice

  Rows() = default;
  Rows(const AttentionLayer& layer, int32_t n, std::mt19937& rng) {
    // Keys share a direction, as those of trained models do.
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<float>& values, int32_t heads, float mean) {
      values.resize(size_t(n) * heads * layer.head_dim);
      for (float& value : values) {
        value = mean + normal(rng);
        if (layer.state_type == StateType::kBF16) value = Bf16ToFloat(FloatToBf16(value));
      }
    };
    fill(q, layer.heads, 0.0f);
    // Kernels of the raw q.k are as steep as it is large: scores of about 1, whatever head_dim,
    // so that the inputs' own rounding does not drown what is tested.
    if (layer.form.local == Local::kRelu2 || layer.form.local == Local::kLaplace) {
      for (float& value : q) value /= std::sqrt(static_cast<float>(layer.head_dim));
    }
    fill(k, layer.kv_heads, 0.3f);
    fill(v, layer.kv_heads, 0.2f);
  }

  // Appends row `row` of `other`.
  void Append(const AttentionLayer& layer, const Rows& other, int32_t row) {
    const auto copy = [&](std::vector<float>& to, const std::vector<float>& from, int32_t heads) {
      const int32_t size = heads * layer.head_dim;
      to.insert(to.end(), from.begin() + int64_t{row} * size,
                from.begin() + int64_t{row + 1} * size);
    };
    copy(q, other.q, layer.heads);
    copy(k, other.k, layer.kv_heads);
    copy(v, other.v, layer.kv_heads);
  }
};

// max|difference| / max|expected|; infinity where a value is not finite.
template <class T>
double Error(const std::vector<float>& actual, const std::vector<T>& expected) {
  if (actual.size() != expected.size()) return std::numeric_limits<double>::infinity();
  double difference = 0, largest = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (!std::isfinite(actual[i])) return std::numeric_limits<double>::infinity();
    difference = std::max(difference, std::abs(double{actual[i]} - expected[i]));
    largest = std::max(largest, std::abs(double{expected[i]}));
  }
  return largest == 0 ? difference : difference / largest;
}

// Random tree of up to 64 nodes and depth 24; deep ones cross group boundaries.
inline std::vector<int32_t> RandomTree(std::mt19937& rng) {
  const int32_t size = std::uniform_int_distribution<int32_t>(1, 64)(rng);
  const double bushy = std::uniform_real_distribution<double>(0, 0.6)(rng);
  std::vector<int32_t> parents = {-1}, depths = {0};
  while (static_cast<int32_t>(parents.size()) < size) {
    int32_t parent = static_cast<int32_t>(parents.size()) - 1;
    if (std::uniform_real_distribution<double>(0, 1)(rng) < bushy) {
      parent = std::uniform_int_distribution<int32_t>(0, parent)(rng);
    }
    if (depths[parent] == 24) parent = 0;
    parents.push_back(parent);
    depths.push_back(depths[parent] + 1);
  }
  return parents;
}

inline std::vector<int32_t> PathTo(const std::vector<int32_t>& parents, int32_t node) {
  std::vector<int32_t> path;
  for (; node >= 0; node = parents[node]) path.insert(path.begin(), node);
  return path;
}

}  // namespace treeline

#endif  // TREELINE_TESTS_ATTENTION_CASES_H_
