// Turns a stream of tokens into a stream of text that never holds half a UTF-8
// character: bytes that may still become a character wait for the next token.
// One per sequence; not thread-safe.
#ifndef TREELINE_ENGINE_TEXT_DETOKENIZER_H_
#define TREELINE_ENGINE_TEXT_DETOKENIZER_H_

#include <cstdint>
#include <string>

#include "engine/text/tokenizer.h"

namespace treeline {

class Detokenizer {
 public:
  // Special tokens give no text when skip_special. at_text_start: no text stands before the first
  // token, so a space that the tokenizer puts before every text is not part of it; false where the
  // tokens continue a prompt. `tokenizer` must outlive this.
  Detokenizer(const Tokenizer& tokenizer, bool skip_special, bool at_text_start = false)
      : tokenizer_(tokenizer),
        skip_special_(skip_special),
        strips_space_(at_text_start && tokenizer.adds_space_prefix()) {}

  // The text that `id` completes; empty while a character is unfinished. Bytes that
  // cannot become UTF-8 come out as U+FFFD.
  std::string Push(int32_t id);
  // What is left at the end: U+FFFD for an unfinished character, else nothing.
  std::string Flush();

 private:
  const Tokenizer& tokenizer_;
  const bool skip_special_;
  bool strips_space_;    // Until the first byte.
  std::string pending_;  // The bytes of an unfinished character, at most 3.
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_TEXT_DETOKENIZER_H_
