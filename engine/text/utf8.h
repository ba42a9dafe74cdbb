// UTF-8, read one character at a time from bytes that may be anything. What is not
// UTF-8 is cut as the Unicode standard recommends (maximal subparts), so that
// replacing each cut by U+FFFD gives what Python and Rust give.
#ifndef TREELINE_ENGINE_TEXT_UTF8_H_
#define TREELINE_ENGINE_TEXT_UTF8_H_

#include <cstddef>
#include <string>
#include <string_view>

namespace treeline {

struct Utf8Char {
  enum class State {
    kValid,
    kInvalid,    // No character begins with these `length` bytes.
    kTruncated,  // The text ends inside a character, of which it has `length` bytes.
  };
  State state;
  char32_t code_point;  // Of a kValid one.
  size_t length;        // In bytes, 1 to 4.
};

// The character that `text` begins with. REQUIRES: !text.empty().
Utf8Char FirstUtf8Char(std::string_view text);

// The length of the longest prefix of whole, valid characters: text.size() where all is UTF-8.
size_t ValidUtf8Prefix(std::string_view text);

// Moves `bytes` to the end of `*out` with what is not UTF-8 replaced by U+FFFD, except an
// unfinished character at the end, which stays in `bytes` (at most 3 bytes).
void DrainUtf8(std::string* bytes, std::string* out);

// Appends a character. REQUIRES: `code_point` is a Unicode scalar value.
void AppendUtf8(char32_t code_point, std::string* out);

// Unicode's White_Space property.
bool IsUnicodeSpace(char32_t code_point);

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace treeline

#endif  // TREELINE_ENGINE_TEXT_UTF8_H_
