#include "kernels/reference/ops.h"

#include <cmath>

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

void Rope(const RopeParams& params) {
  const int32_t half = params.head_dim / 2;
  for (int32_t row = 0; row < params.rows; ++row) {
    for (int32_t head = 0; head < params.heads; ++head) {
      float* x = params.x + int64_t{row} * params.row_stride + head * params.head_dim;
      for (int32_t i = 0; i < half; ++i) {
        // The angle is a float product, as in the models' training code.
        const double angle =
            static_cast<float>(params.positions[row]) * params.inverse_frequencies[i];
        const double a = x[i], b = x[i + half];
        x[i] = static_cast<float>(params.scale * (a * std::cos(angle) - b * std::sin(angle)));
        x[i + half] =
            static_cast<float>(params.scale * (b * std::cos(angle) + a * std::sin(angle)));
      }
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

void SwiGlu(const SwiGluParams& params) {
  for (int32_t row = 0; row < params.rows; ++row) {
    const float* gate = params.x + int64_t{row} * 2 * params.dim;
    const float* up = gate + params.dim;
    float* y = params.y + int64_t{row} * params.dim;
    for (int32_t i = 0; i < params.dim; ++i) {
      y[i] = static_cast<float>(gate[i] / (1.0 + std::exp(-double{gate[i]})) * up[i]);
    }
  }
}

void MatMul(const MatMulParams& params, const float* weight, int32_t n, int32_t k) {
  for (int32_t row = 0; row < params.rows; ++row) {
    for (int32_t column = 0; column < n; ++column) {
      double sum = 0;
      for (int32_t i = 0; i < k; ++i) {
        sum += double{params.x[int64_t{row} * k + i]} * weight[int64_t{column} * k + i];
      }
      float& y = params.y[int64_t{row} * n + column];
      y = static_cast<float>(params.accumulate ? y + sum : sum);
    }
  }
}

}  // namespace treeline::reference
