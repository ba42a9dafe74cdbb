#include "server/request_log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <ctime>

namespace treeline {

namespace {

spdlog::level::level_enum LevelOf(RequestLog::Importance importance) {
  switch (importance) {
    case RequestLog::Importance::kDebug:
      return spdlog::level::debug;
    case RequestLog::Importance::kInfo:
      return spdlog::level::info;
    case RequestLog::Importance::kWarning:
      return spdlog::level::warn;
  }
  return spdlog::level::info;
}

// UTC, as RFC 3339 has it.
std::string Timestamp(std::chrono::system_clock::time_point time) {
  const auto whole_seconds = std::chrono::floor<std::chrono::seconds>(time);
  const auto fraction = std::chrono::floor<std::chrono::microseconds>(time - whole_seconds);
  const std::time_t seconds = std::chrono::system_clock::to_time_t(whole_seconds);
  std::tm utc{};
  gmtime_r(&seconds, &utc);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z", utc.tm_year + 1900,
                     utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec,
                     fraction.count());
}

}  // namespace

double Milliseconds(Duration duration) {
  return static_cast<double>(std::chrono::round<std::chrono::microseconds>(duration).count()) /
         1000;
}

RequestLog::RequestLog(Format format) : format_(format) {
  if (format == Format::kText) return;
  spans_ =
      std::make_shared<spdlog::logger>("spans", std::make_shared<spdlog::sinks::stderr_sink_mt>());
  spans_->set_pattern("%v");
  spans_->set_level(spdlog::get_level());
}

void RequestLog::Write(const RequestRecord& record, Importance importance) {
  const spdlog::level::level_enum level = LevelOf(importance);
  if (format_ == Format::kText) {
    if (spdlog::should_log(level)) spdlog::log(level, "{}", TextLine(record));
  } else if (spans_->should_log(level)) {
    spans_->log(level, "{}", SpanLine(record, std::chrono::system_clock::now()));
  }
}

std::string RequestLog::TextLine(const RequestRecord& record) {
  std::string line = fmt::format("{} {} id={} ms={:.1f}", record.name, record.status, record.id,
                                 Milliseconds(record.duration));
  for (const auto& [name, value] : record.notes.items()) {
    line += fmt::format(" {}={}", name, value.dump());
  }
  return line;
}

std::string RequestLog::SpanLine(const RequestRecord& record,
                                 std::chrono::system_clock::time_point end) {
  const auto duration =
      std::chrono::duration_cast<std::chrono::system_clock::duration>(record.duration);
  OrderedJson span = {{"trace_id", record.trace.trace_id}, {"span_id", record.trace.span_id}};
  if (!record.trace.parent_span_id.empty()) span["parent_span_id"] = record.trace.parent_span_id;
  span["request_id"] = record.id;
  span["name"] = record.name;
  span["status"] = record.status;
  span["start"] = Timestamp(end - duration);
  span["duration_ms"] = Milliseconds(record.duration);
  span.update(record.notes);
  return span.dump();
}

}  // namespace treeline
