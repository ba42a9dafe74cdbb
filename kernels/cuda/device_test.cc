// Runs where a GPU is (tag "gpu"). nvidia-smi, which asks the driver by another library, is the
// truth that the list is compared with.
#include "kernels/cuda/device.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

namespace treeline::cuda {
namespace {

// The lines of `nvidia-smi --query-gpu=<query>`, one a GPU in PCI order.
std::vector<std::string> NvidiaSmi(const std::string& query) {
  const std::string command = "nvidia-smi --format=csv,noheader,nounits --query-gpu=" + query;
  std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command.c_str(), "r"), pclose);
  std::string output;
  for (int c; pipe != nullptr && (c = fgetc(pipe.get())) != EOF;) output.push_back(c);
  std::vector<std::string> lines;
  std::istringstream stream(output);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

class DeviceTest : public ::testing::Test {
 protected:
  // Before the first CUDA call of the process: nvidia-smi's order.
  static void SetUpTestSuite() { setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID", 1); }
};

TEST_F(DeviceTest, ListsWhatTheDriverReports) {
  const DeviceList list = ListDevices();
  ASSERT_EQ(list.error, "");
  const std::vector<std::string> names = NvidiaSmi("name");
  const std::vector<std::string> capabilities = NvidiaSmi("compute_cap");
  ASSERT_EQ(list.devices.size(), names.size());
  ASSERT_FALSE(names.empty());
  for (size_t i = 0; i < names.size(); ++i) {
    const Device& device = list.devices[i];
    EXPECT_EQ(device.ordinal, static_cast<int>(i));
    EXPECT_EQ(device.name, names[i]);
    EXPECT_EQ(std::to_string(device.compute_major) + "." + std::to_string(device.compute_minor),
              capabilities[i]);
  }
}

TEST_F(DeviceTest, MemoryAgreesWithTheDriver) {
  constexpr double kMebibyte = 1024.0 * 1024.0;
  const DeviceList list = ListDevices();
  ASSERT_EQ(list.error, "");
  const std::vector<std::string> totals = NvidiaSmi("memory.total");
  ASSERT_EQ(list.devices.size(), totals.size());
  for (size_t i = 0; i < totals.size(); ++i) {
    const Device& device = list.devices[i];
    // The driver keeps a little back from what nvidia-smi calls the total.
    EXPECT_NEAR(device.total_bytes / kMebibyte, std::stod(totals[i]), 0.02 * std::stod(totals[i]));
    EXPECT_GT(device.free_bytes, 0u);
    EXPECT_LE(device.free_bytes, device.total_bytes);
    EXPECT_GT(device.num_multiprocessors, 0);
  }
}

}  // namespace
}  // namespace treeline::cuda
