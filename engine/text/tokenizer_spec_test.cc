#include "engine/text/tokenizer_spec.h"

#include <gtest/gtest.h>

#include <limits>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/text/sentencepiece_model.h"

namespace treeline {
namespace {

using Ids = std::vector<int32_t>;

const std::string kTestdata = "tests/testdata/tokenizers/";

Json ReadTestdata(const std::string& path) { return ParseJsonFile(kTestdata + path).value(); }

// What a converter to GGUF writes of a model's vocabulary and merges.
TokenizerSpec ByteLevelSpec(const Json& vocab, const std::vector<std::string>& merges,
                            const Json& added_tokens, const std::string& pre_tokenizer) {
  TokenizerSpec spec;
  spec.model = "gpt2";
  spec.pre_tokenizer = pre_tokenizer;
  spec.merges = merges;
  const auto set = [&](size_t id, const std::string& token, TokenType type) {
    if (id >= spec.tokens.size()) {
      spec.tokens.resize(id + 1);
      spec.types.resize(id + 1, TokenType::kUnused);
    }
    spec.tokens[id] = token;
    spec.types[id] = type;
  };
  for (const auto& [token, id] : vocab.items()) set(id, token, TokenType::kNormal);
  for (const Json& token : added_tokens) {
    set(token["id"], token["content"],
        token["special"].get<bool>() ? TokenType::kControl : TokenType::kUserDefined);
  }
  return spec;
}

TokenizerSpec SpecOfJson(const std::string& name, const std::string& pre_tokenizer) {
  const Json json = ReadTestdata(name + "/tokenizer.json");
  std::vector<std::string> merges;
  for (const Json& merge : json["model"]["merges"]) {
    merges.push_back(merge.is_string()
                         ? merge.get<std::string>()
                         : merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  }
  return ByteLevelSpec(json["model"]["vocab"], merges, json["added_tokens"], pre_tokenizer);
}

TokenizerSpec SpecOfPair(const std::string& name, const Json& added_tokens,
                         const std::string& pre_tokenizer) {
  std::istringstream lines(ReadFile(kTestdata + name + "/merges.txt").value());
  std::vector<std::string> merges;
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("#version")) merges.push_back(line);
  }
  return ByteLevelSpec(ReadTestdata(name + "/vocab.json"), merges, added_tokens, pre_tokenizer);
}

TokenizerSpec Gpt2Spec() {
  const Json end_of_text = {{"id", 50256}, {"content", "<|endoftext|>"}, {"special", true}};
  return SpecOfPair("gpt2", Json::array({end_of_text}), "gpt-2");
}

TokenizerSpec Qwen2Spec() {
  const Json config = ReadTestdata("qwen2/tokenizer_config.json");
  Json added_tokens = Json::array();
  for (const auto& [id, token] : config["added_tokens_decoder"].items()) {
    added_tokens.push_back(token);
    added_tokens.back()["id"] = std::stoi(id);
  }
  return SpecOfPair("qwen2", added_tokens, "qwen2");
}

TokenizerSpec SentencePieceSpec() {
  const auto model =
      ParseSentencePieceModel(ReadFile(kTestdata + "sentencepiece/tokenizer.model").value());
  TokenizerSpec spec;
  spec.model = "llama";
  for (const auto& [text, score, type] : model->pieces) {
    spec.tokens.push_back(text);
    spec.scores.push_back(score);
    spec.types.push_back(type);
  }
  spec.bos_id = 1;
  spec.eos_id = 2;
  return spec;
}

// The vectors of the same vocabulary in its other file.
void ExpectVectors(const TokenizerSpec& spec, const std::string& name) {
  const auto tokenizer = CreateTokenizer(spec);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const Json texts = ReadTestdata("texts.json");
  const Json vectors = ReadTestdata(name + "/vectors.json");
  for (size_t i = 0; i < texts.size(); ++i) {
    const std::string text = texts[i];
    const Ids plain = vectors[i]["plain"];
    EXPECT_EQ(*(*tokenizer)->Encode(text, false, false), plain) << text;
    if (!vectors[i].contains("special")) continue;
    EXPECT_EQ(*(*tokenizer)->Encode(text, false, true), vectors[i]["special"].get<Ids>()) << text;
  }
}

TEST(CreateTokenizer, EqualsTheVectorsOfEachModel) {
  ExpectVectors(Gpt2Spec(), "gpt2");
  ExpectVectors(Qwen2Spec(), "qwen2");
  ExpectVectors(SpecOfJson("llama3", "llama-bpe"), "llama3");
  ExpectVectors(SpecOfJson("smollm2", "smollm"), "smollm2");
  ExpectVectors(SentencePieceSpec(), "sentencepiece");
}

TEST(CreateTokenizer, AddsBosAsTheModelImpliesOrTheFileSays) {
  const auto first = [](const TokenizerSpec& spec) {
    return (*CreateTokenizer(spec))->Encode("a", true, false)->front();
  };
  TokenizerSpec llama3 = SpecOfJson("llama3", "llama-bpe");
  llama3.bos_id = 2505;
  EXPECT_EQ(first(llama3), 2505);
  llama3.add_bos = false;
  EXPECT_NE(first(llama3), 2505);
  TokenizerSpec gpt2 = Gpt2Spec();
  gpt2.bos_id = 50256;
  EXPECT_NE(first(gpt2), 50256);
  gpt2.add_bos = true;
  EXPECT_EQ(first(gpt2), 50256);
  TokenizerSpec sentencepiece = SentencePieceSpec();
  EXPECT_EQ(first(sentencepiece), 1);
  sentencepiece.add_bos = false;
  EXPECT_NE(first(sentencepiece), 1);
}

TEST(CreateTokenizer, ReadsBytesMarksAndTheSpacePrefix) {
  const auto tokenizer = *CreateTokenizer(SentencePieceSpec());
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  EXPECT_TRUE(tokenizer->IsSpecial(1));
  EXPECT_TRUE(tokenizer->adds_space_prefix());
  const Ids ids = *tokenizer->Encode("€</s>", false, true);
  EXPECT_EQ(tokenizer->TokenBytes(ids[ids.size() - 2]), "\xAC");
  EXPECT_EQ(ids.back(), 2);
  EXPECT_EQ(tokenizer->Decode(ids, true), "€");

  TokenizerSpec bare = SentencePieceSpec();
  bare.add_space_prefix = false;
  EXPECT_FALSE((*CreateTokenizer(bare))->adds_space_prefix());
  EXPECT_EQ(*(*CreateTokenizer(bare))->Encode(" the", false, false),
            *tokenizer->Encode("the", false, false));
}

TEST(CreateTokenizer, RefusesMalformedFieldsByKey) {
  TokenizerSpec byte_level;
  byte_level.model = "gpt2";
  byte_level.pre_tokenizer = "gpt-2";
  byte_level.tokens = {"a", "b", "ab", "<s>"};
  byte_level.types = {TokenType::kNormal, TokenType::kNormal, TokenType::kNormal,
                      TokenType::kControl};
  byte_level.merges = {"a b"};
  ASSERT_TRUE(CreateTokenizer(byte_level).ok());
  TokenizerSpec pieces = byte_level;
  pieces.model = "llama";
  pieces.scores = {0, 0, 0, 0};
  ASSERT_TRUE(CreateTokenizer(pieces).ok());

  struct Case {
    TokenizerSpec spec;
    void (*change)(TokenizerSpec*);
    const char* error;
  };
  const std::vector<Case> cases = {
      {byte_level, [](TokenizerSpec* s) { s->model = "bert"; },
       "tokenizer.ggml.model: 'bert' is not supported"},
      {byte_level, [](TokenizerSpec* s) { s->pre_tokenizer = ""; },
       "tokenizer.ggml.pre: '' is not known"},
      {byte_level, [](TokenizerSpec* s) { s->tokens.clear(); },
       "tokenizer.ggml.tokens: there are none"},
      {byte_level, [](TokenizerSpec* s) { s->types.pop_back(); },
       "tokenizer.ggml.token_type: has 3 entries for 4 tokens"},
      {byte_level, [](TokenizerSpec* s) { s->types[1] = static_cast<TokenType>(9); },
       "tokenizer.ggml.token_type[1]: 9 is no type"},
      {byte_level, [](TokenizerSpec* s) { s->bos_id = 4; },
       "tokenizer.ggml.bos_token_id: 4 is not among the 4 tokens"},
      {byte_level, [](TokenizerSpec* s) { s->eos_id = -1; }, "tokenizer.ggml.eos_token_id: -1"},
      {byte_level, [](TokenizerSpec* s) { s->add_bos = true; }, "tokenizer.ggml.add_bos_token"},
      {byte_level, [](TokenizerSpec* s) { s->merges = {"a x"}; },
       "tokenizer.ggml.merges[0]: 'x' is not in the vocabulary"},
      {byte_level, [](TokenizerSpec* s) { s->merges = {"ab"}; },
       "tokenizer.ggml.merges[0]: expected"},
      {byte_level, [](TokenizerSpec* s) { s->types[2] = TokenType::kControl; },
       "tokenizer.ggml.merges[0]: makes the special token 'ab'"},
      {byte_level, [](TokenizerSpec* s) { s->types[0] = TokenType::kControl; },
       "tokenizer.ggml.tokens[0]: the special token 'a' is a byte"},
      {byte_level, [](TokenizerSpec* s) { s->tokens[3] = ""; }, "0 bytes long"},
      {pieces, [](TokenizerSpec* s) { s->scores.pop_back(); },
       "tokenizer.ggml.scores: has 3 entries for 4 tokens"},
      {pieces, [](TokenizerSpec* s) { s->scores[0] = std::numeric_limits<float>::infinity(); },
       "tokenizer.ggml.tokens[0]: the score is not finite"},
      {pieces, [](TokenizerSpec* s) { s->tokens[1] = "a"; },
       "tokenizer.ggml.tokens[1]: 'a' was given before"},
      {pieces, [](TokenizerSpec* s) { s->types[0] = TokenType::kByte; },
       "tokenizer.ggml.tokens[0]: 'a' spells no byte"},
      {pieces, [](TokenizerSpec* s) { s->unknown_id = 7; }, "tokenizer.ggml.unknown_token_id: 7"},
  };
  for (const auto& [base, change, error] : cases) {
    TokenizerSpec spec = base;
    change(&spec);
    const Status status = CreateTokenizer(spec).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << error;
    EXPECT_NE(Message(status).find(error), std::string::npos) << error << ": " << status;
  }
}

}  // namespace
}  // namespace treeline
