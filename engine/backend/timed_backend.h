// A backend that runs everything on another one and adds up what it took: where the
// time of a step goes, for benchmarks. For backends whose operations are done when
// the call returns, as the CPU's are.
#ifndef TREELINE_ENGINE_BACKEND_TIMED_BACKEND_H_
#define TREELINE_ENGINE_BACKEND_TIMED_BACKEND_H_

#include <memory>
#include <string>

#include "engine/backend/backend.h"
#include "engine/base/clock.h"

namespace treeline {

// Norms, rotations, activations and copies are in neither time.
struct OperationTimes {
  double dense_seconds = 0;       // MatMul and GatedMatMul.
  double attention_seconds = 0;   // Attention and Commit.
  double dense_operations = 0;    // Floating-point operations of these.
  double dense_weight_bytes = 0;  // Bytes of its matrices, counted each time they are used.
};

class TimedBackend : public Backend {
 public:
  // `clock` must outlive this.
  TimedBackend(std::unique_ptr<Backend> backend, const Clock& clock)
      : backend_(std::move(backend)), clock_(clock) {}

  // What was added up since the last call.
  OperationTimes Take() { return std::exchange(times_, OperationTimes()); }

  std::string Describe() const override { return backend_->Describe(); }
  size_t DefaultStateMemory() const override { return backend_->DefaultStateMemory(); }
  StatusOr<Buffer> Allocate(size_t bytes) override { return backend_->Allocate(bytes); }
  void Copy(void* to, const void* from, size_t bytes) override { backend_->Copy(to, from, bytes); }
  void CopyToDevice(void* to, const void* from, size_t bytes) override {
    backend_->CopyToDevice(to, from, bytes);
  }
  void CopyToHost(void* to, const void* from, size_t bytes) override {
    backend_->CopyToHost(to, from, bytes);
  }
  StatusOr<std::unique_ptr<Matrix>> CreateMatrix(WeightType type, int32_t n, int32_t k,
                                                 const RowReader& read_row) override {
    return backend_->CreateMatrix(type, n, k, read_row);
  }
  void Embed(const Matrix& table, std::span<const int32_t> token_ids, float* y) override {
    backend_->Embed(table, token_ids, y);
  }
  void MatMul(const MatMulParams& params, const Matrix& matrix) override;
  void GatedMatMul(const GatedMatMulParams& params, const Matrix& gate, const Matrix& up) override;
  void RmsNorm(const RmsNormParams& params) override { backend_->RmsNorm(params); }
  void AddBias(const AddBiasParams& params) override { backend_->AddBias(params); }
  void ResidualSilu(const ResidualSiluParams& params) override { backend_->ResidualSilu(params); }
  void RopeAngles(const RopeAnglesParams& params) override { backend_->RopeAngles(params); }
  void RopeQkv(const RopeQkvParams& params) override { backend_->RopeQkv(params); }
  void TopTokens(const TopTokensParams& params) override { backend_->TopTokens(params); }
  void Attention(const AttentionParams& params) override;
  void Commit(const CommitParams& params) override;
  Status Synchronize() override { return backend_->Synchronize(); }
  ThreadPool& host_threads() override { return backend_->host_threads(); }

 private:
  const std::unique_ptr<Backend> backend_;
  const Clock& clock_;
  OperationTimes times_;
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_BACKEND_TIMED_BACKEND_H_
