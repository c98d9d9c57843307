// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <variant>

namespace reshard {

/// What kind of failure this is; the value is the exit status of the program.
enum class Code : int {
  usage = 2,   ///< wrong command line, or a plan that is impossible as asked
  input = 3,   ///< a source that is unreadable or not a valid checkpoint
  failed = 4,  ///< something broke while running; resumable unless said
};

/// An expected failure: one line saying what, where, what was expected and what to do.
struct Error {
  Code code = Code::failed;
  std::string message;

  /// Puts `where` in front of the message: "where: message".
  Error at(const std::string& where) && {
    message = where + ": " + message;
    return std::move(*this);
  }
};

inline Error usage_error(std::string message) { return {Code::usage, std::move(message)}; }
inline Error input_error(std::string message) { return {Code::input, std::move(message)}; }
inline Error run_error(std::string message) { return {Code::failed, std::move(message)}; }

/// A value or an Error. Functions that can fail for reasons outside the program return this; bugs are assertions.
template <class T>
class [[nodiscard]] Expected {
 public:
  Expected(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Expected(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool has_value() const { return state_.index() == 0; }
  explicit operator bool() const { return has_value(); }
  T& value() & { return std::get<0>(state_); }
  const T& value() const& { return std::get<0>(state_); }
  T&& value() && { return std::get<0>(std::move(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  Error& error() & { return std::get<1>(state_); }
  const Error& error() const& { return std::get<1>(state_); }
  Error&& error() && { return std::get<1>(std::move(state_)); }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Expected<void> {
 public:
  Expected() = default;
  Expected(Error error) : error_(std::move(error)) {}

  bool has_value() const { return !error_; }
  explicit operator bool() const { return has_value(); }
  Error& error() & { return *error_; }
  const Error& error() const& { return *error_; }
  Error&& error() && { return *std::move(error_); }

 private:
  std::optional<Error> error_;
};

using Status = Expected<void>;

}  // namespace reshard

#define RESHARD_CONCAT_(a, b) a##b
#define RESHARD_CONCAT(a, b) RESHARD_CONCAT_(a, b)

/// `RESHARD_TRY(auto x, f());` declares x from the value of f(), or returns its error.
#define RESHARD_TRY(declaration, expression) \
  RESHARD_TRY_(declaration, expression, RESHARD_CONCAT(reshard_result_, __LINE__))
#define RESHARD_TRY_(declaration, expression, name) \
  auto name = (expression);                         \
  if (!name) return std::move(name).error();        \
  declaration = *std::move(name)

/// `RESHARD_CHECK(f());` returns the error of a Status, if it holds one.
#define RESHARD_CHECK(expression)                                                 \
  do {                                                                            \
    if (auto reshard_status_ = (expression); !reshard_status_) return std::move(reshard_status_).error(); \
  } while (false)
