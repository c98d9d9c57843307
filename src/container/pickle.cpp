// SPDX-License-Identifier: Apache-2.0
#include "pickle.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>

#include "reshard/io/json.h"

namespace reshard::container::pickle {

std::string_view Values::text(Id id) const {
  return std::string_view(texts_).substr(nodes_[id].span.at, nodes_[id].span.size);
}

namespace {

constexpr Index kMaxPickleBytes = 256 * kMiB;
constexpr std::size_t kMaxNodes = 16'000'000;
constexpr std::size_t kMaxContainers = 4'000'000;
constexpr std::size_t kMaxItems = 64'000'000;  // of all containers and the stack
constexpr std::size_t kMemoGap = 1024;         // picklers number without gaps
constexpr Index kFirstBlock = 64 * kKiB;

// The bytes of a pickle, read as far as it needs: where it ends, only its opcodes tell.
class Feed {
 public:
  Feed(io::Source& source, Index begin, Index limit) : source_(source), begin_(begin), limit_(limit) {}

  Index position() const { return begin_ + static_cast<Index>(at_); }

  // The next `count` bytes. Errors: the end of the file, a read that fails.
  Expected<std::string_view> take(std::size_t count) {
    if (bytes_.size() - at_ < count) RESHARD_CHECK(fill(count));
    at_ += count;
    return std::string_view(bytes_).substr(at_ - count, count);
  }

  // Up to and without the next line feed.
  Expected<std::string_view> line() {
    constexpr std::size_t kMaxLine = 1024;
    for (std::size_t length = 0;; ++length) {
      if (length > kMaxLine) return input_error("a name that is too long");
      if (bytes_.size() - at_ <= length) RESHARD_CHECK(fill(length + 1));
      if (bytes_[at_ + length] != '\n') continue;
      at_ += length + 1;
      return std::string_view(bytes_).substr(at_ - length - 1, length);
    }
  }

 private:
  Status fill(std::size_t count) {
    const auto have = static_cast<Index>(bytes_.size());
    const Index need = static_cast<Index>(at_ + count);
    if (need > limit_ - begin_) return input_error("the pickle is cut off");
    if (need > kMaxPickleBytes) {
      return input_error(fmt::format("a pickle of more than {} bytes", kMaxPickleBytes));
    }
    const Index want = std::min({std::max({need, 2 * have, kFirstBlock}), limit_ - begin_, kMaxPickleBytes});
    bytes_.resize(static_cast<std::size_t>(want));
    return source_.read_at(std::as_writable_bytes(std::span(bytes_).subspan(static_cast<std::size_t>(have))),
                           begin_ + have);
  }

  io::Source& source_;
  Index begin_, limit_;
  std::string bytes_;
  std::size_t at_ = 0;
};

template <class T>
T little_endian(std::string_view bytes) {
  T value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    value = static_cast<T>(value | static_cast<T>(static_cast<T>(static_cast<unsigned char>(bytes[i])) << (8 * i)));
  }
  return value;
}

}  // namespace

// The machine that a pickle is a program for, without its calls.
class Machine {
 public:
  Machine(io::Source& source, Index begin, Index limit, const std::function<bool(std::string_view)>& allowed)
      : feed_(source, begin, limit), allowed_(allowed) {
    // Constants that need no node of their own.
    for (const Kind kind : {Kind::none, Kind::boolean, Kind::boolean}) v_.nodes_.push_back({kind, {0}});
    v_.nodes_[kTrue].integer = 1;
    for (int i = 0; i < kSmall; ++i) v_.nodes_.push_back({Kind::integer, {i}});
    v_.nodes_.push_back({Kind::tuple, {0}});
    v_.nodes_.back().span = {0, 0};
  }

  Index position() const { return opcode_at_; }

  Expected<Pickle> run() {
    RESHARD_CHECK(protocol());
    while (true) {
      opcode_at_ = feed_.position();
      RESHARD_TRY(const std::string_view opcode, feed_.take(1));
      if (opcode[0] == '.') break;
      RESHARD_CHECK(step(static_cast<unsigned char>(opcode[0])));
      if (stack_.size() > kMaxItems) return input_error("more values on the stack than a checkpoint has");
    }
    if (stack_.size() != 1 || !marks_.empty()) return input_error("the pickle ends with another stack than one value");
    return Pickle{std::move(v_), stack_.back(), feed_.position()};
  }

