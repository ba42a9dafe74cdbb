#include "engine/text/jinja/text_operations.h"

#include <algorithm>

#include "engine/text/jinja/unicode.h"

namespace treeline::jinja {
namespace {

bool IsLineEnd(char32_t code) {
  return (code >= 0x0A && code <= 0x0D) || (code >= 0x1C && code <= 0x1E) || code == 0x85 ||
         code == 0x2028 || code == 0x2029;
}

// Ascending places of `old`, at most `limit`, not overlapping.
std::vector<size_t> FindPlaces(std::string_view text, std::string_view old, size_t limit) {
  std::vector<size_t> places;
  size_t at = 0;
  while (places.size() < limit) {
    at = text.find(old, at);
    if (at == std::string_view::npos) break;
    places.push_back(at);
    if (!old.empty()) {
      at += old.size();
    } else if (at < text.size()) {
      at += FirstCharacter(text.substr(at)).size;
    } else {
      break;
    }
  }
  return places;
}

}  // namespace

StatusOr<std::string_view> Strip(Runtime& runtime, std::string_view text, Side side,
                                 const Value& characters) {
  if (characters.is_none()) {
    const size_t size = text.size();
    if (side != Side::kRight) text = StripLeft(text);
    if (side != Side::kLeft) text = StripRight(text);
    TREELINE_RETURN_IF_ERROR(runtime.Spend(size - text.size()));
    return text;
  }
  if (!characters.is_text()) {
    return InvalidArgument("strip arg must be None or str, not {}", TypeName(characters));
  }
  constexpr size_t kMaxSet = 64;  // Each character of the text may be compared with each of it.
  const std::vector<std::string_view> set = SplitCharacters(characters.text());
  if (set.size() > kMaxSet) {
    return InvalidArgument("stripping a set of more than {} characters is not supported", kMaxSet);
  }
  TREELINE_RETURN_IF_ERROR(runtime.Spend(text.size()));
  const auto contains = [&](std::string_view character) {
    return std::find(set.begin(), set.end(), character) != set.end();
  };
  while (side != Side::kRight && !text.empty()) {
    const size_t size = FirstCharacter(text).size;
    if (!contains(text.substr(0, size))) break;
    text.remove_prefix(size);
  }
  const auto is_tail = [&](std::string_view character) { return text.ends_with(character); };
  while (side != Side::kLeft) {
    const auto tail = std::find_if(set.begin(), set.end(), is_tail);
    if (tail == set.end()) break;
    text.remove_suffix(tail->size());
  }
  return text;
}

StatusOr<std::string> Replace(Runtime& runtime, std::string_view text, std::string_view old,
                              std::string_view replacement, int64_t count) {
  TREELINE_RETURN_IF_ERROR(runtime.Spend(text.size()));
  const size_t limit = count < 0 ? std::string_view::npos : static_cast<size_t>(count);
  const std::vector<size_t> places = FindPlaces(text, old, limit);
  if (places.size() > kMaxBytes / (sizeof(size_t) + replacement.size())) {
    TREELINE_RETURN_IF_ERROR(runtime.Spend(kMaxBytes + 1));
  }
  TREELINE_RETURN_IF_ERROR(runtime.Spend(places.size() * (sizeof(size_t) + replacement.size())));
  std::string replaced;
  size_t copied = 0;
  for (const size_t place : places) {
    replaced += text.substr(copied, place - copied);
    replaced += replacement;
    copied = place + old.size();
  }
  return replaced += text.substr(copied);
}

std::vector<std::string_view> SplitLines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  size_t start = 0;
  size_t at = 0;
  while (at < text.size()) {
    const Character character = FirstCharacter(text.substr(at));
    const size_t end = at;
    at += character.size;
    if (!IsLineEnd(character.code)) continue;
    if (character.code == '\r' && at < text.size() && text[at] == '\n') ++at;
    lines.push_back(text.substr(start, (keep_ends ? at : end) - start));
    start = at;
  }
  if (start < text.size()) lines.push_back(text.substr(start));
  return lines;
}

StatusOr<std::string> Join(Runtime& runtime, std::string_view separator,
                           const std::vector<std::string_view>& parts) {
  std::string joined;
  for (size_t i = 0; i < parts.size(); ++i) {
    TREELINE_RETURN_IF_ERROR(runtime.Spend(separator.size() + parts[i].size()));
    if (i > 0) joined += separator;
    joined += parts[i];
  }
  return joined;
}

}  // namespace treeline::jinja
