// What became of a request over any transport, and its line in the log: text for people,
// or a span of a trace as JSON for collectors. Never what was asked or answered.
#ifndef TREELINE_SERVER_REQUEST_LOG_H_
#define TREELINE_SERVER_REQUEST_LOG_H_

#include <chrono>
#include <memory>
#include <string>

#include "engine/base/clock.h"
#include "engine/base/json.h"
#include "server/trace_context.h"

namespace spdlog {
class logger;
}

namespace treeline {

struct RequestRecord {
  std::string name;    // "POST /v1/completions", "gRPC Generate".
  std::string status;  // "200", "INVALID_ARGUMENT".
  std::string id;
  TraceContext trace;
  Duration duration{};
  // More that is known of it, by name: tokens, milliseconds of its phases. Numbers only.
  OrderedJson notes = OrderedJson::object();
};

// To the microsecond.
double Milliseconds(Duration duration);

// Thread-safe.
class RequestLog {
 public:
  enum class Format { kText, kJson };
  enum class Importance { kDebug, kInfo, kWarning };

  // Text is written by spdlog's default logger; lines of JSON as they are to stderr, from the same
  // level on.
  explicit RequestLog(Format format);

  void Write(const RequestRecord& record, Importance importance);

  // "gRPC Generate OK id=4f ms=12.5 prompt_tokens=3"
  static std::string TextLine(const RequestRecord& record);
  // One object; `end` is when the request ended.
  static std::string SpanLine(const RequestRecord& record,
                              std::chrono::system_clock::time_point end);

 private:
  const Format format_;
  std::shared_ptr<spdlog::logger> spans_;  // Null for text.
};

}  // namespace treeline

#endif  // TREELINE_SERVER_REQUEST_LOG_H_
