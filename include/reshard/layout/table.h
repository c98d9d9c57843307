// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <vector>

#include "reshard/base/expected.h"
#include "reshard/layout/view.h"

namespace reshard::layout {

/// How one mesh dim cuts an array.
struct ShardRule {
  enum class Kind { axis, dim, flat };
  std::string mesh_dim;
  Kind kind = Kind::axis;
  std::vector<std::string> axes;  ///< kind axis: split the first as far as it goes, then the next
  int dim = 0;                    ///< kind dim
};

/// How an extent that the mesh size does not divide is split.
enum class Split {
  even,      ///< refused
  ceil,      ///< chunks of ceil(n / parts), as torch.chunk; the last ones may be smaller or empty
  balanced,  ///< the first n % parts ranks get one more, as torch.tensor_split
};

/// One line of a format table: a family of stored arrays.
struct ArrayRule {
  std::string array;   ///< name pattern; {layer}, {expert} fix an axis; {layer.local} counts inside the pipeline stage
  std::string file;    ///< file pattern, relative to the checkpoint; empty: the container's writer decides
  std::string entry;   ///< name inside the file; empty: the array name
  std::string tensor;  ///< canonical tensor, where the view's parts name none; of zeros alone, what they stand beside
  std::string view_text;
  View view;
  std::vector<ShardRule> shards;
  std::vector<std::string> where;  ///< conditions: which members exist
  std::string stage;               ///< pipeline slot of arrays without a layer axis ("embed", "head", ...)
  std::string dtype;               ///< fixed dtype (a safetensors name); empty: that of the model
  /// Rule whose arrays these ones repeat under another name (tied weights): they share its extents where the container
  /// can do that, and are no arrays of the layout but extras. -1: none.
  int alias = -1;
  bool copied = false;  ///< the alias has content of its own, equal to that of the other: arrays of the layout
  bool apart = false;   ///< not interleaved by layer or expert with the rules above
  std::string buffer;   ///< named C++ function that makes the content of an array without weights; an extra as well
};

/// What a format demands, refused before reading; the text names the rule.
struct Requirement {
  std::string condition;
  std::string message;
};

/// A format's table for one family, its named constants resolved and its rule sets joined.
struct Table {
  std::string format;
  std::string container;                                          ///< "safetensors", "hdf5"
  std::vector<ArrayRule> rules;                                   ///< in writing order
  std::map<std::string, std::string> numbers;                     ///< extra names (pad, ...) as expressions
  std::vector<std::pair<std::string, std::string>> number_order;  ///< the same, in the order to evaluate
  std::vector<Requirement> require;
  std::vector<std::string> ignore;     ///< globs of arrays that hold no weight
  /// Globs of arrays that hold zeros in a source where no rule takes them, and what the config then says.
  std::map<std::string, std::string> zeros;
  std::vector<std::string> mesh_dims;  ///< mesh dims that the format knows, outermost first
  std::string placement;               ///< named C++ function that places layers on pipeline stages; empty: even
  Split split = Split::even;
  bool passthrough = false;  ///< can hold tensors of any name
};

}  // namespace reshard::layout
