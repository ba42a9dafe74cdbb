#include "engine/base/status.h"

#include <cstdio>
#include <cstdlib>

namespace treeline::internal {

void CheckFailed(const char* file, int line, const char* condition, const std::string& message) {
  fmt::print(stderr, "{}:{}: check failed: {} {}\n", file, line, condition, message);
  std::fflush(stderr);
  std::abort();
}

}  // namespace treeline::internal
