#include "server/trace_context.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <random>

namespace treeline {

namespace {

// version "-" trace-id "-" parent-id "-" flags, of 2, 32, 16 and 2 digits.
constexpr size_t kTraceIdAt = 3;
constexpr size_t kTraceIdSize = 32;
constexpr size_t kSpanIdAt = 36;
constexpr size_t kSpanIdSize = 16;
constexpr size_t kFlagsAt = 53;
constexpr size_t kSize = 55;

bool IsHex(std::string_view digits) {
  return std::all_of(digits.begin(), digits.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

// Zeros stand for no id.
bool IsId(std::string_view digits) {
  return IsHex(digits) && digits.find_first_not_of('0') != std::string_view::npos;
}

uint64_t RandomId() {
  thread_local std::mt19937_64 generator{std::random_device{}()};
  const uint64_t id = generator();
  return id != 0 ? id : 1;
}

bool IsValid(std::string_view header) {
  if (header.size() < kSize) return false;
  const std::string_view version = header.substr(0, 2);
  if (!IsHex(version) || version == "ff") return false;
  // What later versions append is not known here.
  if (header.size() > kSize && (version == "00" || header[kSize] != '-')) return false;
  return header[kTraceIdAt - 1] == '-' && header[kSpanIdAt - 1] == '-' &&
         header[kFlagsAt - 1] == '-' && IsId(header.substr(kTraceIdAt, kTraceIdSize)) &&
         IsId(header.substr(kSpanIdAt, kSpanIdSize)) && IsHex(header.substr(kFlagsAt, 2));
}

}  // namespace

std::string TraceContext::Header() const {
  return fmt::format("00-{}-{}-{}", trace_id, span_id, sampled ? "01" : "00");
}

TraceContext StartSpan(std::string_view traceparent) {
  TraceContext context;
  context.span_id = fmt::format("{:016x}", RandomId());
  if (IsValid(traceparent)) {
    context.trace_id = traceparent.substr(kTraceIdAt, kTraceIdSize);
    context.parent_span_id = traceparent.substr(kSpanIdAt, kSpanIdSize);
    // The flags' lowest bit.
    const char digit = traceparent[kSize - 1];
    context.sampled = (digit >= 'a' ? digit - 'a' + 10 : digit - '0') % 2 == 1;
  } else {
    context.trace_id = fmt::format("{:016x}{:016x}", RandomId(), RandomId());
  }
  return context;
}

}  // namespace treeline
