// A subset of Jinja2 with the settings of Hugging Face's chat templates: trim_blocks,
// lstrip_blocks, loop controls, tojson without HTML escapes, raise_exception and strftime_now,
// no change of lists and dicts by a template. What is supported renders byte for byte as
// Jinja2 3.1 renders it; the rest is refused by name, where possible when the template is
// parsed. Hostile templates and inputs meet limits (parser.h, runtime.h, interpreter.h).
//
//   Template     owns the parsed tree (ast.h); lexer, expression_parser and parser make it
//   Interpreter  walks the tree; operators.h and builtins.h are Python's semantics
//   Runtime      owns the values (value.h) of one rendering and counts what it uses
//
// Not supported: template inheritance and import, recursive loops, *args, varargs, automatic
// escaping, extensions, integers beyond 64 bits, text formatting with % and format(), and the
// filters, tests and methods missing from the tables in builtins.h. map, select, items and the
// other filters that make generators run at once, so they fail where Jinja2 would fail later.
#ifndef TREELINE_ENGINE_TEXT_JINJA_TEMPLATE_H_
#define TREELINE_ENGINE_TEXT_JINJA_TEMPLATE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/base/json.h"
#include "engine/base/status.h"

namespace treeline::jinja {

struct Ast;

// Immutable after parsing; Render is safe from any thread.
class Template {
 public:
  // Names with their values, which are only read. Of two equal names the later wins.
  using Variables = std::vector<std::pair<std::string_view, const OrderedJson*>>;

  // INVALID_ARGUMENT with the line and the construct for what is malformed or not supported.
  static StatusOr<Template> Parse(std::string_view source);

  Template(Template&&) noexcept;
  Template& operator=(Template&&) noexcept;
  ~Template();

  // `now_unix_seconds` is the time of strftime_now(), shown as UTC. INVALID_ARGUMENT with the
  // line where the template raises, misuses a value or runs past a limit.
  StatusOr<std::string> Render(const Variables& variables, int64_t now_unix_seconds) const;

 private:
  explicit Template(std::unique_ptr<const Ast> ast);
  std::unique_ptr<const Ast> ast_;
};

}  // namespace treeline::jinja

#endif  // TREELINE_ENGINE_TEXT_JINJA_TEMPLATE_H_
