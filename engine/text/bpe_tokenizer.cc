#include "engine/text/bpe_tokenizer.h"

#include <climits>
#include <utility>

#include "engine/text/tokenizer_json.h"
#include "engine/text/utf8.h"

namespace treeline {
namespace {

Status CheckSupported(const Json& tokenizer) {
  const Json& normalizer = Member(tokenizer, "normalizer");
  if (!normalizer.is_null()) {
    const std::string where = "tokenizer.json: normalizer";
    TREELINE_RETURN_IF_ERROR(CheckObject(normalizer, where));
    TREELINE_ASSIGN_OR_RETURN(const std::string type, StringMember(normalizer, "type", where));
    return InvalidArgument("{}: '{}' is not supported; only null is", where, type);
  }
  const Json& decoder = Member(tokenizer, "decoder");
  const std::string where = "tokenizer.json: decoder";
  TREELINE_RETURN_IF_ERROR(CheckObject(decoder, where));
  TREELINE_ASSIGN_OR_RETURN(const std::string type, StringMember(decoder, "type", where));
  if (type != "ByteLevel") {
    return InvalidArgument("{}: '{}' is not supported; only ByteLevel is", where, type);
  }
  return OkStatus();
}

// An added token may repeat a token of the vocabulary, but then id and content must agree.
Status CheckAgainstVocab(const AddedTokens& added_tokens, const Json& vocab) {
  std::unordered_map<int32_t, std::string_view> spellings;
  for (const auto& [spelling, id] : vocab.items()) spellings.emplace(id.get<int32_t>(), spelling);
  for (const AddedToken& token : added_tokens.tokens()) {
    const auto by_id = spellings.find(token.id);
    const auto by_content = vocab.find(token.content);
    const bool is_repeated = by_id != spellings.end() && by_id->second == token.content;
    const bool is_new = by_id == spellings.end() && by_content == vocab.end();
    if (!is_repeated && !is_new) {
      return InvalidArgument(
          "tokenizer.json: added_tokens: '{}' with the id {} contradicts model.vocab",
          token.content, token.id);
    }
  }
  return OkStatus();
}

}  // namespace

StatusOr<std::unique_ptr<BpeTokenizer>> BpeTokenizer::FromJson(const Json& tokenizer,
                                                               const Json& config) {
  TREELINE_RETURN_IF_ERROR(CheckObject(tokenizer, "tokenizer.json"));
  TREELINE_RETURN_IF_ERROR(CheckSupported(tokenizer));
  TREELINE_ASSIGN_OR_RETURN(AddedTokens added_tokens,
                            AddedTokens::FromJson(Member(tokenizer, "added_tokens")));
  std::unordered_set<int32_t> special_ids;
  for (const AddedToken& token : added_tokens.tokens()) {
    if (token.special) special_ids.insert(token.id);
  }
  const Json& model = Member(tokenizer, "model");
  TREELINE_ASSIGN_OR_RETURN(Bpe bpe, Bpe::FromJson(model, special_ids));
  TREELINE_RETURN_IF_ERROR(CheckAgainstVocab(added_tokens, model["vocab"]));
  TREELINE_ASSIGN_OR_RETURN(PreTokenizer pre_tokenizer,
                            PreTokenizer::FromJson(Member(tokenizer, "pre_tokenizer")));

  std::unique_ptr<BpeTokenizer> result(new BpeTokenizer(
      std::move(added_tokens), std::move(special_ids), std::move(bpe), std::move(pre_tokenizer)));
  TREELINE_RETURN_IF_ERROR(
      result->LoadPrefix(Member(tokenizer, "post_processor"), "tokenizer.json: post_processor"));
  if (!config.is_null()) TREELINE_RETURN_IF_ERROR(result->LoadConfig(config));
  return result;
}

BpeTokenizer::BpeTokenizer(AddedTokens added_tokens, std::unordered_set<int32_t> special_ids,
                           Bpe bpe, PreTokenizer pre_tokenizer)
    : added_tokens_(std::move(added_tokens)),
      special_ids_(std::move(special_ids)),
      bpe_(std::move(bpe)),
      pre_tokenizer_(std::move(pre_tokenizer)),
      token_bytes_(bpe_.TakeTokenBytes()) {
  for (const AddedToken& token : added_tokens_.tokens()) {
    if (token.id >= token_bytes_.size()) token_bytes_.resize(token.id + 1);
    token_bytes_[token.id] = token.content;
    added_ids_.emplace(token.content, token.id);
  }
}

Status BpeTokenizer::LoadPrefix(const Json& post_processor, const std::string& where) {
  if (post_processor.is_null()) return OkStatus();
  TREELINE_RETURN_IF_ERROR(CheckObject(post_processor, where));
  TREELINE_ASSIGN_OR_RETURN(const std::string type, StringMember(post_processor, "type", where));
  if (type == "ByteLevel") return OkStatus();  // Only moves character offsets, unused here.
  if (type == "Sequence") {
    const Json& processors = Member(post_processor, "processors");
    TREELINE_RETURN_IF_ERROR(CheckArray(processors, where + ".processors"));
    for (size_t i = 0; i < processors.size(); ++i) {
      TREELINE_RETURN_IF_ERROR(
          LoadPrefix(processors[i], fmt::format("{}.processors[{}]", where, i)));
    }
    return OkStatus();
  }
  if (type != "TemplateProcessing") {
    return InvalidArgument(
        "{}: '{}' is not supported (ByteLevel, TemplateProcessing and Sequence are)", where, type);
  }
  return LoadTemplate(post_processor, where);
}

Status BpeTokenizer::LoadTemplate(const Json& processor, const std::string& where) {
  const Json& pieces = Member(processor, "single");
  TREELINE_RETURN_IF_ERROR(CheckArray(pieces, where + ".single"));
  const Json& special_tokens = Member(processor, "special_tokens");
  TREELINE_RETURN_IF_ERROR(CheckObject(special_tokens, where + ".special_tokens"));
  std::vector<int32_t> prefix;
  bool text_seen = false;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const std::string piece_where = fmt::format("{}.single[{}]", where, i);
    TREELINE_RETURN_IF_ERROR(CheckObject(pieces[i], piece_where));
    if (text_seen) return InvalidArgument("{}: nothing may follow the text", piece_where);
    if (pieces[i].contains("Sequence")) {
      text_seen = true;
      continue;
    }
    const Json& special = Member(pieces[i], "SpecialToken");
    TREELINE_RETURN_IF_ERROR(CheckObject(special, piece_where + ".SpecialToken"));
    TREELINE_ASSIGN_OR_RETURN(const std::string name, StringMember(special, "id", piece_where));
    const std::string token_where = fmt::format("{}.special_tokens['{}']", where, name);
    const Json& token = Member(special_tokens, name);
    TREELINE_RETURN_IF_ERROR(CheckObject(token, token_where));
    const Json& ids = Member(token, "ids");
    TREELINE_RETURN_IF_ERROR(CheckArray(ids, token_where + ".ids"));
    for (const Json& value : ids) {
      TREELINE_ASSIGN_OR_RETURN(const int32_t id, AsTokenId(value, token_where + ".ids"));
      if (TokenBytes(id).empty()) {
        return InvalidArgument("{}.ids: {} is not in the vocabulary", token_where, id);
      }
      prefix.push_back(id);
    }
  }
  if (!text_seen) return InvalidArgument("{}.single: no place for the text", where);
  prefix_.insert(prefix_.begin(), prefix.begin(), prefix.end());
  return OkStatus();
}

