#include "engine/text/tokenizer_from_sentencepiece.h"

#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>

#include "engine/text/sentencepiece_normalizer.h"

namespace treeline {
namespace {

// Makes the pieces that are special by their added token marks, so that no text becomes one.
Status AdoptSpecialTokens(const std::vector<AddedToken>& added, SentencePieceModel* model) {
  std::unordered_map<std::string_view, size_t> ids;
  for (size_t id = 0; id < model->pieces.size(); ++id) ids.emplace(model->pieces[id].text, id);
  for (const AddedToken& token : added) {
    const bool is_piece = token.id < model->pieces.size();
    const auto it = ids.find(token.content);
    const bool is_known = it != ids.end();
    if (is_known != is_piece || (is_known && it->second != token.id)) {
      return InvalidArgument("the added token '{}' with the id {} contradicts the model's pieces",
                             token.content, token.id);
    }
    if (!is_piece || !token.special || model->pieces[token.id].type == TokenType::kUnknown)
      continue;
    model->pieces[token.id].type = TokenType::kControl;
  }
  return OkStatus();
}

// `added`, and the pieces that are found in text by themselves.
std::vector<AddedToken> AllAddedTokens(const SentencePieceModel& model,
                                       std::vector<AddedToken> added) {
  std::vector<bool> is_added(model.pieces.size());
  for (AddedToken& token : added) {
    token.normalized = false;
    if (token.id < is_added.size()) is_added[token.id] = true;
  }
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const auto& [text, score, type] = model.pieces[id];
    const bool is_special = type == TokenType::kControl || type == TokenType::kUnknown;
    // The unigram algorithm weighs them against other pieces itself.
    const bool is_defined =
        type == TokenType::kUserDefined && model.algorithm == SentencePieceModel::Algorithm::kBpe;
    if (is_added[id] || (!is_special && !is_defined)) continue;
    AddedToken token;
    token.id = static_cast<int32_t>(id);
    token.content = text;
    token.special = is_special;
    token.normalized = is_defined;
    added.push_back(std::move(token));
  }
  return added;
}

std::vector<std::string> TokenBytes(const SentencePieceModel& model) {
  std::vector<std::string> bytes;
  for (const auto& [text, score, type] : model.pieces) {
    bytes.push_back(type == TokenType::kByte ? std::string(1, static_cast<char>(ByteOfPiece(text)))
                                             : ReplaceAll(text, kSpaceMark, " "));
  }
  return bytes;
}

std::optional<int32_t> IdOrNone(int32_t id) {
  return id < 0 ? std::nullopt : std::optional<int32_t>(id);
}

}  // namespace

StatusOr<std::unique_ptr<SubwordTokenizer>> TokenizerFromSentencePiece(
    SentencePieceModel model, std::vector<AddedToken> added, bool prefix_at_start_only) {
  TREELINE_RETURN_IF_ERROR(AdoptSpecialTokens(added, &model));
  TREELINE_ASSIGN_OR_RETURN(Normalizer normalizer,
                            SentencePieceNormalizer(model, prefix_at_start_only));
  // The pieces are spelled in normalized text already.
  TREELINE_ASSIGN_OR_RETURN(AddedTokens added_tokens,
                            AddedTokens::Create(AllAddedTokens(model, std::move(added)),
                                                /*normalizer=*/{}, "added tokens"));
  std::variant<Bpe, Unigram> algorithm = Bpe::FromPieces(model);
  if (model.algorithm == SentencePieceModel::Algorithm::kUnigram) {
    TREELINE_ASSIGN_OR_RETURN(algorithm, Unigram::FromModel(model));
  }
  TREELINE_ASSIGN_OR_RETURN(PreTokenizer no_cut, PreTokenizer::FromJson(nullptr));
  auto result = std::make_unique<SubwordTokenizer>(SubwordTokenizer::Stages{
      .added_tokens = std::move(added_tokens),
      .normalizer = std::move(normalizer),
      .pre_tokenizer = std::move(no_cut),
      .model = std::move(algorithm),
      .token_bytes = TokenBytes(model),
      .space_mark = std::string(kSpaceMark),
      .adds_space_prefix = model.add_dummy_prefix || model.remove_extra_whitespace,
  });
  SubwordTokenizer::Marks marks{IdOrNone(model.bos_id), IdOrNone(model.eos_id), {}};
  if (marks.bos_id) marks.prefix.push_back(*marks.bos_id);
  result->set_marks(std::move(marks));
  return result;
}

}  // namespace treeline
