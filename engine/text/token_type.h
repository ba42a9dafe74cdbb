// What a token of a SentencePiece or GGUF vocabulary is; the values are those of both files.
#ifndef TREELINE_ENGINE_TEXT_TOKEN_TYPE_H_
#define TREELINE_ENGINE_TEXT_TOKEN_TYPE_H_

#include <cstdint>

namespace treeline {

enum class TokenType : int32_t {
  kNormal = 1,
  kUnknown = 2,      // What text outside the vocabulary becomes.
  kControl = 3,      // A mark, not text: <|im_end|>.
  kUserDefined = 4,  // Text that is found whole wherever it stands.
  kUnused = 5,       // Never made of text.
  kByte = 6,         // "<0x0A>": one byte of a character that has no token.
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_TEXT_TOKEN_TYPE_H_