Status BpeTokenizer::LoadConfig(const Json& config) {
  const std::string where = "tokenizer_config.json";
  TREELINE_RETURN_IF_ERROR(CheckObject(config, where));
  TREELINE_ASSIGN_OR_RETURN(bos_id_, ConfigToken(config, "bos_token"));
  TREELINE_ASSIGN_OR_RETURN(eos_id_, ConfigToken(config, "eos_token"));

  // Where it is given, it decides against the post_processor.
  const bool has_bos_prefix = bos_id_ && !prefix_.empty() && prefix_.front() == *bos_id_;
  TREELINE_ASSIGN_OR_RETURN(const bool add_bos,
                            BoolMember(config, "add_bos_token", has_bos_prefix, where));
  if (add_bos && !bos_id_) {
    return InvalidArgument("{}: add_bos_token is true, but there is no bos_token", where);
  }
  if (add_bos && !has_bos_prefix) prefix_.insert(prefix_.begin(), *bos_id_);
  if (!add_bos && has_bos_prefix) prefix_.erase(prefix_.begin());
  return OkStatus();
}

StatusOr<std::optional<int32_t>> BpeTokenizer::ConfigToken(const Json& config,
                                                           const std::string& name) const {
  std::string where = "tokenizer_config.json";
  const Json* holder = &config;
  std::string member = name;
  if (Member(config, name).is_null()) return std::nullopt;
  if (Member(config, name).is_object()) {
    holder = &Member(config, name);
    member = "content";
    where += ": " + name;
  }
  TREELINE_ASSIGN_OR_RETURN(const std::string content, StringMember(*holder, member, where));
  const std::optional<int32_t> id = TokenId(content);
  if (!id) return InvalidArgument("{}: {} '{}' is not in the vocabulary", where, name, content);
  return id;
}

StatusOr<std::vector<int32_t>> BpeTokenizer::Encode(std::string_view text, bool add_special,
                                                    bool parse_special) const {
  const size_t valid = ValidUtf8Prefix(text);
  if (valid < text.size()) return InvalidArgument("the text is not UTF-8 at byte {}", valid);
  if (text.size() >= INT32_MAX) return InvalidArgument("the text has {} bytes", text.size());

  std::vector<int32_t> ids;
  if (add_special) ids = prefix_;
  Bpe::Scratch scratch;
  for (const AddedTokens::Segment& segment : added_tokens_.Split(text, parse_special)) {
    if (segment.token != nullptr) {
      ids.push_back(segment.token->id);
      continue;
    }
    TREELINE_RETURN_IF_ERROR(pre_tokenizer_.Split(
        segment.text, [&](std::string_view piece) { bpe_.Encode(piece, &scratch, &ids); }));
  }
  return ids;
}

std::string_view BpeTokenizer::TokenBytes(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return {};
  return token_bytes_[id];
}

std::optional<int32_t> BpeTokenizer::TokenId(std::string_view content) const {
  const auto it = added_ids_.find(content);
  return it != added_ids_.end() ? it->second : bpe_.Find(content);
}

}  // namespace treeline
