// Part of the interpreter: one level of its recursion.
#ifndef TREELINE_ENGINE_TEXT_JINJA_FRAME_H_
#define TREELINE_ENGINE_TEXT_JINJA_FRAME_H_

#include "engine/text/jinja/interpreter.h"

namespace treeline::jinja {

class Interpreter::Frame {
 public:
  Frame(Interpreter& interpreter, int line)
      : interpreter_(interpreter), outer_line_(interpreter.line_) {
    interpreter_.line_ = line;
    ++interpreter_.depth_;
  }
  ~Frame() { --interpreter_.depth_; }
  Frame(const Frame&) = delete;
  Frame& operator=(const Frame&) = delete;

  Status Check() const {
    if (interpreter_.depth_ > kMaxCallDepth) {
      return InvalidArgument("runs nested deeper than {} levels", kMaxCallDepth);
    }
    return interpreter_.runtime_.Step();
  }

  // Passes a result on. A failure leaves the line where it is, for the message.
  template <typename T>
  StatusOr<T> Leave(StatusOr<T> result) {
    if (result.ok()) interpreter_.line_ = outer_line_;
    return result;
  }

 private:
  Interpreter& interpreter_;
  const int outer_line_;
};

}  // namespace treeline::jinja

#endif  // TREELINE_ENGINE_TEXT_JINJA_FRAME_H_
