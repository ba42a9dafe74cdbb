#include "engine/text/tokenizer.h"

#include <algorithm>
#include <utility>

#include "engine/base/file.h"
#include "engine/text/bpe_tokenizer.h"
#include "engine/text/tokenizer_json.h"
#include "engine/text/utf8.h"

namespace treeline {
namespace {

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

// GPT-2's vocab.json and merges.txt leave the rest of the tokenizer to the code that reads them.
StatusOr<std::unique_ptr<Tokenizer>> LoadGpt2Pair(const std::string& model_dir, Json config) {
  constexpr char kEndOfText[] = "<|endoftext|>";
  TREELINE_ASSIGN_OR_RETURN(Json vocab, ParseJsonFile(model_dir + "/vocab.json"));
  TREELINE_ASSIGN_OR_RETURN(const std::string merges, ReadFile(model_dir + "/merges.txt"));
  if (config.is_null()) config = Json::object();
  TREELINE_RETURN_IF_ERROR(CheckObject(config, "tokenizer_config.json"));
  const Json& tokenizer_class = Member(config, "tokenizer_class");
  if (!tokenizer_class.is_null() && tokenizer_class != "GPT2Tokenizer" &&
      tokenizer_class != "GPT2TokenizerFast") {
    return InvalidArgument(
        "tokenizer_config.json: vocab.json and merges.txt alone are enough for a GPT2Tokenizer "
        "only; save this model's tokenizer.json beside them");
  }
  TREELINE_ASSIGN_OR_RETURN(const bool add_prefix_space,
                            BoolMember(config, "add_prefix_space", false, "tokenizer_config.json"));

  Json added_tokens = Json::array();
  if (vocab.contains(kEndOfText)) {
    added_tokens.push_back({{"id", vocab[kEndOfText]}, {"content", kEndOfText}, {"special", true}});
    for (const char* name : {"bos_token", "eos_token"}) {
      if (!config.contains(name)) config[name] = kEndOfText;
    }
  }
  const Json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", add_prefix_space}};
  const Json tokenizer = {
      {"added_tokens", added_tokens},
      {"pre_tokenizer", byte_level},
      {"decoder", byte_level},
      {"model", {{"type", "BPE"}, {"vocab", std::move(vocab)}, {"merges", MergesOfText(merges)}}},
  };
  return Tokenizer::FromJson(tokenizer, config);
}

StatusOr<std::unique_ptr<Tokenizer>> LoadAnyLayout(const std::string& model_dir) {
  Json config;
  if (const std::string path = model_dir + "/tokenizer_config.json"; FileExists(path)) {
    TREELINE_ASSIGN_OR_RETURN(config, ParseJsonFile(path));
  }
  if (const std::string path = model_dir + "/tokenizer.json"; FileExists(path)) {
    TREELINE_ASSIGN_OR_RETURN(const Json tokenizer, ParseJsonFile(path));
    return Tokenizer::FromJson(tokenizer, config);
  }
  if (FileExists(model_dir + "/vocab.json") && FileExists(model_dir + "/merges.txt")) {
    return LoadGpt2Pair(model_dir, std::move(config));
  }
  return NotFound("no tokenizer.json, and no vocab.json with merges.txt");
}

}  // namespace

StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& model_dir) {
  auto tokenizer = LoadAnyLayout(model_dir);
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), model_dir);
  return tokenizer;
}

StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(const Json& tokenizer,
                                                         const Json& config) {
  TREELINE_RETURN_IF_ERROR(CheckObject(tokenizer, "tokenizer.json"));
  const std::string where = "tokenizer.json: model";
  const Json& model = Member(tokenizer, "model");
  TREELINE_RETURN_IF_ERROR(CheckObject(model, where));
  // The first files of this format, GPT-2's among them, have BPE models without a type.
  if (!Member(model, "type").is_null()) {
    TREELINE_ASSIGN_OR_RETURN(const std::string type, StringMember(model, "type", where));
    if (type != "BPE") {
      return InvalidArgument("{}.type: '{}' is not supported; only BPE is", where, type);
    }
  }
  return BpeTokenizer::FromJson(tokenizer, config);
}

std::string Tokenizer::Decode(const std::vector<int32_t>& ids, bool skip_special) const {
  std::string bytes;
  for (const int32_t id : ids) {
    if (!skip_special || !IsSpecial(id)) bytes.append(TokenBytes(id));
  }
  std::string text;
  DrainUtf8(&bytes, &text);
  if (!bytes.empty()) text.append(kReplacementCharacter);
  return text;
}

}  // namespace treeline
