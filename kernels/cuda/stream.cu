#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/stream.h"

namespace treeline::cuda {
namespace {

constexpr size_t kUploadBytes = size_t{4} << 20;
constexpr size_t kUploadAlignment = 256;
constexpr size_t kDownloadBytes = size_t{256} << 10;

}  // namespace

std::string ErrorText(const char* call, cudaError_t code) {
  if (code == cudaSuccess) return "";
  std::string text = std::string(call) + " failed: " + cudaGetErrorString(code) + " (" +
                     cudaGetErrorName(code) + ")";
  if (code == cudaErrorInsufficientDriver || code == cudaErrorNoDevice) {
    text +=
        ". Check with nvidia-smi that a GPU and a driver for CUDA " +
        std::to_string(CUDART_VERSION / 1000) +
        " or newer are there and CUDA_VISIBLE_DEVICES does not hide them, or run with --device cpu";
  }
  return text;
}

std::shared_ptr<Stream> Stream::Open(int ordinal, std::string& error) {
  std::shared_ptr<Stream> stream(new Stream());
  Stream& s = *stream;
  uint64_t keep_all = std::numeric_limits<uint64_t>::max();
  int shared = 0, major = 0;
  const bool opened =
      Check(s, "cudaSetDevice", cudaSetDevice(ordinal)) &&
      Check(s, "cudaStreamCreate", cudaStreamCreateWithFlags(&s.handle_, cudaStreamNonBlocking)) &&
      Check(s, "cudaEventCreate",
            cudaEventCreateWithFlags(&s.downloaded_, cudaEventDisableTiming)) &&
      Check(s, "cudaDeviceGetAttribute",
            cudaDeviceGetAttribute(&s.num_multiprocessors_, cudaDevAttrMultiProcessorCount,
                                   ordinal)) &&
      Check(s, "cudaDeviceGetAttribute",
            cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, ordinal)) &&
      Check(s, "cudaDeviceGetAttribute",
            cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, ordinal)) &&
      Check(s, "cudaDeviceGetDefaultMemPool", cudaDeviceGetDefaultMemPool(&s.pool_, ordinal)) &&
      // What is given back stays in the pool, for the next step.
      Check(s, "cudaMemPoolSetAttribute",
            cudaMemPoolSetAttribute(s.pool_, cudaMemPoolAttrReleaseThreshold, &keep_all)) &&
      Check(s, "cudaMallocHost",
            cudaMallocHost(reinterpret_cast<void**>(&s.upload_host_), kUploadBytes)) &&
      Check(s, "cudaMallocHost",
            cudaMallocHost(reinterpret_cast<void**>(&s.download_host_), kDownloadBytes)) &&
      Check(s, "cudaMalloc", cudaMalloc(reinterpret_cast<void**>(&s.upload_device_), kUploadBytes));
  if (!opened) {
    error = "GPU " + std::to_string(ordinal) + ": " + s.error_;
    return nullptr;
  }
  s.runs_hopper_code_ = major == 9;
  s.max_shared_memory_ = static_cast<size_t>(shared);
  s.upload_capacity_ = kUploadBytes;
  return stream;
}

Stream::~Stream() {
  if (handle_ != nullptr) cudaStreamSynchronize(handle_);
  cudaFree(upload_device_);
  cudaFreeHost(upload_host_);
  cudaFreeHost(download_host_);
  if (downloaded_ != nullptr) cudaEventDestroy(downloaded_);
  if (handle_ != nullptr) cudaStreamDestroy(handle_);
}

void Stream::Fail(const std::string& error) {
  if (error_.empty()) error_ = error;
}

std::string Stream::Synchronize() {
  Check(*this, "a kernel or copy", cudaStreamSynchronize(handle()));
  BeginAnew();
  std::string error;
  error.swap(error_);
  return error;
}

void Stream::BeginAnew() {
  upload_used_ = 0;
  launches_.BeginSoon();
}

void* Stream::Allocate(size_t bytes) {
  void* data = nullptr;
  const cudaError_t code = cudaMallocAsync(&data, std::max<size_t>(bytes, 1), handle());
  if (code == cudaSuccess) return data;
  if (code == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // Else the next launch would report it.
  } else {
    Fail(ErrorText("cudaMallocAsync", code));
  }
  return nullptr;
}

