#include "engine/text/unigram.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>
#include <vector>

namespace treeline {
namespace {

SentencePieceModel Model(const std::vector<SentencePieceModel::Piece>& pieces) {
  SentencePieceModel model;
  model.pieces = pieces;
  model.pieces.insert(model.pieces.begin(), {"<unk>", 0, TokenType::kUnknown});
  return model;
}

std::vector<int32_t> Encode(const SentencePieceModel& model, std::string_view text) {
  const auto unigram = Unigram::FromModel(model);
  EXPECT_TRUE(unigram.ok()) << unigram.status();
  Unigram::Scratch scratch;
  std::vector<int32_t> ids;
  unigram->Encode(text, &scratch, &ids);
  return ids;
}

// The best sum over all ways to cut `text`.
double BestSum(const std::map<std::string, float>& scores, const std::string& text) {
  if (text.empty()) return 0;
  double best = -1e9;
  for (size_t length = 1; length <= text.size(); ++length) {
    const auto it = scores.find(text.substr(0, length));
    if (it != scores.end())
      best = std::max(best, it->second + BestSum(scores, text.substr(length)));
  }
  return best;
}

TEST(Unigram, FindsTheBestSum) {
  std::mt19937 random(3);
  for (int round = 0; round < 100; ++round) {
    std::map<std::string, float> scores = {{"a", -3}, {"b", -4}};
    while (scores.size() < 10) {
      std::string piece;
      for (int i = 2 + random() % 3; i > 0; --i) piece += static_cast<char>('a' + random() % 2);
      scores[piece] = -2.0f - (random() % 64) / 16.0f;
    }
    std::vector<SentencePieceModel::Piece> pieces;
    for (const auto& [text, score] : scores) pieces.push_back({text, score});
    const SentencePieceModel model = Model(pieces);
    std::string text;
    for (int i = 0; i < 14; ++i) text += static_cast<char>('a' + random() % 2);
    std::string joined;
    double sum = 0;
    for (int32_t id : Encode(model, text)) {
      joined += model.pieces[id].text;
      sum += model.pieces[id].score;
    }
    EXPECT_EQ(joined, text);
    EXPECT_NEAR(sum, BestSum(scores, text), 1e-4) << text;
  }
}

TEST(Unigram, MakesRunsOfUnknownCharactersOneTokenOrTheirBytes) {
  SentencePieceModel model = Model({{"a", -1}, {"é", -1}});
  EXPECT_EQ(Encode(model, "a€€éx"), (std::vector<int32_t>{1, 0, 2, 0}));
  EXPECT_EQ(Encode(model, ""), std::vector<int32_t>{});
  model.byte_fallback = true;
  for (int byte = 0; byte < 256; ++byte) {
    model.pieces.push_back({fmt::format("<0x{:02X}>", byte), 0, TokenType::kByte});
  }
  EXPECT_EQ(Encode(model, "a€x"), (std::vector<int32_t>{1, 3 + 0xE2, 3 + 0x82, 3 + 0xAC, 3 + 'x'}));
}

TEST(Unigram, LeavesMarksAndUnusedPiecesOutAndFavoursUserDefinedOnes) {
  const SentencePieceModel model = Model({{"a", -1},
                                          {"b", -1.2f},
                                          {"ab", 0, TokenType::kUnused},
                                          {"aa", 0, TokenType::kControl},
                                          {"bb", -100, TokenType::kUserDefined}});
  EXPECT_EQ(Encode(model, "abaabb"), (std::vector<int32_t>{1, 2, 1, 1, 5}));
  EXPECT_EQ(Unigram::FromModel(model)->Find("bb"), 5);
  EXPECT_EQ(Unigram::FromModel(model)->Find("aa"), std::nullopt);
  EXPECT_EQ(Unigram::FromModel(model)->Find("x"), std::nullopt);
}

TEST(Unigram, NeedsAPieceForUnknownCharacters) {
  SentencePieceModel model;
  model.pieces = {{"a", -1}};
  EXPECT_EQ(Unigram::FromModel(model).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace treeline
