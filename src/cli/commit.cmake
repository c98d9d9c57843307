# SPDX-License-Identifier: Apache-2.0
# Writes the commit of a checkout into a header, which keeps its time if nothing changed:
#   cmake -D SOURCE=FOLDER -D HEADER=FILE -P commit.cmake
# The text is empty where there is no git or FOLDER is no checkout: a repository around it is another's.
cmake_path(GET SOURCE PARENT_PATH above)
set(ENV{GIT_CEILING_DIRECTORIES} "${above}")
execute_process(COMMAND git -C "${SOURCE}" rev-parse --short=12 HEAD
  OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE status ERROR_QUIET)
if(NOT status EQUAL 0)
  set(commit "")
endif()
file(CONFIGURE OUTPUT "${HEADER}" CONTENT "#define RESHARD_COMMIT \"${commit}\"\n")
