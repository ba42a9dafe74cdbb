// Text <-> token ids. Immutable after loading; safe from any thread.
#ifndef TREELINE_ENGINE_TEXT_TOKENIZER_H_
#define TREELINE_ENGINE_TEXT_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/json.h"
#include "engine/base/status.h"

namespace treeline {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Loads the tokenizer of a Hugging Face model folder: tokenizer.json, or else SentencePiece's
  // tokenizer.model, or else the older pair of vocab.json and merges.txt of GPT-2 and Qwen2, with
  // tokenizer_config.json and added_tokens.json where present. NOT_FOUND where the folder has
  // none, INVALID_ARGUMENT naming the file and the part for what is malformed or not supported.
  static StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& model_dir);
  // The same from a parsed tokenizer.json; `config` is null where there is no
  // tokenizer_config.json.
  static StatusOr<std::unique_ptr<Tokenizer>> FromJson(const Json& tokenizer, const Json& config);

  // The ids of UTF-8 `text`. Special tokens written out in the text become their ids when
  // parse_special; otherwise they are ordinary text (what a client writes in a message must not
  // forge a turn). Added tokens that are not special are part of the vocabulary and always
  // found. With add_special, the sequence's own prefix (BOS, where the tokenizer has one) is
  // added. INVALID_ARGUMENT for text that is not UTF-8.
  virtual StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool add_special,
                                                bool parse_special) const = 0;

  // The bytes of one token as they stand in text; not always whole UTF-8 characters.
  // Empty for ids without text (out of range included). Special tokens give their name.
  virtual std::string_view TokenBytes(int32_t id) const = 0;
  // True for tokens that are marks, not text (<|im_end|>): left out of generated text.
  virtual bool IsSpecial(int32_t id) const = 0;
  // The id of a token by its exact content, as TokenBytes gives it, e.g. "<|im_end|>".
  virtual std::optional<int32_t> TokenId(std::string_view content) const = 0;

  // True where Encode puts a space before a text, as SentencePiece does, that Decode takes away.
  virtual bool adds_space_prefix() const { return false; }

  // One past the largest id.
  virtual int32_t vocab_size() const = 0;
  virtual std::optional<int32_t> bos_id() const = 0;
  virtual std::optional<int32_t> eos_id() const = 0;

  // The text of ids from its start: the tokens' bytes joined, but for a space that Encode put
  // before the text, and invalid UTF-8 replaced by U+FFFD.
  std::string Decode(const std::vector<int32_t>& ids, bool skip_special) const;
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_TEXT_TOKENIZER_H_
