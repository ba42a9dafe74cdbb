#include "engine/text/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/base/json.h"
#include "engine/text/utf8.h"

namespace treeline {
namespace {

using Ids = std::vector<int32_t>;

constexpr char kTestdata[] = "tests/testdata/tokenizers/";

const Tokenizer& Load(const std::string& name) {
  static auto& loaded = *new std::map<std::string, std::unique_ptr<Tokenizer>>();
  auto& tokenizer = loaded[name];
  if (tokenizer == nullptr) {
    auto result = Tokenizer::Load(kTestdata + name);
    TREELINE_CHECK(result.ok(), "{}", Message(result.status()));
    tokenizer = *std::move(result);
  }
  return *tokenizer;
}

Json ReadTestdata(const std::string& path) {
  auto json = ParseJsonFile(kTestdata + path);
  TREELINE_CHECK(json.ok(), "{}", Message(json.status()));
  return *std::move(json);
}

// A tokenizer.json with the bytes a to e, "ab", "abc" and two special tokens.
Json SmallTokenizer() {
  return Json::parse(R"({
    "added_tokens": [{"id": 7, "content": "<s>", "special": true},
                     {"id": 8, "content": "</s>", "special": true}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
    "post_processor": null,
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE",
              "vocab": {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4, "ab": 5, "abc": 6},
              "merges": ["a b", "ab c"]}
  })");
}

Json BosTemplate() {
  return Json::parse(R"({
    "type": "Sequence",
    "processors": [
      {"type": "ByteLevel"},
      {"type": "TemplateProcessing",
       "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A"}}],
       "special_tokens": {"<s>": {"id": "<s>", "ids": [7], "tokens": ["<s>"]}}}]
  })");
}

std::unique_ptr<Tokenizer> Build(const Json& tokenizer, const Json& config = nullptr) {
  auto result = Tokenizer::FromJson(tokenizer, config);
  TREELINE_CHECK(result.ok(), "{}", Message(result.status()));
  return *std::move(result);
}

std::string ErrorOf(const Json& tokenizer, const Json& config = nullptr) {
  const Status status = Tokenizer::FromJson(tokenizer, config).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << status;
  return Message(status);
}

class AnyTokenizer : public testing::TestWithParam<const char*> {
 protected:
  const std::string name_ = GetParam();
  const Tokenizer& tokenizer_ = Load(name_);
};

// Those that give a text back as it was: not Qwen2's normal form, not
// Mistral's way with a space at the start, not SentencePiece's with others.
class FaithfulTokenizer : public AnyTokenizer {};
// Those with llama.cpp's vectors.
class RealTokenizer : public AnyTokenizer {};

TEST_P(RealTokenizer, EqualsLlamaCppVectors) {
  const Json cases = ReadTestdata(name_ + "/test_vectors.json")["cases"];
  ASSERT_EQ(cases.size(), 46);
  for (const Json& c : cases) {
    const std::string text = c["text"];
    EXPECT_EQ(*tokenizer_.Encode(text, false, false), c["ids"].get<Ids>()) << text;
  }
}

// Those of Hugging Face's tokenizers, and of sentencepiece for a tokenizer.model.
TEST_P(AnyTokenizer, EqualsVectors) {
  const Json texts = ReadTestdata("texts.json");
  const Json vectors = ReadTestdata(name_ + "/vectors.json");
  ASSERT_GE(vectors.size(), texts.size());
  for (size_t i = 0; i < vectors.size(); ++i) {
    const std::string text = i < texts.size() ? texts[i] : vectors[i]["text"];
    const Ids plain = vectors[i]["plain"];
    EXPECT_EQ(*tokenizer_.Encode(text, false, false), plain) << text;
    if (vectors[i].contains("special")) {
      EXPECT_EQ(*tokenizer_.Encode(text, false, true), vectors[i]["special"].get<Ids>()) << text;
    }
    if (vectors[i].contains("decoded")) {
      EXPECT_EQ(tokenizer_.Decode(plain, true), vectors[i]["decoded"].get<std::string>());
    }
  }
}

