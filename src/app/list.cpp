// SPDX-License-Identifier: Apache-2.0
#include "reshard/app/list.h"

#include <algorithm>

#include "reshard/format/format.h"
#include "reshard/model/spec.h"

namespace reshard::app {
namespace {

using Json = nlohmann::ordered_json;

}  // namespace

FormatList list_formats(const model::Library& library) {
  FormatList list;
  list.families = library.families();
  list.families.emplace_back(model::kGeneric);
  const std::vector<std::string_view> built_in = format::names();
  for (const std::string& name : library.formats()) {
    FormatList::Format format;
    format.name = name;
    format.about = library.format(name).value("about", "");
    format.built_in = std::find(built_in.begin(), built_in.end(), name) != built_in.end();
    for (const std::string& family : list.families) {
      const model::Library::Cell cell = library.cell(family, name);
      format.cells.push_back({family, cell.holds, cell.reason});
    }
    list.formats.push_back(std::move(format));
  }
  return list;
}

Expected<std::vector<ModelLine>> list_models(const model::Library& library) {
  std::vector<ModelLine> models;
  for (const std::string& name : model::model_names()) {
    RESHARD_TRY(const model::Spec spec, model::named_model(name, library));
    RESHARD_TRY(const std::shared_ptr<const layout::Canon> canon, model::make_canon(spec, library));
    ModelLine line{name, spec.family, 0, spec.integer("num_hidden_layers")};
    for (Index n = 0; n < canon->num_lines(); ++n) line.parameters += canon->line_volume(canon->line(n).tensor);
    models.push_back(std::move(line));
  }
  return models;
}

std::vector<DTypeLine> list_dtypes() {
  std::vector<DTypeLine> dtypes;
  for (int i = 0; i < kNumDTypes; ++i) {
    const auto dtype = static_cast<DType>(i);
    dtypes.push_back(
        {std::string(to_string(dtype)), std::string(torch_name(dtype)), bits_of(dtype), is_castable(dtype)});
  }
  return dtypes;
}

Json to_json(const FormatList& list) {
  Json formats = Json::array();
  for (const FormatList::Format& format : list.formats) {
    Json families = Json::array();
    for (const FormatList::Cell& cell : format.cells) {
      families.push_back({{"family", cell.family}, {"holds", cell.holds}, {"reason", cell.reason}});
    }
    formats.push_back({{"name", format.name},
                       {"about", format.about},
                       {"built_in", format.built_in},
                       {"families", std::move(families)}});
  }
  return {{"command", "list"}, {"what", "formats"}, {"formats", std::move(formats)}};
}

Json to_json(const std::vector<ModelLine>& models) {
  Json lines = Json::array();
  for (const ModelLine& model : models) {
    lines.push_back(
        {{"name", model.name}, {"family", model.family}, {"parameters", model.parameters}, {"layers", model.layers}});
  }
  return {{"command", "list"}, {"what", "models"}, {"models", std::move(lines)}};
}

Json to_json(const std::vector<DTypeLine>& dtypes) {
  Json lines = Json::array();
  for (const DTypeLine& dtype : dtypes) {
    lines.push_back({{"name", dtype.name},
                     {"torch", dtype.torch.empty() ? Json(nullptr) : Json(dtype.torch)},
                     {"bits", dtype.bits},
                     {"castable", dtype.castable}});
  }
  return {{"command", "list"}, {"what", "dtypes"}, {"dtypes", std::move(lines)}};
}

}  // namespace reshard::app
