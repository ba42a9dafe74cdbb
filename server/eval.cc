#include "server/eval.h"

#include <string>
#include <vector>

#include "engine/base/clock.h"
#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/eval/perplexity.h"

namespace treeline {

namespace {

StatusOr<std::vector<int32_t>> ReadTokens(const EvalConfig& config, const Tokenizer& tokenizer) {
  TREELINE_ASSIGN_OR_RETURN(const std::string text, ReadFile(config.perplexity()));
  auto tokens = tokenizer.Encode(text, /*add_special=*/false, /*parse_special=*/false);
  if (!tokens.ok()) return Annotate(tokens.status(), config.perplexity());
  if (tokens->size() > static_cast<size_t>(config.max_tokens())) {
    tokens->resize(config.max_tokens());
  }
  return tokens;
}

void Print(const EvalConfig& config, const PerplexityResult& result, double seconds,
           std::ostream& out) {
  if (config.json()) {
    const Json json = {
        {"perplexity", result.Perplexity()},  {"nll_sum", result.negative_log_likelihood},
        {"scored_tokens", result.num_scored}, {"windows", result.num_windows},
        {"context", config.context()},        {"seconds", seconds}};
    out << json.dump() << "\n";
  } else {
    out << fmt::format("perplexity {:.4f} over {} tokens in {} windows of {} ({:.1f} s)\n",
                       result.Perplexity(), result.num_scored, result.num_windows, config.context(),
                       seconds);
  }
}

}  // namespace

Status Eval(const EvalConfig& config, LoadedModel model, std::ostream& out, std::ostream& log) {
  TREELINE_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens,
                            ReadTokens(config, *model.tokenizer));
  const TimePoint start = Clock::Real().Now();
  const auto seconds = [&] { return ToSeconds(Clock::Real().Now() - start); };
  PerplexityOptions options;
  options.context = config.context();
  options.progress = [&](const PerplexityResult& so_far, int64_t total_windows) {
    log << fmt::format("\r{} of {} windows, perplexity {:.3f}, {:.0f} tokens/s ",
                       so_far.num_windows, total_windows, so_far.Perplexity(),
                       static_cast<double>(so_far.num_scored) / seconds())
        << std::flush;
  };
  const auto result = MeasurePerplexity(tokens, options, *model.engine);
  log << "\n";
  TREELINE_RETURN_IF_ERROR(result.status());
  Print(config, *result, seconds(), out);
  return OkStatus();
}

}  // namespace treeline
