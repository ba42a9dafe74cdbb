#include "engine/text/tokenizer_from_json.h"

#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "engine/text/added_tokens.h"
#include "engine/text/bpe.h"
#include "engine/text/normalizer.h"
#include "engine/text/pre_tokenizer.h"
#include "engine/text/sentencepiece_model.h"
#include "engine/text/subword_tokenizer.h"
#include "engine/text/tokenizer_json.h"

namespace treeline {
namespace {

Status CheckModelType(const Json& model) {
  const std::string where = "tokenizer.json: model";
  TREELINE_RETURN_IF_ERROR(CheckObject(model, where));
  // The first files of this format, GPT-2's among them, have BPE models without a type.
  if (Member(model, "type").is_null()) return OkStatus();
  TREELINE_ASSIGN_OR_RETURN(const std::string type, StringMember(model, "type", where));
  if (type == "BPE") return OkStatus();
  return InvalidArgument("{}.type: '{}' is not supported; only BPE is", where, type);
}

// The decoder, as far as it is not the inverse of what Encode does anyway.
struct Decoder {
  Bpe::Alphabet alphabet = Bpe::Alphabet::kCharacters;
  std::vector<Replacement> replacements;  // In each token.
  bool strips_space = false;              // The one before the text.
};

Status AppendDecoder(const Json& json, const std::string& where, Decoder* decoder) {
  TREELINE_RETURN_IF_ERROR(CheckObject(json, where));
  TREELINE_ASSIGN_OR_RETURN(const std::string type, StringMember(json, "type", where));
  if (type == "Sequence") {
    const Json& steps = Member(json, "decoders");
    TREELINE_RETURN_IF_ERROR(CheckArray(steps, where + ".decoders"));
    for (size_t i = 0; i < steps.size(); ++i) {
      TREELINE_RETURN_IF_ERROR(
          AppendDecoder(steps[i], fmt::format("{}.decoders[{}]", where, i), decoder));
    }
  } else if (type == "ByteLevel") {
    decoder->alphabet = Bpe::Alphabet::kBytes;
  } else if (type == "Replace") {
    TREELINE_ASSIGN_OR_RETURN(Replacement replacement, ReadReplacement(json, where));
    if (replacement.to.size() > replacement.from.size()) {
      return InvalidArgument("{}: text that becomes longer is not supported", where);
    }
    decoder->replacements.push_back(std::move(replacement));
  } else if (type == "Metaspace") {
    decoder->replacements.push_back({std::string(kSpaceMark), " "});
    TREELINE_ASSIGN_OR_RETURN(const bool adds_prefix,
                              BoolMember(json, "add_prefix_space", true, where));
    decoder->strips_space = adds_prefix && Member(json, "prepend_scheme") != "never";
  } else if (type == "Strip") {
    if (Member(json, "content") != " " || Member(json, "start") != 1 || Member(json, "stop") != 0) {
      return InvalidArgument("{}: only one space at the start can be stripped", where);
    }
    decoder->strips_space = true;
  } else if (type != "ByteFallback" && type != "Fuse") {  // Those two are always done.
    return InvalidArgument(
        "{}: '{}' is not supported (ByteLevel, ByteFallback, Fuse, Metaspace, Replace, Strip and "
        "Sequence are)",
        where, type);
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

// Reads the ids that the post_processor puts before a text; it may do nothing else.
class PrefixReader {
 public:
  explicit PrefixReader(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  Status Read(const Json& post_processor, const std::string& where) {
    if (post_processor.is_null()) return OkStatus();
    TREELINE_RETURN_IF_ERROR(CheckObject(post_processor, where));
    TREELINE_ASSIGN_OR_RETURN(const std::string type, StringMember(post_processor, "type", where));
    if (type == "ByteLevel") return OkStatus();  // Only moves character offsets, unused here.
    if (type == "Sequence") {
      const Json& processors = Member(post_processor, "processors");
      TREELINE_RETURN_IF_ERROR(CheckArray(processors, where + ".processors"));
      for (size_t i = 0; i < processors.size(); ++i) {
        TREELINE_RETURN_IF_ERROR(Read(processors[i], fmt::format("{}.processors[{}]", where, i)));
      }
      return OkStatus();
    }
    if (type != "TemplateProcessing") {
      return InvalidArgument(
          "{}: '{}' is not supported (ByteLevel, TemplateProcessing and Sequence are)", where,
          type);
    }
    return ReadTemplate(post_processor, where);
  }

  const std::vector<int32_t>& prefix() const { return prefix_; }

 private:
  Status ReadTemplate(const Json& processor, const std::string& where) {
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
        if (tokenizer_.TokenBytes(id).empty()) {
          return InvalidArgument("{}.ids: {} is not in the vocabulary", token_where, id);
        }
        prefix.push_back(id);
      }
    }
    if (!text_seen) return InvalidArgument("{}.single: no place for the text", where);
    prefix_.insert(prefix_.begin(), prefix.begin(), prefix.end());
    return OkStatus();
  }

  const Tokenizer& tokenizer_;
  std::vector<int32_t> prefix_;
};

// "▁" to " " and the like, done once instead of at every decoding.
std::vector<std::string> DecodedTokens(std::vector<std::string> tokens, const Decoder& decoder) {
  for (std::string& token : tokens) {
    for (const auto& [from, to] : decoder.replacements) token = ReplaceAll(token, from, to);
  }
  return tokens;
}

}  // namespace

StatusOr<std::unique_ptr<Tokenizer>> TokenizerFromJson(const Json& tokenizer, const Json& config) {
  TREELINE_RETURN_IF_ERROR(CheckObject(tokenizer, "tokenizer.json"));
  const Json& model = Member(tokenizer, "model");
  TREELINE_RETURN_IF_ERROR(CheckModelType(model));
  Decoder decoder;
  TREELINE_RETURN_IF_ERROR(
      AppendDecoder(Member(tokenizer, "decoder"), "tokenizer.json: decoder", &decoder));
  TREELINE_ASSIGN_OR_RETURN(Normalizer normalizer,
                            Normalizer::FromJson(Member(tokenizer, "normalizer")));
  TREELINE_ASSIGN_OR_RETURN(PreTokenizer pre_tokenizer,
                            PreTokenizer::FromJson(Member(tokenizer, "pre_tokenizer")));
  if (pre_tokenizer.is_byte_level() != (decoder.alphabet == Bpe::Alphabet::kBytes)) {
    return InvalidArgument(
        "tokenizer.json: of pre_tokenizer and decoder, one has a ByteLevel step and one has none");
  }
  TREELINE_ASSIGN_OR_RETURN(AddedTokens added_tokens,
                            AddedTokens::FromJson(Member(tokenizer, "added_tokens"), normalizer));
  std::unordered_set<int32_t> special_ids;
  for (const AddedToken& token : added_tokens.tokens()) {
    if (token.special) special_ids.insert(token.id);
  }
  TREELINE_ASSIGN_OR_RETURN(Bpe bpe, Bpe::FromJson(model, special_ids, decoder.alphabet));
  TREELINE_RETURN_IF_ERROR(CheckAgainstVocab(added_tokens, model["vocab"]));

  std::vector<std::string> token_bytes = DecodedTokens(bpe.TakeTokenBytes(), decoder);
  auto result = std::make_unique<SubwordTokenizer>(SubwordTokenizer::Stages{
      .added_tokens = std::move(added_tokens),
      .normalizer = std::move(normalizer),
      .pre_tokenizer = std::move(pre_tokenizer),
      .model = std::move(bpe),
      .token_bytes = std::move(token_bytes),
      .space_mark = std::string(decoder.alphabet == Bpe::Alphabet::kBytes ? " " : kSpaceMark),
      .adds_space_prefix = decoder.strips_space,
  });
  PrefixReader prefix(*result);
  TREELINE_RETURN_IF_ERROR(
      prefix.Read(Member(tokenizer, "post_processor"), "tokenizer.json: post_processor"));
  SubwordTokenizer::Marks marks{.prefix = prefix.prefix()};
  if (!config.is_null()) TREELINE_RETURN_IF_ERROR(ApplyConfig(config, *result, &marks));
  result->set_marks(std::move(marks));
  return result;
}

}  // namespace treeline
