// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "reshard/format/format.h"
#include "side_files.h"

namespace reshard::format {

/// Spec from the text of a Hugging Face config.json, that of the family generic where its model_type is unknown;
/// --vocab-size must agree with it. Errors (input). Local.
Expected<model::Spec> parse_config(const SideFiles& side_files, const SourceOptions& options,
                                   const model::Library& library);

/// Refuses a --vocab-size other than `vocabulary`, which `path` says, in a format without rows of padding. Errors
/// (usage). Pure.
Status check_vocabulary(const SourceOptions& options, Index vocabulary, const std::string& path);

/// Says that the family generic was chosen, if it was.
void note_generic(const model::Spec& spec, const std::string& config_path, std::vector<std::string>& notes);

/// Warns where the config that was taken (--config-from, --model) says otherwise than the source's own one. `own` is
/// the spec of that, `said` globs of what it says itself (the scaling of rotary embeddings is called rope_scaling.*);
/// empty: everything. Nothing if there is no such config.
void note_replaced(const SideFiles& found, const Expected<model::Spec>& own, const std::vector<std::string>& said,
                   Probe& probe);

/// A mesh that file names tell is no larger than the number of files. Errors (input). Pure.
Status check_mesh(const layout::Mesh& mesh, const std::string& root, std::size_t num_files);

/// Sets the tokens of begin and end of text of a Llama by its vocabulary, where a config does not know them: 1 and 2 of
/// 32,000, 128000 and 128001 of 128,256, as fairseq2's own export does; notes what was taken, or that nothing was.
void assume_llama_tokens(nlohmann::json& hf, const std::string& path, std::vector<std::string>& notes);

/// The dtype that most bytes of the directory have among those that weights are cast between; `otherwise` if there is
/// none. Entries that one of the globs matches do not count.
DType main_dtype(const Directory& directory, DType otherwise, const std::vector<std::string>& ignore = {});

/// The numbers and sets of `options`, over those of `defaults`. Pure.
layout::Scope with_defaults(layout::Scope defaults, const layout::Scope& options);

/// Refuse the options that only some formats know. Errors (usage). Pure.
Status refuse_version(std::string_view format, const TargetOptions& options);
Status refuse_model(const SourceOptions& options);
Status refuse_params_style(std::string_view format, const TargetOptions& options);

/// A target file without arrays; a torch archive's folder is named after it, as torch.save does. Pure.
TargetFile make_file(std::string path);

/// One target file per distinct path that the table gives, in order of their first array.
std::vector<TargetFile> group_by_file(const layout::Layout& layout);

/// Adds an array to a target file. Pure.
void add_array(const layout::Layout& layout, std::uint32_t array, TargetFile& file);

}  // namespace reshard::format
