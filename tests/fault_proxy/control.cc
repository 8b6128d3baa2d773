// The line protocol: one command per line of standard input, one line of answer each. The proxy
// ends with its standard input.
//
//   set delay_ms 12.5       each way; also jitter_ms
//   set rate_mb 200         megabytes a second, each way; 0: no cap
//   set reset 0.01          probability per request; also truncate, stall, drop, answer
//   set method PUT          faults hit only these; "set method *": all
//   set answer_file PATH    what "answer" answers: a whole response
//   set outage reset        or silent, off
//   set seed 17
//   clear                   no faults, no delay, no cap
//   stats                   counters, as JSON
//   zero                    counters and trace to zero
//   trace                   the last request lines, as a JSON array
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "tests/fault_proxy/proxy.h"

namespace fault_proxy {

namespace {

Duration milliseconds(double value) {
  return Duration(static_cast<std::int64_t>(value * 1e6));
}

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) >= ' ') out += c;
  }
  return out + '"';
}

}  // namespace

std::string Proxy::statistics() const {
  std::string requests, responses, faults;
  std::uint64_t total = 0;
  for (const auto& [method, count] : counters_.requests) {
    requests += fmt::format("{}{}: {}", requests.empty() ? "" : ", ", quoted(method), count);
    total += count;
  }
  for (const auto& [status, count] : counters_.responses) {
    responses += fmt::format("{}\"{}\": {}", responses.empty() ? "" : ", ", status, count);
  }
  for (std::size_t i = 1; i < kFaultCount; ++i) {
    faults += fmt::format("{}\"{}\": {}", i == 1 ? "" : ", ", kFaultNames[i], counters_.faults[i]);
  }
  return fmt::format(
      "{{\"requests\": {{{}}}, \"total\": {}, \"responses\": {{{}}}, \"faults\": {{{}}}, "
      "\"up\": {}, \"down\": {}, \"connections\": {}, \"open\": {}}}",
      requests, total, responses, faults, counters_.bytes[0], counters_.bytes[1],
      counters_.connections, connections_.size());
}

std::string Proxy::set(const std::string& name, const std::string& value) {
  for (std::size_t i = 1; i < kFaultCount; ++i) {
    if (name == kFaultNames[i]) {
      settings_.probability[i] = std::atof(value.c_str());
      return "ok";
    }
  }
  if (name == "delay_ms") {
    settings_.delay = milliseconds(std::atof(value.c_str()));
  } else if (name == "jitter_ms") {
    settings_.jitter = milliseconds(std::atof(value.c_str()));
  } else if (name == "rate_mb") {
    settings_.bytes_per_second = std::atof(value.c_str()) * 1e6;
  } else if (name == "method") {
    settings_.method = value == "*" ? "" : value;
  } else if (name == "seed") {
    random_.seed(std::strtoull(value.c_str(), nullptr, 10));
  } else if (name == "answer_file") {
    std::ifstream file(value, std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    if (!file) return "error: cannot read " + value;
    settings_.answer = text.str();
  } else if (name == "outage") {
    if (value != "off" && value != "reset" && value != "silent") return "error: " + value;
    settings_.outage = value == "off"     ? Outage::off
                       : value == "reset" ? Outage::reset
                                          : Outage::silent;
    if (settings_.outage == Outage::reset) reset_all();
    resume_all();
  } else {
    return "error: there is no setting " + name;
  }
  return "ok";
}

std::string Proxy::execute(const std::string& line) {
  std::istringstream words(line);
  std::string command, name, value;
  words >> command >> name >> value;
  if (command == "set") return set(name, value);
  if (command == "stats") return statistics();
  if (command == "zero") {
    counters_ = {};
    trace_.clear();
    return "ok";
  }
  if (command == "clear") {
    settings_ = {};
    resume_all();
    return "ok";
  }
  if (command == "trace") {
    std::string out = "[";
    for (const std::string& request : trace_) {
      out += (out.size() > 1 ? ", " : "") + quoted(request);
    }
    return out + "]";
  }
  return "error: there is no command " + command;
}

void Proxy::read_commands() {
  char bytes[4096];
  const ssize_t count = read(STDIN_FILENO, bytes, sizeof bytes);
  if (count <= 0) {
    ended_ = true;
    return;
  }
  input_.append(bytes, static_cast<std::size_t>(count));
  for (std::size_t end; (end = input_.find('\n')) != std::string::npos;) {
    fmt::print("{}\n", execute(input_.substr(0, end)));
    input_.erase(0, end + 1);
  }
  std::fflush(stdout);
}

}  // namespace fault_proxy
