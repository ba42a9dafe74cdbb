#include "server/status_codes.h"

#include <gtest/gtest.h>

namespace treeline {
namespace {

TEST(StatusCodesTest, EveryCodeHasItsHttpStatus) {
  const std::pair<StatusCode, int> kTable[] = {
      {StatusCode::kInvalidArgument, 400},   {StatusCode::kOutOfRange, 400},
      {StatusCode::kUnauthenticated, 401},   {StatusCode::kPermissionDenied, 403},
      {StatusCode::kNotFound, 404},          {StatusCode::kResourceExhausted, 429},
      {StatusCode::kCancelled, 499},         {StatusCode::kUnimplemented, 501},
      {StatusCode::kUnavailable, 503},       {StatusCode::kDeadlineExceeded, 504},
      {StatusCode::kInternal, 500},          {StatusCode::kUnknown, 500},
      {StatusCode::kFailedPrecondition, 500}};
  for (const auto& [code, http] : kTable) EXPECT_EQ(HttpStatus(Status(code, "x")), http);
  EXPECT_EQ(HttpStatus(OkStatus()), 200);
}

TEST(StatusCodesTest, BodyCarriesParamAndCode) {
  const Status status = WithCode(FieldError("n", "n must be {}", 1), "too_many");
  EXPECT_EQ(Dump(ErrorBody(status)),
            R"({"error":{"code":"too_many","message":"n must be 1","param":"n",)"
            R"("type":"invalid_request_error"}})");
  EXPECT_EQ(Dump(ErrorBody(Internal("oops"))),
            R"({"error":{"code":null,"message":"oops","param":null,"type":"server_error"}})");
  EXPECT_EQ(ErrorBody(429, "later")["error"]["type"], "rate_limit_error");
}

TEST(StatusCodesTest, LongAndBrokenMessagesStaySendable) {
  const Json body = ErrorBody(InvalidArgument("{}", std::string(1 << 20, '\xe2')));
  EXPECT_LT(Dump(body).size(), 10000u);
  EXPECT_TRUE(Json::accept(Dump(body)));
}

}  // namespace
}  // namespace treeline
