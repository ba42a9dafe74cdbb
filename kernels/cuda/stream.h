// One GPU's queue of work: kernels and copies run asynchronously, in the order they were
// enqueued (only what Upload brings may come sooner). Memory comes from a pool, so that taking and
// giving back cost no synchronisation. The first failure sticks: what is enqueued after it does
// nothing, until Synchronize tells. One thread at a time.
#ifndef TREELINE_KERNELS_CUDA_STREAM_H_
#define TREELINE_KERNELS_CUDA_STREAM_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kernels/cuda/launch_queue.h"

// What cudaStream_t, cudaEvent_t and cudaMemPool_t point to: CUDA's headers stay out of this one.
struct CUevent_st;
struct CUstream_st;
struct CUmemPoolHandle_st;

namespace treeline::cuda {

class Stream {
 public:
  // Makes GPU `ordinal` the calling thread's device. Null, and `error` says why, where it cannot.
  static std::shared_ptr<Stream> Open(int ordinal, std::string& error);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // The CUDA stream. Launches so far have gone to it.
  CUstream_st* handle() {
    Flush();
    return handle_;
  }
  // Launches of kernels gather, to go to the GPU together; those so far go now. Whatever waits for
  // the GPU, or copies from it, does that first.
  void Flush() { launches_.Flush(handle_); }
  // As LaunchQueue::Add (launch.cuh).
  std::byte* AddLaunch(const KernelLaunch& launch) { return launches_.Add(launch, handle_); }
  int num_multiprocessors() const { return num_multiprocessors_; }
  // A kernel may come up before the one ahead of it has ended (launch.cuh).
  bool overlaps_kernels() const { return runs_hopper_code_; }
  // Blocks of threads may work together (cluster.cuh), and warps (warp_group.cuh).
  bool has_clusters() const { return runs_hopper_code_; }
  // Of a block, where a kernel asks for it.
  size_t max_shared_memory() const { return max_shared_memory_; }
  // What a kernel has asked for so far. How much it has without asking depends on its static shared
  // memory: all of it is asked for.
  size_t& SharedMemoryOf(const void* kernel) { return shared_memory_[kernel]; }
  // How many of its clusters of so many blocks run at once, once that was asked for.
  std::optional<int>& ClustersAtOnceOf(const void* kernel, int blocks) {
    return clusters_at_once_[{kernel, blocks}];
  }

  bool ok() const { return error_.empty(); }
  // Keeps the first error; an empty one is none.
  void Fail(const std::string& error);
  // Waits for everything enqueued; the first error since the last call, or "".
  std::string Synchronize();

  // Aligned to 256 bytes, contents undefined. Null where memory is short, which is no failure of
  // the stream.
  void* Allocate(size_t bytes);
  void Free(void* data);
  // The most that was allocated at once so far; what Upload takes is not in it.
  size_t PeakMemory() const;

  void Copy(void* to, const void* from, size_t bytes);
  // `from` may change when the call returns.
  void CopyToDevice(void* to, const void* from, size_t bytes);
  // Returns when `to` is there, and all that was enqueued before. What `meanwhile` enqueues comes
  // after the copy, and is not waited for.
  void CopyToHost(void* to, const void* from, size_t bytes,
                  const std::function<void()>& meanwhile = nullptr);

  // Host memory of `bytes`, filled by `fill` and on its way to the returned device memory, which
  // what is enqueued before the next Upload may read. Null after a failure.
  const std::byte* Upload(size_t bytes, const std::function<void(std::byte*)>& fill);

 private:
  Stream() = default;

  // The GPU has nothing to do, nor anything to read of what was uploaded.
  void BeginAnew();

  CUstream_st* handle_ = nullptr;
  CUevent_st* downloaded_ = nullptr;  // The last CopyToHost.
  CUmemPoolHandle_st* pool_ = nullptr;
  int num_multiprocessors_ = 0;
  // Newer GPUs run what is compiled for 8.0 (cuda.bzl), which has none of this.
  bool runs_hopper_code_ = false;
  size_t max_shared_memory_ = 0;
  std::unordered_map<const void*, size_t> shared_memory_;
  std::map<std::pair<const void*, int>, std::optional<int>> clusters_at_once_;
  LaunchQueue launches_{*this};
  std::string error_;

  // Uploads follow one another through page-locked memory and its twin on the device.
  std::byte* upload_host_ = nullptr;
  std::byte* upload_device_ = nullptr;
  size_t upload_capacity_ = 0;
  size_t upload_used_ = 0;
  std::byte* download_host_ = nullptr;  // Page-locked: what is small comes home through it.
};

// Device memory of one operation, which grows to the largest request.
class Scratch {
 public:
  explicit Scratch(Stream& stream) : stream_(stream) {}
  ~Scratch() { stream_.Free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // Null, and the stream has failed, where memory is short. What was here before is lost.
  void* Resize(size_t bytes);
  // The same; bytes that were not here before are 0.
  void* ResizeZeroed(size_t bytes);
  float* Floats(size_t count) { return static_cast<float*>(Resize(count * sizeof(float))); }

 private:
  Stream& stream_;
  void* data_ = nullptr;
  size_t capacity_ = 0;
};

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_STREAM_H_
