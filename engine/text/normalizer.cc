#include "engine/text/normalizer.h"

#include <algorithm>
#include <utility>

#include "engine/text/nfc.h"
#include "engine/text/tokenizer_json.h"

namespace treeline {
namespace {

// Steps multiply: without a limit a hostile file could ask for any amount of memory.
constexpr size_t kMaxGrowth = 64;
// The callers' positions are 32-bit.
constexpr size_t kMaxNormalizedBytes = size_t{512} << 20;

}  // namespace

std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to) {
  std::string result;
  result.reserve(text.size());
  while (true) {
    const size_t found = text.find(from);
    result.append(text.substr(0, found));
    if (found == text.npos) return result;
    result.append(to);
    text.remove_prefix(found + from.size());
  }
}

StatusOr<Normalizer> Normalizer::FromJson(const Json& json) {
  Normalizer result;
  if (!json.is_null()) {
    TREELINE_RETURN_IF_ERROR(result.AppendSteps(json, "tokenizer.json: normalizer"));
  }
  return result;
}

Status Normalizer::AppendSteps(const Json& json, const std::string& where) {
  TREELINE_RETURN_IF_ERROR(CheckObject(json, where));
  TREELINE_ASSIGN_OR_RETURN(const std::string type, StringMember(json, "type", where));
  if (type == "Sequence") {
    const Json& steps = Member(json, "normalizers");
    TREELINE_RETURN_IF_ERROR(CheckArray(steps, where + ".normalizers"));
    for (size_t i = 0; i < steps.size(); ++i) {
      TREELINE_RETURN_IF_ERROR(AppendSteps(steps[i], fmt::format("{}.normalizers[{}]", where, i)));
    }
    return OkStatus();
  }
  if (type == "NFC") {
    steps_.push_back([](std::string_view text, bool) { return Nfc(text); });
  } else if (type == "Prepend") {
    TREELINE_ASSIGN_OR_RETURN(const std::string prefix, StringMember(json, "prepend", where));
    if (prefix.size() > kMaxReplacementBytes) {
      return InvalidArgument("{}.prepend: {} bytes long; the limit is {}", where, prefix.size(),
                             kMaxReplacementBytes);
    }
    steps_.push_back([prefix](std::string_view text, bool) {
      return text.empty() ? std::string() : std::string(prefix).append(text);
    });
  } else if (type == "Replace") {
    TREELINE_ASSIGN_OR_RETURN(const Replacement replacement, ReadReplacement(json, where));
    steps_.push_back([replacement](std::string_view text, bool) {
      return ReplaceAll(text, replacement.from, replacement.to);
    });
  } else {
    return InvalidArgument("{}: '{}' is not supported (NFC, Prepend, Replace and Sequence are)",
                           where, type);
  }
  return OkStatus();
}

StatusOr<std::string> Normalizer::Apply(std::string_view text, bool at_start) const {
  std::string result(text);
  for (const Step& step : steps_) {
    result = step(result, at_start);
    const size_t limit = std::min((text.size() + 1) * kMaxGrowth, kMaxNormalizedBytes);
    if (result.size() > limit) {
      return InvalidArgument("the tokenizer's normalizer makes more than {} bytes of the text",
                             limit);
    }
  }
  return result;
}

}  // namespace treeline
