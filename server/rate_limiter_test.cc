#include "server/rate_limiter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/status_codes.h"

namespace treeline {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;

class RateLimiterTest : public ::testing::Test {
 protected:
  FakeClock clock_;
  RateLimiter limiter_{clock_};
};

TEST_F(RateLimiterTest, NoLimitIsNoLimit) {
  const ApiKey key{.name = "a"};
  for (int i = 0; i < 1000; ++i) {
    EXPECT_EQ(limiter_.TakeRequest(key), OkStatus());
    EXPECT_EQ(limiter_.TakeTokens(key, 1'000'000), OkStatus());
  }
}

TEST_F(RateLimiterTest, AMinutesRequestsPassAtOnceThenOneAtATime) {
  const ApiKey key{.name = "a", .requests_per_minute = 6};
  for (int i = 0; i < 6; ++i) EXPECT_EQ(limiter_.TakeRequest(key), OkStatus());
  const Status refused = limiter_.TakeRequest(key);
  EXPECT_EQ(HttpStatus(refused), 429);
  EXPECT_EQ(RetryAfterSeconds(refused), 10);
  EXPECT_THAT(Message(refused), HasSubstr("6 requests a minute"));
  EXPECT_EQ(ErrorBody(refused)["error"]["code"], "rate_limit_exceeded");

  clock_.Advance(milliseconds(9'999));
  EXPECT_EQ(RetryAfterSeconds(limiter_.TakeRequest(key)), 1);
  clock_.Advance(milliseconds(2));
  EXPECT_EQ(limiter_.TakeRequest(key), OkStatus());
  EXPECT_FALSE(limiter_.TakeRequest(key).ok());
  clock_.Advance(seconds(3600));  // No more than a minute's is saved up.
  for (int i = 0; i < 6; ++i) EXPECT_EQ(limiter_.TakeRequest(key), OkStatus());
  EXPECT_FALSE(limiter_.TakeRequest(key).ok());
}

TEST_F(RateLimiterTest, KeysDoNotTouchEachOther) {
  EXPECT_EQ(limiter_.TakeRequest({.name = "a", .requests_per_minute = 1}), OkStatus());
  EXPECT_FALSE(limiter_.TakeRequest({.name = "a", .requests_per_minute = 1}).ok());
  EXPECT_EQ(limiter_.TakeRequest({.name = "b", .requests_per_minute = 1}), OkStatus());
}

TEST_F(RateLimiterTest, TokensAreTakenAheadAndTheUnusedReturned) {
  const ApiKey key{.name = "a", .tokens_per_minute = 600};
  EXPECT_EQ(limiter_.TakeTokens(key, 600), OkStatus());
  EXPECT_EQ(RetryAfterSeconds(limiter_.TakeTokens(key, 1)), 1);
  limiter_.ReturnTokens(key, 100);
  // More than is left passes, and is owed: 500 at 10 a second, and one more to go on.
  EXPECT_EQ(limiter_.TakeTokens(key, 600), OkStatus());
  EXPECT_EQ(RetryAfterSeconds(limiter_.TakeTokens(key, 1)), 51);
  clock_.Advance(seconds(51));
  EXPECT_EQ(limiter_.TakeTokens(key, 1), OkStatus());
}

}  // namespace
}  // namespace treeline
