// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace reshard::cli {

/// Rows of cells, printed in aligned columns.
class TextTable {
 public:
  /// `alignment` has a letter per column: l or r. The last column is never padded on the right.
  explicit TextTable(std::string alignment) : alignment_(std::move(alignment)) {}

  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  bool empty() const { return rows_.empty(); }
  /// Every line indented by so many blanks.
  std::string text(int indent = 0) const;

 private:
  std::string alignment_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace reshard::cli
