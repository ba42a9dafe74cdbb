#include "engine/model/gguf_checkpoint.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include "engine/model/gguf_test_file.h"

namespace treeline {
namespace {

using File = GgufTestFile;

constexpr char kFolder[] = "tests/testdata/gguf/";

// Two layers of 2:1 heads of 8, as llama.cpp's converter writes them; keys are of `architecture`.
File SmallModel(const std::string& architecture = "llama") {
  const auto key = [&](const char* name) { return architecture + "." + name; };
  File file;
  file.Add("general.architecture", architecture)
      .Add(key("embedding_length"), 16u)
      .Add(key("feed_forward_length"), 24u)
      .Add(key("block_count"), 2u)
      .Add(key("context_length"), 512u)
      .Add(key("attention.head_count"), 2u)
      .Add(key("attention.head_count_kv"), 1u)
      .Add(key("attention.layer_norm_rms_epsilon"), 1e-5f)
      .AddTensor("token_embd.weight", {40, 16})
      .AddTensor("output_norm.weight", {16});
  for (const char* layer : {"blk.0.", "blk.1."}) {
    file.AddTensor(std::string(layer) + "attn_q.weight", {16, 16})
        .AddTensor(std::string(layer) + "attn_k.weight", {8, 16});
  }
  return file;
}

StatusOr<Gguf> Parse(const std::string& file) {
  return Gguf::Parse(std::as_bytes(std::span(file)), "x.gguf");
}

StatusOr<ModelConfig> Config(const File& file) {
  const std::string bytes = file.Build();
  TREELINE_ASSIGN_OR_RETURN(const Gguf gguf, Parse(bytes));
  return GgufModelConfig(gguf);
}

TEST(GgufModelConfig, ReadsTheMetadata) {
  const auto config = Config(SmallModel()
                                 .Add("llama.rope.freq_base", 500000.0f)
                                 .Add("llama.rope.dimension_count", 8u)
                                 .Add("llama.vocab_size", 39u)  // The tensor is what counts.
                                 .Add("tokenizer.ggml.eos_token_id", 2u)
                                 .Add("tokenizer.ggml.eot_token_id", 7u));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->model_type, "llama");
  EXPECT_EQ(config->vocab_size, 40);
  EXPECT_EQ(config->hidden_size, 16);
  EXPECT_EQ(config->intermediate_size, 24);
  EXPECT_EQ(config->num_layers, 2);
  EXPECT_EQ(config->num_heads, 2);
  EXPECT_EQ(config->num_kv_heads, 1);
  EXPECT_EQ(config->head_dim, 8);
  EXPECT_EQ(config->max_position_embeddings, 512);
  EXPECT_EQ(config->rms_norm_eps, 1e-5f);
  EXPECT_EQ(config->rope.theta, 500000.0);
  EXPECT_EQ(config->rope.scaling, RopeConfig::Scaling::kNone);
  EXPECT_TRUE(config->tie_word_embeddings);
  EXPECT_FALSE(config->qkv_bias || config->o_bias || config->mlp_bias);
  EXPECT_EQ(config->eos_token_ids, (std::vector<int32_t>{2, 7}));
}

TEST(GgufModelConfig, TensorsTellOfBiasesAndTies) {
  const auto config = Config(SmallModel()
                                 .AddTensor("output.weight", {40, 16})
                                 .AddTensor("blk.0.attn_q.bias", {16})
                                 .AddTensor("blk.0.attn_output.bias", {16})
                                 .AddTensor("blk.0.ffn_down.bias", {16}));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_FALSE(config->tie_word_embeddings);
  EXPECT_TRUE(config->qkv_bias && config->o_bias && config->mlp_bias);
  EXPECT_TRUE(Config(SmallModel("qwen2"))->qkv_bias);
}

TEST(GgufModelConfig, ReadsRopeScaling) {
  using Scaling = RopeConfig::Scaling;
  const auto rope = [](const File& file) {
    const auto config = Config(file);
    EXPECT_TRUE(config.ok()) << config.status();
    return config->rope;
  };
  const std::string type = "llama.rope.scaling.type", factor = "llama.rope.scaling.factor";
  EXPECT_EQ(rope(SmallModel().Add(type, "none").Add(factor, 4.0f)).scaling, Scaling::kNone);
  EXPECT_EQ(rope(SmallModel().Add(type, "linear").Add(factor, 4.0f)).scaling, Scaling::kLinear);
  EXPECT_EQ(rope(SmallModel().Add(factor, 4.0f)).factor, 4.0);
  EXPECT_EQ(rope(SmallModel().Add("llama.rope.scale_linear", 8.0f)).factor, 8.0);
  const RopeConfig yarn = rope(SmallModel()
                                   .Add(type, "yarn")
                                   .Add(factor, 4.0f)
                                   .Add("llama.rope.scaling.original_context_length", 128u)
                                   .Add("llama.rope.scaling.yarn_attn_factor", 1.25f)
                                   .Add("llama.rope.scaling.yarn_beta_fast", 16.0f)
                                   .Add("llama.rope.scaling.yarn_ext_factor", 1.0f));
  EXPECT_EQ(yarn.scaling, Scaling::kYarn);
  EXPECT_EQ(yarn.original_context, 128);
  EXPECT_EQ(yarn.attention_factor, 1.25);
  EXPECT_EQ(yarn.beta_fast, 16.0);
  EXPECT_EQ(yarn.beta_slow, 1.0);

  EXPECT_EQ(rope(SmallModel().AddTensor("rope_freqs.weight", {4}, {1, 2, 4, 8})).frequency_divisors,
            (std::vector<float>{1, 2, 4, 8}));
}

TEST(GgufModelConfig, NamesWhatIsMissingOrNotSupported) {
  const struct {
    File file;
    StatusCode code;
    const char* in_message;
  } kCases[] = {
      {File(), StatusCode::kInvalidArgument, "key general.architecture is missing"},
      {SmallModel("gemma3"), StatusCode::kUnimplemented,
       "general.architecture \"gemma3\" is not supported; llama and qwen2 are"},
      {File().Add("general.architecture", "llama"), StatusCode::kInvalidArgument,
       "key llama.embedding_length is missing"},
      {SmallModel().Add("split.count", 3u), StatusCode::kUnimplemented,
       "one of 3 parts of a split model; join them first: llama-gguf-split --merge"},
      {SmallModel().Add("llama.expert_count", 8u), StatusCode::kUnimplemented,
       "key llama.expert_count: mixtures of experts"},
      {SmallModel().Add("llama.rope.scaling.type", "longrope"), StatusCode::kUnimplemented,
       "key llama.rope.scaling.type"},
      {SmallModel().Add("llama.rope.scaling.type", "linear"), StatusCode::kInvalidArgument,
       "key llama.rope.scaling.factor is missing"},
      {SmallModel()
           .Add("llama.rope.scaling.type", "yarn")
           .Add("llama.rope.scaling.factor", 4.0f)
           .Add("llama.rope.scaling.yarn_log_multiplier", 0.1f),
       StatusCode::kUnimplemented, "key llama.rope.scaling.yarn_log_multiplier"},
      {SmallModel().Add("llama.attention.key_length", 8u).Add("llama.rope.dimension_count", 4u),
       StatusCode::kUnimplemented, "key llama.rope.dimension_count is 4, but heads have 8"},
      {SmallModel().Add("llama.rope.freq_base", 0.0f), StatusCode::kInvalidArgument,
       "its metadata as a config.json: rope_theta must be"},
      {SmallModel().Add("tokenizer.ggml.eos_token_id", 40u), StatusCode::kInvalidArgument,
       "its metadata as a config.json: eos_token_id must be"},
      {SmallModel().AddTensor("rope_freqs.weight", {5}), StatusCode::kInvalidArgument,
       "tensor rope_freqs.weight: shape [5]"},
      {SmallModel().AddTensor("rope_freqs.weight", {4}), StatusCode::kInvalidArgument,
       "tensor rope_freqs.weight: a value"},
  };
  for (const auto& c : kCases) {
    const Status status = Config(c.file).status();
    EXPECT_EQ(status.code(), c.code) << c.in_message << status;
    EXPECT_EQ(Message(status).find("x.gguf: "), 0) << status;
    EXPECT_NE(Message(status).find(c.in_message), std::string::npos) << status;
  }
}

StatusOr<std::map<std::string, TensorView>> Tensors(const std::string& bytes) {
  TREELINE_ASSIGN_OR_RETURN(const Gguf gguf, Parse(bytes));
  TREELINE_ASSIGN_OR_RETURN(const ModelConfig config, GgufModelConfig(gguf));
  return GgufTensors(gguf, config);
}

TEST(GgufTensors, HaveHuggingFacesNames) {
  const std::string llama = SmallModel().AddTensor("blk.1.ffn_up.bias", {24}).Build();
  const auto tensors = Tensors(llama);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 7u);
  EXPECT_EQ(tensors->at("model.embed_tokens.weight").interleaved_heads, 0);
  EXPECT_EQ(tensors->at("model.layers.1.mlp.up_proj.bias").shape, std::vector<int64_t>{24});
  EXPECT_EQ(tensors->at("model.layers.0.self_attn.q_proj.weight").interleaved_heads, 2);
  EXPECT_EQ(tensors->at("model.layers.1.self_attn.k_proj.weight").interleaved_heads, 1);
  const std::string qwen2 = SmallModel("qwen2").Build();
  EXPECT_EQ(Tensors(qwen2)->at("model.layers.0.self_attn.q_proj.weight").interleaved_heads, 0);
}

