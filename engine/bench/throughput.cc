#include "engine/bench/throughput.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <span>
#include <utility>

#include "engine/speculative/token_tree.h"

namespace treeline {
namespace {

int32_t Largest(const std::vector<int32_t>& values) {
  return *std::max_element(values.begin(), values.end());
}

// The nodes of the first of a tree's longest paths, from the root on.
std::vector<int32_t> LongestPath(const std::vector<int32_t>& parents) {
  std::vector<int32_t> depths(parents.size(), 0);
  for (size_t i = 1; i < parents.size(); ++i) depths[i] = depths[parents[i]] + 1;
  const auto deepest = std::max_element(depths.begin(), depths.end());
  std::vector<int32_t> path;
  for (int32_t node = static_cast<int32_t>(deepest - depths.begin()); node >= 0;
       node = parents[node]) {
    path.push_back(node);
  }
  std::reverse(path.begin(), path.end());
  return path;
}

// The nodes that each of so many steps commits. At any step the number of those that accepted so
// many is as near to its share as it can be.
std::vector<int32_t> PathLengths(const ThroughputOptions& options, int32_t steps) {
  const std::vector<int32_t>& shares = options.tree_accepts;
  const double total = std::accumulate(shares.begin(), shares.end(), 0.0);
  const auto longest = static_cast<int32_t>(LongestPath(options.tree).size());
  std::vector<double> owed(shares.size());
  std::vector<int32_t> lengths;
  for (int32_t step = 0; step < steps; ++step) {
    for (size_t i = 0; i < shares.size(); ++i) owed[i] += shares[i] / total;
    const auto most = std::max_element(owed.begin(), owed.end());
    *most -= 1;
    const int32_t accepted = static_cast<int32_t>(most - owed.begin());
    lengths.push_back(std::min(1 + accepted, longest));
  }
  return lengths;
}

// The same of the steps that it takes to commit so many nodes in all.
std::vector<int32_t> PathLengthsOfTokens(const ThroughputOptions& options, int32_t tokens) {
  std::vector<int32_t> lengths = PathLengths(options, tokens);
  size_t steps = 0;
  for (; tokens > 0; ++steps) {
    lengths[steps] = std::min(lengths[steps], tokens);
    tokens -= lengths[steps];
  }
  lengths.resize(steps);
  return lengths;
}

// Tokens that a sequence holds where a tree is verified after so many. The tree is less deep than
// it has nodes.
int32_t WithTree(const ThroughputOptions& options, int32_t tokens) {
  return tokens + static_cast<int32_t>(options.tree.size());
}

// Tokens that a sequence comes to hold beyond its context.
int32_t LongestWork(const ThroughputOptions& options) {
  const int32_t longest = std::max(options.prompt, options.output);
  if (options.tree.empty()) return longest;
  const std::vector<int32_t> lengths = PathLengths(options, options.output);
  return std::max(longest, WithTree(options, std::accumulate(lengths.begin(), lengths.end(), 0)));
}

int32_t LongestOf(const ThroughputOptions& options, const ThroughputOptions::Request& request) {
  return WithTree(options, request.prompt + request.output);
}

Status CheckFits(const ThroughputOptions& options, const EngineLimits& limits) {
  for (const ThroughputOptions::Request& request : options.requests) {
    if (LongestOf(options, request) <= limits.max_context) continue;
    return InvalidArgument(
        "--requests {}:{} takes {} tokens, but the engine holds {} a sequence; raise --max-context",
        request.prompt, request.output, LongestOf(options, request), limits.max_context);
  }
  if (!options.uses_contexts()) return OkStatus();
  const int32_t longest = Largest(options.contexts) + LongestWork(options);
  if (longest > limits.max_context) {
    return InvalidArgument(
        "--context {} and what follows it take {} tokens, but the engine holds {} a sequence; "
        "lower --context or raise --max-context",
        Largest(options.contexts), longest, limits.max_context);
  }
  if (Largest(options.sequences) > limits.num_slots) {
    return InvalidArgument(
        "--sequences {}: there are {} states; raise --max-slots and --state-memory, or lower "
        "--context",
        Largest(options.sequences), limits.num_slots);
  }
  return OkStatus();
}

class Measurer {
 public:
  Measurer(const ThroughputOptions& options, const Clock& clock, ModelEngine& engine,
           TimedBackend& backend)
      : options_(options),
        clock_(clock),
        engine_(engine),
        backend_(backend),
        token_(0, engine.limits().vocab_size - 1) {}

