// SPDX-License-Identifier: Apache-2.0
#include "reshard/cli/cli.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <memory>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "command_line.h"
#include "print.h"
#include "progress.h"
#include "reshard/app/document.h"
#include "reshard/app/jobs.h"
#include "reshard/app/status.h"
#include "reshard/comm/comm.h"
#include "reshard/device/device.h"
#include "version.h"

namespace reshard::cli {
namespace {

constexpr int kAnswerIsNo = 1;

// Signals that ask for an end in good order. Launchers send some twice; one that comes later ends the process at once.
volatile std::sig_atomic_t received_signal = 0;
volatile std::sig_atomic_t received_at_s = 0;

void receive_signal(int signal) {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  const auto now_s = static_cast<std::sig_atomic_t>(now.tv_sec);
  if (received_signal == 0) {
    received_signal = signal;
    received_at_s = now_s;
  } else if (now_s - received_at_s > 1) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
}

std::string interruption() {
  switch (received_signal) {
    case 0:
      return "";
    case SIGTERM:
      return "interrupted by SIGTERM";
    case SIGINT:
      return "interrupted by SIGINT";
    default:
      return "interrupted by SIGUSR1";
  }
}

/// What a command leaves behind: its text for stdout, and its exit status.
struct Answer {
  std::string text;
  int status = 0;
};

/// `result` as the user wants it.
template <class Result>
Answer answer(const Invocation& invocation, const Result& result, bool yes = true) {
  return {invocation.json ? app::document_text(to_json(result)) : describe(result), yes ? 0 : kAnswerIsNo};
}

Expected<Answer> run_list(const Invocation& invocation, const model::Library& library) {
  if (invocation.list_what == "formats") return answer(invocation, app::list_formats(library));
  if (invocation.list_what == "dtypes") return answer(invocation, app::list_dtypes());
  if (invocation.list_what == "machines") {
    RESHARD_TRY(const std::vector<app::MachineLine> machines, app::list_machines());
    return answer(invocation, machines);
  }
  RESHARD_TRY(const std::vector<app::ModelLine> models, app::list_models(library));
  return answer(invocation, models);
}

/// Errors (failed): stdout took less than all. A reader that went away is no error.
Status print(const std::string& text) {
  errno = 0;
  const bool done = std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  if (!done && errno != EPIPE) return run_error(fmt::format("stdout: {}", std::strerror(errno)));
  return {};
}

Expected<Answer> run_status(const Invocation& invocation, const app::Context& context) {
  using State = app::StatusResult::State;
  constexpr std::chrono::seconds kWatchEvery{2};
  while (true) {
    RESHARD_TRY(const app::StatusResult result, app::status(invocation.options.src, context.library));
    const bool waits = result.count(State::waiting) + result.count(State::running) > 0;
    const bool broken = result.count(State::stopped) + result.count(State::failed) > 0;
    Answer found = answer(invocation, result);
    found.status = broken ? static_cast<int>(Code::failed) : waits || result.jobs.empty() ? kAnswerIsNo : 0;
    if (!invocation.watch || found.status == 0) return found;
    if (context.comm.rank() == 0) {
      // A terminal shows the newest table alone.
      const std::string clear = isatty(STDOUT_FILENO) == 1 ? "\033[H\033[2J" : "";
      RESHARD_CHECK(print(clear + found.text));
      if (std::ferror(stdout) != 0) return Answer{"", found.status};  // nobody reads any more
    }
    std::this_thread::sleep_for(kWatchEvery);
  }
}

Expected<Answer> run_command(const Invocation& invocation, app::Context& context) {
  const app::Options& options = invocation.options;
  switch (*invocation.command) {
    case Command::inspect: {
      RESHARD_TRY(const app::InspectResult result, app::inspect(context, options));
      return answer(invocation, result);
    }
    case Command::plan: {
      RESHARD_TRY(const app::PlanReport report, app::plan(context, options));
      return context.comm.rank() == 0 ? answer(invocation, report) : Answer{};
    }
    case Command::convert: {
      if (options.dry_run) {
        RESHARD_TRY(const app::PlanReport report, app::plan(context, options));
        return context.comm.rank() == 0 ? answer(invocation, report) : Answer{};
      }
      for (const int signal : {SIGTERM, SIGINT, SIGUSR1}) std::signal(signal, receive_signal);
      RESHARD_TRY(const app::ConvertResult result, app::convert(context, options));
      return answer(invocation, result);
    }
    case Command::verify: {
      RESHARD_TRY(const app::VerifyResult result, app::verify(context, options));
      return answer(invocation, result, result.passed());
    }
    case Command::diff: {
      RESHARD_TRY(const app::DiffResult result, app::diff(context, options));
      return answer(invocation, result, result.equal());
    }
    case Command::digest: {
      RESHARD_TRY(const app::DigestResult result, app::digest(context, options));
      return answer(invocation, result);
    }
    case Command::list:
      return run_list(invocation, context.library);
    case Command::jobs: {
      RESHARD_TRY(const app::JobList list, app::list_jobs(context, options, invocation.given));
      return answer(invocation, list);
    }
    case Command::status:
      return run_status(invocation, context);
  }
  return Answer{};
}

void complain(const Error& error) { std::fputs(fmt::format("reshard: error: {}\n", error.message).c_str(), stderr); }

Expected<int> run_on_ranks(const std::vector<std::string>& arguments, comm::Comm& comm, bool virtual_ranks);

/// The same command on threads of this process.
Expected<int> run_on_threads(const std::vector<std::string>& arguments, const comm::Comm& comm,
                             const app::Options& options) {
  constexpr int kMost = 64;
  const int ranks = options.ranks;
  if (comm.size() > 1) {
    return usage_error("--exchange loopback: ranks are threads of one process; start it without mpirun, or srun -n 1");
  }
  if (ranks < 1 || ranks > kMost) {
    return usage_error(fmt::format("--exchange loopback: say --ranks N, how many threads, from 1 to {}", kMost));
  }
  Expected<int> status = 0;
  const auto body = [&](comm::Comm& thread) {
    Expected<int> mine = run_on_ranks(arguments, thread, true);
    if (thread.rank() == 0) status = std::move(mine);
  };
  // To ask where memory lies would start CUDA.
  const auto copy = options.device == app::DeviceWish::cpu ? comm::CopyMessage() : device::copy_any;
  try {
    comm::run_virtual_ranks(ranks, body, copy);
  } catch (const std::system_error& error) {
    return run_error(fmt::format("cannot start {} threads: {}", ranks, error.what()));
  }
  return status;
}

Expected<int> run_on_ranks(const std::vector<std::string>& arguments, comm::Comm& comm, bool virtual_ranks) {
  Expected<Invocation> parsed = parse_command_line(arguments);
  RESHARD_CHECK(comm::agree(comm, parsed ? Status{} : Status{parsed.error()}));
  const Invocation& invocation = *parsed;
  if (invocation.help || invocation.version) {
    const std::string text = invocation.help ? help_text(invocation.command) : version_text();
    RESHARD_CHECK(comm.rank() == 0 ? print(text) : Status{});
    return 0;
  }
  const app::Options& options = invocation.options;
  const bool runs = *invocation.command != Command::plan && *invocation.command != Command::jobs && !options.dry_run;
  if (options.device == app::DeviceWish::cpu && options.exchange == app::ExchangeWish::nccl) {
    return usage_error(
        "--exchange nccl: NCCL moves memory of CUDA devices; leave out --device cpu, or say --exchange mpi");
  }
  if (runs && !virtual_ranks && options.exchange == app::ExchangeWish::loopback) {
    return run_on_threads(arguments, comm, options);
  }
  if (runs && !virtual_ranks && options.ranks > 0) {
    return usage_error("--ranks: for plan and --exchange loopback alone; the launcher says how many ranks a job has");
  }
  Expected<model::Library> library = model::Library::load(options.config_dir);
  RESHARD_CHECK(comm::agree(comm, library ? Status{} : Status{library.error()}));

  std::string command = "reshard";
  for (const std::string& argument : arguments) command += " " + argument;
  ProgressPrinter progress(std::string(info(*invocation.command).name), invocation.progress,
                           isatty(STDERR_FILENO) == 1);
  const auto tell = [&](const char* kind, const std::string& text) {
    progress.say(fmt::format("reshard: {}: {}", kind, text));
  };
  app::Engines engines(options.device, options.exchange);
  app::Context context{comm,
                       engines,
                       *library,
                       program_version(),
                       std::move(command),
                       [&](const std::string& text) { tell("note", text); },
                       [&](const std::string& text) { tell("warning", text); },
                       [&](const std::string& name) { progress.stage(name); },
                       [&](const app::Moment& moment) { progress.update(moment); },
                       interruption};
  RESHARD_TRY(const Answer result, run_command(invocation, context));
  progress.end();
  RESHARD_CHECK(comm::agree(comm, comm.rank() == 0 ? print(result.text) : Status{}));
  return result.status;
}

}  // namespace

int run(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);  // a limit on file sizes is an error of the write that meets it
  const std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);
  Expected<std::unique_ptr<comm::Comm>> comm = comm::make_comm();
  if (!comm) {
    // No ranks to agree with: of several copies, the launcher's first one speaks.
    const char* task = std::getenv("SLURM_PROCID");
    if (task == nullptr || std::strcmp(task, "0") == 0) complain(comm.error());
    return static_cast<int>(comm.error().code);
  }
  const Expected<int> status = run_on_ranks(arguments, **comm, false);
  if (status) return *status;
  if ((*comm)->rank() == 0) complain(status.error());
  return static_cast<int>(status.error().code);
}

}  // namespace reshard::cli
