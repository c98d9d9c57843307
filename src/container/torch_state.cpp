// SPDX-License-Identifier: Apache-2.0
#include "torch_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "containers.h"
#include "reshard/io/json.h"

namespace reshard::container::torch {
namespace {

using namespace std::string_view_literals;
using pickle::Id;
using pickle::Kind;
using pickle::Values;

constexpr int kMaxDepth = 64;
constexpr std::size_t kMaxVisits = 12'000'000;      // a value that the memo repeats is visited again
constexpr std::size_t kMaxValues = 4096;            // numbers and texts that are kept
constexpr Index kMaxRepeatedBytes = kGiB;           // of tensors that show the same elements again and again, in all
constexpr std::size_t kMaxEntryBytes = 256 * kMiB;  // of all names, shapes and strides

struct LegacyClass {
  std::string_view name;  // without "Storage"
  DType dtype;
};

// Storage classes with a dtype of their own; the list is closed, newer dtypes lie in untyped storages.
constexpr std::array<LegacyClass, 11> kClasses = {{{"Double", DType::f64},
                                                   {"Float", DType::f32},
                                                   {"Half", DType::f16},
                                                   {"BFloat16", DType::bf16},
                                                   {"Long", DType::i64},
                                                   {"Int", DType::i32},
                                                   {"Short", DType::i16},
                                                   {"Char", DType::i8},
                                                   {"Byte", DType::u8},
                                                   {"Bool", DType::boolean},
                                                   {"ComplexFloat", DType::c64}}};

constexpr std::string_view kUntyped = "torch.storage UntypedStorage";

std::optional<std::string_view> class_of(DType dtype) {
  for (const LegacyClass& one : kClasses) {
    if (one.dtype == dtype) return one.name;
  }
  return std::nullopt;
}

// "torch HalfStorage" -> f16; nothing for others.
std::optional<DType> dtype_of_class(std::string_view global) {
  if (!global.starts_with("torch ") || !global.ends_with("Storage")) return std::nullopt;
  const std::string_view name = global.substr(6, global.size() - 13);
  for (const LegacyClass& one : kClasses) {
    if (one.name == name) return one.dtype;
  }
  return std::nullopt;
}

std::optional<DType> dtype_of_global(std::string_view global) {
  if (!global.starts_with("torch ")) return std::nullopt;
  const std::string_view name = global.substr(6);
  for (int i = 0; i < kNumDTypes; ++i) {
    const auto dtype = static_cast<DType>(i);
    if (!name.empty() && torch_name(dtype) == name) return dtype;
  }
  return std::nullopt;
}

bool is_text(const Values& values, Id id) { return values.kind(id) == Kind::text; }

// ('storage', class, key, location, numel): five parts, of legacy files six, the last one None or a view.
struct StorageId {
  std::string_view global, key;
  Index numel = 0;             // elements of the class; bytes of an untyped storage
  Index first = 0;             // element at which a view of an old file begins
  std::optional<DType> dtype;  // nothing: untyped

