#include "engine/model/attention_spec.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

namespace treeline {
namespace {

StatusOr<AttentionSpec> ReadJson(const Json& json) {
  TREELINE_ASSIGN_OR_RETURN(const auto layers, AttentionSpec::ForLayers(json, 1));
  return layers[0];
}

StatusOr<AttentionSpec> Read(const std::string& text) { return ReadJson(Json::parse(text)); }

// The released form of the paper.
constexpr char kPaper[] =
    R"({"group_size": 64, "window": "group", "local": "relu2", "feature_map": "identity",
        "qk_norm": "l2", "denominator": "none", "alpha": "learned", "conv_kernel": 63})";

constexpr char kJoint[] =
    R"({"group_size": 128, "window": "sliding", "window_size": 128, "sinks": 4, "local": "softmax",
        "feature_map": "hedgehog", "denominator": "joint", "decay": "head", "conv_kernel": 63})";

TEST(AttentionSpec, ReadsThePapersForm) {
  const auto spec = Read(kPaper);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->form.group_size, 64);
  EXPECT_EQ(spec->form.window, Window::kGroup);
  EXPECT_EQ(spec->form.window_size, 64);
  EXPECT_EQ(spec->form.sinks, 0);
  EXPECT_FALSE(spec->form.decay);
  EXPECT_EQ(spec->form.local, Local::kRelu2);
  EXPECT_EQ(spec->form.feature_map, FeatureMap::kIdentity);
  EXPECT_EQ(spec->form.qk_norm, QkNorm::kL2);
  EXPECT_EQ(spec->form.denominator, Denominator::kNone);
  EXPECT_EQ(spec->form.conv_kernel, 63);
  EXPECT_FALSE(spec->alpha.has_value());
  EXPECT_EQ(spec->ToString(), "group 64, relu2 + identity, l2, alpha learned, conv 63");
}

TEST(AttentionSpec, ReadsTheJointForm) {
  const auto spec = Read(kJoint);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->form.window, Window::kSliding);
  EXPECT_EQ(spec->form.window_size, 128);
  EXPECT_EQ(spec->form.sinks, 4);
  EXPECT_TRUE(spec->form.decay);
  EXPECT_EQ(spec->form.local, Local::kSoftmax);
  EXPECT_EQ(spec->form.feature_map, FeatureMap::kHedgehog);
  EXPECT_EQ(spec->form.denominator, Denominator::kJoint);
  EXPECT_EQ(spec->ToString(),
            "group 128, sliding 128, 4 sinks, softmax + hedgehog, joint, decay, conv 63");
}

TEST(AttentionSpec, AbsentKeysTakeTheirDefaults) {
  const auto spec = Read(R"({"group_size": 32, "local": "laplace", "feature_map": "elu1"})");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->form.window, Window::kGroup);
  EXPECT_EQ(spec->form.window_size, 32);
  EXPECT_EQ(spec->form.sinks, 0);
  EXPECT_FALSE(spec->form.decay);
  EXPECT_EQ(spec->form.qk_norm, QkNorm::kNone);
  EXPECT_EQ(spec->form.denominator, Denominator::kNone);
  EXPECT_EQ(spec->form.conv_kernel, 0);
  EXPECT_EQ(spec->alpha, 1.0f);
}

TEST(AttentionSpec, ASlidingWindowDefaultsToTheGroupSize) {
  const auto spec =
      Read(R"({"group_size": 32, "window": "sliding", "local": "softmax", "feature_map": "none"})");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->form.window_size, 32);
}

TEST(AttentionSpec, AGroupWindowMayHoldSeveralGroups) {
  const auto spec =
      Read(R"({"group_size": 32, "window_size": 96, "local": "softmax", "feature_map": "relu"})");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->form.lag(), 3);
  EXPECT_EQ(spec->form.window_begin(100), 32);
  EXPECT_EQ(spec->ToString(), "group 32, window of 3 groups, softmax + relu, alpha 1");
}

TEST(AttentionSpec, GroupSizeZeroIsPlainSoftmax) {
  for (const char* text :
       {R"({"group_size": 0})", R"({"group_size": 0, "local": "softmax", "feature_map": "none"})",
        R"({"group_size": 0, "window": "sliding", "window_size": 7, "sinks": 4})"}) {
    const auto spec = Read(text);
    ASSERT_TRUE(spec.ok()) << text << spec.status();
    EXPECT_EQ(spec->form.group_size, 0);
    EXPECT_EQ(spec->form.local, Local::kSoftmax);
    EXPECT_FALSE(spec->form.has_linear());
    EXPECT_EQ(spec->form.sinks, 0);
    EXPECT_EQ(spec->ToString(), "softmax");
  }
}

