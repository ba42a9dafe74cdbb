#include "engine/text/bpe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace treeline {
namespace {

using Pair = std::pair<std::string, std::string>;

Json Model(const std::vector<std::string>& tokens, const std::vector<Pair>& merges) {
  Json model = {{"type", "BPE"}, {"vocab", Json::object()}, {"merges", Json::array()}};
  for (size_t id = 0; id < tokens.size(); ++id) model["vocab"][tokens[id]] = id;
  for (const auto& [left, right] : merges) model["merges"].push_back({left, right});
  return model;
}

std::vector<int32_t> Encode(const Bpe& bpe, std::string_view text) {
  Bpe::Scratch scratch;
  std::vector<int32_t> ids;
  bpe.Encode(text, &scratch, &ids);
  return ids;
}

std::string ErrorOf(const Json& model, const std::unordered_set<int32_t>& special_ids = {}) {
  const Status status = Bpe::FromJson(model, special_ids).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  return Message(status);
}

// The definition: while any pair has a rank, the leftmost of the lowest rank is joined.
std::vector<std::string> NaiveEncode(const std::vector<Pair>& merges, const std::string& text) {
  std::vector<std::string> symbols;
  for (char c : text) symbols.emplace_back(1, c);
  while (true) {
    size_t best_rank = merges.size();
    size_t best = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      for (size_t rank = 0; rank < best_rank; ++rank) {
        if (merges[rank] == Pair(symbols[i], symbols[i + 1])) {
          best_rank = rank;
          best = i;
        }
      }
    }
    if (best_rank == merges.size()) return symbols;
    symbols[best] += symbols[best + 1];
    symbols.erase(symbols.begin() + best + 1);
  }
}

TEST(Bpe, EqualsTheDefinitionOnRandomVocabularies) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    std::vector<std::string> tokens = {"a", "b", "c"};
    std::vector<Pair> merges;
    while (merges.size() < 12) {
      const Pair merge(tokens[random() % tokens.size()], tokens[random() % tokens.size()]);
      const std::string joined = merge.first + merge.second;
      if (std::find(merges.begin(), merges.end(), merge) != merges.end()) continue;
      merges.push_back(merge);
      if (std::find(tokens.begin(), tokens.end(), joined) == tokens.end()) {
        tokens.push_back(joined);
      }
    }
    auto bpe = Bpe::FromJson(Model(tokens, merges), {});
    ASSERT_TRUE(bpe.ok()) << bpe.status();
    std::string text;
    for (int i = 0; i < 60; ++i) text += static_cast<char>('a' + random() % 3);
    std::vector<std::string> symbols;
    for (int32_t id : Encode(*bpe, text)) symbols.push_back(tokens[id]);
    EXPECT_EQ(symbols, NaiveEncode(merges, text)) << text;
  }
}

TEST(Bpe, ReadsBothSpellingsOfMerges) {
  Json model = Model({"a", "b", "c", "ab", "abc"}, {{"a", "b"}});
  model["merges"].push_back("ab c");
  auto bpe = Bpe::FromJson(model, {});
  ASSERT_TRUE(bpe.ok()) << bpe.status();
  EXPECT_EQ(Encode(*bpe, "abcab"), (std::vector<int32_t>{4, 3}));
}

TEST(Bpe, DropsBytesOutsideTheVocabularyOrMakesThemUnknown) {
  Json model = Model({"a", "?", "aa"}, {{"a", "a"}});
  EXPECT_EQ(Encode(*Bpe::FromJson(model, {}), "axa"), (std::vector<int32_t>{2}));
  model["unk_token"] = "?";
  EXPECT_EQ(Encode(*Bpe::FromJson(model, {}), "axa"), (std::vector<int32_t>{0, 1, 0}));
}

TEST(Bpe, FusesUnknownRuns) {
  Json model = Model({"a", "?", "aa"}, {{"a", "a"}});
  model["unk_token"] = "?";
  model["fuse_unk"] = true;
  EXPECT_EQ(Encode(*Bpe::FromJson(model, {}), "axyaz"), (std::vector<int32_t>{0, 1, 0, 1}));
}

