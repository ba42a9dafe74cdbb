#include "server/bench.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "engine/backend/timed_backend.h"
#include "engine/base/clock.h"
#include "engine/base/json.h"
#include "engine/bench/machine.h"
#include "engine/bench/random_checkpoint.h"
#include "engine/bench/throughput.h"
#include "engine/model/checkpoint.h"
#include "engine/model_engine.h"
#include "engine/speculative/draft_choices.h"
#include "engine/speculative/token_tree.h"
#include "server/open_model.h"

namespace treeline {

namespace {

// Past the caches of any machine.
constexpr size_t kMemoryBytes = size_t{512} << 20;
constexpr int32_t kMaxContext = 1 << 24;

std::vector<std::string> SplitAtCommas(const std::string& text) {
  std::vector<std::string> items;
  std::istringstream rest(text + ",");
  for (std::string item; std::getline(rest, item, ',');) items.push_back(item);
  return items;
}

std::optional<int32_t> ParseNumber(std::string_view text, int32_t min, int32_t max) {
  int32_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || value < min || value > max) return std::nullopt;
  return value;
}

// "0,2048,8192" of the flag `name`, each in [min, max].
StatusOr<std::vector<int32_t>> ParseList(const std::string& name, const std::string& text,
                                         int32_t min, int32_t max) {
  std::vector<int32_t> values;
  for (const std::string& item : SplitAtCommas(text)) {
    const std::optional<int32_t> value = ParseNumber(item, min, max);
    if (!value) {
      return InvalidArgument("--{}: '{}' is not a list, such as 1,16, of numbers in {} to {}", name,
                             text, min, max);
    }
    values.push_back(*value);
  }
  return values;
}

// The parents of a tree's nodes, as --tree names it.
StatusOr<std::vector<int32_t>> ParseTree(const std::string& text) {
  std::vector<int32_t> parents;
  constexpr std::numeric_limits<int32_t> kAny;
  if (const std::optional<int32_t> nodes = ParseNumber(text, kAny.min(), kAny.max())) {
    if (*nodes < 0 || *nodes > TokenTree::kMaxNodes) {
      return InvalidArgument("--tree {}: a tree has 1 to {} nodes; 0: measure none", *nodes,
                             TokenTree::kMaxNodes);
    }
    for (int32_t i = 0; i < *nodes; ++i) parents.push_back(i == 0 ? -1 : (i - 1) / 2);
    return parents;
  }
  const StatusOr<DraftChoices> choices = DraftChoices::Load(text);
  if (!choices.ok()) return Annotate(choices.status(), "--tree");
  parents.push_back(-1);
  for (const DraftChoices::Choice& choice : choices->choices()) {
    parents.push_back(choice.parent + 1);
  }
  return parents;
}

// What You et al., "When Linear Attention Meets Autoregressive Decoding" (ICML 2024) measure. Those
// of its table 4 are prompts alone; tables 10 and 11 have table 5's.
const std::map<std::string, std::vector<ThroughputOptions::Request>>& NamedRequests() {
  static const auto* const kRequests =
      new std::map<std::string, std::vector<ThroughputOptions::Request>>{
          {"table4", {{2048, 1}, {4096, 1}, {8192, 1}, {16384, 1}, {32768, 1}}},
          {"table5", {{340, 160}, {60, 20}, {7000, 200}, {1700, 400}}}};
  return *kRequests;
}

// "340:160"
std::optional<ThroughputOptions::Request> ParseRequest(std::string_view text) {
  const size_t colon = text.find(':');
  if (colon == std::string_view::npos) return std::nullopt;
  const std::optional<int32_t> prompt = ParseNumber(text.substr(0, colon), 1, kMaxContext);
  const std::optional<int32_t> output = ParseNumber(text.substr(colon + 1), 1, kMaxContext);
  if (!prompt || !output) return std::nullopt;
  return ThroughputOptions::Request{*prompt, *output};
}

// "340:160,table4"
StatusOr<std::vector<ThroughputOptions::Request>> ParseRequests(const std::string& text) {
  std::vector<ThroughputOptions::Request> requests;
  for (const std::string& item : SplitAtCommas(text)) {
    if (const auto named = NamedRequests().find(item); named != NamedRequests().end()) {
      requests.insert(requests.end(), named->second.begin(), named->second.end());
    } else if (const auto request = ParseRequest(item)) {
      requests.push_back(*request);
    } else {
      return InvalidArgument(
          "--requests: '{}' is not a list of prompts and outputs, such as 340:160,60:20, table4 or "
          "table5",
          text);
    }
  }
  return requests;
}

StatusOr<ThroughputOptions> WhatToMeasure(const BenchConfig& config) {
  constexpr int32_t kMaxSequences = 1 << 16;
  ThroughputOptions options;
  options.prompt = config.prompt();
  options.output = config.output();
  if (config.has_requests()) {
    TREELINE_ASSIGN_OR_RETURN(options.requests, ParseRequests(config.requests()));
  } else if (!options.uses_contexts()) {
    return InvalidArgument("--prompt 0 and --output 0 leave nothing to measure but --requests");
  }
  TREELINE_ASSIGN_OR_RETURN(options.tree, ParseTree(config.tree()));
  TREELINE_ASSIGN_OR_RETURN(options.tree_accepts,
                            ParseList("tree-accepts", config.tree_accepts(), 0, 1 << 20));
  if (config.has_medusa_heads() && options.tree.empty()) {
    return InvalidArgument("--medusa-heads: there is no --tree that they guess");
  }
  if (std::ranges::all_of(options.tree_accepts, [](int32_t steps) { return steps == 0; })) {
    return InvalidArgument("--tree-accepts {}: no steps", config.tree_accepts());
  }
  options.repeats = config.repeats();
  options.max_batch_tokens = config.max_batch_tokens();
  TREELINE_ASSIGN_OR_RETURN(options.contexts,
                            ParseList("context", config.context(), 0, kMaxContext));
  TREELINE_ASSIGN_OR_RETURN(options.sequences,
                            ParseList("sequences", config.sequences(), 1, kMaxSequences));
  return options;
}

const char* Name(Work work) {
  if (work == Work::kPrefill) return "prefill";
  return work == Work::kDecode ? "decode" : "verify";
}

double PerSecond(double amount, double seconds) { return seconds > 0 ? amount / seconds : 0; }

// Of where the model runs.
using Ceilings = std::variant<MachineCeilings, DeviceCeilings>;

struct Report {
  std::string model;  // As the flags name it.
  bool random_weights;
  const ModelEngine& engine;
  std::optional<Ceilings> ceilings;  // None where memory was short for them.
  size_t peak_device_memory = 0;     // 0: it is the host's.
  std::vector<Throughput> results;
  std::vector<Latency> requests;
};

Json SecondsToJson(const Timing& timing) {
  return {{"all", timing.seconds},
          {"timed", timing.timed_seconds},
          {"dense", timing.operations.dense_seconds},
          {"attention", timing.operations.attention_seconds},
          {"other", timing.other_seconds()}};
}

Json ToJson(const Throughput& result) {
  const OperationTimes& operations = result.operations;
  return {
      {"work", Name(result.work)},
      {"context", result.context},
      {"sequences", result.sequences},
      {"tokens", result.tokens},
      {"tokens_per_second",
       {{"median", result.tokens_per_second}, {"min", result.slowest}, {"max", result.fastest}}},
      {"seconds", SecondsToJson(result)},
      {"dense_flops_per_second", PerSecond(operations.dense_operations, operations.dense_seconds)},
      {"weight_bytes_per_step", operations.dense_weight_bytes / result.steps},
      {"weight_bytes_per_second", PerSecond(operations.dense_weight_bytes, result.seconds)}};
}

Json ToJson(const Latency& result) {
  Json seconds = SecondsToJson(result);
  seconds["min"] = result.fastest;
  seconds["max"] = result.slowest;
  seconds["prefill"] = result.prefill_seconds;
  seconds["decode"] = result.decode_seconds();
  return {{"prompt", result.prompt},
          {"output", result.output},
          {"speculative", result.speculative},
          {"decode_steps", result.decode_steps},
          {"seconds", std::move(seconds)}};
}

Json ToJson(const Ceilings& ceilings) {
  if (const auto* machine = std::get_if<MachineCeilings>(&ceilings)) {
    return {{"memory_bytes_per_second", machine->memory_bytes_per_second},
            {"fp32_flops_per_second", machine->fp32_operations_per_second}};
  }
  const auto& device = std::get<DeviceCeilings>(ceilings);
  return {{"copied_bytes_per_second", device.copied_bytes_per_second},
          {"bf16_product_flops_per_second", device.product_operations_per_second}};
}

Json ToJson(const Report& report) {
  Json results = Json::array();
  for (const Throughput& result : report.results) results.push_back(ToJson(result));
  Json requests = Json::array();
  for (const Latency& request : report.requests) requests.push_back(ToJson(request));
  Json json = {{"model", report.model},
               {"random_weights", report.random_weights},
               {"attention", ToString(report.engine.config().attention)},
               {"summary", report.engine.Summary()},
               {"weight_bytes", report.engine.weight_bytes()},
               {"max_context", report.engine.limits().max_context},
               {"state_bytes_per_sequence", report.engine.state_bytes()},
               {"results", std::move(results)},
               {"requests", std::move(requests)}};
  if (report.ceilings) json["ceilings"] = ToJson(*report.ceilings);
  if (report.peak_device_memory > 0) json["peak_device_memory_bytes"] = report.peak_device_memory;
  return json;
}

std::string Percent(double part, double of) {
  return fmt::format("{:.0f}%", 100 * PerSecond(part, of));
}

// Where the time of the steps went.
std::string Shares(const Timing& timing) {
  return fmt::format("{:>7}{:>10}{:>6}",
                     Percent(timing.operations.dense_seconds, timing.timed_seconds),
                     Percent(timing.operations.attention_seconds, timing.timed_seconds),
                     Percent(timing.other_seconds(), timing.timed_seconds));
}

std::string TableRow(const Throughput& result) {
  const OperationTimes& operations = result.operations;
  // A prefill's steps read the weights too, but it is not what bounds them.
  const std::string weights =
      result.work != Work::kPrefill
          ? fmt::format("{:.1f}", 1e-9 * PerSecond(operations.dense_weight_bytes, result.seconds))
          : "";
  return fmt::format("{:<8}{:>8}{:>10}{:>8}{:>11.1f}{:>10.1f}{:>10.1f}{}{:>11.1f}{:>8}\n",
                     Name(result.work), result.context, result.sequences, result.tokens,
                     result.tokens_per_second, result.slowest, result.fastest, Shares(result),
                     1e-9 * PerSecond(operations.dense_operations, operations.dense_seconds),
                     weights);
}

std::string Line(const Ceilings& ceilings) {
  if (const auto* machine = std::get_if<MachineCeilings>(&ceilings)) {
    return fmt::format("at best: memory read at {:.1f} GB/s, fp32 at {:.1f} GFLOP/s\n",
                       1e-9 * machine->memory_bytes_per_second,
                       1e-9 * machine->fp32_operations_per_second);
  }
  const auto& device = std::get<DeviceCeilings>(ceilings);
  return fmt::format(
      "at best: memory copied at {:.0f} GB/s read and written, bf16 products at {:.0f} GFLOP/s\n",
      1e-9 * device.copied_bytes_per_second, 1e-9 * device.product_operations_per_second);
}

std::string ResultsTable(const std::vector<Throughput>& results) {
  std::string table =
      fmt::format("\n{:<8}{:>8}{:>10}{:>8}{:>11}{:>10}{:>10}{:>7}{:>10}{:>6}{:>11}{:>8}\n", "work",
                  "context", "sequences", "tokens", "tokens/s", "min", "max", "dense", "attention",
                  "other", "GFLOP/s", "GB/s");
  for (const Throughput& result : results) table += TableRow(result);
  return table +
         "tokens/s: the median, over all sequences; GFLOP/s of the dense products, GB/s of weights "
         "read by the steps of a decode or verify\n";
}

std::string TableRow(const Latency& request) {
  return fmt::format("{:>6}{:>8}  {:<11}{:>6}{:>10.4f}{:>9.4f}{:>9.4f}{:>9}{:>8}{}\n",
                     request.prompt, request.output, request.speculative ? "speculative" : "plain",
                     request.decode_steps, request.seconds, request.fastest, request.slowest,
                     Percent(request.prefill_seconds, request.seconds),
                     Percent(request.decode_seconds(), request.seconds), Shares(request));
}

std::string RequestsTable(const std::vector<Latency>& requests) {
  std::string table =
      fmt::format("\n{:>6}{:>8}  {:<11}{:>6}{:>10}{:>9}{:>9}{:>9}{:>8}{:>7}{:>10}{:>6}\n", "prompt",
                  "output", "decoding", "steps", "seconds", "min", "max", "prefill", "decode",
                  "dense", "attention", "other");
  for (const Latency& request : requests) table += TableRow(request);
  return table +
         "seconds: the median, of a request alone, of which prefill goes by until the first token; "
         "steps: of its decode\n";
}

std::string Table(const Report& report) {
  std::string table = report.model + (report.random_weights ? ", random weights\n" : "\n");
  for (const std::string& line : report.engine.Summary()) table += line + "\n";
  if (report.ceilings) table += Line(*report.ceilings);
  if (report.peak_device_memory > 0) {
    table += fmt::format("device memory at most {} MiB\n", report.peak_device_memory >> 20);
  }
  if (!report.results.empty()) table += ResultsTable(report.results);
  if (!report.requests.empty()) table += RequestsTable(report.requests);
  return table + "\ndense, attention, other: where the time of the steps went\n";
}

StatusOr<Ceilings> Measure(TimedBackend& backend) {
  if (backend.is_asynchronous()) return MeasureDeviceCeilings(kMemoryBytes, backend);
  return MeasureCeilings(kMemoryBytes, Clock::Real(), backend.host_threads());
}

// Where the results go: opened first, so that a bad name is told before the work and not after.
StatusOr<std::unique_ptr<std::ofstream>> OpenFile(const std::string& path) {
  auto file = std::make_unique<std::ofstream>(path);
  if (!*file) return InvalidArgument("--json {}: the file cannot be written", path);
  return file;
}

}  // namespace

