# SPDX-License-Identifier: Apache-2.0
# Compiles the JSON files of configs/arch, configs/format, configs/machines, configs/model and configs/schema into the binary: a generated source defines
#   const std::map<std::string, std::string_view>& reshard::model::embedded_configs();   // "arch/llama.json" -> text
file(GLOB_RECURSE config_files CONFIGURE_DEPENDS RELATIVE ${CMAKE_SOURCE_DIR}/configs
  ${CMAKE_SOURCE_DIR}/configs/arch/*.json ${CMAKE_SOURCE_DIR}/configs/format/*.json
  ${CMAKE_SOURCE_DIR}/configs/machines/*.json ${CMAKE_SOURCE_DIR}/configs/model/*.json
  ${CMAKE_SOURCE_DIR}/configs/schema/*.json)
set(generated "// Generated from configs/ by configs/embed.cmake.\n#include <map>\n#include <string>\n#include <string_view>\n\nnamespace reshard::model {\n\nconst std::map<std::string, std::string_view>& embedded_configs() {\n  static const std::map<std::string, std::string_view> files = {\n")
foreach(config_file ${config_files})
  file(READ ${CMAKE_SOURCE_DIR}/configs/${config_file} text)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/configs/${config_file})
  string(APPEND generated "      {\"${config_file}\", R\"~config~(${text})~config~\"},\n")
endforeach()
string(APPEND generated "  };\n  return files;\n}\n\n}  // namespace reshard::model\n")
file(GENERATE OUTPUT ${CMAKE_BINARY_DIR}/embedded_configs.cpp CONTENT "${generated}")
target_sources(reshard_model PRIVATE ${CMAKE_BINARY_DIR}/embedded_configs.cpp)
