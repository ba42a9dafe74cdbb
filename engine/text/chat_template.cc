#include "engine/text/chat_template.h"

#include <utility>

#include "engine/base/file.h"
#include "engine/text/jinja/template.h"

namespace treeline {
namespace {

// The template in the "chat_template" of a tokenizer_config.json.
StatusOr<std::string> ReadConfiguredTemplate(const std::string& path) {
  TREELINE_ASSIGN_OR_RETURN(const Json config, ParseJsonFile(path));
  const auto found = config.is_object() ? config.find("chat_template") : config.end();
  if (found == config.end() || found->is_null()) {
    return NotFound("{}: no \"chat_template\"; put the template in chat_template.jinja", path);
  }
  if (found->is_string()) return found->get<std::string>();
  if (!found->is_array()) {
    return InvalidArgument("{}: \"chat_template\" is neither text nor a list", path);
  }
  for (const Json& entry : *found) {
    if (!entry.is_object() || entry.value("name", Json()) != "default") continue;
    const auto source = entry.find("template");
    if (source != entry.end() && source->is_string()) return source->get<std::string>();
  }
  return NotFound("{}: \"chat_template\" has no entry named \"default\" with a \"template\"", path);
}

}  // namespace

struct ChatTemplate::Impl {
  jinja::Template jinja;
};

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

StatusOr<ChatTemplate> ChatTemplate::Load(const std::string& model_dir) {
  std::string path = model_dir + "/chat_template.jinja";
  StatusOr<std::string> source = ReadFile(path);
  if (source.status().code() == StatusCode::kNotFound) {
    path = model_dir + "/tokenizer_config.json";
    source = ReadConfiguredTemplate(path);
  }
  TREELINE_RETURN_IF_ERROR(source.status());
  StatusOr<ChatTemplate> chat_template = Parse(*source);
  if (!chat_template.ok()) return Annotate(chat_template.status(), path);
  return chat_template;
}

StatusOr<ChatTemplate> ChatTemplate::Parse(const std::string& source) {
  StatusOr<jinja::Template> parsed = jinja::Template::Parse(source);
  if (!parsed.ok()) return Annotate(parsed.status(), "chat template");
  return ChatTemplate(std::make_unique<Impl>(Impl{*std::move(parsed)}));
}

StatusOr<std::string> ChatTemplate::Render(const Inputs& inputs) const {
  const OrderedJson add_generation_prompt = inputs.add_generation_prompt;
  const OrderedJson bos_token = inputs.bos_token;
  const OrderedJson eos_token = inputs.eos_token;
  const OrderedJson no_documents;
  jinja::Template::Variables variables = {
      {"messages", &inputs.messages}, {"tools", &inputs.tools},
      {"documents", &no_documents},   {"add_generation_prompt", &add_generation_prompt},
      {"bos_token", &bos_token},      {"eos_token", &eos_token},
  };
  if (!inputs.extra.is_object() && !inputs.extra.is_null()) {
    return InvalidArgument("chat template: the extra variables must be an object");
  }
  for (auto extra = inputs.extra.begin(); extra != inputs.extra.end(); ++extra) {
    variables.emplace_back(extra.key(), &*extra);
  }
  StatusOr<std::string> prompt = impl_->jinja.Render(variables, inputs.now_unix_seconds);
  if (!prompt.ok()) return Annotate(prompt.status(), "chat template");
  return prompt;
}

}  // namespace treeline
