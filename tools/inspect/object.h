// What a static library or an object file holds: functions with their bytes, symbols, sizes, the Halide target, and
// the device code of a GPU kernel.
#pragma once

#include <llvm/TargetParser/Triple.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tools/inspect/inspect.h"

namespace qconv::inspect {

struct Function {
    std::string name;
    std::vector<std::uint8_t> bytes;
};

/// One object file; each holds one kernel, or the Halide runtime.
struct Object {
    ObjectReport report;
    llvm::Triple triple;
    std::vector<Function> functions;
};

/// Calls `visit` with each object of a library, or with the one object that the file is. Throws std::runtime_error if
/// it is neither.
void read_objects(const std::string &path, const std::function<void(Object &)> &visit);

} // namespace qconv::inspect
