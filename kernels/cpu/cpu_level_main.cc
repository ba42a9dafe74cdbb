// main() of tests of the CPU's kernels: --cpu_level=portable, avx2, ... forbids what lies above.
#include <gtest/gtest.h>

#include <cstdio>
#include <string>
#include <utility>

#include "kernels/cpu/cpu_level.h"

namespace {

using treeline::cpu::CpuLevel;

constexpr std::pair<const char*, CpuLevel> kLevels[] = {
    {"portable", CpuLevel::kPortable}, {"avx2", CpuLevel::kAvx2}, {"avx512", CpuLevel::kAvx512}};

bool Limit(const std::string& argument) {
  for (const auto& [name, level] : kLevels) {
    if (argument != std::string("--cpu_level=") + name) continue;
    treeline::cpu::LimitCpuLevel(level);
    std::printf("kernels limited to %s\n", treeline::cpu::TargetName().c_str());
    return true;
  }
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    if (Limit(argv[i])) continue;
    std::fprintf(stderr, "%s: unknown argument\n", argv[i]);
    return 2;
  }
  return RUN_ALL_TESTS();
}
