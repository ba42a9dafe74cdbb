#include <cuda_runtime.h>

#include "kernels/cuda/device.h"

namespace treeline::cuda {
namespace {

// The text for a failed CUDA call; empty when it succeeded.
std::string Describe(const char* call, cudaError_t code) {
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

// Fills `device`; returns the error text. Leaves `device.ordinal` the current device.
std::string ReadDevice(int ordinal, Device& device) {
  cudaDeviceProp properties;
  std::string error =
      Describe("cudaGetDeviceProperties", cudaGetDeviceProperties(&properties, ordinal));
  if (error.empty()) error = Describe("cudaSetDevice", cudaSetDevice(ordinal));
  if (error.empty()) {
    error = Describe("cudaMemGetInfo", cudaMemGetInfo(&device.free_bytes, &device.total_bytes));
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
  std::string error = Describe("cudaGetDeviceCount", cudaGetDeviceCount(&count));
  int current = 0;
  if (error.empty()) error = Describe("cudaGetDevice", cudaGetDevice(&current));
  if (!error.empty()) return {{}, error};

  std::vector<Device> devices(count);
  for (int i = 0; i < count && error.empty(); ++i) error = ReadDevice(i, devices[i]);
  const std::string restored = Describe("cudaSetDevice", cudaSetDevice(current));
  if (error.empty()) error = restored;
  if (!error.empty()) return {{}, error};
  return {devices, ""};
}

}  // namespace treeline::cuda
