#include "server/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace treeline {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

Metrics::Options TestOptions() { return {"m", "1.2", "cpu"}; }

TEST(MetricsTest, ZeroesAreThereFromTheStart) {
  const std::string text = Metrics(TestOptions()).Text();
  EXPECT_THAT(text, HasSubstr("treeline_num_requests_running{model_name=\"m\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("treeline_prompt_tokens_total{model_name=\"m\"} 0\n"));
  for (const char* reason : {"stop", "length", "abort", "error"}) {
    EXPECT_THAT(text, HasSubstr(std::string("finished_reason=\"") + reason + "\"} 0\n"));
  }
  EXPECT_THAT(text, HasSubstr("# TYPE treeline_time_to_first_token_seconds histogram\n"));
}

TEST(MetricsTest, StepsSetGaugesAndAddToCounters) {
  Metrics metrics(TestOptions());
  metrics.OnStep(100, 3, {.running = 4, .waiting = 2, .slots_used = 4, .slots_total = 16});
  metrics.OnStep(0, 5, {.running = 5, .waiting = 1, .slots_used = 8, .slots_total = 16});
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr("treeline_num_requests_running{model_name=\"m\"} 5\n"));
  EXPECT_THAT(text, HasSubstr("treeline_num_requests_waiting{model_name=\"m\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("treeline_state_slots_total{model_name=\"m\"} 16\n"));
  EXPECT_THAT(text, HasSubstr("treeline_state_usage_perc{model_name=\"m\"} 0.5\n"));
  EXPECT_THAT(text, HasSubstr("treeline_prompt_tokens_total{model_name=\"m\"} 100\n"));
  EXPECT_THAT(text, HasSubstr("treeline_generation_tokens_total{model_name=\"m\"} 8\n"));
  EXPECT_THAT(text, HasSubstr("treeline_iteration_tokens_total_sum{model_name=\"m\"} 108\n"));
  EXPECT_THAT(text,
              HasSubstr("treeline_iteration_tokens_total_bucket{model_name=\"m\",le=\"8\"} 1\n"));
}

TEST(MetricsTest, RequestsAreTimed) {
  Metrics metrics(TestOptions());
  metrics.OnFirstToken(milliseconds(30));
  metrics.OnNextTokens(milliseconds(60));
  RequestTimes times;
  times.outcome = Outcome::kLength;
  times.usage = {.prompt_tokens = 7,
                 .completion_tokens = 5,
                 .cached_tokens = 0,
                 .accepted_draft_tokens = 0,
                 .rejected_draft_tokens = 0};
  times.max_tokens = 5;
  times.queue = milliseconds(10);
  times.decode = milliseconds(400);
  times.end_to_end = milliseconds(600);
  metrics.OnFinished(times);
  const std::string text = metrics.Text();
  EXPECT_THAT(text,
              HasSubstr("time_to_first_token_seconds_bucket{model_name=\"m\",le=\"0.02\"} 0\n"));
  EXPECT_THAT(text,
              HasSubstr("time_to_first_token_seconds_bucket{model_name=\"m\",le=\"0.04\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("inter_token_latency_seconds_sum{model_name=\"m\"} 0.06\n"));
  // 0.4 s for the four tokens after the first.
  EXPECT_THAT(text, HasSubstr("request_time_per_output_token_seconds_sum{model_name=\"m\"} 0.1\n"));
  EXPECT_THAT(
      text,
      HasSubstr("treeline_request_success_total{model_name=\"m\",finished_reason=\"length\"} 1\n"));
  EXPECT_THAT(text,
              HasSubstr("e2e_request_latency_seconds_bucket{model_name=\"m\",le=\"0.5\"} 0\n"));
  EXPECT_THAT(text,
              HasSubstr("e2e_request_latency_seconds_bucket{model_name=\"m\",le=\"0.8\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("request_prompt_tokens_bucket{model_name=\"m\",le=\"5\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("request_prompt_tokens_bucket{model_name=\"m\",le=\"10\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("request_prefill_time_seconds_count{model_name=\"m\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("request_prompt_tokens_bucket{model_name=\"m\",le=\"1000000\"} 1\n"));
}

TEST(MetricsTest, RefusalsAndHttp) {
  Metrics metrics(TestOptions());
  metrics.OnRejected("queue_full");
  metrics.OnRejected("queue_full");
  metrics.OnHttpResponse("/health", "GET", 200, 0.5);
  const std::string text = metrics.Text();
  EXPECT_THAT(
      text,
      HasSubstr("treeline_requests_rejected_total{model_name=\"m\",reason=\"queue_full\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("treeline_http_requests_total{model_name=\"m\",handler=\"/"
                              "health\",method=\"GET\",status=\"200\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("treeline_http_request_duration_seconds_sum{model_name=\"m\",handler="
                              "\"/health\",method=\"GET\"} 0.5\n"));
}

}  // namespace
}  // namespace treeline
