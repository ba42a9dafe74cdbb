#include "engine/backend/cuda_backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/copy_pieces.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/stream.h"
#include "kernels/cuda/timer.h"
#include "kernels/cuda/token_drawer.h"
#include "kernels/cuda/vocabulary.h"
#include "kernels/float_types.h"

namespace treeline {
namespace {

// What has failed on the stream; OK where nothing has.
Status Result(cuda::Stream& stream) {
  const std::string error = stream.Synchronize();
  if (error.empty()) return OkStatus();
  // After a fault of the GPU, unlike after a call that was refused, every call fails.
  if (stream.Synchronize().empty()) return Internal("{}", error);
  return MakeStatus(StatusCode::kUnavailable, "the GPU is lost to this process: {}", error);
}

// Device memory goes back to the pool of its stream, which lives as long.
StatusOr<Buffer> AllocateOn(const std::shared_ptr<cuda::Stream>& stream, size_t bytes) {
  void* data = stream->Allocate(bytes);
  if (data == nullptr) {
    if (!stream->ok()) return Result(*stream);
    return ResourceExhausted("cannot allocate {} MiB of GPU memory", bytes >> 20);
  }
  return Buffer(data, [stream](void* memory) { stream->Free(memory); });
}

class CudaMatrix : public Matrix {
 public:
  CudaMatrix(WeightType type, int32_t n, int32_t k, Buffer data)
      : view{type, n, k, data.get()}, data_(std::move(data)) {}
  int32_t n() const override { return view.n; }
  int32_t k() const override { return view.k; }
  size_t bytes() const override { return size_t(view.n) * view.k * ElementBytes(view.type); }

  static size_t ElementBytes(WeightType type) { return type == WeightType::kF32 ? 4 : 2; }

  const cuda::DeviceMatrix view;

 private:
  const Buffer data_;
};

const cuda::DeviceMatrix& View(const Matrix& matrix) {
  return static_cast<const CudaMatrix&>(matrix).view;
}

class CudaTimer : public DeviceTimer {
 public:
  explicit CudaTimer(cuda::Stream& stream) : timer_(stream) {}
  void Mark() override { timer_.Mark(); }
  std::vector<double> Take() override { return timer_.Take(); }

 private:
  cuda::Timer timer_;
};

class CudaBackend : public Backend {
 public:
  CudaBackend(cuda::Device device, std::shared_ptr<cuda::Stream> stream,
              std::unique_ptr<cuda::DenseProducts> products, int32_t threads)
      : device_(std::move(device)),
        pool_(threads),
        stream_(std::move(stream)),
        products_(std::move(products)),
        token_drawer_(*stream_),
        attention_(*stream_) {}

  std::string Describe() const override {
    return fmt::format("{}, compute capability {}.{}, {:.1f} GiB", device_.name,
                       device_.compute_major, device_.compute_minor,
                       static_cast<double>(device_.total_bytes) / (1 << 30));
  }

  // Half of what was free at the start: weights and a step's memory take the rest.
  size_t DefaultStateMemory() const override { return device_.free_bytes / 2; }

  StatusOr<Buffer> Allocate(size_t bytes) override { return AllocateOn(stream_, bytes); }
  void Copy(void* to, const void* from, size_t bytes) override { stream_->Copy(to, from, bytes); }
  void CopyPieces(std::span<const CopyParams> pieces) override {
    cuda::CopyPieces(pieces, *stream_);
  }
  void CopyToDevice(void* to, const void* from, size_t bytes) override {
    stream_->CopyToDevice(to, from, bytes);
  }
  void CopyToHost(void* to, const void* from, size_t bytes,
                  const std::function<void()>& meanwhile) override {
    stream_->CopyToHost(to, from, bytes, meanwhile);
  }

  StatusOr<std::unique_ptr<Matrix>> CreateMatrix(WeightType type, int32_t n, int32_t k,
                                                 const RowReader& read_row) override {
    if (type != WeightType::kF32 && type != WeightType::kBF16) {
      return Unimplemented("--dtype: a GPU takes fp32 and bf16 weights; int8 and int4 run on cpu");
    }
    const size_t row_bytes = size_t(k) * CudaMatrix::ElementBytes(type);
    TREELINE_ASSIGN_OR_RETURN(Buffer data, Allocate(n * row_bytes));
    // A block of rows at a time, converted by all threads into page-locked memory.
    const int32_t block = static_cast<int32_t>(std::clamp<size_t>(kUploadBytes / row_bytes, 1, n));
    std::vector<std::vector<float>> thread_rows(pool_.num_threads(), std::vector<float>(k));
    for (int32_t first = 0; first < n; first += block) {
      const int32_t rows = std::min(block, n - first);
      const std::byte* uploaded = stream_->Upload(rows * row_bytes, [&](std::byte* to) {
        pool_.ParallelFor(rows, [&](int64_t row, int32_t thread) {
          std::vector<float>& values = thread_rows[thread];
          read_row(first + static_cast<int32_t>(row), values);
          Store(type, values, to + row * row_bytes);
        });
      });
      stream_->Copy(static_cast<std::byte*>(data.get()) + first * row_bytes, uploaded,
                    rows * row_bytes);
    }
    return std::make_unique<CudaMatrix>(type, n, k, std::move(data));
  }

