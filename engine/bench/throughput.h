// How fast a model runs: prefill, decode and the verification of draft trees at given contexts,
// alone and in batches; and how long whole requests take.
// Every repeat of a measurement starts from the same states, which are reached once
// and kept as snapshots.
#ifndef TREELINE_ENGINE_BENCH_THROUGHPUT_H_
#define TREELINE_ENGINE_BENCH_THROUGHPUT_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "engine/backend/timed_backend.h"
#include "engine/base/clock.h"
#include "engine/base/status.h"
#include "engine/model_engine.h"

namespace treeline {

struct ThroughputOptions {
  int32_t prompt = 512;                  // Tokens of a prefill; 0: none is measured.
  int32_t output = 128;                  // Steps of a decode; 0: none is measured.
  std::vector<int32_t> contexts = {0};   // Tokens that sequences hold before.
  std::vector<int32_t> sequences = {1};  // Decoded at once.
  // The parents of the nodes of the draft trees that `output` steps verify, as TokenTree has them;
  // empty: none is measured. Draft heads, where the engine has some, are asked after each step;
  // what the guesses of others cost is not measured.
  std::vector<int32_t> tree;
  // How many of so many steps commit the root and i nodes of its longest path, as far as that goes;
  // they are mixed evenly. Not all 0.
  std::vector<int32_t> tree_accepts = {0, 0, 1};
  // Whole requests: an empty state reads `prompt` tokens, from which `output` are generated. The
  // step that ends the prompt draws the first of them.
  struct Request {
    int32_t prompt = 1, output = 1;  // At least 1.
  };
  std::vector<Request> requests;
  int32_t repeats = 5;
  int32_t max_batch_tokens = 512;  // Tokens of a prefill's step.

  // Something is measured at the contexts.
  bool uses_contexts() const { return prompt > 0 || output > 0; }
  // Tokens that a sequence comes to hold.
  int32_t longest() const;
};

enum class Work { kPrefill, kDecode, kVerify };

struct Timing {
  double seconds = 0;  // Of the median repeat (of an even number the slower one in the middle).

  // Where time goes: of the same repeat, or, where operations run on when their call has returned,
  // of one more, which is slower, as they are timed and do not overlap.
  double timed_seconds = 0;
  OperationTimes operations;

  double other_seconds() const {
    return timed_seconds - operations.dense_seconds - operations.attention_seconds;
  }
};

struct Throughput : Timing {
  Work work = Work::kPrefill;
  int32_t context = 0;
  int32_t sequences = 1;
  int32_t steps = 0;
  int32_t tokens = 0;  // Of all sequences and steps; of a verification those that are committed.

  // Of the repeats, at least one.
  double tokens_per_second = 0, slowest = 0, fastest = 0;
};

// Of a request, alone.
struct Latency : Timing {
  int32_t prompt = 0, output = 0;
  bool speculative = false;  // Its decode verifies trees.
  int32_t decode_steps = 0;  // After the prompt's.

  double fastest = 0, slowest = 0;  // Seconds, of the repeats.
  double prefill_seconds = 0;       // Of the median: until its first token is drawn.
  double decode_seconds() const { return seconds - prefill_seconds; }
};

// Called before each measurement, with what was asked of it so far filled in.
using ThroughputProgress = std::function<void(const Throughput& next)>;
using LatencyProgress = std::function<void(const Latency& next)>;

// Measures contexts in ascending order, prefill before decode before verification. `engine` must
// run on `backend` and be otherwise idle. INVALID_ARGUMENT naming the flag of `treeline bench`
// where a context or a number of sequences does not fit the engine; errors of the engine as they
// come.
StatusOr<std::vector<Throughput>> MeasureThroughput(const ThroughputOptions& options,
                                                    const ThroughputProgress& progress,
                                                    const Clock& clock, ModelEngine& engine,
                                                    TimedBackend& backend);

// Measures the requests in their order, each by plain decoding and, where there is a tree, with
// speculation. Otherwise as above.
StatusOr<std::vector<Latency>> MeasureRequests(const ThroughputOptions& options,
                                               const LatencyProgress& progress, const Clock& clock,
                                               ModelEngine& engine, TimedBackend& backend);

}  // namespace treeline

#endif  // TREELINE_ENGINE_BENCH_THROUGHPUT_H_