TEST_P(FaithfulTokenizer, DecodesWhatItEncodes) {
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (int length = random() % 40; length > 0; --length) {
      const char32_t limits[] = {0x80, 0x800, 0x10000, 0x110000};
      const char32_t c = random() % limits[random() % 4];
      // SmolLM2's vocabulary lacks some control bytes and the lead bytes of empty planes.
      const bool in_vocabulary = c >= 0x20 && c != 0x7F && c < 0x40000;
      if (in_vocabulary && (c < 0xD800 || c > 0xDFFF)) AppendUtf8(c, &text);
    }
    const Ids ids = *tokenizer_.Encode(text, false, false);
    EXPECT_EQ(tokenizer_.Decode(ids, true), text);
  }
}

TEST_P(FaithfulTokenizer, TextNeverForgesASpecialToken) {
  std::string text;
  for (int32_t id = 0; id < tokenizer_.vocab_size(); ++id) {
    if (tokenizer_.IsSpecial(id)) text.append(tokenizer_.TokenBytes(id)).append(" ");
  }
  ASSERT_FALSE(text.empty());
  const Ids plain = *tokenizer_.Encode(text, false, false);
  EXPECT_EQ(tokenizer_.Decode(plain, true), text);
  for (int32_t id : plain) EXPECT_FALSE(tokenizer_.IsSpecial(id));
  const Ids parsed = *tokenizer_.Encode(text, false, true);
  EXPECT_TRUE(tokenizer_.IsSpecial(parsed[0]));
}

TEST_P(AnyTokenizer, RefusesTextThatIsNotUtf8) {
  const Status status = tokenizer_.Encode("ab\xFF", false, false).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(Message(status), "the text is not UTF-8 at byte 2");
}

// Each would take hours if the cost per byte grew with the text.
TEST_P(AnyTokenizer, LongTextsStayCheap) {
  for (const char* unit : {"a", " ", "\n", "qzx", "<|im_start|", "é", "0"}) {
    std::string text;
    while (text.size() < 1 << 20) text += unit;
    auto ids = tokenizer_.Encode(text, false, true);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_LE(ids->size(), text.size() + 1);
  }
}

TEST_P(FaithfulTokenizer, LongTextsComeBack) {
  for (const char* unit : {"a", " ", "\n", "qzx", "é", "0", "日"}) {
    std::string text;
    while (text.size() < 1 << 20) text += unit;
    EXPECT_EQ(tokenizer_.Decode(*tokenizer_.Encode(text, false, true), false), text);
  }
}

std::string FolderName(const testing::TestParamInfo<const char*>& info) { return info.param; }

INSTANTIATE_TEST_SUITE_P(LlamaCpp, RealTokenizer, testing::Values("smollm2", "gpt2"), FolderName);
INSTANTIATE_TEST_SUITE_P(All, AnyTokenizer,
                         testing::Values("smollm2", "gpt2", "llama3", "qwen2", "llama2", "mistral",
                                         "sentencepiece", "unigram"),
                         FolderName);
INSTANTIATE_TEST_SUITE_P(Faithful, FaithfulTokenizer,
                         testing::Values("smollm2", "gpt2", "llama3", "llama2", "sentencepiece"),
                         FolderName);

TEST(Tokenizer, KnowsItsTokens) {
  const Tokenizer& smollm2 = Load("smollm2");
  EXPECT_EQ(smollm2.vocab_size(), 49152);
  EXPECT_EQ(smollm2.TokenId("<|im_end|>"), 2);
  EXPECT_EQ(smollm2.TokenBytes(2), "<|im_end|>");
  EXPECT_TRUE(smollm2.IsSpecial(2));
  EXPECT_EQ(smollm2.TokenId(" Hello"), 38699);  // "ĠHello" in the file.
  EXPECT_EQ(smollm2.TokenBytes(38699), " Hello");
  EXPECT_FALSE(smollm2.IsSpecial(38699));
  EXPECT_EQ(smollm2.TokenId("no such token"), std::nullopt);
  for (int32_t id : {-1, 49152, INT32_MAX, INT32_MIN}) {
    EXPECT_EQ(smollm2.TokenBytes(id), "");
    EXPECT_FALSE(smollm2.IsSpecial(id));
  }
  EXPECT_EQ(smollm2.bos_id(), std::nullopt);  // There is no tokenizer_config.json.

  const Tokenizer& gpt2 = Load("gpt2");
  EXPECT_EQ(gpt2.vocab_size(), 50257);
  EXPECT_EQ(gpt2.bos_id(), 50256);
  EXPECT_EQ(gpt2.eos_id(), 50256);
}

