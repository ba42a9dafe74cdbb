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

Status CheckFits(const ThroughputOptions& options, const EngineLimits& limits) {
  if (options.longest() > limits.max_context) {
    return InvalidArgument(
        "--context {} and what follows it take {} tokens, but the engine holds {} a sequence; "
        "lower --context or raise --max-context",
        Largest(options.contexts), options.longest(), limits.max_context);
  }
  if (Largest(options.sequences) > limits.num_slots) {
    return InvalidArgument(
        "--sequences {}: there are {} states; raise --max-slots and --state-memory, or lower "
        "--context",
        Largest(options.sequences), limits.num_slots);
  }
  return OkStatus();
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

// The nodes that each of the `output` steps commits. At any step the number of those that accepted
// so many is as near to its share as it can be.
std::vector<int32_t> PathLengths(const ThroughputOptions& options) {
  const std::vector<int32_t>& shares = options.tree_accepts;
  const double total = std::accumulate(shares.begin(), shares.end(), 0.0);
  const auto longest = static_cast<int32_t>(LongestPath(options.tree).size());
  std::vector<double> owed(shares.size());
  std::vector<int32_t> lengths;
  for (int32_t step = 0; step < options.output; ++step) {
    for (size_t i = 0; i < shares.size(); ++i) owed[i] += shares[i] / total;
    const auto most = std::max_element(owed.begin(), owed.end());
    *most -= 1;
    const int32_t accepted = static_cast<int32_t>(most - owed.begin());
    lengths.push_back(std::min(1 + accepted, longest));
  }
  return lengths;
}

class Measurer {
 public:
  Measurer(const ThroughputOptions& options, const ThroughputProgress& progress, const Clock& clock,
           ModelEngine& engine, TimedBackend& backend)
      : options_(options),
        progress_(progress),
        clock_(clock),
        engine_(engine),
        backend_(backend),
        token_(0, engine.limits().vocab_size - 1) {}

  StatusOr<std::vector<Throughput>> Run() {
    for (int32_t i = 0; i < Largest(options_.sequences); ++i) {
      TREELINE_ASSIGN_OR_RETURN(StateSlot slot, engine_.AcquireSlot());
      slots_.push_back(std::move(slot));
    }
    std::vector<int32_t> contexts = options_.contexts;
    std::sort(contexts.begin(), contexts.end());
    int32_t held = 0;  // Tokens in the first slot; a longer context continues a shorter one.
    for (const int32_t context : contexts) {
      TREELINE_RETURN_IF_ERROR(Prefill(context - held, /*sample=*/false));
      held = context;
      TREELINE_ASSIGN_OR_RETURN(const StateSnapshot start, engine_.pool().Snapshot(slots_[0]));
      TREELINE_RETURN_IF_ERROR(MeasureAt(start));
      engine_.pool().Restore(slots_[0], start);
    }
    return std::move(results_);
  }

 private:
  struct Repeat {
    double seconds;
    OperationTimes operations;
  };

  Status MeasureAt(const StateSnapshot& start) {
    Throughput next;
    next.context = start.length();
    if (options_.prompt > 0) {
      next.work = Work::kPrefill;
      next.steps = (options_.prompt + options_.max_batch_tokens - 1) / options_.max_batch_tokens;
      next.tokens = options_.prompt;
      const auto prefill = [&] { return Prefill(options_.prompt, /*sample=*/true); };
      TREELINE_RETURN_IF_ERROR(Measure(next, start, prefill));
    }
    for (const int32_t sequences : options_.sequences) {
      if (options_.output == 0) break;
      next.work = Work::kDecode;
      next.sequences = sequences;
      next.steps = options_.output;
      next.tokens = sequences * options_.output;
      TREELINE_RETURN_IF_ERROR(Measure(next, start, [&] { return Decode(sequences); }));
    }
    for (const int32_t sequences : options_.sequences) {
      if (options_.output == 0 || options_.tree.empty()) break;
      next.work = Work::kVerify;
      next.sequences = sequences;
      next.steps = options_.output;
      next.tokens = 0;
      for (const int32_t length : PathLengths(options_)) next.tokens += sequences * length;
      TREELINE_RETURN_IF_ERROR(Measure(next, start, [&] { return Verify(sequences); }));
    }
    return OkStatus();
  }

  // Runs `work` options_.repeats times, and once before to warm up.
  template <typename WorkFunction>
  Status Measure(Throughput result, const StateSnapshot& start, const WorkFunction& work) {
    if (progress_) progress_(result);
    const auto repeat = [&]() -> StatusOr<Repeat> {
      for (int32_t s = 0; s < result.sequences; ++s) engine_.pool().Restore(slots_[s], start);
      TREELINE_RETURN_IF_ERROR(backend_.Synchronize());
      backend_.Take();
      const TimePoint begin = clock_.Now();
      TREELINE_RETURN_IF_ERROR(work());
      TREELINE_RETURN_IF_ERROR(backend_.Synchronize());
      const double seconds = ToSeconds(clock_.Now() - begin);
      return Repeat{seconds, backend_.Take()};
    };
    TREELINE_RETURN_IF_ERROR(repeat().status());
    std::vector<Repeat> repeats;
    for (int32_t i = 0; i < options_.repeats; ++i) {
      TREELINE_ASSIGN_OR_RETURN(repeats.emplace_back(), repeat());
    }
    std::sort(repeats.begin(), repeats.end(),
              [](const Repeat& a, const Repeat& b) { return a.seconds < b.seconds; });
    const Repeat median = repeats[repeats.size() / 2];
    Repeat timed = median;
    if (backend_.is_asynchronous()) {
      backend_.set_is_timing(true);
      TREELINE_ASSIGN_OR_RETURN(timed, repeat());
      backend_.set_is_timing(false);
    }
    result.tokens_per_second = result.tokens / median.seconds;
    result.slowest = result.tokens / repeats.back().seconds;
    result.fastest = result.tokens / repeats.front().seconds;
    result.seconds = median.seconds;
    result.timed_seconds = timed.seconds;
    result.operations = timed.operations;
    results_.push_back(result);
    return OkStatus();
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

  Status Decode(int32_t sequences) {
    for (int32_t step = 0; step < options_.output; ++step) {
      Batch batch;
      for (int32_t s = 0; s < sequences; ++s) {
        const int32_t row = batch.AddChain(slots_[s].index(), RandomTokens(1));
        batch.requests.push_back(Greedy(row));
      }
      TREELINE_RETURN_IF_ERROR(Step(batch));
    }
    return OkStatus();
  }

  // All nodes' next tokens are wanted.
  Status Verify(int32_t sequences) {
    const std::vector<int32_t>& parents = options_.tree;
    const auto nodes = static_cast<int32_t>(parents.size());
    for (const int32_t length : PathLengths(options_)) {
      std::vector<int32_t> path = LongestPath(parents);
      path.resize(length);
      Batch batch;
      for (int32_t s = 0; s < sequences; ++s) {
        TREELINE_ASSIGN_OR_RETURN(const TokenTree tree,
                                  TokenTree::Create(RandomTokens(nodes), parents));
        const int32_t root = batch.AddTree(slots_[s].index(), tree);
        for (int32_t i = 0; i < nodes; ++i) batch.requests.push_back(Greedy(root + i));
      }
      TREELINE_RETURN_IF_ERROR(Step(batch));
      std::vector<AcceptedPath> paths;
      for (int32_t s = 0; s < sequences; ++s) paths.push_back({slots_[s].index(), path});
      TREELINE_RETURN_IF_ERROR(engine_.Commit(paths));
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
  const ThroughputProgress& progress_;
  const Clock& clock_;
  ModelEngine& engine_;
  TimedBackend& backend_;
  const SamplingParams greedy_{.temperature = 0};
  std::mt19937 random_;
  std::uniform_int_distribution<int32_t> token_;
  std::vector<StateSlot> slots_;
  std::vector<Throughput> results_;
};

}  // namespace

int32_t ThroughputOptions::longest() const {
  int32_t longest = std::max(prompt, output);
  if (!tree.empty()) {
    // A tree is less deep than it has nodes.
    int32_t committed = static_cast<int32_t>(tree.size());
    for (const int32_t length : PathLengths(*this)) committed += length;
    longest = std::max(longest, committed);
  }
  return Largest(contexts) + longest;
}

StatusOr<std::vector<Throughput>> MeasureThroughput(const ThroughputOptions& options,
                                                    const ThroughputProgress& progress,
                                                    const Clock& clock, ModelEngine& engine,
                                                    TimedBackend& backend) {
  TREELINE_RETURN_IF_ERROR(CheckFits(options, engine.limits()));
  return Measurer(options, progress, clock, engine, backend).Run();
}

}  // namespace treeline