  Index bytes() const { return numel * (dtype ? bytes_of(*dtype) : 1); }
};

Expected<StorageId> parse_storage(const Values& values, Id id) {
  const std::span<const Id> parts = values.items(values.items(id).front());
  const bool fits = (parts.size() == 5 || parts.size() == 6) && is_text(values, parts[0]) &&
                    values.text(parts[0]) == "storage" && values.kind(parts[1]) == Kind::global &&
                    is_text(values, parts[2]) && values.kind(parts[4]) == Kind::integer;
  if (!fits) return input_error("a reference to something that is no storage");
  StorageId storage;
  storage.global = values.text(parts[1]);
  storage.key = values.text(parts[2]);
  storage.numel = values.integer(parts[4]);
  storage.dtype = dtype_of_class(storage.global);
  if (!storage.dtype && storage.global != kUntyped) {
    return input_error(fmt::format("storage '{}' is a {}, which holds no plain numbers", storage.key, storage.global));
  }
  if (storage.numel < 0 || !checked_mul(storage.numel, 16)) {
    return input_error(fmt::format("storage '{}' has {} elements", storage.key, storage.numel));
  }
  if (parts.size() == 6 && values.kind(parts[5]) == Kind::tuple) {
    const std::span<const Id> view = values.items(parts[5]);
    if (view.size() != 3 || values.kind(view[1]) != Kind::integer || values.integer(view[1]) < 0) {
      return input_error(fmt::format("storage '{}' is a view that is not understood", storage.key));
    }
    storage.first = values.integer(view[1]);
  }
  return storage;
}

Expected<Shape> parse_numbers(const Values& values, Id id) {
  if (values.kind(id) != Kind::tuple) return input_error("sizes or strides that are no tuple");
  Shape numbers;
  if (values.items(id).size() > kMaxDims) {
    return input_error(fmt::format("{} dimensions, at most {} are read", values.items(id).size(), kMaxDims));
  }
  for (const Id one : values.items(id)) {
    if (values.kind(one) != Kind::integer || values.integer(one) < 0) {
      return input_error("a size or stride that is no number, or a negative one");
    }
    numbers.push_back(values.integer(one));
  }
  return numbers;
}

constexpr std::string_view kTensor = "torch._utils _rebuild_tensor";
constexpr std::string_view kTensor2 = "torch._utils _rebuild_tensor_v2";
constexpr std::string_view kTensor3 = "torch._utils _rebuild_tensor_v3";

// Parameters and subclasses of tensors: which of their arguments is the tensor.
struct Wrapper {
  std::string_view global;
  std::size_t tensor;
};
constexpr std::array<Wrapper, 3> kWrappers = {{{"torch._utils _rebuild_parameter", 0},
                                               {"torch._utils _rebuild_parameter_with_state", 0},
                                               {"torch.nn.parameter Parameter", 0}}};
constexpr std::string_view kFromType = "torch._tensor _rebuild_from_type_v2";  // (function, type, arguments, state)

// Whatever else torch rebuilds: it has no plain extent.
bool is_odd_tensor(std::string_view global) { return global.starts_with("torch._utils _rebuild_"); }

class Collector {
 public:
  Collector(const Values& values, const Find& find, const std::string& path, FileDirectory& directory)
      : values_(values), find_(find), path_(path), directory_(directory) {}

  Status run(Id root) {
    RESHARD_CHECK(visit(root, "", 0));
    auto& entries = directory_.entries;
    std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
      return a.offset != b.offset ? a.offset < b.offset : a.length < b.length;
    });
    RESHARD_CHECK(check_names());
    return directory_.big_endian ? check_widths() : Status();
  }

 private:
  Error fail(const std::string& name, const std::string& what) const {
    return input_error(
        fmt::format("{}: {}{}: {}", path_, name.empty() ? "" : "tensor ", name.empty() ? "pickle" : name, what));
  }

  // Bytes are swapped number by number: they must belong to numbers of one width.
  Status check_widths() const {
    Index end = 0, width = 0;
    for (const Entry& entry : directory_.entries) {
      if (entry.length == 0) continue;
      if (entry.offset < end && bytes_of(entry.dtype) != width) {
        return fail(entry.name, "big-endian numbers that another tensor has in another width");
      }
      end = std::max(end, entry.offset + entry.length);
      width = bytes_of(entry.dtype);
    }
    return {};
  }

