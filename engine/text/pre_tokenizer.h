// Cuts text into the pieces (words, numbers, runs of spaces) that byte-pair merges
// never cross, or marks its spaces for those that do. Immutable after loading; safe from any
// thread.
#ifndef TREELINE_ENGINE_TEXT_PRE_TOKENIZER_H_
#define TREELINE_ENGINE_TEXT_PRE_TOKENIZER_H_

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/json.h"
#include "engine/base/status.h"

namespace treeline {

// How Qwen2 cuts text.
inline constexpr std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

class PreTokenizer {
 public:
  // From tokenizer.json's "pre_tokenizer", which may be null: Digits, Split (behaviours Isolated
  // and Removed) and Metaspace in any number, then perhaps one ByteLevel. INVALID_ARGUMENT naming
  // the step for anything else.
  static StatusOr<PreTokenizer> FromJson(const Json& json);
  // The cut that a GGUF file names in tokenizer.ggml.pre, of byte-level BPE. INVALID_ARGUMENT for
  // names that are not known.
  static StatusOr<PreTokenizer> FromName(const std::string& name);

  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;
  ~PreTokenizer();

  // True where the pieces are meant to be read byte by byte.
  bool is_byte_level() const;

  // Calls `emit` with each piece, in order; a piece may be used within the call only. at_start:
  // nothing that is encoded stands before the text.
  // REQUIRES: `text` is UTF-8. INVALID_ARGUMENT where a pattern exceeds its backtracking limit.
  Status Split(std::string_view text, bool at_start,
               const std::function<void(std::string_view)>& emit) const;

 private:
  struct Step;

  PreTokenizer();
  static StatusOr<Step> MetaspaceStep(const Json& json, const std::string& where);
  Status AppendSteps(const Json& json, const std::string& where);
  Status Apply(size_t step_index, std::string_view text, bool at_start,
               const std::function<void(std::string_view)>& emit) const;

  std::vector<Step> steps_;
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_TEXT_PRE_TOKENIZER_H_