TEST(AttentionSpec, AcceptsLegalCombinations) {
  for (const char* text : {
           R"({"group_size": 1, "local": "none", "feature_map": "relu", "denominator": "sum"})",
           R"({"group_size": 8, "local": "relu2", "feature_map": "hedgehog",
               "denominator": "sum", "alpha": 0.5})",
           R"({"group_size": 8, "local": "softmax", "feature_map": "relu",
               "denominator": "joint"})",
           R"({"group_size": 8, "local": "softmax", "feature_map": "elu1",
               "denominator": "joint", "alpha": null})",
           R"({"group_size": 8, "local": "softmax", "feature_map": "identity", "alpha": 0})",
           R"({"group_size": 8, "local": "relu2", "feature_map": "none", "qk_norm": "l2",
               "decay": "none"})",
           R"({"group_size": 8, "local": "none", "feature_map": "none", "conv_kernel": 1})",
           R"({"group_size": 8, "window": "group", "window_size": 8, "sinks": 9,
               "local": "softmax", "feature_map": "none"})",
       }) {
    EXPECT_TRUE(Read(text).ok()) << text << Read(text).status();
  }
}

struct Refusal {
  const char* text;
  std::vector<const char*> in_message;
};

void ExpectRefusals(const std::vector<Refusal>& refusals, StatusCode code) {
  for (const Refusal& refusal : refusals) {
    const Status status = Read(refusal.text).status();
    EXPECT_EQ(status.code(), code) << refusal.text << status;
    for (const char* part : refusal.in_message) {
      EXPECT_NE(Message(status).find(part), std::string::npos) << refusal.text << status;
    }
  }
}

TEST(AttentionSpec, RefusesCombinationsNamingEveryKey) {
  ExpectRefusals(
      {
          {R"({"group_size": 8, "local": "relu2", "feature_map": "relu", "denominator": "joint"})",
           {"denominator", "joint", "local", "relu2"}},
          {R"({"group_size": 8, "local": "none", "feature_map": "relu", "denominator": "joint"})",
           {"denominator", "joint", "local", "none"}},
          {R"({"group_size": 8, "local": "softmax", "feature_map": "identity",
               "denominator": "joint"})",
           {"denominator", "joint", "feature_map", "identity"}},
          {R"({"group_size": 8, "local": "relu2", "feature_map": "identity",
               "denominator": "sum"})",
           {"denominator", "sum", "feature_map", "identity"}},
          {R"({"group_size": 8, "local": "softmax", "feature_map": "none", "denominator": "sum"})",
           {"denominator", "sum", "feature_map", "none"}},
          {R"({"group_size": 8, "local": "softmax", "feature_map": "none",
               "denominator": "joint"})",
           {"denominator", "joint", "feature_map", "none"}},
          {R"({"group_size": 8, "local": "softmax", "feature_map": "relu", "denominator": "joint",
               "alpha": 1})",
           {"denominator", "joint", "alpha"}},
          {R"({"group_size": 8, "local": "softmax", "feature_map": "relu", "denominator": "joint",
               "alpha": "learned"})",
           {"denominator", "joint", "alpha"}},
          {R"({"group_size": 8, "local": "softmax", "feature_map": "none", "decay": "head"})",
           {"feature_map", "none", "decay"}},
          {R"({"group_size": 8, "local": "softmax", "feature_map": "none", "qk_norm": "l2"})",
           {"feature_map", "none", "qk_norm"}},
          {R"({"group_size": 8, "local": "softmax", "feature_map": "none", "alpha": "learned"})",
           {"feature_map", "none", "alpha"}},
          {R"({"group_size": 8, "local": "none", "feature_map": "none"})",
           {"local", "feature_map", "conv_kernel"}},
          {R"({"group_size": 8, "window_size": 20, "local": "softmax", "feature_map": "relu"})",
           {"window", "window_size", "20", "group_size", "8"}},
          {R"({"group_size": 8, "local": "softmax", "feature_map": "relu", "feature_size": 4})",
           {"feature_size 4", "feature_map", "relu"}},
          {R"({"group_size": 8, "local": "softmax", "feature_map": "none", "feature_size": 4})",
           {"feature_size 4", "feature_map", "none"}},
          {R"({"group_size": 0, "feature_size": 4})", {"feature_size 4", "feature_map"}},
          {R"({"group_size": 0, "local": "relu2"})", {"group_size 0", "local", "relu2"}},
          {R"({"group_size": 0, "feature_map": "relu"})", {"group_size 0", "feature_map", "relu"}},
          {R"({"group_size": 0, "decay": "head"})", {"group_size 0", "decay", "head"}},
          {R"({"group_size": 0, "conv_kernel": 63})", {"group_size 0", "conv_kernel", "63"}},
      },
      StatusCode::kInvalidArgument);
}

