// A backend that has another one do everything. Decorators override what they are about.
#ifndef TREELINE_ENGINE_BACKEND_BACKEND_DECORATOR_H_
#define TREELINE_ENGINE_BACKEND_BACKEND_DECORATOR_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "engine/backend/backend.h"

namespace treeline {

class BackendDecorator : public Backend {
 public:
  explicit BackendDecorator(std::unique_ptr<Backend> backend) : backend_(std::move(backend)) {}

  std::string Describe() const override { return backend_->Describe(); }
  size_t DefaultStateMemory() const override { return backend_->DefaultStateMemory(); }
  StatusOr<Buffer> Allocate(size_t bytes) override { return backend_->Allocate(bytes); }
  void Copy(void* to, const void* from, size_t bytes) override { backend_->Copy(to, from, bytes); }
  void CopyPieces(std::span<const CopyParams> pieces) override { backend_->CopyPieces(pieces); }
  void CopyToDevice(void* to, const void* from, size_t bytes) override {
    backend_->CopyToDevice(to, from, bytes);
  }
  void CopyToHost(void* to, const void* from, size_t bytes,
                  const std::function<void()>& meanwhile) override {
    backend_->CopyToHost(to, from, bytes, meanwhile);
  }
  StatusOr<std::unique_ptr<Matrix>> CreateMatrix(WeightType type, int32_t n, int32_t k,
                                                 const RowReader& read_row) override {
    return backend_->CreateMatrix(type, n, k, read_row);
  }
  void Embed(const Matrix& table, std::span<const int32_t> token_ids, float* y) override {
    backend_->Embed(table, token_ids, y);
  }
  void MatMul(const MatMulParams& params, const Matrix& matrix) override {
    backend_->MatMul(params, matrix);
  }
  void GatedMatMul(const GatedMatMulParams& params, const Matrix& gate, const Matrix& up) override {
    backend_->GatedMatMul(params, gate, up);
  }
  void RmsNorm(const RmsNormParams& params) override { backend_->RmsNorm(params); }
  void RopeAngles(const RopeAnglesParams& params) override { backend_->RopeAngles(params); }
  void RopeQkv(const RopeQkvParams& params) override { backend_->RopeQkv(params); }
  void AddBias(const AddBiasParams& params) override { backend_->AddBias(params); }
  void ResidualSilu(const ResidualSiluParams& params) override { backend_->ResidualSilu(params); }
  void TopTokens(const TopTokensParams& params) override { backend_->TopTokens(params); }
  void DrawTokens(const DrawTokensParams& params) override { backend_->DrawTokens(params); }
  void Attention(const AttentionParams& params) override { backend_->Attention(params); }
  void Commit(std::span<const CommitParams> layers) override { backend_->Commit(layers); }
  Status Synchronize() override { return backend_->Synchronize(); }
  Status FailureSoFar() override { return backend_->FailureSoFar(); }
  std::unique_ptr<DeviceTimer> CreateTimer() override { return backend_->CreateTimer(); }
  size_t PeakMemory() const override { return backend_->PeakMemory(); }
  ThreadPool& host_threads() override { return backend_->host_threads(); }

 protected:
  Backend& decorated() { return *backend_; }

 private:
  const std::unique_ptr<Backend> backend_;
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_BACKEND_BACKEND_DECORATOR_H_
