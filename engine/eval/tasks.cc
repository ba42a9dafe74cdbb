#include "engine/eval/tasks.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "engine/base/json.h"

namespace treeline {

namespace {

constexpr size_t kMmluExamples = 5;
constexpr size_t kBbhExamples = 3;
// Subtasks of BBH whose questions list no options are multiple choice if they have no more answers
// than this; others want free text.
constexpr size_t kMaxAnswers = 20;

// A record of the file: its fields, checked as they are read.
class Record {
 public:
  Record(Json json, std::string where) : json_(std::move(json)), where_(std::move(where)) {}

  StatusOr<std::string> String(const char* field) const {
    const auto found = json_.find(field);
    if (found == json_.end() || !found->is_string()) {
      return InvalidArgument("{}: needs a string \"{}\"", where_, field);
    }
    return found->get<std::string>();
  }
  StatusOr<std::vector<std::string>> Strings(const char* field) const {
    const auto found = json_.find(field);
    const auto is_string = [](const Json& value) { return value.is_string(); };
    if (found == json_.end() || !found->is_array() || found->empty() ||
        !std::all_of(found->begin(), found->end(), is_string)) {
      return InvalidArgument("{}: needs a list of strings \"{}\"", where_, field);
    }
    return found->get<std::vector<std::string>>();
  }
  // An index into a list of `size` choices.
  StatusOr<int32_t> Index(const char* field, size_t size) const {
    const auto found = json_.find(field);
    if (found == json_.end() || !found->is_number_unsigned() || found->get<uint64_t>() >= size) {
      return InvalidArgument("{}: needs an index into its {} choices \"{}\"", where_, size, field);
    }
    return found->get<int32_t>();
  }
  bool IsFalse(const char* field) const {
    const auto found = json_.find(field);
    return found != json_.end() && *found == false;
  }
  const std::string& where() const { return where_; }

