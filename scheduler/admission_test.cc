#include "scheduler/admission.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

namespace treeline {
namespace {

constexpr EngineLimits kLimits{.vocab_size = 100, .max_context = 10, .num_slots = 2};

Request ValidRequest() {
  Request request;
  request.prompt = {1, 2, 3};
  return request;
}

TEST(AdmissionTest, TakesWhatCanRun) {
  EXPECT_TRUE(CheckAdmissible(ValidRequest(), kLimits).ok());

  Request longest = ValidRequest();
  longest.prompt.resize(9);
  EXPECT_TRUE(CheckAdmissible(longest, kLimits).ok()) << "one token of output fits";

  Request scored = ValidRequest();
  scored.prompt.resize(10);
  scored.stop.max_tokens = 0;
  EXPECT_TRUE(CheckAdmissible(scored, kLimits).ok()) << "scoring needs no room for output";
}

TEST(AdmissionTest, RefusesWhatCanNotAndNamesTheField) {
  struct Case {
    const char* field;
    std::function<void(Request&)> spoil;
  };
  const Case cases[] = {
      {"prompt", [](Request& r) { r.prompt.clear(); }},
      {"prompt", [](Request& r) { r.prompt[1] = 100; }},
      {"prompt", [](Request& r) { r.prompt[1] = -1; }},
      {"prompt: 10 tokens", [](Request& r) { r.prompt.resize(10); }},
      {"prompt: 11 tokens",
       [](Request& r) {
         r.prompt.resize(11);
         r.stop.max_tokens = 0;
       }},
      {"max_tokens", [](Request& r) { r.stop.max_tokens = -1; }},
      {"min_tokens", [](Request& r) { r.stop.min_tokens = -1; }},
      {"min_tokens", [](Request& r) { r.stop.min_tokens = r.stop.max_tokens + 1; }},
      {"stop_token_ids", [](Request& r) { r.stop.stop_token_ids = {100}; }},
      {"stop_token_ids", [](Request& r) { r.stop.stop_token_ids = {-1}; }},
      {"stop",
       [](Request& r) {
         r.stop.stop_strings = {"a", ""};
       }},
      {"n", [](Request& r) { r.num_choices = 0; }},
      {"n", [](Request& r) { r.num_choices = 3; }},
      {"top_logprobs", [](Request& r) { r.top_logprobs = -1; }},
      {"top_logprobs", [](Request& r) { r.top_logprobs = 101; }},
  };
  for (const Case& c : cases) {
    Request request = ValidRequest();
    c.spoil(request);
    const Status status = CheckAdmissible(request, kLimits);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << c.field;
    EXPECT_THAT(Message(status), testing::StartsWith(c.field));
  }
}

}  // namespace
}  // namespace treeline
