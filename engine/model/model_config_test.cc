#include "engine/model/model_config.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

namespace treeline {
namespace {

// As transformers writes a small LLaMA with grouped queries.
Json LlamaConfig() {
  return Json::parse(R"({
    "_name_or_path": "x/y",
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": false,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 576,
    "initializer_range": 0.041666666666666664,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "mlp_bias": false,
    "model_type": "llama",
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "pad_token_id": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": null,
    "rope_theta": 100000,
    "tie_word_embeddings": true,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.42.3",
    "use_cache": true,
    "vocab_size": 49152
  })");
}

StatusOr<ModelConfig> Read(const Json& config) { return ModelConfig::FromJson(config, Json()); }

// LlamaConfig() with the JSON value `text` at `key`; with no `text`, without the key.
Json With(const char* key, const char* text) {
  Json config = LlamaConfig();
  config.erase(key);
  if (text != nullptr) config[key] = Json::parse(text);
  return config;
}

TEST(ModelConfig, ReadsALlama) {
  const auto config = Read(LlamaConfig());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->model_type, "llama");
  EXPECT_EQ(config->vocab_size, 49152);
  EXPECT_EQ(config->hidden_size, 576);
  EXPECT_EQ(config->intermediate_size, 1536);
  EXPECT_EQ(config->num_layers, 30);
  EXPECT_EQ(config->num_heads, 9);
  EXPECT_EQ(config->num_kv_heads, 3);
  EXPECT_EQ(config->head_dim, 64);
  EXPECT_EQ(config->max_position_embeddings, 8192);
  EXPECT_EQ(config->rms_norm_eps, 1e-5f);
  EXPECT_EQ(config->rope.theta, 100000.0);
  EXPECT_EQ(config->rope.scaling, RopeConfig::Scaling::kNone);
  EXPECT_FALSE(config->qkv_bias || config->o_bias || config->mlp_bias);
  EXPECT_FALSE(config->sliding_window.has_value());
  EXPECT_TRUE(config->tie_word_embeddings);
  EXPECT_EQ(config->eos_token_ids, std::vector<int32_t>{2});
  EXPECT_EQ(ToString(config->attention), "softmax");
  EXPECT_FALSE(config->is_linearized());
  EXPECT_FALSE(config->sampling_defaults.temperature.has_value());
  EXPECT_FALSE(config->sampling_defaults.top_k.has_value());
}

TEST(ModelConfig, AbsentKeysTakeHuggingFacesDefaults) {
  Json json = LlamaConfig();
  for (const char* key : {"num_key_value_heads", "rope_theta", "rope_scaling", "eos_token_id",
                          "tie_word_embeddings", "hidden_act", "attention_bias", "mlp_bias"}) {
    json.erase(key);
  }
  const auto config = Read(json);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->num_kv_heads, 9);
  EXPECT_EQ(config->rope.theta, 10000.0);
  EXPECT_TRUE(config->eos_token_ids.empty());
  EXPECT_FALSE(config->tie_word_embeddings);
}

TEST(ModelConfig, AnExplicitHeadDimNeedNotDivideTheHiddenSize) {
  const auto config = Read(With("head_dim", "128"));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->head_dim, 128);
}

TEST(ModelConfig, ReadsRopeParameters) {
  Json json = With("rope_theta", nullptr);
  json["rope_parameters"] = {{"rope_theta", 500000.0}, {"rope_type", "default"}};
  const auto config = Read(json);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rope.theta, 500000.0);
}

TEST(ModelConfig, ModelTypesDifferInBiases) {
  const auto biases = [](const char* model_type, bool attention_bias, bool mlp_bias) {
    Json json = LlamaConfig();
    json["model_type"] = model_type;
    json["attention_bias"] = attention_bias;
    json["mlp_bias"] = mlp_bias;
    const auto config = Read(json);
    EXPECT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->model_type, model_type);
    return std::vector<bool>{config->qkv_bias, config->o_bias, config->mlp_bias};
  };
  EXPECT_EQ(biases("llama", true, false), (std::vector<bool>{true, true, false}));
  EXPECT_EQ(biases("llama", false, true), (std::vector<bool>{false, false, true}));
  // What transformers does not look at has no effect.
  EXPECT_EQ(biases("mistral", true, true), (std::vector<bool>{false, false, false}));
  EXPECT_EQ(biases("qwen2", false, true), (std::vector<bool>{true, false, false}));
}

