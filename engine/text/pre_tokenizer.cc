#include "engine/text/pre_tokenizer.h"

#include <optional>
#include <utility>

#include "engine/text/pre_tokenizer_regex.h"
#include "engine/text/tokenizer_json.h"

namespace treeline {
namespace {

// GPT-2's words, the pattern of every ByteLevel step with use_regex.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

}  // namespace

// One cut of the text: into what the regex matches and what lies between.
struct PreTokenizer::Step {
  bool is_byte_level = false;
  bool add_prefix_space = false;
  std::optional<Regex> regex;  // None: no cut.
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
  const std::string where = "tokenizer.json: pre_tokenizer";
  PreTokenizer result;
  TREELINE_RETURN_IF_ERROR(result.AppendSteps(json, where));
  if (result.steps_.empty() || !result.steps_.back().is_byte_level) {
    return InvalidArgument("{}: no ByteLevel step; only byte-level BPE is supported", where);
  }
  return result;
}

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
    TREELINE_ASSIGN_OR_RETURN(step.add_prefix_space,
                              BoolMember(json, "add_prefix_space", true, where));
    TREELINE_ASSIGN_OR_RETURN(const bool use_regex, BoolMember(json, "use_regex", true, where));
    if (use_regex) {
      TREELINE_ASSIGN_OR_RETURN(step.regex, Regex::Compile(kGpt2Pattern));
    }
  } else if (type == "Digits") {
    TREELINE_ASSIGN_OR_RETURN(const bool individual,
                              BoolMember(json, "individual_digits", false, where));
    TREELINE_ASSIGN_OR_RETURN(step.regex, Regex::Compile(individual ? R"(\p{N})" : R"(\p{N}+)"));
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
  } else {
    return InvalidArgument(
        "{}: the step '{}' is not supported (ByteLevel, Digits, Split and Sequence are)", where,
        type);
  }
  steps_.push_back(std::move(step));
  return OkStatus();
}

Status PreTokenizer::Split(std::string_view text,
                           const std::function<void(std::string_view)>& emit) const {
  return Apply(0, text, emit);
}

// Depth first: a piece goes through all steps before the next is cut, so nothing is collected.
Status PreTokenizer::Apply(size_t step_index, std::string_view text,
                           const std::function<void(std::string_view)>& emit) const {
  if (text.empty()) return OkStatus();
  if (step_index == steps_.size()) {
    emit(text);
    return OkStatus();
  }
  const Step& step = steps_[step_index];
  std::string prefixed;
  if (step.add_prefix_space && !text.starts_with(' ')) {
    prefixed.append(" ").append(text);
    text = prefixed;
  }
  if (!step.regex) return Apply(step_index + 1, text, emit);

  Regex::Cursor cursor(*step.regex, text);
  size_t end = 0;
  while (true) {
    TREELINE_ASSIGN_OR_RETURN(const std::optional<Regex::Match> match, cursor.Next());
    if (!match) break;
    if (step.keep_between) {
      TREELINE_RETURN_IF_ERROR(Apply(step_index + 1, text.substr(end, match->begin - end), emit));
    }
    if (step.keep_matches) {
      TREELINE_RETURN_IF_ERROR(
          Apply(step_index + 1, text.substr(match->begin, match->end - match->begin), emit));
    }
    end = match->end;
  }
  return step.keep_between ? Apply(step_index + 1, text.substr(end), emit) : OkStatus();
}

}  // namespace treeline
