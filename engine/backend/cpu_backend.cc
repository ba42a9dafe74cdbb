#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <new>
#include <set>
#include <thread>

#include "engine/backend/backend.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/cpu_level.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/matmul_choice.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/token_drawer.h"
#include "kernels/cpu/vocabulary.h"

namespace treeline {
namespace {

// The machine's memory, or what the container may use of it.
size_t AvailableMemory() {
  size_t bytes =
      static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
  size_t limit = 0;  // Not a number where there is no limit: "max".
  if (std::ifstream("/sys/fs/cgroup/memory.max") >> limit) bytes = std::min(bytes, limit);
  return bytes;
}

const char* TypeName(WeightType type) {
  constexpr const char* kNames[] = {"fp32", "bf16", "int8", "int4"};
  return kNames[static_cast<int>(type)];
}

// A kernel and, where it was chosen by trying, how it did.
struct KernelChoice {
  const cpu::MatMulKernel* kernel = nullptr;
  std::string summary;
};

KernelChoice FastestKernel(WeightType type, ThreadPool& pool) {
  const std::vector<cpu::MatMulSpeed> ranking = cpu::RankMatMulKernels(type, pool);
  const auto gflops = [](const cpu::MatMulSpeed& speed) { return speed.prefill_flops / 1e9; };
  std::vector<std::string> others;
  for (size_t i = 1; i < ranking.size(); ++i) {
    others.push_back(fmt::format("{} {:.0f}", ranking[i].kernel->name, gflops(ranking[i])));
  }
  return {ranking[0].kernel,
          fmt::format("{} ({:.0f} GFLOP/s{}{})", ranking[0].kernel->name, gflops(ranking[0]),
                      others.empty() ? "" : "; ", fmt::join(others, ", "))};
}

StatusOr<KernelChoice> NamedKernel(const std::string& name, WeightType type) {
  const std::vector<const cpu::MatMulKernel*> kernels = cpu::MatMulKernels(type);
  std::vector<std::string> names;
  for (const cpu::MatMulKernel* kernel : kernels) {
    if (name == kernel->name) return KernelChoice{kernel, name};
    names.push_back(kernel->name);
  }
  return InvalidArgument("--matmul-kernel {}: for {} weights this CPU has {}", name, TypeName(type),
                         fmt::join(names, ", "));
}

class CpuMatrix : public Matrix {
 public:
  CpuMatrix(WeightType type, int32_t n, int32_t k, const cpu::MatMulKernel& kernel,
            cpu::WeightArena& arena)
      : packed(type, n, k, arena), kernel(kernel) {}
  int32_t n() const override { return packed.n(); }
  int32_t k() const override { return packed.k(); }
  size_t bytes() const override { return packed.bytes(); }

  cpu::PackedMatrix packed;
  const cpu::MatMulKernel& kernel;
};

constexpr char kMeasured[] = "auto";

class CpuBackend : public Backend {
 public:
  CpuBackend(int32_t num_threads, std::string matmul_kernel)
      : matmul_kernel_(std::move(matmul_kernel)),
        pool_(num_threads),
        workspace_(pool_.num_threads()),
        token_drawers_(pool_.num_threads()) {}

  std::string Describe() const override {
    std::string text = fmt::format("CPU, {} threads, {}", pool_.num_threads(), cpu::TargetName());
    for (const auto& [type, choice] : kernels_) {
      text += fmt::format("; {} products by {}", TypeName(type), choice.summary);
    }
    return text;
  }

  size_t DefaultStateMemory() const override {
    // A quarter of the machine: the rest is for weights, activations and everything else.
    // Pages are only taken when a slot is first used.
    return AvailableMemory() / 4;
  }

