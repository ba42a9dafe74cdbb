#include "engine/text/jinja/unicode.h"

#include <algorithm>
#include <cstdint>

#include "engine/text/jinja/unicode_tables.h"
#include "engine/text/utf8.h"

namespace treeline::jinja {
namespace {

// The range of a sorted table that holds the code, or null.
template <typename Table>
auto FindRange(const Table& table, char32_t code) -> decltype(table.data()) {
  const auto after =
      std::upper_bound(table.begin(), table.end(), code,
                       [](char32_t sought, const auto& range) { return sought < range.first; });
  if (after == table.begin()) return nullptr;
  const auto* range = &*(after - 1);
  return code <= range->last ? range : nullptr;
}

template <typename Table>
char32_t MapCase(const Table& table, char32_t code) {
  const auto* range = FindRange(table, code);
  if (range == nullptr || (code - range->first) % range->stride != 0) return code;
  return static_cast<char32_t>(static_cast<int64_t>(code) + range->delta);
}

template <typename Table>
void AppendCase(const Table& table, std::string_view text, std::string* out) {
  while (!text.empty()) {
    const Character character = FirstCharacter(text);
    const char32_t mapped = MapCase(table, character.code);
    if (mapped == character.code) {
      out->append(text.substr(0, character.size));
    } else {
      AppendUtf8(mapped, out);
    }
    text.remove_prefix(character.size);
  }
}

}  // namespace

Character FirstCharacter(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  const size_t size = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  constexpr char32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  if (lead < 0xC2 || lead > 0xF4 || text.size() < size) return {kInvalidCode, 1};
  char32_t code = lead & (0x7F >> size);
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return {kInvalidCode, 1};
    code = code << 6 | (byte(i) & 0x3F);
  }
  const bool surrogate = code >= 0xD800 && code <= 0xDFFF;
  if (code < kSmallest[size] || code > 0x10FFFF || surrogate) return {kInvalidCode, 1};
  return {code, size};
}

bool IsUtf8(std::string_view text) {
  while (!text.empty()) {
    const Character character = FirstCharacter(text);
    if (character.code == kInvalidCode) return false;
    text.remove_prefix(character.size);
  }
  return true;
}

size_t CountCharacters(std::string_view text) {
  size_t count = 0;
  for (; !text.empty(); ++count) text.remove_prefix(FirstCharacter(text).size);
  return count;
}

std::vector<std::string_view> SplitCharacters(std::string_view text) {
  std::vector<std::string_view> characters;
  while (!text.empty()) {
    characters.push_back(text.substr(0, FirstCharacter(text).size));
    text.remove_prefix(characters.back().size());
  }
  return characters;
}

bool IsSpace(char32_t code) {
  if (code <= 0x20) return code == 0x20 || (code >= 0x09 && code <= 0x0D) || code >= 0x1C;
  return code == 0x85 || code == 0xA0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200A) ||
         code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

bool IsPrintable(char32_t code) {
  return code != kInvalidCode && FindRange(kUnprintable, code) == nullptr;
}

std::string_view StripLeft(std::string_view text) {
  while (!text.empty()) {
    const Character character = FirstCharacter(text);
    if (!IsSpace(character.code)) break;
    text.remove_prefix(character.size);
  }
  return text;
}

std::string_view StripRight(std::string_view text) {
  while (!text.empty()) {
    size_t start = text.size() - 1;
    // Back to the character's first byte, at most three bytes earlier.
    while (start > 0 && text.size() - start < 4 && (text[start] & 0xC0) == 0x80) --start;
    const Character character = FirstCharacter(text.substr(start));
    if (start + character.size != text.size() || !IsSpace(character.code)) break;
    text.remove_suffix(character.size);
  }
  return text;
}

std::string ToUpper(std::string_view text) {
  std::string upper;
  upper.reserve(text.size());
  AppendCase(kToUpper, text, &upper);
  return upper;
}

std::string ToLower(std::string_view text) {
  std::string lower;
  lower.reserve(text.size());
  AppendCase(kToLower, text, &lower);
  return lower;
}

std::string Capitalize(std::string_view text) {
  if (text.empty()) return "";
  const size_t first = FirstCharacter(text).size;
  return ToUpper(text.substr(0, first)) + ToLower(text.substr(first));
}

bool IsCased(char32_t code) {
  return MapCase(kToUpper, code) != code || MapCase(kToLower, code) != code;
}

}  // namespace treeline::jinja
