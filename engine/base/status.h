// Errors of Treeline. Status is for what a client, a file or a device can
// cause; TREELINE_CHECK is for our own bugs and ends the process.
//
//   StatusOr<Config> LoadConfig(const std::string& path) {
//     TREELINE_ASSIGN_OR_RETURN(std::string text, ReadFile(path));
//     if (text.empty()) return InvalidArgument("{}: the file is empty", path);
//     ...
//   }
//
// A message names the file, field or flag at fault and, where there is one, the
// remedy. server/status_codes.h maps the code to HTTP.
#ifndef TREELINE_ENGINE_BASE_STATUS_H_
#define TREELINE_ENGINE_BASE_STATUS_H_

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <fmt/format.h>

#include <string>
#include <utility>

namespace treeline {

using absl::OkStatus;
using absl::Status;
using absl::StatusCode;
template <typename T>
using StatusOr = absl::StatusOr<T>;

// The text of an error, without its code.
inline std::string Message(const Status& status) { return std::string(status.message()); }

template <typename... Args>
Status MakeStatus(StatusCode code, fmt::format_string<Args...> format, Args&&... args) {
  return Status(code, fmt::format(format, std::forward<Args>(args)...));
}
// The request, file or flag is wrong, whatever the system's state.
template <typename... Args>
Status InvalidArgument(fmt::format_string<Args...> format, Args&&... args) {
  return MakeStatus(StatusCode::kInvalidArgument, format, std::forward<Args>(args)...);
}
template <typename... Args>
Status NotFound(fmt::format_string<Args...> format, Args&&... args) {
  return MakeStatus(StatusCode::kNotFound, format, std::forward<Args>(args)...);
}
// Known but not built yet.
template <typename... Args>
Status Unimplemented(fmt::format_string<Args...> format, Args&&... args) {
  return MakeStatus(StatusCode::kUnimplemented, format, std::forward<Args>(args)...);
}
// A queue, the slots or memory are used up; trying later may work.
template <typename... Args>
Status ResourceExhausted(fmt::format_string<Args...> format, Args&&... args) {
  return MakeStatus(StatusCode::kResourceExhausted, format, std::forward<Args>(args)...);
}
// A file or device failed us.
template <typename... Args>
Status Internal(fmt::format_string<Args...> format, Args&&... args) {
  return MakeStatus(StatusCode::kInternal, format, std::forward<Args>(args)...);
}

// The same code with "context: " before the message.
inline Status Annotate(const Status& status, const std::string& context) {
  return Status(status.code(), context + ": " + Message(status));
}

namespace internal {
[[noreturn]] void CheckFailed(const char* file, int line, const char* condition,
                              const std::string& message);
}  // namespace internal
}  // namespace treeline

#define TREELINE_CONCAT_INNER(a, b) a##b
#define TREELINE_CONCAT(a, b) TREELINE_CONCAT_INNER(a, b)

#define TREELINE_RETURN_IF_ERROR(expr)                 \
  do {                                                 \
    ::treeline::Status treeline_status = (expr);       \
    if (!treeline_status.ok()) return treeline_status; \
  } while (false)

#define TREELINE_ASSIGN_OR_RETURN(lhs, expr) \
  TREELINE_ASSIGN_OR_RETURN_IMPL(TREELINE_CONCAT(treeline_result_, __LINE__), lhs, expr)
#define TREELINE_ASSIGN_OR_RETURN_IMPL(result, lhs, expr) \
  auto result = (expr);                                   \
  if (!result.ok()) return std::move(result).status();    \
  lhs = *std::move(result)

// Ends the process with the condition, the place and an optional fmt message.
#define TREELINE_CHECK(condition, ...)                                  \
  do {                                                                  \
    if (!(condition)) [[unlikely]] {                                    \
      ::treeline::internal::CheckFailed(__FILE__, __LINE__, #condition, \
                                        ::fmt::format("" __VA_ARGS__)); \
    }                                                                   \
  } while (false)

#endif  // TREELINE_ENGINE_BASE_STATUS_H_
