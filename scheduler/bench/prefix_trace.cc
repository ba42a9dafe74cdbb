// How much of a trace's prompts the prefix cache spares, beside a cache that forgets
// nothing: the real scheduler and cache over an engine that computes nothing, in simulated
// time.
//
//   zstd -dc mooncake_conversation.jsonl.zst > trace.jsonl
//   bazel run //scheduler/bench:prefix_trace -- $PWD/trace.jsonl 2048 64 256 1024 4096
//
// The trace has a JSON object a line: arrival_s, prompt_tokens, output_tokens and hash_ids, one
// id for each 512 tokens of the prompt, equal where prompts have the same beginning (Mooncake,
// Qin et al., FAST 2025). Then the interval of kept states, and the budgets to try, in states.

#include <fmt/core.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/base/clock.h"
#include "engine/base/json.h"
#include "engine/engine.h"
#include "engine/state/prefix_cache.h"
#include "engine/state/state_pool.h"
#include "scheduler/fake_tokenizer.h"
#include "scheduler/scheduler.h"

namespace treeline {
namespace {

using Tokens = std::vector<int32_t>;

constexpr int32_t kBlock = 512;
constexpr int32_t kSlots = 64;
constexpr int32_t kStepTokens = 8192;
// A machine that reads 50,000 prompt tokens a second and makes a step in 5 ms.
constexpr std::chrono::microseconds kStep(5000), kToken(20);

struct Arrival {
  Duration time;
  Tokens prompt;
  int32_t output_tokens;
  int64_t ideal_hits;  // Tokens that a cache of every prompt before would spare.
};

std::vector<Arrival> ReadTrace(const std::string& path) {
  std::ifstream file(path);
  TREELINE_CHECK(file.good(), "cannot read {}", path);
  std::vector<Arrival> arrivals;
  std::set<Tokens> seen;  // Every prefix of whole blocks, as ids.
  std::string line;
  while (std::getline(file, line)) {
    const Json entry = ParseJson(line, path).value();
    Arrival arrival;
    arrival.time = std::chrono::duration_cast<Duration>(
        std::chrono::duration<double>(entry["arrival_s"].get<double>()));
    arrival.output_tokens = entry["output_tokens"].get<int32_t>();
    const int32_t size = entry["prompt_tokens"].get<int32_t>();
    Tokens ids;
    bool known = true;
    arrival.ideal_hits = 0;
    for (const Json& id : entry["hash_ids"]) {
      ids.push_back(id.get<int32_t>());
      const int32_t in_block = std::min(kBlock, size - static_cast<int32_t>(arrival.prompt.size()));
      arrival.prompt.insert(arrival.prompt.end(), std::max(in_block, 0), ids.back());
      known = !seen.insert(ids).second && known;
      if (known) arrival.ideal_hits = static_cast<int64_t>(arrival.prompt.size());
    }
    arrival.ideal_hits = std::min<int64_t>(arrival.ideal_hits, arrival.prompt.size() - 1);
    arrivals.push_back(std::move(arrival));
  }
  return arrivals;
}

// States of no content, tokens of no meaning; the cache is the real one.
class IdleEngine : public Engine {
 public:
  IdleEngine(const EngineLimits& limits, int32_t cached_states, FakeClock& clock)
      : limits_(limits), clock_(clock), backend_(CreateCpuBackend({.threads = 1}).value()) {
    AttentionLayer layer;  // 1.5 MiB a state: the tokens that lead to it weigh little beside it.
    layer.form.group_size = layer.form.window_size = 16;
    layer.form.feature_map = FeatureMap::kRelu;
    layer.heads = layer.kv_heads = 64;
    layer.head_dim = 64;
    layer.k_ring_rows = layer.form.k_ring_rows(0);
    layer.v_ring_rows = layer.form.v_ring_rows(0);
    pool_ = StatePool::Create(*backend_, StateLayout({layer}), limits.num_slots).value();
    cache_ = std::make_unique<PrefixCache>(cached_states * pool_->layout().bytes());
  }

