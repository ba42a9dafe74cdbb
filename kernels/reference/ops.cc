#include "kernels/reference/ops.h"

#include <cmath>
#include <vector>

#include "kernels/float_types.h"

namespace treeline::reference {

void RmsNorm(const RmsNormParams& params) {
  for (int32_t row = 0; row < params.rows; ++row) {
    const float* x = params.x + int64_t{row} * params.dim;
    float* y = params.y + int64_t{row} * params.dim;
    double sum = 0;
    for (int32_t i = 0; i < params.dim; ++i) sum += double{x[i]} * x[i];
    const double scale = 1.0 / std::sqrt(sum / params.dim + params.eps);
    for (int32_t i = 0; i < params.dim; ++i) {
      y[i] = static_cast<float>(x[i] * scale * params.weight[i]);
    }
  }
}

void RopeAngles(const RopeAnglesParams& params) {
  const int32_t half = params.head_dim / 2;
  for (int32_t row = 0; row < params.rows; ++row) {
    float* cosines = params.angles + int64_t{row} * params.head_dim;
    for (int32_t i = 0; i < half; ++i) {
      // The angle is a float product, as in the models' training code.
      const double angle =
          static_cast<float>(params.positions[row]) * params.inverse_frequencies[i];
      cosines[i] = static_cast<float>(params.scale * std::cos(angle));
      cosines[half + i] = static_cast<float>(params.scale * std::sin(angle));
    }
  }
}

void RopeQkv(const RopeQkvParams& params) {
  const int32_t dim = params.head_dim, half = dim / 2;
  const int32_t turned = params.heads + params.kv_heads, all = turned + params.kv_heads;
  for (int32_t row = 0; row < params.rows; ++row) {
    const float* cosines = params.angles + int64_t{row} * dim;
    for (int32_t head = 0; head < all; ++head) {
      float* x = params.qkv + (int64_t{row} * all + head) * dim;
      const bool is_query = head < params.heads;
      float* y = is_query
                     ? x
                     : params.kv + (int64_t{row} * 2 * params.kv_heads + head - params.heads) * dim;
      for (int32_t i = 0; i < half; ++i) {
        const double a = x[i], b = x[i + half];
        const double cosine = head < turned ? cosines[i] : 1.0;
        const double sine = head < turned ? cosines[half + i] : 0.0;
        y[i] = static_cast<float>(a * cosine - b * sine);
        y[i + half] = static_cast<float>(b * cosine + a * sine);
      }
      if (is_query || params.state_type == StateType::kF32) continue;
      for (int32_t i = 0; i < dim; ++i) y[i] = Bf16ToFloat(FloatToBf16(y[i]));
    }
  }
}

void AddBias(const AddBiasParams& params) {
  for (int32_t row = 0; row < params.rows; ++row) {
    for (int32_t i = 0; i < params.dim; ++i) {
      params.x[int64_t{row} * params.dim + i] += params.bias[i];
    }
  }
}

void ResidualSilu(const ResidualSiluParams& params) {
  for (int32_t row = 0; row < params.rows; ++row) {
    for (int32_t head = 0; head < params.heads; ++head) {
      for (int32_t i = 0; i < params.dim; ++i) {
        const auto biased = [&](int32_t part) {
          const int64_t parts = params.x == nullptr ? 2 : 1;
          const int64_t at = (int64_t{part} * params.heads + head) * params.dim + i;
          return double{params.gates[row * parts * params.heads * params.dim + at]} +
                 params.bias[at];
        };
        const double gate = biased(0);
        const double x =
            params.x == nullptr ? biased(1) : double{params.x[int64_t{row} * params.dim + i]};
        params.y[(int64_t{head} * params.rows + row) * params.dim + i] =
            static_cast<float>(x + gate / (1 + std::exp(-gate)));
      }
    }
  }
}

namespace {

// x as a product takes it.
std::vector<float> Normalised(const float* x, int32_t rows, int32_t k, const Normalization& norm) {
  std::vector<float> y(x, x + int64_t{rows} * k);
  if (norm.weight != nullptr) RmsNorm({x, norm.weight, y.data(), rows, k, norm.eps});
  return y;
}

double Dot(const float* a, const float* b, int32_t n) {
  double sum = 0;
  for (int32_t i = 0; i < n; ++i) sum += double{a[i]} * b[i];
  return sum;
}

}  // namespace

void MatMul(const MatMulParams& params, const float* weight, int32_t n, int32_t k) {
  const std::vector<float> x = Normalised(params.x, params.rows, k, params.norm);
  for (int32_t row = 0; row < params.rows; ++row) {
    for (int32_t column = 0; column < n; ++column) {
      const double sum = Dot(x.data() + int64_t{row} * k, weight + int64_t{column} * k, k);
      float& y = params.y[int64_t{row} * n + column];
      y = static_cast<float>(params.accumulate ? y + sum : sum);
    }
  }
}

void GatedMatMul(const GatedMatMulParams& params, const float* gate, const float* up, int32_t n,
                 int32_t k) {
  const std::vector<float> normalised = Normalised(params.x, params.rows, k, params.norm);
  for (int32_t row = 0; row < params.rows; ++row) {
    const float* x = normalised.data() + int64_t{row} * k;
    for (int32_t column = 0; column < n; ++column) {
      double g = Dot(x, gate + int64_t{column} * k, k), u = Dot(x, up + int64_t{column} * k, k);
      if (params.gate_bias != nullptr) g += params.gate_bias[column];
      if (params.up_bias != nullptr) u += params.up_bias[column];
      params.y[int64_t{row} * n + column] = static_cast<float>(g / (1.0 + std::exp(-g)) * u);
    }
  }
}

}  // namespace treeline::reference
