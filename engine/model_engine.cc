#include "engine/model_engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "engine/model/medusa_heads.h"

namespace treeline {
namespace {

// Of the logits that are held at once: 128 rows of a vocabulary of 128K. Each time the output
// matrix is read, and a device waited for.
constexpr size_t kLogitBytes = size_t{64} << 20;

// A softmax context costs ring rows and a linearized one nothing, but positions are int32.
constexpr int32_t kLongestContext = 1 << 24;

// What the device cannot answer itself.
bool NeedsLogits(const RowRequest& request) {
  return !request.score.empty() || !request.guesses.empty() || request.top_logprobs > kMaxTopTokens;
}

double MiB(size_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

// Where memory is short: what for, and the remedy.
Status ExplainShortage(const Status& status, const std::string& what, const std::string& remedy) {
  if (status.code() != StatusCode::kResourceExhausted) return status;
  return ResourceExhausted("{}: {}; {}", what, Message(status), remedy);
}

}  // namespace

ModelEngine::ModelEngine(const Options& options, ModelConfig config)
    : options_(options), config_(std::move(config)), max_context_(options.max_context) {}

// The context that was asked for, or the model's own; within what it can compute.
Status ModelEngine::ChooseContext() {
  const int32_t trained = config_.max_position_embeddings;
  const bool linearized = config_.is_linearized();
  // Softmax attention here reaches back to the first token: the same as a window reaches only
  // while all tokens lie inside it.
  const int32_t window =
      linearized ? kLongestContext : config_.sliding_window.value_or(kLongestContext);
  if (max_context_ == 0) {
    max_context_ = std::min(trained, window);
    if (max_context_ < trained) {
      warnings_.push_back(fmt::format(
          "the context is {} tokens, the model's sliding_window; past it, of {}, sliding-window "
          "attention would be needed, which is not supported",
          max_context_, trained));
    }
  }
  if (max_context_ < 1 || max_context_ > kLongestContext) {
    return InvalidArgument("--max-context {}: it takes 1 to {}", max_context_, kLongestContext);
  }
  if (max_context_ > window) {
    return Unimplemented(
        "--max-context {} exceeds the model's sliding_window {}; sliding-window attention is not "
        "supported, but up to --max-context {} it is the same as full attention",
        max_context_, window, window);
  }
  const int32_t longest = config_.rope.LongestContext(trained);
  if (max_context_ <= longest || options_.any_context) return OkStatus();
  if (!linearized) {
    return InvalidArgument(
        "--max-context {} exceeds the {} tokens of the model's max_position_embeddings and "
        "rope_scaling; only linearized models run past it",
        max_context_, longest);
  }
  warnings_.push_back(fmt::format(
      "--max-context {} is longer than the {} tokens the model was made for; quality past that is "
      "the model's own matter",
      max_context_, longest));
  return OkStatus();
}

StatusOr<std::unique_ptr<Backend>> ModelEngine::CreateBackend(const Options& options) {
  return CreateCpuBackend({.threads = options.threads, .matmul_kernel = options.matmul_kernel});
}

StatusOr<std::unique_ptr<ModelEngine>> ModelEngine::Load(const Checkpoint& checkpoint,
                                                         const Options& options) {
  TREELINE_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend, CreateBackend(options));
  return Load(checkpoint, options, std::move(backend));
}

StatusOr<std::unique_ptr<ModelEngine>> ModelEngine::Load(const Checkpoint& checkpoint,
                                                         const Options& options,
                                                         std::shared_ptr<Backend> backend) {
  std::unique_ptr<ModelEngine> engine(new ModelEngine(options, checkpoint.config()));
  TREELINE_RETURN_IF_ERROR(engine->ChooseContext());
  const ModelConfig& model_config = engine->config_;

  engine->backend_ = std::move(backend);
  const StateLayout layout = LayoutFor(model_config, options.state_type, engine->max_context_);
  const size_t budget =
      options.state_memory > 0 ? options.state_memory : engine->backend_->DefaultStateMemory();
  const int32_t num_slots = static_cast<int32_t>(
      std::min<size_t>(budget / layout.bytes(), static_cast<size_t>(options.max_slots)));
  if (num_slots < 1) {
    return ResourceExhausted(
        "a sequence's state takes {:.1f} MiB, but --state-memory allows {:.1f} MiB and "
        "--max-slots {}; raise them or lower --max-context",
        MiB(layout.bytes()), MiB(budget), options.max_slots);
  }

  ModelOptions model_options;
  model_options.weight_type = options.weight_type;
  model_options.state_type = options.state_type;
  model_options.max_context = engine->max_context_;
  model_options.medusa_heads = options.medusa_heads;
  model_options.progress = options.progress;
  StatusOr<std::unique_ptr<Model>> model = LoadModel(checkpoint, model_options, *engine->backend_);
  if (!model.ok()) {
    return ExplainShortage(model.status(), "the weights do not fit",
                           "take a smaller --dtype or a smaller model");
  }
  engine->model_ = *std::move(model);
  if (!options.medusa_heads.empty()) {
    TREELINE_ASSIGN_OR_RETURN(engine->token_pairs_,
                              LoadTokenPairs(options.medusa_heads, model_config.vocab_size));
  }
  StatusOr<std::unique_ptr<StatePool>> pool =
      StatePool::Create(*engine->backend_, engine->model_->state_layout(), num_slots);
  if (!pool.ok()) {
    return ExplainShortage(pool.status(),
                           fmt::format("the states of {} sequences do not fit", num_slots),
                           "lower --state-memory or --max-slots");
  }
  engine->pool_ = *std::move(pool);
  engine->CreatePrefixCache(budget);
  engine->samplers_.resize(engine->backend_->host_threads().num_threads());
  engine->logit_changes_.resize(engine->backend_->host_threads().num_threads());
  engine->drafts_.resize(num_slots);
  TREELINE_RETURN_IF_ERROR(engine->CheckDraftChoices());
  return engine;
}

Status ModelEngine::CheckDraftChoices() const {
  const int32_t needed = options_.draft_choices ? options_.draft_choices->num_heads() : 0;
  const int32_t heads = model_->num_draft_heads();
  if (needed <= heads) return OkStatus();
  return InvalidArgument(
      "--draft-tree: its longest path takes {} draft heads, but the model has {}", needed, heads);
}

void ModelEngine::CreatePrefixCache(size_t state_memory) {
  const size_t bytes = options_.prefix_cache_memory.value_or(state_memory / 4);
  prefix_cache_ = std::make_unique<PrefixCache>(bytes);
  if (bytes > 0 && bytes < state_bytes()) {
    warnings_.push_back(fmt::format(
        "the prefix cache of {:.1f} MiB may not hold one state of {:.1f} MiB: prompts that begin "
        "alike are computed anew; raise --prefix-cache-memory, or set it to 0",
        MiB(bytes), MiB(state_bytes())));
  }
}

std::vector<std::string> ModelEngine::Summary() const {
  return {
      fmt::format("{} layers, {} heads of {} ({} for keys and values), attention: {}",
                  config_.num_layers, config_.num_heads, config_.head_dim, config_.num_kv_heads,
                  ToString(config_.attention)),
      fmt::format("{}; weights {:.1f} MiB", backend_->Describe(), MiB(weight_bytes())),
      fmt::format("{} slots of {:.1f} MiB ({} rings), context {}", pool_->num_slots(),
                  MiB(state_bytes()), options_.state_type == StateType::kF32 ? "fp32" : "bf16",
                  max_context_),
  };
}

EngineLimits ModelEngine::limits() const {
  return {config_.vocab_size, max_context_, pool_->num_slots(), model_->num_draft_heads()};
}

StatusOr<StateSlot> ModelEngine::AcquireSlot() {
  CommitAccepted();
  StatusOr<StateSlot> slot = pool_->Acquire();
  if (slot.ok()) drafts_[slot->index()] = DraftRows();  // Of the slot's last sequence.
  return slot;
}

Status ModelEngine::Validate(const Batch& batch) const {
  const size_t sequences = batch.slots.size();
  if (batch.tree_offsets.size() != sequences + 1 || batch.acceptance.size() != sequences ||
      batch.parents.size() != batch.token_ids.size() || batch.tree_offsets.front() != 0 ||
      batch.tree_offsets.back() != batch.num_tokens() ||
      !std::is_sorted(batch.tree_offsets.begin(), batch.tree_offsets.end()) || sequences == 0) {
    return InvalidArgument("batch: its arrays do not fit together");
  }
  std::vector<bool> seen(pool_->num_slots());
  for (size_t i = 0; i < sequences; ++i) {
    const int32_t slot = batch.slots[i];
    if (slot < 0 || slot >= pool_->num_slots() || !pool_->in_use(slot) || seen[slot]) {
      return InvalidArgument("batch: slot {} is not in use, or named twice", slot);
    }
    seen[slot] = true;
    const int32_t size = batch.tree_offsets[i + 1] - batch.tree_offsets[i];
    const bool known = batch.acceptance[i] == Acceptance::kKnown;
    if (size < 1 || (!known && size > TokenTree::kMaxNodes)) {
      return InvalidArgument("batch: a tree of {} nodes", size);
    }
    int32_t deepest = 0;
    std::vector<int32_t> depths(size);
    for (int32_t node = 0; node < size; ++node) {
      const int32_t parent = batch.parents[batch.tree_offsets[i] + node];
      const bool valid = node == 0 ? parent == -1
                         : known   ? parent == node - 1
                                   : parent >= 0 && parent < node;
      if (!valid) return InvalidArgument("batch: node {} has parent {}", node, parent);
      depths[node] = node == 0 ? 0 : depths[parent] + 1;
      deepest = std::max(deepest, depths[node]);
    }
    if (pool_->length(slot) + deepest >= max_context_) {
      return InvalidArgument("batch: a sequence of {} tokens would exceed the context of {}",
                             pool_->length(slot) + deepest + 1, max_context_);
    }
  }
  for (const int32_t token : batch.token_ids) {
    if (token < 0 || token >= config_.vocab_size) {
      return InvalidArgument("batch: token {} is outside the vocabulary of {}", token,
                             config_.vocab_size);
    }
  }
  for (size_t i = 0; i < batch.requests.size(); ++i) {
    const int32_t row = batch.requests[i].row;
    if (row < 0 || row >= batch.num_tokens() || (i > 0 && row <= batch.requests[i - 1].row)) {
      return InvalidArgument("batch: request for row {} of {}", row, batch.num_tokens());
    }
    for (const int32_t token : batch.requests[i].score) {
      if (token < 0 || token >= config_.vocab_size) {
        return InvalidArgument("batch: scored token {} is outside the vocabulary of {}", token,
                               config_.vocab_size);
      }
    }
  }
  return OkStatus();
}

StatusOr<std::vector<RowResult>> ModelEngine::Step(const Batch& batch) {
  StatusOr<std::vector<RowResult>> results = Run(batch);
  if (results.ok()) return results;
  num_rows_ = 0;
  return ExplainShortage(results.status(), "no memory for a step of this size",
                         "lower --max-batch-tokens, or --state-memory and --prefix-cache-memory");
}

StatusOr<std::vector<RowResult>> ModelEngine::Run(const Batch& batch) {
  TREELINE_RETURN_IF_ERROR(Validate(batch));
  CommitAccepted();
  TREELINE_RETURN_IF_ERROR(std::exchange(commit_failure_, OkStatus()));
  ModelStep step{batch, {}, {}, {}};
  std::fill(drafts_.begin(), drafts_.end(), DraftRows());
  num_rows_ = 0;
  for (int32_t i = 0; i < batch.num_sequences(); ++i) {
    const int32_t slot = batch.slots[i], first = batch.tree_offsets[i];
    const int32_t length = pool_->length(slot);
    step.slots.push_back(pool_->data(slot));
    step.lengths.push_back(length);
    for (int32_t row = first; row < batch.tree_offsets[i + 1]; ++row) {
      const int32_t parent = batch.parents[row];
      step.positions.push_back(parent < 0 ? length : step.positions[first + parent] + 1);
    }
  }
  TREELINE_RETURN_IF_ERROR(model_->Forward(step));
  // Answers wait for the device.
  if (batch.requests.empty()) TREELINE_RETURN_IF_ERROR(backend_->Synchronize());
  num_rows_ = batch.num_tokens();
  drawn_.assign(num_rows_, -1);
  for (int32_t i = 0; i < batch.num_sequences(); ++i) {
    const int32_t slot = batch.slots[i], first = batch.tree_offsets[i];
    const int32_t end = batch.tree_offsets[i + 1];
    if (batch.acceptance[i] == Acceptance::kKnown) {
      pool_->Advance(slot, end - first);
    } else {
      drafts_[slot] = {first, {batch.parents.begin() + first, batch.parents.begin() + end}};
    }
  }
  TREELINE_ASSIGN_OR_RETURN(std::vector<RowResult> results, Answer(batch.requests));
  for (size_t i = 0; i < results.size(); ++i) drawn_[batch.requests[i].row] = results[i].token;
  return results;
}

StatusOr<ModelEngine::DeviceAnswers> ModelEngine::AskDevice(
    const float* device_logits, int32_t rows, int32_t k, std::span<const TokenDraw> draws,
    const std::function<void()>& meanwhile) {
  // Words of 32 bits, so that all come home together: ID and log-probability of each token drawn,
  // then IDs of the best, then their log-probabilities.
  static_assert(sizeof(DrawnToken) == 2 * sizeof(int32_t) && sizeof(int32_t) == sizeof(float));
  const size_t count = size_t(rows) * k, drawn = 2 * draws.size();
  std::vector<int32_t> words(drawn + 2 * count);
  if (answers_capacity_ < words.size()) {
    TREELINE_ASSIGN_OR_RETURN(answers_, backend_->Allocate(words.size() * sizeof(int32_t)));
    answers_capacity_ = words.size();
  }
  auto* const device_words = static_cast<int32_t*>(answers_.get());
  const int32_t n = config_.vocab_size;
  if (k > 0) {
    int32_t* const ids = device_words + drawn;
    backend_->TopTokens({device_logits, ids, reinterpret_cast<float*>(ids + count), rows, n, k});
  }
  if (!draws.empty()) {
    backend_->DrawTokens(
        {device_logits, draws.data(), reinterpret_cast<DrawnToken*>(device_words), rows, n});
  }
  backend_->CopyToHost(words.data(), device_words, words.size() * sizeof(int32_t), meanwhile);
  TREELINE_RETURN_IF_ERROR(backend_->FailureSoFar());

  const auto logprob = [&](size_t word) { return std::bit_cast<float>(words[word]); };
  DeviceAnswers answers;
  answers.drawn.reserve(draws.size());
  for (size_t i = 0; i < drawn; i += 2) answers.drawn.push_back({words[i], logprob(i + 1)});
  answers.best.resize(rows);
  for (RankedTokens& best : answers.best) best.reserve(k);
  for (size_t i = 0; i < count; ++i) {
    const int32_t id = words[drawn + i];
    if (id >= 0) answers.best[i / k].emplace_back(id, logprob(drawn + count + i));
  }
  return answers;
}

Status ModelEngine::AnswerOnDevice(std::span<const RowRequest> requests,
                                   std::span<const size_t> which, std::vector<RowResult>& results) {
  std::vector<int32_t> rows;
  int32_t k = 0;
  for (const size_t i : which) {
    rows.push_back(requests[i].row);
    k = std::max(k, requests[i].top_logprobs);
  }
  TREELINE_ASSIGN_OR_RETURN(const float* logits, model_->Logits(rows));

  // While the device computes them. A step that changes none wakes no threads.
  std::vector<size_t> changing;
  for (size_t i = 0; i < which.size(); ++i) {
    if (ChangesLogits(requests[which[i]])) changing.push_back(i);
  }
  std::vector<std::vector<LogitChange>> changes(which.size());
  backend_->host_threads().ParallelFor(changing.size(), [&](int64_t task, int32_t thread) {
    const size_t i = changing[task];
    changes[i] = logit_changes_[thread].Of(requests[which[i]], config_.vocab_size);
  });
  std::vector<TokenDraw> draws(which.size());
  for (size_t i = 0; i < which.size(); ++i) {
    const RowRequest& request = requests[which[i]];
    // What is drawn where nothing is asked for is of no use.
    if (request.sampling != nullptr) draws[i] = DrawOf(request, changes[i]);
  }
  TREELINE_ASSIGN_OR_RETURN(const DeviceAnswers answers,
                            AskDevice(logits, static_cast<int32_t>(rows.size()), k, draws));
  for (size_t i = 0; i < which.size(); ++i) {
    const RowRequest& request = requests[which[i]];
    RowResult& result = results[which[i]];
    result.status = CheckDrawn(answers.drawn[i]);
    if (!result.status.ok()) continue;
    const RankedTokens& best = answers.best[i];
    result.top_logprobs.assign(best.begin(),
                               best.begin() + std::min<size_t>(best.size(), request.top_logprobs));
    if (request.sampling == nullptr) continue;
    result.token = answers.drawn[i].id;
    result.logprob = answers.drawn[i].logprob;
    // A device may round differently where it ranks: a token has one log-probability all the same.
    for (const auto& [id, logprob] : result.top_logprobs) {
      if (id == result.token) result.logprob = logprob;
    }
  }
  return OkStatus();
}

Status ModelEngine::AnswerOnHost(std::span<const RowRequest> requests,
                                 std::span<const size_t> which, std::vector<RowResult>& results) {
  std::vector<int32_t> rows;
  for (const size_t i : which) rows.push_back(requests[i].row);
  const size_t vocab = config_.vocab_size;
  TREELINE_ASSIGN_OR_RETURN(const float* device_logits, model_->Logits(rows));
  if (logits_.size() < rows.size() * vocab) logits_.resize(rows.size() * vocab);
  backend_->CopyToHost(logits_.data(), device_logits, rows.size() * vocab * sizeof(float));
  TREELINE_RETURN_IF_ERROR(backend_->Synchronize());
  backend_->host_threads().ParallelFor(rows.size(), [&](int64_t i, int32_t thread) {
    StatusOr<RowResult> result = samplers_[thread].Sample(
        std::span<const float>(logits_).subspan(i * vocab, vocab), requests[which[i]]);
    results[which[i]] = result.ok() ? *std::move(result) : RowResult{.status = result.status()};
  });
  return OkStatus();
}

size_t ModelEngine::LogitRowsAtOnce() const {
  return std::max<size_t>(1, kLogitBytes / (config_.vocab_size * sizeof(float)));
}

StatusOr<std::vector<RowResult>> ModelEngine::Answer(std::span<const RowRequest> requests) {
  std::vector<size_t> on_device, on_host;
  for (size_t i = 0; i < requests.size(); ++i) {
    (NeedsLogits(requests[i]) ? on_host : on_device).push_back(i);
  }
  std::vector<RowResult> results(requests.size());
  const size_t rows_at_once = LogitRowsAtOnce();
  for (size_t first = 0; first < on_device.size(); first += rows_at_once) {
    const size_t count = std::min(rows_at_once, on_device.size() - first);
    TREELINE_RETURN_IF_ERROR(
        AnswerOnDevice(requests, std::span(on_device).subspan(first, count), results));
  }
  for (size_t first = 0; first < on_host.size(); first += rows_at_once) {
    const size_t count = std::min(rows_at_once, on_host.size() - first);
    TREELINE_RETURN_IF_ERROR(
        AnswerOnHost(requests, std::span(on_host).subspan(first, count), results));
  }
  return results;
}

Status ModelEngine::Commit(std::span<const AcceptedPath> paths) {
  CommitAccepted();
  std::vector<AcceptedRows> accepted;
  std::vector<bool> seen(pool_->num_slots());
  for (const AcceptedPath& path : paths) {
    if (path.slot < 0 || path.slot >= pool_->num_slots() || seen[path.slot]) {
      return InvalidArgument("commit: slot {} does not exist, or is named twice", path.slot);
    }
    seen[path.slot] = true;
    const DraftRows& draft = drafts_[path.slot];
    AcceptedRows& rows = accepted.emplace_back();
    rows.slot = pool_->data(path.slot);
    rows.length = pool_->length(path.slot);
    int32_t previous = -1;
    for (const int32_t node : path.nodes) {
      if (node < 0 || node >= static_cast<int32_t>(draft.parents.size()) ||
          draft.parents[node] != previous) {
        return InvalidArgument("commit: node {} does not continue a path of slot {}'s draft tree",
                               node, path.slot);
      }
      rows.rows.push_back(draft.first_row + node);
      previous = node;
    }
  }
  accepted_ = std::move(accepted);
  for (const AcceptedPath& path : paths) {
    pool_->Advance(path.slot, static_cast<int32_t>(path.nodes.size()));
    drafts_[path.slot] = DraftRows();
  }
  if (model_->num_draft_heads() > 0) return OkStatus();
  CommitAccepted();
  return std::exchange(commit_failure_, OkStatus());
}

void ModelEngine::CommitAccepted() {
  if (accepted_.empty()) return;
  const Status status = model_->Commit(std::exchange(accepted_, {}));
  if (!status.ok()) commit_failure_ = status;
}

StatusOr<std::vector<Guesses>> ModelEngine::Draft(std::span<const int32_t> rows,
                                                  int32_t max_guesses) {
  for (const int32_t row : rows) {
    if (row < 0 || row >= num_rows_) {
      return InvalidArgument("draft: row {} of the last step's {}", row, num_rows_);
    }
    if (model_->draft_heads_see_drawn_token() && drawn_[row] < 0) {
      return InvalidArgument("draft: no token was drawn at row {}", row);
    }
  }
  TREELINE_ASSIGN_OR_RETURN(const std::vector<HeadGuesses> answers, AskHeads(rows));
  const TokenPairs* pairs = token_pairs_ ? &*token_pairs_ : nullptr;
  const auto known = [&](int32_t row) {
    // Heads that have seen it know better.
    return model_->draft_heads_see_drawn_token() ? -1 : drawn_[row];
  };
  std::vector<Guesses> guesses(rows.size());
  backend_->host_threads().ParallelFor(rows.size(), [&](int64_t i, int32_t /*thread*/) {
    guesses[i] = options_.draft_choices
                     ? ChosenPaths(answers[i], *options_.draft_choices, max_guesses)
                     : LikeliestPaths(answers[i], max_guesses, known(rows[i]), pairs);
  });
  return guesses;
}

StatusOr<std::vector<HeadGuesses>> ModelEngine::AskHeads(std::span<const int32_t> rows) {
  const size_t heads = model_->num_draft_heads();
  const size_t rows_at_once = std::max<size_t>(1, LogitRowsAtOnce() / heads);
  std::vector<HeadGuesses> guesses(rows.size(), HeadGuesses(heads));
  for (size_t first = 0; first < rows.size(); first += rows_at_once) {
    const size_t count = std::min(rows_at_once, rows.size() - first);
    std::vector<int32_t> drawn;
    for (const int32_t row : rows.subspan(first, count)) drawn.push_back(drawn_[row]);
    TREELINE_ASSIGN_OR_RETURN(const float* logits,
                              model_->DraftLogits(rows.subspan(first, count), drawn));
    TREELINE_ASSIGN_OR_RETURN(DeviceAnswers answers,
                              AskDevice(logits, static_cast<int32_t>(heads * count),
                                        token_pairs_ ? kGuessesWithPairs : kGuessesPerHead,
                                        /*draws=*/{}, /*meanwhile=*/[this] { CommitAccepted(); }));
    for (size_t i = 0; i < answers.best.size(); ++i) {
      if (answers.best[i].empty()) return DamagedLogits();
      guesses[first + i % count][i / count] = std::move(answers.best[i]);
    }
  }
  return guesses;
}

PrefixMatch ModelEngine::RestorePrefix(const StateSlot& slot, std::span<const int32_t> tokens) {
  CommitAccepted();
  const PrefixCache::Match match = prefix_cache_->Find(tokens);
  const int32_t length = pool_->length(slot.index());
  if (match.snapshot == nullptr || match.snapshot->length() <= length) {
    return {length, match.shared};
  }
  pool_->Restore(slot, *match.snapshot);
  return {match.snapshot->length(), match.shared};
}

void ModelEngine::KeepPrefix(const StateSlot& slot, std::span<const int32_t> tokens) {
  if (prefix_cache_->max_bytes() == 0 || prefix_cache_->Contains(tokens)) return;
  CommitAccepted();
  StatusOr<StateSnapshot> snapshot = pool_->Snapshot(slot);
  // The device may be full before the cache is.
  while (!snapshot.ok() && prefix_cache_->DropOldest()) snapshot = pool_->Snapshot(slot);
  if (snapshot.ok()) prefix_cache_->Insert(tokens, *std::move(snapshot));
}

}  // namespace treeline