TEST(Bpe, MergesCharactersAndFallsBackToBytes) {
  Json model = Model({"é", "日", "日é", "<0xE2>", "<0x82>", "<0xAC>", "?"}, {{"日", "é"}});
  model["unk_token"] = "?";
  const auto encode = [&](std::string_view text) {
    return Encode(*Bpe::FromJson(model, {}, Bpe::Alphabet::kCharacters), text);
  };
  EXPECT_EQ(encode("é日é€"), (std::vector<int32_t>{0, 2, 6}));
  model["byte_fallback"] = true;
  EXPECT_EQ(encode("é日é€"), (std::vector<int32_t>{0, 2, 3, 4, 5}));
  EXPECT_EQ(encode("x"), (std::vector<int32_t>{6}));  // Its byte has no token.
  EXPECT_EQ(Bpe::FromJson(model, {}, Bpe::Alphabet::kCharacters)->TakeTokenBytes(),
            (std::vector<std::string>{"é", "日", "日é", "\xE2", "\x82", "\xAC", "?"}));
}

// With a merge over the beginning of a word, words cannot be merged one by one.
TEST(Bpe, MergesOverWordsWhereTheVocabularyDoes) {
  const std::vector<std::string> tokens = {"▁", "a", "▁a", "a▁", "a▁a"};
  const auto encode = [&](const std::vector<Pair>& merges, std::string_view text) {
    return Encode(*Bpe::FromJson(Model(tokens, merges), {}, Bpe::Alphabet::kCharacters), text);
  };
  EXPECT_EQ(encode({{"▁", "a"}}, "a▁▁a▁a"), (std::vector<int32_t>{1, 0, 2, 2}));
  EXPECT_EQ(encode({{"▁", "a"}, {"a", "▁"}}, "a▁▁a▁"), (std::vector<int32_t>{3, 2, 0}));
  EXPECT_EQ(encode({{"▁", "a"}, {"a", "▁a"}}, "a▁a▁a"), (std::vector<int32_t>{4, 2}));
}

// SentencePiece's definition: of all neighbours whose text together is a piece, those whose piece
// has the best score, the leftmost of equals, become that piece.
TEST(Bpe, MergesPiecesByScore) {
  std::mt19937 random(11);
  for (int round = 0; round < 200; ++round) {
    SentencePieceModel model;
    std::map<std::string, float> scores;
    for (const char* text : {"a", "b", "▁", "aa", "ab"}) scores[text] = -1.0f * (random() % 4);
    while (scores.size() < 14) {
      const auto left = std::next(scores.begin(), random() % scores.size());
      const auto right = std::next(scores.begin(), random() % scores.size());
      scores[left->first + right->first] = -1.0f * (random() % 6);
    }
    for (const auto& [text, score] : scores) model.pieces.push_back({text, score});
    std::vector<std::string> symbols;
    std::string text;
    for (int i = 0; i < 50; ++i) {
      symbols.push_back(std::vector<std::string>{"a", "b", "▁"}[random() % 3]);
      text += symbols.back();
    }
    while (true) {
      size_t best = SIZE_MAX;
      for (size_t i = 0; i + 1 < symbols.size(); ++i) {
        const auto it = scores.find(symbols[i] + symbols[i + 1]);
        if (it == scores.end()) continue;
        if (best == SIZE_MAX || it->second > scores[symbols[best] + symbols[best + 1]]) best = i;
      }
      if (best == SIZE_MAX) break;
      symbols[best] += symbols[best + 1];
      symbols.erase(symbols.begin() + best + 1);
    }
    std::vector<std::string> merged;
    for (int32_t id : Encode(Bpe::FromPieces(model), text)) merged.push_back(model.pieces[id].text);
    EXPECT_EQ(merged, symbols) << text;
  }
}

TEST(Bpe, KeepsWholeTokensWhereMergesAreIgnored) {
  Json model = Model({"a", "b", "ab", "aba"}, {{"a", "b"}});
  EXPECT_EQ(Encode(*Bpe::FromJson(model, {}), "aba"), (std::vector<int32_t>{2, 0}));
  model["ignore_merges"] = true;
  EXPECT_EQ(Encode(*Bpe::FromJson(model, {}), "aba"), (std::vector<int32_t>{3}));
  // A special token is never made of text, not even so.
  EXPECT_EQ(Encode(*Bpe::FromJson(model, {3}), "aba"), (std::vector<int32_t>{2, 0}));
}

