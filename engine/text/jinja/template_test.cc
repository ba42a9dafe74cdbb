#include "engine/text/jinja/template.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "engine/base/file.h"
#include "engine/base/json.h"

namespace treeline::jinja {
namespace {

const std::string kTestdata = "tests/testdata/chat_templates/";
constexpr int64_t kGoldenTime = 1'721'995'200;  // 2024-07-26 12:00 UTC.

StatusOr<std::string> Render(std::string_view source, const OrderedJson& context) {
  StatusOr<Template> parsed = Template::Parse(source);
  if (!parsed.ok()) return parsed.status();
  Template::Variables variables;
  for (auto member = context.begin(); member != context.end(); ++member) {
    variables.emplace_back(member.key(), &*member);
  }
  return parsed->Render(variables, kGoldenTime);
}

StatusOr<std::string> Render(std::string_view source) {
  return Render(source, OrderedJson::object());
}

std::string ErrorOf(const StatusOr<std::string>& rendered) {
  if (rendered.ok()) return "no error, but: " + rendered->substr(0, 200);
  EXPECT_EQ(rendered.status().code(), StatusCode::kInvalidArgument);
  return Message(rendered.status());
}

std::vector<OrderedJson> ReadLines(const std::string& path) {
  std::ifstream file(path);
  std::vector<OrderedJson> lines;
  for (std::string line; std::getline(file, line);) {
    lines.push_back(ParseOrderedJson(line, path).value());
  }
  return lines;
}

OrderedJson ReadOrdered(const std::string& path) {
  return ParseOrderedJson(ReadFile(path).value(), path).value();
}

TEST(Template, RendersEveryConstructAsJinja2Does) {
  const std::vector<OrderedJson> lines = ReadLines(kTestdata + "constructs.jsonl");
  ASSERT_GT(lines.size(), 900);
  const OrderedJson& context = lines[0].at("context");
  for (size_t i = 1; i < lines.size(); ++i) {
    const auto source = lines[i].at("source").get<std::string>();
    const StatusOr<std::string> rendered = Render(source, context);
    if (lines[i].contains("error")) {
      EXPECT_FALSE(rendered.ok()) << source << "\nrendered " << *rendered << "\nJinja2 raised "
                                  << lines[i]["error"];
    } else {
      ASSERT_TRUE(rendered.ok()) << source << "\n" << Message(rendered.status());
      EXPECT_EQ(*rendered, lines[i].at("rendered").get<std::string>()) << source;
    }
  }
}

TEST(Template, RendersTheTemplatesOfModelsAsJinja2Does) {
  const std::vector<OrderedJson> goldens = ReadLines(kTestdata + "goldens_jinja2.jsonl");
  ASSERT_EQ(goldens.size(), 272);
  for (const OrderedJson& golden : goldens) {
    const auto name = golden.at("template").get<std::string>();
    const auto context_name = golden.at("context").get<std::string>();
    SCOPED_TRACE(name + " with " + context_name);
    const OrderedJson context = ReadOrdered(kTestdata + "contexts/" + context_name + ".json");
    const auto rendered = Render(ReadFile(kTestdata + "templates/" + name).value(), context);
    if (golden.contains("rendered")) {
      ASSERT_TRUE(rendered.ok()) << Message(rendered.status());
      EXPECT_EQ(*rendered, golden["rendered"].get<std::string>());
    } else {
      const auto message = golden.at("message").get<std::string>();
      EXPECT_NE(ErrorOf(rendered).find(message), std::string::npos) << ErrorOf(rendered);
    }
  }
}

TEST(Template, RendersTheTemplatesOfLlamaCppAsJinja2Does) {
  const OrderedJson file = ReadOrdered(kTestdata + "llamacpp_template_tests.json");
  ASSERT_EQ(file.at("cases").size(), 30);
  for (const OrderedJson& test_case : file.at("cases")) {
    SCOPED_TRACE(test_case.at("name").get<std::string>());
    const OrderedJson context = {{"messages", file.at("messages")},
                                 {"add_generation_prompt", file.at("add_generation_prompt")},
                                 {"bos_token", test_case.at("bos_token")},
                                 {"eos_token", test_case.at("eos_token")}};
    const auto rendered = Render(test_case.at("template").get<std::string>(), context);
    const OrderedJson& expected = test_case.at("jinja2");
    if (expected.contains("rendered")) {
      ASSERT_TRUE(rendered.ok()) << Message(rendered.status());
      EXPECT_EQ(*rendered, expected["rendered"].get<std::string>());
    } else {
      const auto message = expected.at("message").get<std::string>();
      EXPECT_NE(ErrorOf(rendered).find(message), std::string::npos) << ErrorOf(rendered);
    }
  }
}

TEST(Template, PrintsTheBodyOfGenerationBlocks) {
  EXPECT_EQ(*Render("a{% generation %}b{% endgeneration %}c"), "abc");
}

struct Refusal {
  std::string source;
  std::string message;
};

void ExpectRefused(const std::vector<Refusal>& refusals) {
  for (const auto& [source, message] : refusals) {
    EXPECT_NE(ErrorOf(Render(source)).find(message), std::string::npos) << source << "\n"
                                                                        << ErrorOf(Render(source));
  }
}

TEST(Template, RefusesUnsupportedConstructsWhenParsedByNameAndLine) {
  const std::vector<Refusal> refusals = {
      {"\n{% include 'x' %}", "line 2: the tag 'include' is not supported"},
      {"{% import 'x' as y %}", "line 1: the tag 'import' is not supported"},
      {"{% extends 'x' %}", "the tag 'extends' is not supported"},
      {"{% block x %}{% endblock %}", "the tag 'block' is not supported"},
      {"{% autoescape true %}{% endautoescape %}", "the tag 'autoescape' is not supported"},
      {"{% do x %}", "the tag 'do' is not supported"},
      {"\n\n{% for x in y recursive %}{% endfor %}", "line 3: a 'recursive' loop"},
      {"{{ f(*a) }}", "unpacking arguments with * is not supported"},
      {"{{ f(**a) }}", "unpacking arguments with ** is not supported"},
      {"{% macro m() %}{{ varargs }}{% endmacro %}", "'varargs' in a macro is not supported"},
      {"{{ cycler(1) }}", "the function 'cycler' is not supported"},
      {"{{ x|wordwrap }}", "the filter 'wordwrap' is not supported"},
      {"{{ x is filter }}", "the test 'filter' is not supported"},
      {"{{ 0x1F }}", "only decimal numbers are supported"},
      {"{{ 9223372036854775808 }}", "the integer 9223372036854775808 beyond 64 bits"},
      {"{{ '\\N{BULLET}' }}", "the escape \\N in a string is not supported"},
      {"{{ '\\ud800' }}", "not a character"},
      {"{{ \xc3\xa9 }}", "unexpected character '\xc3\xa9'"},
  };
  ExpectRefused(refusals);
  for (const auto& [source, message] : refusals) EXPECT_FALSE(Template::Parse(source).ok());
}

TEST(Template, RefusesUnsupportedValuesWhenRendered) {
  ExpectRefused({
      {"a\n{{ 'a'.format(1) }}", "line 2: the method 'format' of str is not supported"},
      {"{{ '%s' % 1 }}", "formatting text with % is not supported"},
      {"{{ 9223372036854775807 + 1 }}", "an integer beyond 64 bits is not supported"},
      {"{{ (-9223372036854775807 - 1) // -1 }}", "an integer beyond 64 bits"},
      {"{{ -(-9223372036854775807 - 1) }}", "an integer beyond 64 bits"},
      {"{{ 3 ** 100 }}", "an integer beyond 64 bits"},
      {"{{ [1]|select }}", "printing a generator is not supported"},
      {"{{ {(1, 2): 3} }}", "unhashable type: 'tuple'"},
      {"{% for i in [1] %}{{ loop.changed(i) }}{% endfor %}", "loop.changed is not supported"},
      {"{{ {'a': 1}|tojson(indent=2, sort_keys=true) ~ [1]|sort(attribute='a,b') }}",
       "sorting by several attributes is not supported"},
  });
}

TEST(Template, NamesTheLineOfAFailureInsideAMacroAndAfterIt) {
  EXPECT_NE(ErrorOf(Render("{% macro m() %}\n{{ 1 / 0 }}\n{% endmacro %}\n\n{{ m() }}"))
                .find("line 2: division by zero"),
            std::string::npos);
  EXPECT_NE(ErrorOf(Render("{% macro m() %}\n{{ 1 }}\n{% endmacro %}\n\n{{ m() - 1 }}"))
                .find("line 5: unsupported operand"),
            std::string::npos);
}

TEST(Template, ShowsWhatATemplateThatRaisesSays) {
  EXPECT_EQ(ErrorOf(Render("{{ raise_exception('only {} roles') }}")), "line 1: only {} roles");
}

TEST(Template, RefusesIntegersOfInputsBeyond64Bits) {
  EXPECT_NE(ErrorOf(Render("", {{"n", 18446744073709551615U}})).find("beyond 64 bits"),
            std::string::npos);
}

std::string Repeated(int count, const std::string& text) {
  std::string repeated;
  for (int i = 0; i < count; ++i) repeated += text;
  return repeated;
}

TEST(HostileTemplate, IsRefusedWhenParsed) {
  ExpectRefused({
      {std::string((1 << 20) + 1, 'x'), "1048577 bytes, more than the 1048576 allowed"},
      {"\xff\xfe", "not UTF-8"},
      {"{{ " + Repeated(900, "(") + "1" + Repeated(900, ")") + " }}",
       "nested deeper than 100 levels"},
      {"{{ " + Repeated(900, "[") + "1" + Repeated(900, "]") + " }}",
       "nested deeper than 100 levels"},
      {"{{ " + Repeated(900, "-") + "1 }}", "nested deeper than 100 levels"},
      {"{{ " + Repeated(900, "not ") + "1 }}", "nested deeper than 100 levels"},
      {"{{ " + Repeated(400, "1 if 1 else ") + "1 }}", "nested deeper than 100 levels"},
      {"{% set " + Repeated(900, "(") + "x" + Repeated(900, ")") + " = 1 %}",
       "nested deeper than 100 levels"},
      {Repeated(5000, "{% if 1 %}"), "nested deeper than 100 levels"},
      {"{{ 1" + Repeated(5000, "+1") + " }}", "a tag of more than 2000 tokens"},
      {"{{ x" + Repeated(5000, ".x") + " }}", "a tag of more than 2000 tokens"},
      {Repeated(200'000, "{# "), "a comment is not closed"},
      {Repeated(100'000, "{% raw %}"), "a raw block is not closed"},
  });
}

TEST(HostileTemplate, StopsAtTheDepthOfCalls) {
  ExpectRefused({
      {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "runs nested deeper than 500 levels"},
      {"{{ 1" + Repeated(900, "+1") + " }}", "runs nested deeper than 500 levels"},
      {"{% macro m(n) %}{% call m(n) %}{% endcall %}{% endmacro %}{{ m(1) }}",
       "runs nested deeper than 500 levels"},
  });
}

TEST(HostileTemplate, StopsAtTheStepLimit) {
  ExpectRefused({
      {"{% set r = range(10000) %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}",
       "runs for more than 10000000 steps"},
      {"{% set ns = namespace(a=[0]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}"
       "{% endfor %}{{ ns.a }}",
       "runs for more than 10000000 steps"},
      {"{% set ns = namespace(a=[0], b=[0]) %}{% for i in range(60) %}"
       "{% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}{% endfor %}{{ ns.a == ns.b }}",
       "runs for more than 10000000 steps"},
  });
}

TEST(HostileTemplate, StopsAtTheMemoryLimit) {
  const std::string limit = "works through more than 64 MiB";
  ExpectRefused({
      {"{{ 'x' * 1000000000000 }}", limit},
      {"{{ [1] * 9223372036854775807 }}", limit},
      {"{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}"
       "{% endfor %}",
       limit},
      {"{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = ns.s ~ ns.s %}"
       "{% endfor %}",
       limit},
      {"{% set s = 'x' * 1000000 %}{{ s|replace('x', s) }}", limit},
      {"{% set s = 'x' * 1000000 %}{{ s|join(s) }}", limit},
      {"{{ 'a'|indent(9223372036854775807) }}", limit},
      {"{{ [1]|tojson(indent=9223372036854775807) }}", limit},
      {"{% set s = 'x' * 1000000 %}{{ range(1000)|list|tojson(separators=(s, s)) }}", limit},
      {"{% set s = 'x' * 1000000 %}{% for i in range(1000) %}{% set t = 'y' in s %}{% endfor %}",
       limit},
      {"{% set s = 'x' * 1000000 %}{% set t = 'x' * 1000000 %}{% for i in range(1000) %}"
       "{% set u = s == t %}{% endfor %}",
       limit},
  });
}

TEST(HostileTemplate, StopsAtTheOutputLimit) {
  ExpectRefused({{"{% set s = 'x' * 1000000 %}{% for i in range(70) %}{{ s }}{% endfor %}",
                  "prints more than 16 MiB"}});
}

TEST(HostileTemplate, StopsAtTheDepthOfValues) {
  const std::string chain =
      "{% set ns = namespace(a=[]) %}{% for i in range(100000) %}{% set ns.a = [ns.a] %}"
      "{% endfor %}";
  ExpectRefused({
      {chain + "{{ ns.a }}", "nested deeper than 100 levels"},
      {chain + "{{ ns.a|tojson }}", "nested deeper than 100 levels"},
      {chain + "{% set b = ns.a %}{{ [b] == [[b]] }}", "nested deeper than 100 levels"},
      {"{% set ns = namespace() %}{% set ns.self = [ns] %}{{ ns }}", "nested deeper than 100"},
  });
  EXPECT_EQ(*Render(chain + "ok"), "ok");  // Building and freeing it is fine.
}

TEST(HostileInput, IsNotAllowedToNestDeeply) {
  OrderedJson deep;
  for (int i = 0; i < 200; ++i) deep = OrderedJson::array({deep});
  EXPECT_NE(ErrorOf(Render("", {{"deep", deep}})).find("an input is nested deeper than 100"),
            std::string::npos);
}

TEST(HostileInput, MayHoldBytesThatAreNotUtf8) {
  EXPECT_EQ(*Render("{{ s|length }}{{ s[1:] }}{{ s|upper }}", {{"s", "a\xff\x80"}}),
            "3\xff\x80"
            "A\xff\x80");
}

}  // namespace
}  // namespace treeline::jinja
