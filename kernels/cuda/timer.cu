#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/timer.h"

namespace treeline::cuda {

Timer::~Timer() {
  for (const cudaEvent_t event : events_) cudaEventDestroy(event);
}

void Timer::Mark() {
  if (!stream_.ok()) return;
  if (marks_ == events_.size()) {
    cudaEvent_t event = nullptr;
    if (!Check(stream_, "cudaEventCreate", cudaEventCreate(&event))) return;
    events_.push_back(event);
  }
  if (Check(stream_, "cudaEventRecord", cudaEventRecord(events_[marks_], stream_.handle()))) {
    ++marks_;
  }
}

std::vector<double> Timer::Take() {
  std::vector<double> seconds(marks_ > 0 ? marks_ - 1 : 0);
  if (marks_ > 0 && stream_.ok()) {
    Check(stream_, "cudaEventSynchronize", cudaEventSynchronize(events_[marks_ - 1]));
  }
  for (size_t i = 0; i < seconds.size() && stream_.ok(); ++i) {
    float milliseconds = 0;
    if (Check(stream_, "cudaEventElapsedTime",
              cudaEventElapsedTime(&milliseconds, events_[i], events_[i + 1]))) {
      seconds[i] = 1e-3 * milliseconds;
    }
  }
  marks_ = 0;
  return seconds;
}

}  // namespace treeline::cuda