Status Bench(const BenchConfig& config, std::ostream& out, std::ostream& log) {
  if (config.has_random_weights() &&
      (config.engine().has_model() || config.engine().has_adapter())) {
    return InvalidArgument("--random-weights takes the place of --model and --adapter");
  }
  TREELINE_ASSIGN_OR_RETURN(const ThroughputOptions measure, WhatToMeasure(config));
  const bool json_to_out = config.json() == "-";
  std::unique_ptr<std::ofstream> file;
  if (config.has_json() && !json_to_out) {
    TREELINE_ASSIGN_OR_RETURN(file, OpenFile(config.json()));
  }

  TREELINE_ASSIGN_OR_RETURN(ModelEngine::Options options, EngineOptions(config.engine()));
  options.any_context = true;
  options.medusa_heads = config.medusa_heads();
  if (options.max_context == 0) options.max_context = measure.longest();
  TREELINE_ASSIGN_OR_RETURN(std::unique_ptr<Backend> plain_backend, CreateBackend(config.engine()));
  auto timed_backend = std::make_unique<TimedBackend>(std::move(plain_backend), Clock::Real());
  TimedBackend& backend = *timed_backend;
  const bool random_weights = config.has_random_weights();
  TREELINE_ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint,
                            random_weights ? MakeRandomCheckpoint(config.random_weights())
                                           : OpenCheckpoint(config.engine()));
  TREELINE_ASSIGN_OR_RETURN(const std::unique_ptr<ModelEngine> engine,
                            ModelEngine::Load(*checkpoint, options, std::move(timed_backend)));

  Report report{checkpoint->path(), random_weights, *engine, {}, 0, {}, {}};
  const auto progress = [&](const Throughput& next) {
    log << fmt::format("measuring {} at context {}, {} tokens of {} sequences\n", Name(next.work),
                       next.context, next.tokens, next.sequences)
        << std::flush;
  };
  TREELINE_ASSIGN_OR_RETURN(report.results,
                            MeasureThroughput(measure, progress, Clock::Real(), *engine, backend));
  const auto request_progress = [&](const Latency& next) {
    log << fmt::format("measuring a request of {} tokens that {}generates {}\n", next.prompt,
                       next.speculative ? "speculatively " : "", next.output)
        << std::flush;
  };
  TREELINE_ASSIGN_OR_RETURN(
      report.requests, MeasureRequests(measure, request_progress, Clock::Real(), *engine, backend));
  // Before the next measurement's own.
  report.peak_device_memory = backend.PeakMemory();
  log << "measuring the machine\n" << std::flush;
  const StatusOr<Ceilings> ceilings = Measure(backend);
  if (ceilings.ok()) {
    report.ceilings = *ceilings;
  } else {
    // No reason to lose the results.
    log << "the machine was not measured: " << Message(ceilings.status()) << "\n" << std::flush;
  }

  if (json_to_out) {
    out << ToJson(report).dump() << "\n";
    return OkStatus();
  }
  out << Table(report);
  if (file == nullptr) return OkStatus();
  *file << ToJson(report).dump() << "\n";
  file->close();
  if (!*file) return Internal("--json {}: writing failed", config.json());
  return OkStatus();
}

}  // namespace treeline
