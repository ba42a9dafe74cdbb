// Renders a model's chat template (Jinja, as Hugging Face's tokenizer_config.json
// carries it). Immutable after parsing; Render is safe from any thread.
#ifndef TREELINE_ENGINE_TEXT_CHAT_TEMPLATE_H_
#define TREELINE_ENGINE_TEXT_CHAT_TEMPLATE_H_

#include <memory>
#include <string>

#include "engine/base/json.h"
#include "engine/base/status.h"

namespace treeline {

class ChatTemplate {
 public:
  // What the template sees besides its own variables.
  struct Inputs {
    Json messages;         // array of {"role", "content", ...}
    Json tools;            // array, or null for none
    bool add_generation_prompt = true;
    std::string bos_token;
    std::string eos_token;
    Json extra;            // object: more variables ("date_string", ...), or null
  };

  // Finds the template of a Hugging Face model folder: chat_template.jinja, or
  // tokenizer_config.json's "chat_template" (a string, or a list of named ones, of which
  // "default" is taken). NOT_FOUND where there is none; INVALID_ARGUMENT with the line and the
  // construct for what is malformed or not supported.
  static StatusOr<ChatTemplate> Load(const std::string& model_dir);
  static StatusOr<ChatTemplate> Parse(const std::string& source);

  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  // The prompt's text. INVALID_ARGUMENT where the template raises (its message is kept),
  // misuses a value, or runs past the step and output limits that bound hostile templates.
  StatusOr<std::string> Render(const Inputs& inputs) const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_TEXT_CHAT_TEMPLATE_H_
