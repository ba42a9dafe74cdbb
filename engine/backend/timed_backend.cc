#include "engine/backend/timed_backend.h"

namespace treeline {

template <typename Operation>
void TimedBackend::Time(double OperationTimes::*seconds, const Operation& operation) {
  if (!is_asynchronous()) {
    const TimePoint start = clock_.Now();
    operation();
    times_.*seconds += ToSeconds(clock_.Now() - start);
    return;
  }
  if (is_timing_) timer_->Mark();
  operation();
  if (!is_timing_) return;
  timer_->Mark();
  marked_.push_back(seconds);
}

OperationTimes TimedBackend::Take() {
  if (!marked_.empty()) {
    const std::vector<double> between_marks = timer_->Take();
    for (size_t i = 0; i < marked_.size() && 2 * i < between_marks.size(); ++i) {
      times_.*marked_[i] += between_marks[2 * i];
    }
    marked_.clear();
  }
  return std::exchange(times_, OperationTimes());
}

void TimedBackend::MatMul(const MatMulParams& params, const Matrix& matrix) {
  Time(&OperationTimes::dense_seconds, [&] { decorated().MatMul(params, matrix); });
  times_.dense_operations += 2.0 * params.rows * matrix.n() * matrix.k();
  times_.dense_weight_bytes += static_cast<double>(matrix.bytes());
}

void TimedBackend::GatedMatMul(const GatedMatMulParams& params, const Matrix& gate,
                               const Matrix& up) {
  Time(&OperationTimes::dense_seconds, [&] { decorated().GatedMatMul(params, gate, up); });
  times_.dense_operations += 4.0 * params.rows * gate.n() * gate.k();
  times_.dense_weight_bytes += static_cast<double>(gate.bytes() + up.bytes());
}

void TimedBackend::Attention(const AttentionParams& params) {
  Time(&OperationTimes::attention_seconds, [&] { decorated().Attention(params); });
}

void TimedBackend::Commit(std::span<const CommitParams> layers) {
  Time(&OperationTimes::attention_seconds, [&] { decorated().Commit(layers); });
}

}  // namespace treeline