TEST(Tokenizer, DecodeReplacesBrokenCharactersAndSkipsSpecialTokens) {
  const Tokenizer& gpt2 = Load("gpt2");
  const Ids llama = *gpt2.Encode("🦙", false, false);
  ASSERT_GT(llama.size(), 1);
  EXPECT_EQ(gpt2.Decode({llama[0]}, false), "\uFFFD");
  EXPECT_EQ(gpt2.Decode({llama[0], 50256}, false), "\uFFFD<|endoftext|>");
  EXPECT_EQ(gpt2.Decode({50256, llama[0], 50256}, true), "\uFFFD");
  EXPECT_EQ(gpt2.Decode({-1, 999999}, false), "");
}

TEST(Tokenizer, AddsThePrefixOfItsTemplate) {
  Json json = SmallTokenizer();
  json["post_processor"] = BosTemplate();
  const auto tokenizer = Build(json);
  EXPECT_EQ(*tokenizer->Encode("abcd", true, false), (Ids{7, 6, 3}));
  EXPECT_EQ(*tokenizer->Encode("abcd", false, false), (Ids{6, 3}));
  EXPECT_EQ(*tokenizer->Encode("", true, false), (Ids{7}));
  EXPECT_EQ(*tokenizer->Encode("a<s>b", true, true), (Ids{7, 0, 7, 1}));
}

TEST(Tokenizer, LetsTheConfigDecideOnBos) {
  const Json plain = SmallTokenizer();
  Json with_template = plain;
  with_template["post_processor"] = BosTemplate();
  const auto encode = [](const Json& json, const char* config) {
    return *Build(json, Json::parse(config))->Encode("a", true, false);
  };
  EXPECT_EQ(encode(plain, R"({"bos_token": "<s>"})"), (Ids{0}));
  EXPECT_EQ(encode(plain, R"({"bos_token": "<s>", "add_bos_token": true})"), (Ids{7, 0}));
  EXPECT_EQ(encode(with_template, R"({"bos_token": "<s>"})"), (Ids{7, 0}));
  EXPECT_EQ(encode(with_template, R"({"bos_token": "<s>", "add_bos_token": true})"), (Ids{7, 0}));
  EXPECT_EQ(encode(with_template, R"({"bos_token": "<s>", "add_bos_token": false})"), (Ids{0}));
}

TEST(Tokenizer, ReadsBosAndEosFromTheConfig) {
  const auto tokenizer = Build(SmallTokenizer(), Json::parse(R"({"bos_token": "<s>",
                                              "eos_token": {"content": "</s>", "lstrip": false}})"));
  EXPECT_EQ(tokenizer->bos_id(), 7);
  EXPECT_EQ(tokenizer->eos_id(), 8);
  EXPECT_EQ(Build(SmallTokenizer(), Json::parse(R"({"bos_token": null})"))->bos_id(), std::nullopt);
}

TEST(Tokenizer, FindsAddedTokensThatAreNotSpecialInAnyText) {
  Json json = SmallTokenizer();
  json["added_tokens"].push_back({{"id", 9}, {"content", "e e"}, {"special", false}});
  const auto tokenizer = Build(json);
  EXPECT_EQ(*tokenizer->Encode("de e", false, false), (Ids{3, 9}));
  EXPECT_EQ(tokenizer->vocab_size(), 10);
}

