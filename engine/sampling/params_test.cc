#include "engine/sampling/params.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

namespace treeline {
namespace {

constexpr int32_t kVocabSize = 100;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct FloatField {
  const char* name;
  float SamplingParams::*field;
  float low, high;
  bool low_is_legal;
};
constexpr FloatField kFloatFields[] = {
    {"temperature", &SamplingParams::temperature, 0, 2, true},
    {"top_p", &SamplingParams::top_p, 0, 1, false},
    {"min_p", &SamplingParams::min_p, 0, 1, true},
    {"presence_penalty", &SamplingParams::presence_penalty, -2, 2, true},
    {"frequency_penalty", &SamplingParams::frequency_penalty, -2, 2, true},
    {"repetition_penalty", &SamplingParams::repetition_penalty, 0.01f, 100, true},
};

Status ValidateWith(const FloatField& field, float value) {
  SamplingParams params;
  params.*field.field = value;
  return params.Validate(kVocabSize);
}

TEST(SamplingParams, DefaultsAreLegal) { EXPECT_TRUE(SamplingParams().Validate(kVocabSize).ok()); }

TEST(SamplingParams, RangesIncludeTheirEnds) {
  for (const FloatField& field : kFloatFields) {
    EXPECT_EQ(ValidateWith(field, field.low).ok(), field.low_is_legal) << field.name;
    EXPECT_TRUE(ValidateWith(field, std::nextafter(field.low, kInfinity)).ok()) << field.name;
    EXPECT_TRUE(ValidateWith(field, field.high).ok()) << field.name;
  }
}

TEST(SamplingParams, NamesTheParameterOutOfRange) {
  for (const FloatField& field : kFloatFields) {
    for (const float value : {std::nextafter(field.low, -kInfinity),
                              std::nextafter(field.high, kInfinity), kNan, kInfinity, -kInfinity}) {
      const Status status = ValidateWith(field, value);
      EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << field.name << " " << value;
      EXPECT_EQ(Message(status).find(field.name), 0) << Message(status);
    }
  }
}

TEST(SamplingParams, SaysParameterValueAndRange) {
  SamplingParams params;
  params.top_p = 1.5f;
  EXPECT_EQ(Message(params.Validate(kVocabSize)), "top_p must be in (0, 1], not 1.5");
}

TEST(SamplingParams, TopKIsAtLeastZero) {
  SamplingParams params;
  params.top_k = std::numeric_limits<int32_t>::max();
  EXPECT_TRUE(params.Validate(kVocabSize).ok());
  params.top_k = -1;
  EXPECT_EQ(Message(params.Validate(kVocabSize)),
            "top_k must be at least 0 (0: all tokens), not -1");
}

TEST(SamplingParams, ChecksEveryLogitBias) {
  const struct {
    int32_t token;
    float bias;
    bool legal;
  } kCases[] = {
      {0, 100, true},     {kVocabSize - 1, -100, true}, {-1, 0, false},   {kVocabSize, 0, false},
      {1, 100.5f, false}, {1, -100.5f, false},          {1, kNan, false}, {1, kInfinity, false},
  };
  for (const auto& c : kCases) {
    SamplingParams params;
    params.logit_bias = {{5, 1.0f}, {c.token, c.bias}};
    const Status status = params.Validate(kVocabSize);
    EXPECT_EQ(status.ok(), c.legal) << c.token << " " << c.bias;
    if (c.legal) continue;
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_NE(Message(status).find("logit_bias"), std::string::npos);
    EXPECT_NE(Message(status).find(std::to_string(c.token)), std::string::npos);
  }
}

}  // namespace
}  // namespace treeline
