#include "server/trace_context.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace treeline {
namespace {

using ::testing::MatchesRegex;

// The specification's own example.
constexpr char kTraceId[] = "4bf92f3577b34da6a3ce929d0e0e4736";
constexpr char kParent[] = "00f067aa0ba902b7";

TEST(TraceContextTest, ASpanContinuesItsClientsTrace) {
  const TraceContext context = StartSpan("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
  EXPECT_EQ(context.trace_id, kTraceId);
  EXPECT_EQ(context.parent_span_id, kParent);
  EXPECT_TRUE(context.sampled);
  EXPECT_THAT(context.span_id, MatchesRegex("[0-9a-f]{16}"));
  EXPECT_NE(context.span_id, kParent);
  EXPECT_EQ(context.Header(), "00-4bf92f3577b34da6a3ce929d0e0e4736-" + context.span_id + "-01");
}

TEST(TraceContextTest, TheLowestBitOfTheFlagsSaysSampled) {
  for (const auto& [flags, sampled] : std::vector<std::pair<std::string, bool>>{
           {"00", false}, {"01", true}, {"02", false}, {"0a", false}, {"ff", true}}) {
    const TraceContext context =
        StartSpan("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-" + flags);
    EXPECT_EQ(context.trace_id, kTraceId) << flags;
    EXPECT_EQ(context.sampled, sampled) << flags;
  }
}

TEST(TraceContextTest, LaterVersionsMayAppendFields) {
  EXPECT_EQ(StartSpan("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").trace_id,
            kTraceId);
  EXPECT_EQ(StartSpan("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what").trace_id,
            kTraceId);
}

TEST(TraceContextTest, WhatIsNotValidStartsANewTrace) {
  for (const char* header : {"", "00", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
                             "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what",
                             "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.",
                             "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what",
                             "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                             "0x-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                             "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
                             "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
                             "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
                             "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-zz",
                             "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                             "00-4bf92f3577b34da6a3ce929d0e0e473\n-00f067aa0ba902b7-01"}) {
    const TraceContext context = StartSpan(header);
    EXPECT_NE(context.trace_id, kTraceId) << header;
    EXPECT_EQ(context.parent_span_id, "") << header;
    EXPECT_FALSE(context.sampled);
    EXPECT_THAT(context.Header(), MatchesRegex("00-[0-9a-f]{32}-[0-9a-f]{16}-00"));
  }
  EXPECT_NE(StartSpan("").trace_id, StartSpan("").trace_id);
}

}  // namespace
}  // namespace treeline
