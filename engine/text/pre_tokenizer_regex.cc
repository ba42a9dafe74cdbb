#include "engine/text/pre_tokenizer_regex.h"

namespace treeline {
namespace {

// Backtracking steps in one match; Mistral-Nemo's pattern takes as many as a word has letters.
constexpr uint32_t kMatchLimit = 10'000'000;
constexpr uint32_t kHeapLimitKib = 64 << 10;

std::string ErrorText(int code) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(code, buffer, sizeof(buffer));
  return reinterpret_cast<const char*>(buffer);
}

// PCRE2's \s takes U+180E for a space; Oniguruma's, as Unicode today, does not.
std::string WithUnicodeSpace(std::string_view pattern) {
  std::string result;
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] != '\\' || i + 1 == pattern.size()) {
      result += pattern[i];
      continue;
    }
    const char escaped = pattern[++i];
    if (escaped == 's') {
      result += "\\p{White_Space}";
    } else if (escaped == 'S') {
      result += "\\P{White_Space}";
    } else {
      result += '\\';
      result += escaped;
    }
  }
  return result;
}

}  // namespace

StatusOr<Regex> Regex::Compile(std::string_view pattern) {
  // MULTILINE: in Oniguruma's syntax ^ and $ are always the ends of lines.
  return Compile(WithUnicodeSpace(pattern), PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C);
}

StatusOr<Regex> Regex::Literal(std::string_view text) { return Compile(text, PCRE2_LITERAL); }

StatusOr<Regex> Regex::Compile(std::string_view pattern, uint32_t options) {
  const std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
      pcre2_compile_context_create(nullptr), pcre2_compile_context_free);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE error_offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   options | PCRE2_UTF, &error, &error_offset, context.get());
  if (code == nullptr) {
    return InvalidArgument("bad pattern at byte {}: {}", error_offset, ErrorText(error));
  }
  Regex regex(code, pcre2_match_context_create(nullptr));
  uint32_t matches_empty = 0;
  pcre2_pattern_info(code, PCRE2_INFO_MATCHEMPTY, &matches_empty);
  if (matches_empty) return InvalidArgument("the pattern can match empty text");

  pcre2_set_match_limit(regex.context_.get(), kMatchLimit);
  pcre2_set_heap_limit(regex.context_.get(), kHeapLimitKib);
  // Where the JIT is missing or refuses, the interpreter does the same, slower.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  return regex;
}

Regex::Cursor::Cursor(const Regex& regex, std::string_view text)
    : regex_(regex),
      text_(text),
      match_data_(pcre2_match_data_create(1, nullptr), pcre2_match_data_free) {}

StatusOr<std::optional<Regex::Match>> Regex::Cursor::Next() {
  // Without NO_UTF_CHECK each call would check the whole text: quadratic.
  const int result =
      pcre2_match(regex_.code_.get(), reinterpret_cast<PCRE2_SPTR>(text_.data()), text_.size(),
                  position_, PCRE2_NO_UTF_CHECK, match_data_.get(), regex_.context_.get());
  if (result == PCRE2_ERROR_NOMATCH) return std::nullopt;
  if (result < 0) {
    return InvalidArgument("the tokenizer's pre_tokenizer pattern gives up on this text: {}",
                           ErrorText(result));
  }
  const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(match_data_.get());
  const Match match{ends[0], ends[1]};
  position_ = match.end;
  return match;
}

}  // namespace treeline
