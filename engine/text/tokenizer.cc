#include "engine/text/tokenizer.h"

#include <algorithm>
#include <map>
#include <utility>

#include "engine/base/file.h"
#include "engine/text/added_tokens.h"
#include "engine/text/pre_tokenizer.h"
#include "engine/text/sentencepiece_model.h"
#include "engine/text/subword_tokenizer.h"
#include "engine/text/tokenizer_from_json.h"
#include "engine/text/tokenizer_from_sentencepiece.h"
#include "engine/text/tokenizer_json.h"
#include "engine/text/utf8.h"

namespace treeline {
namespace {

const std::string kConfig = "tokenizer_config.json";

// The lines of merges.txt as tokenizer.json's "merges".
Json MergesOfText(std::string_view text) {
  Json merges = Json::array();
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || line.starts_with("#version")) continue;
    merges.push_back(line);
  }
  return merges;
}

// The added tokens that tokenizer_config.json and added_tokens.json tell of, each by its id.
StatusOr<std::map<int32_t, AddedToken>> ReadAddedTokens(const std::string& model_dir,
                                                        const Json& config) {
  std::map<int32_t, AddedToken> tokens;
  if (const std::string path = model_dir + "/added_tokens.json"; FileExists(path)) {
    TREELINE_ASSIGN_OR_RETURN(const Json json, ParseJsonFile(path));
    TREELINE_RETURN_IF_ERROR(CheckObject(json, "added_tokens.json"));
    for (const auto& [content, value] : json.items()) {
      AddedToken token;
      token.content = content;
      TREELINE_ASSIGN_OR_RETURN(token.id,
                                AsTokenId(value, fmt::format("added_tokens.json['{}']", content)));
      tokens.insert_or_assign(token.id, std::move(token));
    }
  }
  const Json& decoder = Member(config, "added_tokens_decoder");
  if (decoder.is_null()) return tokens;
  TREELINE_RETURN_IF_ERROR(CheckObject(decoder, kConfig + ".added_tokens_decoder"));
  for (const auto& [key, value] : decoder.items()) {
    const std::string where = fmt::format("{}.added_tokens_decoder['{}']", kConfig, key);
    TREELINE_ASSIGN_OR_RETURN(const Json id, ParseJson(key, where));
    TREELINE_ASSIGN_OR_RETURN(AddedToken token, ReadAddedToken(value, where));
    TREELINE_ASSIGN_OR_RETURN(token.id, AsTokenId(id, where));
    tokens.insert_or_assign(token.id, std::move(token));
  }
  return tokens;
}

// As tokenizer.json has them.
Json JsonOf(const std::map<int32_t, AddedToken>& tokens) {
  Json result = Json::array();
  for (const auto& [id, token] : tokens) {
    result.push_back({{"id", id},
                      {"content", token.content},
                      {"special", token.special},
                      {"lstrip", token.lstrip},
                      {"rstrip", token.rstrip},
                      {"normalized", token.normalized}});
  }
  return result;
}

