#include "server/open_metrics.h"

#include <fmt/format.h>

#include <cmath>
#include <string_view>

#include "engine/base/status.h"

namespace treeline {

namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

constexpr std::string_view kTotal = "_total";

std::string Escaped(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '\n') {
      escaped += "\\n";
    } else {
      if (c == '\\' || c == '"') escaped += '\\';
      escaped += c;
    }
  }
  return escaped;
}

// A bucket's bound, which the format wants to look like a float, and short: 0.5, 20.0, 1e+06.
std::string Bound(double value) {
  if (std::isinf(value)) return "+Inf";
  if (value >= 1e6) return fmt::format("{:g}", value);
  const std::string text = fmt::format("{}", value);
  return text.find('.') == std::string::npos ? text + ".0" : text;
}

// {a="b",c="d"}, or nothing.
std::string Labels(const ClientMetric& metric, const std::string& bound = "") {
  std::string labels;
  for (const ClientMetric::Label& label : metric.label) {
    labels +=
        fmt::format("{}{}=\"{}\"", labels.empty() ? "" : ",", label.name, Escaped(label.value));
  }
  if (!bound.empty()) labels += fmt::format("{}le=\"{}\"", labels.empty() ? "" : ",", bound);
  return labels.empty() ? "" : "{" + labels + "}";
}

void AddHistogram(const std::string& name, const ClientMetric& metric, std::string* text) {
  const ClientMetric::Histogram& histogram = metric.histogram;
  for (const ClientMetric::Bucket& bucket : histogram.bucket) {
    *text += fmt::format("{}_bucket{} {}\n", name, Labels(metric, Bound(bucket.upper_bound)),
                         bucket.cumulative_count);
  }
  *text += fmt::format("{}_count{} {}\n", name, Labels(metric), histogram.sample_count);
  *text += fmt::format("{}_sum{} {}\n", name, Labels(metric), histogram.sample_sum);
}

void AddFamily(const MetricFamily& family, std::string* text) {
  std::string name = family.name;
  std::string type = "gauge";
  if (family.type == MetricType::Counter) {
    TREELINE_CHECK(name.ends_with(kTotal));
    name.resize(name.size() - kTotal.size());  // The family's; its samples keep it.
    type = "counter";
  } else if (family.type == MetricType::Histogram) {
    type = "histogram";
  }
  *text += fmt::format("# TYPE {} {}\n# HELP {} {}\n", name, type, name, Escaped(family.help));
  for (const ClientMetric& metric : family.metric) {
    if (family.type == MetricType::Histogram) {
      AddHistogram(name, metric, text);
    } else {
      const bool is_counter = family.type == MetricType::Counter;
      *text += fmt::format("{}{} {}\n", family.name, Labels(metric),
                           is_counter ? metric.counter.value : metric.gauge.value);
    }
  }
}

}  // namespace

std::string OpenMetricsText(const std::vector<MetricFamily>& families) {
  std::string text;
  for (const MetricFamily& family : families) AddFamily(family, &text);
  return text + "# EOF\n";
}

}  // namespace treeline
