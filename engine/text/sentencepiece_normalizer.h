// SentencePiece's normalization: characters by the model's map, then spaces.
#ifndef TREELINE_ENGINE_TEXT_SENTENCEPIECE_NORMALIZER_H_
#define TREELINE_ENGINE_TEXT_SENTENCEPIECE_NORMALIZER_H_

#include "engine/base/status.h"
#include "engine/text/normalizer.h"
#include "engine/text/sentencepiece_model.h"

namespace treeline {

// prefix_at_start_only: the model's dummy prefix is not added again after an added token.
// INVALID_ARGUMENT for a malformed character_map.
StatusOr<Normalizer> SentencePieceNormalizer(const SentencePieceModel& model,
                                             bool prefix_at_start_only);

}  // namespace treeline

#endif  // TREELINE_ENGINE_TEXT_SENTENCEPIECE_NORMALIZER_H_