  Status visit(Id id, const std::string& name, int depth) {
    RESHARD_CHECK(count_visit(name, depth));
    switch (values_.kind(id)) {
      case Kind::dict: {
        const std::span<const Id> items = values_.items(id);
        std::set<std::string> keys;
        for (std::size_t i = 0; i + 1 < items.size(); i += 2) {
          const auto key = key_text(items[i]);
          if (!key) {
            RESHARD_CHECK(pass_over(items[i + 1], name, "a key that is neither text nor number", depth + 1));
            continue;
          }
          const std::string path = name.empty() ? *key : name + "." + *key;
          if (const std::string fault = check_name(path); !fault.empty()) return fail(io::in_quotes(path), fault);
          if (!keys.insert(*key).second) return fail(path, "occurs twice in one dictionary");
          RESHARD_CHECK(visit(items[i + 1], path, depth + 1));
        }
        return {};
      }
      case Kind::list:
      case Kind::tuple: {
        const std::span<const Id> items = values_.items(id);
        for (std::size_t i = 0; i < items.size(); ++i) {
          RESHARD_CHECK(visit(items[i], name.empty() ? std::to_string(i) : fmt::format("{}.{}", name, i), depth + 1));
        }
        return {};
      }
      case Kind::object:
        return visit_object(id, name, depth);
      default:
        keep_value(id, name);
        return {};
    }
  }

  // Keys that hold dots may spell the name of a nested one.
  Status check_names() const {
    std::vector<const Entry*> entries;
    for (const Entry& entry : directory_.entries) entries.push_back(&entry);
    std::sort(entries.begin(), entries.end(), [](const auto* a, const auto* b) { return a->name < b->name; });
    const auto twice = std::adjacent_find(entries.begin(), entries.end(),
                                          [](const auto* a, const auto* b) { return a->name == b->name; });
    if (twice == entries.end()) return {};
    return fail((*twice)->name, "two tensors have this name, as nested keys are joined with dots");
  }

  // Long names cost time as values do: a few of them, repeated by the memo, would keep us busy for minutes.
  Status count_visit(const std::string& name, int depth) {
    if (depth > kMaxDepth) return fail(name.substr(0, 200), "nested too deeply, or in a circle");
    visits_ += 1 + name.size() / 64;
    return visits_ > kMaxVisits ? Status(fail(name.substr(0, 200), "more values than a checkpoint has")) : Status();
  }

  // What has no name, or is not understood, may be passed over unless a tensor lies in it.
  Status pass_over(Id id, const std::string& name, const std::string& what, int depth) {
    RESHARD_CHECK(count_visit(name, depth));
    const Kind kind = values_.kind(id);
    if (kind == Kind::storage) return fail(name, what + ", with a tensor in it, which is not read");
    const bool has_items =
        kind == Kind::dict || kind == Kind::list || kind == Kind::tuple || kind == Kind::set || kind == Kind::object;
    if (!has_items) return {};
    for (const Id item : values_.items(id)) RESHARD_CHECK(pass_over(item, name, what, depth + 1));
    return {};
  }

  std::optional<std::string> key_text(Id id) const {
    if (values_.kind(id) == Kind::text) return std::string(values_.text(id));
    if (values_.kind(id) == Kind::integer) return std::to_string(values_.integer(id));
    return std::nullopt;
  }

  Status visit_object(Id id, const std::string& name, int depth) {
    const std::span<const Id> object = values_.items(id);
    const std::string_view global = values_.text(object[0]);
    const std::span<const Id> arguments = values_.items(object[1]);
    if (global == kTensor || global == kTensor2 || global == kTensor3) return add_tensor(global, arguments, name);
    for (const Wrapper& wrapper : kWrappers) {
      if (global == wrapper.global && wrapper.tensor < arguments.size()) {
        return visit(arguments[wrapper.tensor], name, depth + 1);
      }
    }
    if (global == kFromType) {
      if (arguments.size() < 3 || values_.kind(arguments[0]) != Kind::global ||
          values_.kind(arguments[2]) != Kind::tuple) {
        return fail(name, "a tensor of a form that is not understood");
      }
      const std::string_view inner = values_.text(arguments[0]);
      if (inner == kTensor2 || inner == kTensor3) return add_tensor(inner, values_.items(arguments[2]), name);
      return fail(name, fmt::format("a tensor rebuilt by {}, which is not understood", inner));
    }
    if (is_odd_tensor(global)) {
      return fail(name, fmt::format("a tensor rebuilt by {}: quantised, sparse and nested ones are not read", global));
    }
    for (const Id item : object.subspan(1)) {
      RESHARD_CHECK(pass_over(item, name, fmt::format("an object of {}", global), depth + 1));
    }
    return {};
  }

