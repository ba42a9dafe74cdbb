#include "kernels/reference/attention.h"

#include <cmath>
#include <limits>
#include <numbers>

namespace treeline::reference {
namespace {

using Vector = std::vector<double>;

double Dot(const Vector& a, const Vector& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

Vector Normalised(const AttentionForm& form, const Vector& x) {
  if (form.qk_norm == QkNorm::kNone) return x;
  const double scale = 1.0 / std::sqrt(std::max(Dot(x, x), 1e-12));
  Vector y = x;
  for (double& value : y) value *= scale;
  return y;
}

// softmax([x W, -x W]), `features` values; w is [x.size(), features / 2].
Vector Hedgehog(const Vector& x, size_t features, const float* w) {
  const size_t half = features / 2;
  Vector y(features, 0.0);
  for (size_t i = 0; i < x.size(); ++i) {
    for (size_t j = 0; j < half; ++j) y[j] += x[i] * w[i * half + j];
  }
  double largest = 0;
  for (size_t j = 0; j < half; ++j) {
    y[half + j] = -y[j];
    largest = std::max(largest, std::abs(y[j]));
  }
  double sum = 0;
  for (double& value : y) sum += value = std::exp(value - largest);
  for (double& value : y) value /= sum;
  return y;
}

// phi(x), where x has been normalised as the form says.
Vector Features(const AttentionForm& form, const Vector& x, const float* hedgehog) {
  Vector y = x;
  switch (form.feature_map) {
    case FeatureMap::kNone:
      return {};
    case FeatureMap::kIdentity:
      return y;
    case FeatureMap::kRelu:
      for (double& value : y) value = std::max(value, 0.0);
      return y;
    case FeatureMap::kElu1:
      for (double& value : y) value = value > 0 ? value + 1 : std::exp(value);
      return y;
    case FeatureMap::kHedgehog:
      return Hedgehog(x, form.feature_dim(static_cast<int32_t>(x.size())), hedgehog);
  }
  return {};
}

// One head's view of a sequence.
class Head {
 public:
  Head(const AttentionLayer& layer, int32_t n, int32_t head, const float* q, const float* k,
       const float* v)
      : layer_(layer), form_(layer.form), head_(head) {
    const int32_t d = layer.head_dim;
    kv_head_ = head / (layer.heads / layer.kv_heads);
    const int64_t map_size = int64_t{d} * layer.feature_dim() / 2;
    const float* map_q = layer.feature_map_q ? layer.feature_map_q + head * map_size : nullptr;
    const float* map_k = layer.feature_map_k ? layer.feature_map_k + kv_head_ * map_size : nullptr;
    for (int32_t p = 0; p < n; ++p) {
      const float* q_row = q + (int64_t{p} * layer.heads + head) * d;
      const float* k_row = k + (int64_t{p} * layer.kv_heads + kv_head_) * d;
      const float* v_row = v + (int64_t{p} * layer.kv_heads + kv_head_) * d;
      q_.emplace_back(q_row, q_row + d);
      k_.emplace_back(k_row, k_row + d);
      v_.emplace_back(v_row, v_row + d);
      q_norm_.push_back(Normalised(form_, q_.back()));
      k_norm_.push_back(Normalised(form_, k_.back()));
      phi_q_.push_back(Features(form_, q_norm_.back(), map_q));
      phi_k_.push_back(Features(form_, k_norm_.back(), map_k));
    }
  }

  Vector Row(int32_t p) const {
    const Vector local = LocalWeights(p);
    const Vector linear = LinearWeights(p);
    double local_sum = 0, linear_sum = 0;
    for (double w : local) local_sum += w;
    for (double w : linear) linear_sum += w;

    double local_factor = 1, linear_factor = layer_.alpha;
    switch (form_.denominator) {
      case Denominator::kNone:
        break;
      case Denominator::kSum:
        linear_factor /= std::max(linear_sum, 1e-6);
        break;
      case Denominator::kJoint: {
        const double f = layer_.linear_factor[head_];
        const double denominator = local_sum + f * linear_sum;
        local_factor = 1 / denominator;
        linear_factor = f / denominator;
        break;
      }
    }
    if (form_.local == Local::kSoftmax && form_.denominator != Denominator::kJoint) {
      local_factor = 1 / local_sum;
    }

    Vector out(layer_.head_dim, 0.0);
    for (int32_t j = 0; j <= p; ++j) {
      double weight = local_factor * local[j] + linear_factor * linear[j];
      const int32_t tau = p - j;
      if (tau < form_.conv_taps()) weight += layer_.conv_taps[head_ * form_.conv_taps() + tau];
      for (int32_t i = 0; i < layer_.head_dim; ++i) out[i] += weight * v_[j][i];
    }
    return out;
  }

  // decay^groups.
  double Fade(int32_t groups) const {
    return form_.decay ? std::pow(double{layer_.decay[kv_head_]}, groups) : 1.0;
  }
  const Vector& phi_k(int32_t j) const { return phi_k_[j]; }
  const Vector& v(int32_t j) const { return v_[j]; }

 private:
  int32_t Group(int32_t p) const { return form_.has_groups() ? p / form_.group_size : 0; }

  bool IsLocal(int32_t p, int32_t j) const {
    if (!form_.has_groups() || j < form_.sinks) return true;
    if (form_.window == Window::kSliding) return p - j < form_.window_size;
    return Group(p) - Group(j) < form_.window_size / form_.group_size;
  }

  // The numerators of the local branch; softmax ones are exp(s - max), not yet divided.
  Vector LocalWeights(int32_t p) const {
    const double scale = 1.0 / std::sqrt(double(layer_.head_dim));
    double largest = -std::numeric_limits<double>::infinity();
    for (int32_t j = 0; j <= p; ++j) {
      if (IsLocal(p, j)) largest = std::max(largest, Dot(q_[p], k_[j]) * scale);
    }
    Vector weights(p + 1, 0.0);
    for (int32_t j = 0; j <= p; ++j) {
      if (!IsLocal(p, j)) continue;
      switch (form_.local) {
        case Local::kNone:
          break;
        case Local::kSoftmax:
          weights[j] = std::exp(Dot(q_[p], k_[j]) * scale - largest);
          break;
        case Local::kRelu2:
          weights[j] = std::pow(std::max(Dot(q_norm_[p], k_norm_[j]), 0.0), 2);
          break;
        case Local::kLaplace: {
          const double mu = std::sqrt(0.5), sd = std::sqrt(1 / (4 * std::numbers::pi));
          const double s = Dot(q_[p], k_[j]) / form_.group_size;
          weights[j] = 0.5 * (1 + std::erf((s - mu) / (sd * std::numbers::sqrt2)));
          break;
        }
      }
    }
    return weights;
  }

  Vector LinearWeights(int32_t p) const {
    Vector weights(p + 1, 0.0);
    if (!form_.has_linear()) return weights;
    for (int32_t j = 0; j <= p; ++j) {
      if (IsLocal(p, j)) continue;
      weights[j] = Fade(std::max(0, Group(p) - form_.lag() - Group(j))) * Dot(phi_q_[p], phi_k_[j]);
    }
    return weights;
  }

  const AttentionLayer& layer_;
  const AttentionForm& form_;
  const int32_t head_;
  int32_t kv_head_;
  std::vector<Vector> q_, k_, v_, q_norm_, k_norm_, phi_q_, phi_k_;  // [n][..]
};

}  // namespace

std::vector<double> Attention(const AttentionLayer& layer, int32_t n, const float* q,
                              const float* k, const float* v) {
  std::vector<double> out(int64_t{n} * layer.heads * layer.head_dim);
  for (int32_t h = 0; h < layer.heads; ++h) {
    const Head head(layer, n, h, q, k, v);
    for (int32_t p = 0; p < n; ++p) {
      const Vector row = head.Row(p);
      std::copy(row.begin(), row.end(),
                out.begin() + (int64_t{p} * layer.heads + h) * layer.head_dim);
    }
  }
  return out;
}

std::vector<double> LastRow(const AttentionLayer& layer, int32_t n, const float* q, const float* k,
                            const float* v) {
  std::vector<double> out;
  for (int32_t h = 0; h < layer.heads; ++h) {
    const Vector row = Head(layer, n, h, q, k, v).Row(n - 1);
    out.insert(out.end(), row.begin(), row.end());
  }
  return out;
}

FoldedState Fold(const AttentionLayer& layer, int32_t n, const float* k, const float* v) {
  const int32_t m = layer.feature_dim(), d = layer.head_dim;
  FoldedState state{Vector(int64_t{layer.kv_heads} * m * d), Vector(int64_t{layer.kv_heads} * m)};
  const AttentionForm& form = layer.form;
  if (!form.has_linear()) return state;
  // q is not read by phi_k; k stands in for it, one query head per KV head.
  AttentionLayer keys = layer;
  keys.heads = layer.kv_heads;
  keys.feature_map_q = layer.feature_map_k;
  const int32_t newest = n / form.group_size - form.lag();
  for (int32_t h = 0; h < layer.kv_heads; ++h) {
    const Head head(keys, n, h, k, k, v);
    for (int32_t j = form.sinks; j < n && j / form.group_size <= newest; ++j) {
      const double fade = head.Fade(newest - j / form.group_size);
      for (int32_t a = 0; a < m; ++a) {
        const double weight = fade * head.phi_k(j)[a];
        state.z[int64_t{h} * m + a] += weight;
        for (int32_t i = 0; i < d; ++i) {
          state.s[(int64_t{h} * m + a) * d + i] += weight * head.v(j)[i];
        }
      }
    }
  }
  return state;
}

}  // namespace treeline::reference
