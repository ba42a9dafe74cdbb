// Moments of a stream's work on the GPU's own clock, for benchmarks. What is marked does not
// overlap: a kernel after a mark comes up when everything before it has ended.
#ifndef TREELINE_KERNELS_CUDA_TIMER_H_
#define TREELINE_KERNELS_CUDA_TIMER_H_

#include <cstddef>
#include <vector>

#include "kernels/cuda/stream.h"

struct CUevent_st;  // What cudaEvent_t points to: CUDA's headers stay out of this one.

namespace treeline::cuda {

class Timer {
 public:
  // `stream` must outlive this.
  explicit Timer(Stream& stream) : stream_(stream) {}
  ~Timer();
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  // The moment when all that was enqueued before is done.
  void Mark();
  // Waits. The seconds from each mark to the next one since the last call; 0 after a failure of the
  // stream.
  std::vector<double> Take();

 private:
  Stream& stream_;
  std::vector<CUevent_st*> events_;  // Used again and again.
  size_t marks_ = 0;
  bool failed_ = false;  // Since the last Take: not all marks have an event.
};

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_TIMER_H_