TEST(Bpe, SpellsBytesAsGpt2Does) {
  auto bpe = Bpe::FromJson(Model({"Ġ", "Ċ", "Ã", "©", "Ã©", "日"}, {{"Ã", "©"}}), {});
  ASSERT_TRUE(bpe.ok()) << bpe.status();
  EXPECT_EQ(Encode(*bpe, " \né"), (std::vector<int32_t>{0, 1, 4}));
  EXPECT_EQ(Encode(*bpe, "日"), std::vector<int32_t>{});  // Its bytes are not in the vocabulary.
  EXPECT_EQ(bpe->TakeTokenBytes(),
            (std::vector<std::string>{" ", "\n", "\xC3", "\xA9", "é", "日"}));
}

// Quadratic merging would take an hour here.
TEST(Bpe, LongPiecesStayCheap) {
  std::vector<std::string> tokens = {"a"};
  std::vector<Pair> merges;
  for (int i = 0; i < 10; ++i) {
    merges.emplace_back(tokens.back(), tokens.back());
    tokens.push_back(tokens.back() + tokens.back());
  }
  auto bpe = Bpe::FromJson(Model(tokens, merges), {});
  ASSERT_TRUE(bpe.ok()) << bpe.status();
  EXPECT_EQ(Encode(*bpe, std::string(2 << 20, 'a')), std::vector<int32_t>(2 << 10, 10));
}

TEST(Bpe, RefusesMalformedModelsByField) {
  const Json good = Model({"a", "b", "ab"}, {{"a", "b"}});
  ASSERT_TRUE(Bpe::FromJson(good, {}).ok());
  struct Case {
    const char* patch;  // Merged into the good model.
    const char* error;
  };
  const std::vector<Case> cases = {
      {R"({"vocab": [1]})", "model.vocab: expected an object, found array"},
      {R"({"vocab": {"c": "x"}})", "model.vocab['c']: expected a token id"},
      {R"({"vocab": {"c": -1}})", "model.vocab['c']: expected a token id"},
      {R"({"vocab": {"c": 1.5}})", "model.vocab['c']: expected a token id"},
      {R"({"vocab": {"c": 4194304}})", "model.vocab['c']: token id 4194304 is larger"},
      {R"({"vocab": {"c": 18446744073709551615}})", "is larger than the limit"},
      {R"({"vocab": {"c": 1}})", "model.vocab: two tokens have the id 1"},
      {R"({"vocab": {"ab": null}})", "model.merges[0]: 'ab' is not in the vocabulary"},
      {R"({"vocab": null})", "model.vocab: expected an object, found null"},
      {R"({"merges": null})", "model.merges: expected an array, found null"},
      {R"({"merges": {"a": 1}})", "model.merges: expected an array, found object"},
      {R"({"merges": ["a b", "ab"]})", "model.merges[1]: expected \"a b\""},
      {R"({"merges": ["a b c"]})", "model.merges[0]: expected \"a b\""},
      {R"({"merges": [["a", "b", "c"]]})", "model.merges[0]: expected \"a b\""},
      {R"({"merges": [["a", 1]]})", "model.merges[0]: expected \"a b\""},
      {R"({"merges": ["a x"]})", "model.merges[0]: 'x' is not in the vocabulary"},
      {R"({"merges": ["b a"]})", "model.merges[0]: 'ba' is not in the vocabulary"},
      {R"({"dropout": 0.1})", "model.dropout"},
      {R"({"byte_fallback": true})", "model.byte_fallback"},
      {R"({"fuse_unk": 1})", "model.fuse_unk: expected a boolean"},
      {R"({"ignore_merges": 1})", "model.ignore_merges: expected a boolean"},
      {R"({"continuing_subword_prefix": "##"})", "model.continuing_subword_prefix"},
      {R"({"end_of_word_suffix": "</w>"})", "model.end_of_word_suffix"},
      {R"({"unk_token": "<unk>"})", "model.unk_token: '<unk>' is not in the vocabulary"},
  };
  for (const Case& c : cases) {
    Json bad = good;
    bad.merge_patch(Json::parse(c.patch));
    EXPECT_NE(ErrorOf(bad).find(c.error), std::string::npos) << c.patch << ": " << ErrorOf(bad);
  }
  EXPECT_NE(ErrorOf(Json::array()).find("model: expected an object"), std::string::npos);
}

TEST(Bpe, RefusesToMakeSpecialTokensOfText) {
  const Json model = Model({"a", "b", "ab"}, {{"a", "b"}});
  EXPECT_NE(ErrorOf(model, {2}).find("merges[0]: makes the special token 'ab'"), std::string::npos);
  EXPECT_NE(ErrorOf(model, {1}).find("the special token 'b' is a byte"), std::string::npos);
}

}  // namespace
}  // namespace treeline
