// Against tests/testdata/adapter, whose merged weights NumPy computed.
#include "engine/model/adapter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "engine/base/json.h"
#include "engine/model/safetensors.h"

namespace treeline {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kFolder[] = "tests/testdata/adapter";
constexpr char kBase[] = "tests/testdata/checkpoints/softmax";
constexpr char kGguf[] = "tests/testdata/gguf/softmax.gguf";
constexpr char kQuery[] = "model.layers.1.self_attn.q_proj.weight";

Json GoldenConfig() { return *ParseJsonFile(std::string(kFolder) + "/adapter_config.json"); }

std::unique_ptr<Checkpoint> MustOpen(const std::string& path) {
  auto checkpoint = Checkpoint::Open(path);
  EXPECT_EQ(checkpoint.status(), OkStatus());
  return *std::move(checkpoint);
}

std::vector<float> Values(const TensorView& view) {
  std::vector<float> values(view.num_elements());
  CopyToFloat(view, values);
  return values;
}

// A folder with this configuration and the golden's tensors.
std::string FolderWith(const std::string& name, const Json& config) {
  const fs::path folder = fs::path(testing::TempDir()) / name;
  fs::create_directories(folder);
  fs::copy_file(fs::path(kFolder) / "adapter_model.safetensors",
                folder / "adapter_model.safetensors", fs::copy_options::overwrite_existing);
  std::ofstream(folder / "adapter_config.json") << config;
  return folder;
}

TEST(AdapterConfig, ScalesByAlphaOverRank) {
  Json json = {{"r", 16}, {"lora_alpha", 24}};
  const auto plain = AdapterConfig::FromJson(json);
  ASSERT_EQ(plain.status(), OkStatus());
  EXPECT_EQ(plain->scale, 1.5f);
  EXPECT_EQ(plain->base, "");
  EXPECT_TRUE(plain->linear_attention.is_null());
  json["use_rslora"] = true;
  EXPECT_EQ(AdapterConfig::FromJson(json)->scale, 6.0f);
}

TEST(AdapterConfig, TakesWhatPeftWritesForWhatIsNotUsed) {
  const Json unused = {{"use_dora", false},
                       {"modules_to_save", nullptr},
                       {"rank_pattern", Json({})},
                       {"alpha_pattern", Json::object()},
                       {"layers_pattern", nullptr},
                       {"init_lora_weights", true},
                       {"bias", "none"},
                       {"fan_in_fan_out", false}};
  Json json = GoldenConfig();
  json.update(unused);
  EXPECT_EQ(AdapterConfig::FromJson(json).status(), OkStatus());
}

TEST(AdapterConfig, RefusesByName) {
  const struct {
    const char* key;
    Json value;
    StatusCode code;
  } cases[] = {
      {"r", nullptr, StatusCode::kInvalidArgument},
      {"r", -1, StatusCode::kInvalidArgument},
      {"r", 1 << 20, StatusCode::kInvalidArgument},
      {"lora_alpha", "16", StatusCode::kInvalidArgument},
      {"lora_alpha", 1e300, StatusCode::kInvalidArgument},
      {"base_model_name_or_path", 7, StatusCode::kInvalidArgument},
      {"peft_type", "IA3", StatusCode::kUnimplemented},
      {"bias", "all", StatusCode::kUnimplemented},
      {"use_dora", true, StatusCode::kUnimplemented},
      {"fan_in_fan_out", true, StatusCode::kUnimplemented},
      {"modules_to_save", {"embed_tokens"}, StatusCode::kUnimplemented},
      {"rank_pattern", {{"q_proj", 4}}, StatusCode::kUnimplemented},
      {"alpha_pattern", {{"q_proj", 4}}, StatusCode::kUnimplemented},
      {"init_lora_weights", "pissa", StatusCode::kUnimplemented},
  };
  for (const auto& [key, value, code] : cases) {
    Json json = GoldenConfig();
    json[key] = value;
    const Status status = AdapterConfig::FromJson(json).status();
    EXPECT_EQ(status.code(), code) << key << ": " << value;
    EXPECT_THAT(Message(status), HasSubstr(key));
  }
  EXPECT_EQ(AdapterConfig::FromJson(Json::array()).status().code(), StatusCode::kInvalidArgument);
}

TEST(Adapter, ChangesTheWeightsAsNumPyDoes) {
  auto golden = SafetensorsFile::Open(std::string(kFolder) + "/merged.safetensors");
  ASSERT_EQ(golden.status(), OkStatus());
  ASSERT_GE(golden->tensors().size(), 6u);
  // The file holds the same weights by other names, and the rows of queries and keys in another
  // order.
  for (const char* base : {kBase, kGguf}) {
    const auto adapted = ApplyAdapter(MustOpen(base), kFolder);
    ASSERT_EQ(adapted.status(), OkStatus());
    for (const auto& [name, expected] : golden->tensors()) {
      const TensorView* view = (*adapted)->Find(name);
      ASSERT_NE(view, nullptr);
      EXPECT_THAT(Values(*view), testing::Pointwise(testing::FloatNear(1e-6f), Values(expected)))
          << base << ", " << name;
    }
  }
}

TEST(Adapter, LeavesTheRestToTheBase) {
  const auto base = MustOpen(kBase);
  const auto adapted = MustOpen(kFolder);  // Which names its base.
  EXPECT_EQ(adapted->path(), kFolder);
  EXPECT_THAT(adapted->folders(), ElementsAre(kFolder, kBase));
  const std::string up = "model.layers.1.mlp.up_proj.weight";
  EXPECT_EQ(Values(*adapted->Find(up)), Values(*base->Find(up)));
  EXPECT_EQ(adapted->config().hidden_size, base->config().hidden_size);
  EXPECT_FALSE(base->config().is_linearized());
  EXPECT_TRUE(adapted->config().is_linearized());
  EXPECT_EQ(adapted->config().attention[1].form.conv_kernel, 7);
  EXPECT_EQ(Values(*adapted->Find("model.layers.1.self_attn.decay")).size(), 2u);
  EXPECT_EQ((*adapted->LoadTokenizer())->vocab_size(), (*base->LoadTokenizer())->vocab_size());
  EXPECT_TRUE(adapted->LoadChatTemplate().ok());
  // All bytes of both files' tensors.
  auto file = SafetensorsFile::Open(std::string(kFolder) + "/adapter_model.safetensors");
  int64_t bytes = base->weight_bytes();
  for (const auto& [name, view] : file->tensors()) bytes += view.stored_bytes();
  EXPECT_EQ(adapted->weight_bytes(), bytes);
}

TEST(Adapter, MaySayHowToSample) {
  EXPECT_FALSE(MustOpen(kFolder)->config().sampling_defaults.temperature.has_value());
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "sampling";
  std::filesystem::create_directories(folder);
  for (const char* file : {"adapter_config.json", "adapter_model.safetensors"}) {
    std::filesystem::copy_file(std::filesystem::path(kFolder) / file, folder / file,
                               std::filesystem::copy_options::overwrite_existing);
  }
  const auto apply = [&](const char* generation) {
    std::ofstream(folder / "generation_config.json") << generation;
    return ApplyAdapter(MustOpen(kBase), folder.string());
  };
  const auto adapted = apply(R"({"temperature": 0.25, "eos_token_id": 7})");
  ASSERT_TRUE(adapted.ok()) << adapted.status();
  EXPECT_EQ((*adapted)->config().sampling_defaults.temperature, 0.25f);
  EXPECT_THAT((*adapted)->config().eos_token_ids, ElementsAre(7));
  EXPECT_THAT(Message(apply(R"({"temperature": -1})").status()),
              testing::HasSubstr(folder.string() + ": generation_config.json: temperature"));
}

// The golden's tensors without those of the attention.
class UpdatesOnly {
 public:
  explicit UpdatesOnly(const std::string& folder)
      : file_(*SafetensorsFile::Open(folder + "/adapter_model.safetensors")) {
    for (const auto& [name, view] : file_.tensors()) {
      if (name.starts_with("base_model.")) tensors_[name] = view;
    }
  }
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }

