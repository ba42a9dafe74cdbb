// Tokenizers of SentencePiece vocabularies, whichever file they come from.
#ifndef TREELINE_ENGINE_TEXT_TOKENIZER_FROM_SENTENCEPIECE_H_
#define TREELINE_ENGINE_TEXT_TOKENIZER_FROM_SENTENCEPIECE_H_

#include <memory>
#include <vector>

#include "engine/base/status.h"
#include "engine/text/added_tokens.h"
#include "engine/text/sentencepiece_model.h"
#include "engine/text/subword_tokenizer.h"

namespace treeline {

// `added` are further tokens, or what else is to be known of pieces; they are found in the text as
// it is written. prefix_at_start_only: no space is put before what follows an added token. Marks
// are those of the model, BOS before every text where it has one.
StatusOr<std::unique_ptr<SubwordTokenizer>> TokenizerFromSentencePiece(
    SentencePieceModel model, std::vector<AddedToken> added, bool prefix_at_start_only);

}  // namespace treeline

#endif  // TREELINE_ENGINE_TEXT_TOKENIZER_FROM_SENTENCEPIECE_H_
