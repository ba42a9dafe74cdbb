#include "engine/text/utf8.h"

namespace treeline {
namespace {

// What may follow a lead byte: the character's length and the range of its second byte, which
// alone excludes overlong forms, surrogates and everything past U+10FFFF. Length 0: no lead byte.
struct Lead {
  size_t length;
  unsigned char second_min = 0x80;
  unsigned char second_max = 0xBF;
};

Lead LeadOf(unsigned char byte) {
  if (byte < 0x80) return {1};
  if (byte < 0xC2) return {0};
  if (byte < 0xE0) return {2};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0};
}

}  // namespace

Utf8Char FirstUtf8Char(std::string_view text) {
  using State = Utf8Char::State;
  const unsigned char first = text[0];
  const Lead lead = LeadOf(first);
  if (lead.length == 0) return {State::kInvalid, 0, 1};
  if (lead.length == 1) return {State::kValid, first, 1};
  char32_t code_point = first & (0x7F >> lead.length);
  for (size_t i = 1; i < lead.length; ++i) {
    if (i == text.size()) return {State::kTruncated, 0, i};
    const unsigned char byte = text[i];
    const unsigned char min = i == 1 ? lead.second_min : 0x80;
    const unsigned char max = i == 1 ? lead.second_max : 0xBF;
    if (byte < min || byte > max) return {State::kInvalid, 0, i};
    code_point = code_point << 6 | (byte & 0x3F);
  }
  return {State::kValid, code_point, lead.length};
}

size_t ValidUtf8Prefix(std::string_view text) {
  size_t position = 0;
  while (position < text.size()) {
    const Utf8Char next = FirstUtf8Char(text.substr(position));
    if (next.state != Utf8Char::State::kValid) break;
    position += next.length;
  }
  return position;
}

void DrainUtf8(std::string* bytes, std::string* out) {
  std::string_view rest = *bytes;
  while (!rest.empty()) {
    const size_t valid = ValidUtf8Prefix(rest);
    out->append(rest.substr(0, valid));
    rest.remove_prefix(valid);
    if (rest.empty()) break;
    const Utf8Char bad = FirstUtf8Char(rest);
    if (bad.state == Utf8Char::State::kTruncated) break;
    out->append(kReplacementCharacter);
    rest.remove_prefix(bad.length);
  }
  bytes->erase(0, bytes->size() - rest.size());
}

void AppendUtf8(char32_t c, std::string* out) {
  if (c < 0x80) {
    *out += static_cast<char>(c);
    return;
  }
  if (c < 0x800) {
    *out += static_cast<char>(0xC0 | c >> 6);
  } else {
    if (c < 0x10000) {
      *out += static_cast<char>(0xE0 | c >> 12);
    } else {
      *out += static_cast<char>(0xF0 | c >> 18);
      *out += static_cast<char>(0x80 | (c >> 12 & 0x3F));
    }
    *out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
  }
  *out += static_cast<char>(0x80 | (c & 0x3F));
}

bool IsUnicodeSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

}  // namespace treeline