  StatusOr<Buffer> Allocate(size_t bytes) override {
    void* data = nullptr;
    if (posix_memalign(&data, 64, std::max<size_t>(bytes, 64)) != 0) {
      return ResourceExhausted("cannot allocate {} MiB of memory", bytes >> 20);
    }
    return Buffer(data, std::free);
  }
  void Copy(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  void CopyPieces(std::span<const CopyParams> pieces) override {
    for (const CopyParams& piece : pieces) std::memcpy(piece.to, piece.from, piece.bytes);
  }
  void CopyToDevice(void* to, const void* from, size_t bytes) override {
    std::memcpy(to, from, bytes);
  }
  void CopyToHost(void* to, const void* from, size_t bytes,
                  const std::function<void()>& meanwhile) override {
    std::memcpy(to, from, bytes);
    if (meanwhile) meanwhile();
  }

  StatusOr<std::unique_ptr<Matrix>> CreateMatrix(WeightType type, int32_t n, int32_t k,
                                                 const RowReader& read_row) override {
    TREELINE_ASSIGN_OR_RETURN(const cpu::MatMulKernel* kernel, KernelFor(type));
    std::unique_ptr<CpuMatrix> matrix;
    std::vector<std::vector<float>> thread_rows;
    try {
      matrix = std::make_unique<CpuMatrix>(type, n, k, *kernel, arena_);
      thread_rows.assign(pool_.num_threads(), std::vector<float>(k));
    } catch (const std::bad_alloc&) {
      return ResourceExhausted("cannot allocate a weight matrix of [{}, {}]", n, k);
    }
    constexpr int32_t kRows = cpu::kPanelColumns;
    pool_.ParallelFor((n + kRows - 1) / kRows, [&](int64_t task, int32_t thread) {
      std::vector<float>& row = thread_rows[thread];
      const int32_t begin = static_cast<int32_t>(task) * kRows;
      for (int32_t i = begin; i < std::min(begin + kRows, n); ++i) {
        read_row(i, row);
        matrix->packed.SetRow(i, row);
      }
    });
    return matrix;
  }

  void Embed(const Matrix& table, std::span<const int32_t> token_ids, float* y) override {
    const int32_t k = table.k();
    for (size_t i = 0; i < token_ids.size(); ++i) {
      Packed(table).GetRow(token_ids[i], std::span<float>(y + i * k, k));
    }
  }
  void MatMul(const MatMulParams& params, const Matrix& matrix) override {
    cpu::MatMul(params, Packed(matrix), static_cast<const CpuMatrix&>(matrix).kernel,
                matmul_workspace_, pool_);
  }
  void GatedMatMul(const GatedMatMulParams& params, const Matrix& gate, const Matrix& up) override {
    cpu::GatedMatMul(params, Packed(gate), Packed(up), static_cast<const CpuMatrix&>(gate).kernel,
                     matmul_workspace_, pool_);
  }
  void RmsNorm(const RmsNormParams& params) override { cpu::RmsNorm(params, pool_); }
  void RopeAngles(const RopeAnglesParams& params) override { cpu::RopeAngles(params, pool_); }
  void RopeQkv(const RopeQkvParams& params) override { cpu::RopeQkv(params, pool_); }
  void AddBias(const AddBiasParams& params) override { cpu::AddBias(params, pool_); }
  void ResidualSilu(const ResidualSiluParams& params) override { cpu::ResidualSilu(params, pool_); }
  void TopTokens(const TopTokensParams& params) override {
    pool_.ParallelFor(params.rows, [&](int64_t row, int32_t) {
      cpu::TopTokens({params.logits + row * params.n, params.ids + row * params.k,
                      params.logprobs + row * params.k, 1, params.n, params.k});
    });
  }
  void DrawTokens(const DrawTokensParams& params) override {
    pool_.ParallelFor(params.rows, [&](int64_t row, int32_t thread) {
      params.tokens[row] = token_drawers_[thread].Draw(
          {params.logits + row * params.n, static_cast<size_t>(params.n)}, params.draws[row]);
    });
  }
  void Attention(const AttentionParams& params) override {
    cpu::Attention(params, workspace_, pool_);
  }
  void Commit(std::span<const CommitParams> layers) override {
    for (const CommitParams& params : layers) cpu::Commit(params, workspace_, pool_);
  }

  Status Synchronize() override { return OkStatus(); }
  Status FailureSoFar() override { return OkStatus(); }
  std::unique_ptr<DeviceTimer> CreateTimer() override { return nullptr; }
  size_t PeakMemory() const override { return 0; }
  ThreadPool& host_threads() override { return pool_; }

 private:
  static const cpu::PackedMatrix& Packed(const Matrix& matrix) {
    return static_cast<const CpuMatrix&>(matrix).packed;
  }

  StatusOr<const cpu::MatMulKernel*> KernelFor(WeightType type) {
    const auto found = kernels_.find(type);
    if (found != kernels_.end()) return found->second.kernel;
    KernelChoice choice;
    if (matmul_kernel_ == kMeasured) {
      choice = FastestKernel(type, pool_);
    } else {
      TREELINE_ASSIGN_OR_RETURN(choice, NamedKernel(matmul_kernel_, type));
    }
    return kernels_.emplace(type, std::move(choice)).first->second.kernel;
  }

  const std::string matmul_kernel_;
  ThreadPool pool_;
  cpu::WeightArena arena_;
  cpu::MatMulWorkspace matmul_workspace_;
  cpu::AttentionWorkspace workspace_;
  std::vector<cpu::TokenDrawer> token_drawers_;  // One a thread.
  std::map<WeightType, KernelChoice> kernels_;   // Of the types that matrices have.
};

}  // namespace

StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(const CpuBackendOptions& options) {
  if (options.matmul_kernel != kMeasured) {
    // Whether it fits the weights shows when they are loaded; that it exists, now.
    std::set<std::string> names;
    for (const WeightType type :
         {WeightType::kF32, WeightType::kBF16, WeightType::kInt8, WeightType::kInt4}) {
      for (const cpu::MatMulKernel* kernel : cpu::MatMulKernels(type)) names.insert(kernel->name);
    }
    if (!names.contains(options.matmul_kernel)) {
      return InvalidArgument("--matmul-kernel {}: this CPU has {} (and auto)",
                             options.matmul_kernel, fmt::join(names, ", "));
    }
  }
  const int32_t cores = std::max(1, static_cast<int32_t>(std::thread::hardware_concurrency()));
  return std::make_unique<CpuBackend>(options.threads == 0 ? cores : options.threads,
                                      options.matmul_kernel);
}

}  // namespace treeline
