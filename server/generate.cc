#include "server/generate.h"

#include <iterator>
#include <memory>
#include <string>
#include <utility>

#include "server/metrics.h"
#include "server/version.h"

namespace treeline {

namespace {

constexpr std::chrono::seconds kPollInterval{1};

std::string PromptText(const GenerateConfig& config, std::istream& in) {
  if (config.has_prompt()) return config.prompt();
  return std::string(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
}

GenerationRequest MakeRequest(const GenerateConfig& config, const std::string& prompt,
                              const LoadedModel& model) {
  const SamplingConfig& sampling = config.sampling();
  GenerationRequest request;
  request.id = "generate";
  if (config.raw() || !model.chat_template.has_value()) {
    request.prompts = {prompt};
  } else {
    request.messages = Json::array({{{"role", "user"}, {"content", prompt}}});
  }
  request.sampling = model.sampling_defaults;
  if (sampling.has_temperature()) request.sampling.temperature = sampling.temperature();
  if (sampling.has_top_p()) request.sampling.top_p = sampling.top_p();
  if (sampling.has_seed()) request.seed = sampling.seed();
  // What does not fit the context is cut off.
  request.default_max_tokens = sampling.max_tokens();
  request.arrival = Clock::Real().Now();
  return request;
}

}  // namespace

Status Generate(const GenerateConfig& config, LoadedModel model, std::istream& in,
                std::ostream& out) {
  const std::string prompt = PromptText(config, in);
  Metrics metrics({.model_name = model.name, .version = kVersion, .device = model.device});
  TREELINE_ASSIGN_OR_RETURN(const std::unique_ptr<Runtime> runtime,
                            Runtime::Create(Runtime::Options(), std::move(model), metrics));
  TREELINE_ASSIGN_OR_RETURN(Generation generation, runtime->service().Start(MakeRequest(
                                                       config, prompt, runtime->model())));
  for (;;) {
    TokenEvent event;
    const TokenStream::Wait wait = generation.Next(kPollInterval, &event);
    if (wait == TokenStream::Wait::kEnd) break;
    out << event.text << std::flush;
  }
  out << "\n";
  return generation.status();
}

}  // namespace treeline