TEST(ModelConfig, ModelTypesDifferInSlidingWindows) {
  const auto window = [](const char* model_type, const Json& keys) {
    Json json = LlamaConfig();
    json["model_type"] = model_type;
    json.merge_patch(keys);
    const auto config = Read(json);
    EXPECT_TRUE(config.ok()) << config.status();
    return config->sliding_window;
  };
  EXPECT_EQ(window("mistral", {{"sliding_window", 4096}}), 4096);
  EXPECT_EQ(window("mistral", {{"sliding_window", nullptr}}), std::nullopt);
  EXPECT_EQ(window("llama", {{"sliding_window", 4096}}), std::nullopt);
  EXPECT_EQ(window("qwen2", {{"sliding_window", 4096}}), std::nullopt);
  EXPECT_EQ(window("qwen2", {{"sliding_window", 4096}, {"use_sliding_window", true}}), 4096);
}

TEST(ModelConfig, ReadsTheAttentionBlock) {
  const auto config = Read(With("linear_attention", R"({"group_size": 64, "local": "relu2",
    "feature_map": "identity", "qk_norm": "l2", "alpha": "learned", "conv_kernel": 63})"));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->attention.size(), size_t(config->num_layers));
  EXPECT_EQ(ToString(config->attention), "group 64, relu2 + identity, l2, alpha learned, conv 63");
  EXPECT_TRUE(config->is_linearized());
  EXPECT_TRUE(Read(With("linear_attention", "null")).ok());
}

TEST(ModelConfig, OneSoftmaxLayerMakesAStateGrowWithTheContext) {
  const auto config = Read(With("linear_attention", R"({"group_size": 64, "local": "softmax",
    "feature_map": "none", "layers": [{"layers": [1], "group_size": 0}]})"));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->attention[0].form.has_groups());
  EXPECT_FALSE(config->attention[1].form.has_groups());
  EXPECT_FALSE(config->is_linearized());
}

TEST(ModelConfig, GenerationConfigGivesEosAndSamplingDefaults) {
  const Json generation = Json::parse(R"({"eos_token_id": [2, 7], "do_sample": true, "top_k": 20,
    "temperature": 0.6, "top_p": 0.9, "min_p": null, "repetition_penalty": 1.1})");
  const auto config = ModelConfig::FromJson(LlamaConfig(), generation);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->eos_token_ids, (std::vector<int32_t>{2, 7}));
  EXPECT_EQ(config->sampling_defaults.temperature, 0.6f);
  EXPECT_EQ(config->sampling_defaults.top_p, 0.9f);
  EXPECT_EQ(config->sampling_defaults.top_k, 20);
  EXPECT_EQ(config->sampling_defaults.repetition_penalty, 1.1f);
  EXPECT_FALSE(config->sampling_defaults.min_p.has_value());
}

TEST(ModelConfig, EosFallsBackToConfigJson) {
  const auto config = ModelConfig::FromJson(LlamaConfig(), Json::parse(R"({"top_k": 0})"));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->eos_token_ids, std::vector<int32_t>{2});
}

struct Case {
  const char* key;
  const char* value;  // JSON; null: the key is absent.
  const char* in_message;
};

TEST(ModelConfig, NamesWhatIsNotSupported) {
  const Case kCases[] = {
      {"model_type", R"("gemma")",
       "model_type \"gemma\" is not supported; llama, mistral, qwen2 are"},
      {"hidden_act", R"("gelu")", "hidden_act \"gelu\""},
      {"rope_scaling", R"({"type": "su", "factor": 2})", "rope_scaling of type \"su\""},
      {"rope_parameters", R"({"rope_type": "longrope", "rope_theta": 1e4})",
       "rope_parameters of type \"longrope\""},
      {"partial_rotary_factor", "0.5", "partial_rotary_factor 0.5"},
      {"rope_parameters", R"({"rope_type": "default", "partial_rotary_factor": 0.25})",
       "partial_rotary_factor 0.25"},
      {"quantization_config", R"({"quant_method": "gptq", "bits": 4})", "quant_method \"gptq\""},
      {"quantization_config", R"({"quant_method": null})", "quant_method null"},
      {"quantization_config", "{}", "quant_method null"},
      {"linear_attention", R"({"group_size": 1, "local": "relu2", "feature_map": "yoso"})",
       "config.json: linear_attention: feature_map \"yoso\""},
  };
  for (const Case& c : kCases) {
    const Status status = Read(With(c.key, c.value)).status();
    EXPECT_EQ(status.code(), StatusCode::kUnimplemented) << c.key << status;
    EXPECT_EQ(Message(status).find("config.json: "), 0) << status;
    EXPECT_NE(Message(status).find(c.in_message), std::string::npos) << status;
  }
}