 private:
  static constexpr Id kNone = 0, kFalse = 1, kTrue = 2, kFirstSmall = 3;
  static constexpr int kSmall = 256;
  static constexpr Id kEmptyTuple = kFirstSmall + kSmall;

  Status step(unsigned char opcode) {
    switch (opcode) {
      case 0x80:
        return input_error("its protocol, which belongs to the beginning alone");
      case '(':
        marks_.push_back(stack_.size());
        return marks_.size() > kMaxItems ? Status(input_error("too many marks")) : Status();
      case 'c':
        return global();
      case 'R':
        return reduce();
      case 0x81:
        return reduce();  // NEWOBJ: a class and arguments, as a call
      case 'b':
        return build();
      case 'a':
        return append();
      case 'e':
        return extend(Kind::list);
      case 's':
        return set_item();
      case 'u':
        return extend(Kind::dict);
      case 't':
        return tuple_to_mark();
      case 0x85:
        return tuple(1);
      case 0x86:
        return tuple(2);
      case 0x87:
        return tuple(3);
      case ')':
        return push(kEmptyTuple);
      case ']':
        return grow(Kind::list);
      case '}':
        return grow(Kind::dict);
      case 0x8f:
        return grow(Kind::set);
      case 'N':
        return push(kNone);
      case 0x88:
        return push(kTrue);
      case 0x89:
        return push(kFalse);
      case 'K':
        return fixed_integer<std::uint8_t>();
      case 'M':
        return fixed_integer<std::uint16_t>();
      case 'J':
        return fixed_integer<std::uint32_t>();
      case 0x8a:
        return long_integer();
      case 'G':
        return real();
      case 'X':
        return text(4);
      case 'U':
        return text(1);
      case 'T':
        return text(4);
      case 'Q':
        return persistent_id();
      case 'h':
        return get(1);
      case 'j':
        return get(4);
      case 'q':
        return put(1);
      case 'r':
        return put(4);
      default:
        return input_error(fmt::format("opcode {:#04x} is none that a state dict needs", opcode));
    }
  }

  // Values -------------------------------------------------------------------------------------------------------

  Status push(Id id) {
    stack_.push_back(id);
    return {};
  }

  Expected<Id> node(Values::Node node) {
    if (v_.nodes_.size() >= kMaxNodes) return input_error(fmt::format("more than {} values", kMaxNodes));
    v_.nodes_.push_back(node);
    return static_cast<Id>(v_.nodes_.size() - 1);
  }

  // A list, dictionary or set: empty so far.
  Status grow(Kind kind) {
    if (v_.lists_.size() >= kMaxContainers) return input_error(fmt::format("more than {} containers", kMaxContainers));
    RESHARD_TRY(const Id id, node({kind, {static_cast<std::int64_t>(v_.lists_.size())}}));
    v_.lists_.emplace_back();
    return push(id);
  }

  // A tuple, storage or object of these items.
  Status fix(Kind kind, std::span<const Id> items) {
    RESHARD_CHECK(count_items(items.size()));
    Values::Node made{kind, {0}};
    made.span = {static_cast<std::uint32_t>(v_.pool_.size()), static_cast<std::uint32_t>(items.size())};
    v_.pool_.insert(v_.pool_.end(), items.begin(), items.end());
    RESHARD_TRY(const Id id, node(made));
    return push(id);
  }

  Status count_items(std::size_t more) {
    items_ += more;
    return items_ > kMaxItems ? Status(input_error(fmt::format("more than {} items", kMaxItems))) : Status();
  }

