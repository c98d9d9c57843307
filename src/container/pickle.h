// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "reshard/base/expected.h"
#include "reshard/base/index.h"
#include "reshard/io/file.h"

/// Python pickles as data. What a pickle would call is kept as a node and never called.
namespace reshard::container::pickle {

using Id = std::uint32_t;

enum class Kind : std::uint8_t {
  none,
  boolean,
  integer,
  big_integer,  ///< does not fit into 64 bits; its value is not kept
  real,
  text,
  tuple,
  list,
  dict,  ///< items: key, value, key, value, ...; collections.OrderedDict too
  set,
  global,   ///< text: "module name"
  storage,  ///< items: its persistent id, a tuple
  object,   ///< items: what was called (a global), its arguments (a tuple), and the state of a BUILD, if any
};

/// Every value of one pickle. Ids are small numbers: the same one twice is the same object in Python.
class Values {
 public:
  Id size() const { return static_cast<Id>(nodes_.size()); }  ///< ids are smaller
  Kind kind(Id id) const { return nodes_[id].kind; }
  bool is_true(Id id) const { return nodes_[id].integer != 0; }
  std::int64_t integer(Id id) const { return nodes_[id].integer; }
  double real(Id id) const { return nodes_[id].real; }
  std::string_view text(Id id) const;  ///< of a text or a global
  std::span<const Id> items(Id id) const {
    if (is_growing(kind(id))) return lists_[static_cast<std::size_t>(nodes_[id].integer)];
    return std::span(pool_).subspan(nodes_[id].span.at, nodes_[id].span.size);
  }
  bool is_global(Id id, std::string_view name) const { return kind(id) == Kind::global && text(id) == name; }

 private:
  friend class Machine;
  static bool is_growing(Kind kind) { return kind == Kind::list || kind == Kind::dict || kind == Kind::set; }
  struct Node {
    Kind kind;
    union {
      std::int64_t integer;  // a number; of lists, dictionaries and sets, which of lists_ has the items
      double real;
      struct {
        std::uint32_t at, size;  // in texts_; of items in pool_
      } span;
    };
  };
  std::vector<Node> nodes_;
  std::vector<std::vector<Id>> lists_;
  std::vector<Id> pool_;  // items of tuples, storages and objects
  std::string texts_;
};

struct Pickle {
  Values values;
  Id root = 0;
  Index end = 0;  ///< position in the file of the byte behind it
};

/// Reads the pickle that begins at byte `begin` and ends before byte `limit`. `allowed` says which globals ("module
/// name") may occur. Errors (input): `path`, the byte, and what is wrong there: an opcode or global that is not
/// allowed, a stack or memo that does not hold what is asked of it, more values than a checkpoint has. Memory is
/// bounded by the size of the pickle, and by limits of its own for the rest. Local.
Expected<Pickle> read(io::Source& source, Index begin, Index limit, const std::string& path,
                      const std::function<bool(std::string_view global)>& allowed);

/// Writes what Python's pickler writes with protocol 2, memo included.
class Writer {
 public:
  Writer() : bytes_("\x80\x02") {}

  using Memo = std::uint32_t;
  void op(char opcode) { bytes_ += opcode; }
  void integer(std::int64_t value);
  void real(double value);
  Memo text(std::string_view value);
  Memo global(std::string_view module, std::string_view name);  ///< from the memo, the second time
  void get(Memo memo);
  Memo put();  ///< the value on the stack gets the next number
  std::string take();

 private:
  std::string bytes_;
  Memo next_ = 0;
  std::vector<std::pair<std::string, Memo>> globals_;
};

}  // namespace reshard::container::pickle
