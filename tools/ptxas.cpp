#include "tools/ptxas.h"

#include <cstdlib>
#include <filesystem>
#include <regex>
#include <sstream>

#include "tools/files.h"
#include "tools/worker_pool.h"

namespace qconv::tools {
namespace fs = std::filesystem;
namespace {

int number(const std::string &line, const char *pattern) {
    std::smatch match;
    return std::regex_search(line, match, std::regex(pattern)) ? std::stoi(match[1]) : 0;
}

/// Its lines: "Compiling entry function 'f' for 'sm_80'", "8 bytes stack frame, 0 bytes spill stores, 0 bytes spill
/// loads", "Used 40 registers, 1024 bytes smem, ...".
std::vector<PtxAssembled> parse(const std::string &log) {
    std::vector<PtxAssembled> entries;
    std::istringstream stream(log);
    std::string line;
    while (std::getline(stream, line)) {
        std::smatch match;
        static const std::regex entry("Compiling entry function '([^']+)'");
        if (std::regex_search(line, match, entry)) entries.emplace_back().entry = match[1];
        if (entries.empty()) continue;
        PtxAssembled &last = entries.back();
        if (line.find("bytes stack frame") != line.npos) {
            last.stack_bytes = number(line, "([0-9]+) bytes stack frame");
            last.spill_bytes = number(line, "([0-9]+) bytes spill stores") + number(line, "([0-9]+) bytes spill loads");
        }
        if (line.find("Used ") != line.npos) {
            last.registers = number(line, "Used ([0-9]+) registers");
            last.shared_bytes = number(line, "([0-9]+) bytes smem");
        }
    }
    return entries;
}

} // namespace

std::vector<PtxAssembled> assemble_ptx(const std::string &text, const PtxModule &module) {
    std::string program = "ptxas";
    const char *home = std::getenv("CUDA_HOME");
    for (const fs::path &folder : {fs::path(home ? home : ""), fs::path("/usr/local/cuda")})
        if (fs::exists(folder / "bin/ptxas")) program = folder / "bin/ptxas";
    ScratchFolder scratch(temporary_folder());
    const fs::path file = scratch.path() / "kernel.ptx", log = scratch.path() / "log";
    write_atomically(file, text);
    const int status = run_program(
        {program, "--verbose", "--gpu-name", module.target, "--output-file", (scratch.path() / "out").string(), file},
        log);
    return status == 0 ? parse(read_text(log)) : std::vector<PtxAssembled>();
}

} // namespace qconv::tools
