// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "reshard/base/index.h"
#include "reshard/plan/round.h"
#include "reshard/plan/stage.h"

namespace reshard::plan {

/// Where copies are made: which memory holds slots between reading and writing, and which links messages take.
enum class Device { cpu, cuda };
std::string_view to_string(Device device);

/// Bytes per second of one rank, of the ranks of one node together, and of all ranks. 0: no such limit.
struct Limit {
  double rank = 0, node = 0, all = 0;
};

/// What a machine can do: bytes per second (0: no limit) and seconds. configs/machines holds such descriptions.
struct Machine {
  int cores_per_node = 1;
  int gpus_per_node = 0;

  Limit read, write;  ///< of the store
  Limit together;     ///< of the store: read and written bytes added, where both share a device

  Limit host_copy;                           ///< messages between ranks of a node, by MPI, either way
  double to_device = 0, to_host = 0;         ///< PCIe, of one GPU
  double nvlink = 0;                         ///< of one GPU, each way
  double network = 0;                        ///< of one node, each way
  double mpi_round_s = 0, nccl_round_s = 0;  ///< what a round of messages costs beside its bytes

  double repack_thread = 0;    ///< output bytes, of one thread
  double repack_gpu = 0;       ///< output bytes, of one GPU
  double repack_launch_s = 0;  ///< what a round's kernels cost beside their bytes

  double start_s = 0, start_rank_s = 0;  ///< of the job, and for each further rank of it
  double start_file_s = 0;               ///< for each source file: its header
  double start_array_s = 0;              ///< for each array of either side: tables and plan, made by every rank
  double touch = 0;                      ///< memory of slots on its first use, of a node
  double finish_s = 0;                   ///< last syncs, records, rename
  double finish_file_s = 0;              ///< for each target file
};

/// The job whose time is predicted.
struct Job {
  int ranks = 1;
  int ranks_per_node = 1;
  Device device = Device::cpu;
  Index src_files = 0, dst_files = 0;
  Index slot_bytes = 0;  ///< of a rank
  Index arrays = 0;      ///< of source and target
};

/// Seconds of a conversion, by stage. What overlaps takes as long as the busiest stage.
struct Prediction {
  struct Part {
    Stage stage;
    double seconds = 0;  ///< of the busiest of the stage's limits
    std::string_view limit =
        {};                 ///< which that is: "a rank", "a node", "the store", ...; empty: nothing to do, or no limit
    double rank_min_s = 0;  ///< of the rank with the least to do, by limits of its own (rank, thread, GPU)
    double rank_max_s = 0;  ///< of the one with the most
    double first_s = 0;     ///< first round of a rank, at its share of what it shares
    double last_s = 0;      ///< last round
  };
  std::vector<Part> parts;  ///< in the order of the stages; without PCIe on Device::cpu

  double store_together_s = 0;  ///< reading and writing as one limit
  double cores_s = 0;           ///< repacking and messages, by the cores of a node

  double start_s = 0;
  double overlapped_s = 0;  ///< the largest of the above
  double fill_s = 0;        ///< the first round on its way to what binds, and the last round from there
  double finish_s = 0;
  std::string_view binds;  ///< what is busiest: a stage's name, "read and write together", "cores"; empty: nothing
  std::string_view limit;  ///< of it

  double seconds() const { return start_s + overlapped_s + fill_s + finish_s; }
  double store_s() const;  ///< the store's part: the largest of read, write and both together

  /// A stage beside the store, and the store that would be as busy: from there on the stage binds.
  struct Crossing {
    Stage stage;
    double factor = 0;           ///< times the store's speed; below 1: the stage binds already
    double read = 0, write = 0;  ///< of all ranks, bytes per second
  };
  std::vector<Crossing> crossings;
};

/// Adds up what a plan's rounds put on each link of a machine. The formulae are in src/plan/README.md. Pure.
class Predictor {
 public:
  /// `machine` must have GPUs if the job's device is cuda.
  Predictor(const Machine& machine, const Job& job);
  ~Predictor();
  /// Rounds of a rank in order of number. A message is counted at its sender.
  void add(int rank, Index number, const Round& round);
  Prediction finish() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace reshard::plan