  StatusOr<std::vector<Throughput>> Throughputs(const ThroughputProgress& progress) {
    TREELINE_RETURN_IF_ERROR(AcquireSlots(Largest(options_.sequences)));
    std::vector<int32_t> contexts = options_.contexts;
    std::sort(contexts.begin(), contexts.end());
    std::vector<Throughput> results;
    int32_t held = 0;  // Tokens in the first slot; a longer context continues a shorter one.
    for (const int32_t context : contexts) {
      TREELINE_RETURN_IF_ERROR(Prefill(context - held, /*sample=*/false));
      held = context;
      TREELINE_ASSIGN_OR_RETURN(const StateSnapshot start, engine_.pool().Snapshot(slots_[0]));
      for (Throughput& next : WorkAt(context)) {
        if (progress) progress(next);
        TREELINE_RETURN_IF_ERROR(Measure(start, next));
        results.push_back(std::move(next));
      }
      engine_.pool().Restore(slots_[0], start);
    }
    return results;
  }

  StatusOr<std::vector<Latency>> Latencies(const LatencyProgress& progress) {
    TREELINE_RETURN_IF_ERROR(AcquireSlots(1));
    TREELINE_ASSIGN_OR_RETURN(const StateSnapshot start, engine_.pool().Snapshot(slots_[0]));
    std::vector<Latency> results;
    for (const ThroughputOptions::Request& request : options_.requests) {
      for (const bool speculative : {false, true}) {
        // Of one token there is no decode.
        if (speculative && (options_.tree.empty() || request.output == 1)) continue;
        Latency& next = results.emplace_back();
        next.prompt = request.prompt;
        next.output = request.output;
        next.speculative = speculative;
        if (progress) progress(next);
        TREELINE_RETURN_IF_ERROR(Measure(start, next));
      }
    }
    return results;
  }

 private:
  struct Repeat {
    TimePoint begin, end;
    TimePoint prefilled;  // Of a request.
    OperationTimes operations;

    double seconds() const { return ToSeconds(end - begin); }
  };
  struct Repeats {
    std::vector<Repeat> by_time;  // The fastest first.
    Repeat timed;                 // Tells where time goes.

    const Repeat& median() const { return by_time[by_time.size() / 2]; }
    void Fill(Timing& timing) const {
      timing.seconds = median().seconds();
      timing.timed_seconds = timed.seconds();
      timing.operations = timed.operations;
    }
  };

  Status AcquireSlots(int32_t count) {
    for (int32_t i = 0; i < count; ++i) {
      TREELINE_ASSIGN_OR_RETURN(StateSlot slot, engine_.AcquireSlot());
      slots_.push_back(std::move(slot));
    }
    return OkStatus();
  }

  // What is measured at a context.
  std::vector<Throughput> WorkAt(int32_t context) const {
    std::vector<Throughput> all;
    Throughput next;
    next.context = context;
    if (options_.prompt > 0) {
      next.work = Work::kPrefill;
      next.steps = (options_.prompt + options_.max_batch_tokens - 1) / options_.max_batch_tokens;
      next.tokens = options_.prompt;
      all.push_back(next);
    }
    if (options_.output == 0) return all;
    next.steps = options_.output;
    for (const int32_t sequences : options_.sequences) {
      next.work = Work::kDecode;
      next.sequences = sequences;
      next.tokens = sequences * options_.output;
      all.push_back(next);
    }
    if (options_.tree.empty()) return all;
    const std::vector<int32_t> lengths = PathLengths(options_, options_.output);
    for (const int32_t sequences : options_.sequences) {
      next.work = Work::kVerify;
      next.sequences = sequences;
      next.tokens = sequences * std::accumulate(lengths.begin(), lengths.end(), 0);
      all.push_back(next);
    }
    return all;
  }

