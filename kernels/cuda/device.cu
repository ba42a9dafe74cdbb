#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.cuh"

namespace treeline::cuda {
namespace {

// Fills `device`; returns the error text. Leaves `device.ordinal` the current device.
std::string ReadDevice(int ordinal, Device& device) {
  cudaDeviceProp properties;
  std::string error =
      ErrorText("cudaGetDeviceProperties", cudaGetDeviceProperties(&properties, ordinal));
  if (error.empty()) error = ErrorText("cudaSetDevice", cudaSetDevice(ordinal));
  if (error.empty()) {
    error = ErrorText("cudaMemGetInfo", cudaMemGetInfo(&device.free_bytes, &device.total_bytes));
  }
  if (!error.empty()) return "GPU " + std::to_string(ordinal) + ": " + error;
  device.ordinal = ordinal;
  device.name = properties.name;
  device.compute_major = properties.major;
  device.compute_minor = properties.minor;
  device.num_multiprocessors = properties.multiProcessorCount;
  return "";
}

}  // namespace

DeviceList ListDevices() {
  int count = 0;
  std::string error = ErrorText("cudaGetDeviceCount", cudaGetDeviceCount(&count));
  int current = 0;
  if (error.empty()) error = ErrorText("cudaGetDevice", cudaGetDevice(&current));
  if (!error.empty()) return {{}, error};

  std::vector<Device> devices(count);
  for (int i = 0; i < count && error.empty(); ++i) error = ReadDevice(i, devices[i]);
  const std::string restored = ErrorText("cudaSetDevice", cudaSetDevice(current));
  if (error.empty()) error = restored;
  if (!error.empty()) return {{}, error};
  return {devices, ""};
}

}  // namespace treeline::cuda
