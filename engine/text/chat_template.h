// Renders a model's chat template (Jinja, as Hugging Face's tokenizer_config.json
// carries it). Immutable after parsing; Render is safe from any thread.
// What of Jinja is supported: engine/text/jinja/template.h.
#ifndef TREELINE_ENGINE_TEXT_CHAT_TEMPLATE_H_
#define TREELINE_ENGINE_TEXT_CHAT_TEMPLATE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "engine/base/json.h"
#include "engine/base/status.h"

namespace treeline {

class ChatTemplate {
 public:
  // What the template sees besides its own variables. Objects keep the client's order of
  // members, which templates print (tool schemas).
  struct Inputs {
    OrderedJson messages;  // Array of {"role", "content", ...}; content is not normalised.
    OrderedJson tools;     // Array, or null for none: the template then sees none, as in
                           // Hugging Face's apply_chat_template.
    bool add_generation_prompt = true;
    std::string bos_token;
    std::string eos_token;
    OrderedJson extra;             // Object: more variables ("date_string", ...), or null. They
                                   // take the place of the above where the names are equal.
    int64_t now_unix_seconds = 0;  // What strftime_now() shows, as UTC.
  };

  // Finds the template of a Hugging Face model folder: chat_template.jinja, or
  // tokenizer_config.json's "chat_template" (a string, or a list of named ones, of which
  // "default" is taken). NOT_FOUND where there is none; INVALID_ARGUMENT with the file, the line
  // and the construct for what is malformed or not supported.
  static StatusOr<ChatTemplate> Load(const std::string& model_dir);
  static StatusOr<ChatTemplate> Parse(const std::string& source);

  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  // The prompt's text. INVALID_ARGUMENT with the line where the template raises (its message is
  // kept), misuses a value, or runs past the step and output limits that bound hostile templates.
  StatusOr<std::string> Render(const Inputs& inputs) const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_TEXT_CHAT_TEMPLATE_H_