  Status Measure(const StateSnapshot& start, Throughput& result) {
    const auto work = [&](Repeat&) {
      if (result.work == Work::kPrefill) return Prefill(options_.prompt, /*sample=*/true);
      if (result.work == Work::kDecode) return Decode(result.sequences, options_.output);
      return Verify(result.sequences, PathLengths(options_, options_.output));
    };
    TREELINE_ASSIGN_OR_RETURN(const Repeats repeats, Run(start, result.sequences, work));
    repeats.Fill(result);
    result.tokens_per_second = result.tokens / result.seconds;
    result.slowest = result.tokens / repeats.by_time.back().seconds();
    result.fastest = result.tokens / repeats.by_time.front().seconds();
    return OkStatus();
  }

  Status Measure(const StateSnapshot& start, Latency& result) {
    const int32_t to_decode = result.output - 1;
    const std::vector<int32_t> lengths =
        result.speculative ? PathLengthsOfTokens(options_, to_decode) : std::vector<int32_t>();
    result.decode_steps = result.speculative ? static_cast<int32_t>(lengths.size()) : to_decode;
    const auto work = [&](Repeat& repeat) {
      TREELINE_RETURN_IF_ERROR(Prefill(result.prompt, /*sample=*/true));
      repeat.prefilled = clock_.Now();
      return result.speculative ? Verify(1, lengths) : Decode(1, to_decode);
    };
    TREELINE_ASSIGN_OR_RETURN(const Repeats repeats, Run(start, 1, work));
    repeats.Fill(result);
    result.fastest = repeats.by_time.front().seconds();
    result.slowest = repeats.by_time.back().seconds();
    result.prefill_seconds = ToSeconds(repeats.median().prefilled - repeats.median().begin);
    return OkStatus();
  }

  // Runs `work` options_.repeats times on so many sequences, and once before to warm up.
  template <typename WorkFunction>
  StatusOr<Repeats> Run(const StateSnapshot& start, int32_t sequences, const WorkFunction& work) {
    const auto run = [&]() -> StatusOr<Repeat> {
      for (int32_t s = 0; s < sequences; ++s) engine_.pool().Restore(slots_[s], start);
      TREELINE_RETURN_IF_ERROR(backend_.Synchronize());
      backend_.Take();
      Repeat repeat;
      repeat.begin = clock_.Now();
      TREELINE_RETURN_IF_ERROR(work(repeat));
      TREELINE_RETURN_IF_ERROR(backend_.Synchronize());
      repeat.end = clock_.Now();
      repeat.operations = backend_.Take();
      return repeat;
    };
    TREELINE_RETURN_IF_ERROR(run().status());
    Repeats repeats;
    for (int32_t i = 0; i < options_.repeats; ++i) {
      TREELINE_ASSIGN_OR_RETURN(repeats.by_time.emplace_back(), run());
    }
    std::sort(repeats.by_time.begin(), repeats.by_time.end(),
              [](const Repeat& a, const Repeat& b) { return a.seconds() < b.seconds(); });
    repeats.timed = repeats.median();
    if (backend_.is_asynchronous()) {
      backend_.set_is_timing(true);
      TREELINE_ASSIGN_OR_RETURN(repeats.timed, run());
      backend_.set_is_timing(false);
    }
    return repeats;
  }

  // Feeds random tokens to the first slot; `sample` draws what would follow.
  Status Prefill(int32_t tokens, bool sample) {
    for (int32_t left = tokens; left > 0;) {
      const int32_t count = std::min(left, options_.max_batch_tokens);
      left -= count;
      Batch batch;
      batch.AddChain(slots_[0].index(), RandomTokens(count));
      if (sample && left == 0) batch.requests.push_back(Greedy(count - 1));
      TREELINE_RETURN_IF_ERROR(Step(batch));
    }
    return OkStatus();
  }

