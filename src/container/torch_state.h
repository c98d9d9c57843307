// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "pickle.h"
#include "reshard/container/container.h"

/// What torch.save puts into a pickle: nested dictionaries of tensors over storages.
namespace reshard::container::torch {

/// A storage as the tensors name it.
struct Storage {
  std::string_view key;
  Index numel = 0;  ///< elements of its class; bytes of an untyped one
  Index bytes = 0;
  std::string_view kind;  ///< its class, "torch HalfStorage"
};

/// Where the bytes of a storage lie in the file. Errors (input): nowhere, or with another size.
using Find = std::function<Expected<Index>(const Storage& storage)>;

/// May this global ("module name") occur in a checkpoint? The list of torch's own weights-only loader, without what has
/// no plain tensor (formats: torch/_weights_only_unpickler.py).
bool is_allowed(std::string_view global);

/// All tensors below the root, named by the keys on the way joined with dots, as entries in the order of their extents;
/// numbers, texts and the like as `metadata`. Errors (input): `path`, tensor, and what is wrong: a storage that is not
/// there, a view that reaches over its storage, a quantised or sparse tensor, structures that are deep or cyclic.
/// Local.
Status collect(const pickle::Pickle& pickle, const Find& find, const std::string& path, FileDirectory& directory);

/// All storages that the pickle names, in any depth, by key. Errors (input): two sizes for one key. Local.
Expected<std::map<std::string_view, Storage>> storages(const pickle::Values& values, const std::string& path);

/// The pickle of a state dict: item i lies in storage `keys[i]`. Items that repeat another are the same tensor. Pure.
std::string write(const FileSpec& spec, const std::vector<std::size_t>& keys);

/// Does torch have this dtype? (It has no 6-bit floats, say.) Pure.
bool has_dtype(DType dtype);

}  // namespace reshard::container::torch
