// SPDX-License-Identifier: Apache-2.0
#include "text_table.h"

#include <algorithm>

namespace reshard::cli {

std::string TextTable::text(int indent) const {
  std::vector<std::size_t> widths(alignment_.size(), 0);
  for (const auto& row : rows_) {
    for (std::size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
  }
  std::string out;
  for (const auto& row : rows_) {
    out.append(static_cast<std::size_t>(indent), ' ');
    for (std::size_t c = 0; c < row.size(); ++c) {
      const std::size_t blanks = widths[c] - row[c].size();
      if (c > 0) out += "  ";
      if (alignment_[c] == 'r') out.append(blanks, ' ');
      out += row[c];
      if (alignment_[c] == 'l' && c + 1 < row.size()) out.append(blanks, ' ');
    }
    out += '\n';
  }
  return out;
}

}  // namespace reshard::cli
