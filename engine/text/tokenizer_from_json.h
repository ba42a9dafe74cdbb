// Tokenizers as Hugging Face's tokenizer.json describes them.
#ifndef TREELINE_ENGINE_TEXT_TOKENIZER_FROM_JSON_H_
#define TREELINE_ENGINE_TEXT_TOKENIZER_FROM_JSON_H_

#include <memory>

#include "engine/base/json.h"
#include "engine/base/status.h"
#include "engine/text/tokenizer.h"

namespace treeline {

// As Tokenizer::FromJson.
StatusOr<std::unique_ptr<Tokenizer>> TokenizerFromJson(const Json& tokenizer, const Json& config);

}  // namespace treeline

#endif  // TREELINE_ENGINE_TEXT_TOKENIZER_FROM_JSON_H_
