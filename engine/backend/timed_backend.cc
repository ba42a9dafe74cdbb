#include "engine/backend/timed_backend.h"

namespace treeline {
namespace {

template <typename Operation>
double Seconds(const Clock& clock, const Operation& operation) {
  const TimePoint start = clock.Now();
  operation();
  return ToSeconds(clock.Now() - start);
}

}  // namespace

void TimedBackend::MatMul(const MatMulParams& params, const Matrix& matrix) {
  times_.dense_seconds += Seconds(clock_, [&] { decorated().MatMul(params, matrix); });
  times_.dense_operations += 2.0 * params.rows * matrix.n() * matrix.k();
  times_.dense_weight_bytes += static_cast<double>(matrix.bytes());
}

void TimedBackend::GatedMatMul(const GatedMatMulParams& params, const Matrix& gate,
                               const Matrix& up) {
  times_.dense_seconds += Seconds(clock_, [&] { decorated().GatedMatMul(params, gate, up); });
  times_.dense_operations += 4.0 * params.rows * gate.n() * gate.k();
  times_.dense_weight_bytes += static_cast<double>(gate.bytes() + up.bytes());
}

void TimedBackend::Attention(const AttentionParams& params) {
  times_.attention_seconds += Seconds(clock_, [&] { decorated().Attention(params); });
}

void TimedBackend::Commit(std::span<const CommitParams> layers) {
  times_.attention_seconds += Seconds(clock_, [&] { decorated().Commit(layers); });
}

}  // namespace treeline
