// The regular expressions of tokenizer.json, which are Oniguruma's there, run by
// PCRE2. Immutable after compiling; safe from any thread. Part of the pre-tokenizer.
#ifndef TREELINE_ENGINE_TEXT_PRE_TOKENIZER_REGEX_H_
#define TREELINE_ENGINE_TEXT_PRE_TOKENIZER_REGEX_H_

#include <pcre2.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "engine/base/status.h"

namespace treeline {

class Regex {
 public:
  // INVALID_ARGUMENT with the place for bad syntax, and for patterns that match empty text.
  static StatusOr<Regex> Compile(std::string_view pattern);
  // A pattern that matches `text` itself.
  static StatusOr<Regex> Literal(std::string_view text);

  struct Match {
    size_t begin;  // In bytes.
    size_t end;
  };

  // Walks over the matches in a text, first to last. One walk, one thread.
  class Cursor {
   public:
    // REQUIRES: `text` is UTF-8. `regex` and `text` must outlive the cursor.
    Cursor(const Regex& regex, std::string_view text);
    // The next match, or none at the end. INVALID_ARGUMENT where the pattern backtracks more
    // than its limit allows.
    StatusOr<std::optional<Match>> Next();

   private:
    const Regex& regex_;
    const std::string_view text_;
    size_t position_ = 0;
    std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> match_data_;
  };

 private:
  static StatusOr<Regex> Compile(std::string_view pattern, uint32_t options);

  Regex(pcre2_code* code, pcre2_match_context* context)
      : code_(code, pcre2_code_free), context_(context, pcre2_match_context_free) {}

  std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)> code_;
  std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> context_;  // Limits.
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_TEXT_PRE_TOKENIZER_REGEX_H_
