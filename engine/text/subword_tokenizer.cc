#include "engine/text/subword_tokenizer.h"

#include <type_traits>
#include <utility>

#include "engine/text/tokenizer_json.h"
#include "engine/text/utf8.h"

namespace treeline {
namespace {

// Positions in a text are 32-bit, and marks for spaces make it longer.
constexpr size_t kMaxTextBytes = size_t{256} << 20;

}  // namespace

SubwordTokenizer::SubwordTokenizer(Stages stages) : stages_(std::move(stages)) {
  auto& token_bytes = stages_.token_bytes;
  for (const AddedToken& token : stages_.added_tokens.tokens()) {
    if (token.id >= token_bytes.size()) token_bytes.resize(token.id + 1);
    token_bytes[token.id] = token.content;
    added_ids_.emplace(token.content, token.id);
    if (token.special) special_ids_.insert(token.id);
  }
}

StatusOr<std::vector<int32_t>> SubwordTokenizer::Encode(std::string_view text, bool add_special,
                                                        bool parse_special) const {
  const size_t valid = ValidUtf8Prefix(text);
  if (valid < text.size()) return InvalidArgument("the text is not UTF-8 at byte {}", valid);
  if (text.size() >= kMaxTextBytes) return InvalidArgument("the text has {} bytes", text.size());

  std::vector<int32_t> ids;
  if (add_special) ids = marks_.prefix;
  const auto encode = [&](const auto& model) {
    typename std::decay_t<decltype(model)>::Scratch scratch;
    const auto encode_piece = [&](std::string_view piece) { model.Encode(piece, &scratch, &ids); };
    return stages_.added_tokens.Split(
        text, parse_special, stages_.normalizer, [&](const AddedTokens::Segment& segment) {
          if (segment.token == nullptr) {
            return stages_.pre_tokenizer.Split(segment.text, segment.at_start, encode_piece);
          }
          ids.push_back(segment.token->id);
          return OkStatus();
        });
  };
  TREELINE_RETURN_IF_ERROR(std::visit(encode, stages_.model));
  return ids;
}

std::string_view SubwordTokenizer::TokenBytes(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return {};
  return stages_.token_bytes[id];
}

std::optional<int32_t> SubwordTokenizer::TokenId(std::string_view content) const {
  if (const auto it = added_ids_.find(content); it != added_ids_.end()) return it->second;
  const std::string spelling = ReplaceAll(content, " ", stages_.space_mark);
  return std::visit([&](const auto& model) { return model.Find(spelling); }, stages_.model);
}

namespace {

// The id of a token that tokenizer_config.json names, as text or as an added token.
StatusOr<std::optional<int32_t>> ConfigToken(const Json& config, const std::string& name,
                                             const SubwordTokenizer& tokenizer) {
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
  const std::optional<int32_t> id = tokenizer.TokenId(content);
  if (!id) return InvalidArgument("{}: {} '{}' is not in the vocabulary", where, name, content);
  return id;
}

}  // namespace

Status ApplyConfig(const Json& config, const SubwordTokenizer& tokenizer,
                   SubwordTokenizer::Marks* marks) {
  const std::string where = "tokenizer_config.json";
  TREELINE_RETURN_IF_ERROR(CheckObject(config, where));
  auto& [bos_id, eos_id, prefix] = *marks;
  if (config.contains("bos_token")) {
    TREELINE_ASSIGN_OR_RETURN(bos_id, ConfigToken(config, "bos_token", tokenizer));
  }
  if (config.contains("eos_token")) {
    TREELINE_ASSIGN_OR_RETURN(eos_id, ConfigToken(config, "eos_token", tokenizer));
  }
  // Where it is given, it decides against the prefix so far.
  const bool has_bos_prefix = bos_id && !prefix.empty() && prefix.front() == *bos_id;
  TREELINE_ASSIGN_OR_RETURN(const bool add_bos,
                            BoolMember(config, "add_bos_token", has_bos_prefix, where));
  if (add_bos && !bos_id) {
    return InvalidArgument("{}: add_bos_token is true, but there is no bos_token", where);
  }
  if (add_bos && !has_bos_prefix) prefix.insert(prefix.begin(), *bos_id);
  if (!add_bos && has_bos_prefix) prefix.erase(prefix.begin());
  return OkStatus();
}

}  // namespace treeline