TEST(Tokenizer, RefusesMalformedFilesByField) {
  struct Case {
    const char* patch;  // Merged into the small tokenizer.json.
    const char* error;
  };
  const std::vector<Case> cases = {
      {R"({"model": null})", "tokenizer.json: model: expected an object, found null"},
      {R"({"model": []})", "tokenizer.json: model: expected an object, found array"},
      {R"({"model": {"type": "Unigram"}})", "model.type: 'Unigram' is not supported"},
      {R"({"model": {"type": 1}})", "model.type: expected a string"},
      {R"({"model": {"vocab": {"a": 5000000}}})", "model.vocab['a']: token id 5000000 is larger"},
      {R"({"model": {"merges": null}})", "model.merges: expected an array"},
      {R"({"normalizer": {"type": "NFKC"}})",
       "tokenizer.json: normalizer: 'NFKC' is not supported"},
      {R"({"normalizer": "NFC"})", "tokenizer.json: normalizer: expected an object"},
      {R"({"pre_tokenizer": null})", "of pre_tokenizer and decoder, one has a ByteLevel step"},
      {R"({"pre_tokenizer": []})", "tokenizer.json: pre_tokenizer: expected an object"},
      {R"({"decoder": null})", "tokenizer.json: decoder: expected an object"},
      {R"({"decoder": {"type": "WordPiece"}})", "decoder: 'WordPiece' is not supported"},
      {R"({"decoder": {"type": "Sequence"}})", "decoder.decoders: expected an array"},
      {R"({"decoder": {"type": "Sequence", "decoders": [1]}})",
       "decoder.decoders[0]: expected an object"},
      {R"({"decoder": {"type": "Strip", "content": "x", "start": 1, "stop": 0}})",
       "decoder: only one space at the start"},
      {R"({"decoder": {"type": "Replace", "pattern": {"String": "a"}, "content": "bb"}})",
       "decoder: text that becomes longer"},
      {R"({"decoder": {"type": "Replace", "pattern": {"Regex": "a"}, "content": "b"}})",
       "decoder.pattern.String: expected a string"},
      {R"({"post_processor": {"type": "BertProcessing"}})",
       "post_processor: 'BertProcessing' is not supported"},
      {R"({"post_processor": {"type": "Sequence", "processors": 1}})",
       "post_processor.processors: expected an array"},
      {R"({"post_processor": {"type": "TemplateProcessing"}})",
       "post_processor.single: expected an array"},
      {R"({"added_tokens": {}})", "tokenizer.json: added_tokens: expected an array"},
      {R"({"added_tokens": [{"id": 3, "content": "x"}]})", "'x' with the id 3 contradicts"},
      {R"({"added_tokens": [{"id": 9, "content": "d"}]})", "'d' with the id 9 contradicts"},
      {R"({"added_tokens": [{"id": 5, "content": "ab", "special": true}]})",
       "merges[0]: makes the special token 'ab'"},
  };
  for (const Case& c : cases) {
    Json bad = SmallTokenizer();
    bad.merge_patch(Json::parse(c.patch));
    EXPECT_NE(ErrorOf(bad).find(c.error), std::string::npos) << c.patch << ": " << ErrorOf(bad);
  }
  EXPECT_EQ(ErrorOf(nullptr), "tokenizer.json: expected an object, found null");
}

TEST(Tokenizer, RefusesMalformedTemplatesByField) {
  struct Case {
    const char* pointer;
    const char* value;
    const char* error;
  };
  const std::vector<Case> cases = {
      {"/single/0", "1", "single[0]: expected an object"},
      {"/single/0", R"({"SpecialToken": 1})", "single[0].SpecialToken: expected an object"},
      {"/single/0", R"({"SpecialToken": {"id": "x"}})", "special_tokens['x']: expected an object"},
      {"/single/1", R"({"SpecialToken": {"id": "<s>"}})", "single: no place for the text"},
      {"/single/2", R"({"SpecialToken": {"id": "<s>"}})", "single[2]: nothing may follow the text"},
      {"/special_tokens", "[]", "special_tokens: expected an object"},
      {"/special_tokens/<s>/ids", "7", "special_tokens['<s>'].ids: expected an array"},
      {"/special_tokens/<s>/ids", "[-7]", "special_tokens['<s>'].ids: expected a token id"},
      {"/special_tokens/<s>/ids", "[9]", "special_tokens['<s>'].ids: 9 is not in the vocabulary"},
  };
  for (const Case& c : cases) {
    Json bad = SmallTokenizer();
    Json processor = BosTemplate()["processors"][1];
    processor[Json::json_pointer(c.pointer)] = Json::parse(c.value);
    bad["post_processor"] = processor;
    EXPECT_NE(ErrorOf(bad).find(c.error), std::string::npos) << c.value << ": " << ErrorOf(bad);
  }
}

TEST(Tokenizer, RefusesMalformedConfigsByField) {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {"[]", "tokenizer_config.json: expected an object"},
      {R"({"bos_token": 1})", "tokenizer_config.json.bos_token: expected a string"},
      {R"({"eos_token": {}})", "tokenizer_config.json: eos_token.content: expected a string"},
      {R"({"eos_token": "<eos>"})", "eos_token '<eos>' is not in the vocabulary"},
      {R"({"add_bos_token": "yes"})", "tokenizer_config.json.add_bos_token: expected a boolean"},
      {R"({"add_bos_token": true})", "add_bos_token is true, but there is no bos_token"},
  };
  for (const auto& [config, error] : cases) {
    const std::string message = ErrorOf(SmallTokenizer(), Json::parse(config));
    EXPECT_NE(message.find(error), std::string::npos) << config << ": " << message;
  }
}

