// How many guesses are accepted a step, and whether answers stay what plain decoding gives: a
// model's answers to questions, whatever guesses would cost, so that trees are as large as they may
// be.
//
//   bazel run //scheduler/bench:acceptance -- '{"model": "MODEL", "adapter": "FOLDER",
//       "questions": "question.jsonl", "count": 16, "drafter": "medusa", "nodes": [8, 16, 64]}'
//
// Further members, with their defaults: "output": 128, "temperature": 0, "sequences": 8 (answered
// at once), "kernel": "auto" (of dense products; "fp32" rounds nothing but weights), "int8": false
// (the weights), "draft_tree": a static tree's name or file, "draft_model" and "draft_depth": 4,
// "drafter": "ngram", "medusa", "draft_model" or "auto" (n-grams and the model).
//
// Questions are JSON lines with `turns` (MT-Bench); the first of each is asked. For each size of
// tree one line of JSON: `steps[i]`, the steps in which i guesses were accepted, the same of steps
// that bring something new (not all of it inside a run of 8 tokens that came before), and every
// answer that differs, where it first does: `margin` is how much likelier the best token there is
// than the next, which a greedy draw must overcome. A draw at a temperature walks the tokens by id,
// so what it crosses is a bound between ids close to each other.

#include <fmt/core.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/clock.h"
#include "engine/base/json.h"
#include "engine/draft_model_engine.h"
#include "engine/model/adapter.h"
#include "engine/model/checkpoint.h"
#include "engine/model_engine.h"
#include "scheduler/bench/no_observer.h"
#include "scheduler/scheduler.h"

namespace treeline {
namespace {

constexpr size_t kRun = 8;

struct Answer {
  std::vector<TokenLogprob> tokens;
  std::vector<size_t> steps;  // Tokens of each, the prompt's first.
};

struct Settings {
  explicit Settings(const Json& json)
      : model(json.at("model")),
        adapter(json.value("adapter", "")),
        questions(json.at("questions")),
        drafter(json.value("drafter", "auto")),
        draft_model(json.value("draft_model", "")),
        draft_tree(json.value("draft_tree", "")),
        kernel(json.value("kernel", "auto")),
        int8(json.value("int8", false)),
        temperature(json.value("temperature", 0.0f)),
        count(json.value("count", 16)),
        output(json.value("output", 128)),
        sequences(json.value("sequences", 8)),
        draft_depth(json.value("draft_depth", 4)),
        nodes(json.value("nodes", std::vector<int32_t>{64})) {}

