// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace reshard::bench {

using Json = nlohmann::ordered_json;

/// Where a figure was measured. tests/bench/bench.py writes the same keys.
inline Json machine() {
  std::string cpu = "unknown", line;
  for (std::ifstream in("/proc/cpuinfo"); std::getline(in, line);) {
    if (!line.starts_with("model name")) continue;
    cpu = line.substr(line.find(':') + 2);
    break;
  }
  std::string system = "unknown";
  for (std::ifstream in("/etc/os-release"); std::getline(in, line);) {
    if (line.starts_with("PRETTY_NAME=")) system = line.substr(13, line.size() - 14);
  }
  utsname kernel{};
  uname(&kernel);
  return {{"cpu", cpu},
          {"cores", sysconf(_SC_NPROCESSORS_ONLN)},
          {"memory_gib", sysconf(_SC_PHYS_PAGES) / 1024 * sysconf(_SC_PAGESIZE) / (1024 * 1024)},
          {"system", system},
          {"kernel", kernel.release}};
}

/// A benchmark's fixed table on stdout and, with --json FILE, the same rows in FILE, with machine, date and command.
class Report {
 public:
  struct Column {
    std::string key, title;
    int width;       ///< negative: text, aligned left
    int digits = 0;  ///< behind the point
  };

  /// Takes the command line: nothing, or --json FILE. Ends the program with status 2 on anything else.
  Report(std::string name, std::vector<Column> columns, int argc, char** argv)
      : name_(std::move(name)), columns_(std::move(columns)) {
    command_ = fmt::format("{}", fmt::join(argv, argv + argc, " "));
    if (argc == 3 && std::string(argv[1]) == "--json") {
      file_ = argv[2];
    } else if (argc != 1) {
      fmt::print(stderr, "usage: {} [--json FILE]\n", argv[0]);
      std::exit(2);
    }
    for (const Column& column : columns_) print(column, column.title);
    std::puts("");
  }

  /// A row has a value under each column's key (none: "-"), and others that only the file gets. "ok": false says that a
  /// bar was missed.
  void add(Json row) {
    for (const Column& column : columns_) {
      const auto value = row.find(column.key);
      if (value == row.end()) {
        print(column, "-");
      } else if (value->is_string()) {
        print(column, value->get<std::string>());
      } else if (value->is_boolean()) {
        print(column, value->get<bool>() ? "yes" : "NO");
      } else {
        print(column, fmt::format("{:.{}f}", value->get<double>(), column.digits));
      }
    }
    std::puts("");
    std::fflush(stdout);
    ok_ = ok_ && row.value("ok", true);
    rows_.push_back(std::move(row));
  }

  /// Writes the file. Returns the exit status: 0, 1 if a bar was missed, 4 if the file cannot be written.
  int finish() const {
    if (!file_.empty()) {
      char date[16];
      const std::time_t now = std::time(nullptr);
      std::strftime(date, sizeof(date), "%F", std::gmtime(&now));
      const Json report = {
          {"benchmark", name_}, {"date", date}, {"command", command_}, {"machine", machine()}, {"rows", rows_}};
      std::ofstream out(file_);
      out << report.dump(2) << "\n";
      if (!out.flush()) {
        fmt::print(stderr, "{}: cannot be written\n", file_);
        return 4;
      }
    }
    return ok_ ? 0 : 1;
  }

 private:
  static void print(const Column& column, const std::string& text) {
    std::fputs(
        (column.width < 0 ? fmt::format("{:<{}}  ", text, -column.width) : fmt::format("{:>{}}  ", text, column.width))
            .c_str(),
        stdout);
  }

  std::string name_;
  std::vector<Column> columns_;
  std::string command_, file_;
  Json rows_ = Json::array();
  bool ok_ = true;
};

/// The main of a benchmark: its exit status, or 4 and a line on stderr where it broke off.
inline int run_benchmark(int (*run)(int argc, char** argv), int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}: {}\n", argv[0], error.what());
    return 4;
  }
}

}  // namespace reshard::bench