TEST(AttentionSpec, RefusesWrongValuesNamingTheKey) {
  ExpectRefusals(
      {
          {"[]", {"object"}},
          {"{}", {"group_size", "missing"}},
          {R"({"group_size": 8, "feature_map": "relu"})", {"local", "missing"}},
          {R"({"group_size": 8, "local": "relu2"})", {"feature_map", "missing"}},
          {R"({"group_size": 8, "local": "relu2", "feature_map": "relu", "conv": 3})",
           {"unknown key", "conv"}},
          {R"({"group_size": -1})", {"group_size", "-1"}},
          {R"({"group_size": 8.5})", {"group_size", "8.5"}},
          {R"({"group_size": "8"})", {"group_size", "\"8\""}},
          {R"({"group_size": 1048577})", {"group_size", "1048577"}},
          {R"({"group_size": 18446744073709551615})", {"group_size"}},
          {R"({"group_size": 4294967296})", {"group_size"}},
          {R"({"group_size": 8, "window": "block"})", {"window", "block", "group, sliding"}},
          {R"({"group_size": 8, "window": "sliding", "window_size": 0})", {"window_size"}},
          {R"({"group_size": 8, "sinks": 4097})", {"sinks"}},
          {R"({"group_size": 8, "sinks": true})", {"sinks", "true"}},
          {R"({"group_size": 8, "decay": "tail"})", {"decay", "tail"}},
          {R"({"group_size": 8, "local": 3})", {"local", "a string"}},
          {R"({"group_size": 8, "local": "relu", "feature_map": "relu"})",
           {"local", "relu", "none, softmax, relu2, laplace"}},
          {R"({"group_size": 8, "local": "relu2", "feature_map": "cosine"})",
           {"feature_map", "cosine"}},
          {R"({"group_size": 8, "local": "relu2", "feature_map": "relu", "conv_kernel": 62})",
           {"conv_kernel", "62", "odd"}},
          {R"({"group_size": 8, "local": "relu2", "feature_map": "relu", "conv_kernel": 4097})",
           {"conv_kernel", "4097"}},
          {R"({"group_size": 8, "local": "relu2", "feature_map": "hedgehog", "feature_size": 5})",
           {"feature_size", "5", "even"}},
          {R"({"group_size": 8, "local": "relu2", "feature_map": "hedgehog", "feature_size": -2})",
           {"feature_size", "-2"}},
          {R"({"group_size": 8, "local": "relu2", "feature_map": "hedgehog",
               "feature_size": 4098})",
           {"feature_size", "4098"}},
          {R"({"group_size": 8, "local": "relu2", "feature_map": "relu", "alpha": -1e9})",
           {"alpha", "-1"}},
          {R"({"group_size": 8, "local": "relu2", "feature_map": "relu", "alpha": "fixed"})",
           {"alpha", "fixed"}},
          {R"({"group_size": 8, "local": "relu2", "feature_map": "relu", "alpha": [1]})",
           {"alpha", "[1]"}},
      },
      StatusCode::kInvalidArgument);
}

TEST(AttentionSpec, RefusesNan) {
  Json json = Json::parse(R"({"group_size": 8, "local": "relu2", "feature_map": "relu"})");
  json["alpha"] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(ReadJson(json).status().code(), StatusCode::kInvalidArgument);
}

TEST(AttentionSpec, NamesFeatureMapsThatAreNotBuilt) {
  ExpectRefusals(
      {
          {R"({"group_size": 8, "local": "relu2", "feature_map": "favor"})", {"favor"}},
          {R"({"group_size": 8, "local": "relu2", "feature_map": "rfa"})", {"rfa"}},
          {R"({"group_size": 8, "local": "relu2", "feature_map": "yoso"})", {"yoso"}},
          {R"({"group_size": 8, "local": "relu2", "feature_map": "flash"})", {"flash"}},
      },
      StatusCode::kUnimplemented);
}

TEST(AttentionSpec, CutsHostileValuesShortInMessages) {
  Json json = {{"group_size", 8}, {"local", std::string(1'000'000, 'x')}};
  EXPECT_LT(Message(ReadJson(json).status()).size(), 300u);
  Json entry = {{"group_size", 8}, {"layers", {{{"layers", {std::string(1'000'000, 'x')}}}}}};
  EXPECT_LT(Message(ReadJson(entry).status()).size(), 300u);
}

// -- Layers that differ.

// The form of tools/linearize/forms/hybrid_s32.json.
constexpr char kHybrid[] =
    R"({"group_size": 64, "window": "group", "sinks": 4, "local": "softmax", "conv_kernel": 63,
        "window_size": 128, "feature_map": "hedgehog", "denominator": "joint", "decay": "head",
        "feature_size": 32,
        "layers": [{"layers": [7, 18], "window_size": 4224, "feature_map": "none",
                    "denominator": "none", "decay": "none", "feature_size": 0}]})";