  Status add_tensor(std::string_view global, std::span<const Id> arguments, const std::string& name) {
    Expected<Entry> entry = make_entry(global, arguments);
    if (!entry) return fail(name, entry.error().message);
    entry->name = name;
    entry_bytes_ += sizeof(Entry) + name.size() + 16 * entry->shape.size();
    if (entry_bytes_ > kMaxEntryBytes) return fail(name.substr(0, 200), "names of more bytes than a checkpoint has");
    if (directory_.entries.size() >= kMaxTensors) return fail(name, fmt::format("more than {} tensors", kMaxTensors));
    directory_.entries.push_back(*std::move(entry));
    return {};
  }

  Expected<Entry> make_entry(std::string_view global, std::span<const Id> arguments) {
    const std::size_t at_least = global == kTensor ? 4 : global == kTensor2 ? 6 : 7;
    const std::size_t at_most = global == kTensor ? 4 : at_least + 1;
    if (arguments.size() < at_least || arguments.size() > at_most || values_.kind(arguments[0]) != Kind::storage ||
        values_.kind(arguments[1]) != Kind::integer) {
      return input_error("arguments that a tensor does not have");
    }
    RESHARD_TRY(const StorageId storage, parse_storage(values_, arguments[0]));
    Entry entry;
    if (global == kTensor3) {
      const auto dtype =
          values_.kind(arguments[6]) == Kind::global ? dtype_of_global(values_.text(arguments[6])) : std::nullopt;
      if (!dtype) return input_error("a dtype that is not known");
      entry.dtype = *dtype;
    } else if (storage.dtype) {
      entry.dtype = *storage.dtype;
    } else {
      return input_error("an untyped storage without a dtype");
    }
    if (arguments.size() > at_least && has_flags(arguments[at_least])) {
      return input_error("a conjugated or negated view, or one with metadata of its own, which is not read");
    }
    RESHARD_TRY(entry.shape, parse_numbers(values_, arguments[2]));
    RESHARD_TRY(std::vector<Index> strides, parse_numbers(values_, arguments[3]));
    if (strides.size() != entry.shape.size()) return input_error("not one stride per dimension");
    if (is_sub_byte(entry.dtype)) return input_error("packed elements of less than a byte, which are not read");
    const Index unit = bytes_of(entry.dtype);
    const auto first = checked_add(values_.integer(arguments[1]), storage.first);
    const auto begin = first && *first >= 0 ? checked_mul(*first, unit) : std::nullopt;
    const auto elements = num_elements(entry.shape);
    if (!begin || !elements) return input_error("an offset or a shape that overflows");
    // Reach in the storage: one behind the last element.
    Index reach = *elements == 0 ? 0 : 1;
    for (std::size_t d = 0; d < strides.size() && *elements > 0; ++d) {
      const auto step = checked_mul(entry.shape[d] - 1, strides[d]);
      const auto sum = step ? checked_add(reach, *step) : std::nullopt;
      if (!sum) return input_error("strides that overflow");
      reach = *sum;
    }
    const auto length = checked_mul(reach, unit);
    const auto end = length ? checked_add(*begin, *length) : std::nullopt;
    if (!end || (*elements > 0 && *end > storage.bytes())) {
      return input_error(fmt::format("a view of bytes {} to {} of storage '{}', which has {}", *begin,
                                     end ? std::to_string(*end) : "?", storage.key, storage.bytes()));
    }
    const auto shown = checked_mul(*elements, unit);
    const auto repeated = shown && *elements > reach ? checked_add(repeated_bytes_, *shown) : repeated_bytes_;
    if (!shown || !repeated || *repeated > kMaxRepeatedBytes) {
      return input_error(fmt::format("{} elements that repeat {}: too many to spell out", *elements, reach));
    }
    repeated_bytes_ = *repeated;
    RESHARD_TRY(const Index at, find_({storage.key, storage.numel, storage.bytes(), storage.global}));
    entry.offset = at + (*elements > 0 ? *begin : 0);
    entry.length = *length;
    if (*elements > 0 && !is_dense(entry.shape, strides)) entry.strides = std::move(strides);
    return entry;
  }

