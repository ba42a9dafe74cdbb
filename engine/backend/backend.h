// A device that runs operations: memory, weights in its own layout, and one method
// an operation of kernels/params.h. It knows no model. Pointers in params are device
// pointers of this backend.
//
// Operations may run asynchronously but always in the order they were called; the first
// one that fails makes all that follow do nothing, until Synchronize tells. One thread
// at a time.
#ifndef TREELINE_ENGINE_BACKEND_BACKEND_H_
#define TREELINE_ENGINE_BACKEND_BACKEND_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/base/status.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/params.h"
#include "kernels/vocabulary_params.h"

namespace treeline {

// A weight matrix W [n, k] in the backend's own layout; y = x W^T. Belongs to its backend,
// which must outlive it.
class Matrix {
 public:
  virtual ~Matrix() = default;
  virtual int32_t n() const = 0;
  virtual int32_t k() const = 0;
  virtual size_t bytes() const = 0;
};

// Device memory, freed with its last owner.
using Buffer = std::shared_ptr<void>;

// Times operations on a device's own clock, for benchmarks; they do not overlap then. Belongs to
// its backend, which must outlive it.
class DeviceTimer {
 public:
  virtual ~DeviceTimer() = default;
  // The moment when all that was called before is done.
  virtual void Mark() = 0;
  // Waits. The seconds from each mark to the next one since the last call; 0 after a failure, which
  // Synchronize tells.
  virtual std::vector<double> Take() = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  // For people: "CPU, 2 threads, AVX3; int8 products by int8-avx512vnni (1500 GFLOP/s)".
  virtual std::string Describe() const = 0;
  // Bytes that states may reasonably take where the user names no limit.
  virtual size_t DefaultStateMemory() const = 0;

  // Memory aligned to 64 bytes, contents undefined. RESOURCE_EXHAUSTED naming the size, where that
  // much is not to be had: a failure of this call only.
  virtual StatusOr<Buffer> Allocate(size_t bytes) = 0;
  virtual void Copy(void* to, const void* from, size_t bytes) = 0;  // On the device.
  // The same of many pieces at once, none of which overlaps another.
  virtual void CopyPieces(std::span<const CopyParams> pieces) = 0;
  virtual void CopyToDevice(void* to, const void* from, size_t bytes) = 0;
  // Returns when `to` is there. What `meanwhile` calls comes after the copy, and is not waited for.
  virtual void CopyToHost(void* to, const void* from, size_t bytes,
                          const std::function<void()>& meanwhile = nullptr) = 0;

  // Builds a matrix; read_row(i, values) fills row i's k values and is called once a row,
  // from several threads at once.
  using RowReader = std::function<void(int32_t row, std::span<float> values)>;
  virtual StatusOr<std::unique_ptr<Matrix>> CreateMatrix(WeightType type, int32_t n, int32_t k,
                                                         const RowReader& read_row) = 0;

  // y[i] = row token_ids[i] of table. token_ids is host memory; y: [token_ids.size(), k].
  virtual void Embed(const Matrix& table, std::span<const int32_t> token_ids, float* y) = 0;
  virtual void MatMul(const MatMulParams& params, const Matrix& matrix) = 0;
  // gate and up: [n, k] of one WeightType.
  virtual void GatedMatMul(const GatedMatMulParams& params, const Matrix& gate,
                           const Matrix& up) = 0;
  virtual void RmsNorm(const RmsNormParams& params) = 0;
  virtual void RopeAngles(const RopeAnglesParams& params) = 0;
  virtual void RopeQkv(const RopeQkvParams& params) = 0;
  virtual void AddBias(const AddBiasParams& params) = 0;
  virtual void ResidualSilu(const ResidualSiluParams& params) = 0;
  virtual void TopTokens(const TopTokensParams& params) = 0;
  virtual void DrawTokens(const DrawTokensParams& params) = 0;
  virtual void Attention(const AttentionParams& params) = 0;
  // Each of another layer: the same rows of the same sequences.
  virtual void Commit(std::span<const CommitParams> layers) = 0;

  // Waits for everything called so far; the first failure among it, or OK. UNAVAILABLE where the
  // device is lost: this and every later call fails.
  virtual Status Synchronize() = 0;
  // What is known to have failed without waiting: memory that was short, a call that was refused.
  virtual Status FailureSoFar() = 0;

  // Null where operations are done when their call returns, so that any clock will do.
  virtual std::unique_ptr<DeviceTimer> CreateTimer() = 0;
  // Bytes of the device's own memory that were taken at once at most so far, by everything; 0 where
  // the device's memory is the host's.
  virtual size_t PeakMemory() const = 0;

  // Threads for work on the host, between operations.
  virtual ThreadPool& host_threads() = 0;
};

struct CpuBackendOptions {
  int32_t threads = 0;  // 0: one for each core.
  // The kernel of dense products by name (kernels/cpu/matmul_kernel.h), "auto" for the one that
  // proves fastest for each type of weights. "fp32" takes activations as they are.
  std::string matmul_kernel = "auto";
};

// INVALID_ARGUMENT where this CPU has no such kernel.
StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(const CpuBackendOptions& options);

}  // namespace treeline

#endif  // TREELINE_ENGINE_BACKEND_BACKEND_H_
