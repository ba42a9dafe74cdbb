#include "server/open_model.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "engine/backend/cuda_backend.h"
#include "engine/base/clock.h"
#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/draft_model_engine.h"
#include "engine/model/adapter.h"
#include "engine/model/model.h"
#include "server/flags.h"

namespace treeline {

namespace {

// Says how far loading is, once a second.
LoadProgress LogProgress() {
  return [last = Clock::Real().Now()](int64_t done, int64_t total) mutable {
    const TimePoint now = Clock::Real().Now();
    if (now - last < std::chrono::seconds(1)) return;
    last = now;
    spdlog::info("loading weights: {} of {} MiB", done >> 20, total >> 20);
  };
}

SamplingParams DefaultsOf(const ModelConfig& config) {
  const ModelConfig::SamplingDefaults& defaults = config.sampling_defaults;
  SamplingParams params;
  params.temperature = defaults.temperature.value_or(params.temperature);
  params.top_p = defaults.top_p.value_or(params.top_p);
  params.top_k = defaults.top_k.value_or(params.top_k);
  params.min_p = defaults.min_p.value_or(params.min_p);
  params.repetition_penalty = defaults.repetition_penalty.value_or(params.repetition_penalty);
  return params;
}

// None where the model has no template, or one that cannot be used: completions work without.
std::optional<ChatTemplate> LoadChatTemplate(const Checkpoint& checkpoint) {
  auto chat_template = checkpoint.LoadChatTemplate();
  if (chat_template.ok()) return *std::move(chat_template);
  spdlog::warn("no chat: {}", Message(chat_template.status()));
  return std::nullopt;
}

// Draft heads that lie beside the model, as its authors left them; empty where there are none.
std::string MedusaHeadsBeside(const Checkpoint& checkpoint) {
  for (const std::string& folder : checkpoint.folders()) {
    const std::string file = folder + "/medusa_lm_head.safetensors";
    if (FileExists(file)) return file;
  }
  return "";
}

}  // namespace

StatusOr<std::unique_ptr<Checkpoint>> OpenCheckpoint(const EngineConfig& config) {
  TREELINE_ASSIGN_OR_RETURN(std::unique_ptr<Checkpoint> checkpoint,
                            Checkpoint::Open(config.model()));
  if (!config.has_adapter()) return checkpoint;
  return ApplyAdapter(std::move(checkpoint), config.adapter());
}

StatusOr<ModelEngine::Options> EngineOptions(const EngineConfig& config) {
  const bool on_gpu = config.device() == "cuda";
  ModelEngine::Options options;
  // A GPU's products of fp32 weights are slow, and F16 weights would become fp32.
  if (on_gpu) options.weight_type = WeightType::kBF16;
  if (config.dtype() == "fp32") options.weight_type = WeightType::kF32;
  if (config.dtype() == "bf16") options.weight_type = WeightType::kBF16;
  if (config.dtype() == "int8") options.weight_type = WeightType::kInt8;
  if (config.dtype() == "int4") options.weight_type = WeightType::kInt4;
  options.matmul_kernel = config.matmul_kernel();
  const bool bf16_state =
      config.state_dtype() == "bf16" || (config.state_dtype() == "auto" && on_gpu);
  options.state_type = bf16_state ? StateType::kBF16 : StateType::kF32;
  options.threads = config.threads();
  options.max_context = config.max_context();
  options.max_slots = config.max_slots();
  if (config.state_memory() != "auto") {
    const auto bytes = ParseBytes(config.state_memory());
    if (!bytes.ok()) return Annotate(bytes.status(), "--state-memory");
    options.state_memory = static_cast<size_t>(*bytes);
  }
  return options;
}

namespace {

// What guesses ahead, besides n-grams.
struct Drafting {
  bool heads = false;       // The model's own, where it has some.
  std::string draft_model;  // Empty: none.
  int32_t draft_depth = 0;
};

// Ids mean the same to both.
Status CheckSameTokens(const Tokenizer& model, const Tokenizer& draft) {
  if (draft.vocab_size() != model.vocab_size()) {
    return InvalidArgument("its tokenizer has {} tokens, the model's has {}; they must be the same",
                           draft.vocab_size(), model.vocab_size());
  }
  for (int32_t id = 0; id < model.vocab_size(); ++id) {
    if (draft.TokenBytes(id) == model.TokenBytes(id) &&
        draft.IsSpecial(id) == model.IsSpecial(id)) {
      continue;
    }
    return InvalidArgument(
        "token {} of its tokenizer is {}, of the model's {}; they must be the same", id,
        Json(std::string(draft.TokenBytes(id))).dump(-1, ' ', true, Json::error_handler_t::replace),
        Json(std::string(model.TokenBytes(id)))
            .dump(-1, ' ', true, Json::error_handler_t::replace));
  }
  return OkStatus();
}

// As long as the model's where the draft model can, with a state for each of the model's slots if
// no more memory than its own are to have holds them, and memory for as many prefixes.
ModelEngine::Options DraftModelOptions(const ModelConfig& config, const ModelEngine& engine,
                                       ModelEngine::Options options) {
  const EngineLimits limits = engine.limits();
  const size_t most =
      options.state_memory > 0 ? options.state_memory : engine.backend()->DefaultStateMemory();
  options.medusa_heads.clear();
  options.draft_choices.reset();
  options.max_context = limits.max_context;
  if (!config.is_linearized()) {
    options.max_context = std::min({limits.max_context, config.max_position_embeddings,
                                    config.sliding_window.value_or(limits.max_context)});
  }
  options.max_slots = limits.num_slots;
  const size_t state = LayoutFor(config, options.state_type, options.max_context).bytes();
  options.state_memory = std::min(most, state * limits.num_slots);
  if (options.prefix_cache_memory != 0) options.prefix_cache_memory = std::nullopt;
  return options;
}

StatusOr<std::unique_ptr<Engine>> WithDraftModel(std::unique_ptr<ModelEngine> engine,
                                                 const Tokenizer& tokenizer,
                                                 const ModelEngine::Options& options,
                                                 const Drafting& drafting) {
  TREELINE_ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint,
                            Checkpoint::Open(drafting.draft_model));
  TREELINE_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> draft_tokenizer,
                            checkpoint->LoadTokenizer());
  TREELINE_RETURN_IF_ERROR(CheckSameTokens(tokenizer, *draft_tokenizer));
  TREELINE_ASSIGN_OR_RETURN(
      std::unique_ptr<ModelEngine> draft,
      ModelEngine::Load(*checkpoint, DraftModelOptions(checkpoint->config(), *engine, options),
                        engine->backend()));
  for (const std::string& line : draft->Summary()) spdlog::info("draft model: {}", line);
  for (const std::string& line : draft->warnings()) spdlog::warn("draft model: {}", line);
  return DraftModelEngine::Create(std::move(engine), std::move(draft), drafting.draft_depth);
}

