#include <gtest/gtest.h>

#include <bit>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/file.h"
#include "engine/text/sentencepiece_model.h"
#include "engine/text/sentencepiece_normalizer.h"

namespace treeline {
namespace {

using Piece = SentencePieceModel::Piece;

// Protocol buffer fields, written by hand.
std::string Varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes += static_cast<char>(value);
}
std::string Number(int field, uint64_t value) { return Varint(field << 3) + Varint(value); }
std::string Bytes(int field, const std::string& bytes) {
  return Varint(field << 3 | 2) + Varint(bytes.size()) + bytes;
}
std::string Float(int field, float value) {
  std::string bytes = Varint(field << 3 | 5);
  const auto bits = std::bit_cast<uint32_t>(value);
  for (int shift = 0; shift < 32; shift += 8) bytes += static_cast<char>(bits >> shift);
  return bytes;
}
std::string PieceField(const std::string& text, float score, int type) {
  return Bytes(1, Bytes(1, text) + Float(2, score) + Number(3, type));
}

const std::string kThreePieces =
    PieceField("<unk>", 0, 2) + PieceField("<s>", 0, 3) + PieceField("▁a", -1.5f, 1);

std::string ErrorOf(const std::string& bytes) {
  const Status status = ParseSentencePieceModel(bytes).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  return Message(status);
}

TEST(SentencePieceModel, ReadsItsFields) {
  const auto model = ParseSentencePieceModel(
      kThreePieces +
      Bytes(2, Number(3, 2) + Number(35, 0) + Number(40, 0) + Number(41, 1) +
                   Number(42, static_cast<uint64_t>(-1)) + Bytes(99, "not known")) +
      Bytes(3, Bytes(1, "name") + Number(3, 0) + Number(4, 0) + Number(5, 0)));
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->algorithm, SentencePieceModel::Algorithm::kBpe);
  ASSERT_EQ(model->pieces.size(), 3);
  EXPECT_EQ(model->pieces[2].text, "▁a");
  EXPECT_EQ(model->pieces[2].score, -1.5f);
  EXPECT_EQ(model->pieces[1].type, TokenType::kControl);
  EXPECT_EQ(model->bos_id, 1);
  EXPECT_EQ(model->eos_id, -1);
  EXPECT_FALSE(model->add_dummy_prefix);
  EXPECT_FALSE(model->remove_extra_whitespace);
  EXPECT_FALSE(model->escape_whitespace);
}

TEST(SentencePieceModel, HasTheFormatsDefaults) {
  const auto model = ParseSentencePieceModel(kThreePieces);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->algorithm, SentencePieceModel::Algorithm::kUnigram);
  EXPECT_EQ(model->eos_id, 2);
  EXPECT_TRUE(model->add_dummy_prefix);
  EXPECT_TRUE(model->remove_extra_whitespace);
  EXPECT_TRUE(model->escape_whitespace);
}

TEST(SentencePieceModel, ReadsGooglesTestModel) {
  const auto model =
      ParseSentencePieceModel(*ReadFile("tests/testdata/tokenizers/unigram/tokenizer.model"));
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->pieces.size(), 1000);
  EXPECT_EQ(model->algorithm, SentencePieceModel::Algorithm::kUnigram);
  EXPECT_GT(model->character_map.size(), 100'000);
}

TEST(SentencePieceModel, RefusesMalformedOnesByField) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "not a SentencePiece model"},
      {"\x0A", "not a SentencePiece model"},
      {"\x0A\x7F", "not a SentencePiece model"},
      {"\x0B", "not a SentencePiece model"},
      {std::string(11, '\xFF'), "not a SentencePiece model"},
      {"\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", "not a SentencePiece model"},
      {kThreePieces + Bytes(1, "\x0D"), "not a SentencePiece model"},
      {kThreePieces + PieceField("", 0, 1), "pieces[3]: 0 bytes long"},
      {kThreePieces + PieceField(std::string(513, 'a'), 0, 1), "pieces[3]: 513 bytes long"},
      {kThreePieces + PieceField("▁a", 0, 1), "pieces[3]: '▁a' was given before"},
      {kThreePieces + PieceField("b", std::numeric_limits<float>::quiet_NaN(), 1),
       "pieces[3]: the score is not finite"},
      {kThreePieces + PieceField("b", 0, 7), "pieces[3]: 7 is no type of token"},
      {kThreePieces + PieceField("<0xgg>", 0, 6), "pieces[3]: '<0xgg>' spells no byte"},
      {kThreePieces + Bytes(2, Number(3, 4)), "trainer_spec.model_type: 4 is not supported"},
      {kThreePieces + Bytes(2, Number(24, 1)), "trainer_spec.treat_whitespace_as_suffix"},
      {kThreePieces + Bytes(2, Number(35, 1)), "trainer_spec.byte_fallback: set, but only 0"},
      {kThreePieces + Bytes(2, Number(41, 3)), "the id 3 of a special token"},
      {kThreePieces + Bytes(2, Number(41, static_cast<uint64_t>(-2))), "the id -2 of a special"},
  };
  for (const auto& [bytes, error] : cases) {
    EXPECT_NE(ErrorOf(bytes).find(error), std::string::npos) << error << ": " << ErrorOf(bytes);
  }
}

