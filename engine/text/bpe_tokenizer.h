// The byte-level BPE tokenizer of GPT-2, SmolLM2, Llama-3 and others: added tokens are
// taken out of the text, the rest is cut into pieces, each piece is encoded.
// Immutable after loading; safe from any thread.
#ifndef TREELINE_ENGINE_TEXT_BPE_TOKENIZER_H_
#define TREELINE_ENGINE_TEXT_BPE_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "engine/base/json.h"
#include "engine/base/status.h"
#include "engine/text/added_tokens.h"
#include "engine/text/bpe.h"
#include "engine/text/pre_tokenizer.h"
#include "engine/text/tokenizer.h"

namespace treeline {

class BpeTokenizer : public Tokenizer {
 public:
  // As Tokenizer::FromJson, of a tokenizer.json whose model is BPE.
  static StatusOr<std::unique_ptr<BpeTokenizer>> FromJson(const Json& tokenizer,
                                                          const Json& config);

  StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool add_special,
                                        bool parse_special) const override;
  std::string_view TokenBytes(int32_t id) const override;
  bool IsSpecial(int32_t id) const override { return special_ids_.contains(id); }
  std::optional<int32_t> TokenId(std::string_view content) const override;
  int32_t vocab_size() const override { return static_cast<int32_t>(token_bytes_.size()); }
  std::optional<int32_t> bos_id() const override { return bos_id_; }
  std::optional<int32_t> eos_id() const override { return eos_id_; }

 private:
  BpeTokenizer(AddedTokens added_tokens, std::unordered_set<int32_t> special_ids, Bpe bpe,
               PreTokenizer pre_tokenizer);

  // The ids that the post_processor puts before a text; it may do nothing else.
  Status LoadPrefix(const Json& post_processor, const std::string& where);
  Status LoadTemplate(const Json& processor, const std::string& where);
  // bos_token, eos_token and add_bos_token of tokenizer_config.json.
  Status LoadConfig(const Json& config);
  StatusOr<std::optional<int32_t>> ConfigToken(const Json& config, const std::string& name) const;

  AddedTokens added_tokens_;
  std::unordered_set<int32_t> special_ids_;
  Bpe bpe_;
  PreTokenizer pre_tokenizer_;
  std::vector<std::string> token_bytes_;                     // By id.
  std::unordered_map<std::string_view, int32_t> added_ids_;  // By content, held by added_tokens_.
  std::vector<int32_t> prefix_;
  std::optional<int32_t> bos_id_;
  std::optional<int32_t> eos_id_;
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_TEXT_BPE_TOKENIZER_H_