  Expected<Id> pop() {
    if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) return input_error("the stack is empty");
    const Id id = stack_.back();
    stack_.pop_back();
    return id;
  }

  Expected<Id> top() const {
    if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) return input_error("the stack is empty");
    return stack_.back();
  }

  Expected<std::vector<Id>> pop_to_mark() {
    if (marks_.empty()) return input_error("there is no mark on the stack");
    const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<Id> items(begin, stack_.end());
    stack_.erase(begin, stack_.end());
    marks_.pop_back();
    return items;
  }

  // Opcodes ------------------------------------------------------------------------------------------------------

  Status protocol() {
    opcode_at_ = feed_.position();
    RESHARD_TRY(const std::string_view bytes, feed_.take(2));
    if (bytes[0] != '\x80') return input_error("a pickle that does not begin with its protocol");
    const auto number = static_cast<unsigned char>(bytes[1]);
    if (number > 5) return input_error(fmt::format("pickle protocol {}", static_cast<int>(number)));
    return {};
  }

  Status global() {
    RESHARD_TRY(const std::string_view module_line, feed_.line());
    std::string name(module_line);
    RESHARD_TRY(const std::string_view name_line, feed_.line());
    name += ' ';
    name += name_line;
    if (!allowed_(name)) {
      return input_error(
          fmt::format("the pickle names {}, which no checkpoint of weights needs; it is not run, and not read either",
                      io::in_quotes(name)));
    }
    return text_node(name, Kind::global);
  }

  Status text_node(std::string_view text, Kind kind) {
    Values::Node made{kind, {0}};
    made.span = {static_cast<std::uint32_t>(v_.texts_.size()), static_cast<std::uint32_t>(text.size())};
    v_.texts_ += text;
    RESHARD_TRY(const Id id, node(made));
    return push(id);
  }

  Status reduce() {
    RESHARD_TRY(const Id arguments, pop());
    RESHARD_TRY(const Id callee, pop());
    if (v_.kind(callee) != Kind::global || v_.kind(arguments) != Kind::tuple) {
      return input_error("a call of what is no global, or without a tuple of arguments");
    }
    const std::span<const Id> given = v_.items(arguments);
    if (v_.text(callee) == "collections OrderedDict" && given.empty()) return grow(Kind::dict);
    if (v_.text(callee) == "collections OrderedDict") return dictionary_of(given);
    if (v_.text(callee) == "torch Size" && given.size() == 1) return push(given.front());
    return fix(Kind::object, std::array{callee, arguments});
  }

  // Python 2 makes an OrderedDict of a list of pairs.
  Status dictionary_of(std::span<const Id> arguments) {
    const auto wrong = [] { return input_error("an OrderedDict of something else than a list of pairs"); };
    if (arguments.size() != 1 || v_.kind(arguments.front()) != Kind::list) return wrong();
    const Id list = arguments.front();
    RESHARD_CHECK(grow(Kind::dict));
    const Id dict = stack_.back();
    const std::vector<Id> pairs = items_of(list);
    RESHARD_CHECK(count_items(2 * pairs.size()));
    for (const Id pair : pairs) {
      const bool is_pair = v_.kind(pair) == Kind::list || v_.kind(pair) == Kind::tuple;
      if (!is_pair || v_.items(pair).size() != 2) return wrong();
      const Id key = v_.items(pair)[0], value = v_.items(pair)[1];
      items_of(dict).insert(items_of(dict).end(), {key, value});
    }
    return {};
  }

  // The state of a dict (a module's _metadata) means nothing to weights.
  Status build() {
    RESHARD_TRY(const Id state, pop());
    RESHARD_TRY(const Id built, top());
    if (v_.kind(built) == Kind::dict) return {};
    if (v_.kind(built) != Kind::object) return input_error("a state for what has none");
    // Its call, and now its state.
    const std::array items = {v_.items(built)[0], v_.items(built)[1], state};
    RESHARD_CHECK(count_items(items.size()));
    v_.nodes_[built].span = {static_cast<std::uint32_t>(v_.pool_.size()), static_cast<std::uint32_t>(items.size())};
    v_.pool_.insert(v_.pool_.end(), items.begin(), items.end());
    return {};
  }

  std::vector<Id>& items_of(Id id) { return v_.lists_[static_cast<std::size_t>(v_.nodes_[id].integer)]; }

  Status append() {
    RESHARD_TRY(const Id item, pop());
    RESHARD_TRY(const Id list, top());
    if (v_.kind(list) != Kind::list) return input_error("an item appended to what is no list");
    RESHARD_CHECK(count_items(1));
    items_of(list).push_back(item);
    return {};
  }

  Status set_item() {
    RESHARD_TRY(const Id value, pop());
    RESHARD_TRY(const Id key, pop());
    RESHARD_TRY(const Id dict, top());
    if (v_.kind(dict) != Kind::dict) return input_error("an item set in what is no dictionary");
    RESHARD_CHECK(count_items(2));
    items_of(dict).insert(items_of(dict).end(), {key, value});
    return {};
  }

  Status extend(Kind kind) {
    RESHARD_TRY(const std::vector<Id> items, pop_to_mark());
    RESHARD_TRY(const Id target, top());
    if (v_.kind(target) != kind || (kind == Kind::dict && items.size() % 2 != 0)) {
      return input_error("items for what is not their list or dictionary");
    }
    RESHARD_CHECK(count_items(items.size()));
    items_of(target).insert(items_of(target).end(), items.begin(), items.end());
    return {};
  }

  Status tuple_to_mark() {
    RESHARD_TRY(std::vector<Id> items, pop_to_mark());
    return fix(Kind::tuple, items);
  }

  Status tuple(std::size_t count) {
    std::vector<Id> items(count);
    for (std::size_t i = count; i-- > 0;) {
      RESHARD_TRY(items[i], pop());
    }
    return fix(Kind::tuple, items);
  }

  Status integer(std::int64_t value) {
    if (value >= 0 && value < kSmall) return push(kFirstSmall + static_cast<Id>(value));
    RESHARD_TRY(const Id id, node({Kind::integer, {value}}));
    return push(id);
  }

  template <class T>
  Status fixed_integer() {
    RESHARD_TRY(const std::string_view bytes, feed_.take(sizeof(T)));
    const T value = little_endian<T>(bytes);
    if constexpr (sizeof(T) == 4) return integer(static_cast<std::int32_t>(value));
    return integer(value);
  }

  Status long_integer() {
    RESHARD_TRY(const std::string_view size, feed_.take(1));
    const auto count = static_cast<unsigned char>(size[0]);
    RESHARD_TRY(const std::string_view bytes, feed_.take(count));
    if (count > 8) {
      RESHARD_TRY(const Id id, node({Kind::big_integer, {0}}));
      return push(id);
    }
    std::uint64_t value = count > 0 && (bytes.back() & 0x80) != 0 ? ~std::uint64_t{0} : 0;  // sign extension
    for (std::size_t i = 0; i < count; ++i) {
      value &= ~(std::uint64_t{0xff} << (8 * i));
      value |= std::uint64_t{static_cast<unsigned char>(bytes[i])} << (8 * i);
    }
    return integer(static_cast<std::int64_t>(value));
  }

  Status real() {
    RESHARD_TRY(const std::string_view bytes, feed_.take(8));
    std::uint64_t bits = 0;
    for (const char byte : bytes) bits = bits << 8 | static_cast<unsigned char>(byte);
    Values::Node made{Kind::real, {0}};
    made.real = std::bit_cast<double>(bits);
    RESHARD_TRY(const Id id, node(made));
    return push(id);
  }

  Status text(std::size_t width) {
    RESHARD_TRY(const std::string_view size, feed_.take(width));
    const std::size_t count =
        width == 1 ? static_cast<unsigned char>(size[0]) : std::size_t{little_endian<std::uint32_t>(size)};
    RESHARD_TRY(const std::string_view bytes, feed_.take(count));
    return text_node(bytes, Kind::text);
  }

  Status persistent_id() {
    RESHARD_TRY(const Id id, pop());
    if (v_.kind(id) != Kind::tuple) return input_error("a persistent id that is no tuple");
    return fix(Kind::storage, std::array{id});
  }

  Expected<std::size_t> memo_index(std::size_t width) {
    RESHARD_TRY(const std::string_view bytes, feed_.take(width));
    return width == 1 ? static_cast<unsigned char>(bytes[0]) : std::size_t{little_endian<std::uint32_t>(bytes)};
  }

  Status get(std::size_t width) {
    RESHARD_TRY(const std::size_t index, memo_index(width));
    if (index >= memo_.size() || memo_[index] == kUnset) {
      return input_error(fmt::format("entry {} of the memo, which was never set", index));
    }
    return push(memo_[index]);
  }

  Status put(std::size_t width) {
    RESHARD_TRY(const std::size_t index, memo_index(width));
    RESHARD_TRY(const Id id, top());
    if (index >= memo_.size()) {
      if (index > memo_.size() + kMemoGap) {
        return input_error(fmt::format("entry {} of a memo of {}", index, memo_.size()));
      }
      if (index >= kMaxItems) return input_error("more memo entries than a checkpoint has");
      memo_.resize(index + 1, kUnset);
    }
    // Picklers give every object a number of its own: an entry that changes is there to mislead readers.
    if (memo_[index] != kUnset) return input_error(fmt::format("entry {} of the memo is set twice", index));
    memo_[index] = id;
    return {};
  }

  static constexpr Id kUnset = 0xffffffff;

  Feed feed_;
  const std::function<bool(std::string_view)>& allowed_;
  Index opcode_at_ = 0;
  Values v_;
  std::vector<Id> stack_, memo_;
  std::vector<std::size_t> marks_;
  std::size_t items_ = 0;
};