  EngineLimits limits() const override { return limits_; }
  int32_t free_slots() const override { return pool_->free_slots(); }
  StatusOr<StateSlot> AcquireSlot() override { return pool_->Acquire(); }
  StatusOr<std::vector<RowResult>> Step(const Batch& batch) override {
    clock_.Advance(kStep + kToken * batch.num_tokens());
    for (int32_t i = 0; i < batch.num_sequences(); ++i) {
      pool_->Advance(batch.slots[i], batch.tree_offsets[i + 1] - batch.tree_offsets[i]);
    }
    std::vector<RowResult> results(batch.requests.size());
    for (RowResult& result : results) result.token = 1;
    return results;
  }
  Status Commit(std::span<const AcceptedPath>) override { return OkStatus(); }
  PrefixMatch RestorePrefix(const StateSlot& slot, std::span<const int32_t> tokens) override {
    const PrefixCache::Match match = cache_->Find(tokens);
    const int32_t length = pool_->length(slot.index());
    if (match.snapshot == nullptr || match.snapshot->length() <= length) {
      return {length, match.shared};
    }
    pool_->Restore(slot, *match.snapshot);
    return {match.snapshot->length(), match.shared};
  }
  void KeepPrefix(const StateSlot& slot, std::span<const int32_t> tokens) override {
    cache_->Insert(tokens, pool_->Snapshot(slot).value());
    most_ = std::max(most_, cache_->num_snapshots());
  }
  int32_t most_snapshots() const { return most_; }

 private:
  const EngineLimits limits_;
  FakeClock& clock_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<StatePool> pool_;
  std::unique_ptr<PrefixCache> cache_;
  int32_t most_ = 0;
};

class CountingObserver : public SchedulerObserver {
 public:
  void OnStep(int32_t, int32_t, const SchedulerGauges&) override {}
  void OnPromptComputed(int32_t prompt_tokens, int32_t cached_tokens) override {
    prompt += prompt_tokens;
    cached += cached_tokens;
  }
  void OnDraft(int32_t, int32_t) override {}
  void OnFirstToken(Duration since_arrival) override { first_tokens.push_back(since_arrival); }
  void OnNextTokens(Duration) override {}
  void OnFinished(const RequestTimes&) override {}
  void OnRejected(std::string_view) override {}

  int64_t prompt = 0, cached = 0;
  std::vector<Duration> first_tokens;
};

void Simulate(const std::vector<Arrival>& arrivals, int32_t interval, int32_t states) {
  FakeClock clock;
  const EngineLimits limits{.vocab_size = 1 << 20, .max_context = 1 << 20, .num_slots = kSlots};
  IdleEngine engine(limits, states, clock);
  FakeTokenizer tokenizer(2);
  CountingObserver observer;
  Scheduler::Options options;
  options.max_batch_tokens = kStepTokens;
  options.max_queued_requests = 1 << 20;
  options.max_queued_tokens = int64_t{1} << 40;
  options.prefix_interval = states > 0 ? interval : 0;
  const auto scheduler = Scheduler::Create(options, engine, tokenizer, clock, observer).value();

  std::vector<std::shared_ptr<TokenStream>> streams;
  for (size_t next = 0; next < arrivals.size() || !scheduler->Idle();) {
    const Duration now = clock.Now().time_since_epoch();
    if (next < arrivals.size() && scheduler->Idle() && arrivals[next].time > now) {
      clock.Advance(arrivals[next].time - now);
    }
    for (; next < arrivals.size() && TimePoint(arrivals[next].time) <= clock.Now(); ++next) {
      Request request;
      request.prompt = arrivals[next].prompt;
      request.stop.max_tokens = std::max(1, arrivals[next].output_tokens);
      request.stop.ignore_eos = true;
      request.arrival = TimePoint(arrivals[next].time);
      streams.push_back(scheduler->Submit(std::move(request)).value());
    }
    scheduler->Step();
  }
  std::sort(observer.first_tokens.begin(), observer.first_tokens.end());
  fmt::print("| {} | {} | {:.1f}% | {:.2f} s |\n", states, engine.most_snapshots(),
             100.0 * observer.cached / observer.prompt,
             ToSeconds(observer.first_tokens[observer.first_tokens.size() / 2]));
  std::fflush(stdout);
}

int Main(int argc, char** argv) {
  if (argc < 4) {
    fmt::print(stderr, "usage: prefix_trace TRACE.jsonl INTERVAL STATES...\n");
    return 2;
  }
  spdlog::set_level(spdlog::level::err);
  const std::vector<Arrival> arrivals = ReadTrace(argv[1]);
  int64_t prompt = 0, ideal = 0;
  for (const Arrival& arrival : arrivals) {
    prompt += static_cast<int64_t>(arrival.prompt.size());
    ideal += arrival.ideal_hits;
  }
  fmt::print("{} requests, {} prompt tokens; ideal: {:.1f}% spared\n\n", arrivals.size(), prompt,
             100.0 * ideal / prompt);
  fmt::print("| states of memory | most kept | spared | median TTFT |\n|---|---|---|---|\n");
  for (int i = 3; i < argc; ++i) Simulate(arrivals, std::stoi(argv[2]), std::stoi(argv[i]));
  return 0;
}

}  // namespace
}  // namespace treeline

int main(int argc, char** argv) { return treeline::Main(argc, argv); }
