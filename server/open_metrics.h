// The OpenMetrics text format, version 1.0.0, which prometheus-cpp does not write.
// https://github.com/prometheus/OpenMetrics
#ifndef TREELINE_SERVER_OPEN_METRICS_H_
#define TREELINE_SERVER_OPEN_METRICS_H_

#include <prometheus/metric_family.h>

#include <string>
#include <vector>

namespace treeline {

// REQUIRES: counters, gauges and histograms only; the names of counters end in "_total".
std::string OpenMetricsText(const std::vector<prometheus::MetricFamily>& families);

}  // namespace treeline

#endif  // TREELINE_SERVER_OPEN_METRICS_H_