  std::string model, adapter, questions, drafter, draft_model, draft_tree, kernel;
  bool int8;
  float temperature;
  int32_t count, output, sequences, draft_depth;
  std::vector<int32_t> nodes;
};

StatusOr<std::unique_ptr<Checkpoint>> OpenCheckpoint(const Settings& settings) {
  TREELINE_ASSIGN_OR_RETURN(std::unique_ptr<Checkpoint> checkpoint,
                            Checkpoint::Open(settings.model));
  if (settings.adapter.empty()) return checkpoint;
  return ApplyAdapter(std::move(checkpoint), settings.adapter);
}

StatusOr<std::unique_ptr<Engine>> OpenEngine(const Settings& settings,
                                             const Checkpoint& checkpoint) {
  ModelEngine::Options options;
  if (settings.int8) options.weight_type = WeightType::kInt8;
  options.matmul_kernel = settings.kernel;
  options.max_slots = settings.sequences;
  if (settings.drafter == "medusa" ||
      (settings.drafter == "auto" && settings.draft_model.empty())) {
    options.medusa_heads = checkpoint.folders().front() + "/medusa_lm_head.safetensors";
    if (!settings.draft_tree.empty()) {
      TREELINE_ASSIGN_OR_RETURN(options.draft_choices, DraftChoices::Load(settings.draft_tree));
    }
  }
  TREELINE_ASSIGN_OR_RETURN(std::unique_ptr<ModelEngine> engine,
                            ModelEngine::Load(checkpoint, options));
  if (settings.draft_model.empty()) return engine;
  TREELINE_ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> draft_checkpoint,
                            Checkpoint::Open(settings.draft_model));
  TREELINE_ASSIGN_OR_RETURN(std::unique_ptr<ModelEngine> draft,
                            ModelEngine::Load(*draft_checkpoint, options, engine->backend()));
  return DraftModelEngine::Create(std::move(engine), std::move(draft), settings.draft_depth);
}

StatusOr<std::vector<std::vector<int32_t>>> ReadPrompts(const Settings& settings,
                                                        const Checkpoint& checkpoint,
                                                        const Tokenizer& tokenizer) {
  TREELINE_ASSIGN_OR_RETURN(const ChatTemplate chat_template, checkpoint.LoadChatTemplate());
  std::ifstream file(settings.questions);
  if (!file.good()) return NotFound("cannot read {}", settings.questions);
  std::vector<std::vector<int32_t>> prompts;
  std::string line;
  while (static_cast<int32_t>(prompts.size()) < settings.count && std::getline(file, line)) {
    TREELINE_ASSIGN_OR_RETURN(const Json entry, ParseJson(line, settings.questions));
    const std::string question = entry.at("turns").at(0);
    ChatTemplate::Inputs inputs;
    inputs.messages = OrderedJson::array({{{"role", "user"}, {"content", question}}});
    TREELINE_ASSIGN_OR_RETURN(const std::string text, chat_template.Render(inputs));
    TREELINE_ASSIGN_OR_RETURN(auto prompt, tokenizer.Encode(text, /*add_special=*/false,
                                                            /*parse_special=*/true));
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

Answer Read(TokenStream& stream) {
  Answer answer;
  TokenEvent event;
  while (stream.Next(std::chrono::milliseconds(0), &event) == TokenStream::Wait::kEvent) {
    if (event.tokens.empty()) continue;
    answer.steps.push_back(event.tokens.size());
    answer.tokens.insert(answer.tokens.end(), event.logprobs.begin(), event.logprobs.end());
  }
  return answer;
}

// With trees of so many nodes; 0: plainly.
StatusOr<std::vector<Answer>> Ask(const Settings& settings,
                                  const std::vector<std::vector<int32_t>>& prompts, int32_t nodes,
                                  const std::vector<int32_t>& eos_token_ids,
                                  const Tokenizer& tokenizer, Engine& engine) {
  Scheduler::Options options;
  options.max_batch_tokens = std::max(512, settings.sequences * nodes);
  options.max_draft_nodes = nodes;
  options.drafters = kNoDrafters;
  options.drafters.ngram = settings.drafter == "ngram" || settings.drafter == "auto";
  options.drafters.heads = options.drafters.draft_model = settings.drafter != "ngram";
  options.eos_token_ids = eos_token_ids;
  NoObserver observer;
  TREELINE_ASSIGN_OR_RETURN(const auto scheduler,
                            Scheduler::Create(options, engine, tokenizer, Clock::Real(), observer));
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (size_t i = 0; i < prompts.size(); ++i) {
    Request request;
    request.prompt = prompts[i];
    request.sampling.temperature = settings.temperature;
    request.sampling.seed = i + 1;
    request.stop.max_tokens = settings.output;
    request.logprobs = true;
    request.top_logprobs = 2;
    TREELINE_ASSIGN_OR_RETURN(auto stream, scheduler->Submit(std::move(request)));
    streams.push_back(std::move(stream));
  }
  while (!scheduler->Idle()) scheduler->Step();
  std::vector<Answer> answers;
  for (const auto& stream : streams) {
    answers.push_back(Read(*stream));
    TREELINE_RETURN_IF_ERROR(stream->status());
  }
  return answers;
}

// For each token: it ends or lies inside a run of kRun tokens that came before.
std::vector<bool> Repeated(const Answer& answer) {
  std::set<std::vector<int32_t>> seen;
  std::vector<bool> repeated(answer.tokens.size());
  std::vector<int32_t> run;
  for (size_t end = 1; end <= answer.tokens.size(); ++end) {
    run.push_back(answer.tokens[end - 1].token);
    if (run.size() > kRun) run.erase(run.begin());
    if (run.size() < kRun || seen.insert(run).second) continue;
    std::fill(repeated.begin() + end - kRun, repeated.begin() + end, true);
  }
  return repeated;
}

void CountSteps(const Answer& answer, std::vector<int64_t>* all, std::vector<int64_t>* of_new) {
  const std::vector<bool> repeated = Repeated(answer);
  const auto count = [](size_t tokens, std::vector<int64_t>* steps) {
    if (steps->size() < tokens) steps->resize(tokens);
    ++(*steps)[tokens - 1];
  };
  size_t position = answer.steps.front();
  for (size_t i = 1; i < answer.steps.size(); ++i) {
    const size_t end = position + answer.steps[i];
    count(answer.steps[i], all);
    const bool is_new = std::find(repeated.begin() + position, repeated.begin() + end, false) !=
                        repeated.begin() + end;
    if (is_new) count(answer.steps[i], of_new);
    position = end;
  }
}

double TokensAStep(const std::vector<int64_t>& steps) {
  int64_t tokens = 0, count = 0;
  for (size_t i = 0; i < steps.size(); ++i) {
    tokens += static_cast<int64_t>(i + 1) * steps[i];
    count += steps[i];
  }
  return static_cast<double>(tokens) / static_cast<double>(std::max<int64_t>(count, 1));
}

Json Describe(const TokenLogprob& token, const Tokenizer& tokenizer) {
  return {{"id", token.token},
          {"text", tokenizer.Decode({token.token}, /*skip_special=*/false)},
          {"logprob", token.logprob}};
}

// Where answers first differ, and by how much the best two tokens there do.
Json Differences(const std::vector<Answer>& plain, const std::vector<Answer>& drafted,
                 const Tokenizer& tokenizer) {
  Json differences = Json::array();
  for (size_t i = 0; i < plain.size(); ++i) {
    const auto &a = plain[i].tokens, &b = drafted[i].tokens;
    size_t at = 0;
    while (at < std::min(a.size(), b.size()) && a[at].token == b[at].token) ++at;
    if (at == std::min(a.size(), b.size())) continue;
    differences.push_back({{"question", i},
                           {"token", at},
                           {"plain", Describe(a[at], tokenizer)},
                           {"drafted", Describe(b[at], tokenizer)},
                           {"margin", a[at].top[0].second - a[at].top[1].second}});
  }
  return differences;
}

Status Run(const Settings& settings) {
  TREELINE_ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint, OpenCheckpoint(settings));
  TREELINE_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer,
                            checkpoint->LoadTokenizer());
  TREELINE_ASSIGN_OR_RETURN(const auto prompts, ReadPrompts(settings, *checkpoint, *tokenizer));
  TREELINE_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine,
                            OpenEngine(settings, *checkpoint));
  const std::vector<int32_t>& eos = checkpoint->config().eos_token_ids;
  TREELINE_ASSIGN_OR_RETURN(const auto plain, Ask(settings, prompts, 0, eos, *tokenizer, *engine));
  for (const int32_t nodes : settings.nodes) {
    TREELINE_ASSIGN_OR_RETURN(const auto drafted,
                              Ask(settings, prompts, nodes, eos, *tokenizer, *engine));
    std::vector<int64_t> steps, of_new;
    size_t tokens = 0;
    for (const Answer& answer : drafted) {
      CountSteps(answer, &steps, &of_new);
      tokens += answer.tokens.size();
    }
    const Json result = {{"drafter", settings.drafter},
                         {"draft_tree", settings.draft_tree},
                         {"temperature", settings.temperature},
                         {"nodes", nodes},
                         {"questions", prompts.size()},
                         {"tokens", tokens},
                         {"steps", steps},
                         {"tokens_a_step", TokensAStep(steps)},
                         {"steps_of_new_text", of_new},
                         {"tokens_a_step_of_new_text", TokensAStep(of_new)},
                         {"differences", Differences(plain, drafted, *tokenizer)}};
    fmt::print("{}\n", result.dump(-1, ' ', false, Json::error_handler_t::replace));
    std::fflush(stdout);
  }
  return OkStatus();
}

}  // namespace
}  // namespace treeline

int main(int argc, char** argv) {
  using namespace treeline;
  spdlog::set_level(spdlog::level::warn);
  if (argc != 2) {
    fmt::print(stderr, "usage: acceptance SETTINGS, a JSON object; see acceptance.cc\n");
    return 2;
  }
  try {
    const StatusOr<Json> json = ParseJson(argv[1], "the settings");
    const Status status = json.ok() ? Run(Settings(*json)) : json.status();
    if (status.ok()) return 0;
    fmt::print(stderr, "{}\n", Message(status));
  } catch (const Json::exception& error) {
    fmt::print(stderr, "the settings or questions: {}\n", error.what());
  }
  return 1;
}
