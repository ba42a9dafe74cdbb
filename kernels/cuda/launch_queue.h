// Kernels on their way to a stream. A sequence of launches that recurs, as that of a decoding step
// does, goes there as a CUDA graph: one call of the driver in place of one for each kernel, each of
// which takes the host as long as a small kernel takes the GPU. Launches are compared by all their
// bytes, arguments included, so that nobody has to say what recurs. One thread at a time.
#ifndef TREELINE_KERNELS_CUDA_LAUNCH_QUEUE_H_
#define TREELINE_KERNELS_CUDA_LAUNCH_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <unordered_set>
#include <vector>

struct CUgraphExec_st;
struct CUstream_st;

namespace treeline::cuda {

class Stream;

// Its arguments follow it in the queue.
struct KernelLaunch {
  const char* name;  // For errors.
  const void* kernel;
  // Launches it in a CUDA stream; a cudaError_t.
  int (*make)(const KernelLaunch& launch, const std::byte* arguments, CUstream_st* handle);
  size_t shared_bytes;
  size_t argument_bytes;
  uint32_t grid[3];
  int32_t cluster, threads;
  int32_t overlaps;  // Whether it may come up before the kernel ahead of it has ended.
};

class LaunchQueue {
 public:
  explicit LaunchQueue(Stream& stream) : stream_(stream) {}
  ~LaunchQueue();
  LaunchQueue(const LaunchQueue&) = delete;
  LaunchQueue& operator=(const LaunchQueue&) = delete;

  // Room for the launch's arguments, which the caller fills, their padding with zeros. What was
  // here before may go to the CUDA stream.
  std::byte* Add(const KernelLaunch& launch, CUstream_st* handle);
  // All launches go to the CUDA stream; where the Stream has failed, nowhere.
  void Flush(CUstream_st* handle);
  // The GPU has nothing to do: it is not to wait long for the next launches.
  void BeginSoon() { most_ = kMostAtFirst; }

 private:
  struct Graph {
    std::vector<std::byte> launches;
    CUgraphExec_st* graph;
    uint64_t last_use;
  };

  // False where the launches are still to be made one by one.
  bool LaunchGraph(CUstream_st* handle);
  // Null where the driver refuses.
  CUgraphExec_st* Build(CUstream_st* handle) const;
  // A cudaError_t, of the launch called `name`.
  int MakeLaunches(CUstream_st* handle, const char*& name) const;
  void DropOldest();

  // Of a graph. More launches go in several graphs: the GPU begins with the first while the host is
  // still at the others.
  static constexpr int kMostLaunches = 64, kMostAtFirst = 16;

  Stream& stream_;
  std::vector<std::byte> launches_;  // KernelLaunch, its arguments, the next KernelLaunch, ...
  int count_ = 0;
  int most_ = kMostAtFirst;
  bool builds_graphs_ = true;  // Until the driver refuses one.
  // By the hash of their launches; and hashes of what was launched once.
  std::unordered_map<size_t, Graph> graphs_;
  std::unordered_set<size_t> seen_;
  uint64_t uses_ = 0;
};

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_LAUNCH_QUEUE_H_
