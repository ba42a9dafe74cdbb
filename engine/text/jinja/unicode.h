// Text as Python's str sees it: characters are code points of UTF-8. Bytes that are not
// UTF-8 count as one character each and are kept.
#ifndef TREELINE_ENGINE_TEXT_JINJA_UNICODE_H_
#define TREELINE_ENGINE_TEXT_JINJA_UNICODE_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace treeline::jinja {

// The character at the front of a text that is not empty. An invalid byte has the code
// kInvalidCode.
struct Character {
  char32_t code;
  size_t size;
};
inline constexpr char32_t kInvalidCode = 0xFFFFFFFF;
Character FirstCharacter(std::string_view text);

bool IsUtf8(std::string_view text);

size_t CountCharacters(std::string_view text);
// Each character as a view.
std::vector<std::string_view> SplitCharacters(std::string_view text);

// As str.isspace and str.isprintable have it.
bool IsSpace(char32_t code);
bool IsPrintable(char32_t code);

std::string_view StripLeft(std::string_view text);
std::string_view StripRight(std::string_view text);

// Case by single characters: "ß" stays as it is in upper case, where Python has "SS".
std::string ToUpper(std::string_view text);
std::string ToLower(std::string_view text);
// The first character in upper case and the rest in lower.
std::string Capitalize(std::string_view text);
bool IsCased(char32_t code);

}  // namespace treeline::jinja

#endif  // TREELINE_ENGINE_TEXT_JINJA_UNICODE_H_