  static bool is_dense(const Shape& shape, const std::vector<Index>& strides) {
    Index unit = 1;
    for (std::size_t d = shape.size(); d-- > 0;) {
      if (shape[d] != 1 && strides[d] != unit) return false;
      unit *= shape[d];
    }
    return true;
  }

  // {"conj": True}, {"neg": True}; torch writes none that is False.
  bool has_flags(Id id) const {
    return values_.kind(id) != Kind::none && (values_.kind(id) != Kind::dict || !values_.items(id).empty());
  }

  void keep_value(Id id, const std::string& name) {
    const bool has_text = values_.kind(id) == Kind::text || values_.kind(id) == Kind::global;
    const std::size_t bytes = value_bytes_ + name.size() + (has_text ? values_.text(id).size() : 0);
    if (directory_.metadata.size() >= kMaxValues || bytes > kMaxMetadataBytes) return;
    nlohmann::json value;
    switch (values_.kind(id)) {
      case Kind::none:
        break;
      case Kind::boolean:
        value = values_.is_true(id);
        break;
      case Kind::integer:
        value = values_.integer(id);
        break;
      case Kind::real:
        value = values_.real(id);
        break;
      case Kind::text:
        value = std::string(values_.text(id));
        break;
      case Kind::global:
        value = std::string(values_.text(id));
        break;
      default:
        return;
    }
    std::string text = value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
    value_bytes_ += name.size() + text.size();
    directory_.metadata[name] = std::move(text);
  }

  const Values& values_;
  const Find& find_;
  const std::string& path_;
  FileDirectory& directory_;
  std::size_t visits_ = 0, value_bytes_ = 0, entry_bytes_ = 0;
  Index repeated_bytes_ = 0;
};

}  // namespace