  Status Decode(int32_t sequences, int32_t steps) {
    for (int32_t step = 0; step < steps; ++step) {
      Batch batch;
      for (int32_t s = 0; s < sequences; ++s) {
        const int32_t row = batch.AddChain(slots_[s].index(), RandomTokens(1));
        batch.requests.push_back(Greedy(row));
      }
      TREELINE_RETURN_IF_ERROR(Step(batch));
    }
    return OkStatus();
  }

  // Steps that commit paths of these lengths. All nodes' next tokens are wanted.
  Status Verify(int32_t sequences, const std::vector<int32_t>& lengths) {
    const std::vector<int32_t>& parents = options_.tree;
    const auto nodes = static_cast<int32_t>(parents.size());
    for (const int32_t length : lengths) {
      std::vector<int32_t> path = LongestPath(parents);
      path.resize(length);
      Batch batch;
      std::vector<AcceptedPath> paths;
      std::vector<int32_t> last_rows;
      for (int32_t s = 0; s < sequences; ++s) {
        TREELINE_ASSIGN_OR_RETURN(const TokenTree tree,
                                  TokenTree::Create(RandomTokens(nodes), parents));
        const int32_t root = batch.AddTree(slots_[s].index(), tree);
        for (int32_t i = 0; i < nodes; ++i) batch.requests.push_back(Greedy(root + i));
        paths.push_back({slots_[s].index(), path});
        last_rows.push_back(root + path.back());
      }
      TREELINE_RETURN_IF_ERROR(Step(batch));
      TREELINE_RETURN_IF_ERROR(engine_.Commit(paths));
      if (engine_.limits().num_draft_heads == 0) continue;
      TREELINE_RETURN_IF_ERROR(engine_.Draft(last_rows, nodes - 1).status());
    }
    return OkStatus();
  }

  Status Step(const Batch& batch) {
    TREELINE_ASSIGN_OR_RETURN(const std::vector<RowResult> results, engine_.Step(batch));
    for (const RowResult& result : results) TREELINE_RETURN_IF_ERROR(result.status);
    return OkStatus();
  }

  RowRequest Greedy(int32_t row) const {
    RowRequest request;
    request.row = row;
    request.sampling = &greedy_;
    return request;
  }

  std::vector<int32_t> RandomTokens(int32_t count) {
    std::vector<int32_t> tokens(count);
    for (int32_t& token : tokens) token = token_(random_);
    return tokens;
  }

  const ThroughputOptions& options_;
  const Clock& clock_;
  ModelEngine& engine_;
  TimedBackend& backend_;
  const SamplingParams greedy_{.temperature = 0};
  std::mt19937 random_;
  std::uniform_int_distribution<int32_t> token_;
  std::vector<StateSlot> slots_;
};

}  // namespace

int32_t ThroughputOptions::longest() const {
  int32_t longest = uses_contexts() ? Largest(contexts) + LongestWork(*this) : 0;
  for (const Request& request : requests) longest = std::max(longest, LongestOf(*this, request));
  return longest;
}

StatusOr<std::vector<Throughput>> MeasureThroughput(const ThroughputOptions& options,
                                                    const ThroughputProgress& progress,
                                                    const Clock& clock, ModelEngine& engine,
                                                    TimedBackend& backend) {
  TREELINE_RETURN_IF_ERROR(CheckFits(options, engine.limits()));
  if (!options.uses_contexts()) return std::vector<Throughput>();
  return Measurer(options, clock, engine, backend).Throughputs(progress);
}

StatusOr<std::vector<Latency>> MeasureRequests(const ThroughputOptions& options,
                                               const LatencyProgress& progress, const Clock& clock,
                                               ModelEngine& engine, TimedBackend& backend) {
  TREELINE_RETURN_IF_ERROR(CheckFits(options, engine.limits()));
  return Measurer(options, clock, engine, backend).Latencies(progress);
}

}  // namespace treeline