TEST(GgufTensors, WithoutAPlaceAreRefused) {
  for (const char* name :
       {"blk.0.attn_q_norm.weight", "blk.0.ffn_gate_exps.weight", "blk.x.attn_q.weight",
        "blk..attn_q.weight", "blk.0", "output_norm", "attn_q.weight", "output_norm.scale"}) {
    const std::string file = SmallModel().AddTensor(name, {4}).Build();
    const Status status = Tensors(file).status();
    EXPECT_EQ(status.code(), StatusCode::kUnimplemented) << name;
    EXPECT_NE(Message(status).find(fmt::format("x.gguf: tensor {} has no place", name)),
              std::string::npos)
        << status;
  }
  const Status status =
      Tensors(SmallModel().AddTensor("blk.7.attn_q.weight", {15, 16}).Build()).status();
  EXPECT_NE(Message(status).find("tensor blk.7.attn_q.weight has 15 rows"), std::string::npos);
}

TEST(GgufTokenizerSpec, ReadsTheKeys) {
  const std::string file =
      File()
          .Add("tokenizer.ggml.model", "llama")
          .Add("tokenizer.ggml.pre", "default")
          .Add("tokenizer.ggml.tokens", std::vector<std::string>{"<unk>", "<s>", "a"})
          .Add("tokenizer.ggml.merges", std::vector<std::string>{"a b"})
          .Add("tokenizer.ggml.scores", File::kArray,
               File::Raw<uint32_t>(File::kFloat32) + File::Raw<uint64_t>(1) + File::Raw(-1.5f))
          .Add("tokenizer.ggml.token_type", File::kArray,
               File::Raw<uint32_t>(File::kInt32) + File::Raw<uint64_t>(1) + File::Raw<int32_t>(3))
          .Add("tokenizer.ggml.bos_token_id", 1u)
          .Add("tokenizer.ggml.eos_token_id", 4294967295u)  // None, in some files.
          .Add("tokenizer.ggml.unknown_token_id", 0u)
          .Add("tokenizer.ggml.add_bos_token", File::kBool, File::Raw<uint8_t>(1))
          .Build();
  const auto gguf = Parse(file);
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  const auto spec = GgufTokenizerSpec(*gguf);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->model, "llama");
  EXPECT_EQ(spec->pre_tokenizer, "default");
  EXPECT_EQ(spec->tokens, (std::vector<std::string>{"<unk>", "<s>", "a"}));
  EXPECT_EQ(spec->merges, std::vector<std::string>{"a b"});
  EXPECT_EQ(spec->scores, std::vector<float>{-1.5f});
  EXPECT_EQ(spec->types, std::vector{TokenizerSpec::TokenType::kControl});
  EXPECT_EQ(spec->bos_id, 1);
  EXPECT_EQ(spec->eos_id, std::nullopt);
  EXPECT_EQ(spec->unknown_id, 0);
  EXPECT_EQ(spec->add_bos, true);
  EXPECT_EQ(spec->add_space_prefix, std::nullopt);

  const std::string none = File().Build();
  EXPECT_NE(Message(GgufTokenizerSpec(*Parse(none)).status())
                .find("x.gguf: key tokenizer.ggml.model is missing"),
            std::string::npos);
}

TEST(Checkpoint, OpensAGgufFile) {
  const auto checkpoint = Checkpoint::Open(std::string(kFolder) + "softmax.gguf");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->config().num_layers, 2);
  EXPECT_NE((*checkpoint)->Find("model.layers.1.mlp.down_proj.weight"), nullptr);
  EXPECT_EQ((*checkpoint)->NameInFile("model.layers.1.mlp.down_proj.weight"),
            "blk.1.ffn_down.weight");
  EXPECT_EQ((*checkpoint)->NameInFile("model.norm.weight"), "output_norm.weight");
  EXPECT_TRUE((*checkpoint)->LoadChatTemplate().ok());
}

TEST(Checkpoint, NamesWhatIsNoModel) {
  const std::string path = testing::TempDir() + "/model.safetensors";
  std::ofstream(path) << "not a GGUF";
  const Status status = Checkpoint::Open(path).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(Message(status).find(path + ": not a GGUF file; name a .gguf file, or the folder"),
            std::string::npos)
      << status;
  EXPECT_EQ(Checkpoint::Open(path + ".none").status().code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace treeline
