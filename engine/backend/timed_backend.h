// A backend that runs everything on another one and adds up what it took: where the
// time of a step goes, for benchmarks.
#ifndef TREELINE_ENGINE_BACKEND_TIMED_BACKEND_H_
#define TREELINE_ENGINE_BACKEND_TIMED_BACKEND_H_

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/backend/backend_decorator.h"
#include "engine/base/clock.h"

namespace treeline {

// Norms, rotations, activations and copies are in neither time.
struct OperationTimes {
  double dense_seconds = 0;       // MatMul and GatedMatMul.
  double attention_seconds = 0;   // Attention and Commit.
  double dense_operations = 0;    // Floating-point operations of these.
  double dense_weight_bytes = 0;  // Bytes of its matrices, counted each time they are used.
};

class TimedBackend : public BackendDecorator {
 public:
  // `clock` must outlive this.
  TimedBackend(std::unique_ptr<Backend> backend, const Clock& clock)
      : BackendDecorator(std::move(backend)), clock_(clock), timer_(CreateTimer()) {}

  // Operations run on when their call has returned. They are slower while they are timed, so that
  // this must be asked for: seconds are 0 otherwise.
  bool is_asynchronous() const { return timer_ != nullptr; }
  void set_is_timing(bool is_timing) { is_timing_ = is_timing; }

  // What was added up since the last call.
  OperationTimes Take();

  void MatMul(const MatMulParams& params, const Matrix& matrix) override;
  void GatedMatMul(const GatedMatMulParams& params, const Matrix& gate, const Matrix& up) override;
  void Attention(const AttentionParams& params) override;
  void Commit(std::span<const CommitParams> layers) override;

 private:
  template <typename Operation>
  void Time(double OperationTimes::*seconds, const Operation& operation);

  const Clock& clock_;
  const std::unique_ptr<DeviceTimer> timer_;
  bool is_timing_ = false;
  // What the timer has marked the beginning and the end of.
  std::vector<double OperationTimes::*> marked_;
  OperationTimes times_;
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_BACKEND_TIMED_BACKEND_H_