bool is_allowed(std::string_view global) {
  static constexpr std::array kAllowed = {std::string_view("collections OrderedDict"),
                                          std::string_view("collections Counter"),
                                          std::string_view("torch Size"),
                                          std::string_view("torch device"),
                                          std::string_view("torch Tensor"),
                                          std::string_view("torch.nn.parameter Parameter"),
                                          std::string_view("torch.serialization _get_layout"),
                                          std::string_view("torch.storage TypedStorage"),
                                          kUntyped,
                                          std::string_view("torch._utils _rebuild_parameter"),
                                          std::string_view("torch._utils _rebuild_parameter_with_state"),
                                          kTensor,
                                          kTensor2,
                                          kTensor3,
                                          kFromType,
                                          std::string_view("torch._utils _rebuild_qtensor"),
                                          std::string_view("torch._utils _rebuild_sparse_tensor"),
                                          std::string_view("torch._utils _rebuild_meta_tensor_no_storage"),
                                          std::string_view("torch._utils _rebuild_nested_tensor"),
                                          std::string_view("torch._utils _rebuild_wrapper_subclass"),
                                          std::string_view("torch._utils _rebuild_device_tensor_from_numpy"),
                                          std::string_view("torch._utils _rebuild_device_tensor_from_cpu_tensor"),
                                          std::string_view("_codecs encode"),
                                          std::string_view("builtins bytearray"),
                                          std::string_view("builtins set"),
                                          std::string_view("builtins complex"),
                                          std::string_view("__builtin__ bytearray"),
                                          std::string_view("__builtin__ set"),
                                          std::string_view("__builtin__ complex")};
  if (std::find(kAllowed.begin(), kAllowed.end(), global) != kAllowed.end()) return true;
  static constexpr std::array kNouns = {"complex32"sv,
                                        "complex128"sv,
                                        "qint8"sv,
                                        "quint8"sv,
                                        "qint32"sv,
                                        "quint4x2"sv,
                                        "quint2x4"sv,
                                        "bits8"sv,
                                        "bits16"sv,
                                        "per_tensor_affine"sv,
                                        "per_channel_affine"sv,
                                        "per_tensor_symmetric"sv,
                                        "per_channel_symmetric"sv,
                                        "per_channel_affine_float_qparams"sv};
  // Classes whose storages hold no plain numbers: known, so that the tensor is named that has one.
  static constexpr std::array kOdd = {"ComplexDouble"sv, "QInt8"sv, "QUInt8"sv, "QInt32"sv, "QUInt4x2"sv, "QUInt2x4"sv};
  if (!global.starts_with("torch ")) return false;
  const std::string_view name = global.substr(6);
  const auto is_class = [&](std::string_view kind) {
    return (name.ends_with("Storage") && name.size() == kind.size() + 7 && name.starts_with(kind)) ||
           (name.ends_with("Tensor") && name.size() == kind.size() + 6 && name.starts_with(kind));
  };
  return dtype_of_global(global) || std::find(kNouns.begin(), kNouns.end(), name) != kNouns.end() ||
         std::any_of(kOdd.begin(), kOdd.end(), is_class) ||
         std::any_of(kClasses.begin(), kClasses.end(), [&](const LegacyClass& one) { return is_class(one.name); });
}

Status collect(const pickle::Pickle& pickle, const Find& find, const std::string& path, FileDirectory& directory) {
  return Collector(pickle.values, find, path, directory).run(pickle.root);
}

Expected<std::map<std::string_view, Storage>> storages(const pickle::Values& values, const std::string& path) {
  std::map<std::string_view, Storage> all;
  for (Id id = 0; id < values.size(); ++id) {
    if (values.kind(id) != Kind::storage) continue;
    auto parsed = parse_storage(values, id);
    if (!parsed) return std::move(parsed).error().at(path);
    const Storage storage{parsed->key, parsed->numel, parsed->bytes(), parsed->global};
    const auto [known, fresh] = all.emplace(storage.key, storage);
    if (!fresh && (known->second.numel != storage.numel || known->second.kind != storage.kind)) {
      return input_error(fmt::format("{}: storage '{}' has {} elements of {} in one place and {} of {} in another",
                                     path, storage.key, known->second.numel, known->second.kind, storage.numel,
                                     storage.kind));
    }
  }
  return all;
}

bool has_dtype(DType dtype) { return !is_sub_byte(dtype) && !torch_name(dtype).empty(); }

namespace {

// Writes one tensor after the other, as torch.save does for a dictionary of tensors on the CPU.
class StateWriter {
 public:
  StateWriter(const FileSpec& spec, const std::vector<std::size_t>& keys)
      : spec_(spec), keys_(keys), tensors_(spec.items.size()) {}

  std::string run() {
    if (spec_.under.empty()) {
      dictionary(spec_.items.size(), [&](std::size_t i) { item(i); });
      return out_.take();
    }
    // The dictionary and the values beside it.
    std::vector<std::pair<std::string, std::string>> beside(spec_.metadata.begin(), spec_.metadata.end());
    pickle::Writer::Memo under = 0;
    dictionary(1 + beside.size(), [&](std::size_t i) {
      if (i == 0) {
        under = out_.text(spec_.under);
        dictionary(spec_.items.size(), [&](std::size_t k) { item(k); });
        return;
      }
      out_.text(beside[i - 1].first);
      value(nlohmann::json::parse(beside[i - 1].second), under);
    });
    return out_.take();
  }