class TokenizerFolder : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(path_); }
  void TearDown() override { std::filesystem::remove_all(path_); }
  void Write(const std::string& name, const std::string& text) {
    std::ofstream(path_ + "/" + name) << text;
  }
  std::string ErrorOf() { return std::string(Tokenizer::Load(path_).status().message()); }

  const std::string path_ = testing::TempDir() + "/tokenizer_test_folder";
};

TEST_F(TokenizerFolder, ReadsBothFiles) {
  Write("tokenizer.json", SmallTokenizer().dump());
  Write("tokenizer_config.json", R"({"bos_token": "<s>", "add_bos_token": true})");
  auto tokenizer = Tokenizer::Load(path_);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(*(*tokenizer)->Encode("ab", true, false), (Ids{7, 5}));
}

TEST_F(TokenizerFolder, SaysWhatIsMissing) {
  EXPECT_EQ(Tokenizer::Load(path_).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(ErrorOf(),
            path_ + ": no tokenizer.json, no tokenizer.model, and no vocab.json with merges.txt");
}

TEST_F(TokenizerFolder, NamesTheFileOfBadJson) {
  Write("tokenizer.json", "{\"model\": ");
  EXPECT_NE(ErrorOf().find("/tokenizer.json: not valid JSON at byte"), std::string::npos);
  Write("tokenizer.json", std::string(100'000, '['));
  EXPECT_EQ(Tokenizer::Load(path_).status().code(), StatusCode::kInvalidArgument);
  Write("tokenizer.json", SmallTokenizer().dump());
  Write("tokenizer_config.json", "{\"bos_token\": \"\xFF\"}");
  EXPECT_NE(ErrorOf().find("/tokenizer_config.json: not valid JSON at byte"), std::string::npos);
}

TEST_F(TokenizerFolder, ReadsPairsOfGpt2AndQwen2Only) {
  Write("vocab.json", R"({"a": 0, "b": 1, "ab": 2, "Ġ": 3, "<|endoftext|>": 4})");
  Write("merges.txt", "#version: 0.2\r\na b\r\n");
  auto tokenizer = Tokenizer::Load(path_);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(*(*tokenizer)->Encode("ab", true, false), (Ids{2}));
  EXPECT_EQ((*tokenizer)->eos_id(), 4);
  Write("tokenizer_config.json", R"({"add_prefix_space": true})");
  EXPECT_EQ(*(*Tokenizer::Load(path_))->Encode("ab", true, false), (Ids{3, 2}));
  Write("tokenizer_config.json", R"({"tokenizer_class": "CodeGenTokenizer"})");
  EXPECT_NE(ErrorOf().find("save this model's tokenizer.json"), std::string::npos);
}

TEST_F(TokenizerFolder, TakesAddedTokensOfPairsFromTheConfig) {
  Write("vocab.json", R"({"a": 0, "b": 1})");
  Write("merges.txt", "");
  Write("tokenizer_config.json", R"({"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<e>",
      "added_tokens_decoder": {"2": {"content": "<e>", "special": true}}})");
  auto tokenizer = Tokenizer::Load(path_);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->eos_id(), 2);
  EXPECT_EQ(*(*tokenizer)->Encode("a<e>b", true, true), (Ids{0, 2, 1}));
  Write("tokenizer_config.json", R"({"added_tokens_decoder": {"x": {"content": "<e>"}}})");
  EXPECT_NE(ErrorOf().find("added_tokens_decoder['x']"), std::string::npos) << ErrorOf();
  Write("tokenizer_config.json", R"({"added_tokens_decoder": {"2": {"content": 1}}})");
  EXPECT_NE(ErrorOf().find("added_tokens_decoder['2'].content: expected a string"),
            std::string::npos)
      << ErrorOf();
}

// A folder with the small SentencePiece model, where <unk>, <s>, </s>, <sep> have the ids 0 to 3.
class SentencePieceFolder : public TokenizerFolder {
 protected:
  void SetUp() override {
    TokenizerFolder::SetUp();
    std::filesystem::copy_file(std::string(kTestdata) + "sentencepiece/tokenizer.model",
                               path_ + "/tokenizer.model",
                               std::filesystem::copy_options::overwrite_existing);
  }
  Ids Encode(std::string_view text) {
    auto tokenizer = Tokenizer::Load(path_);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    return *(*tokenizer)->Encode(text, true, true);
  }
  // The ids of text without any mark in it, of which the vectors tell.
  Ids Plain(std::string_view text) { return *Load("sentencepiece").Encode(text, false, false); }
};

Ids Joined(std::initializer_list<Ids> parts) {
  Ids joined;
  for (const Ids& part : parts) joined.insert(joined.end(), part.begin(), part.end());
  return joined;
}

TEST_F(SentencePieceFolder, FindsItsMarksInTextThatMayHoldThem) {
  EXPECT_EQ(Encode("Hello"), Joined({{1}, Plain("Hello")}));
  EXPECT_EQ(Encode("Hello</s>you"), Joined({{1}, Plain("Hello"), {2}, Plain("you")}));
  const Tokenizer& tokenizer = Load("sentencepiece");
  EXPECT_EQ(tokenizer.bos_id(), 1);
  EXPECT_EQ(tokenizer.eos_id(), 2);
  EXPECT_TRUE(tokenizer.IsSpecial(2));
  EXPECT_FALSE(tokenizer.IsSpecial(3));
  EXPECT_EQ(tokenizer.TokenBytes(*tokenizer.TokenId(" the")), " the");
}

TEST_F(SentencePieceFolder, TakesTheConfigsWord) {
  Write("tokenizer_config.json", R"({"add_bos_token": false, "eos_token": "<end>",
      "added_tokens_decoder": {"2000": {"content": "<end>", "special": true},
                               "1": {"content": "<s>", "special": true}}})");
  Write("added_tokens.json", R"({"word": 2001, "<end>": 2000})");
  EXPECT_EQ(Encode("you<end>word"), Joined({Plain("you"), {2000, 2001}}));
  const auto tokenizer = *Tokenizer::Load(path_);
  EXPECT_EQ(tokenizer->eos_id(), 2000);
  EXPECT_TRUE(tokenizer->IsSpecial(2000));
  EXPECT_FALSE(tokenizer->IsSpecial(2001));
  EXPECT_EQ(tokenizer->vocab_size(), 2002);
}

TEST_F(SentencePieceFolder, PutsASpaceBeforeTheFirstPartAloneWhereNotLegacy) {
  Write("tokenizer_config.json", R"({"legacy": false})");
  // "▁▁you" less the space that was written, since the second part gets none.
  EXPECT_EQ(Encode("<s> you"), Joined({{1, 1}, Plain("you")}));
  Write("tokenizer_config.json", R"({"legacy": true})");
  EXPECT_EQ(Encode("<s>you"), Joined({{1, 1}, Plain("you")}));
}

TEST_F(SentencePieceFolder, NeverMakesSpecialTokensOfText) {
  const Ids the = Plain("the");
  ASSERT_EQ(the.size(), 1);  // "▁the"
  Write("tokenizer_config.json", R"({"added_tokens_decoder": {")" + std::to_string(the[0]) +
                                     R"(": {"content": "▁the", "special": true}}})");
  const Ids ids = Encode("the");
  EXPECT_EQ(std::count(ids.begin(), ids.end(), the[0]), 0);
}

TEST_F(SentencePieceFolder, RefusesWhatIsMalformedByField) {
  Write("added_tokens.json", R"({"<s>": 7})");
  EXPECT_NE(ErrorOf().find("tokenizer.model: the added token '<s>' with the id 7 contradicts"),
            std::string::npos)
      << ErrorOf();
  Write("added_tokens.json", R"({"<x>": "7"})");
  EXPECT_NE(ErrorOf().find("added_tokens.json['<x>']: expected a token id"), std::string::npos)
      << ErrorOf();
  Write("tokenizer.model", "IQ== 0\nIg== 1\n");
  EXPECT_NE(ErrorOf().find("tokenizer.model: not a SentencePiece model"), std::string::npos)
      << ErrorOf();
}

}  // namespace
}  // namespace treeline
