#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/timer.h"

namespace treeline::cuda {

Timer::~Timer() {
  for (const cudaEvent_t event : events_) cudaEventDestroy(event);
}

void Timer::Mark() {
  const size_t mark = marks_++;
  failed_ = failed_ || !stream_.ok();
  if (failed_) return;
  if (mark == events_.size()) {
    cudaEvent_t event = nullptr;
    failed_ = !Check(stream_, "cudaEventCreate", cudaEventCreate(&event));
    if (failed_) return;
    events_.push_back(event);
  }
  failed_ = !Check(stream_, "cudaEventRecord", cudaEventRecord(events_[mark], stream_.handle()));
}

std::vector<double> Timer::Take() {
  std::vector<double> seconds(marks_ > 0 ? marks_ - 1 : 0);
  failed_ = failed_ || !stream_.ok();
  if (marks_ > 0 && !failed_) {
    failed_ = !Check(stream_, "cudaEventSynchronize", cudaEventSynchronize(events_[marks_ - 1]));
  }
  for (size_t i = 0; i < seconds.size() && !failed_; ++i) {
    float milliseconds = 0;
    if (Check(stream_, "cudaEventElapsedTime",
              cudaEventElapsedTime(&milliseconds, events_[i], events_[i + 1]))) {
      seconds[i] = 1e-3 * milliseconds;
    }
  }
  marks_ = 0;
  failed_ = false;
  return seconds;
}

}  // namespace treeline::cuda
