// A tokenizer as plain data: what a GGUF file's metadata holds of one, field by field.
#ifndef TREELINE_ENGINE_TEXT_TOKENIZER_SPEC_H_
#define TREELINE_ENGINE_TEXT_TOKENIZER_SPEC_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/status.h"
#include "engine/text/token_type.h"
#include "engine/text/tokenizer.h"

namespace treeline {

struct TokenizerSpec {
  using TokenType = treeline::TokenType;

  // tokenizer.ggml.model: "gpt2", byte-level BPE with tokens spelled in GPT-2's alphabet and
  // merges in the order of their rank, or "llama", SentencePiece's BPE, where of all neighbours
  // those with the best score of what they make are joined first.
  std::string model;
  std::string pre_tokenizer;        // tokenizer.ggml.pre, e.g. "llama-bpe"; of "gpt2" only.
  std::vector<std::string> tokens;  // By id.
  std::vector<TokenType> types;     // tokenizer.ggml.token_type, by id; empty: all are normal.
  std::vector<float> scores;        // By id, of "llama" only.
  std::vector<std::string> merges;  // "left right", of "gpt2" only.
  std::optional<int32_t> bos_id;
  std::optional<int32_t> eos_id;
  std::optional<int32_t> unknown_id;     // Of "llama"; none: the token of type kUnknown.
  std::optional<bool> add_bos;           // None: what model and pre_tokenizer imply.
  std::optional<bool> add_space_prefix;  // Of "llama"; none: true.
};

// INVALID_ARGUMENT naming the metadata key ("tokenizer.ggml.merges[3]: ...") for what is
// malformed or not supported; the caller adds the file.
StatusOr<std::unique_ptr<Tokenizer>> CreateTokenizer(const TokenizerSpec& spec);

}  // namespace treeline

#endif  // TREELINE_ENGINE_TEXT_TOKENIZER_SPEC_H_
