#include "server/bench.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
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

// "0,2048,8192" of the flag `name`, each in [min, max].
StatusOr<std::vector<int32_t>> ParseList(const std::string& name, const std::string& text,
                                         int32_t min, int32_t max) {
  std::vector<int32_t> values;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    int32_t value = 0;
    const auto [stop, error] = std::from_chars(text.data() + begin, text.data() + end, value);
    if (error != std::errc() || stop != text.data() + end || value < min || value > max) {
      return InvalidArgument("--{}: '{}' is not a list, such as 1,16, of numbers in {} to {}", name,
                             text, min, max);
    }
    values.push_back(value);
    begin = end + 1;
  }
  return values;
}

// The parents of a tree's nodes, as --tree names it.
StatusOr<std::vector<int32_t>> ParseTree(const std::string& text) {
  std::vector<int32_t> parents;
  int32_t nodes = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), nodes);
  if (error == std::errc() && stop == text.data() + text.size()) {
    if (nodes < 0 || nodes > TokenTree::kMaxNodes) {
      return InvalidArgument("--tree {}: a tree has 1 to {} nodes; 0: measure none", nodes,
                             TokenTree::kMaxNodes);
    }
    for (int32_t i = 0; i < nodes; ++i) parents.push_back(i == 0 ? -1 : (i - 1) / 2);
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

StatusOr<ThroughputOptions> WhatToMeasure(const BenchConfig& config) {
  constexpr int32_t kMaxContext = 1 << 24, kMaxSequences = 1 << 16;
  if (config.prompt() == 0 && config.output() == 0) {
    return InvalidArgument("--prompt 0 and --output 0 leave nothing to measure");
  }
  ThroughputOptions options;
  options.prompt = config.prompt();
  options.output = config.output();
  TREELINE_ASSIGN_OR_RETURN(options.tree, ParseTree(config.tree()));
  TREELINE_ASSIGN_OR_RETURN(options.tree_accepts,
                            ParseList("tree-accepts", config.tree_accepts(), 0, 1 << 20));
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
};

Json ToJson(const Throughput& result) {
  const OperationTimes& operations = result.operations;
  return {
      {"work", Name(result.work)},
      {"context", result.context},
      {"sequences", result.sequences},
      {"tokens", result.tokens},
      {"tokens_per_second",
       {{"median", result.tokens_per_second}, {"min", result.slowest}, {"max", result.fastest}}},
      {"seconds",
       {{"all", result.seconds},
        {"timed", result.timed_seconds},
        {"dense", operations.dense_seconds},
        {"attention", operations.attention_seconds},
        {"other", result.other_seconds()}}},
      {"dense_flops_per_second", PerSecond(operations.dense_operations, operations.dense_seconds)},
      {"weight_bytes_per_step", operations.dense_weight_bytes / result.steps},
      {"weight_bytes_per_second", PerSecond(operations.dense_weight_bytes, result.seconds)}};
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
  Json json = {{"model", report.model},
               {"random_weights", report.random_weights},
               {"attention", ToString(report.engine.config().attention)},
               {"summary", report.engine.Summary()},
               {"weight_bytes", report.engine.weight_bytes()},
               {"max_context", report.engine.limits().max_context},
               {"state_bytes_per_sequence", report.engine.state_bytes()},
               {"results", std::move(results)}};
  if (report.ceilings) json["ceilings"] = ToJson(*report.ceilings);
  if (report.peak_device_memory > 0) json["peak_device_memory_bytes"] = report.peak_device_memory;
  return json;
}

std::string TableRow(const Throughput& result) {
  const OperationTimes& operations = result.operations;
  const auto percent = [&](double seconds) {
    return fmt::format("{:.0f}%", 100 * PerSecond(seconds, result.timed_seconds));
  };
  // A prefill's steps read the weights too, but it is not what bounds them.
  const std::string weights =
      result.work != Work::kPrefill
          ? fmt::format("{:.1f}", 1e-9 * PerSecond(operations.dense_weight_bytes, result.seconds))
          : "";
  return fmt::format(
      "{:<8}{:>8}{:>10}{:>8}{:>11.1f}{:>10.1f}{:>10.1f}{:>7}{:>10}{:>6}{:>9.1f}{:>6}\n",
      Name(result.work), result.context, result.sequences, result.tokens, result.tokens_per_second,
      result.slowest, result.fastest, percent(operations.dense_seconds),
      percent(operations.attention_seconds), percent(result.other_seconds()),
      1e-9 * PerSecond(operations.dense_operations, operations.dense_seconds), weights);
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

std::string Table(const Report& report) {
  std::string table = report.model + (report.random_weights ? ", random weights\n" : "\n");
  for (const std::string& line : report.engine.Summary()) table += line + "\n";
  if (report.ceilings) table += Line(*report.ceilings);
  if (report.peak_device_memory > 0) {
    table += fmt::format("device memory at most {} MiB\n", report.peak_device_memory >> 20);
  }
  table += "\n";
  table += fmt::format("{:<8}{:>8}{:>10}{:>8}{:>11}{:>10}{:>10}{:>7}{:>10}{:>6}{:>9}{:>6}\n",
                       "work", "context", "sequences", "tokens", "tokens/s", "min", "max", "dense",
                       "attention", "other", "GFLOP/s", "GB/s");
  for (const Throughput& result : report.results) table += TableRow(result);
  return table +
         "\ntokens/s: the median, over all sequences; dense, attention, other: where the time of a "
         "step went;"
         "\nGFLOP/s of the dense products, GB/s of weights read by the steps of a decode or "
         "verify\n";
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

  Report report{checkpoint->path(), random_weights, *engine, {}, 0, {}};
  const auto progress = [&](const Throughput& next) {
    log << fmt::format("measuring {} at context {}, {} tokens of {} sequences\n", Name(next.work),
                       next.context, next.tokens, next.sequences)
        << std::flush;
  };
  TREELINE_ASSIGN_OR_RETURN(report.results,
                            MeasureThroughput(measure, progress, Clock::Real(), *engine, backend));
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
