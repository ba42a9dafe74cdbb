#include "engine/text/jinja/template.h"

#include "engine/text/jinja/ast.h"
#include "engine/text/jinja/interpreter.h"
#include "engine/text/jinja/parser.h"
#include "engine/text/jinja/runtime.h"

namespace treeline::jinja {

Template::Template(std::unique_ptr<const Ast> ast) : ast_(std::move(ast)) {}
Template::Template(Template&&) noexcept = default;
Template& Template::operator=(Template&&) noexcept = default;
Template::~Template() = default;

StatusOr<Template> Template::Parse(std::string_view source) {
  TREELINE_ASSIGN_OR_RETURN(std::unique_ptr<const Ast> ast, jinja::Parse(source));
  return Template(std::move(ast));
}

StatusOr<std::string> Template::Render(const Variables& variables, int64_t now_unix_seconds) const {
  Runtime runtime(now_unix_seconds);
  std::vector<std::pair<std::string_view, Value>> values;
  for (const auto& [name, json] : variables) {
    TREELINE_ASSIGN_OR_RETURN(const Value value, runtime.FromJson(*json));
    values.emplace_back(name, value);
  }
  return Interpreter(*ast_, runtime).Run(values);
}

}  // namespace treeline::jinja