 private:
  static constexpr std::size_t kBatch = 1000;  // items that Python's pickler puts under one mark

  template <class Put>
  void dictionary(std::size_t count, const Put& put) {
    out_.op('}');
    out_.put();
    if (count == 1) {
      put(0);
      out_.op('s');
      return;
    }
    for (std::size_t first = 0; first < count; first += kBatch) {
      out_.op('(');
      for (std::size_t i = first; i < std::min(count, first + kBatch); ++i) put(i);
      out_.op('u');
    }
  }

  void value(const nlohmann::json& json, pickle::Writer::Memo under) {
    if (json.is_boolean()) {
      out_.op(json.get<bool>() ? '\x88' : '\x89');
    } else if (json.is_number_integer()) {
      out_.integer(json.get<std::int64_t>());
    } else if (json.is_number_float()) {
      out_.real(json.get<double>());
    } else if (json.is_string()) {
      const std::string text = json.get<std::string>();
      if (text == spec_.under) {
        out_.get(under);  // Python keeps one object for equal short texts
      } else {
        out_.text(text);
      }
    } else {
      out_.op('N');
    }
  }

  void item(std::size_t i) {
    const FileSpec::Item& item = spec_.items[i];
    out_.text(item.name);
    const std::size_t object = item.repeats >= 0 ? static_cast<std::size_t>(item.repeats) : i;
    if (tensors_[object]) {
      out_.get(*tensors_[object]);
      return;
    }
    tensors_[object] = tensor(spec_.items[object], keys_[i]);
  }

  pickle::Writer::Memo tensor(const FileSpec::Item& item, std::size_t key) {
    const auto legacy = class_of(item.dtype);
    out_.global("torch._utils", legacy ? "_rebuild_tensor_v2" : "_rebuild_tensor_v3");
    out_.op('(');
    out_.op('(');
    text_once("storage", storage_);
    if (legacy) {
      out_.global("torch", std::string(*legacy) + "Storage");
    } else {
      out_.global("torch.storage", "UntypedStorage");
    }
    out_.text(std::to_string(key));
    text_once("cpu", cpu_);
    const Index elements = *num_elements(item.shape);
    out_.integer(legacy ? elements : elements * bytes_of(item.dtype));
    out_.op('t');
    out_.put();
    out_.op('Q');
    out_.integer(0);
    tuple(item.shape);
    std::vector<Index> strides(item.shape.size());
    Index unit = 1;
    for (std::size_t d = strides.size(); d-- > 0;) {
      strides[d] = unit;
      unit *= std::max<Index>(item.shape[d], 1);
    }
    tuple(strides);
    out_.op('\x89');
    out_.global("collections", "OrderedDict");
    out_.op(')');
    out_.op('R');
    out_.put();
    if (!legacy) out_.global("torch", torch_name(item.dtype));
    out_.op('t');
    out_.put();
    out_.op('R');
    return out_.put();
  }

  void text_once(std::string_view text, std::optional<pickle::Writer::Memo>& memo) {
    if (memo) {
      out_.get(*memo);
    } else {
      memo = out_.text(text);
    }
  }

  void tuple(const std::vector<Index>& numbers) {
    if (numbers.empty()) {
      out_.op(')');
      return;
    }
    if (numbers.size() > 3) out_.op('(');
    for (const Index number : numbers) out_.integer(number);
    out_.op(numbers.size() > 3 ? 't' : static_cast<char>(0x84 + numbers.size()));
    out_.put();
  }

  const FileSpec& spec_;
  const std::vector<std::size_t>& keys_;
  pickle::Writer out_;
  std::vector<std::optional<pickle::Writer::Memo>> tensors_;
  std::optional<pickle::Writer::Memo> storage_, cpu_;
};

}  // namespace

std::string write(const FileSpec& spec, const std::vector<std::size_t>& keys) { return StateWriter(spec, keys).run(); }

}  // namespace reshard::container::torch