 private:
  SafetensorsFile file_;
  std::map<std::string, TensorView> tensors_;
};

TEST(Adapter, AddsToAnotherAdaptersChanges) {
  const auto base = MustOpen(kBase);
  const auto once = MustOpen(kFolder);
  const UpdatesOnly second(kFolder);
  AdapterConfig config = *AdapterConfig::FromJson(GoldenConfig());
  config.linear_attention = Json();
  auto matched = MatchAdapter(second.tensors(), config, *once, "x");
  ASSERT_EQ(matched.status(), OkStatus());
  TensorView twice = *base->Find(kQuery);
  twice.update = &matched->updates.at(kQuery);
  const auto w = Values(*base->Find(kQuery)), w1 = Values(*once->Find(kQuery)), w2 = Values(twice);
  for (size_t i = 0; i < w.size(); ++i) ASSERT_NEAR(w2[i], 2 * w1[i] - w[i], 1e-5);
}

TEST(MatchAdapter, RefusesByFileAndTensor) {
  using Tensors = std::map<std::string, TensorView>;
  const std::string a = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight";
  const std::string b = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight";
  const std::string decay = "model.layers.1.self_attn.decay";
  const auto rename = [](Tensors& tensors, const std::string& from, const std::string& to) {
    tensors[to] = tensors.at(from);
    tensors.erase(from);
  };
  const struct {
    const char* what;
    std::function<void(Tensors&)> change;
    const char* named;  // In the message.
  } cases[] = {
      {"no B", [&](Tensors& t) { t.erase(b); }, "q_proj.lora_B.weight is missing"},
      {"no A", [&](Tensors& t) { t.erase(a); }, "q_proj.lora_A.weight is missing"},
      {"another rank",
       [&](Tensors& t) {
         t.at(a).shape = {8, 24};
       },
       "q_proj.lora_A.weight: shape"},
      {"rows",
       [&](Tensors& t) {
         t.at(b).shape = {24, 8};
       },
       "q_proj.lora_B.weight: shape"},
      {"a vector", [&](Tensors& t) { t.at(b).shape = {192}; }, "q_proj.lora_B.weight: shape"},
      {"int8 without factors", [&](Tensors& t) { t.at(a).type = TensorType::kI8; }, "lora_A"},
      {"a layer too many",
       [&](Tensors& t) {
         for (const char* part : {"A", "B"}) {
           const std::string end = fmt::format(".self_attn.q_proj.lora_{}.weight", part);
           rename(t, "base_model.model.model.layers.1" + end,
                  "base_model.model.model.layers.2" + end);
         }
       },
       "no matrix model.layers.2.self_attn.q_proj.weight"},
      {"a norm",
       [&](Tensors& t) {
         rename(t, a, "base_model.model.model.layers.1.input_layernorm.lora_A.weight");
       },
       "no matrix model.layers.1.input_layernorm.weight"},
      {"an embedding",
       [&](Tensors& t) { rename(t, a, "base_model.model.model.embed_tokens.lora_embedding_A"); },
       "lora_embedding_A"},
      {"DoRA", [&](Tensors& t) { rename(t, a, a + ".lora_magnitude_vector"); }, "magnitude"},
      {"factors of nothing", [&](Tensors& t) { rename(t, a, a + ".scale"); },
       "lora_A.weight.scale"},
      {"a whole weight", [&](Tensors& t) { rename(t, decay, kQuery); }, kQuery},
      {"attention of a layer too many",
       [&](Tensors& t) { rename(t, decay, "model.layers.2.self_attn.decay"); }, "layers.2"},
      {"an unknown part", [&](Tensors& t) { rename(t, decay, decay + "s"); }, "decays"},
      {"no layer", [&](Tensors& t) { rename(t, decay, "model.layers.x.self_attn.decay"); }, "x"},
  };
  const auto base = MustOpen(kBase);
  const AdapterConfig config = *AdapterConfig::FromJson(GoldenConfig());
  const auto file = SafetensorsFile::Open(std::string(kFolder) + "/adapter_model.safetensors");
  ASSERT_EQ(MatchAdapter(file->tensors(), config, *base, "x").status(), OkStatus());
  for (const auto& [what, change, named] : cases) {
    Tensors tensors = file->tensors();
    change(tensors);
    const Status status = MatchAdapter(tensors, config, *base, "x.safetensors").status();
    EXPECT_FALSE(status.ok()) << what;
    EXPECT_THAT(Message(status), HasSubstr("x.safetensors: tensor ")) << what;
    EXPECT_THAT(Message(status), HasSubstr(named)) << what;
  }
  AdapterConfig softmax = config;
  softmax.linear_attention = Json();
  EXPECT_THAT(Message(MatchAdapter(file->tensors(), softmax, *base, "x").status()),
              HasSubstr("no linear_attention"));
}