StatusOr<LoadedModel> Open(const EngineConfig& config, ModelEngine::Options options,
                           const Drafting& drafting = {}) {
  const TimePoint start = Clock::Real().Now();
  options.progress = LogProgress();
  LoadedModel model;
  model.name = ModelName(config);
  model.device = config.device();
  TREELINE_ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint, OpenCheckpoint(config));
  TREELINE_ASSIGN_OR_RETURN(model.tokenizer, checkpoint->LoadTokenizer());
  model.chat_template = LoadChatTemplate(*checkpoint);
  if (drafting.heads && options.medusa_heads.empty()) {
    options.medusa_heads = MedusaHeadsBeside(*checkpoint);
  }
  TREELINE_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend, CreateBackend(config));
  TREELINE_ASSIGN_OR_RETURN(std::unique_ptr<ModelEngine> engine,
                            ModelEngine::Load(*checkpoint, options, std::move(backend)));
  if (model.tokenizer->vocab_size() > engine->config().vocab_size) {
    return InvalidArgument(
        "{}: the tokenizer has ids up to {}, but the model's vocabulary is {}; they do not belong "
        "together",
        config.model(), model.tokenizer->vocab_size() - 1, engine->config().vocab_size);
  }
  model.sampling_defaults = DefaultsOf(engine->config());
  TREELINE_RETURN_IF_ERROR(model.sampling_defaults.Validate(engine->config().vocab_size));
  model.eos_token_ids = engine->config().eos_token_ids;
  for (const std::string& line : engine->Summary()) spdlog::info("{}", line);
  for (const std::string& line : engine->warnings()) spdlog::warn("{}", line);
  if (drafting.draft_model.empty()) {
    model.engine = std::move(engine);
  } else {
    auto with_draft_model = WithDraftModel(std::move(engine), *model.tokenizer, options, drafting);
    if (!with_draft_model.ok()) {
      return Annotate(with_draft_model.status(), "--draft-model " + drafting.draft_model);
    }
    model.engine = *std::move(with_draft_model);
  }
  spdlog::info("loaded {} in {:.1f} s", model.name, ToSeconds(Clock::Real().Now() - start));
  return model;
}

}  // namespace