  void Embed(const Matrix& table, std::span<const int32_t> token_ids, float* y) override {
    cuda::Embed(View(table), token_ids, y, *stream_);
  }
  void MatMul(const MatMulParams& params, const Matrix& matrix) override {
    products_->MatMul(params, View(matrix));
  }
  void GatedMatMul(const GatedMatMulParams& params, const Matrix& gate, const Matrix& up) override {
    products_->GatedMatMul(params, View(gate), View(up));
  }
  void RmsNorm(const RmsNormParams& params) override { cuda::RmsNorm(params, *stream_); }
  void RopeAngles(const RopeAnglesParams& params) override { cuda::RopeAngles(params, *stream_); }
  void RopeQkv(const RopeQkvParams& params) override { cuda::RopeQkv(params, *stream_); }
  void AddBias(const AddBiasParams& params) override { cuda::AddBias(params, *stream_); }
  void ResidualSilu(const ResidualSiluParams& params) override {
    cuda::ResidualSilu(params, *stream_);
  }
  void TopTokens(const TopTokensParams& params) override { cuda::TopTokens(params, *stream_); }
  void DrawTokens(const DrawTokensParams& params) override { token_drawer_.Draw(params); }
  void Attention(const AttentionParams& params) override { attention_.Attend(params); }
  void Commit(std::span<const CommitParams> layers) override {
    attention_.Commit(layers);
    stream_->Flush();  // Nothing need follow it for a while.
  }

  Status Synchronize() override { return Result(*stream_); }
  Status FailureSoFar() override {
    stream_->Flush();
    return stream_->ok() ? OkStatus() : Result(*stream_);
  }
  std::unique_ptr<DeviceTimer> CreateTimer() override {
    return std::make_unique<CudaTimer>(*stream_);
  }
  size_t PeakMemory() const override { return stream_->PeakMemory(); }
  ThreadPool& host_threads() override { return pool_; }

 private:
  // Bytes on their way to the device at once.
  static constexpr size_t kUploadBytes = size_t{16} << 20;

  static void Store(WeightType type, const std::vector<float>& values, std::byte* to) {
    if (type == WeightType::kF32) {
      std::memcpy(to, values.data(), values.size() * sizeof(float));
      return;
    }
    auto* bf16 = reinterpret_cast<uint16_t*>(to);
    for (size_t i = 0; i < values.size(); ++i) bf16[i] = FloatToBf16(values[i]);
  }

  const cuda::Device device_;
  ThreadPool pool_;
  const std::shared_ptr<cuda::Stream> stream_;
  const std::unique_ptr<cuda::DenseProducts> products_;
  cuda::TokenDrawer token_drawer_;
  cuda::ForestAttention attention_;
};

}  // namespace

StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(const CudaBackendOptions& options) {
  const cuda::DeviceList list = cuda::ListDevices();
  if (!list.error.empty()) return Internal("{}", list.error);
  if (options.ordinal < 0 || options.ordinal >= static_cast<int32_t>(list.devices.size())) {
    return InvalidArgument("GPU {}: there are {}", options.ordinal, list.devices.size());
  }
  const cuda::Device& device = list.devices[options.ordinal];
  constexpr int kOldestMajor = 8;
  if (device.compute_major < kOldestMajor) {
    return Unimplemented("{}: compute capability {}.{}; {}.0 or newer is needed", device.name,
                         device.compute_major, device.compute_minor, kOldestMajor);
  }
  std::string error;
  const std::shared_ptr<cuda::Stream> stream = cuda::Stream::Open(options.ordinal, error);
  if (stream == nullptr) return Internal("{}", error);
  std::unique_ptr<cuda::DenseProducts> products = cuda::DenseProducts::Create(*stream, error);
  if (products == nullptr) return Internal("{}", error);
  const int32_t cores = std::max(1, static_cast<int32_t>(std::thread::hardware_concurrency()));
  return std::make_unique<CudaBackend>(device, stream, std::move(products),
                                       options.threads == 0 ? cores : options.threads);
}

}  // namespace treeline