TEST(ModelConfig, NamesFileAndKeyOfImpossibleValues) {
  const Case kCases[] = {
      {"model_type", nullptr, "model_type is missing"},
      {"model_type", "7", "model_type must be a string"},
      {"vocab_size", nullptr, "vocab_size is missing"},
      {"vocab_size", "null", "vocab_size is missing"},
      {"vocab_size", "0", "vocab_size"},
      {"vocab_size", "-5", "vocab_size"},
      {"vocab_size", "4194305", "vocab_size"},
      {"vocab_size", "\"49152\"", "vocab_size"},
      {"hidden_size", nullptr, "hidden_size is missing"},
      {"hidden_size", "65537", "hidden_size"},
      {"hidden_size", "1e3", "hidden_size"},
      {"hidden_size", "577", "hidden_size 577 must be a multiple of num_attention_heads 9"},
      {"hidden_size", "9234", "head_dim"},  // 1026 by default.
      {"hidden_size", "567", "head_dim"},   // 63 by default.
      {"intermediate_size", nullptr, "intermediate_size is missing"},
      {"intermediate_size", "9223372036854775807", "intermediate_size"},
      {"num_hidden_layers", nullptr, "num_hidden_layers is missing"},
      {"num_hidden_layers", "1025", "num_hidden_layers"},
      {"num_hidden_layers", "0", "num_hidden_layers"},
      {"num_attention_heads", nullptr, "num_attention_heads is missing"},
      {"num_attention_heads", "0", "num_attention_heads"},
      {"num_key_value_heads", "2", "num_attention_heads 9 must be a multiple of"},
      {"num_key_value_heads", "18", "num_attention_heads 9 must be a multiple of"},
      {"num_key_value_heads", "0", "num_key_value_heads"},
      {"head_dim", "63", "head_dim"},
      {"head_dim", "0", "head_dim"},
      {"head_dim", "1026", "head_dim"},
      {"max_position_embeddings", nullptr, "max_position_embeddings is missing"},
      {"max_position_embeddings", "-1", "max_position_embeddings"},
      {"rms_norm_eps", nullptr, "rms_norm_eps is missing"},
      {"rms_norm_eps", "-1e-5", "rms_norm_eps"},
      {"rms_norm_eps", "0", "rms_norm_eps"},
      {"rms_norm_eps", "[]", "rms_norm_eps"},
      {"rope_theta", "0", "rope_theta"},
      {"rope_theta", "1e300", "rope_theta"},
      {"rope_parameters", R"({"rope_theta": "big"})", "rope_parameters: rope_theta"},
      {"rope_parameters", "[]", "rope_parameters"},
      {"rope_scaling", "2.0", "rope_scaling"},
      {"rope_scaling", R"({"rope_type": "linear"})", "rope_scaling: factor is missing"},
      {"rope_scaling", R"({"factor": 2})", "rope_scaling has a factor but no rope_type"},
      {"rope_scaling", R"({"rope_type": "dynamic", "factor": 0.5})", "rope_scaling: factor"},
      {"rope_scaling", R"({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1})",
       "rope_scaling: high_freq_factor is missing"},
      {"rope_scaling",
       R"({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4})",
       "high_freq_factor must be above low_freq_factor 4"},
      {"rope_scaling", R"({"rope_type": "yarn", "factor": 4, "attention_factor": -1})",
       "rope_scaling: attention_factor"},
      {"rope_scaling",
       R"({"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 0})",
       "rope_scaling: original_max_position_embeddings"},
      {"rope_scaling", R"({"rope_type": "yarn", "factor": 4, "rope_theta": 1})",
       "rope_theta must be above 1"},
      {"rope_scaling", R"({"type": 3})", "rope_scaling: type"},
      {"tie_word_embeddings", "1", "tie_word_embeddings"},
      {"attention_bias", "\"no\"", "attention_bias"},
      {"quantization_config", "3", "quantization_config"},
      {"eos_token_id", "49152", "eos_token_id"},
      {"eos_token_id", "-1", "eos_token_id"},
      {"eos_token_id", "[2, \"x\"]", "eos_token_id"},
      {"eos_token_id", "1.5", "eos_token_id"},
      {"linear_attention", "[]", "linear_attention"},
      {"linear_attention", R"({"group_size": -1})", "linear_attention: group_size"},
  };
  for (const Case& c : kCases) {
    const Status status = Read(With(c.key, c.value)).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << c.key << status;
    EXPECT_EQ(Message(status).find("config.json: "), 0) << status;
    EXPECT_NE(Message(status).find(c.in_message), std::string::npos) << status;
  }
}

