#include "engine/text/pre_tokenizer.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "engine/text/normalizer.h"
#include "engine/text/pre_tokenizer_regex.h"
#include "engine/text/sentencepiece_model.h"
#include "engine/text/tokenizer_json.h"

namespace treeline {
namespace {

// GPT-2's words, the pattern of every ByteLevel step with use_regex.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

constexpr std::string_view kSingleDigitPattern = R"(\p{N})";

// Those of the models' own tokenizer.json files.
constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kTekkenPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|)"
    R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// The names of tokenizer.ggml.pre and the patterns that cut the text one after the other.
struct NamedPatterns {
  std::vector<std::string_view> names;
  std::vector<std::string_view> patterns;
};
const std::vector<NamedPatterns>& NamedCuts() {
  static const auto& cuts = *new std::vector<NamedPatterns>{
      {{"gpt-2"}, {kGpt2Pattern}},
      {{"llama-bpe", "llama3", "llama-v3"}, {kLlama3Pattern}},
      {{"qwen2", "deepseek-r1-qwen"}, {kQwen2Pattern}},
      {{"smollm"}, {kSingleDigitPattern, kGpt2Pattern}},
      {{"tekken"}, {kTekkenPattern}},
  };
  return cuts;
}

}  // namespace

// One cut of the text: into what the regex matches and what lies between.
struct PreTokenizer::Step {
  enum class Prefix { kNever, kFirst, kAlways };

  bool is_byte_level = false;
  std::string_view space = " ";    // What spaces become, and the prefix.
  Prefix prefix = Prefix::kNever;  // Where a text gets a space that does not begin with one.
  std::optional<Regex> regex;      // None: no cut.
  bool keep_matches = true;
  bool keep_between = true;
};

namespace {

StatusOr<Regex> SplitPattern(const Json& pattern, const std::string& where) {
  TREELINE_RETURN_IF_ERROR(CheckObject(pattern, where));
  const bool is_regex = pattern.contains("Regex");
  TREELINE_ASSIGN_OR_RETURN(const std::string text,
                            StringMember(pattern, is_regex ? "Regex" : "String", where));
  StatusOr<Regex> regex = is_regex ? Regex::Compile(text) : Regex::Literal(text);
  if (!regex.ok()) return Annotate(regex.status(), where);
  return regex;
}

}  // namespace

PreTokenizer::PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) noexcept = default;
PreTokenizer::~PreTokenizer() = default;

StatusOr<PreTokenizer> PreTokenizer::FromJson(const Json& json) {
  PreTokenizer result;
  if (!json.is_null()) {
    TREELINE_RETURN_IF_ERROR(result.AppendSteps(json, "tokenizer.json: pre_tokenizer"));
  }
  return result;
}

StatusOr<PreTokenizer> PreTokenizer::FromName(const std::string& name) {
  for (const NamedPatterns& named : NamedCuts()) {
    if (std::find(named.names.begin(), named.names.end(), name) == named.names.end()) continue;
    PreTokenizer result;
    for (const std::string_view pattern : named.patterns) {
      Step step;
      TREELINE_ASSIGN_OR_RETURN(step.regex, Regex::Compile(pattern));
      result.steps_.push_back(std::move(step));
    }
    result.steps_.back().is_byte_level = true;
    return result;
  }
  return InvalidArgument(
      "tokenizer.ggml.pre: '{}' is not known; use the model's tokenizer.json instead", name);
}

bool PreTokenizer::is_byte_level() const { return !steps_.empty() && steps_.back().is_byte_level; }