TEST(SentencePieceModel, SpellsBytes) {
  EXPECT_EQ(ByteOfPiece("<0x00>"), 0);
  EXPECT_EQ(ByteOfPiece("<0xAF>"), 0xAF);
  for (const char* text : {"", "<0xaf>", "<0xAF", "<0x1>", "<0x123>", "(0xAF>"}) {
    EXPECT_EQ(ByteOfPiece(text), -1) << text;
  }
}

std::string Normalize(const std::function<void(SentencePieceModel*)>& change, std::string_view text,
                      bool at_start = true, bool prefix_at_start_only = false) {
  SentencePieceModel model;
  change(&model);
  const auto normalizer = SentencePieceNormalizer(model, prefix_at_start_only);
  EXPECT_TRUE(normalizer.ok()) << normalizer.status();
  return *normalizer->Apply(text, at_start);
}

TEST(SentencePieceNormalizer, MarksSpaces) {
  const auto trimming = [](SentencePieceModel*) {};
  EXPECT_EQ(Normalize(trimming, "  a  b "), "▁a▁b");
  EXPECT_EQ(Normalize(trimming, "   "), "");
  EXPECT_EQ(Normalize(trimming, ""), "");
  const auto keeping = [](SentencePieceModel* model) { model->remove_extra_whitespace = false; };
  EXPECT_EQ(Normalize(keeping, " a  b "), "▁▁a▁▁b▁");
  EXPECT_EQ(Normalize(keeping, ""), "");
  const auto bare = [](SentencePieceModel* model) {
    model->add_dummy_prefix = false;
    model->escape_whitespace = false;
  };
  EXPECT_EQ(Normalize(bare, "  a  b "), "a b");
  EXPECT_EQ(Normalize(trimming, "a", false), "▁a");
  EXPECT_EQ(Normalize(trimming, "a", false, true), "a");
  EXPECT_EQ(Normalize(trimming, "a", true, true), "▁a");
}

// The map of the "nfkc" rule; the results are those of the sentencepiece package.
TEST(SentencePieceNormalizer, MapsCharacters) {
  const auto bytes = ReadFile("tests/testdata/tokenizers/unigram/tokenizer.model");
  const auto file = ParseSentencePieceModel(*bytes);
  const auto nfkc = [&](SentencePieceModel* model) { *model = *file; };
  EXPECT_EQ(Normalize(nfkc, "Ａ①ｶﾞ ㌀"), "▁A1ガ▁アパート");
  EXPECT_EQ(Normalize(nfkc, "a\t\nb\u200Bc"), "▁a\t\nb\u200Bc");
  EXPECT_EQ(Normalize(nfkc, "  ½ "), "▁1⁄2");
  EXPECT_EQ(Normalize(nfkc, "ﷺ"), "▁صلى▁الله▁عليه▁وسلم");
  const auto with_piece = [&](SentencePieceModel* model) {
    *model = *file;
    model->pieces.push_back({"Ａ①", 0, TokenType::kUserDefined});
  };
  EXPECT_EQ(Normalize(with_piece, "Ａ①Ａ"), "▁Ａ①A");
}

TEST(SentencePieceNormalizer, RefusesMalformedMaps) {
  const auto error = [](std::string map) {
    SentencePieceModel model;
    model.character_map = std::move(map);
    return Message(SentencePieceNormalizer(model, false).status());
  };
  using namespace std::string_literals;
  EXPECT_NE(error("\x04\0\0"s).find("precompiled_charsmap: malformed"), std::string::npos);
  EXPECT_NE(error("\x04\0\0\0\0\0\0\0"s).find("malformed"), std::string::npos);
  EXPECT_NE(error("\x03\0\0\0\0\0\0\0\0"s).find("malformed"), std::string::npos);
  EXPECT_NE(error("\x04\0\0\0\0\0\0\0abc"s).find("malformed"), std::string::npos);
  EXPECT_NE(error("\x04\0\0\0\0\0\0\0"s + std::string(300, 'a') + "\0"s).find("of 300 bytes"),
            std::string::npos);
  EXPECT_EQ(error("\x04\0\0\0\0\0\0\0abc\0"s), "");
}

}  // namespace
}  // namespace treeline