TEST(ModelConfig, NamesTheGenerationConfigsKeys) {
  const Case kCases[] = {
      {"temperature", "-1", "temperature"},
      {"temperature", "\"hot\"", "temperature"},
      {"top_p", "0", "top_p"},
      {"top_p", "1e300", "top_p"},
      {"top_k", "-1", "top_k"},
      {"top_k", "0.5", "top_k"},
      {"min_p", "2", "min_p"},
      {"repetition_penalty", "0", "repetition_penalty"},
      {"eos_token_id", "99999", "eos_token_id"},
  };
  for (const Case& c : kCases) {
    const Json generation = {{c.key, Json::parse(c.value)}};
    const Status status = ModelConfig::FromJson(LlamaConfig(), generation).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << c.key << status;
    EXPECT_EQ(Message(status).find("generation_config.json: "), 0) << status;
    EXPECT_NE(Message(status).find(c.in_message), std::string::npos) << status;
  }
  EXPECT_EQ(ModelConfig::FromJson(LlamaConfig(), Json::array()).status().code(),
            StatusCode::kInvalidArgument);
}

TEST(ModelConfig, RefusesNan) {
  for (const char* key : {"rope_theta", "rms_norm_eps"}) {
    Json json = LlamaConfig();
    json[key] = std::numeric_limits<double>::quiet_NaN();
    EXPECT_EQ(Read(json).status().code(), StatusCode::kInvalidArgument) << key;
  }
}

TEST(ModelConfig, RefusesWhatIsNoObject) {
  for (const char* text : {"[]", "null", "3", "\"x\""}) {
    EXPECT_EQ(Read(Json::parse(text)).status().code(), StatusCode::kInvalidArgument) << text;
  }
}

class ModelConfigLoad : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = testing::TempDir() + "/" + testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::create_directories(dir_);
  }
  void Write(const std::string& name, const std::string& text) {
    std::ofstream(dir_ + "/" + name) << text;
  }
  std::string dir_;
};

TEST_F(ModelConfigLoad, ReadsAFolder) {
  Write("config.json", LlamaConfig().dump());
  auto config = ModelConfig::Load(dir_);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->eos_token_ids, std::vector<int32_t>{2});
  Write("generation_config.json", R"({"eos_token_id": 5, "temperature": 0.5})");
  config = ModelConfig::Load(dir_);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->eos_token_ids, std::vector<int32_t>{5});
  EXPECT_EQ(config->sampling_defaults.temperature, 0.5f);
}

TEST_F(ModelConfigLoad, NamesAMissingFile) {
  const Status status = ModelConfig::Load(dir_).status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_NE(Message(status).find(dir_ + "/config.json"), std::string::npos) << status;
}

TEST_F(ModelConfigLoad, NamesTheFileOfBadSyntax) {
  // Python's json writes NaN and Infinity; they are not JSON.
  for (const char* text : {"", "{", R"({"rope_theta": NaN})", R"({"rope_theta": Infinity})",
                           R"({"rope_theta": 1e999})", "{\"a\": \"\xff\"}"}) {
    Write("config.json", text);
    const Status status = ModelConfig::Load(dir_).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << text;
    EXPECT_NE(Message(status).find(dir_ + "/config.json"), std::string::npos) << status;
  }
  Write("config.json", LlamaConfig().dump());
  Write("generation_config.json", "{");
  const Status status = ModelConfig::Load(dir_).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(Message(status).find("/generation_config.json"), std::string::npos) << status;
}

TEST_F(ModelConfigLoad, NamesTheFolderOfABadValue) {
  Write("config.json", With("vocab_size", "0").dump());
  const Status status = ModelConfig::Load(dir_).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(Message(status).find(dir_ + ": config.json: vocab_size"), 0) << status;
}

}  // namespace
}  // namespace treeline