TEST(AttentionSpec, EntriesChangeTheLayersTheyName) {
  const auto layers = AttentionSpec::ForLayers(Json::parse(kHybrid), 30);
  ASSERT_TRUE(layers.ok()) << layers.status();
  ASSERT_EQ(layers->size(), 30u);
  const AttentionForm& common = (*layers)[0].form;
  EXPECT_EQ(common.feature_map, FeatureMap::kHedgehog);
  EXPECT_EQ(common.feature_dim(64), 32);
  EXPECT_EQ(common.k_ring_rows(0), 128);
  const AttentionForm& wide = (*layers)[18].form;
  EXPECT_EQ(wide.feature_map, FeatureMap::kNone);
  EXPECT_EQ(wide.feature_dim(64), 0);
  EXPECT_FALSE(wide.has_normaliser() || wide.decay);
  EXPECT_EQ(wide.k_ring_rows(0), 4224);
  EXPECT_EQ(wide.sinks, 4);
  EXPECT_EQ(wide.conv_kernel, 63);
  EXPECT_EQ((*layers)[7], (*layers)[18]);
  EXPECT_EQ(ToString(*layers),
            "layers 0-6, 8-17, 19-29: group 64, window of 2 groups, 4 sinks, softmax + hedgehog of "
            "32 features, joint, decay, conv 63; layers 7, 18: group 64, window of 66 groups, 4 "
            "sinks, softmax, conv 63");
}

TEST(AttentionSpec, LaterEntriesWin) {
  const auto layers = AttentionSpec::ForLayers(
      Json::parse(R"({"group_size": 8, "local": "softmax", "feature_map": "relu", "layers": [
                      {"layers": [0, 2], "window_size": 16, "sinks": 1},
                      {"layers": [2], "window_size": 24}]})"),
      3);
  ASSERT_TRUE(layers.ok()) << layers.status();
  EXPECT_EQ((*layers)[0].form.window_size, 16);
  EXPECT_EQ((*layers)[1].form.window_size, 8);
  EXPECT_EQ((*layers)[2].form.window_size, 24);
  EXPECT_EQ((*layers)[2].form.sinks, 1);
}

TEST(AttentionSpec, LayersThatAreAllEqualAreNotNumbered) {
  const auto layers = AttentionSpec::ForLayers(
      Json::parse(R"({"group_size": 0, "layers": [{"layers": [0, 1], "group_size": 8,
                      "local": "softmax", "feature_map": "none"}]})"),
      2);
  ASSERT_TRUE(layers.ok()) << layers.status();
  EXPECT_EQ(ToString(*layers), "group 8, softmax");
}

TEST(AttentionSpec, RefusesEntriesNamingThem) {
  const std::string common = R"({"group_size": 8, "local": "softmax", "feature_map": "relu",
                                 "layers": )";
  const Refusal refusals[] = {
      {"3", {"linear_attention: layers must be a list, not 3"}},
      {R"({"layers": [0]})", {"linear_attention: layers must be a list"}},
      {"[7]", {"linear_attention.layers[0]", "object"}},
      {R"([{"window_size": 16}])", {"linear_attention.layers[0]", "layers must list"}},
      {R"([{"layers": 2, "window_size": 16}])", {"linear_attention.layers[0]", "must list"}},
      {R"([{"layers": [0]}, {"layers": [4], "sinks": 1}])",
       {"linear_attention.layers[1]", "0 to 3", "not 4"}},
      {R"([{"layers": [-1]}])", {"0 to 3", "not -1"}},
      {R"([{"layers": [1.5]}])", {"0 to 3", "not 1.5"}},
      {R"([{"layers": ["1"]}])", {"0 to 3", "not \"1\""}},
      {R"([{"layers": [18446744073709551615]}])", {"0 to 3", "18446744073709551615"}},
      {R"([{"layers": [0], "window_sise": 16}])",
       {"linear_attention.layers[0]", "unknown key \"window_sise\""}},
      {R"([{"layers": [2], "window_size": 20}])",
       {"linear_attention of layer 2", "window_size", "20", "group_size 8"}},
      {R"([{"layers": [3], "local": "relu3"}])", {"linear_attention of layer 3", "local", "relu3"}},
      {R"([{"layers": [1], "feature_map": "none", "decay": "head"}])",
       {"linear_attention of layer 1", "feature_map", "decay"}},
  };
  for (const Refusal& refusal : refusals) {
    const Json json = Json::parse(common + refusal.text + "}");
    const Status status = AttentionSpec::ForLayers(json, 4).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << refusal.text << status;
    for (const char* part : refusal.in_message) {
      EXPECT_NE(Message(status).find(part), std::string::npos) << refusal.text << status;
    }
  }
}

}  // namespace
}  // namespace treeline
