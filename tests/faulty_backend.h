// A backend that tests can break: a GPU in earnest, a CPU, which has no faults of that kind,
// by what it says.
#ifndef TREELINE_TESTS_FAULTY_BACKEND_H_
#define TREELINE_TESTS_FAULTY_BACKEND_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "engine/backend/backend_decorator.h"

namespace treeline {

class FaultyBackend : public BackendDecorator {
 public:
  FaultyBackend(std::unique_ptr<Backend> backend, bool on_gpu)
      : BackendDecorator(std::move(backend)), on_gpu_(on_gpu) {}

  // Asked as every step begins, on the thread that runs it. "No": the device does not survive the
  // step.
  void set_survives(std::function<bool()> survives) { survives_ = std::move(survives); }

  // From here to GiveMemoryBack no memory is left. REQUIRES: nothing runs.
  void TakeAllMemory() {
    no_memory_ = !on_gpu_;
    if (!on_gpu_) return;
    constexpr size_t kSmallest = 512;
    for (size_t bytes = size_t{1} << 30; bytes >= kSmallest; bytes /= 2) {
      for (auto memory = Allocate(bytes); memory.ok(); memory = Allocate(bytes)) {
        taken_.push_back(*std::move(memory));
      }
    }
  }
  void GiveMemoryBack() {
    no_memory_ = false;
    taken_.clear();
  }

  StatusOr<Buffer> Allocate(size_t bytes) override {
    if (!on_gpu_ && (no_memory_ || bytes > kMostOfACpu)) {
      return ResourceExhausted("cannot allocate {} MiB of memory", bytes >> 20);
    }
    return decorated().Allocate(bytes);
  }
  StatusOr<std::unique_ptr<Matrix>> CreateMatrix(WeightType type, int32_t n, int32_t k,
                                                 const RowReader& read_row) override {
    if (no_memory_) return ResourceExhausted("cannot allocate a weight matrix of [{}, {}]", n, k);
    return decorated().CreateMatrix(type, n, k, read_row);
  }

  // The first operation of a step.
  void Embed(const Matrix& table, std::span<const int32_t> token_ids, float* y) override {
    const bool survives = survives_();
    lost_ = lost_ || !survives;
    // A kernel that writes where no memory is.
    float* const nowhere = reinterpret_cast<float*>(uintptr_t{256});
    decorated().Embed(table, token_ids, on_gpu_ && !survives ? nowhere : y);
  }

  Status Synchronize() override {
    if (lost_ && !on_gpu_) return MakeStatus(StatusCode::kUnavailable, "the CPU is lost");
    return decorated().Synchronize();
  }
  Status FailureSoFar() override {
    return lost_ && !on_gpu_ ? Synchronize() : decorated().FailureSoFar();
  }

 private:
  // More than any test needs, and than a machine need have.
  static constexpr size_t kMostOfACpu = size_t{1} << 30;

  const bool on_gpu_;
  std::function<bool()> survives_ = [] { return true; };
  bool lost_ = false;
  bool no_memory_ = false;
  std::vector<Buffer> taken_;
};

}  // namespace treeline

#endif  // TREELINE_TESTS_FAULTY_BACKEND_H_
