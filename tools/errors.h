// How a verb ends other than well. main() prints the text once and turns the type into the exit code.
#pragma once

#include <stdexcept>
#include <string>

namespace qconv::tools {

enum ExitCode : int {
    kExitOk = 0,
    kExitCheckFailed = 1, // a verification or comparison did not hold
    kExitInput = 2,       // bad usage, or a file that is not what it must be
    kExitEnvironment = 3, // the machine: unwritable folder, full disk, missing CPU feature, a failing compiler
    kExitInterrupted = 130,
};

/// An error that carries its exit code.
class Error : public std::runtime_error {
public:
    Error(ExitCode code, const std::string &text) : std::runtime_error(text), code_(code) {}
    ExitCode code() const { return code_; }

private:
    ExitCode code_;
};

struct InputError : Error {
    explicit InputError(const std::string &text) : Error(kExitInput, text) {}
};

struct EnvironmentError : Error {
    explicit EnvironmentError(const std::string &text) : Error(kExitEnvironment, text) {}
};

struct Interrupted : Error {
    Interrupted() : Error(kExitInterrupted, "interrupted; nothing was written") {}
};

} // namespace qconv::tools
