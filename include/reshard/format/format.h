// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "reshard/comm/comm.h"
#include "reshard/container/container.h"
#include "reshard/layout/layout.h"
#include "reshard/model/generic.h"
#include "reshard/model/library.h"
#include "reshard/model/spec.h"

namespace reshard::format {

class Generator;

/// Begins the path of a source that is stored nowhere: synthetic:MODEL.
inline constexpr std::string_view kSynthetic = "synthetic:";

/// All headers of a checkpoint, as one table.
struct Directory {
  std::string root;                ///< folder, or the file itself for one-file formats
  std::vector<std::string> files;  ///< paths relative to root ("" for the file itself), of files that hold tensors
  std::vector<io::Fingerprint> fingerprints;
  std::vector<std::map<std::string, std::string>> metadata;          ///< per file
  std::vector<std::vector<container::FileDirectory::Check>> checks;  ///< per file
  std::vector<bool> big_endian;                                      ///< per file
  std::map<std::string, std::string> inside;  ///< side files that travel inside a one-file checkpoint
  struct Entry {
    container::Entry entry;
    std::uint32_t file;
  };
  std::vector<Entry> entries;
};

/// Options about the source that change how it is understood.
struct SourceOptions {
  std::string from;                    ///< format; empty: detect
  std::string from_option = "--from";  ///< what the user says to set it, for messages
  std::string config_from;             ///< config, or its folder, in place of the source's own
  std::string tokenizer_from;
  Index vocab_size = 0;  ///< true vocabulary; 0: as the source says
  std::string model;     ///< name of the model, for a source that lacks a config (fairseq2)
  Index step = -1;       ///< of a run directory
  io::Follow follow = io::Follow::cache;
  std::vector<std::string> passthrough;       ///< globs
  std::vector<std::string> include, exclude;  ///< globs of stored names; what they leave out is not converted
  /// Which stored arrays a command that looks at some needs: others may be missing, or unknown to the model. `lines`
  /// are the digest lines of an array, none of one that is unknown. Empty: all.
  std::function<bool(const std::string& array, const std::vector<std::string>& lines)> needs;
};

/// A side file to carry or write.
struct Sidecar {
  std::string path;       ///< relative to the checkpoint
  std::string copy_from;  ///< path of the file to copy; empty: `text` is the content
  std::string text;
};

/// What a format's probe finds out: headers and side files only, no weight.
struct Probe {
  model::Spec spec;
  layout::Mesh mesh;
  /// The side files do not say whether arrays are tied: two names of equal content decide.
  bool ties_unknown = false;
  layout::Scope options;    ///< numbers for conditions of the table (rope_interleaved, ...)
  std::string config_path;  ///< where the spec comes from, for messages
  Directory directory;
  std::vector<Sidecar> carried;               ///< tokenizer, generation config and the like
  std::vector<std::string> notes;             ///< for people, on stderr: what was found, of every command
  std::vector<std::string> config_notes;      ///< how the configuration was understood: where it is shown or converted
  std::vector<std::string> conversion_notes;  ///< what a conversion takes along and leaves behind
  Index bytes_read = 0;  ///< of weights, to answer questions (are two arrays equal), over all ranks
};

/// Options about the target that change its bytes.
struct TargetOptions {
  layout::Mesh mesh;
  std::string format_version;           ///< empty: the format's default
  std::string params_style;             ///< form of Meta's params.json; empty: flat
  std::string dtype;                    ///< empty: keep
  std::vector<std::string> keep_dtype;  ///< globs of target array names that keep the source's dtype
  std::optional<Index> max_shard_size;  ///< of formats that cut files by size; nothing: as the format says
  Index vocab_multiple = 1;
  std::string final_path;  ///< where the checkpoint will stand, for side files that name it
  /// Facts that are the same for every run (program version, description of the source), for containers that have room.
  std::map<std::string, std::string> provenance;
  /// Length of the text (digests) that will be stored with an array, for containers that have room. Empty: none.
  std::function<Index(const layout::Layout& layout, std::uint32_t array)> digest_bytes;
  /// Files that a one-file target holds besides its own, by name; what is written in the end may be other texts of
  /// their lengths. Empty: none.
  std::function<std::map<std::string, std::string>(const layout::Layout& layout)> files_inside;
};

/// How the target's table is to be instantiated.
struct TargetChoice {
  layout::Mesh mesh;
  layout::Scope options;
};

/// In place of an array of the layout: the item is one of its extras.
inline constexpr std::uint32_t kExtra = 0xffffffff;

/// A target file: which arrays of the layout go in, in order, and what else.
struct TargetFile {
  std::string path;                   ///< relative; "" if the target is one file
  std::vector<std::uint32_t> arrays;  ///< of the layout (or kExtra), in the order of spec.items
  container::FileSpec spec;
};

/// What side files are written from.
struct SidecarInput {
  const model::Spec& spec;  ///< as the target holds it: its dtype, its ties
  const layout::Layout& layout;
  const std::vector<TargetFile>& files;
  const TargetOptions& options;
  const std::vector<Sidecar>& carried;
  const model::Library& library;
};

/// Name of the built-in format of a path. Errors (input): none or several fit, with what was seen, and that `option`
/// names it. Local.
Expected<std::string> detect_format(const std::string& path, const std::string& option);

/// A format: four functions over its table in configs/format. Implementations hold no state.
class Format {
 public:
  virtual ~Format() = default;
  virtual std::string_view name() const = 0;
  /// True if the checkpoint is a single file; `file_name` is its usual name in a folder.
  virtual bool one_file() const { return false; }
  virtual std::string file_name() const { return ""; }
  /// True if the files of a target are cut by --max-shard-size. Pure.
  virtual bool cuts_by_size(const layout::Table&) const { return false; }
  /// 0..1, by names and first bytes. Local.
  virtual double detect(const std::string& path) const = 0;
  /// Reads side files and headers (spread over at most 64 ranks). Errors (input). Collective.
  virtual Expected<Probe> probe(const std::string& path, const SourceOptions& options, const model::Library& library,
                                comm::Comm& comm) const = 0;
  /// The form of a path by which predicted and found files are matched, where the table names files: parts that nobody
  /// can predict cut out (Nanotron's pipeline rank). Pure.
  virtual std::string file_key(const std::string& path) const { return path; }
  /// Name of a stored array that no rule predicts, in the manner of the table's own names. Pure.
  virtual std::string array_name(const std::string& file, const std::string& entry) const;
  /// Do the format's own writers store copies of one tensor that differ? The first one counts then. Pure.
  virtual bool copies_may_differ() const { return false; }
  /// Do loaders take the tokenizer from the checkpoint's own folder? Pure.
  virtual bool wants_tokenizer() const { return false; }
  /// Checks what only the format knows about its headers (Nanotron's slices), after reconciliation. `locations[a]` is
  /// the entry of array a. Errors (input). Local.
  virtual Status check(const Probe& probe, const layout::Layout& layout,
                       const std::vector<std::uint32_t>& locations) const;

