// The engine over a real model: one backend, one model, a pool of states.
#ifndef TREELINE_ENGINE_MODEL_ENGINE_H_
#define TREELINE_ENGINE_MODEL_ENGINE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/engine.h"
#include "engine/model/checkpoint.h"
#include "engine/model/model.h"
#include "engine/model/model_config.h"
#include "engine/sampling/logit_changes.h"
#include "engine/sampling/sampler.h"
#include "engine/speculative/draft_choices.h"
#include "engine/speculative/head_guesses.h"
#include "engine/state/prefix_cache.h"
#include "engine/state/state_pool.h"

namespace treeline {

class ModelEngine : public Engine {
 public:
  struct Options {
    std::optional<WeightType> weight_type;  // None: as the checkpoint stores them.
    StateType state_type = StateType::kF32;
    int32_t threads = 0;                 // 0: one for each core.
    std::string matmul_kernel = "auto";  // Of CpuBackendOptions.
    int32_t max_context = 0;             // Tokens a sequence; 0: what the model was made for.
    size_t state_memory = 0;             // Bytes for all states; 0: the backend's default.
    int32_t max_slots = 64;              // No more slots than this, whatever the memory.
    // Bytes for kept prefixes; 0: none are kept; no value: a quarter of what states may take.
    std::optional<size_t> prefix_cache_memory = 0;
    std::string medusa_heads;                   // Their file; empty: the model has none.
    std::optional<DraftChoices> draft_choices;  // The heads' draft tree; none: the likeliest paths.
    // Softmax models may run past the context they were made for, where only their speed means
    // anything.
    bool any_context = false;
    LoadProgress progress;
  };

  // Loads a model; the checkpoint may go afterwards. INVALID_ARGUMENT naming the flag, file or
  // tensor at fault; RESOURCE_EXHAUSTED naming the flag to lower where memory is short.
  static StatusOr<std::unique_ptr<ModelEngine>> Load(const Checkpoint& checkpoint,
                                                     const Options& options);
  // The same on the caller's backend: one that options describe, or a decorator of it. Engines may
  // share one where the same thread drives them.
  static StatusOr<std::unique_ptr<ModelEngine>> Load(const Checkpoint& checkpoint,
                                                     const Options& options,
                                                     std::shared_ptr<Backend> backend);
  static StatusOr<std::unique_ptr<Backend>> CreateBackend(const Options& options);

  const ModelConfig& config() const { return config_; }
  // For people, a line each: the device, the weights, "N slots of M MiB".
  std::vector<std::string> Summary() const;
  // Things that a user should know about: a context longer than the model was trained for ...
  const std::vector<std::string>& warnings() const { return warnings_; }
  // For another engine of the same thread.
  std::shared_ptr<Backend> backend() const { return backend_; }
  size_t weight_bytes() const { return model_->weight_bytes(); }
  size_t state_bytes() const { return pool_->layout().bytes(); }
  StatePool& pool() { return *pool_; }
  const PrefixCache& prefix_cache() const { return *prefix_cache_; }

  EngineLimits limits() const override;
  int32_t free_slots() const override { return pool_->free_slots(); }
  StatusOr<StateSlot> AcquireSlot() override;
  StatusOr<std::vector<RowResult>> Step(const Batch& batch) override;
  // Where the model has draft heads, the nodes are committed by whichever call comes next: behind
  // the heads, if that is Draft, as their guesses are waited for and a commit is not.
  Status Commit(std::span<const AcceptedPath> paths) override;
  StatusOr<std::vector<Guesses>> Draft(std::span<const int32_t> rows, int32_t max_guesses) override;
  PrefixMatch RestorePrefix(const StateSlot& slot, std::span<const int32_t> tokens) override;
  void KeepPrefix(const StateSlot& slot, std::span<const int32_t> tokens) override;

 private:
  ModelEngine(const Options& options, ModelConfig config);

  Status ChooseContext();
  Status CheckDraftChoices() const;
  void CreatePrefixCache(size_t state_memory);
  Status Validate(const Batch& batch) const;
  StatusOr<std::vector<RowResult>> Run(const Batch& batch);
  size_t LogitRowsAtOnce() const;
  StatusOr<std::vector<RowResult>> Answer(std::span<const RowRequest> requests);
  // Answer those requests whose indices `which` lists, LogitRowsAtOnce at most: the logits stay on
  // the device, or come to the host, where the sampler is.
  Status AnswerOnDevice(std::span<const RowRequest> requests, std::span<const size_t> which,
                        std::vector<RowResult>& results);
  Status AnswerOnHost(std::span<const RowRequest> requests, std::span<const size_t> which,
                      std::vector<RowResult>& results);
  // Of rows of logits.
  struct DeviceAnswers {
    std::vector<DrawnToken> drawn;   // As `draws`.
    std::vector<RankedTokens> best;  // The k most probable tokens; none of a damaged row.
  };
  // `draws`: of each row, or empty. `meanwhile` as of Backend::CopyToHost.
  StatusOr<DeviceAnswers> AskDevice(const float* device_logits, int32_t rows, int32_t k,
                                    std::span<const TokenDraw> draws,
                                    const std::function<void()>& meanwhile = nullptr);
  StatusOr<std::vector<HeadGuesses>> AskHeads(std::span<const int32_t> rows);
  // What Commit accepted; a failure is the next step's.
  void CommitAccepted();

  const Options options_;
  ModelConfig config_;
  int32_t max_context_;
  std::vector<std::string> warnings_;
  std::shared_ptr<Backend> backend_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<StatePool> pool_;
  std::unique_ptr<PrefixCache> prefix_cache_;
  std::vector<Sampler> samplers_;            // One a thread.
  std::vector<LogitChanges> logit_changes_;  // One a thread.
  std::vector<float> logits_;                // On the host, of the rows being answered.
  Buffer answers_;                           // On the device, of AskDevice.
  size_t answers_capacity_ = 0;              // Words of 32 bits.

  std::optional<TokenPairs> token_pairs_;  // Of the draft heads.

  int32_t num_rows_ = 0;        // Of the last step; 0 where it failed.
  std::vector<int32_t> drawn_;  // [num_rows_] the tokens drawn there; -1: none.

  // Draft trees of the last step, which Commit may name.
  struct DraftRows {
    int32_t first_row = 0;
    std::vector<int32_t> parents;  // Empty: none.
  };
  std::vector<DraftRows> drafts_;       // [num_slots]
  std::vector<AcceptedRows> accepted_;  // Yet to be committed.
  Status commit_failure_;
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_MODEL_ENGINE_H_
