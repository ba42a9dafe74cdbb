#include "engine/text/tokenizer_spec.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "engine/text/added_tokens.h"
#include "engine/text/bpe.h"
#include "engine/text/nfc.h"
#include "engine/text/pre_tokenizer.h"
#include "engine/text/subword_tokenizer.h"
#include "engine/text/tokenizer_from_sentencepiece.h"

namespace treeline {
namespace {

constexpr char kTokens[] = "tokenizer.ggml.tokens";

Status CheckLists(const TokenizerSpec& spec) {
  if (spec.tokens.empty()) return InvalidArgument("{}: there are none", kTokens);
  if (!spec.types.empty() && spec.types.size() != spec.tokens.size()) {
    return InvalidArgument("tokenizer.ggml.token_type: has {} entries for {} tokens",
                           spec.types.size(), spec.tokens.size());
  }
  for (size_t id = 0; id < spec.types.size(); ++id) {
    if (spec.types[id] < TokenType::kNormal || spec.types[id] > TokenType::kByte) {
      return InvalidArgument("tokenizer.ggml.token_type[{}]: {} is no type of token", id,
                             static_cast<int32_t>(spec.types[id]));
    }
  }
  const std::pair<const char*, std::optional<int32_t>> ids[] = {
      {"bos", spec.bos_id}, {"eos", spec.eos_id}, {"unknown", spec.unknown_id}};
  for (const auto& [name, id] : ids) {
    if (id && (*id < 0 || *id >= static_cast<int64_t>(spec.tokens.size()))) {
      return InvalidArgument("tokenizer.ggml.{}_token_id: {} is not among the {} tokens", name, *id,
                             spec.tokens.size());
    }
  }
  return OkStatus();
}

// The tokens that are found in text as they are written.
std::vector<AddedToken> AddedTokensOf(const TokenizerSpec& spec) {
  std::vector<AddedToken> added;
  for (size_t id = 0; id < spec.types.size(); ++id) {
    const TokenType type = spec.types[id];
    const bool is_special = type == TokenType::kControl || type == TokenType::kUnknown;
    if (!is_special && type != TokenType::kUserDefined) continue;
    AddedToken token;
    token.id = static_cast<int32_t>(id);
    token.content = spec.tokens[id];
    token.special = is_special;
    added.push_back(std::move(token));
  }
  return added;
}

StatusOr<SubwordTokenizer::Marks> MarksOf(const TokenizerSpec& spec, bool add_bos_unless_told) {
  SubwordTokenizer::Marks marks{spec.bos_id, spec.eos_id, {}};
  if (spec.add_bos.value_or(add_bos_unless_told && spec.bos_id)) {
    if (!spec.bos_id) {
      return InvalidArgument(
          "tokenizer.ggml.add_bos_token: is true, but there is no tokenizer.ggml.bos_token_id");
    }
    marks.prefix.push_back(*spec.bos_id);
  }
  return marks;
}

StatusOr<std::unique_ptr<Tokenizer>> CreateByteLevelBpe(const TokenizerSpec& spec) {
  // What the names imply beside the cut, as the models' tokenizer.json files have it.
  const std::string& name = spec.pre_tokenizer;
  const bool is_like_llama3 = name.starts_with("llama") || name == "tekken";
  Normalizer normalizer;
  if (name == "qwen2") normalizer = Normalizer([](auto text, bool) { return Nfc(text); });

  TREELINE_ASSIGN_OR_RETURN(PreTokenizer pre_tokenizer, PreTokenizer::FromName(name));
  TREELINE_ASSIGN_OR_RETURN(AddedTokens added_tokens,
                            AddedTokens::Create(AddedTokensOf(spec), normalizer, kTokens));
  std::unordered_set<int32_t> special_ids;
  for (const AddedToken& token : added_tokens.tokens()) {
    if (token.special) special_ids.insert(token.id);
  }
  TREELINE_ASSIGN_OR_RETURN(Bpe bpe, Bpe::FromLists(spec.tokens, spec.merges, special_ids,
                                                    /*ignore_merges=*/is_like_llama3));
  TREELINE_ASSIGN_OR_RETURN(SubwordTokenizer::Marks marks, MarksOf(spec, is_like_llama3));
  std::vector<std::string> token_bytes = bpe.TakeTokenBytes();
  auto result = std::make_unique<SubwordTokenizer>(SubwordTokenizer::Stages{
      .added_tokens = std::move(added_tokens),
      .normalizer = std::move(normalizer),
      .pre_tokenizer = std::move(pre_tokenizer),
      .model = std::move(bpe),
      .token_bytes = std::move(token_bytes),
  });
  result->set_marks(std::move(marks));
  return result;
}

StatusOr<std::unique_ptr<Tokenizer>> CreateSentencePieceBpe(const TokenizerSpec& spec) {
  if (spec.scores.size() != spec.tokens.size()) {
    return InvalidArgument("tokenizer.ggml.scores: has {} entries for {} tokens",
                           spec.scores.size(), spec.tokens.size());
  }
  SentencePieceModel model;
  model.algorithm = SentencePieceModel::Algorithm::kBpe;
  model.byte_fallback = true;
  model.add_dummy_prefix = spec.add_space_prefix.value_or(true);
  model.remove_extra_whitespace = false;
  for (size_t id = 0; id < spec.tokens.size(); ++id) {
    const TokenType type = spec.types.empty() ? TokenType::kNormal : spec.types[id];
    model.pieces.push_back({spec.tokens[id], spec.scores[id], type});
  }
  if (spec.unknown_id) model.pieces[*spec.unknown_id].type = TokenType::kUnknown;
  TREELINE_RETURN_IF_ERROR(CheckPieces(model, kTokens));
  TREELINE_ASSIGN_OR_RETURN(SubwordTokenizer::Marks marks, MarksOf(spec, true));
  TREELINE_ASSIGN_OR_RETURN(auto result,
                            TokenizerFromSentencePiece(std::move(model), AddedTokensOf(spec),
                                                       /*prefix_at_start_only=*/false));
  result->set_marks(std::move(marks));
  return result;
}

}  // namespace

StatusOr<std::unique_ptr<Tokenizer>> CreateTokenizer(const TokenizerSpec& spec) {
  TREELINE_RETURN_IF_ERROR(CheckLists(spec));
  if (spec.model == "gpt2") return CreateByteLevelBpe(spec);
  if (spec.model == "llama") return CreateSentencePieceBpe(spec);
  return InvalidArgument("tokenizer.ggml.model: '{}' is not supported (gpt2 and llama are)",
                         spec.model);
}

}  // namespace treeline