void Stream::Free(void* data) {
  if (data != nullptr) cudaFreeAsync(data, handle());
}

size_t Stream::PeakMemory() const {
  uint64_t bytes = 0;
  const cudaError_t code = cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrUsedMemHigh, &bytes);
  return code == cudaSuccess ? bytes : 0;
}

void Stream::Copy(void* to, const void* from, size_t bytes) {
  if (!ok() || bytes == 0) return;
  Check(*this, "copying on the GPU",
        cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, handle()));
}

// From pageable memory CUDA takes a copy before it returns.
void Stream::CopyToDevice(void* to, const void* from, size_t bytes) {
  if (!ok() || bytes == 0) return;
  Check(*this, "copying to the GPU",
        cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, handle()));
}

void Stream::CopyToHost(void* to, const void* from, size_t bytes,
                        const std::function<void()>& meanwhile) {
  if (!ok() || bytes == 0) return;
  const char* const kCall = "copying from the GPU";
  const bool is_small = bytes <= kDownloadBytes;
  if (!Check(*this, kCall,
             cudaMemcpyAsync(is_small ? download_host_ : to, from, bytes, cudaMemcpyDeviceToHost,
                             handle())) ||
      !Check(*this, kCall, cudaEventRecord(downloaded_, handle_))) {
    return;
  }
  if (meanwhile) meanwhile();
  if (!Check(*this, kCall, cudaEventSynchronize(downloaded_))) return;
  if (is_small) std::memcpy(to, download_host_, bytes);
  if (meanwhile) {
    launches_.BeginSoon();
  } else {
    BeginAnew();
  }
}

const std::byte* Stream::Upload(size_t bytes, const std::function<void(std::byte*)>& fill) {
  if (!ok()) return nullptr;
  if (upload_used_ + bytes > upload_capacity_) {
    // Earlier uploads may still be read.
    if (!Check(*this, "a kernel or copy", cudaStreamSynchronize(handle()))) return nullptr;
    upload_used_ = 0;
  }
  if (bytes > upload_capacity_) {
    const size_t capacity = 2 * bytes;
    cudaFree(upload_device_);
    cudaFreeHost(upload_host_);
    upload_device_ = upload_host_ = nullptr;
    upload_capacity_ = 0;
    if (!Check(*this, "cudaMallocHost",
               cudaMallocHost(reinterpret_cast<void**>(&upload_host_), capacity)) ||
        !Check(*this, "cudaMalloc",
               cudaMalloc(reinterpret_cast<void**>(&upload_device_), capacity))) {
      return nullptr;
    }
    upload_capacity_ = capacity;
  }
  std::byte* host = upload_host_ + upload_used_;
  std::byte* device = upload_device_ + upload_used_;
  fill(host);
  upload_used_ += (bytes + kUploadAlignment - 1) / kUploadAlignment * kUploadAlignment;
  // Ahead of launches that have not gone to the GPU yet: none of them reads this memory.
  Check(*this, "copying to the GPU",
        cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, handle_));
  return ok() ? device : nullptr;
}

void* Scratch::Resize(size_t bytes) {
  if (bytes <= capacity_ && data_ != nullptr) return data_;
  stream_.Free(data_);
  data_ = stream_.ok() ? stream_.Allocate(bytes) : nullptr;
  capacity_ = data_ == nullptr ? 0 : bytes;
  if (data_ == nullptr) {
    stream_.Fail("out of GPU memory: " + std::to_string(bytes >> 20) +
                 " MiB more are needed; lower --state-memory or --max-batch-tokens");
  }
  return data_;
}

void* Scratch::ResizeZeroed(size_t bytes) {
  const size_t before = capacity_;
  Resize(bytes);
  if (capacity_ == before) return data_;
  const bool zeroed = stream_.ok() && Check(stream_, "cudaMemsetAsync",
                                            cudaMemsetAsync(data_, 0, capacity_, stream_.handle()));
  if (!zeroed) {  // It would be taken for zeroed later.
    stream_.Free(data_);
    data_ = nullptr;
    capacity_ = 0;
  }
  return data_;
}

}  // namespace treeline::cuda
