#include "emulator/face/describe.h"

#include <map>
#include <vector>

#include "emulator/face/json.h"
#include "emulator/ptx/forms.h"
#include "emulator/ptx/syntax.h"

namespace gptoss::emulator {

std::string to_json(const Counters& c) {
  JsonObject pipes, warp_pipes;
  for (size_t i = 0; i < static_cast<size_t>(Pipe::kCount); ++i) {
    pipes.number(name_of(static_cast<Pipe>(i)), c.thread_instructions_by_pipe[i]);
    warp_pipes.number(name_of(static_cast<Pipe>(i)), c.warp_instructions_by_pipe[i]);
  }
  return JsonObject()
      .number("warp_instructions", c.warp_instructions)
      .number("thread_instructions", c.thread_instructions)
      .raw("thread_instructions_by_pipe", pipes.str())
      .raw("warp_instructions_by_pipe", warp_pipes.str())
      .number("global_load_bytes", c.global_load_bytes)
      .number("global_store_bytes", c.global_store_bytes)
      .number("global_load_sectors", c.global_load_sectors)
      .number("global_store_sectors", c.global_store_sectors)
      .number("shared_load_bytes", c.shared_load_bytes)
      .number("shared_store_bytes", c.shared_store_bytes)
      .number("shared_wavefronts", c.shared_wavefronts)
      .number("shared_bank_conflicts", c.shared_bank_conflicts)
      .number("barriers", c.barriers)
      .number("tensor_multiply_adds", c.tensor_multiply_adds)
      .number("async_copy_bytes", c.async_copy_bytes)
      .number("ctas", c.ctas)
      .str();
}

namespace {

std::string to_json(const AccessSite& site) {
  if (!site.known) return "null";
  return JsonObject()
      .text("kernel", site.kernel)
      .text("what", site.what)
      .text("file", site.file)
      .integer("source_line", site.source_line)
      .integer("ptx_line", site.ptx_line)
      .text("text", site.text)
      .raw("cta", "[" + std::to_string(site.cta.x) + ", " + std::to_string(site.cta.y) + ", " +
                      std::to_string(site.cta.z) + "]")
      .integer("warp", site.warp)
      .integer("lane", site.lane)
      .str();
}

template <class List, class F>
std::string to_array(const List& list, F f) {
  std::string out;
  for (const auto& element : list) out += (out.empty() ? "" : ", ") + f(element);
  return "[" + out + "]";
}

}  // namespace

std::string to_json(const Report& report) {
  return JsonObject()
      .text("class", name_of(report.report_class))
      .raw("is_warning", is_warning(report.report_class) ? "true" : "false")
      .text("kernel", report.kernel)
      .text("message", report.message)
      .raw("access", to_json(report.access))
      .raw("other", to_json(report.other))
      .number("seed", report.seed)
      .number("times", report.times)
      .text("text", report.to_string())
      .str();
}

std::string to_json(const LaunchResult& result) {
  return JsonObject()
      .text("fault", name_of(result.fault))
      .raw("reports", to_array(result.reports, [](const Report& r) { return to_json(r); }))
      .raw("counters", to_json(result.counters))
      .text("output", result.output)
      .str();
}

std::string forms_json() {
  return to_array(forms(), [](const Form& form) {
    return JsonObject()
        .text("pattern", form.pattern)
        .text("operands", form.operands)
        .text("pipe", name_of(form.pipe))
        .str();
  });
}

std::string coverage_json(const std::string& ptx) {
  const Syntax syntax = parse(ptx);
  uint64_t instructions = 0;
  std::map<int, uint64_t> rows;
  std::map<std::string, std::vector<int>> missing;
  for (const Function& function : syntax.functions) {
    for (const Statement& statement : function.body) {
      if (statement.kind != Statement::Kind::kInstruction) continue;
      ++instructions;
      if (statement.words[0] == "call") continue;
      const int row = find_form(statement.words);
      if (row >= 0) {
        ++rows[row];
        continue;
      }
      std::string opcode;
      for (const std::string& word : statement.words) opcode += (opcode.empty() ? "" : ".") + word;
      missing[opcode].push_back(statement.position.line);
    }
  }
  JsonObject known, unknown;
  for (const auto& [row, count] : rows) known.number(forms()[row].pattern, count);
  for (const auto& [opcode, lines] : missing)
    unknown.raw(opcode, to_array(lines, [](int line) { return std::to_string(line); }));
  return JsonObject()
      .number("instructions", instructions)
      .raw("rows", known.str())
      .raw("missing", unknown.str())
      .str();
}

}  // namespace gptoss::emulator
