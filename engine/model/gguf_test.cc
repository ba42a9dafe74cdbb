#include "engine/model/gguf.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "engine/base/file.h"
#include "engine/model/gguf_test_file.h"
#include "engine/model/safetensors.h"

namespace treeline {
namespace {

using File = GgufTestFile;

StatusOr<Gguf> Parse(const std::string& file) {
  return Gguf::Parse(std::as_bytes(std::span(file)), "x.gguf");
}

TEST(Gguf, ReadsMetadataOfEveryType) {
  const std::string file =
      File()
          .Add("u8", 0, File::Raw<uint8_t>(200))
          .Add("i8", 1, File::Raw<int8_t>(-5))
          .Add("u16", 2, File::Raw<uint16_t>(60000))
          .Add("i16", 3, File::Raw<int16_t>(-3))
          .Add("u32", 4, File::Raw<uint32_t>(4000000000u))
          .Add("i32", 5, File::Raw<int32_t>(-7))
          .Add("f32", 6, File::Raw(0.5f))
          .Add("bool", 7, File::Raw<uint8_t>(1))
          .Add("text", std::string("größer"))
          .Add("u64", 10, File::Raw<uint64_t>(1))
          .Add("i64", 11, File::Raw<int64_t>(-1))
          .Add("f64", 12, File::Raw(0.1))
          .Add("texts", std::vector<std::string>{"a", "", "b c"})
          .Add("ints", 9,
               File::Raw<uint32_t>(5) + File::Raw<uint64_t>(2) + File::Raw<int32_t>(3) +
                   File::Raw<int32_t>(-4))
          .Add("floats", 9, File::Raw<uint32_t>(6) + File::Raw<uint64_t>(1) + File::Raw(2.5f))
          .Build();
  const auto gguf = Parse(file);
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  EXPECT_EQ(*gguf->Integer("u8"), 200);
  EXPECT_EQ(*gguf->Integer("i8"), -5);
  EXPECT_EQ(*gguf->Integer("u16"), 60000);
  EXPECT_EQ(*gguf->Integer("i16"), -3);
  EXPECT_EQ(*gguf->Integer("u32"), 4000000000);
  EXPECT_EQ(*gguf->Integer("i32"), -7);
  EXPECT_EQ(*gguf->Integer("u64"), 1);
  EXPECT_EQ(*gguf->Integer("i64"), -1);
  EXPECT_EQ(*gguf->Number("f32"), 0.5);
  EXPECT_EQ(*gguf->Number("f64"), 0.1);
  EXPECT_EQ(*gguf->Number("i8"), -5);
  EXPECT_TRUE(*gguf->Bool("bool"));
  EXPECT_EQ(*gguf->String("text"), "größer");
  EXPECT_EQ(*gguf->Strings("texts"), (std::vector<std::string>{"a", "", "b c"}));
  EXPECT_EQ(*gguf->Integers("ints"), (std::vector<int32_t>{3, -4}));
  EXPECT_EQ(*gguf->Numbers("floats"), (std::vector<float>{2.5f}));
  EXPECT_TRUE(gguf->Has("u8"));
  EXPECT_FALSE(gguf->Has("u9"));
}

TEST(Gguf, NamesTheKeyOfAnotherType) {
  const std::string file =
      File()
          .Add("text", std::string("\xff", 1))
          .Add("number", 1.5f)
          .Add("huge", 10, File::Raw(std::numeric_limits<uint64_t>::max()))
          .Add("texts", std::vector<std::string>{"ok", "\xc3"})
          .Add("longs", 9,
               File::Raw<uint32_t>(11) + File::Raw<uint64_t>(1) + File::Raw<int64_t>(1LL << 40))
          .Build();
  const auto gguf = Parse(file);
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  const std::pair<Status, const char*> kCases[] = {
      {gguf->Integer("none").status(), "key none is missing"},
      {gguf->Integer("number").status(), "key number must be an integer"},
      {gguf->Integer("huge").status(), "key huge must be an integer below 2^63"},
      {gguf->Number("text").status(), "key text must be a number"},
      {gguf->Bool("number").status(), "key number must be true or false"},
      {gguf->String("number").status(), "key number must be UTF-8 text"},
      {gguf->String("text").status(), "key text must be UTF-8 text"},
      {gguf->String("texts").status(), "key texts must be no array"},
      {gguf->Strings("text").status(), "key text must be an array"},
      {gguf->Strings("texts").status(), "key texts must be an array of UTF-8 texts"},
      {gguf->Strings("longs").status(), "key longs must be an array of strings"},
      {gguf->Integers("longs").status(), "key longs must be an array of 32-bit integers"},
      {gguf->Integers("texts").status(), "key texts must be an array of 32-bit integers"},
      {gguf->Numbers("texts").status(), "key texts must be an array of numbers"},
  };
  for (const auto& [status, in_message] : kCases) {
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << in_message;
    EXPECT_EQ(Message(status).find("x.gguf: "), 0) << status;
    EXPECT_NE(Message(status).find(in_message), std::string::npos) << status;
  }
}

TEST(Gguf, ReadsTensors) {
  for (const uint32_t alignment : {32u, 64u}) {
    const std::string file = File()
                                 .Add("general.alignment", alignment)
                                 .AddTensor("a", {3, 2}, 0, 0, std::string(24, '\1'))
                                 .AddTensor("b", {32, 1}, 8, alignment, std::string(34, '\2'))
                                 .Build(2, alignment);
    const auto gguf = Parse(file);
    ASSERT_TRUE(gguf.ok()) << gguf.status();
    ASSERT_EQ(gguf->tensors().size(), 2u);
    const TensorView& a = gguf->tensors().at("a");
    EXPECT_EQ(a.type, TensorType::kF32);
    EXPECT_EQ(a.shape, (std::vector<int64_t>{2, 3}));
    EXPECT_EQ(a.bytes.size(), 24u);
    EXPECT_EQ(a.bytes[0], std::byte{1});
    const TensorView& b = gguf->tensors().at("b");
    EXPECT_EQ(b.type, TensorType::kQ80);
    EXPECT_EQ(b.shape, (std::vector<int64_t>{1, 32}));
    EXPECT_EQ(b.bytes.size(), 34u);
    EXPECT_EQ(b.bytes[0], std::byte{2});
  }
}

// tests/testdata/gguf/README.md: what ggml's own package makes of each type's blocks.
TEST(Gguf, DequantisesEveryTypeBitForBit) {
  const auto file = MappedFile::Open("tests/testdata/gguf/blocks.gguf");
  ASSERT_TRUE(file.ok()) << file.status();
  const auto gguf = Gguf::Parse(file->bytes(), "blocks.gguf");
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  const auto values_file = MappedFile::Open("tests/testdata/gguf/blocks_values.safetensors");
  ASSERT_TRUE(values_file.ok()) << values_file.status();
  const auto expected = ParseSafetensors(values_file->bytes(), "blocks_values.safetensors");
  ASSERT_TRUE(expected.ok()) << expected.status();
  ASSERT_EQ(gguf->tensors().size(), 13u);
  for (const auto& [name, view] : gguf->tensors()) {
    const TensorView& values = expected->at(name);
    ASSERT_EQ(view.shape, values.shape) << name;
    std::vector<float> actual(view.num_elements());
    CopyToFloat(view, actual);
    EXPECT_EQ(std::memcmp(actual.data(), values.bytes.data(), values.bytes.size()), 0) << name;
    std::vector<float> row(view.shape[1]);
    CopyRowToFloat(view, 1, row);
    EXPECT_TRUE(std::equal(row.begin(), row.end(), actual.begin() + row.size())) << name;
  }
}

void ExpectError(const std::string& file, StatusCode code, const std::string& in_message) {
  const Status status = Parse(file).status();
  EXPECT_EQ(status.code(), code) << in_message << ": " << status;
  EXPECT_EQ(Message(status).find("x.gguf: "), 0) << status;
  EXPECT_NE(Message(status).find(in_message), std::string::npos) << status;
}

// Every prefix of a sound file is refused, and none is read past its end.
TEST(Gguf, RefusesTruncatedFiles) {
  const std::string file = File()
                               .Add("text", std::string("value"))
                               .Add("texts", std::vector<std::string>{"a", "b"})
                               .Add("number", 7u)
                               .AddTensor("t", {2, 4})
                               .Build();
  ASSERT_TRUE(Parse(file).ok());
  for (size_t size = 0; size < file.size(); ++size) {
    const std::vector<char> exact(file.begin(), file.begin() + size);  // No bytes behind it.
    const Status status = Gguf::Parse(std::as_bytes(std::span(exact)), "x.gguf").status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << size;
  }
}

TEST(Gguf, RefusesOtherFilesAndVersions) {
  ExpectError("", StatusCode::kInvalidArgument, "not a GGUF file");
  ExpectError("PK\3\4 and more", StatusCode::kInvalidArgument, "not a GGUF file");
  ExpectError(File().Build(1), StatusCode::kUnimplemented, "GGUF version 1 ");
  ExpectError(File().Build(4), StatusCode::kUnimplemented, "GGUF version 4 ");
  ExpectError(File().Build(0x03000000), StatusCode::kUnimplemented, "big-endian");
}

TEST(Gguf, RefusesHostileMetadata) {
  constexpr uint64_t kHuge = std::numeric_limits<uint64_t>::max();
  const auto array = [](uint32_t type, uint64_t count) {
    return File::Raw(type) + File::Raw(count) + std::string(64, '\0');
  };
  const struct {
    File file;
    const char* in_message;
  } kCases[] = {
      {File().Add("k", 13, ""), "key k: values of type 13"},
      {File().Add("k", 8, File::Raw(kHuge)), "key k: x.gguf: truncated"},
      {File().Add("k", 8, File::Raw(uint64_t{1} << 40)), "key k: x.gguf: truncated"},
      {File().Add("k", 9, array(8, kHuge)), "key k: x.gguf: truncated"},
      {File().Add("k", 9, array(0, kHuge)), "key k: x.gguf: truncated"},
      {File().Add("k", 9, array(10, kHuge)), "key k: values of type 10"},
      {File().Add("k", 9, array(10, kHuge / 8 + 2)), "key k: values of type 10"},
      {File().Add("k", 9, array(9, 1)), "key k: values of type 9"},
      {File().Add("k", 1u).Add("k", 2u), "key k is there twice"},
      {File().Add("", 1u), "a key"},
      {File().Add(std::string(257, 'k'), 1u), "a key"},
      {File().Add("\xff", 1u), "a key"},
      {File().Add("general.alignment", 0u), "general.alignment must be a power of two"},
      {File().Add("general.alignment", 48u), "general.alignment must be a power of two"},
      {File().Add("general.alignment", 1u << 31), "general.alignment must be a power of two"},
      {File().Add("general.alignment", 32.0f), "general.alignment must be an integer"},
  };
  for (const auto& c : kCases) {
    ExpectError(c.file.Build(), StatusCode::kInvalidArgument, c.in_message);
  }
  // Counts of keys and tensors that the file cannot hold.
  for (const uint64_t count : {kHuge, uint64_t{1} << 40}) {
    const std::string header = "GGUF" + File::Raw<uint32_t>(3);
    ExpectError(header + File::Raw<uint64_t>(0) + File::Raw(count), StatusCode::kInvalidArgument,
                "truncated");
    ExpectError(header + File::Raw(count) + File::Raw<uint64_t>(0), StatusCode::kInvalidArgument,
                "truncated");
  }
}

TEST(Gguf, RefusesHostileTensors) {
  constexpr uint64_t kHuge = std::numeric_limits<uint64_t>::max();
  constexpr uint64_t kHalf = uint64_t{1} << 32;
  const std::string data(128, '\0');
  const struct {
    File file;
    const char* in_message;
  } kCases[] = {
      {File().AddTensor("t", {}, 0, 0, data), "tensor t: 0 dimensions"},
      {File().AddTensor("t", {1, 1, 1, 1, 1}, 0, 0, data), "tensor t: 5 dimensions"},
      {File().AddTensor("t", {0}, 0, 0, data), "tensor t: dimension 0"},
      {File().AddTensor("t", {kHuge}, 0, 0, data), "tensor t: dimension 0"},
      {File().AddTensor("t", {kHalf, kHalf}, 0, 0, data), "tensor t: dimension 1"},
      {File().AddTensor("t", {kHalf / 2, kHalf / 2}, 0, 0, data), "tensor t: its shape"},
      {File().AddTensor("t", {33}, 8, 0, data), "tensor t: rows of 33 are not whole blocks of 32"},
      {File().AddTensor("t", {128, 2}, 12, 0, data), "tensor t: rows of 128 are not whole blocks"},
      {File().AddTensor("t", {33}, 0, 0, data), "tensor t ends behind"},
      {File().AddTensor("t", {32}, 0, 32, data), "tensor t is at offset 32 of the data, but 0"},
      {File().AddTensor("t", {32}, 0, kHuge - 31, ""), "tensor t is at offset"},
      {File().AddTensor("a", {32}, 0, 0, data).AddTensor("b", {8}, 0, 96, ""),
       "tensor b is at offset 96 of the data, but 128"},
      {File().AddTensor("a", {4}, 0, 0, data).AddTensor("b", {4}, 0, 16, ""),
       "tensor b is at offset 16 of the data, but 32"},
      {File().AddTensor("t", {8}, 0, 0, data).AddTensor("t", {8}, 0, 32, ""),
       "tensor t is there twice"},
      {File().AddTensor("", {8}, 0, 0, data), "a tensor's name"},
      {File().AddTensor("t\xff", {8}, 0, 0, data), "a tensor's name"},
  };
  for (const auto& c : kCases) {
    ExpectError(c.file.Build(), StatusCode::kInvalidArgument, c.in_message);
  }
}

TEST(Gguf, NamesTensorTypesThatAreNotReadAndTheRemedy) {
  const std::pair<uint32_t, const char*> kTypes[] = {
      {20, "IQ4_NL"}, {23, "IQ4_XS"}, {39, "MXFP4"}, {4, "unknown"}, {1000, "unknown"}};
  for (const auto& [id, name] : kTypes) {
    const std::string file = File().AddTensor("blk.0.t", {256}, id, 0, "").Build();
    ExpectError(file, StatusCode::kUnimplemented,
                fmt::format("tensor blk.0.t: its type {} ({})", id, name));
    ExpectError(file, StatusCode::kUnimplemented, "llama-quantize");
  }
}

}  // namespace
}  // namespace treeline
