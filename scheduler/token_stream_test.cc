#include "scheduler/token_stream.h"

#include <gtest/gtest.h>

#include <thread>

namespace treeline {
namespace {

using Wait = TokenStream::Wait;
using std::chrono::milliseconds;

TokenEvent TextEvent(const std::string& text) {
  TokenEvent event;
  event.text = text;
  return event;
}

TEST(TokenStreamTest, GivesEventsInOrderThenTheEnd) {
  TokenStream stream;
  TokenEvent event;
  EXPECT_EQ(stream.Next(milliseconds(0), &event), Wait::kTimeout);
  stream.Push(TextEvent("a"));
  stream.Push(TextEvent("b"));
  stream.End(OkStatus(), {.prompt_tokens = 3, .completion_tokens = 2},
             {.queue = milliseconds(4), .prefill = milliseconds(5), .decode = {}});
  EXPECT_EQ(stream.Next(milliseconds(0), &event), Wait::kEvent);
  EXPECT_EQ(event.text, "a");
  EXPECT_EQ(stream.Next(milliseconds(0), &event), Wait::kEvent);
  EXPECT_EQ(event.text, "b");
  EXPECT_EQ(stream.Next(milliseconds(0), &event), Wait::kEnd);
  EXPECT_EQ(stream.Next(milliseconds(0), &event), Wait::kEnd);
  EXPECT_TRUE(stream.status().ok());
  EXPECT_EQ(stream.usage().prompt_tokens, 3);
  EXPECT_EQ(stream.usage().completion_tokens, 2);
  EXPECT_EQ(stream.times().queue, milliseconds(4));
  EXPECT_EQ(stream.times().prefill, milliseconds(5));
  EXPECT_EQ(stream.times().decode, std::nullopt);
}

TEST(TokenStreamTest, NotifiesOfEveryEventAndOfTheEnd) {
  TokenStream stream;
  stream.Push(TextEvent("before"));
  std::vector<std::string> seen;
  stream.NotifyBy([&] {
    TokenEvent event;
    Wait wait;
    while ((wait = stream.Next(milliseconds(0), &event)) == Wait::kEvent)
      seen.push_back(event.text);
    if (wait == Wait::kEnd) seen.push_back("END");
  });
  EXPECT_TRUE(seen.empty());  // Not told of what came before.
  stream.Push(TextEvent("a"));
  EXPECT_EQ(seen, (std::vector<std::string>{"before", "a"}));
  stream.End(OkStatus(), {});
  stream.End(OkStatus(), {});  // No second end.
  EXPECT_EQ(seen, (std::vector<std::string>{"before", "a", "END"}));
}

TEST(TokenStreamTest, OnlyTheFirstEndCounts) {
  TokenStream stream;
  stream.End(Internal("first"), {});
  stream.End(OkStatus(), {});
  EXPECT_EQ(Message(stream.status()), "first");
}

TEST(TokenStreamTest, CancelIsSeenByTheWriter) {
  TokenStream stream;
  EXPECT_FALSE(stream.cancelled());
  stream.Cancel();
  stream.Cancel();
  EXPECT_TRUE(stream.cancelled());
}

TEST(TokenStreamTest, PushAfterTheEndIsABug) {
  TokenStream stream;
  stream.End(OkStatus(), {});
  EXPECT_DEATH(stream.Push(TextEvent("late")), "after the stream's end");
}

TEST(TokenStreamTest, CarriesEventsBetweenThreads) {
  constexpr int kEvents = 1000;
  TokenStream stream;
  std::thread writer([&] {
    for (int i = 0; i < kEvents; ++i) stream.Push(TextEvent(std::to_string(i)));
    stream.End(OkStatus(), {});
  });
  TokenEvent event;
  int received = 0;
  while (stream.Next(std::chrono::hours(1), &event) == Wait::kEvent) {
    EXPECT_EQ(event.text, std::to_string(received));
    ++received;
  }
  EXPECT_EQ(received, kEvents);
  writer.join();
}

}  // namespace
}  // namespace treeline
