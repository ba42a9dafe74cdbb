// Requests made to be expensive: what reading them allocates grows with their size, and no
// faster. Memory is the measure because time is none: whatever copies or collects its input again
// and again allocates more than twice as much for twice the input.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <functional>
#include <new>
#include <string>

#include "engine/base/json.h"
#include "engine/text/chat_template.h"
#include "server/byte_tokenizer.h"
#include "server/chat_prompt.h"
#include "server/openai_request.h"

namespace {

std::atomic<size_t> allocated_bytes{0};

}  // namespace

void* operator new(size_t size) {
  allocated_bytes += size;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace treeline {
namespace {

std::string Repeated(const std::string& text, int times) {
  std::string result;
  result.reserve(text.size() * times);
  for (int i = 0; i < times; ++i) result += text;
  return result;
}

// A body whose size is in proportion to `n`.
using MakeBody = std::function<std::string(int n)>;

// Reads it the way the server does, up to the token ids; errors are fine.
void ReadRequest(ApiKind kind, const std::string& text) {
  const StatusOr<Json> body = ParseJson(text, "the request body");
  if (!body.ok()) return;
  const StatusOr<OpenAiRequest> request =
      ParseOpenAiRequest(kind, *body, {.vocab_size = ByteTokenizer::kVocabSize, .defaults = {}});
  if (!request.ok()) return;
  const ByteTokenizer tokenizer;
  if (kind == ApiKind::kCompletion) {
    for (const Prompt& prompt : request->generation.prompts) {
      const auto* prompt_text = std::get_if<std::string>(&prompt);
      if (prompt_text != nullptr) {
        EXPECT_TRUE(tokenizer.Encode(*prompt_text, true, true).ok());
      }
    }
    return;
  }
  const auto chat_template = ChatTemplate::Parse(
      "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}");
  // Where the template's limits stop it, that is an answer too.
  (void)EncodeChat(request->generation.messages, *chat_template, tokenizer, SpecialTexts(tokenizer),
                   0);
}

size_t BytesFor(ApiKind kind, const std::string& body) {
  const size_t before = allocated_bytes;
  ReadRequest(kind, body);
  return allocated_bytes - before;
}

void ExpectLinear(ApiKind kind, const MakeBody& make_body) {
  constexpr int kSize = 20'000;
  const size_t once = BytesFor(kind, make_body(kSize));
  const size_t twice = BytesFor(kind, make_body(2 * kSize));
  const size_t four_times = BytesFor(kind, make_body(4 * kSize));
  // Containers that double their room make steps of two; what copies again and again would show
  // four times for twice the input, and sixteen times for four times.
  EXPECT_LT(twice, 3 * once);
  EXPECT_LT(four_times, 6 * once);
}

TEST(HostileInputTest, DeepJson) {
  ExpectLinear(ApiKind::kCompletion, [](int n) { return std::string(n, '['); });
  ExpectLinear(ApiKind::kCompletion,
               [](int n) { return std::string(n, '[') + std::string(n, ']'); });
  ExpectLinear(ApiKind::kCompletion,
               [](int n) { return Repeated(R"({"a":)", n) + "1" + std::string(n, '}'); });
}

TEST(HostileInputTest, WideJson) {
  ExpectLinear(ApiKind::kCompletion,
               [](int n) { return R"({"prompt": "x", "unknown": [)" + Repeated("0,", n) + "0]}"; });
  ExpectLinear(ApiKind::kCompletion, [](int n) {
    std::string body = R"({"prompt": "x")";
    for (int i = 0; i < n; ++i) body += fmt::format(R"(,"field{}":0)", i);
    return body + "}";
  });
  ExpectLinear(ApiKind::kCompletion,
               [](int n) { return R"({"prompt": "x")" + Repeated(R"(,"n":1)", n) + "}"; });
}

TEST(HostileInputTest, LogitBiasStopsAndPrompts) {
  ExpectLinear(ApiKind::kCompletion, [](int n) {
    std::string body = R"({"prompt": "x", "logit_bias": {"0":1)";
    for (int i = 1; i < n; ++i) body += fmt::format(R"(,"{}":1)", i);
    return body + "}}";
  });
  ExpectLinear(ApiKind::kCompletion, [](int n) {
    return R"({"prompt": "x", "stop": [)" + Repeated("\"a\",", n) + "\"a\"]}";
  });
  ExpectLinear(ApiKind::kCompletion,
               [](int n) { return R"({"prompt": [)" + Repeated("1,", n) + "1]}"; });
  ExpectLinear(ApiKind::kCompletion,
               [](int n) { return R"({"prompt": [)" + Repeated("\"x\",", n) + "\"x\"]}"; });
  ExpectLinear(ApiKind::kCompletion,
               [](int n) { return R"({"prompt": ")" + Repeated("x<s", n) + "\"}"; });
}

TEST(HostileInputTest, Chats) {
  const auto one_message = [](const std::string& content) {
    return R"({"messages": [{"role": "user", "content": ")" + content + "\"}]}";
  };
  // Texts of special tokens, their beginnings, and the marks that stand around them inside.
  for (const char* part : {"<|im_end|>", "<", "<|im_", "\ufdd0", "\ufdd0<|im_end|>\ufdd1"}) {
    ExpectLinear(ApiKind::kChat, [&](int n) { return one_message(Repeated(part, n)); });
  }
  ExpectLinear(ApiKind::kChat, [](int n) {
    return R"({"messages": [)" + Repeated(R"({"role": "user", "content": "x"},)", n / 10) +
           R"({"role": "user", "content": "x"}]})";
  });
  ExpectLinear(ApiKind::kChat, [](int n) {
    return R"({"messages": [{"role": "user", "content": [)" +
           Repeated(R"({"type": "text", "text": "x"},)", n / 10) +
           R"({"type": "text", "text": "x"}]}]})";
  });
}

}  // namespace
}  // namespace treeline