  /// Errors (usage): options that the format cannot follow, side file fields it cannot hold (those are warnings, in
  /// `notes`).
  virtual Expected<TargetChoice> choose(const model::Spec& spec, const TargetOptions& options,
                                        std::vector<std::string>& notes) const = 0;
  /// Groups the arrays of the layout into files. Pure.
  virtual Expected<std::vector<TargetFile>> files(const layout::Layout& layout, const TargetOptions& options) const = 0;
  /// Side files of the target: those written from the spec, then the carried ones it has a place for. Errors (usage).
  /// Local.
  virtual Expected<std::vector<Sidecar>> sidecars(const SidecarInput& input, std::vector<std::string>& notes) const = 0;
  /// One-file formats: puts the side files into the file. Errors (input): one that cannot be read. Local.
  virtual Status put_inside(const SidecarInput& input, const std::vector<Sidecar>& sidecars, TargetFile& file) const;
};

/// A format by its name: one of those built in, or one that only a table of the library describes (plain safetensors
/// with a config.json, never detected). nullptr if there is none.
const Format* find(std::string_view name, const model::Library& library);
/// The built-in formats.
std::vector<std::string_view> names();

/// A source, described: headers read, layout predicted and reconciled with what is there.
struct Checkpoint {
  const Format* format = nullptr;
  Probe probe;
  std::shared_ptr<const layout::Canon> canon;
  std::shared_ptr<const layout::Layout> layout;
  /// Per array of the layout: its entry in probe.directory. Every array has one.
  std::vector<std::uint32_t> locations;
  /// Arrays that no table describes: those of the family generic, or those that passthrough carries.
  std::vector<model::NamedArray> named;
  std::vector<model::Tie> ties;
  std::vector<std::string> dropped;  ///< stored arrays that hold no weight, or were excluded, by array_names
  io::Follow follow = io::Follow::cache;
  bool synthetic = false;                      ///< no file exists: the bytes are generated
  std::shared_ptr<const Generator> generator;  ///< of a synthetic source
};

/// Detects, probes, predicts and reconciles. Path forms: a folder, a file, `org/name[@rev]` in the Hugging Face cache,
/// `synthetic:MODEL`. Errors (input): all differences between prediction and directory, the first few spelt out.
/// Collective.
Expected<Checkpoint> open_checkpoint(const std::string& path, const SourceOptions& options,
                                     const model::Library& library, comm::Comm& comm);

/// Bytes of file `file` of the directory: opened, or generated for a synthetic source. Local, thread-safe.
Expected<std::unique_ptr<io::Source>> open_source_file(const Checkpoint& checkpoint, std::uint32_t file, io::Mode mode);

/// Errors: (input) a source file whose size, time or inode is not what it was when its header was read; (failed) one
/// that is gone. Local.
Status check_unchanged(const Checkpoint& checkpoint);

/// A target, described: arrays in files at byte offsets.
struct Target {
  const Format* format = nullptr;
  std::shared_ptr<const layout::Layout> layout;
  std::vector<TargetFile> files;
  std::vector<container::FileImage> images;
  std::vector<std::uint32_t> file_of_array;
  std::vector<Index> offset_of_array;  ///< bytes
  std::vector<Sidecar> sidecars;       ///< files to write or copy beside those above
  std::vector<std::string> notes;
};

/// Errors (usage): a missing cell of family x format, a failed requirement, an impossible option. Pure but for scratch
/// files.
Expected<Target> describe_target(const Checkpoint& source, const std::string& format, const TargetOptions& options,
                                 const model::Library& library);

/// The name of each entry of probe.directory: the layout's own where it is an array of it, else Format::array_name.
/// Pure.
std::vector<std::string> array_names(const Checkpoint& checkpoint);

/// Digest lines that an array holds (parts of), rising. Pure.
std::vector<Index> lines_of(const layout::Layout& layout, std::uint32_t array);

}  // namespace reshard::format