 private:
  Json json_;
  std::string where_;
};

StatusOr<std::vector<Record>> ReadRecords(std::string_view lines, const std::string& file) {
  std::vector<Record> records;
  for (size_t number = 1; !lines.empty(); ++number) {
    const size_t end = std::min(lines.find('\n'), lines.size());
    const std::string_view line = lines.substr(0, end);
    lines.remove_prefix(std::min(end + 1, lines.size()));
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    std::string where = fmt::format("{}:{}", file, number);
    TREELINE_ASSIGN_OR_RETURN(Json json, ParseJson(line, where));
    if (!json.is_object()) return InvalidArgument("{}: must be a JSON object", where);
    records.emplace_back(std::move(json), std::move(where));
  }
  if (records.empty()) return InvalidArgument("{}: has no records", file);
  return records;
}

std::string Stripped(const std::string& text) {
  const char* blanks = " \t\r\n";
  const size_t begin = text.find_first_not_of(blanks);
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(blanks) - begin + 1);
}

// A record with choices and the index of the right one behind this context.
StatusOr<TaskItem> WithChoices(const Record& record, std::string context) {
  TaskItem item;
  item.context = std::move(context);
  TREELINE_ASSIGN_OR_RETURN(item.choices, record.Strings("choices"));
  TREELINE_ASSIGN_OR_RETURN(item.gold, record.Index("gold", item.choices.size()));
  return item;
}

StatusOr<TaskItem> ReadPiqa(const Record& record) {
  TREELINE_ASSIGN_OR_RETURN(const std::string goal, record.String("goal"));
  return WithChoices(record, fmt::format("Question: {}\nAnswer:", goal));
}

StatusOr<TaskItem> ReadArc(const Record& record) {
  TREELINE_ASSIGN_OR_RETURN(const std::string question, record.String("question"));
  return WithChoices(record, fmt::format("Question: {}\nAnswer:", question));
}

StatusOr<TaskItem> ReadHellaswag(const Record& record) {
  TREELINE_ASSIGN_OR_RETURN(std::string context, record.String("context"));
  return WithChoices(record, std::move(context));
}

// "The premise because" or "therefore", and the choice with a small first letter.
StatusOr<TaskItem> ReadCopa(const Record& record) {
  TREELINE_ASSIGN_OR_RETURN(const std::string premise, record.String("premise"));
  TREELINE_ASSIGN_OR_RETURN(const std::string kind, record.String("question"));
  if (kind != "cause" && kind != "effect") {
    return InvalidArgument("{}: question must be cause or effect", record.where());
  }
  const std::string sentence = Stripped(premise);
  TREELINE_ASSIGN_OR_RETURN(
      TaskItem item,
      WithChoices(record,
                  fmt::format("{} {}", sentence.substr(0, std::max<size_t>(sentence.size(), 1) - 1),
                              kind == "cause" ? "because" : "therefore")));
  for (std::string& choice : item.choices) {
    if (!choice.empty() && choice[0] >= 'A' && choice[0] <= 'Z') choice[0] += 'a' - 'A';
  }
  return item;
}

StatusOr<TaskItem> ReadLambada(const Record& record) {
  TREELINE_ASSIGN_OR_RETURN(const std::string text, record.String("text"));
  const size_t blank = text.rfind(' ');
  if (blank == std::string::npos || blank == 0 || blank + 1 == text.size()) {
    return InvalidArgument("{}: text has no last word", record.where());
  }
  return TaskItem{text.substr(0, blank), {text.substr(blank + 1)}, 0};
}

// The choice at the index of the record's label among `labels`.
StatusOr<TaskItem> WithLabels(const Record& record, std::string context,
                              const std::vector<std::string>& labels,
                              std::vector<std::string> choices) {
  TREELINE_ASSIGN_OR_RETURN(const std::string label, record.String("label"));
  const auto found = std::find(labels.begin(), labels.end(), label);
  if (found == labels.end()) {
    return InvalidArgument("{}: label must be one of {}", record.where(), fmt::join(labels, ", "));
  }
  return TaskItem{std::move(context), std::move(choices),
                  static_cast<int32_t>(found - labels.begin())};
}

StatusOr<TaskItem> ReadQnli(const Record& record) {
  TREELINE_ASSIGN_OR_RETURN(const std::string question, record.String("premise"));
  TREELINE_ASSIGN_OR_RETURN(const std::string sentence, record.String("hypothesis"));
  return WithLabels(
      record,
      fmt::format("{}\n{}\nQuestion: Does this response answer the question?\nAnswer:", question,
                  sentence),
      {"entailment", "not_entailment"}, {"yes", "no"});
}

StatusOr<TaskItem> ReadMnli(const Record& record) {
  TREELINE_ASSIGN_OR_RETURN(const std::string premise, record.String("premise"));
  TREELINE_ASSIGN_OR_RETURN(std::string hypothesis, record.String("hypothesis"));
  hypothesis = Stripped(hypothesis);
  if (!hypothesis.ends_with('.')) hypothesis += '.';
  return WithLabels(
      record, fmt::format("{}\nQuestion: {} True, False or Neither?\nAnswer:", premise, hypothesis),
      {"entailment", "neutral", "contradiction"}, {"True", "Neither", "False"});
}

// Questions that follow examples of their own group.
struct GroupedItem {
  std::string group;
  std::string prompt;  // Up to the answer.
  std::vector<std::string> choices;
  int32_t gold;
  bool is_example;
};

// Each question behind a heading and its group's examples, of which each has so many.
StatusOr<std::vector<TaskItem>> BehindExamples(
    const std::vector<GroupedItem>& grouped, size_t num_examples, const std::string& file,
    const std::function<std::string(const std::string& group)>& heading) {
  std::map<std::string, std::vector<const GroupedItem*>> examples;
  for (const GroupedItem& item : grouped) {
    if (item.is_example) examples[item.group].push_back(&item);
  }
  std::vector<TaskItem> items;
  for (const GroupedItem& item : grouped) {
    if (item.is_example) continue;
    const auto& shown = examples[item.group];
    if (shown.size() < num_examples) {
      return InvalidArgument("{}: {} has {} examples; {} are needed", file, item.group,
                             shown.size(), num_examples);
    }
    TaskItem& task_item = items.emplace_back();
    task_item.context = heading(item.group);
    for (size_t i = 0; i < num_examples; ++i) {
      task_item.context +=
          fmt::format("{} {}\n\n", shown[i]->prompt, shown[i]->choices[shown[i]->gold]);
    }
    task_item.context += item.prompt;
    task_item.choices = item.choices;
    task_item.gold = item.gold;
  }
  return items;
}

StatusOr<std::vector<TaskItem>> ReadMmlu(const std::vector<Record>& records,
                                         const std::string& file) {
  const std::vector<std::string> letters = {"A", "B", "C", "D"};
  std::vector<GroupedItem> grouped;
  for (const Record& record : records) {
    GroupedItem& item = grouped.emplace_back();
    TREELINE_ASSIGN_OR_RETURN(item.group, record.String("subject"));
    TREELINE_ASSIGN_OR_RETURN(const std::string question, record.String("question"));
    TREELINE_ASSIGN_OR_RETURN(const auto options, record.Strings("choices"));
    if (options.size() != letters.size()) {
      return InvalidArgument("{}: needs {} choices", record.where(), letters.size());
    }
    TREELINE_ASSIGN_OR_RETURN(const std::string split, record.String("split"));
    TREELINE_ASSIGN_OR_RETURN(item.gold, record.Index("gold", letters.size()));
    item.prompt = Stripped(question);
    for (size_t i = 0; i < letters.size(); ++i) {
      item.prompt += fmt::format("\n{}. {}", letters[i], options[i]);
    }
    item.prompt += "\nAnswer:";
    item.choices = letters;
    item.is_example = split == "dev";
  }
  return BehindExamples(grouped, kMmluExamples, file, [](std::string subject) {
    std::replace(subject.begin(), subject.end(), '_', ' ');
    return fmt::format("The following are multiple choice questions (with answers) about {}.\n\n",
                       subject);
  });
}

// What a question's lines "Options:", "(A) ..." or "- ..." offer: "(A)" or the option's words.
std::vector<std::string> ListedOptions(const std::string& input) {
  std::vector<std::string> options;
  size_t line = input.find("Options:\n");
  while (line != std::string::npos && (line = input.find('\n', line)) != std::string::npos) {
    ++line;
    if (input.compare(line, 1, "(") == 0 && input.compare(line + 2, 1, ")") == 0) {
      options.push_back(input.substr(line, 3));
    } else if (input.compare(line, 2, "- ") == 0) {
      options.push_back(Stripped(input.substr(line + 2, input.find('\n', line) - line - 2)));
    }
  }
  return options;
}

// Each subtask's first records are its examples.
StatusOr<std::vector<TaskItem>> ReadBbh(const std::vector<Record>& records,
                                        const std::string& file) {
  std::map<std::string, std::set<std::string>> answers;
  for (const Record& record : records) {
    TREELINE_ASSIGN_OR_RETURN(const std::string task, record.String("task"));
    TREELINE_ASSIGN_OR_RETURN(const std::string target, record.String("target"));
    answers[task].insert(target);
  }
  std::map<std::string, size_t> seen;
  std::vector<GroupedItem> grouped;
  for (const Record& record : records) {
    GroupedItem item;
    TREELINE_ASSIGN_OR_RETURN(item.group, record.String("task"));
    TREELINE_ASSIGN_OR_RETURN(const std::string input, record.String("input"));
    TREELINE_ASSIGN_OR_RETURN(const std::string target, record.String("target"));
    item.choices = ListedOptions(input);
    const std::set<std::string>& all = answers[item.group];
    if (item.choices.empty()) {
      if (all.size() > kMaxAnswers) continue;
      item.choices.assign(all.begin(), all.end());
    }
    const auto gold = std::find(item.choices.begin(), item.choices.end(), target);
    if (gold == item.choices.end()) continue;  // A few records answer outside their options.
    item.gold = static_cast<int32_t>(gold - item.choices.begin());
    item.prompt = fmt::format("Q: {}\nA:", input);
    item.is_example = seen[item.group]++ < kBbhExamples;
    grouped.push_back(std::move(item));
  }
  return BehindExamples(grouped, kBbhExamples, file, [](const std::string&) { return ""; });
}

using ReadItem = StatusOr<TaskItem> (*)(const Record&);
struct PlainTask {
  const char* name;
  ReadItem read;
};
constexpr PlainTask kPlainTasks[] = {{"piqa", ReadPiqa},         {"copa", ReadCopa},
                                     {"arc_challenge", ReadArc}, {"hellaswag", ReadHellaswag},
                                     {"lambada", ReadLambada},   {"qnli", ReadQnli},
                                     {"mnli", ReadMnli}};

size_t Characters(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

// The index of the largest of some scores.
template <typename Score>
int32_t Best(size_t count, const Score& score) {
  size_t best = 0;
  for (size_t i = 1; i < count; ++i) {
    if (score(i) > score(best)) best = i;
  }
  return static_cast<int32_t>(best);
}

}  // namespace

std::vector<std::string> TaskNames() {
  std::vector<std::string> names;
  for (const PlainTask& task : kPlainTasks) names.push_back(task.name);
  names.insert(names.end(), {"mmlu", "bbh"});
  return names;
}

StatusOr<std::vector<TaskItem>> ReadTask(const std::string& name, std::string_view lines,
                                         const std::string& file) {
  TREELINE_ASSIGN_OR_RETURN(const std::vector<Record> records, ReadRecords(lines, file));
  if (name == "mmlu") return ReadMmlu(records, file);
  if (name == "bbh") return ReadBbh(records, file);
  const auto* task = std::find_if(std::begin(kPlainTasks), std::end(kPlainTasks),
                                  [&](const PlainTask& plain) { return name == plain.name; });
  if (task == std::end(kPlainTasks)) {
    return InvalidArgument("there is no task {}; there are {}", name, fmt::join(TaskNames(), ", "));
  }
  std::vector<TaskItem> items;
  for (const Record& record : records) {
    if (record.IsFalse("original")) continue;  // Balanced COPA's mirrored twins.
    TREELINE_ASSIGN_OR_RETURN(TaskItem item, task->read(record));
    items.push_back(std::move(item));
  }
  return items;
}

std::vector<TaskItem> Spread(std::vector<TaskItem> items, int32_t limit) {
  const auto count = static_cast<size_t>(limit);
  if (limit == 0 || items.size() <= count) return items;
  std::vector<TaskItem> chosen;
  for (size_t i = 0; i < count; ++i) chosen.push_back(std::move(items[i * items.size() / count]));
  return chosen;
}

StatusOr<Question> ToQuestion(const TaskItem& item, const Tokenizer& tokenizer) {
  const auto encode = [&](const std::string& text) {
    return tokenizer.Encode(text, /*add_special=*/false, /*parse_special=*/false);
  };
  // Blanks at the end belong to what follows: tokens begin with them.
  const size_t end = item.context.find_last_not_of(" \t\r\n") + 1;
  const std::string context = item.context.substr(0, end), blanks = item.context.substr(end);
  Question question;
  TREELINE_ASSIGN_OR_RETURN(question.context, encode(context));
  const size_t length = question.context.size();
  for (const std::string& choice : item.choices) {
    TREELINE_ASSIGN_OR_RETURN(const std::vector<int32_t> whole,
                              encode(context + blanks + " " + choice));
    if (length == 0 || whole.size() <= length) {
      return InvalidArgument("the context or the choice \"{}\" has no tokens", choice);
    }
    question.continuations.emplace_back(whole.begin() + length, whole.end());
  }
  return question;
}

void TaskResult::Add(const TaskItem& item, const std::vector<Likelihood>& likelihoods) {
  ++items;
  gold_logprob += likelihoods[item.gold].logprob;
  if (likelihoods.size() == 1) {
    correct += likelihoods[0].num_best == likelihoods[0].num_tokens;
    return;
  }
  const auto logprob = [&](size_t i) { return likelihoods[i].logprob; };
  const auto by_length = [&](size_t i) {
    return logprob(i) / static_cast<double>(std::max<size_t>(Characters(item.choices[i]), 1));
  };
  correct += Best(likelihoods.size(), logprob) == item.gold;
  correct_by_length += Best(likelihoods.size(), by_length) == item.gold;
}

double StandardError(double share, int64_t items) {
  return items > 1 ? std::sqrt(share * (1 - share) / static_cast<double>(items - 1)) : 0;
}

}  // namespace treeline