Expected<Pickle> read(io::Source& source, Index begin, Index limit, const std::string& path,
                      const std::function<bool(std::string_view global)>& allowed) {
  Machine machine(source, begin, limit, allowed);
  Expected<Pickle> pickle = machine.run();
  if (!pickle) return std::move(pickle).error().at(fmt::format("{}: pickle at byte {}", path, machine.position()));
  return pickle;
}

void Writer::real(double value) {
  const auto bits = std::bit_cast<std::uint64_t>(value);
  bytes_ += 'G';
  for (int shift = 56; shift >= 0; shift -= 8) bytes_ += static_cast<char>(bits >> shift & 0xff);
}

void Writer::integer(std::int64_t value) {
  const auto put_bytes = [&](std::int64_t number, int count) {
    for (int i = 0; i < count; ++i) bytes_ += static_cast<char>(static_cast<std::uint64_t>(number) >> (8 * i) & 0xff);
  };
  if (value >= 0 && value <= 0xff) {
    op('K');
    put_bytes(value, 1);
  } else if (value >= 0 && value <= 0xffff) {
    op('M');
    put_bytes(value, 2);
  } else if (value >= std::numeric_limits<std::int32_t>::min() && value <= std::numeric_limits<std::int32_t>::max()) {
    op('J');
    put_bytes(value, 4);
  } else {
    int count = 8;
    // Bytes at the end that only repeat the sign are left out.
    const auto fits = [&](int bytes) {
      const std::int64_t half = std::int64_t{1} << (8 * bytes - 1);
      return value >= -half && value < half;
    };
    while (count > 1 && fits(count - 1)) --count;
    op('\x8a');
    put_bytes(count, 1);
    put_bytes(value, count);
  }
}

Writer::Memo Writer::text(std::string_view value) {
  op('X');
  for (int i = 0; i < 4; ++i) bytes_ += static_cast<char>(value.size() >> (8 * i) & 0xff);
  bytes_ += value;
  return put();
}

Writer::Memo Writer::global(std::string_view module, std::string_view name) {
  const std::string line = fmt::format("{}\n{}\n", module, name);
  for (const auto& [known, memo] : globals_) {
    if (known == line) {
      get(memo);
      return memo;
    }
  }
  op('c');
  bytes_ += line;
  globals_.emplace_back(line, next_);
  return put();
}

void Writer::get(Memo memo) {
  op(memo < 256 ? 'h' : 'j');
  for (int i = 0; i < (memo < 256 ? 1 : 4); ++i) bytes_ += static_cast<char>(memo >> (8 * i) & 0xff);
}

Writer::Memo Writer::put() {
  op(next_ < 256 ? 'q' : 'r');
  for (int i = 0; i < (next_ < 256 ? 1 : 4); ++i) bytes_ += static_cast<char>(next_ >> (8 * i) & 0xff);
  return next_++;
}

std::string Writer::take() {
  op('.');
  return std::move(bytes_);
}

}  // namespace reshard::container::pickle
