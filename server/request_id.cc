#include "server/request_id.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <random>

namespace treeline {

namespace {

constexpr size_t kMaxBytes = 128;

// Fit for a log line and for a header, whatever a client sends.
bool IsPlain(const std::string& id) {
  return !id.empty() && id.size() <= kMaxBytes &&
         std::all_of(id.begin(), id.end(), [](unsigned char c) {
           return std::isalnum(c) || c == '-' || c == '_' || c == '.';
         });
}

}  // namespace

std::string RequestId(const std::string& wanted) {
  thread_local std::mt19937_64 generator{std::random_device{}()};
  return IsPlain(wanted) ? wanted : fmt::format("{:016x}{:016x}", generator(), generator());
}

}  // namespace treeline