StatusOr<std::unique_ptr<Backend>> CreateBackend(const EngineConfig& config) {
  if (config.device() == "cpu") {
    TREELINE_ASSIGN_OR_RETURN(const ModelEngine::Options options, EngineOptions(config));
    return ModelEngine::CreateBackend(options);
  }
  auto backend = CreateCudaBackend({.threads = config.threads()});
  if (!backend.ok()) return Annotate(backend.status(), "--device cuda");
  return backend;
}

StatusOr<LoadedModel> OpenModel(const EngineConfig& config) {
  TREELINE_ASSIGN_OR_RETURN(ModelEngine::Options options, EngineOptions(config));
  return Open(config, std::move(options));
}

StatusOr<LoadedModel> OpenModel(const EvalConfig& config) {
  TREELINE_ASSIGN_OR_RETURN(ModelEngine::Options options, EngineOptions(config.engine()));
  options.prefix_cache_memory = std::nullopt;
  return Open(config.engine(), std::move(options));
}

StatusOr<LoadedModel> OpenModel(const ServeConfig& config) {
  TREELINE_ASSIGN_OR_RETURN(ModelEngine::Options options, EngineOptions(config.engine()));
  options.prefix_cache_memory = std::nullopt;
  if (config.prefix_cache_memory() != "auto") {
    const auto bytes = ParseBytes(config.prefix_cache_memory());
    if (!bytes.ok()) return Annotate(bytes.status(), "--prefix-cache-memory");
    options.prefix_cache_memory = static_cast<size_t>(*bytes);
  }
  const bool automatic = config.drafter() == "auto";
  Drafting drafting;
  if (automatic || config.drafter() == "draft_model") {
    drafting.draft_model = config.draft_model();
    drafting.draft_depth = config.draft_depth();
  }
  if (config.drafter() == "draft_model" && drafting.draft_model.empty()) {
    return InvalidArgument("--drafter draft_model: name the model by --draft-model");
  }
  drafting.heads = config.drafter() == "medusa" || (automatic && drafting.draft_model.empty());
  if (drafting.heads) {
    options.medusa_heads = config.medusa_heads();
    if (config.has_draft_tree()) {
      auto tree = DraftChoices::Load(config.draft_tree());
      if (!tree.ok()) return Annotate(tree.status(), "--draft-tree");
      options.draft_choices = *std::move(tree);
    }
  }
  TREELINE_ASSIGN_OR_RETURN(LoadedModel model, Open(config.engine(), std::move(options), drafting));
  if (config.drafter() == "medusa" && model.engine->limits().num_draft_heads == 0) {
    return InvalidArgument(
        "--drafter medusa: there is no medusa_lm_head.safetensors beside the model; name its file "
        "by --medusa-heads");
  }
  return model;
}

}  // namespace treeline
