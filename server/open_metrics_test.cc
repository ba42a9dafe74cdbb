#include "server/open_metrics.h"

#include <gtest/gtest.h>
#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

namespace treeline {
namespace {

// As the specification's ABNF has it; tests/e2e/test_prometheus.py asks an independent parser.
TEST(OpenMetricsTest, CountersGaugesAndHistograms) {
  prometheus::Registry registry;
  prometheus::BuildCounter()
      .Name("calls_total")
      .Help("Calls, \"all\"\nof them.")
      .Register(registry)
      .Add({{"path", "a\\b\"c\nd"}})
      .Increment(3);
  prometheus::BuildGauge().Name("share").Help("0 to 1.").Register(registry).Add({}).Set(0.25);
  auto& seconds = prometheus::BuildHistogram().Name("seconds").Help("Time.").Register(registry).Add(
      {{"m", "x"}}, prometheus::Histogram::BucketBoundaries{0.5, 20, 1e6});
  seconds.Observe(0.25);
  seconds.Observe(21);
  EXPECT_EQ(OpenMetricsText(registry.Collect()), R"(# TYPE calls counter
# HELP calls Calls, \"all\"\nof them.
calls_total{path="a\\b\"c\nd"} 3
# TYPE share gauge
# HELP share 0 to 1.
share 0.25
# TYPE seconds histogram
# HELP seconds Time.
seconds_bucket{m="x",le="0.5"} 1
seconds_bucket{m="x",le="20.0"} 1
seconds_bucket{m="x",le="1e+06"} 2
seconds_bucket{m="x",le="+Inf"} 2
seconds_count{m="x"} 2
seconds_sum{m="x"} 21.25
# EOF
)");
}

TEST(OpenMetricsTest, NothingIsStillADocument) { EXPECT_EQ(OpenMetricsText({}), "# EOF\n"); }

}  // namespace
}  // namespace treeline
