#include "server/request_log.h"

#include <gtest/gtest.h>

namespace treeline {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

RequestRecord Record() {
  RequestRecord record;
  record.name = "POST /v1/completions";
  record.status = "200";
  record.id = "abc-1";
  record.trace = {.trace_id = "4bf92f3577b34da6a3ce929d0e0e4736",
                  .span_id = "53995c3f42cd8ad8",
                  .parent_span_id = "00f067aa0ba902b7",
                  .sampled = true};
  record.duration = microseconds(1'500'250);
  record.notes = {{"prompt_tokens", 3}, {"queue_ms", 0.25}};
  return record;
}

TEST(RequestLogTest, TextForPeople) {
  EXPECT_EQ(RequestLog::TextLine(Record()),
            "POST /v1/completions 200 id=abc-1 ms=1500.2 prompt_tokens=3 queue_ms=0.25");
}

TEST(RequestLogTest, SpansForCollectors) {
  // date --date 2026-11-23T06:47:01.75Z +%s
  const std::chrono::system_clock::time_point end{seconds(1795416421) + milliseconds(750)};
  EXPECT_EQ(RequestLog::SpanLine(Record(), end),
            R"({"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","span_id":"53995c3f42cd8ad8",)"
            R"("parent_span_id":"00f067aa0ba902b7","request_id":"abc-1",)"
            R"("name":"POST /v1/completions","status":"200",)"
            R"("start":"2026-11-23T06:47:00.249750Z","duration_ms":1500.25,)"
            R"("prompt_tokens":3,"queue_ms":0.25})");
}

TEST(RequestLogTest, ARootSpanHasNoParent) {
  RequestRecord record = Record();
  record.trace.parent_span_id.clear();
  const auto span = Json::parse(RequestLog::SpanLine(record, {}));
  EXPECT_FALSE(span.contains("parent_span_id"));
  EXPECT_EQ(span["start"], "1969-12-31T23:59:58.499750Z");
}

}  // namespace
}  // namespace treeline