// vocab.json and merges.txt leave the rest of the tokenizer to the code that reads them, that of
// GPT-2 or of Qwen2.
StatusOr<std::unique_ptr<Tokenizer>> LoadVocabAndMerges(const std::string& model_dir, Json config) {
  constexpr char kEndOfText[] = "<|endoftext|>";
  TREELINE_ASSIGN_OR_RETURN(Json vocab, ParseJsonFile(model_dir + "/vocab.json"));
  TREELINE_ASSIGN_OR_RETURN(const std::string merges, ReadFile(model_dir + "/merges.txt"));
  TREELINE_RETURN_IF_ERROR(CheckObject(vocab, "vocab.json"));
  const Json& tokenizer_class = Member(config, "tokenizer_class");
  const bool is_qwen2 =
      tokenizer_class == "Qwen2Tokenizer" || tokenizer_class == "Qwen2TokenizerFast";
  if (!is_qwen2 && !tokenizer_class.is_null() && tokenizer_class != "GPT2Tokenizer" &&
      tokenizer_class != "GPT2TokenizerFast") {
    return InvalidArgument(
        "{}: vocab.json and merges.txt alone are enough for a GPT2Tokenizer or a Qwen2Tokenizer "
        "only; save this model's tokenizer.json beside them",
        kConfig);
  }
  TREELINE_ASSIGN_OR_RETURN(const bool add_prefix_space,
                            BoolMember(config, "add_prefix_space", false, kConfig));
  TREELINE_ASSIGN_OR_RETURN(const auto added_tokens, ReadAddedTokens(model_dir, config));
  Json added = JsonOf(added_tokens);
  if (!is_qwen2 && vocab.contains(kEndOfText)) {
    if (added.empty()) {
      added.push_back({{"id", vocab[kEndOfText]}, {"content", kEndOfText}, {"special", true}});
    }
    for (const char* name : {"bos_token", "eos_token"}) {
      if (!config.contains(name)) config[name] = kEndOfText;
    }
  }
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", add_prefix_space}, {"use_regex", !is_qwen2}};
  Json tokenizer = {
      {"added_tokens", std::move(added)},
      {"pre_tokenizer", byte_level},
      {"decoder", byte_level},
      {"model", {{"type", "BPE"}, {"vocab", std::move(vocab)}, {"merges", MergesOfText(merges)}}},
  };
  if (is_qwen2) {
    const Json split = {
        {"type", "Split"}, {"pattern", {{"Regex", kQwen2Pattern}}}, {"behavior", "Isolated"}};
    tokenizer["normalizer"] = {{"type", "NFC"}};
    tokenizer["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {split, byte_level}}};
  }
  return Tokenizer::FromJson(tokenizer, config);
}

StatusOr<std::unique_ptr<Tokenizer>> LoadSentencePiece(const std::string& model_dir,
                                                       const Json& config) {
  TREELINE_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(model_dir + "/tokenizer.model"));
  auto model = ParseSentencePieceModel(bytes);
  if (!model.ok()) return Annotate(model.status(), "tokenizer.model");
  TREELINE_ASSIGN_OR_RETURN(auto added_by_id, ReadAddedTokens(model_dir, config));
  std::vector<AddedToken> added;
  for (auto& [id, token] : added_by_id) added.push_back(std::move(token));
  // Hugging Face's name for a space before every part of a text, not the first alone.
  TREELINE_ASSIGN_OR_RETURN(const bool legacy, BoolMember(config, "legacy", true, kConfig));
  auto tokenizer = TokenizerFromSentencePiece(*std::move(model), std::move(added), !legacy);
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), "tokenizer.model");
  SubwordTokenizer::Marks marks = (*tokenizer)->marks();
  TREELINE_RETURN_IF_ERROR(ApplyConfig(config, **tokenizer, &marks));
  (*tokenizer)->set_marks(std::move(marks));
  return tokenizer;
}

StatusOr<std::unique_ptr<Tokenizer>> LoadAnyLayout(const std::string& model_dir) {
  Json config = Json::object();
  if (const std::string path = model_dir + "/tokenizer_config.json"; FileExists(path)) {
    TREELINE_ASSIGN_OR_RETURN(config, ParseJsonFile(path));
    TREELINE_RETURN_IF_ERROR(CheckObject(config, kConfig));
  }
  if (const std::string path = model_dir + "/tokenizer.json"; FileExists(path)) {
    TREELINE_ASSIGN_OR_RETURN(const Json tokenizer, ParseJsonFile(path));
    return Tokenizer::FromJson(tokenizer, config);
  }
  if (FileExists(model_dir + "/tokenizer.model")) return LoadSentencePiece(model_dir, config);
  if (FileExists(model_dir + "/vocab.json") && FileExists(model_dir + "/merges.txt")) {
    return LoadVocabAndMerges(model_dir, std::move(config));
  }
  return NotFound("no tokenizer.json, no tokenizer.model, and no vocab.json with merges.txt");
}

}  // namespace

StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& model_dir) {
  auto tokenizer = LoadAnyLayout(model_dir);
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), model_dir);
  return tokenizer;
}

StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(const Json& tokenizer,
                                                         const Json& config) {
  return TokenizerFromJson(tokenizer, config);
}

std::string Tokenizer::Decode(const std::vector<int32_t>& ids, bool skip_special) const {
  std::string bytes;
  for (const int32_t id : ids) {
    if (!skip_special || !IsSpecial(id)) bytes.append(TokenBytes(id));
  }
  if (adds_space_prefix() && bytes.starts_with(' ')) bytes.erase(0, 1);
  std::string text;
  DrainUtf8(&bytes, &text);
  if (!bytes.empty()) text.append(kReplacementCharacter);
  return text;
}

}  // namespace treeline
