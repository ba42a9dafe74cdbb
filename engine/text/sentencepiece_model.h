// The contents of a SentencePiece tokenizer.model, a protocol buffer that is read here
// directly: Debian's libsentencepiece cannot live in one process with libprotobuf, which
// the server links, because it exports another version of the same symbols.
#ifndef TREELINE_ENGINE_TEXT_SENTENCEPIECE_MODEL_H_
#define TREELINE_ENGINE_TEXT_SENTENCEPIECE_MODEL_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/status.h"
#include "engine/text/token_type.h"

namespace treeline {

struct SentencePieceModel {
  enum class Algorithm { kUnigram = 1, kBpe = 2 };  // The values are the file's.
  struct Piece {
    std::string text;  // A space is "▁".
    float score = 0;
    TokenType type = TokenType::kNormal;
  };

  Algorithm algorithm = Algorithm::kUnigram;
  std::vector<Piece> pieces;  // By id. Texts are unique and not empty, scores finite.
  bool byte_fallback = false;
  int32_t unknown_id = 0;
  int32_t bos_id = 1;  // -1: there is none; so for eos_id.
  int32_t eos_id = 2;

  // How text is normalized.
  std::string character_map;  // As SentencePiece compiled it; empty: characters stay as they are.
  bool add_dummy_prefix = true;         // A space before the text.
  bool remove_extra_whitespace = true;  // At both ends, and of runs all but one.
  bool escape_whitespace = true;        // A space becomes "▁".
};

// INVALID_ARGUMENT for bytes that are no such model, or one whose algorithm or options are not
// supported.
StatusOr<SentencePieceModel> ParseSentencePieceModel(std::string_view bytes);

// Checks what the fields above promise of the pieces and of the ids. `where` begins the error.
Status CheckPieces(const SentencePieceModel& model, const std::string& where);

// The byte that a piece of type kByte stands for, "<0x0A>"; -1 where it is spelled otherwise.
int ByteOfPiece(std::string_view piece);

inline constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581, "▁".

}  // namespace treeline

#endif  // TREELINE_ENGINE_TEXT_SENTENCEPIECE_MODEL_H_
