#ifndef TREELINE_KERNELS_CUDA_DEVICE_H_
#define TREELINE_KERNELS_CUDA_DEVICE_H_

#include <cstddef>
#include <string>
#include <vector>

namespace treeline::cuda {

// One GPU as the CUDA runtime sees it. Values as read, nothing stays open.
struct Device {
  int ordinal = 0;  // index for cudaSetDevice
  std::string name;
  int compute_major = 0;  // compute capability: 9.0 is major 9, minor 0
  int compute_minor = 0;
  int num_multiprocessors = 0;
  size_t total_bytes = 0;  // device memory
  size_t free_bytes = 0;   // of it, not in use by any process
};

struct DeviceList {
  std::vector<Device> devices;  // in ordinal order; empty on error
  // Empty on success; else the failed call, CUDA's own explanation and, where one is known, the
  // remedy. A machine without a GPU or its driver is an error.
  std::string error;
};

// The GPUs that this process may use. Reading free memory creates a context on each, which takes a
// few hundred milliseconds and some device memory the first time. The calling thread's current
// device is unchanged. Any thread may call it.
DeviceList ListDevices();

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_DEVICE_H_