TEST(ApplyAdapter, RefusesBasesThatDoNotFit) {
  const auto error = [](const std::string& base) {
    return Message(ApplyAdapter(MustOpen(base), kFolder).status());
  };
  EXPECT_THAT(error("tests/testdata/checkpoints/window_wider"), HasSubstr("linearized already"));
  EXPECT_THAT(error("tests/testdata/checkpoints/llama3_biases"), HasSubstr("imply"));
  EXPECT_EQ(ApplyAdapter(MustOpen(kBase), kBase).status().code(), StatusCode::kNotFound);
  const std::string bad =
      FolderWith("bad_attention", {{"r", 4}, {"lora_alpha", 6}, {"linear_attention", 1}});
  EXPECT_THAT(Message(ApplyAdapter(MustOpen(kBase), bad).status()), HasSubstr(bad));
}

TEST(FindBaseModel, LooksForThePathAndThenForTheName) {
  Json config = GoldenConfig();
  const fs::path cache = fs::path(testing::TempDir()) / "cache";
  fs::create_directories(cache / "models/some-model");
  ASSERT_EQ(setenv("TREELINE_CACHE", cache.c_str(), 1), 0);

  config["base_model_name_or_path"] = kBase;
  EXPECT_EQ(FindBaseModel(FolderWith("by_path", config)).value(), kBase);
  for (const char* name : {"someone/some-model", "some-model", "/gone/some-model/"}) {
    config["base_model_name_or_path"] = name;
    EXPECT_EQ(FindBaseModel(FolderWith("by_name", config)).value(), cache / "models/some-model");
  }
  config["base_model_name_or_path"] = "someone/other-model";
  const Status status = Checkpoint::Open(FolderWith("nowhere", config)).status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_THAT(Message(status), HasSubstr("models/other-model"));
  EXPECT_THAT(Message(status), HasSubstr("--adapter"));
  config.erase("base_model_name_or_path");
  EXPECT_EQ(FindBaseModel(FolderWith("unnamed", config)).status().code(), StatusCode::kNotFound);
}

TEST(FindBaseModel, AnAdapterIsNoBase) {
  Json config = GoldenConfig();
  const std::string folder = FolderWith("itself", config);
  config["base_model_name_or_path"] = folder;
  FolderWith("itself", config);
  EXPECT_EQ(Checkpoint::Open(folder).status().code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace treeline