Status PreTokenizer::AppendSteps(const Json& json, const std::string& where) {
  TREELINE_RETURN_IF_ERROR(CheckObject(json, where));
  TREELINE_ASSIGN_OR_RETURN(const std::string type, StringMember(json, "type", where));
  if (type == "Sequence") {
    const Json& steps = Member(json, "pretokenizers");
    TREELINE_RETURN_IF_ERROR(CheckArray(steps, where + ".pretokenizers"));
    for (size_t i = 0; i < steps.size(); ++i) {
      TREELINE_RETURN_IF_ERROR(
          AppendSteps(steps[i], fmt::format("{}.pretokenizers[{}]", where, i)));
    }
    return OkStatus();
  }
  if (!steps_.empty() && steps_.back().is_byte_level) {
    // It would see the spelled bytes, not the text.
    return InvalidArgument("{}: a {} step after ByteLevel is not supported", where, type);
  }
  Step step;
  if (type == "ByteLevel") {
    step.is_byte_level = true;
    TREELINE_ASSIGN_OR_RETURN(const bool add_prefix_space,
                              BoolMember(json, "add_prefix_space", true, where));
    if (add_prefix_space) step.prefix = Step::Prefix::kAlways;
    TREELINE_ASSIGN_OR_RETURN(const bool use_regex, BoolMember(json, "use_regex", true, where));
    if (use_regex) {
      TREELINE_ASSIGN_OR_RETURN(step.regex, Regex::Compile(kGpt2Pattern));
    }
  } else if (type == "Digits") {
    TREELINE_ASSIGN_OR_RETURN(const bool individual,
                              BoolMember(json, "individual_digits", false, where));
    TREELINE_ASSIGN_OR_RETURN(step.regex,
                              Regex::Compile(individual ? kSingleDigitPattern : R"(\p{N}+)"));
  } else if (type == "Split") {
    TREELINE_ASSIGN_OR_RETURN(step.regex,
                              SplitPattern(Member(json, "pattern"), where + ".pattern"));
    TREELINE_ASSIGN_OR_RETURN(const std::string behavior, StringMember(json, "behavior", where));
    TREELINE_ASSIGN_OR_RETURN(const bool invert, BoolMember(json, "invert", false, where));
    if (behavior == "Removed") {
      (invert ? step.keep_between : step.keep_matches) = false;
    } else if (behavior != "Isolated") {
      return InvalidArgument("{}.behavior: '{}' is not supported (Isolated and Removed are)", where,
                             behavior);
    }
  } else if (type == "Metaspace") {
    TREELINE_ASSIGN_OR_RETURN(step, MetaspaceStep(json, where));
  } else {
    return InvalidArgument(
        "{}: the step '{}' is not supported (ByteLevel, Digits, Metaspace, Split and Sequence are)",
        where, type);
  }
  steps_.push_back(std::move(step));
  return OkStatus();
}

StatusOr<PreTokenizer::Step> PreTokenizer::MetaspaceStep(const Json& json,
                                                         const std::string& where) {
  Step step;
  TREELINE_ASSIGN_OR_RETURN(const std::string mark, StringMember(json, "replacement", where));
  if (mark != kSpaceMark) {
    return InvalidArgument("{}.replacement: '{}' is not supported; only '{}' is", where, mark,
                           kSpaceMark);
  }
  step.space = kSpaceMark;
  if (Member(json, "prepend_scheme").is_null()) {  // Before there were schemes.
    TREELINE_ASSIGN_OR_RETURN(const bool add_prefix_space,
                              BoolMember(json, "add_prefix_space", true, where));
    step.prefix = add_prefix_space ? Step::Prefix::kAlways : Step::Prefix::kNever;
  } else {
    TREELINE_ASSIGN_OR_RETURN(const std::string scheme,
                              StringMember(json, "prepend_scheme", where));
    if (scheme == "always") {
      step.prefix = Step::Prefix::kAlways;
    } else if (scheme == "first") {
      step.prefix = Step::Prefix::kFirst;
    } else if (scheme != "never") {
      return InvalidArgument("{}.prepend_scheme: '{}' is none of always, first and never", where,
                             scheme);
    }
  }
  TREELINE_ASSIGN_OR_RETURN(const bool split, BoolMember(json, "split", true, where));
  if (split) {
    TREELINE_ASSIGN_OR_RETURN(step.regex, Regex::Compile("\\x{2581}[^\\x{2581}]*"));
  }
  return step;
}

Status PreTokenizer::Split(std::string_view text, bool at_start,
                           const std::function<void(std::string_view)>& emit) const {
  return Apply(0, text, at_start, emit);
}

// Depth first: a piece goes through all steps before the next is cut, so nothing is collected.
Status PreTokenizer::Apply(size_t step_index, std::string_view text, bool at_start,
                           const std::function<void(std::string_view)>& emit) const {
  if (text.empty()) return OkStatus();
  if (step_index == steps_.size()) {
    emit(text);
    return OkStatus();
  }
  const Step& step = steps_[step_index];
  std::string changed;
  if (step.space != " ") text = changed = ReplaceAll(text, " ", step.space);
  const bool wants_prefix =
      step.prefix == Step::Prefix::kAlways || (step.prefix == Step::Prefix::kFirst && at_start);
  if (wants_prefix && !text.starts_with(step.space)) {
    text = changed = std::string(step.space).append(text);
  }
  if (!step.regex) return Apply(step_index + 1, text, at_start, emit);

  const auto pass_on = [&](size_t begin, size_t end) {
    return Apply(step_index + 1, text.substr(begin, end - begin), at_start && begin == 0, emit);
  };
  Regex::Cursor cursor(*step.regex, text);
  size_t end = 0;
  while (true) {
    TREELINE_ASSIGN_OR_RETURN(const std::optional<Regex::Match> match, cursor.Next());
    if (!match) break;
    if (step.keep_between) TREELINE_RETURN_IF_ERROR(pass_on(end, match->begin));
    if (step.keep_matches) TREELINE_RETURN_IF_ERROR(pass_on(match->begin, match->end));
    end = match->end;
  }
  return step.keep_between ? pass_on(end, text.size()) : OkStatus();
}

}  // namespace treeline
